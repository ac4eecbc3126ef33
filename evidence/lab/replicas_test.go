package lab_test

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"certctl/evidence/lab"
	"certctl/server/api"
	"certctl/server/audit"
	"certctl/server/client"
	"certctl/server/config"
	"certctl/server/perm"
	"certctl/server/pg/pgtest"
	"certctl/server/schedule"
	"certctl/server/seal"
)

const leaseTTL = 500 * time.Millisecond

// replicas is a laboratory with three servers on one database.
type replicas struct {
	*lab.Lab
	t      *testing.T
	url    string
	pool   *pgxpool.Pool
	byName map[string]*lab.Replica
}

// laboratory is a laboratory without a database.
func laboratory(t *testing.T) *replicas {
	t.Helper()
	return laboratoryOf(t)
}

// laboratoryOf is a laboratory whose servers are built with further flags.
func laboratoryOf(t *testing.T, flags ...string) *replicas {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "certctl-server")
	args := append([]string{"build", "-o", binary}, flags...)
	out, err := exec.CommandContext(t.Context(), "go", append(args, "certctl/cmd/certctl-server")...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	l, err := lab.Start(t.Context(), binary)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Stop(); err != nil {
			t.Error(err)
		}
	})
	return &replicas{Lab: l, t: t}
}

// on is the laboratory with a database of its own, whose servers end with t.
func (r *replicas) on(t *testing.T) *replicas {
	t.Helper()
	one := &replicas{Lab: r.Lab, t: t, byName: map[string]*lab.Replica{}}
	var err error
	if one.url, err = r.Database(t.Context()); err != nil {
		t.Fatal(err)
	}
	if one.pool, err = pgxpool.New(t.Context(), one.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(one.pool.Close)
	t.Cleanup(func() {
		for _, s := range one.byName {
			if err := s.Kill(); err != nil {
				t.Error(err)
			}
		}
	})
	return one
}

// run starts one more server.
func (r *replicas) run(settings map[string]string) *lab.Replica {
	r.t.Helper()
	one, err := r.Server(r.t.Context(), r.url, settings)
	if err != nil {
		r.t.Fatal(err)
	}
	r.byName[one.Name] = one
	return one
}

// kill ends one of the servers.
func (r *replicas) kill() {
	r.t.Helper()
	for name, one := range r.byName {
		delete(r.byName, name)
		if err := one.Kill(); err != nil {
			r.t.Fatal(err)
		}
		return
	}
}

// exec runs one statement on the database.
func (r *replicas) exec(sql string, args ...any) {
	r.t.Helper()
	if _, err := r.pool.Exec(r.t.Context(), sql, args...); err != nil {
		r.t.Fatal(err)
	}
}

// admin makes the first key of the database, and is a client with it.
func (r *replicas) admin() *client.Client {
	r.t.Helper()
	for _, one := range r.byName {
		c, err := one.Client("")
		if err != nil {
			r.t.Fatal(err)
		}
		in := &api.NewBootstrap{}
		in.Body.Name, in.Body.Token = "administrator", r.BootstrapToken()
		key, err := client.Do(r.t.Context(), c, api.Bootstrap, in)
		if err != nil {
			r.t.Fatal(err)
		}
		return c.With(key.Secret)
	}
	r.t.Fatal("no server runs")
	return nil
}

func start(t *testing.T) *replicas {
	t.Helper()
	r := laboratory(t).on(t)
	for range 3 {
		r.add()
	}
	return r
}

func (r *replicas) add() {
	r.t.Helper()
	r.run(map[string]string{
		config.LeaseTTL.Name:              leaseTTL.String(),
		config.AuditSequenceEvery.Name:    "20ms",
		config.AuditChainVerifyEvery.Name: "50ms",
		config.RetentionEvery.Name:        "100ms",
	})
}

// ask returns the one value of a query, or fails the test.
func ask[T any](t *testing.T, pool *pgxpool.Pool, sql string, args ...any) T {
	t.Helper()
	rows, _ := pool.Query(t.Context(), sql, args...)
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// write makes audit events until the test ends or the returned stop is called.
func (r *replicas) write() (stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		ctx := perm.With(ctx, perm.Actor{Kind: perm.ByServer, ID: "test"})
		for ctx.Err() == nil {
			_ = audit.Write(ctx, r.pool, audit.Event{Action: audit.ServerStarted})
		}
	}()
	return func() { cancel(); <-done }
}

// holder waits until a replica other than not holds the loop, and returns it
// with its token.
func (r *replicas) holder(loop *schedule.Loop, not string) (*lab.Replica, int64) {
	r.t.Helper()
	var name string
	var token int64
	pgtest.Eventually(r.t, "another replica holds "+loop.Name, func() bool {
		err := r.pool.QueryRow(r.t.Context(), `
			select holder, token from leases where name = $1 and expires_at > clock_timestamp() and holder <> $2`,
			loop.Name, not).Scan(&name, &token)
		return err == nil
	})
	return r.byName[name], token
}

func TestThreeReplicasOneKilledOneFrozen(t *testing.T) {
	r := start(t)
	stop := r.write()

	// Killed while it holds the loop that writes.
	killed, token := r.holder(schedule.AuditSequence, "")
	if err := killed.Kill(); err != nil {
		t.Fatal(err)
	}
	pgtest.Eventually(t, "a takeover from the killed holder", func() bool {
		return ask[int64](t, r.pool, `select token from leases where name = $1`, schedule.AuditSequence.Name) > token
	})
	r.add()

	// Frozen between any two statements, wherever that happens to be.
	for range 4 {
		for _, loop := range []*schedule.Loop{schedule.AuditSequence, schedule.AuditChainVerify} {
			frozen, token := r.holder(loop, killed.Name)
			r.freeze(frozen, func() {
				pgtest.Eventually(t, "a takeover of "+loop.Name, func() bool {
					return ask[bool](t, r.pool, `select exists (select from loop_runs where loop = $1 and token > $2 and replica <> $3)`,
						loop.Name, token, frozen.Name)
				})
			})
		}
	}

	// Frozen in the middle of a transaction that has written: its rows wait for
	// a lock that this test holds until the process no longer runs.
	conn, err := r.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `lock table audit_checkpoints in share mode`); err != nil {
		t.Fatal(err)
	}
	var waiting string
	pgtest.Eventually(t, "a holder waits in its transaction", func() bool {
		err := r.pool.QueryRow(t.Context(), `
			select application_name from pg_stat_activity
			where datname = current_database() and wait_event_type = 'Lock' and application_name like 'certctl %'`).Scan(&waiting)
		return err == nil
	})
	frozen := r.byName[strings.TrimPrefix(waiting, "certctl ")]
	token = ask[int64](t, r.pool, `select token from leases where name = $1 and holder = $2`, schedule.AuditSequence.Name, frozen.Name)
	written := ask[int64](t, r.pool, `select count(*) from audit_checkpoints where token = $1`, token)
	r.freeze(frozen, func() {
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		conn.Release()
		pgtest.Eventually(t, "a takeover from the holder that was frozen in its transaction", func() bool {
			return ask[bool](t, r.pool, `
				select exists (select from loop_runs where loop = $1 and token > $2 and acted > 0)`, schedule.AuditSequence.Name, token)
		})
	})
	stop()
	last := ask[int64](t, r.pool, `select max(id) from audit_events`)
	pgtest.Eventually(t, "the queue drains", func() bool {
		return !ask[bool](t, r.pool, `select exists (select from audit_queue where event_id <= $1)`, last)
	})

	if n := ask[int64](t, r.pool, `select count(*) from audit_checkpoints where token = $1`, token); n != written {
		t.Errorf("the holder that was frozen in its transaction had signed %d checkpoints and has signed %d now", written, n)
	}
	for _, name := range []string{schedule.AuditSequence.Name, schedule.AuditChainVerify.Name} {
		if n := ask[int64](t, r.pool, `
			select count(*) from loop_runs a join loop_runs b on a.loop = b.loop and a.id < b.id
			where a.loop = $1 and tstzrange(a.started_at, a.finished_at) && tstzrange(b.started_at, b.finished_at)`, name); n != 0 {
			t.Errorf("%d pairs of passes of %s overlap", n, name)
		}
		if n := ask[int64](t, r.pool, `select count(distinct replica) from loop_runs where loop = $1`, name); n < 3 {
			t.Errorf("only %d replicas ran %s: nothing was taken over", n, name)
		}
	}
	// A write outside of its pass would be a checkpoint of no pass at that time.
	if n := ask[int64](t, r.pool, `
		select count(*) from audit_checkpoints c where not exists (
			select from loop_runs r
			where r.loop = $1 and r.token = c.token and c.at between r.started_at and coalesce(r.finished_at, c.at))`,
		schedule.AuditSequence.Name); n != 0 {
		t.Errorf("%d checkpoints were signed outside of the pass whose token they carry", n)
	}
	if n := ask[int64](t, r.pool, `select count(*) from (
			select token < lag(token) over (order by size) as backwards from audit_checkpoints) c where backwards`); n != 0 {
		t.Errorf("the token goes back %d times as the log grows", n)
	}
	// The loop that verifies goes on writing events of its own.
	if n := ask[int64](t, r.pool, `
		select (select count(*) from audit_events) - (select count(*) from audit_log) - (select count(*) from audit_queue)`); n != 0 {
		t.Errorf("%d more events than are in the log or wait for it", n)
	}
	if n := ask[int64](t, r.pool, `select count(*) from audit_log`); n < 100 {
		t.Errorf("only %d entries of the log", n)
	}
	r.verify()
}

// A frozen holder is also kept from writing by its own clock, which has run on
// when it wakes. A holder that loses its lease while it is busy has only the
// fence between it and the log.
func TestHolderThatLosesItsLeaseWhileItWritesWritesNoMore(t *testing.T) {
	r := start(t)
	name := schedule.AuditSequence.Name
	for round := range 4 {
		// Work for many transactions of one pass.
		if _, err := r.pool.Exec(t.Context(), `
			with e as (
				insert into audit_events (actor_kind, actor_id, actor_name, action, resource_kind, resource_id, details, request_id, replica)
				select 'server', 'test', 'test', $1, '', '', '{}', '', '' from generate_series(1, 30000) returning id)
			insert into audit_queue select id from e`, audit.ServerStarted.Name); err != nil {
			t.Fatal(err)
		}
		signed := func(token int64) int64 {
			return ask[int64](t, r.pool, `select count(*) from audit_checkpoints where token = $1`, token)
		}
		var token int64
		pgtest.Eventually(t, "a pass is in the middle of it", func() bool {
			token = ask[int64](t, r.pool, `select token from leases where name = $1`, name)
			return signed(token) >= 2
		})
		// As a takeover does: for update, which waits for a fenced transaction.
		if _, err := r.pool.Exec(t.Context(), `
			with l as (select name from leases where name = $1 for update)
			update leases set token = token + 1, holder = 'nobody', expires_at = clock_timestamp() + interval '2 seconds'
			from l where leases.name = l.name`, name); err != nil {
			t.Fatal(err)
		}
		before := signed(token)
		if left := ask[int64](t, r.pool, `select count(*) from audit_queue`); left < 1000 {
			t.Fatalf("round %d: the pass was over when its lease was taken: %d events were left", round, left)
		}
		<-time.After(500 * time.Millisecond) // in which it would write ten times
		if after := signed(token); after != before {
			t.Errorf("round %d: the holder had signed %d checkpoints when it lost its lease, and signed %d more", round, before, after-before)
		}
		pgtest.Eventually(t, "another pass ends the work", func() bool { return ask[int64](t, r.pool, `select count(*) from audit_queue`) == 0 })
	}
	r.verify()
}

// freeze stops a replica for longer than its lease, and until then is done,
// and lets it go on.
func (r *replicas) freeze(one *lab.Replica, then func()) {
	r.t.Helper()
	if err := one.Freeze(); err != nil {
		r.t.Fatal(err)
	}
	<-time.After(2 * leaseTTL) // past its lease, which is the experiment
	then()
	if err := one.Thaw(); err != nil {
		r.t.Fatal(err)
	}
	pgtest.Eventually(r.t, "the replica answers again", func() bool {
		c, err := one.Client("")
		if err != nil {
			r.t.Fatal(err)
		}
		_, err = client.Do(r.t.Context(), c, api.Readyz, &api.Empty{})
		return err == nil
	})
}

func (r *replicas) verify() {
	r.t.Helper()
	box, err := seal.New(r.Secrets(r.url)[config.EncryptionKey.Name])
	if err != nil {
		r.t.Fatal(err)
	}
	log, err := audit.Open(r.t.Context(), r.pool, box)
	if err != nil {
		r.t.Fatal(err)
	}
	report, err := log.Verify(r.t.Context(), r.pool, audit.Options{})
	if err != nil || !report.Intact() {
		r.t.Errorf("%v %v", report, err)
	}
}
