// Audit-packet renders the documentation of certctl from its code and from what
// was observed of it, and checks that all of it is so.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"certctl/evidence"
	"certctl/server/api"
	"certctl/server/app"
)

// The exit codes.
const (
	exitTrue    = 0
	exitFalse   = 1 // something is false, or has drifted
	exitUnknown = 2 // it could not be determined, or the call was wrong
)

// errFalse ends a command that has said what is false.
var errFalse = errors.New("something is false")

// facts are what the commands know beside the source tree.
type facts struct {
	declared func() api.Declared
	receipts func(packet fs.FS) ([]evidence.Receipt, error)
	render   func(packet fs.FS) (map[string][]byte, error)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	f := facts{app.Declared, evidence.Receipts, evidence.RenderPacket}
	os.Exit(run(ctx, f, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, f facts, args []string, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:   "audit-packet",
		Short: "Proves what certctl's documentation says",
		Long: `Audit-packet renders the documentation of certctl from its code and from what
was observed of running servers, and checks that all of it is so.

It exits with 0 if everything is true, with 1 if something is false or has
drifted, and with 2 if that could not be determined or the call was wrong.`,
		Example: `  audit-packet check                  is everything in this checkout so?
  audit-packet docs                   render the pages anew
  audit-packet verify audit-packet    is the packet the one that was sealed?`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	understood := false
	root.PersistentPreRun = func(*cobra.Command, []string) { understood = true }
	root.PersistentFlags().String("root", "", "the source tree (default: the module around the working directory)")
	root.AddCommand(
		docsCommand(f),
		checkCommand(f),
		verifyCommand(),
		buildCommand(),
		replayCommand(),
		findingsCommand(),
	)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	switch {
	case err == nil:
		return exitTrue
	case errors.Is(err, errFalse):
		return exitFalse
	}
	fmt.Fprintf(stderr, "audit-packet: %v\n", err)
	if !understood {
		fmt.Fprintf(stderr, "%s --help tells more\n", cmd.CommandPath())
	}
	return exitUnknown
}
