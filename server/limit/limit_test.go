package limit_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"certctl/server/config"
	"certctl/server/limit"
	"certctl/server/limit/limittest"
	"certctl/server/pg"
	"certctl/server/pg/pgtest"
)

var terms = map[string]limit.Terms{
	"token bucket":   {Name: "t", Cap: 50, Per: 20_000},
	"one token":      {Name: "t", Cap: 1, Per: 1_000_000},
	"sliding window": {Name: "t", Cap: 50, Per: 225_000_000, Sliding: true},
	"short window":   {Name: "t", Cap: 7, Per: 1_000, Sliding: true},
}

// replay has the database decide on requests at given times.
func replay(t *testing.T, q pg.Q, terms limit.Terms, asked, at []int64) [][]int64 {
	t.Helper()
	_, err := q.Exec(t.Context(), `
		create or replace function pg_temp.replay(asked bigint[], cap bigint, per bigint, sliding boolean, at bigint[]) returns setof bigint[]
		language plpgsql as $$
		declare state bigint[];
		begin
			for i in 1 .. array_length(asked, 1) loop
				if sliding then
					state := rate_limit_window(state, asked[i], cap, per, at[i]);
				else
					state := rate_limit_bucket(state, asked[i], cap, per, at[i]);
				end if;
				return next state;
			end loop;
		end $$`)
	if err != nil {
		t.Fatal(err)
	}
	rows, _ := q.Query(t.Context(), `select pg_temp.replay($1, $2, $3, $4, $5)`, asked, terms.Cap, terms.Per, terms.Sliding, at)
	states, err := pgx.CollectRows(rows, pgx.RowTo[[]int64])
	if err != nil {
		t.Fatal(err)
	}
	return states
}

// history makes up requests at times that often lie about the edges of what the
// terms tell apart, now and then earlier than the one before.
func history(terms limit.Terms, n int) (asked, at []int64) {
	rnd := rand.New(rand.NewPCG(1, uint64(terms.Cap)))
	now := int64(1_800_000_000_000_000)
	whole := terms.Window().Microseconds()
	for range n {
		switch rnd.IntN(20) {
		case 0:
			now += rnd.Int64N(2 * whole)
		case 1:
			now += terms.Per
		case 2:
			now += terms.Per - now%terms.Per - rnd.Int64N(2)
		case 3:
			now += whole - rnd.Int64N(3) + 1
		default:
			now += rnd.Int64N(max(1, whole/terms.Cap))
		}
		n := int64(1)
		if rnd.IntN(5) == 0 {
			n += rnd.Int64N(terms.Cap * 2)
		}
		asked, at = append(asked, n), append(at, now)
	}
	return asked, at
}

func TestDatabaseDecidesAsTheModel(t *testing.T) {
	t.Parallel()
	for name, terms := range terms {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked, at := history(terms, 100_000)
			m := &limittest.Model{Terms: terms}
			refused := 0
			states := replay(t, pgtest.Tx(t), terms, asked, at)
			for i, state := range states {
				d := limittest.Of(state)
				if d.Asked != asked[i] || d.At != at[i] {
					t.Fatalf("%+v is no decision on %d at %d", d, asked[i], at[i])
				}
				if err := m.Check(d); err != nil {
					t.Fatalf("decision %d: %v", i, err)
				}
				if d.Admitted < d.Asked {
					refused++
				}
			}
			if len(states) != len(asked) || refused < len(asked)/50 || refused > len(asked)*49/50 {
				t.Errorf("%d of %d were refused in part: the history says nothing", refused, len(states))
			}
		})
	}
}

func TestMemoryDecidesAsTheDatabase(t *testing.T) {
	t.Parallel()
	for name, terms := range terms {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked, at := history(terms, 20_000)
			var was []int64
			for i, want := range replay(t, pgtest.Tx(t), terms, asked, at) {
				was = limit.Step(terms, was, asked[i], at[i])
				if !slices.Equal(was, want) {
					t.Fatalf("decision %d: %v, and the database %v", i, was, want)
				}
			}
		})
	}
}

// Whoever waits as long as told is admitted, and not 10 ms before.
func TestWaitIsTrue(t *testing.T) {
	t.Parallel()
	for name, terms := range terms {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked, at := history(terms, 5_000)
			var was []int64
			tried := 0
			for i := range asked {
				was = limit.Step(terms, was, asked[i], at[i])
				d := limittest.Of(was)
				if d.Wait == 0 {
					continue
				}
				tried++
				if got := limittest.Of(limit.Step(terms, was, 1, d.At+d.Wait)); got.Admitted != 1 {
					t.Fatalf("after %d it is refused: %+v", d.Wait, got)
				}
				if got := limittest.Of(limit.Step(terms, was, 1, d.At+d.Wait-min(10_000, d.Wait))); got.Admitted != 0 {
					t.Fatalf("before %d it is admitted: %+v", d.Wait, got)
				}
			}
			if tried == 0 {
				t.Error("nothing was refused")
			}
		})
	}
}

// A clock that is set back closes nothing for longer than a bucket takes to be as
// good as new.
func TestClockThatIsSetBack(t *testing.T) {
	t.Parallel()
	for name, terms := range terms {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const day = int64(24 * 3600 * 1_000_000)
			now := 1_800_000_000_000_000 + 3*day
			was := limit.Step(terms, nil, terms.Cap, now)
			now -= 2 * day
			states := replay(t, pgtest.Tx(t), terms, []int64{terms.Cap, 1, 1}, []int64{now + 2*day, now, now + 2*terms.Window().Microseconds()})
			for i, at := range []int64{now, now + 2*terms.Window().Microseconds()} {
				was = limit.Step(terms, was, 1, at)
				if !slices.Equal(was, states[i+1]) {
					t.Errorf("in memory %v, and in the database %v", was, states[i+1])
				}
				if want := int64(i); was[0] != want || was[3] > 17*terms.Window().Microseconds()/16 {
					t.Errorf("at %d it admits %d and says to wait for %d", i, was[0], was[3])
				}
			}
		})
	}
}

// Replicas that have other settings for a while do not make each other forget.
func TestTermsThatAlternateAdmitNoMore(t *testing.T) {
	t.Parallel()
	tx := pgtest.Tx(t)
	slow, fast := limit.Terms{Name: "a", Cap: 100, Per: 3_600_000_000}, limit.Terms{Name: "a", Cap: 100, Per: 1_800_000_000}
	admitted := int64(0)
	for i := range 400 {
		state, err := limit.Take(t.Context(), tx, []limit.Terms{slow, fast}[i%2], "k", 1)
		if err != nil {
			t.Fatal(err)
		}
		admitted += state[0]
	}
	if admitted != 100 {
		t.Errorf("%d were admitted", admitted)
	}
}

// A bucket that was used under other terms is neither used up for the time that
// those took, nor as good as new.
func TestTermsThatChangeLeaveWhatWasAdmitted(t *testing.T) {
	t.Parallel()
	tx := pgtest.Tx(t)
	for name, change := range map[string][2]limit.Terms{
		"a faster bucket":  {{Name: "a", Cap: 5, Per: 1_000_000_000}, {Name: "a", Cap: 10, Per: 1_000_000}},
		"a slower bucket":  {{Name: "b", Cap: 5, Per: 1_000_000}, {Name: "b", Cap: 10, Per: 1_000_000_000}},
		"a longer window":  {{Name: "c", Cap: 5, Per: 1_000_000, Sliding: true}, {Name: "c", Cap: 10, Per: 3_600_000_000, Sliding: true}},
		"a shorter window": {{Name: "d", Cap: 5, Per: 3_600_000_000, Sliding: true}, {Name: "d", Cap: 10, Per: 10_000_000, Sliding: true}},
	} {
		t.Run(name, func(t *testing.T) {
			before, err := limit.Take(t.Context(), tx, change[0], "k", 100)
			if err != nil || before[0] != 5 {
				t.Fatalf("%v (%v)", before, err)
			}
			after, err := limit.Take(t.Context(), tx, change[1], "k", 100)
			if err != nil || after[0] < 5 || after[0] > 6 {
				t.Errorf("%v (%v)", after, err)
			}
			if own := limit.Step(change[1], before, 100, after[5]); !slices.Equal(own, after) {
				t.Errorf("in memory %v, and in the database %v", own, after)
			}
		})
	}
}

// replicas are limiters with a pool each.
func replicas(t testing.TB, url string, n int, settings config.Values) []*limit.Limiter {
	t.Helper()
	var all []*limit.Limiter
	for range n {
		all = append(all, &limit.Limiter{DB: pgtest.Pool(t, url), Settings: settings})
	}
	return all
}

// slow are settings under which no bucket admits more than its cap during a test.
func slow(scope string) config.Values {
	v := config.Values{config.RateLimitScope.Name: scope}
	for _, l := range limit.All() {
		v[l.Cap.Name] = 50
		if l.Rate != nil {
			v[l.Rate.Name] = 0.01
		}
	}
	return v
}

func TestReplicasAdmitTheCapTogether(t *testing.T) {
	t.Parallel()
	for _, scope := range limit.Scopes() {
		t.Run(scope.Name, func(t *testing.T) {
			t.Parallel()
			three := replicas(t, pgtest.URL(t), 3, slow(scope.Name))
			want := int64(50)
			if scope == limit.Memory {
				want = 150
			}
			for _, l := range limit.All() {
				var admitted atomic.Int64
				var wg sync.WaitGroup
				for i := range 500 {
					wg.Go(func() {
						d, err := three[i%3].Take(t.Context(), l, "one")
						if err != nil {
							t.Error(err)
						}
						if d.Admitted {
							admitted.Add(1)
						} else if d.Wait <= 0 {
							t.Errorf("%+v", d)
						}
					})
				}
				wg.Wait()
				if admitted.Load() != want {
					t.Errorf("%s: %d were admitted, want %d", l.Name, admitted.Load(), want)
				}
				if d, err := three[0].Take(t.Context(), l, "another"); err != nil || !d.Admitted || d.Remaining != 49 {
					t.Errorf("%s: another key is told %+v (%v)", l.Name, d, err)
				}
			}
		})
	}
}

// Statements of several replicas on one bucket, recorded as they are committed,
// decide as the model would have.
func TestHistoryOfReplicasIsThatOfTheModel(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	pool := pgtest.Pool(t, url)
	exec(t, pool, `create table history (n bigint generated always as identity, state bigint[] not null)`)
	exec(t, pool, `create function record() returns trigger language plpgsql as $$ begin
		insert into history (state) values (new.state); return null; end $$`)
	exec(t, pool, `create trigger record after insert or update on rate_limits for each row execute function record()`)
	three := replicas(t, url, 3, nil)
	for name, terms := range map[string]limit.Terms{
		"token bucket":   {Name: "bucket", Cap: 50, Per: 500},
		"sliding window": {Name: "window", Cap: 50, Per: 2_000, Sliding: true},
	} {
		t.Run(name, func(t *testing.T) {
			exec(t, pool, `truncate history`)
			var wg sync.WaitGroup
			for i := range 12 {
				wg.Go(func() {
					for range 500 {
						if _, err := limit.Take(t.Context(), three[i%3].DB, terms, "hot", int64(1+i%4)); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			rows, _ := pool.Query(t.Context(), `select state from history order by n`)
			states, err := pgx.CollectRows(rows, pgx.RowTo[[]int64])
			if err != nil || len(states) != 6000 {
				t.Fatalf("%d decisions (%v)", len(states), err)
			}
			m := &limittest.Model{Terms: terms}
			admitted := int64(0)
			for i, state := range states {
				if err := m.Check(limittest.Of(state)); err != nil {
					t.Fatalf("decision %d: %v", i, err)
				}
				admitted += state[0]
			}
			if last := limittest.Of(states[len(states)-1]).At - states[0][5]; admitted < 60 || last < 3*terms.Window().Microseconds() {
				t.Errorf("%d admitted in %d µs: the history says nothing", admitted, last)
			}
		})
	}
}

func exec(t testing.TB, q pg.Q, sql string) {
	t.Helper()
	if _, err := q.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func TestCollectLeavesWhatIsInUse(t *testing.T) {
	t.Parallel()
	tx := pgtest.Tx(t)
	for _, terms := range []limit.Terms{{Name: "a", Cap: 2, Per: 3_600_000_000}, {Name: "b", Cap: 2, Per: 225_000_000, Sliding: true}} {
		for _, key := range []string{"old", "new"} {
			if _, err := limit.Take(t.Context(), tx, terms, key, 1); err != nil {
				t.Fatal(err)
			}
		}
	}
	exec(t, tx, `update rate_limits set state[5] = state[5] - 100000000000 where key = 'old'`)
	n, err := limit.Collect(t.Context(), tx)
	var left int
	if err := tx.QueryRow(t.Context(), `select count(*) from rate_limits where key = 'new'`).Scan(&left); err != nil {
		t.Fatal(err)
	}
	if err != nil || n != 2 || left != 2 {
		t.Errorf("%d deleted, %d left (%v)", n, left, err)
	}
}

func TestFullMemoryForgetsNoKeyThatIsUsedUp(t *testing.T) {
	t.Parallel()
	l := limit.Small(slow(limit.Memory.Name), 10)
	for range 60 {
		if _, err := l.Take(t.Context(), limit.HTTPActor, "used up"); err != nil {
			t.Fatal(err)
		}
	}
	admitted := 0
	for i := range 1000 {
		if d, _ := l.Take(t.Context(), limit.HTTPActor, fmt.Sprint("another ", i)); d.Admitted {
			admitted++
		}
	}
	if d, _ := l.Take(t.Context(), limit.HTTPActor, "used up"); d.Admitted {
		t.Error("a key that was used up is admitted again")
	}
	// Nine keys had buckets of their own, and the others share one.
	if admitted < 50 || admitted > 65 {
		t.Errorf("%d of 1000 new keys were admitted", admitted)
	}
}

// A flood of what was refused costs the database nothing.
func TestRefusalIsRememberedForAMoment(t *testing.T) {
	t.Parallel()
	l := replicas(t, pgtest.URL(t), 1, slow(limit.Cluster.Name))[0]
	for range 51 {
		if _, err := l.Take(t.Context(), limit.BootstrapAttempts, "k"); err != nil {
			t.Fatal(err)
		}
	}
	l.DB.Close()
	d, err := l.Take(t.Context(), limit.BootstrapAttempts, "k")
	if err != nil || d.Admitted || d.Wait <= 0 || d.Wait > 17*limit.BootstrapAttempts.Window/16 {
		t.Errorf("%+v (%v)", d, err)
	}
	if _, err := l.Take(t.Context(), limit.BootstrapAttempts, "another"); err == nil {
		t.Error("another key is answered without the database")
	}
}

func TestPanicOfADecisionIsAnErrorForThoseWhoWait(t *testing.T) {
	t.Parallel()
	var m limit.Merger[string, int]
	first, release, calls := make(chan struct{}), make(chan struct{}), 0
	var wg sync.WaitGroup
	do := func(context.Context, int64) (int, error) {
		if calls++; calls > 1 {
			panic("broken")
		}
		close(first)
		<-release
		return 0, context.Cause(t.Context())
	}
	wg.Go(func() { _, _, _ = m.Do(t.Context(), "k", do) })
	<-first
	errs := make(chan error, 1)
	go func() {
		_, _, err := m.Do(t.Context(), "k", do)
		errs <- err
	}()
	pgtest.Eventually(t, "one to wait", func() bool { return limit.Waiting(&m, "k") == 1 })
	close(release)
	wg.Wait()
	if err := <-errs; err == nil {
		t.Error("it is no error")
	}
}

func TestMergedDecisionsAreOneStatement(t *testing.T) {
	t.Parallel()
	var m limit.Merger[string, int64]
	var statements, asked atomic.Int64
	first, release := make(chan struct{}), make(chan struct{})
	places := map[int64]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	do := func(_ context.Context, n int64) (int64, error) {
		if statements.Add(1) == 1 {
			close(first)
			<-release
		}
		asked.Add(n)
		return n, context.Cause(t.Context())
	}
	wg.Go(func() { _, _, _ = m.Do(t.Context(), "k", do) })
	<-first
	for range 100 {
		wg.Go(func() {
			_, place, err := m.Do(t.Context(), "k", do)
			mu.Lock()
			defer mu.Unlock()
			places[place]++
			if err != nil {
				t.Error(err)
			}
		})
	}
	gone, cancel := context.WithCancelCause(t.Context())
	wg.Go(func() {
		if _, _, err := m.Do(gone, "k", do); !errors.Is(err, errGone) {
			t.Errorf("who goes away is told %v", err)
		}
	})
	pgtest.Eventually(t, "all to wait", func() bool { return limit.Waiting(&m, "k") == 101 })
	cancel(errGone)
	close(release)
	wg.Wait()
	if statements.Load() != 2 || asked.Load() != 102 {
		t.Errorf("%d statements asked for %d", statements.Load(), asked.Load())
	}
	for place, n := range places {
		if n != 1 {
			t.Errorf("%d have the place %d", n, place)
		}
	}
	pgtest.Eventually(t, "the merger to be idle", func() bool { return limit.Waiting(&m, "k") < 0 })
}

var errGone = errors.New("gone")

func BenchmarkTake(b *testing.B) {
	pool := pgtest.Pool(b, pgtest.URL(b))
	for name, terms := range map[string]limit.Terms{
		"bucket": {Name: "bucket", Cap: 1_000_000, Per: 10}, "window": {Name: "window", Cap: 1_000_000, Per: 225_000_000, Sliding: true},
	} {
		b.Run(name+"/one key", func(b *testing.B) { take(b, pool, terms, func(int64) string { return "hot" }) })
		b.Run(name+"/100,000 keys", func(b *testing.B) {
			take(b, pool, terms, func(n int64) string { return fmt.Sprint(n * 7919 % 100_000) })
		})
	}
	for _, scope := range limit.Scopes() {
		b.Run("merged/"+scope.Name, func(b *testing.B) {
			v := config.Values{config.RateLimitScope.Name: scope.Name, config.HTTPActorBurst.Name: 1_000_000, config.HTTPActorRate.Name: 100_000.0}
			l := &limit.Limiter{DB: pool, Settings: v}
			b.SetParallelism(64)
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					if _, err := l.Take(b.Context(), limit.HTTPActor, "hot"); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "decisions/s")
		})
	}
}

func take(b *testing.B, pool *pgxpool.Pool, terms limit.Terms, key func(int64) string) {
	b.Helper()
	var n atomic.Int64
	b.SetParallelism(4)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := limit.Take(b.Context(), pool, terms, key(n.Add(1)), 1); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "decisions/s")
}
