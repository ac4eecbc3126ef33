package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/jackc/pgx/v5"
)

// Dump writes a backup of the database at url into a file, as pg_dump makes it while
// servers work on it.
func (l *Lab) Dump(ctx context.Context, url, file string) error {
	return l.tool(ctx, url, "pg_dump", "--format", "custom", "--file", file)
}

// Restore returns the URL of a new database with what a file of Dump holds.
func (l *Lab) Restore(ctx context.Context, file string) (string, error) {
	url, err := l.Database(ctx)
	if err != nil {
		return "", err
	}
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return "", err
	}
	return url, l.tool(ctx, url, "pg_restore", "--exit-on-error", "--single-transaction", "--dbname", cfg.Database, file)
}

// tool runs one of PostgreSQL's own on the database at url.
func (l *Lab) tool(ctx context.Context, url, name string, args ...string) error {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(l.database.Bin(), name), args...)
	// A password in the arguments would stand in the list of processes.
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "PGHOST=" + cfg.Host, "PGPORT=" + strconv.Itoa(int(cfg.Port)),
		"PGUSER=" + cfg.User, "PGPASSWORD=" + cfg.Password, "PGDATABASE=" + cfg.Database,
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}
