package job_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"certctl/server/fault"
	"certctl/server/job"
	"certctl/server/metric"
	"certctl/server/pg"
	"certctl/server/pg/pgtest"
)

const lease = 4 * time.Second

func newRunner(pool *pgxpool.Pool, replica string, workers ...job.Worker) *job.Runner {
	return &job.Runner{
		DB: pool, Replica: replica, Workers: workers, Concurrency: 4, Every: time.Hour, Lease: lease,
		Metrics: metric.New(), Log: zap.NewNop(),
	}
}

// bulk returns a worker of bulk jobs.
func bulk(do func(context.Context, *job.Task) error) job.Worker {
	return job.Bulk.Worker(func(ctx context.Context, t *job.Task, _ job.BulkArgs) error { return do(ctx, t) }, nil)
}

// pass does one pass.
func pass(t testing.TB, r *job.Runner) {
	t.Helper()
	if _, err := r.Pass(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// outcomes are the attempts of bulk jobs that r has counted, by outcome.
func outcomes(t testing.TB, r *job.Runner) map[string]string {
	t.Helper()
	w := httptest.NewRecorder()
	r.Metrics.Handler(func(*http.Request) {}).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody))
	counts := map[string]string{}
	for line := range strings.Lines(w.Body.String()) {
		if rest, ok := strings.CutPrefix(line, `certctl_jobs_total{kind="bulk",outcome="`); ok {
			outcome, n, _ := strings.Cut(strings.TrimSpace(rest), `"} `)
			if n != "0" {
				counts[outcome] = n
			}
		}
	}
	return counts
}

func effects(t testing.TB, q pg.Q) {
	t.Helper()
	exec(t, q, `create table effects (job text, attempt int)`)
}

func effect(ctx context.Context, t *job.Task) func(pgx.Tx) error {
	return func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `insert into effects values ($1, $2)`, t.ID, t.Attempt)
		return err
	}
}

func TestEachJobTakesEffectOnce(t *testing.T) {
	t.Parallel()
	const jobs = 1000
	pool := pgtest.DB(t)
	url := pool.Config().ConnString()
	effects(t, pool)
	for i := range jobs {
		enqueue(t, pool, job.New{Priority: 1 + i%3, RetryEvery: time.Millisecond})
	}
	var done atomic.Int64
	worker := bulk(func(ctx context.Context, task *job.Task) error {
		if task.Attempt == 1 && task.ID[len(task.ID)-1] == 'a' {
			return errors.New("the first attempt fails")
		}
		err := task.Complete(ctx, effect(ctx, task))
		if err == nil {
			done.Add(1)
		}
		return err
	})
	sep := "?"
	if strings.Contains(url, "?") {
		sep = "&"
	}
	stopping := make(chan struct{})
	var all sync.WaitGroup
	for name, url := range map[string]string{"a": url, "b": url, "behind a pooler": url + sep + "default_query_exec_mode=exec"} {
		pool := pgtest.Pool(t, url)
		r := newRunner(pool, name, worker)
		all.Go(func() {
			for done.Load() < jobs && t.Context().Err() == nil {
				_, err := r.Pass(t.Context(), stopping)
				_, queued := job.Retry(t.Context(), pool)
				_, taken := r.Reclaim(t.Context())
				if err := errors.Join(err, queued, taken); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	if n := one[int](t, pool, `select count(*) from effects e join jobs j on j.id = e.job and j.attempts = e.attempt and j.state = 'done'`); n != jobs {
		t.Errorf("%d effects, want one of each of %d jobs", n, jobs)
	}
	if n := one[int](t, pool, `select count(distinct job) from effects`); n != jobs {
		t.Errorf("%d jobs took effect", n)
	}
	if n := one[int](t, pool, `select count(distinct worker) from jobs`); n != 3 {
		t.Errorf("%d replicas took part", n)
	}
	if n := one[int](t, pool, `select count(*) from jobs where attempts > 2 or (attempts = 2) <> (right(id, 1) = 'a')`); n != 0 {
		t.Errorf("%d jobs were tried more often than they failed", n)
	}
}

func TestAttemptEnds(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		do      func(context.Context, *job.Task) error
		new     job.New
		outcome string
		state   *job.State
		counted int // attempts
		error   string
	}{
		{
			name: "done by a worker that returns nil", do: func(context.Context, *job.Task) error { return nil },
			outcome: "done", state: job.Done, counted: 1,
		},
		{
			name: "done by a worker that completes it and fails then", do: func(ctx context.Context, t *job.Task) error {
				return errors.Join(t.Complete(ctx, nil), errors.New("boom"))
			},
			outcome: "done", state: job.Done, counted: 1,
		},
		{
			name: "failed by an error, which callers do not see", do: func(context.Context, *job.Task) error { return errors.New("boom") },
			outcome: "failed", state: job.Failed, counted: 1, error: "internal error",
		},
		{
			name: "failed by what may go well another time", do: func(context.Context, *job.Task) error {
				return fmt.Errorf("sign: %w", fault.New(fault.Unavailable, "the issuer does not answer"))
			},
			outcome: "failed", state: job.Failed, counted: 1, error: "the issuer does not answer",
		},
		{
			name: "failed by a message that a column cannot hold", do: func(context.Context, *job.Task) error {
				return fault.New(fault.Unavailable, "it says \x00\xff%s", strings.Repeat("ä", 9000))
			},
			outcome: "failed", state: job.Failed, counted: 1, error: "it says " + strings.Repeat("ä", 4091),
		},
		{
			name: "failed by a panic", do: func(context.Context, *job.Task) error { panic("boom") },
			outcome: "failed", state: job.Failed, counted: 1, error: "internal error",
		},
		{
			name: "failed by its time", new: job.New{Timeout: 10 * time.Millisecond}, do: func(ctx context.Context, _ *job.Task) error {
				<-ctx.Done()
				return ctx.Err()
			},
			outcome: "failed", state: job.Failed, counted: 1, error: "the attempt took longer than its time",
		},
		{
			name: "dead by a refusal, which no other attempt would better", do: func(context.Context, *job.Task) error {
				return fault.New(fault.Invalid, "the profile forbids it")
			},
			outcome: "dead", state: job.GivenUp, counted: 1, error: "the profile forbids it",
		},
		{
			name: "dead by the failure of the last attempt", new: job.New{Attempts: 1}, do: func(context.Context, *job.Task) error {
				return fault.New(fault.Unavailable, "the issuer does not answer")
			},
			outcome: "dead", state: job.GivenUp, counted: 1, error: "the issuer does not answer",
		},
		{
			name: "later, without having counted", new: job.New{Attempts: 1}, do: func(context.Context, *job.Task) error {
				return fmt.Errorf("order: %w", job.Later{After: time.Hour})
			},
			outcome: "later", state: job.Pending,
		},
		{
			name: "later, and not at once", do: func(context.Context, *job.Task) error { return job.Later{} },
			outcome: "later", state: job.Pending,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			pool := pgtest.DB(t)
			id := enqueue(t, pool, tt.new)
			r := newRunner(pool, "a", bulk(tt.do))
			n, err := r.Pass(t.Context(), nil)
			if n != 1 || err != nil {
				t.Errorf("the pass did %d (%v)", n, err)
			}
			j := get(t, pool, id)
			if j.State != tt.state.Name || j.Attempts != tt.counted || j.Error != tt.error || j.Worker != "a" || j.StartedAt == nil {
				t.Errorf("the job is %+v", j)
			}
			if got := outcomes(t, r); len(got) != 1 || got[tt.outcome] != "1" {
				t.Errorf("counted are %v", got)
			}
			if ahead := j.RunAt.Sub(*j.StartedAt); tt.outcome == "later" && (ahead < time.Second || strings.Contains(tt.name, "counted") && ahead < time.Hour) {
				t.Errorf("it goes on in %s", ahead)
			}
		})
	}
}

func TestLostLeaseWritesNothing(t *testing.T) {
	t.Parallel()
	pool := pgtest.DB(t)
	effects(t, pool)
	id := enqueue(t, pool, job.New{})
	inside, taken := make(chan *job.Task), make(chan struct{})
	var errs []error
	first := newRunner(pool, "a", bulk(func(ctx context.Context, task *job.Task) error {
		inside <- task
		<-taken
		own := context.WithoutCancel(ctx) // as a worker that has not noticed
		errs = append(errs, task.Save(own, "mine", effect(own, task)), task.Complete(own, effect(own, task)))
		return errs[1]
	}))
	first.Lease = time.Hour // its own heartbeat says nothing
	done := make(chan struct{})
	go func() { defer close(done); pass(t, first) }()
	<-inside

	exec(t, pool, `update jobs set leased_until = clock_timestamp()`)
	second := newRunner(pool, "b", bulk(func(ctx context.Context, task *job.Task) error {
		if task.Attempt != 2 {
			t.Errorf("it is attempt %d", task.Attempt)
		}
		close(taken)
		<-done // the first has tried everything
		return task.Complete(ctx, effect(ctx, task))
	}))
	if n, err := second.Reclaim(t.Context()); n != 1 || err != nil {
		t.Fatalf("%d taken (%v)", n, err)
	}
	exec(t, pool, `update jobs set run_at = now() where state = 'failed'`)
	if n, err := job.Retry(t.Context(), pool); n != 1 || err != nil {
		t.Fatalf("%d queued (%v)", n, err)
	}
	pass(t, second)
	for _, err := range errs {
		if !errors.Is(err, job.ErrLost) {
			t.Errorf("the first gets %v, want ErrLost", err)
		}
	}
	rows, _ := pool.Query(t.Context(), `select attempt from effects where job = $1`, id)
	got, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil || !slices.Equal(got, []int{2}) {
		t.Errorf("effects of the attempts %v are there (%v)", got, err)
	}
	if j := get(t, pool, id); j.State != job.Done.Name || j.Worker != "b" {
		t.Errorf("the job is %+v", j)
	}
	if got := outcomes(t, first); len(got) != 1 || got["lost"] != "1" {
		t.Errorf("the first counts %v", got)
	}
	if got := outcomes(t, second); got["done"] != "1" || got["failed"] != "1" {
		t.Errorf("the second counts %v", got)
	}
	if p := one[string](t, pool, `select progress::text from jobs`); p != "{}" {
		t.Errorf("the progress is %s", p)
	}
}

// A lease that ran out is lost though nobody has taken the job yet.
func TestLeaseThatRanOutIsLost(t *testing.T) {
	t.Parallel()
	pool := pgtest.DB(t)
	effects(t, pool)
	for _, how := range []error{nil, errors.New("boom"), fault.New(fault.Invalid, "refused"), job.Later{After: time.Minute}} {
		id := enqueue(t, pool, job.New{})
		r := newRunner(pool, "a", bulk(func(ctx context.Context, task *job.Task) error {
			exec(t, pool, `update jobs set leased_until = clock_timestamp() where id = $1`, id)
			if err := task.Save(ctx, "mine", effect(ctx, task)); !errors.Is(err, job.ErrLost) {
				t.Errorf("it gets %v", err)
			}
			return how
		}))
		r.Lease = time.Hour
		pass(t, r)
		if j := get(t, pool, id); j.State != job.Running.Name || outcomes(t, r)["lost"] != "1" {
			t.Errorf("after %v the job is %s and counted %v", how, j.State, outcomes(t, r))
		}
	}
	if n := one[int](t, pool, `select count(*) from effects`); n != 0 {
		t.Errorf("there are %d effects", n)
	}
}

func TestReclaim(t *testing.T) {
	t.Parallel()

	t.Run("takes what was claimed and forgotten, once its lease is over", func(t *testing.T) {
		t.Parallel()
		pool := pgtest.DB(t)
		put(t, pool, job.Running.Name, 1100)
		exec(t, pool, `update jobs set worker = 'gone', started_at = now()`)
		r := newRunner(pool, "a", bulk(func(context.Context, *job.Task) error { return nil }))
		if n, err := r.Reclaim(t.Context()); n != 0 || err != nil {
			t.Fatalf("%d were taken before (%v)", n, err)
		}
		exec(t, pool, `update jobs set leased_until = clock_timestamp() where id <> 'running-7'`)
		if n, err := r.Reclaim(t.Context()); n != 1099 || err != nil {
			t.Fatalf("%d were taken (%v)", n, err)
		}
		j := get(t, pool, "running-1")
		if j.State != job.Failed.Name || j.Attempts != 1 || j.Error != "the replica that did it stopped answering" {
			t.Errorf("the job is %+v", j)
		}
		if one[bool](t, pool, `select exists (select from jobs where state = 'failed' and run_at < now() + interval '40s')`) {
			t.Error("one is tried again at once")
		}
		if j := get(t, pool, "running-7"); j.State != job.Running.Name {
			t.Errorf("one with a lease is %s", j.State)
		}
		exec(t, pool, `update jobs set run_at = now() where state = 'failed'`)
		if _, err := job.Retry(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
		pass(t, r)
		if n := one[int](t, pool, `select count(*) from jobs where state = 'done' and attempts = 2 and token = 8`); n != 1099 {
			t.Errorf("%d are done", n)
		}
	})

	t.Run("takes what does not end when its time is over, though its lease is kept", func(t *testing.T) {
		t.Parallel()
		pool := pgtest.DB(t)
		put(t, pool, job.Running.Name, 2)
		exec(t, pool, `update jobs set started_at = now() - interval '61 seconds' where id = 'running-1'`) // not yet a lease more
		exec(t, pool, `update jobs set started_at = now() - interval '65 seconds' where id = 'running-2'`)
		r := newRunner(pool, "a", bulk(nil))
		if n, err := r.Reclaim(t.Context()); n != 1 || err != nil {
			t.Fatalf("%d were taken (%v)", n, err)
		}
		if j := get(t, pool, "running-2"); j.State != job.Failed.Name || j.Error != "the attempt took longer than its time" {
			t.Errorf("the job is %+v", j)
		}
	})

	t.Run("leaves what is just being ended", func(t *testing.T) {
		t.Parallel()
		pool := pgtest.DB(t)
		put(t, pool, job.Running.Name, 2)
		exec(t, pool, `update jobs set leased_until = clock_timestamp()`)
		r := newRunner(pool, "a", bulk(nil))
		err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			exec(t, tx, `select from jobs where id = 'running-1' for no key update`)
			if n, err := r.Reclaim(t.Context()); n != 1 || err != nil {
				t.Errorf("%d were taken (%v)", n, err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestDeathIsWrittenWithWhatItMeans(t *testing.T) {
	t.Parallel()
	causes := map[string]func(t *testing.T, pool *pgxpool.Pool, r *job.Runner) (string, error){
		"of an attempt that failed": func(t *testing.T, pool *pgxpool.Pool, r *job.Runner) (string, error) {
			t.Helper()
			id := enqueue(t, pool, job.New{Attempts: 1})
			pass(t, r)
			return id, nil
		},
		"of a replica": func(t *testing.T, pool *pgxpool.Pool, r *job.Runner) (string, error) {
			t.Helper()
			id := enqueue(t, pool, job.New{Attempts: 1})
			exec(t, pool, `update jobs set state = 'running', attempts = 1, token = 1, leased_until = clock_timestamp()`)
			_, err := r.Reclaim(t.Context())
			return id, err
		},
	}
	for name, cause := range causes {
		for _, fails := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, which fails to be written: %v", name, fails), func(t *testing.T) {
				t.Parallel()
				pool := pgtest.DB(t)
				exec(t, pool, `create table deaths (job text, certificate text, args jsonb, error text)`)
				r := newRunner(pool, "a",
					job.Bulk.Worker(func(context.Context, *job.Task, job.BulkArgs) error {
						return fault.New(fault.Unavailable, "it does not answer")
					}, func(ctx context.Context, tx pgx.Tx, dead []job.Dead) error {
						for _, d := range dead {
							_, err := tx.Exec(ctx, `insert into deaths values ($1, $2, $3, $4)`, d.ID, d.CertificateID, string(d.Args), d.Error)
							if err != nil {
								return err
							}
						}
						if fails {
							panic("boom")
						}
						return nil
					}),
					job.Issue.Worker(nil, nil))
				id, err := cause(t, pool, r)
				j := get(t, pool, id)
				deaths := one[int](t, pool, `select count(*) from deaths`)
				if fails {
					if j.State != job.Running.Name || deaths != 0 || (err == nil) != (name == "of an attempt that failed") {
						t.Errorf("the job is %+v, %d deaths are written, and the caller gets %v", j, deaths, err)
					}
					return
				}
				if err != nil || j.State != job.GivenUp.Name || j.FinishedAt == nil || j.Error == "" {
					t.Errorf("the job is %+v (%v)", j, err)
				}
				n := one[int](t, pool, `
					select count(*) from deaths d join jobs j on j.id = d.job and j.error = d.error and j.args = d.args and certificate = ''`)
				if n != 1 || deaths != 1 {
					t.Errorf("%d deaths are written, %d of them right", deaths, n)
				}
				if got := outcomes(t, r); len(got) != 1 || got["dead"] != "1" {
					t.Errorf("counted are %v", got)
				}
			})
		}
	}

	t.Run("and a kind that cannot write it stops no other", func(t *testing.T) {
		t.Parallel()
		pool := pgtest.DB(t)
		put(t, pool, job.Running.Name, 2)
		exec(t, pool, `update jobs set leased_until = clock_timestamp(), attempts = 3`)
		exec(t, pool, `update jobs set kind = 'issue' where id = 'running-1'`)
		r := newRunner(pool, "a",
			job.Issue.Worker(nil, func(context.Context, pgx.Tx, []job.Dead) error { return errors.New("boom") }),
			job.Bulk.Worker(nil, nil))
		if n, err := r.Reclaim(t.Context()); n != 1 || err == nil {
			t.Errorf("%d were taken (%v)", n, err)
		}
		if get(t, pool, "running-1").State != job.Running.Name || get(t, pool, "running-2").State != job.GivenUp.Name {
			t.Error("the wrong one is dead")
		}
	})
}

func TestCancelOfARunningJob(t *testing.T) {
	t.Parallel()
	pool := pgtest.DB(t)
	effects(t, pool)
	id := enqueue(t, pool, job.New{})
	var got error
	r := newRunner(pool, "a", bulk(func(ctx context.Context, task *job.Task) error {
		if _, err := job.Cancel(t.Context(), pool, id); err != nil {
			t.Error(err)
		}
		<-ctx.Done() // at the next heartbeat
		if !errors.Is(context.Cause(ctx), job.ErrLost) {
			t.Errorf("its context ends by %v", context.Cause(ctx))
		}
		if err := task.Complete(ctx, nil); !errors.Is(err, job.ErrLost) {
			t.Errorf("to complete it in its own context it gets %v", err)
		}
		own := context.WithoutCancel(ctx)
		got = task.Complete(own, effect(own, task))
		return ctx.Err()
	}))
	pass(t, r)
	if !errors.Is(got, job.ErrLost) {
		t.Errorf("to complete it gets %v", got)
	}
	if j := get(t, pool, id); j.State != job.Cancelled.Name || one[int](t, pool, `select count(*) from effects`) != 0 {
		t.Errorf("the job is %+v", j)
	}
	if got := outcomes(t, r); len(got) != 1 || got["cancelled"] != "1" {
		t.Errorf("counted are %v", got)
	}
}

func TestBackoffDoubles(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		attempts int // before
		every    time.Duration
		want     time.Duration
	}{
		{0, time.Minute, time.Minute},
		{1, time.Minute, 2 * time.Minute},
		{2, time.Minute, 4 * time.Minute},
		{6, time.Minute, 64 * time.Minute},
		{11, time.Minute, 20 * time.Hour},
		{900, 24 * time.Hour, 20 * time.Hour},
	} {
		for how, fail := range map[string]func(t *testing.T, pool *pgxpool.Pool, r *job.Runner){
			"fails": func(t *testing.T, _ *pgxpool.Pool, r *job.Runner) { t.Helper(); pass(t, r) },
			"is taken away": func(t *testing.T, pool *pgxpool.Pool, r *job.Runner) {
				t.Helper()
				exec(t, pool, `update jobs set state = 'running', attempts = attempts + 1, token = token + 1, leased_until = clock_timestamp()`)
				if _, err := r.Reclaim(t.Context()); err != nil {
					t.Error(err)
				}
			},
		} {
			t.Run(fmt.Sprintf("attempt %d %s", tt.attempts+1, how), func(t *testing.T) {
				t.Parallel()
				pool := pgtest.DB(t)
				for range 20 {
					enqueue(t, pool, job.New{Attempts: 1000, RetryEvery: tt.every})
				}
				exec(t, pool, `update jobs set attempts = $1::int, token = $1::int`, tt.attempts)
				fail(t, pool, newRunner(pool, "a", bulk(func(context.Context, *job.Task) error { return errors.New("boom") })))
				rows, _ := pool.Query(t.Context(), `select run_at - now() from jobs where state = 'failed'`)
				waits, err := pgx.CollectRows(rows, pgx.RowTo[time.Duration])
				if err != nil || len(waits) != 20 {
					t.Fatal(len(waits), err)
				}
				for _, w := range waits {
					if w < tt.want*7/10 || w > tt.want*6/5 {
						t.Errorf("it waits %s, want about %s", w, tt.want)
					}
				}
				if slices.Max(waits)-slices.Min(waits) < tt.want/20 {
					t.Errorf("they all wait %s", waits[0])
				}
			})
		}
	}
}

func TestClaimLeavesWhatIsNotPending(t *testing.T) {
	t.Parallel()
	pool := pgtest.DB(t)
	for _, s := range job.States() {
		put(t, pool, s.Name, 1)
	}
	exec(t, pool, `update jobs set run_at = now() - interval '1 hour'`)
	later, other := enqueue(t, pool, job.New{}), enqueue(t, pool, job.New{})
	exec(t, pool, `update jobs set run_at = now() + interval '1 hour' where id = $1`, later)
	exec(t, pool, `update jobs set kind = 'unknown' where id = $1`, other)
	var did []string
	r := newRunner(pool, "a", bulk(func(_ context.Context, task *job.Task) error { did = append(did, task.ID); return nil }))
	r.Concurrency = 1
	pass(t, r)
	if !slices.Equal(did, []string{"pending-1"}) {
		t.Errorf("it did %v", did)
	}
}

func TestPriorities(t *testing.T) {
	t.Parallel()
	pool := pgtest.DB(t)
	for i, id := range []string{"d", "b", "c", "a"} {
		enqueue(t, pool, job.New{ID: id, Priority: []int{3, 1, 2, 1}[i]})
	}
	exec(t, pool, `update jobs set run_at = now() - interval '1 minute' where id = 'd'`)
	exec(t, pool, `update jobs set run_at = now() - interval '1 second' where id = 'a'`)
	var did []string
	r := newRunner(pool, "a", bulk(func(_ context.Context, task *job.Task) error {
		did = append(did, task.ID)
		if task.ID == "b" {
			enqueue(t, pool, job.New{ID: "first", Priority: -1})
		}
		return nil
	}))
	r.Concurrency = 1
	pass(t, r)
	if want := []string{"a", "b", "first", "c", "d"}; !slices.Equal(did, want) {
		t.Errorf("done in the order %v, want %v", did, want)
	}
}

func TestPassEndsWhenNothingIsDue(t *testing.T) {
	t.Parallel()
	pool := pgtest.DB(t)
	enqueue(t, pool, job.New{ID: "job-1"})
	r := newRunner(pool, "a", bulk(func(_ context.Context, task *job.Task) error {
		if task.ID == "job-1" {
			enqueue(t, pool, job.New{ID: "job-2"}) // as another replica does
		}
		return nil
	}))
	if n, err := r.Pass(t.Context(), nil); n != 2 || err != nil {
		t.Errorf("the pass did %d (%v)", n, err)
	}
}

func TestNoMoreThanTheConcurrency(t *testing.T) {
	t.Parallel()
	pool := pgtest.DB(t)
	for range 20 {
		enqueue(t, pool, job.New{})
	}
	var mu sync.Mutex
	inside, most := 0, 0
	add := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		inside += n
		most = max(most, inside)
	}
	r := newRunner(pool, "a", bulk(func(ctx context.Context, _ *job.Task) error {
		add(1)
		defer add(-1)
		if running := one[int](t, pool, `select count(*) from jobs where state = 'running'`); running > 4 {
			t.Errorf("%d are claimed", running)
		}
		return ctx.Err()
	}))
	pass(t, r)
	if most < 2 || most > 4 {
		t.Errorf("%d at once", most)
	}
	if n := one[int](t, pool, `select count(*) from jobs where state = 'done'`); n != 20 {
		t.Errorf("%d are done", n)
	}
}

func TestShutdown(t *testing.T) {
	t.Parallel()

	t.Run("lets jobs under way end, and begins no more", func(t *testing.T) {
		t.Parallel()
		pool := pgtest.DB(t)
		enqueue(t, pool, job.New{ID: "a"})
		enqueue(t, pool, job.New{ID: "b"})
		stopping := make(chan struct{})
		r := newRunner(pool, "a", bulk(func(ctx context.Context, _ *job.Task) error {
			close(stopping)
			return ctx.Err()
		}))
		r.Concurrency = 1
		if n, err := r.Pass(t.Context(), stopping); n != 1 || err != nil {
			t.Errorf("the pass did %d (%v)", n, err)
		}
		if a, b := get(t, pool, "a"), get(t, pool, "b"); a.State != job.Done.Name || b.State != job.Pending.Name {
			t.Errorf("they are %s and %s", a.State, b.State)
		}
		if n, err := r.Pass(t.Context(), stopping); n != 0 || err != nil {
			t.Errorf("another pass did %d (%v)", n, err)
		}
	})

	t.Run("gives back what does not end in time, and does not count the attempt", func(t *testing.T) {
		t.Parallel()
		pool := pgtest.DB(t)
		for _, id := range []string{"slow", "quick", "refused"} {
			enqueue(t, pool, job.New{ID: id, Attempts: 1})
		}
		ctx, cut := context.WithCancel(t.Context())
		var begun sync.WaitGroup
		begun.Add(3)
		r := newRunner(pool, "a", bulk(func(ctx context.Context, task *job.Task) error {
			begun.Done()
			<-ctx.Done()
			switch task.ID {
			case "quick":
				return nil
			case "refused":
				return fault.New(fault.Invalid, "no")
			}
			return ctx.Err()
		}))
		go func() { begun.Wait(); cut() }()
		if n, err := r.Pass(ctx, nil); n != 3 || err != nil {
			t.Errorf("the pass did %d (%v)", n, err)
		}
		j := get(t, pool, "slow")
		if j.State != job.Pending.Name || j.Attempts != 0 || j.RunAt.Before(*j.StartedAt) {
			t.Errorf("the job is %+v", j)
		}
		if j := get(t, pool, "quick"); j.State != job.Done.Name {
			t.Errorf("one that was done is %s", j.State)
		}
		if j := get(t, pool, "refused"); j.State != job.GivenUp.Name {
			t.Errorf("one that was refused is %s", j.State)
		}
		if got := outcomes(t, r); got["later"] != "1" || got["done"] != "1" || got["dead"] != "1" {
			t.Errorf("counted are %v", got)
		}
		pass(t, newRunner(pool, "b", bulk(func(context.Context, *job.Task) error { return nil })))
		if j := get(t, pool, "slow"); j.State != job.Done.Name || j.Worker != "b" {
			t.Errorf("then it is %+v", j)
		}
	})
}

// A busy pass finds what was queued meanwhile while its other jobs go on.
func TestBusyPassLooksAgain(t *testing.T) {
	t.Parallel()
	for name, tell := range map[string]func(r *job.Runner){
		"when this process has queued jobs":       func(r *job.Runner) { r.Wake() },
		"now and then, for what others queued":    func(*job.Runner) {},
		"once, though it is told many times over": func(r *job.Runner) { r.Wake(); r.Wake(); r.Wake() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := pgtest.DB(t)
			enqueue(t, pool, job.New{ID: "long"})
			second := make(chan struct{})
			var r *job.Runner
			r = newRunner(pool, "a", bulk(func(_ context.Context, task *job.Task) error {
				if task.ID == "second" {
					close(second)
					return nil
				}
				enqueue(t, pool, job.New{ID: "second"})
				tell(r)
				select {
				case <-second:
					return nil
				case <-time.After(10 * time.Second):
					return errors.New("the second did not begin")
				}
			}))
			if strings.HasPrefix(name, "now") {
				r.Every = 50 * time.Millisecond
			}
			pass(t, r)
			if j := get(t, pool, "long"); j.State != job.Done.Name {
				t.Errorf("the job is %+v", j)
			}
		})
	}

	t.Run("and what wakes it without one starts the next", func(t *testing.T) {
		t.Parallel()
		r := newRunner(pgtest.DB(t), "a", bulk(nil))
		r.Wake()
		r.Wake()
		select {
		case <-r.Woken():
		default:
			t.Error("nothing came")
		}
		select {
		case <-r.Woken():
			t.Error("it came twice")
		default:
		}
	})
}

const shortLease = time.Second

func TestLeasesAreKept(t *testing.T) {
	t.Parallel()
	wait := func() { <-time.After(2 * shortLease) }

	t.Run("while jobs are under way", func(t *testing.T) {
		t.Parallel()
		pool := pgtest.DB(t)
		for range 4 {
			enqueue(t, pool, job.New{})
		}
		r := newRunner(pool, "a", bulk(func(ctx context.Context, _ *job.Task) error {
			wait()
			return ctx.Err()
		}))
		r.Lease = shortLease
		pass(t, r)
		if got := outcomes(t, r); len(got) != 1 || got["done"] != "4" {
			t.Errorf("counted are %v", got)
		}
	})

	t.Run("of the others while somebody has locked the row of one", func(t *testing.T) {
		t.Parallel()
		pool := pgtest.DB(t)
		enqueue(t, pool, job.New{ID: "locked"})
		enqueue(t, pool, job.New{ID: "other"})
		waited := make(chan struct{})
		r := newRunner(pool, "a", bulk(func(ctx context.Context, task *job.Task) error {
			if task.ID == "other" {
				defer close(waited)
				wait()
				return ctx.Err()
			}
			return pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
				exec(t, tx, `select from jobs where id = 'locked' for update`)
				<-waited
				return nil
			})
		}))
		r.Lease = shortLease
		pass(t, r)
		if j := get(t, pool, "other"); j.State != job.Done.Name {
			t.Errorf("the other job is %+v", j)
		}
		if j := get(t, pool, "locked"); j.State != job.Running.Name {
			t.Errorf("the locked job is %+v, want it lost", j)
		}
	})

	t.Run("through a transaction that takes longer, before and after", func(t *testing.T) {
		t.Parallel()
		pool := pgtest.DB(t)
		effects(t, pool)
		id := enqueue(t, pool, job.New{})
		other := newRunner(pool, "b", bulk(nil))
		slowly := func(ctx context.Context, task *job.Task) func(pgx.Tx) error {
			return func(tx pgx.Tx) error {
				wait()
				if n, err := other.Reclaim(t.Context()); n != 0 || err != nil {
					t.Errorf("%d were taken meanwhile (%v)", n, err)
				}
				return effect(ctx, task)(tx)
			}
		}
		r := newRunner(pool, "a", bulk(func(ctx context.Context, task *job.Task) error {
			if err := task.Save(ctx, nil, slowly(ctx, task)); err != nil {
				return err
			}
			wait()
			return task.Complete(ctx, slowly(ctx, task))
		}))
		r.Lease = shortLease
		pass(t, r)
		if j := get(t, pool, id); j.State != job.Done.Name || one[int](t, pool, `select count(*) from effects`) != 2 {
			t.Errorf("the job is %+v", j)
		}
	})

	t.Run("no longer than the database can be reached", func(t *testing.T) {
		t.Parallel()
		pool := pgtest.DB(t)
		enqueue(t, pool, job.New{})
		var cause error
		r := newRunner(pool, "a", bulk(func(ctx context.Context, _ *job.Task) error {
			var all []*pgxpool.Conn
			for range pool.Config().MaxConns {
				c, err := pool.Acquire(t.Context())
				if err != nil {
					return err
				}
				all = append(all, c)
			}
			defer func() {
				for _, c := range all {
					c.Release()
				}
			}()
			select {
			case <-ctx.Done():
				cause = context.Cause(ctx)
			case <-time.After(10 * time.Second):
			}
			return ctx.Err()
		}))
		r.Lease = shortLease
		pass(t, r)
		if !errors.Is(cause, job.ErrLost) || outcomes(t, r)["lost"] != "1" {
			t.Errorf("its context ended by %v, and counted are %v", cause, outcomes(t, r))
		}
	})
}

func TestProgressIsThereForTheNextAttempt(t *testing.T) {
	t.Parallel()
	pool := pgtest.DB(t)
	effects(t, pool)
	id := enqueue(t, pool, job.New{})
	type order struct{ Order string }
	var seen []string
	r := newRunner(pool, "a", bulk(func(ctx context.Context, task *job.Task) error {
		seen = append(seen, string(task.Progress))
		if len(seen) == 3 {
			return nil
		}
		if err := task.Save(ctx, order{fmt.Sprint(len(seen))}, effect(ctx, task)); err != nil {
			return err
		}
		var o order
		if err := json.Unmarshal(task.Progress, &o); err != nil || o.Order != fmt.Sprint(len(seen)) {
			t.Errorf("the task says %s", task.Progress)
		}
		if err := task.Save(ctx, order{"never"}, func(pgx.Tx) error { return errors.New("boom") }); err == nil {
			t.Error("what failed was saved")
		}
		if err := task.Save(ctx, nil, nil); err != nil {
			t.Error(err)
		}
		if len(seen) == 1 {
			return errors.New("boom")
		}
		return job.Later{}
	}))
	for range 3 {
		pass(t, r)
		exec(t, pool, `update jobs set run_at = now() where state in ('pending', 'failed')`)
		if _, err := job.Retry(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"{}", `{"Order": "1"}`, `{"Order": "2"}`}; !slices.Equal(seen, want) {
		t.Errorf("the attempts found %v", seen)
	}
	if j := get(t, pool, id); j.State != job.Done.Name || j.Attempts != 2 || one[int](t, pool, `select count(*) from effects`) != 2 {
		t.Errorf("the job is %+v", j)
	}
}

func TestWorkerGetsWhatWasQueued(t *testing.T) {
	t.Parallel()
	pool := pgtest.DB(t)
	certificates(t, pool, 1)
	enqueue(t, pool, job.New{ID: "good"})
	if _, err := job.Issue.Enqueue(as(t), pool, job.New{CertificateID: "crt-1"}, job.CertArgs{}); err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `
		insert into jobs (id, kind, args, priority, max_attempts, retry_every, timeout, created_by)
		values ('bad', 'bulk', '[]', 1, 2, '1s', '1s', 'key-1')`)
	var operations, certificateIDs []string
	r := newRunner(pool, "a",
		job.Bulk.Worker(func(_ context.Context, task *job.Task, args job.BulkArgs) error {
			operations = append(operations, task.ID+" "+args.Operation)
			return nil
		}, nil),
		job.Issue.Worker(func(_ context.Context, task *job.Task, _ job.CertArgs) error {
			certificateIDs = append(certificateIDs, task.CertificateID)
			return nil
		}, nil))
	pass(t, r)
	if !slices.Equal(operations, []string{"good blk-1"}) || !slices.Equal(certificateIDs, []string{"crt-1"}) {
		t.Errorf("they got %v and %v", operations, certificateIDs)
	}
	if j := get(t, pool, "bad"); j.State != job.Failed.Name {
		t.Errorf("one whose arguments are none is %s", j.State)
	}
}

// A commit whose answer got lost has ended the job all the same.
func TestUnansweredCommitCounts(t *testing.T) {
	t.Parallel()
	pool := pgtest.DB(t)
	id := enqueue(t, pool, job.New{})
	r := newRunner(pool, "a", bulk(func(context.Context, *job.Task) error {
		exec(t, pool, `update jobs set state = 'done', finished_at = now(), leased_until = null`)
		return errors.New("connection reset")
	}))
	pass(t, r)
	if j := get(t, pool, id); j.State != job.Done.Name || outcomes(t, r)["done"] != "1" {
		t.Errorf("the job is %+v, counted are %v", j, outcomes(t, r))
	}
}

// Claims, effects and completions, on one replica.
func BenchmarkPass(b *testing.B) {
	pool := pgtest.DB(b)
	effects(b, pool)
	r := newRunner(pool, "a", bulk(func(ctx context.Context, task *job.Task) error { return task.Complete(ctx, effect(ctx, task)) }))
	r.Concurrency = 8
	exec(b, pool, `
		insert into jobs (id, kind, args, priority, max_attempts, retry_every, timeout, created_by)
		select gen_random_uuid(), 'bulk', '{}', 1 + n % 3, 3, '1s', '1m', 'key-1' from generate_series(1, $1::int) n`, b.N)
	exec(b, pool, `analyze jobs`)
	b.ResetTimer()
	pass(b, r)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
	if n := one[int](b, pool, `select count(*) from effects`); n != b.N {
		b.Errorf("%d effects of %d jobs", n, b.N)
	}
}
