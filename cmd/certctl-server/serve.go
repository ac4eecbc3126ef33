package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"certctl/server/app"
	"certctl/server/config"
)

func serveCommand() *cobra.Command {
	var embedded, noMigrate bool
	var dir string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a replica of the server",
		Long: `Run a replica of the server until it is told to stop (SIGTERM, SIGINT).

Replicas are alike and share one database, CERTCTL_DATABASE_URL, and one
CERTCTL_ENCRYPTION_KEY. A replica brings the schema up to date as it starts;
replicas that start together wait for the one that does.`,
		Example: `  certctl-server serve --embedded
  CERTCTL_DATABASE_URL=postgres://certctl@db/certctl CERTCTL_ENCRYPTION_KEY_FILE=key certctl-server serve`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings, log, err := start(cmd)
			if err != nil {
				return err
			}
			for _, u := range config.Unknown(os.Environ()) {
				log.Warn(u)
			}
			return serve(cmd.Context(), settings, log, embedded, dir, noMigrate)
		},
	}
	cmd.Flags().BoolVar(&embedded, "embedded", false, "start a PostgreSQL of its own, for one machine")
	cmd.Flags().StringVar(&dir, "embedded-dir", "", "where the embedded PostgreSQL keeps its data (default: .certctl here, as root a folder of this one's in /var/lib/certctl)")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if dir != "" && !embedded {
			return errors.New("--embedded-dir goes with --embedded")
		}
		return nil
	}
	cmd.Flags().BoolVar(&noMigrate, "no-migrate", false, "refuse to start on a schema that is not current, instead of migrating it")
	return cmd
}

func serve(ctx context.Context, settings config.Values, log *zap.Logger, embedded bool, dir string, noMigrate bool) (err error) {
	o := app.Options{NoMigrate: noMigrate}
	var database *app.Embedded
	if embedded {
		if database, err = app.Embed(ctx, settings, dir, log); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, database.Server.Stop()) }()
		var lost context.CancelCauseFunc
		ctx, lost = context.WithCancelCause(ctx)
		defer lost(nil)
		go func() {
			<-database.Server.Done()
			lost(errors.New("the embedded PostgreSQL ended"))
		}()
	}
	a := app.New(settings, build(), log)
	if embedded {
		o.Ready = func(address string) {
			call, err := database.FirstCall(ctx, address, a)
			if err != nil {
				log.Warn("cannot tell the first call", zap.Error(err))
				return
			}
			fmt.Printf("certctl serves %s; its data is in %s\n\n    %s\n\n", address, database.Server.Dir(), call)
		}
	}
	err = a.Run(ctx, o)
	if embedded && database.Server.Err() != nil {
		err = errors.Join(err, database.Server.Err())
	}
	return err
}
