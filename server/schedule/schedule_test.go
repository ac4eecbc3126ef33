package schedule_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"certctl/server/config"
	"certctl/server/metric"
	"certctl/server/pg/pgtest"
	"certctl/server/schedule"
)

const ttl = 400 * time.Millisecond

// replica runs bindings as one replica until the returned stop.
func replica(t *testing.T, pool *pgxpool.Pool, name string, bindings ...schedule.Binding) (stop func()) {
	t.Helper()
	return leasing(t, pool, name, ttl, bindings...)
}

// leasing is replica with another lease.
func leasing(t *testing.T, pool *pgxpool.Pool, name string, ttl time.Duration, bindings ...schedule.Binding) (stop func()) {
	t.Helper()
	r := &schedule.Runner{
		DB: pool, Replica: name, Metrics: metric.New(), Log: zap.NewNop(), Bindings: bindings,
		Settings: config.Values{config.LeaseTTL.Name: ttl, period.Name: 50 * time.Millisecond, config.RetentionEvery.Name: time.Hour},
	}
	ctx, cancel := context.WithCancel(t.Context())
	hard, cut := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx, hard) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("the runner did not drain")
			cut()
			<-done
		}
		cut()
	})
	t.Cleanup(stop)
	return stop
}

// period is a key that the tests set; which one it is does not matter.
var period = config.AuditSequenceEvery

// leased returns a loop that runs on one replica, with its lease.
func leased(t *testing.T, pool *pgxpool.Pool, every *config.Key[time.Duration]) *schedule.Loop {
	t.Helper()
	if _, err := pool.Exec(t.Context(), `insert into leases (name) values ($1)`, t.Name()); err != nil {
		t.Fatal(err)
	}
	return &schedule.Loop{Name: t.Name(), Every: every, Timeout: time.Minute, HA: schedule.OneReplica}
}

func runs(t *testing.T, pool *pgxpool.Pool) []schedule.Run {
	t.Helper()
	rows, _ := pool.Query(t.Context(), `
		select id, loop, replica, token, started_at, finished_at, acted, error from loop_runs where loop = $1 order by id`, t.Name())
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[schedule.Run])
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestOneReplicaLoopRunsOnOneReplicaAtATime(t *testing.T) {
	t.Parallel()
	pool := pgtest.DB(t)
	loop := leased(t, pool, period)
	var inside, most, passes atomic.Int64
	run := loop.Do(func(context.Context, *schedule.Pass) (int, error) {
		if n := inside.Add(1); n > most.Load() {
			most.Store(n)
		}
		<-time.After(20 * time.Millisecond)
		inside.Add(-1)
		passes.Add(1)
		return 1, nil
	})
	var stops []func()
	for _, name := range []string{"a", "b", "c"} {
		stops = append(stops, replica(t, pgtest.Pool(t, pool.Config().ConnString()), name, run))
	}
	pgtest.Eventually(t, "passes", func() bool { return passes.Load() >= 15 })
	for _, stop := range stops {
		stop()
	}
	if most.Load() != 1 {
		t.Errorf("%d passes at once", most.Load())
	}
	all := runs(t, pool)
	for i, r := range all {
		if r.FinishedAt == nil || r.Acted != 1 || r.Error != "" || *r.Token != int64(i+1) {
			t.Errorf("pass %d is %+v, want it finished, with the next token", i, r)
		}
		if i > 0 && r.StartedAt.Before(*all[i-1].FinishedAt) {
			t.Errorf("pass %d began before the one before it ended", i)
		}
	}
}

func TestPeriodIsThatOfTheCluster(t *testing.T) {
	t.Parallel()
	pool := pgtest.DB(t)
	loop := leased(t, pool, config.RetentionEvery)
	var passes atomic.Int64
	run := loop.Do(func(context.Context, *schedule.Pass) (int, error) { passes.Add(1); return 0, nil })
	for _, name := range []string{"a", "b", "c"} {
		replica(t, pgtest.Pool(t, pool.Config().ConnString()), name, run)
	}
	pgtest.Eventually(t, "a pass", func() bool { all := runs(t, pool); return len(all) == 1 && all[0].FinishedAt != nil })
	// Whoever holds it next needs it to be due, which takes an hour, or this.
	if _, err := pool.Exec(t.Context(), `update leases set due_at = now() where name = $1`, t.Name()); err != nil {
		t.Fatal(err)
	}
	replica(t, pool, "d", run) // the others look again after their sleep
	pgtest.Eventually(t, "the second pass", func() bool { all := runs(t, pool); return len(all) == 2 && all[1].FinishedAt != nil })
	if passes.Load() != 2 {
		t.Errorf("%d passes ran, want 2", passes.Load())
	}
	var due time.Duration
	err := pool.QueryRow(t.Context(), `select due_at - now() from leases where name = $1`, t.Name()).Scan(&due)
	if err != nil || due < 50*time.Minute || due > 70*time.Minute {
		t.Errorf("due in %s (%v), want about the period", due, err)
	}
}

func TestLostLeaseStopsWritesAndThePass(t *testing.T) {
	t.Parallel()
	pool := pgtest.DB(t)
	loop := leased(t, pool, config.RetentionEvery)
	if _, err := pool.Exec(t.Context(), `create table effects (token bigint)`); err != nil {
		t.Fatal(err)
	}
	write := func(ctx context.Context, p *schedule.Pass) error {
		return p.InTx(ctx, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `insert into effects values ($1)`, p.Token)
			return err
		})
	}
	lost := make(chan error, 1)
	replica(t, pool, "a", loop.Do(func(ctx context.Context, p *schedule.Pass) (int, error) {
		if err := write(ctx, p); err != nil {
			return 0, err
		}
		// As if this process had been frozen past its lease.
		if _, err := pool.Exec(ctx, `update leases set token = token + 1, holder = 'b' where name = $1`, t.Name()); err != nil {
			return 0, err
		}
		lost <- write(ctx, p)
		<-ctx.Done()
		return 0, ctx.Err()
	}))
	if err := <-lost; !errors.Is(err, schedule.ErrLost) {
		t.Errorf("the write after the loss got %v, want ErrLost", err)
	}
	var tokens []int64
	rows, _ := pool.Query(t.Context(), `select token from effects`)
	tokens, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil || !slices.Equal(tokens, []int64{1}) {
		t.Errorf("writes of the tokens %v landed (%v), want only the first", tokens, err)
	}
}

func TestTakeoverClosesTheAbandonedPass(t *testing.T) {
	t.Parallel()
	pool := pgtest.DB(t)
	loop := leased(t, pool, period)
	// What a killed holder leaves: an open pass and a lease that runs out.
	if _, err := pool.Exec(t.Context(), `update leases set token = 7, holder = 'dead', expires_at = clock_timestamp() + interval '300ms' where name = $1`, t.Name()); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), `insert into loop_runs (loop, replica, token) values ($1, 'dead', 7)`, t.Name()); err != nil {
		t.Fatal(err)
	}
	passed := make(chan int64, 100)
	replica(t, pool, "b", loop.Do(func(_ context.Context, p *schedule.Pass) (int, error) { passed <- p.Token; return 0, nil }))
	if token := <-passed; token != 8 {
		t.Errorf("the next pass has token %d, want 8", token)
	}
	dead := runs(t, pool)[0]
	if dead.FinishedAt == nil || dead.Error == "" {
		t.Errorf("the abandoned pass is %+v, want it closed with an error", dead)
	}
}

func TestTakeoverAfterSomebodyMovedTheToken(t *testing.T) {
	t.Parallel()
	pool := pgtest.DB(t)
	loop := leased(t, pool, period)
	// The pass of token 7 never ended, and the lease was taken from it by hand.
	if _, err := pool.Exec(t.Context(), `update leases set token = 9, holder = 'nobody' where name = $1`, t.Name()); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), `insert into loop_runs (loop, replica, token) values ($1, 'dead', 7)`, t.Name()); err != nil {
		t.Fatal(err)
	}
	passed := make(chan int64, 100)
	replica(t, pool, "b", loop.Do(func(_ context.Context, p *schedule.Pass) (int, error) { passed <- p.Token; return 0, nil }))
	select {
	case token := <-passed:
		if token != 10 {
			t.Errorf("the next pass has token %d, want 10", token)
		}
	case <-time.After(5 * time.Second):
		t.Error("no replica took the loop")
	}
}

func TestFrozenTransactionDoesNotKeepTheLease(t *testing.T) {
	t.Parallel()
	pool := pgtest.DB(t)
	loop := leased(t, pool, period)
	frozen, thawed := make(chan struct{}), make(chan struct{})
	thaw := sync.OnceFunc(func() { close(thawed) })
	defer thaw()
	result := make(chan error, 1)
	var once sync.Once
	run := loop.Do(func(ctx context.Context, p *schedule.Pass) (int, error) {
		once.Do(func() {
			result <- p.InTx(context.WithoutCancel(ctx), func(tx pgx.Tx) error {
				close(frozen)
				<-thawed
				_, err := tx.Exec(context.WithoutCancel(ctx), `select 1`)
				return err
			})
		})
		return 0, nil
	})
	stop := replica(t, pgtest.Pool(t, pool.Config().ConnString()), "a", run)
	<-frozen
	pgtest.Eventually(t, "the database ends the idle transaction", func() bool {
		var n int
		err := pool.QueryRow(t.Context(), `
			select count(*) from pg_stat_activity
			where datname = current_database() and state = 'idle in transaction'`).Scan(&n)
		return err == nil && n == 0
	})
	thaw()
	if err := <-result; err == nil {
		t.Error("the transaction of the frozen pass committed")
	}
	stop()
}

func TestFailureIsInTheLedger(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		run  func(context.Context, *schedule.Pass) (int, error)
		want string
	}{
		{"an error", func(context.Context, *schedule.Pass) (int, error) { return 3, errors.New("boom") }, "boom"},
		{"a panic", func(context.Context, *schedule.Pass) (int, error) { panic("boom") }, "panic: boom"},
	}
	for _, tt := range tests {
		for _, ha := range []schedule.HA{schedule.OneReplica, schedule.Atomic} {
			t.Run(tt.name+" of a loop that is "+string(ha), func(t *testing.T) {
				t.Parallel()
				pool := pgtest.DB(t)
				loop := leased(t, pool, config.RetentionEvery)
				loop.HA = ha
				replica(t, pool, "a", loop.Do(tt.run))
				pgtest.Eventually(t, "the pass ends", func() bool {
					all := runs(t, pool)
					return len(all) == 1 && all[0].FinishedAt != nil && all[0].Error == tt.want
				})
			})
		}
	}
}

func TestShutdownLetsAPassFinish(t *testing.T) {
	t.Parallel()
	pool := pgtest.DB(t)
	loop := leased(t, pool, config.RetentionEvery)
	begun, finish := make(chan struct{}), make(chan struct{})
	stop := replica(t, pool, "a", loop.Do(func(ctx context.Context, _ *schedule.Pass) (int, error) {
		close(begun)
		<-finish
		return 1, ctx.Err()
	}))
	<-begun
	time.AfterFunc(2*ttl, func() { close(finish) })
	stop()
	if all := runs(t, pool); len(all) != 1 || all[0].Error != "" || all[0].Acted != 1 {
		t.Errorf("the pass ended as %+v, want it whole", all)
	}
}

func TestPassIsToldThatTheRunnerStops(t *testing.T) {
	t.Parallel()
	for _, ha := range []schedule.HA{schedule.OneReplica, schedule.Claimed} {
		t.Run("of a loop that is "+string(ha), func(t *testing.T) {
			t.Parallel()
			pool := pgtest.DB(t)
			loop := leased(t, pool, config.RetentionEvery)
			loop.HA = ha
			begun := make(chan struct{})
			stop := replica(t, pool, "a", loop.Do(func(ctx context.Context, p *schedule.Pass) (int, error) {
				select {
				case <-p.Stopping():
					t.Error("it is told before")
				default:
				}
				close(begun)
				<-p.Stopping()
				return 1, ctx.Err()
			}))
			<-begun
			stop()
			if all := runs(t, pool); len(all) != 1 || all[0].Error != "" || all[0].Acted != 1 {
				t.Errorf("the pass ended as %+v, want it to end by itself", all)
			}
		})
	}
}

func TestLoopIsWoken(t *testing.T) {
	t.Parallel()
	begin := func(t *testing.T, ha schedule.HA) (wake chan struct{}, passes *atomic.Int64) {
		t.Helper()
		pool := pgtest.DB(t)
		loop := leased(t, pool, config.RetentionEvery) // an hour
		loop.HA = ha
		wake, passes = make(chan struct{}, 1), &atomic.Int64{}
		replica(t, pool, "a", loop.Do(func(context.Context, *schedule.Pass) (int, error) {
			passes.Add(1)
			return 0, nil
		}).WokenBy(wake))
		pgtest.Eventually(t, "the first pass", func() bool { return passes.Load() == 1 })
		wake <- struct{}{}
		return wake, passes
	}

	t.Run("before its time if it runs on every replica", func(t *testing.T) {
		t.Parallel()
		wake, passes := begin(t, schedule.Claimed)
		pgtest.Eventually(t, "the second pass", func() bool { return passes.Load() == 2 })
		wake <- struct{}{}
		pgtest.Eventually(t, "the third pass", func() bool { return passes.Load() == 3 })
	})

	t.Run("by nothing but its lease if it runs on one", func(t *testing.T) {
		t.Parallel()
		wake, _ := begin(t, schedule.OneReplica)
		select {
		case wake <- struct{}{}:
			t.Error("the runner took it")
		case <-time.After(ttl):
		}
	})
}

func TestRetentionDeletesOldRunsInBatches(t *testing.T) {
	t.Parallel()
	pool := pgtest.DB(t)
	_, err := pool.Exec(t.Context(), `
		insert into loop_runs (loop, replica, started_at, finished_at)
		select 'old', 'a', now() - interval '3 days', now() - interval '3 days' from generate_series(1, 12000);
		insert into loop_runs (loop, replica, started_at, finished_at) values ('new', 'a', now(), now());
		insert into loop_runs (loop, replica, token, started_at) values ('held', 'a', 1, now() - interval '3 days')`)
	if err != nil {
		t.Fatal(err)
	}
	loop := &schedule.Loop{Name: t.Name(), Every: config.RetentionEvery, Timeout: time.Minute, HA: schedule.Atomic}
	replica(t, pool, "a", loop.Do(schedule.Prune([]schedule.Retained{
		{Table: "loop_runs", Keep: config.LoopRunsKeep, Delete: schedule.DeleteRuns},
	}, config.Values{})))
	pgtest.Eventually(t, "the pass ends", func() bool {
		all := runs(t, pool)
		return len(all) == 1 && all[0].FinishedAt != nil && all[0].Acted == 12000
	})
	rows, _ := pool.Query(t.Context(), `select loop from loop_runs where loop <> $1 order by loop`, t.Name())
	left, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || !slices.Equal(left, []string{"held", "new"}) {
		t.Errorf("left are %v (%v), want the pass that holds a lease and the new one", left, err)
	}
}

// A holder that stops gives its loop back; nobody waits for the end of a lease
// that was looked at while it held it.
func TestALoopThatIsGivenBackIsSoonAnothers(t *testing.T) {
	t.Parallel()
	pool := pgtest.DB(t)
	loop := leased(t, pool, period)
	const long = 4 * time.Second
	inside, others := make(chan struct{}), make(chan struct{})
	first := leasing(t, pool, "first", long, loop.Do(func(_ context.Context, p *schedule.Pass) (int, error) {
		close(inside)
		<-p.Stopping()
		return 0, nil
	}))
	<-inside
	itsOwn, err := pgxpool.New(t.Context(), pool.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(itsOwn.Close)
	took := sync.OnceFunc(func() { close(others) })
	leasing(t, itsOwn, "second", long, loop.Do(func(context.Context, *schedule.Pass) (int, error) {
		took()
		return 0, nil
	}))
	pgtest.Eventually(t, "the second has looked", func() bool {
		s := itsOwn.Stat()
		return s.AcquireCount() > 0 && s.AcquiredConns() == 0
	})
	stopped := time.Now()
	first()
	<-others
	if waited := time.Since(stopped); waited > long/2 {
		t.Errorf("it was another's after %s", waited)
	}
}
