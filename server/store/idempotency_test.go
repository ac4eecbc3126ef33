package store_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"certctl/server/fault"
	"certctl/server/pg/pgtest"
	"certctl/server/store"
)

type asked struct{ Name string }

type answered struct {
	Name string
	Made int
}

func TestOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.DB(t)
	made := 0
	once := func(actor, key, route, name string, refuse error) (answered, error) {
		return store.Once(t.Context(), db, actor, key, route, asked{name}, func(tx pgx.Tx) (answered, error) {
			made++
			if _, err := tx.Exec(t.Context(), `insert into teams (id, name) values ($1, $1)`, strconv.Itoa(made)); err != nil {
				return answered{}, err
			}
			return answered{name, made}, refuse
		})
	}
	is := func(t *testing.T, got answered, err error, want int) {
		t.Helper()
		if err != nil || got.Made != want || got.Name == "" {
			t.Errorf("the answer is %+v (%v), want that of call %d", got, err, want)
		}
	}
	first, err := once("a", "k", "create-team", "x", nil)
	is(t, first, err, 1)
	t.Run("the same request is answered as the first was", func(t *testing.T) {
		again, err := once("a", "k", "create-team", "x", nil)
		is(t, again, err, 1)
		if made != 1 {
			t.Errorf("it ran %d times", made)
		}
	})
	t.Run("another request under the key is refused", func(t *testing.T) {
		for _, other := range []asked{{"create-team y"}, {"create-owner x"}} {
			route, name, _ := strings.Cut(other.Name, " ")
			_, err := once("a", "k", route, name, nil)
			if fault.Of(err) != fault.Conflict || !strings.Contains(err.Error(), "header.Idempotency-Key") {
				t.Errorf("%s: %v", other.Name, err)
			}
		}
	})
	t.Run("another actor has keys of their own", func(t *testing.T) {
		for range 2 {
			got, err := once("b", "k", "create-team", "x", nil)
			is(t, got, err, 2)
		}
		got, err := once("a", "k", "create-team", "x", nil)
		is(t, got, err, 1)
	})
	t.Run("without a key each runs", func(t *testing.T) {
		for want := 3; want <= 4; want++ {
			got, err := once("a", "", "create-team", "x", nil)
			is(t, got, err, want)
		}
	})
	t.Run("what is refused is not kept", func(t *testing.T) {
		refusal := errors.New("refused")
		if _, err := once("a", "other", "create-team", "x", refusal); !errors.Is(err, refusal) {
			t.Error(err)
		}
		got, err := once("a", "other", "create-team", "x", nil)
		is(t, got, err, 6)
	})
	t.Run("the key holds no text of the request", func(t *testing.T) {
		var rows string
		if err := db.QueryRow(t.Context(), `select string_agg(encode(request, 'escape'), '') from idempotency_keys`).Scan(&rows); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(rows, "Name") || rows == "" {
			t.Errorf("the requests are kept as %q", rows)
		}
	})
}

// Three replicas are asked for the same at once.
func TestOnceRunsOnceAtOnce(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	var ran atomic.Int32
	var mu sync.Mutex
	answers := map[answered]int{}
	var wg sync.WaitGroup
	for range 3 {
		db := pgtest.Pool(t, url)
		for range 8 {
			wg.Go(func() {
				got, err := store.Once(t.Context(), db, "a", "k", "create-team", asked{"x"}, func(pgx.Tx) (answered, error) {
					return answered{"x", int(ran.Add(1))}, nil
				})
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				answers[got]++
				mu.Unlock()
			})
		}
	}
	wg.Wait()
	if ran.Load() != 1 || len(answers) != 1 || answers[answered{"x", 1}] != 24 {
		t.Errorf("it ran %d times, and the answers are %v", ran.Load(), answers)
	}
}

// The first is under way when the second comes, and is then given up: as when
// its process is killed.
func TestOnceAfterTheFirstWasGivenUp(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	first, second := pgtest.Pool(t, url), pgtest.Pool(t, url)
	gone := errors.New("gone")
	under, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := store.Once(t.Context(), first, "a", "k", "r", asked{"x"}, func(pgx.Tx) (answered, error) {
			close(under)
			<-release
			return answered{}, gone
		})
		if !errors.Is(err, gone) {
			t.Error(err)
		}
	})
	<-under
	wg.Go(func() {
		got, err := store.Once(t.Context(), second, "a", "k", "r", asked{"x"}, func(pgx.Tx) (answered, error) {
			return answered{"x", 2}, nil
		})
		if err != nil || got.Made != 2 {
			t.Errorf("the second is answered %+v (%v)", got, err)
		}
	})
	pgtest.Eventually(t, "the second waits for the first", func() bool { return waiting(t.Context(), first) == 1 })
	close(release)
	wg.Wait()
}

// waiting counts the sessions that wait for a lock.
func waiting(ctx context.Context, db *pgxpool.Pool) (n int) {
	err := db.QueryRow(ctx, `
		select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`).Scan(&n)
	if err != nil {
		return -1
	}
	return n
}

func TestOnceInABatch(t *testing.T) {
	t.Parallel()
	db := pgtest.DB(t)
	k := store.OnceKey{Actor: "a", Key: "k", Route: "r"}
	if err := k.Ask(asked{"x"}); err != nil {
		t.Fatal(err)
	}
	var out []string
	if found, err := store.Answered(t.Context(), db, k, &out); found || err != nil {
		t.Fatalf("before the first: %v, %v", found, err)
	}
	send := func() error {
		b := &pgx.Batch{}
		if err := k.Queue(b, []string{"id"}); err != nil {
			t.Fatal(err)
		}
		return db.SendBatch(t.Context(), b).Close()
	}
	if err := send(); err != nil {
		t.Fatal(err)
	}
	if found, err := store.Answered(t.Context(), db, k, &out); !found || err != nil || len(out) != 1 || out[0] != "id" {
		t.Errorf("the answer is %v (%v, %v)", out, found, err)
	}
	if err := send(); err == nil {
		t.Error("the key is taken twice")
	}
	if err := k.Ask(asked{"y"}); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Answered(t.Context(), db, k, &out); fault.Of(err) != fault.Conflict {
		t.Errorf("another request: %v", err)
	}
}

func TestIdempotencyKeysAreDeletedPastTheirRetention(t *testing.T) {
	t.Parallel()
	tx := pgtest.Tx(t)
	_, err := tx.Exec(t.Context(), `
		insert into idempotency_keys (actor_id, key, route, request, response, created_at)
		select 'a', n::text, 'r', '', '', clock_timestamp() - n * interval '1 hour' from generate_series(0, 9) n`)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []int64{4, 2, 0} { // of those that are older than 3.5 hours
		n, err := store.DeleteIdempotencyKeys(t.Context(), tx, 210*time.Minute, 4)
		if err != nil || n != want {
			t.Errorf("deleted %d (%v), want %d", n, err, want)
		}
	}
	rows, _ := tx.Query(t.Context(), `select key from idempotency_keys order by key`)
	left, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || strings.Join(left, " ") != "0 1 2 3" {
		t.Errorf("left are %v (%v)", left, err)
	}
}
