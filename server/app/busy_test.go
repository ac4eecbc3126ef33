package app_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"certctl/server/api"
	"certctl/server/audit"
	"certctl/server/client"
	"certctl/server/fault"
	"certctl/server/pg"
	"certctl/server/pg/pgtest"
)

// hold runs sql in a transaction that stays open, as one of a replica that is
// frozen in it, until the returned release.
func hold(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) (release func()) {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := tx.Rollback(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestNobodyWaitsForAFrozenReplicaToTellWhoCalls(t *testing.T) {
	t.Parallel()
	r := run(t, nil)
	pool := pgtest.Pool(t, r.url)
	k := create(t, r.Client, "held", "viewer")
	defer hold(t, pool, `select from api_keys where id = $1 for update`, k.ID)()
	defer hold(t, pgtest.Pool(t, r.url), `select from roles for update`)()

	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := client.Do(ctx, r.With(k.Secret), api.ListKeys, &api.KeyQuery{Limit: 1}); err != nil {
		t.Errorf("a call with the key that is being changed: %v", err)
	}
	serve(t, r.url, nil) // another replica starts meanwhile
}

func TestChangeGivesUpOnALockThatIsNotReleased(t *testing.T) {
	t.Parallel()
	r := run(t, nil)
	k := create(t, r.Client, "held", "viewer")
	defer hold(t, pgtest.Pool(t, r.url), `select from api_keys where id = $1 for update`, k.ID)()
	_, err := client.Do(t.Context(), r.Client, api.RevokeKey, &api.OneKey{ID: k.ID})
	is(t, err, fault.Unavailable, "is busy; try again")
}

func TestTransactionsEndWithAFrozenProcess(t *testing.T) {
	t.Parallel()
	err := pg.InTx(t.Context(), pgtest.DB(t), func(tx pgx.Tx) error {
		var idle string
		err := tx.QueryRow(t.Context(), `select current_setting('idle_in_transaction_session_timeout')`).Scan(&idle)
		if idle != "10s" {
			t.Errorf("a transaction may be idle for %s, want 10s", idle)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestOneVerificationAtOnce(t *testing.T) {
	t.Parallel()
	r := run(t, nil)
	pool := pgtest.Pool(t, r.url)
	pgtest.Eventually(t, "the loop that verifies has passed", func() bool {
		var done bool
		err := pool.QueryRow(t.Context(), `select exists (select from audit_events where action = $1)`, audit.Verified.Name).Scan(&done)
		return err == nil && done
	})
	release := hold(t, pool, `lock table audit_log in access exclusive mode`)
	first := make(chan error, 1)
	go func() {
		_, err := client.Do(t.Context(), r.Client, api.VerifyLog, &api.Verification{})
		first <- err
	}()
	pgtest.Eventually(t, "the first one waits", func() bool {
		var n int
		err := pool.QueryRow(t.Context(), `
			select count(*) from pg_stat_activity
			where datname = current_database() and wait_event_type = 'Lock' and query like '%audit_log%'`).Scan(&n)
		return err == nil && n > 0
	})
	_, err := client.Do(t.Context(), r.Client, api.VerifyLog, &api.Verification{})
	is(t, err, fault.Unavailable, "at once")
	release()
	if err := <-first; err != nil {
		t.Errorf("the first one: %v", err)
	}
}
