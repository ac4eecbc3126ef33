// Certctl-server is the certificate lifecycle server.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/term"

	"certctl/server/app"
	"certctl/server/config"
)

// Set when the program is linked.
var (
	version = "dev"
	commit  = ""
)

func build() app.Build { return app.Build{Version: version, Commit: commit, Go: runtime.Version()} }

// The exit codes.
const (
	exitFailed = 1 // the server said no, or failed
	exitUsage  = 2 // the call was wrong, or what was asked could not be determined
)

// unknownError ends a command that could not find out what it was asked.
type unknownError struct{ error }

func (e unknownError) Unwrap() error { return e.error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:]))
}

func run(ctx context.Context, args []string) int {
	root := &cobra.Command{
		Use:           "certctl-server",
		Short:         "Certificate lifecycle server on PostgreSQL",
		Long:          "Certificate lifecycle server on PostgreSQL. Settings come from the environment: docs/reference/settings.md lists them.",
		Example:       "  certctl-server serve --embedded    try it on one machine\n  certctl-server migrate --status    what a start would apply",
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(serveCommand(), migrateCommand(), verifyCommand(), versionCommand())
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "certctl-server:", err)
	if !began(cmd) {
		fmt.Fprintf(os.Stderr, "%s --help tells more\n", cmd.CommandPath())
		return exitUsage
	}
	if _, unknown := errors.AsType[unknownError](err); unknown {
		return exitUsage
	}
	return exitFailed
}

// start notes that a command's arguments were understood, and reads the
// settings.
func start(cmd *cobra.Command) (config.Values, *zap.Logger, error) {
	cmd.Annotations = map[string]string{"began": "yes"}
	settings, err := config.Load(os.LookupEnv)
	if err != nil {
		return nil, nil, fmt.Errorf("the settings cannot be used:\n%w", err)
	}
	return settings, logger(settings), nil
}

func began(cmd *cobra.Command) bool { return cmd.Annotations["began"] != "" }

// logger writes JSON to standard error, or lines for people if that is a
// terminal.
func logger(settings config.Values) *zap.Logger {
	cfg := zap.NewProductionConfig()
	cfg.Sampling = nil
	cfg.DisableCaller, cfg.DisableStacktrace = true, true
	cfg.EncoderConfig.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	cfg.EncoderConfig.EncodeDuration = zapcore.StringDurationEncoder
	if term.IsTerminal(int(os.Stderr.Fd())) {
		cfg.Encoding = "console"
	}
	level, err := zapcore.ParseLevel(config.LogLevel.In(settings))
	if err != nil {
		panic(err) // the setting takes no other
	}
	cfg.Level.SetLevel(level)
	log, err := cfg.Build()
	if err != nil {
		panic(err) // the configuration above is wrong
	}
	return log
}
