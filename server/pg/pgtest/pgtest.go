// Package pgtest gives tests a real PostgreSQL, one cluster per test process.
//
//	CERTCTL_TEST_DATABASE_URL    use this server; its user may create databases
//	CERTCTL_TEST_POSTGRES        force local, container or download
//	CERTCTL_TEST_POSTGRES_IMAGE  image for containers
//	CERTCTL_TEST_POSTGRES_MIRROR repository for download
//
// With nothing set the installed binaries are used, else a container. A test
// that gets no PostgreSQL fails: one that is skipped proves nothing.
package pgtest

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// patience is how long anything may take here, on a busy machine.
const patience = time.Minute

// Tx returns a transaction on a migrated database that is rolled back when t
// ends, so tests share one database and still run in parallel. What only a
// second session sees, and what commits, needs DB.
func Tx(t testing.TB) pgx.Tx {
	t.Helper()
	pool, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tx, err := conn.Begin(t.Context())
	if err != nil {
		conn.Release()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer conn.Release() // which closes a connection that is not idle
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = tx.Rollback(ctx) // closing the connection does it too
		// What belongs to the session outlives the transaction.
		_, _ = conn.Exec(ctx, "select pg_advisory_unlock_all(); unlisten *; reset all", pgx.QueryExecModeSimpleProtocol)
	})
	return &rolledBack{tx, t}
}

// rolledBack is a transaction that refuses to commit to what all tests share.
type rolledBack struct {
	pgx.Tx
	t testing.TB
}

func (tx *rolledBack) Commit(context.Context) error {
	tx.t.Helper()
	tx.t.Error("the transaction of pgtest.Tx is never committed; use pgtest.DB")
	return pgx.ErrTxCommitRollback
}

// DB returns a pool on a migrated database of the test's own.
func DB(t testing.TB) *pgxpool.Pool {
	t.Helper()
	return Pool(t, URL(t))
}

// URL is the connection URL of a migrated database of the test's own, for
// processes. It is dropped when t ends.
func URL(t testing.TB) string {
	t.Helper()
	from, err := template()
	if err != nil {
		t.Fatal(err)
	}
	return database(t, from)
}

// EmptyURL is the connection URL of a database of the test's own without a schema.
func EmptyURL(t testing.TB) string {
	t.Helper()
	return database(t, "template1")
}

func database(t testing.TB, from string) string {
	t.Helper()
	c, err := cluster()
	if err != nil {
		t.Fatal(err)
	}
	name := c.name()
	if err := c.create(name, from); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.drop(name); err != nil {
			t.Error(err)
		}
	})
	return c.url(name)
}

// Pool returns another pool, as another replica has.
func Pool(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := connect(url, 16)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		closed := make(chan struct{})
		go func() { pool.Close(); close(closed) }()
		select {
		case <-closed:
		case <-time.After(patience):
			t.Errorf("%d connections were never released", pool.Stat().AcquiredConns())
		}
	})
	return pool
}

func connect(url string, most int32) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = most
	return pgxpool.NewWithConfig(context.Background(), cfg)
}
