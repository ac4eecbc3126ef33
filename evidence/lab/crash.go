package lab

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Crash has PostgreSQL start again at once, as after the death of one of its
// processes: every session ends, and it recovers from its log. It returns when it
// takes connections. Only for a laboratory that nobody else works on.
func (l *Lab) Crash(ctx context.Context) error {
	url := l.database.URL("postgres")
	victim, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer victim.Close(ctx)
	witness, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer witness.Close(ctx)
	var pid int
	if err := victim.QueryRow(ctx, `select pg_backend_pid()`).Scan(&pid); err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("end a session's process: %w", err)
	}
	// Until the other sessions are ended too, new ones are taken that end with them.
	for witness.Ping(ctx) == nil {
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	for {
		again, err := pgx.Connect(ctx, url)
		if err == nil {
			err = again.Ping(ctx)
			_ = again.Close(ctx) // it has done its work
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL does not take connections again: %w", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
