package job_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"certctl/server/fault"
	"certctl/server/job"
	"certctl/server/perm"
	"certctl/server/pg"
	"certctl/server/pg/pgtest"
)

func as(t testing.TB) context.Context {
	t.Helper()
	return perm.With(t.Context(), perm.Actor{Kind: perm.ByKey, ID: "key-1", Name: "Ada"})
}

func exec(t testing.TB, q pg.Q, sql string, args ...any) {
	t.Helper()
	if _, err := q.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func one[T any](t testing.TB, q pg.Q, sql string, args ...any) T {
	t.Helper()
	rows, _ := q.Query(t.Context(), sql, args...)
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func enqueue(t testing.TB, q pg.Q, n job.New) string {
	t.Helper()
	id, err := job.Bulk.Enqueue(as(t), q, n, job.BulkArgs{Operation: "blk-1"})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func get(t testing.TB, q pg.Q, id string) job.Job {
	t.Helper()
	j, err := job.ByID(t.Context(), q, id)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// certificates inserts certificates crt-1, crt-2 and so on.
func certificates(t testing.TB, q pg.Q, n int) {
	t.Helper()
	exec(t, q, `insert into owners (id, name) values ('own-1', 'Ada')`)
	exec(t, q, `insert into issuers (id, name, type, enabled, settings, shown) values ('iss-1', 'an issuer', 'local', true, '', '{}')`)
	exec(t, q, `
		insert into profiles (id, name, enabled, key_algorithms, default_validity_seconds, max_validity_seconds, ext_key_usages, san_kinds,
			dns_patterns, ip_ranges, uri_prefixes, email_domains, max_sans, wildcards, must_staple, short_lived, cab_lints)
		values ('prf-1', 'a profile', true, '{}', 3600, 3600, '{}', '{}', '{}', '{}', '{}', '{}', 1, false, false, false, false)`)
	exec(t, q, `
		insert into renewal_policies (id, name, auto_renew, renew_before_seconds, max_retries, retry_every_seconds, attempt_timeout_seconds,
			start_over_after_seconds, alerts)
		values ('pol-1', 'a policy', true, 60, 1, 1, 1, 60, '[]')`)
	exec(t, q, `
		insert into certificates (id, name, common_name, sans, environment, tags, owner_id, issuer_id, profile_id, policy_id, key_algorithm,
			validity_seconds, created_by)
		select 'crt-' || n, 'name ' || n, '', '{}', '', '{}', 'own-1', 'iss-1', 'prf-1', 'pol-1', 'ecdsa-p256', 3600, 'key-1'
		from generate_series(1, $1::int) n`, n)
}

// The rows say which moves there are; the database refuses others.
func TestStatesAreThoseOfTheDatabase(t *testing.T) {
	t.Parallel()
	tx := pgtest.Tx(t)
	set := func(id, state string) error {
		sub, err := tx.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, err = sub.Exec(t.Context(), `
			update jobs set state = $2, leased_until = case $2 when 'running' then now() end,
				finished_at = case when $2 in ('done', 'dead', 'cancelled') then now() end
			where id = $1`, id, state)
		if err != nil {
			_ = sub.Rollback(t.Context())
			return err
		}
		return sub.Commit(t.Context())
	}
	moves := 0
	for _, from := range job.States() {
		for _, to := range job.States() {
			id := from.Name + " to " + to.Name
			exec(t, tx, `
				insert into jobs (id, kind, state, args, priority, max_attempts, retry_every, timeout, created_by, leased_until, finished_at)
				values ($1, 'bulk', $2, '{}', 1, 1, '1s', '1s', 'key-1', case $2 when 'running' then now() end,
					case when $2 in ('done', 'dead', 'cancelled') then now() end)`, id, from.Name)
			err := set(id, to.Name)
			may := from == to || slices.Contains(from.Moves, to.Name)
			if may != (err == nil) || err != nil && pg.Code(err) != pg.Refused {
				t.Errorf("%s: the database says %v", id, err)
			}
			if err == nil && from != to {
				moves++
			}
		}
	}
	declared := 0
	for _, s := range job.States() {
		declared += len(s.Moves)
	}
	if moves != declared || moves == 0 {
		t.Errorf("%d moves of %d that are declared", moves, declared)
	}
	if err := set("pending to pending", "unknown"); err == nil {
		t.Error("the database knows a state that is not declared")
	}
}

func TestEnqueue(t *testing.T) {
	t.Parallel()

	t.Run("takes what is not given from the kind", func(t *testing.T) {
		t.Parallel()
		tx := pgtest.Tx(t)
		j := get(t, tx, enqueue(t, tx, job.New{}))
		k := job.Bulk
		if j.Kind != k.Name || j.State != job.Pending.Name || j.MaxAttempts != k.Attempts || j.Priority != k.Priority || j.CreatedBy != "key-1" ||
			j.RetryEverySeconds != int64(k.RetryEvery.Seconds()) || j.TimeoutSeconds != int64(k.Timeout.Seconds()) ||
			j.CertificateID != nil || string(j.Args) != `{"operation": "blk-1"}` || j.Attempts != 0 {
			t.Errorf("the job is %+v", j)
		}
	})

	t.Run("takes what is given", func(t *testing.T) {
		t.Parallel()
		tx := pgtest.Tx(t)
		certificates(t, tx, 1)
		id, err := job.Renew.Enqueue(t.Context(), tx, job.New{
			ID: "job-1", CertificateID: "crt-1", Attempts: 2, RetryEvery: 3 * time.Second, Timeout: 4 * time.Second, Priority: 5, CreatedBy: "replica-a",
		}, job.CertArgs{})
		if err != nil || id != "job-1" {
			t.Fatal(id, err)
		}
		j := get(t, tx, "job-1")
		if j.MaxAttempts != 2 || j.RetryEverySeconds != 3 || j.TimeoutSeconds != 4 || j.Priority != 5 || *j.CertificateID != "crt-1" || j.CreatedBy != "replica-a" {
			t.Errorf("the job is %+v", j)
		}
	})

	t.Run("refuses a certificate that has an open job, names the job, and leaves the transaction whole", func(t *testing.T) {
		t.Parallel()
		tx := pgtest.Tx(t)
		certificates(t, tx, 2)
		first, err := job.Issue.Enqueue(as(t), tx, job.New{CertificateID: "crt-1"}, job.CertArgs{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = job.Renew.Enqueue(as(t), tx, job.New{CertificateID: "crt-1"}, job.CertArgs{})
		if fault.Of(err) != fault.Conflict || !strings.Contains(err.Error(), first) {
			t.Errorf("the second gets %v", err)
		}
		if _, err = job.Renew.Enqueue(as(t), tx, job.New{CertificateID: "crt-2"}, job.CertArgs{}); err != nil {
			t.Errorf("another certificate gets %v", err)
		}
		exec(t, tx, `update jobs set state = 'cancelled', finished_at = now() where id = $1`, first)
		if _, err = job.Renew.Enqueue(as(t), tx, job.New{CertificateID: "crt-1"}, job.CertArgs{}); err != nil {
			t.Errorf("once the first has ended it gets %v", err)
		}
	})

	t.Run("leaves one open job whoever inserts at once", func(t *testing.T) {
		t.Parallel()
		pool := pgtest.DB(t)
		certificates(t, pool, 1)
		var all sync.WaitGroup
		errs := make(chan error, 20)
		for i := range cap(errs) {
			all.Go(func() {
				_, err := pool.Exec(t.Context(), `
					insert into jobs (id, kind, certificate_id, args, priority, max_attempts, retry_every, timeout, created_by)
					values ($1, $2, 'crt-1', '{}', 1, 1, '1s', '1s', 'key-1')`, fmt.Sprint("job-", i), []string{"issue", "renew"}[i%2])
				errs <- err
			})
		}
		all.Wait()
		close(errs)
		inserted := 0
		for err := range errs {
			switch {
			case err == nil:
				inserted++
			case pg.Constraint(err) != "jobs_one_open_issuance_per_certificate":
				t.Error(err)
			}
		}
		if inserted != 1 {
			t.Errorf("%d jobs were inserted", inserted)
		}
	})

	t.Run("says that there is no such certificate", func(t *testing.T) {
		t.Parallel()
		_, err := job.Issue.Enqueue(as(t), pgtest.Tx(t), job.New{CertificateID: "crt-0"}, job.CertArgs{})
		if fault.Of(err) != fault.Invalid {
			t.Errorf("it gets %v", err)
		}
	})
}

// put inserts a job in a state, n times.
func put(t testing.TB, q pg.Q, state string, n int) {
	t.Helper()
	exec(t, q, `
		insert into jobs (id, kind, state, args, priority, attempts, token, max_attempts, retry_every, timeout, created_by, leased_until, finished_at)
		select $1 || '-' || n, 'bulk', $1, '{}', 30, 1, 7, 3, '1m', '1m', 'key-1', case $1 when 'running' then now() + interval '1 minute' end,
			case when $1 in ('done', 'dead', 'cancelled') then now() end
		from generate_series(1, $2::int) n`, state, n)
}

func TestCancelAndAgain(t *testing.T) {
	t.Parallel()
	may := map[string][]string{
		"cancel": {job.Pending.Name, job.Running.Name, job.Failed.Name},
		"again":  {job.GivenUp.Name},
	}
	want := map[string]string{"cancel": job.Cancelled.Name, "again": job.Pending.Name}
	for name, f := range map[string]func(context.Context, pg.Q, string) (job.Job, error){"cancel": job.Cancel, "again": job.Again} {
		for _, s := range job.States() {
			t.Run(name+" of a job that is "+s.Name, func(t *testing.T) {
				t.Parallel()
				tx := pgtest.Tx(t)
				put(t, tx, s.Name, 1)
				j, err := f(t.Context(), tx, s.Name+"-1")
				if !slices.Contains(may[name], s.Name) {
					if fault.Of(err) != fault.Conflict || !strings.Contains(err.Error(), "is "+s.Name) {
						t.Errorf("it gets %v", err)
					}
					return
				}
				if err != nil || j.State != want[name] || j.ID != s.Name+"-1" {
					t.Errorf("it gets %+v (%v)", j, err)
				}
				if name == "again" && (j.Attempts != 0 || j.FinishedAt != nil) {
					t.Errorf("it has %d attempts and ended at %v", j.Attempts, j.FinishedAt)
				}
				if n := one[int](t, tx, `select token from jobs`); n != 7 {
					t.Errorf("the token is %d", n)
				}
			})
		}
		if _, err := f(t.Context(), pgtest.Tx(t), "job-0"); fault.Of(err) != fault.NotFound {
			t.Errorf("%s of no job gets %v", name, err)
		}
	}

	t.Run("again while another job has the certificate", func(t *testing.T) {
		t.Parallel()
		tx := pgtest.Tx(t)
		certificates(t, tx, 1)
		id, err := job.Renew.Enqueue(as(t), tx, job.New{CertificateID: "crt-1"}, job.CertArgs{})
		if err != nil {
			t.Fatal(err)
		}
		exec(t, tx, `update jobs set state = 'running', leased_until = now(), token = 1 where id = $1`, id)
		exec(t, tx, `update jobs set state = 'dead', leased_until = null, finished_at = now() where id = $1`, id)
		if _, err := job.Renew.Enqueue(as(t), tx, job.New{CertificateID: "crt-1"}, job.CertArgs{}); err != nil {
			t.Fatal(err)
		}
		if _, err := job.Again(t.Context(), tx, id); fault.Of(err) != fault.Conflict || !strings.Contains(err.Error(), "another job") {
			t.Errorf("it gets %v", err)
		}
	})
}

func TestCancelForEndsWhatWouldIssue(t *testing.T) {
	t.Parallel()
	tx := pgtest.Tx(t)
	certificates(t, tx, 4)
	exec(t, tx, `
		insert into jobs (id, kind, state, certificate_id, args, priority, max_attempts, retry_every, timeout, created_by, leased_until, finished_at)
		values ('a', 'issue', 'pending', 'crt-1', '{}', 1, 1, '1s', '1s', 'key-1', null, null),
		       ('b', 'renew', 'running', 'crt-2', '{}', 1, 1, '1s', '1s', 'key-1', now() + interval '1 minute', null),
		       ('c', 'renew', 'failed', 'crt-3', '{}', 1, 1, '1s', '1s', 'key-1', null, null),
		       ('d', 'renew', 'done', 'crt-3', '{}', 1, 1, '1s', '1s', 'key-1', null, now()),
		       ('e', 'other', 'pending', 'crt-1', '{}', 1, 1, '1s', '1s', 'key-1', null, null),
		       ('f', 'renew', 'pending', 'crt-4', '{}', 1, 1, '1s', '1s', 'key-1', null, null)`)
	if err := job.CancelFor(t.Context(), tx, []string{"crt-1", "crt-2", "crt-3"}, "it was revoked"); err != nil {
		t.Fatal(err)
	}
	rows, _ := tx.Query(t.Context(), `select id from jobs where state = 'cancelled' and error = 'it was revoked' and finished_at is not null order by id`)
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("cancelled are %v (%v)", got, err)
	}
	if n := one[int](t, tx, `select count(*) from jobs where state = 'cancelled'`); n != 3 {
		t.Errorf("%d are cancelled", n)
	}
}

func TestRetryQueuesWhatIsDueAgain(t *testing.T) {
	t.Parallel()
	tx := pgtest.Tx(t)
	put(t, tx, job.Failed.Name, 2500)
	for _, s := range []*job.State{job.Running, job.Done, job.GivenUp, job.Cancelled} {
		put(t, tx, s.Name, 1)
	}
	exec(t, tx, `update jobs set run_at = now() + interval '1 minute' where id = 'failed-7'`)
	n, err := job.Retry(t.Context(), tx)
	if err != nil || n != 2499 {
		t.Errorf("it queued %d (%v)", n, err)
	}
	if n := one[int](t, tx, `select count(*) from jobs where state = 'pending'`); n != 2499 {
		t.Errorf("%d are pending", n)
	}
	if j := get(t, tx, "failed-7"); j.State != job.Failed.Name {
		t.Errorf("one that is not due is %s", j.State)
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	pool := pgtest.DB(t)
	certificates(t, pool, 2)
	put(t, pool, job.Done.Name, 300)
	put(t, pool, job.GivenUp.Name, 30)
	exec(t, pool, `update jobs set certificate_id = 'crt-2' where id like '%7'`)
	exec(t, pool, `update jobs set kind = 'renew' where id like '%0'`)
	exec(t, pool, `update jobs set created_at = timestamptz '2020-01-01 00:00:00.123456Z' where id like '%1' or id like '%2'`)

	for _, f := range []job.Filter{
		{},
		{State: "dead"},
		{Kind: "renew"},
		{CertificateID: "crt-2"},
		{State: "done", CertificateID: "crt-2", Kind: "bulk"},
		{State: "dead", Kind: "renew"},
	} {
		t.Run(fmt.Sprintf("has each job of %+v once, newest first, whatever else is queued", f), func(t *testing.T) {
			rows, _ := pool.Query(t.Context(), `
				select id from jobs
				where ($1 = '' or state = $1) and ($2 = '' or kind = $2) and ($3 = '' or certificate_id = $3)
				order by created_at desc, id desc`, f.State, f.Kind, f.CertificateID)
			want, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil || len(want) == 0 {
				t.Fatal(len(want), err)
			}
			var got []string
			for {
				page, err := job.List(t.Context(), pool, f, 7)
				if err != nil {
					t.Fatal(err)
				}
				for _, j := range page {
					got = append(got, j.ID)
				}
				if len(page) < 7 {
					break
				}
				f.After = page[6].Cursor()
				exec(t, pool, `
					insert into jobs (id, kind, args, priority, max_attempts, retry_every, timeout, created_by)
					values (gen_random_uuid(), 'bulk', '{}', 30, 1, '1s', '1s', 'key-1')`)
			}
			if !slices.Equal(got, want) {
				t.Errorf("it has %d jobs: %v\nwant %d: %v", len(got), got, len(want), want)
			}
		})
	}

	t.Run("refuses what is no cursor", func(t *testing.T) {
		for _, after := range []string{"x", "!", "eA", "MjAyMC0wMS0wMQ", "bm93IGo", "MjAyMC0wMS0wMVQwMDowMDowMFoA"} {
			if _, err := job.List(t.Context(), pool, job.Filter{After: after}, 7); fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "query.after") {
				t.Errorf("%q gets %v", after, err)
			}
		}
	})
}

func TestOpenAndQueueAge(t *testing.T) {
	t.Parallel()
	tx := pgtest.Tx(t)
	open := func() map[string]int64 {
		t.Helper()
		counts, err := job.Open(t.Context(), tx)
		if err != nil {
			t.Fatal(err)
		}
		m := map[string]int64{}
		for _, c := range counts {
			m[c.State] = c.Count
		}
		return m
	}
	age := func() time.Duration {
		t.Helper()
		d, err := job.QueueAge(t.Context(), tx)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if m := open(); len(m) != 3 || m["pending"]+m["running"]+m["failed"] != 0 || age() != 0 {
		t.Errorf("with no job there are %v, the oldest %s old", m, age())
	}
	for i, s := range job.States() {
		put(t, tx, s.Name, i+1)
	}
	if m := open(); len(m) != 3 || m["pending"] != 1 || m["running"] != 2 || m["failed"] != 3 {
		t.Errorf("there are %v", m)
	}
	exec(t, tx, `update jobs set run_at = now() + interval '1 hour'`)
	if age() != 0 {
		t.Errorf("with no job that is due the oldest is %s old", age())
	}
	for id, minutes := range map[string]int{"running-1": 50, "done-1": 50, "dead-1": 50, "failed-2": 10, "pending-1": 5} {
		exec(t, tx, `update jobs set run_at = now() - $2 * interval '1 minute' where id = $1`, id, minutes)
	}
	if d := age(); d < 10*time.Minute || d > 11*time.Minute {
		t.Errorf("the oldest is %s old", d)
	}
	exec(t, tx, `update jobs set run_at = now() where id = 'failed-2'`)
	if d := age(); d < 5*time.Minute || d > 6*time.Minute {
		t.Errorf("then the oldest is %s old", d)
	}
}

func TestDeleteFinished(t *testing.T) {
	t.Parallel()
	pool := pgtest.DB(t)
	certificates(t, pool, 1)
	for _, s := range job.States() {
		put(t, pool, s.Name, 2)
	}
	exec(t, pool, `update jobs set created_at = now() - interval '9 days'`)
	exec(t, pool, `update jobs set finished_at = now() - interval '2 days' where finished_at is not null and id like '%-1'`)
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), `
			insert into bulk_operations (id, action, args, job_id, created_by)
			select 'blk ' || id, 'renew', '{}', id, 'key-1' from jobs where kind = 'bulk'`)
		if err == nil {
			_, err = tx.Exec(t.Context(), `insert into bulk_items (operation_id, certificate_id) select id, 'crt-1' from bulk_operations`)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	n, err := job.DeleteFinished(t.Context(), pool, 24*time.Hour, 2)
	if err != nil || n != 2 {
		t.Fatalf("it deleted %d (%v), want as many as the limit", n, err)
	}
	n, err = job.DeleteFinished(t.Context(), pool, 24*time.Hour, 2)
	if err != nil || n != 1 {
		t.Fatalf("then it deleted %d (%v)", n, err)
	}
	for _, sql := range []string{`select id from jobs order by id`, `select job_id from bulk_operations order by job_id`} {
		rows, _ := pool.Query(t.Context(), sql)
		left, err := pgx.CollectRows(rows, pgx.RowTo[string])
		want := []string{"cancelled-2", "dead-2", "done-2", "failed-1", "failed-2", "pending-1", "pending-2", "running-1", "running-2"}
		if err != nil || !slices.Equal(left, want) {
			t.Errorf("%s: left are %v (%v)", sql, left, err)
		}
	}
}

// Whoever has locked a certificate and queues a job for it does not wait for
// the transaction of the job that it has, which may be waiting for the lock.
func TestNobodyWaitsForAJobThatWaitsForTheCertificate(t *testing.T) {
	t.Parallel()
	for name, do := range map[string]func(context.Context, *pgxpool.Pool, *job.Task) error{
		"to end": func(ctx context.Context, _ *pgxpool.Pool, task *job.Task) error {
			return task.Complete(ctx, lockCertificate(ctx))
		},
		"to go dead": func(context.Context, *pgxpool.Pool, *job.Task) error { return fault.New(fault.Invalid, "refused") },
		"to be taken away": func(ctx context.Context, pool *pgxpool.Pool, _ *job.Task) error {
			_, err := pool.Exec(ctx, `update jobs set leased_until = now()`)
			return errors.Join(err, job.ErrLost)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := pgtest.DB(t)
			certificates(t, pool, 1)
			if _, err := job.Renew.Enqueue(as(t), pool, job.New{CertificateID: "crt-1", Attempts: 1}, job.CertArgs{}); err != nil {
				t.Fatal(err)
			}
			r := newRunner(pool, "a", job.Renew.Worker(func(ctx context.Context, task *job.Task, _ job.CertArgs) error {
				return do(ctx, pool, task)
			}, func(ctx context.Context, tx pgx.Tx, _ []job.Dead) error { return lockCertificate(ctx)(tx) }))
			var ending sync.WaitGroup
			err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
				if err := lockCertificate(t.Context())(tx); err != nil {
					return err
				}
				ending.Go(func() {
					_, err := r.Pass(t.Context(), nil)
					_, taken := r.Reclaim(t.Context())
					if err := errors.Join(err, taken); err != nil {
						t.Error(err)
					}
				})
				pgtest.Eventually(t, "the job waits for the certificate", func() bool {
					return one[int](t, pool, `
						select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`) == 1
				})
				ctx, cancel := context.WithTimeout(as(t), 900*time.Millisecond) // PostgreSQL looks for deadlocks after a second
				defer cancel()
				_, err := job.Renew.Enqueue(ctx, tx, job.New{CertificateID: "crt-1"}, job.CertArgs{})
				if fault.Of(err) != fault.Conflict {
					t.Errorf("it gets %v, want the conflict at once", err)
				}
				return nil
			})
			ending.Wait()
			if err != nil {
				t.Error(err)
			}
			if s := one[string](t, pool, `select state from jobs`); s != job.Done.Name && s != job.GivenUp.Name {
				t.Errorf("the job is %s", s)
			}
		})
	}
}

func lockCertificate(ctx context.Context) func(pgx.Tx) error {
	return func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `select from certificates where id = 'crt-1' for no key update`)
		return err
	}
}
