package main

import (
	"encoding/json"
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"certctl/migrations"
	"certctl/server/app"
	"certctl/server/config"
	"certctl/server/migrate"
	"certctl/server/pg"
)

func migrateCommand() *cobra.Command {
	var onlyStatus, asJSON bool
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the database's schema up to date, and show it",
		Long: `Apply the migrations that the database has not had, each in one transaction
with its row in the ledger, then show the ledger beside this build's files.

CERTCTL_MIGRATE_DATABASE_URL names the database, or CERTCTL_DATABASE_URL if it
is not set. Exit code 1 says that the database does not fit this build, or,
with --status, that migrations are pending.`,
		Example: "  certctl-server migrate\n  certctl-server migrate --status --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings, log, err := start(cmd)
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			url := config.MigrateDatabaseURL.In(settings)
			if url == "" {
				url = config.DatabaseURL.In(settings)
			}
			if url == "" {
				return fmt.Errorf("%s is not set: name the database to migrate", config.DatabaseURL.Name)
			}
			host, err := os.Hostname()
			if err != nil {
				return err
			}
			if !onlyStatus {
				if err := app.Migrate(ctx, settings, host+"-migrate", build(), log); err != nil {
					return err
				}
			}
			conn, err := pg.Connect(ctx, url, host+"-migrate")
			if err != nil {
				return err
			}
			defer conn.Close(ctx)
			files, err := migrate.Read(migrations.Files)
			if err != nil {
				return err
			}
			status, err := migrate.Compare(ctx, conn, files)
			if err != nil {
				return err
			}
			if err := show(status, asJSON); err != nil {
				return err
			}
			if err := status.Fits(); err != nil {
				return err
			}
			if n := status.Count(migrate.Pending); n > 0 {
				return fmt.Errorf("pending: %d; `certctl-server migrate` applies them", n)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&onlyStatus, "status", false, "apply nothing")
	cmd.Flags().BoolVar(&asJSON, "json", false, "show it as JSON")
	return cmd
}

func show(status migrate.Status, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(status)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "VERSION\tSTATE\tCHECKSUM\tAPPLIED\tTOOK\tBY")
	for _, e := range status {
		at, took, by := "", "", ""
		if e.Row != nil {
			at, took, by = e.Row.AppliedAt.UTC().Format("2006-01-02T15:04:05Z"), e.Row.Took.String(), e.Row.Server+" on "+e.Row.Replica
		}
		fmt.Fprintf(w, "%s\t%s\t%.12s\t%s\t%s\t%s\n", e.Version, e.State, e.SHA256, at, took, by)
	}
	return w.Flush()
}
