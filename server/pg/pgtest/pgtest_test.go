package pgtest_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"certctl/server/pg/pgtest"
)

func TestTx(t *testing.T) {
	t.Parallel()

	t.Run("is on a migrated database", func(t *testing.T) {
		t.Parallel()
		if n := one[int](t, pgtest.Tx(t), `select count(*) from schema_migrations`); n == 0 {
			t.Error("no migration is recorded")
		}
	})

	t.Run("is rolled back when the test ends", func(t *testing.T) {
		t.Parallel()
		t.Run("writes", func(t *testing.T) {
			tx := pgtest.Tx(t)
			if _, err := tx.Exec(t.Context(), `create table written as select 1`); err != nil {
				t.Fatal(err)
			}
			if err := tx.Rollback(t.Context()); err != nil { // as code that gives up does
				t.Fatal(err)
			}
			if _, err := pgtest.Tx(t).Exec(t.Context(), `create table written as select 1`); err != nil {
				t.Fatal(err)
			}
		})
		if one[bool](t, pgtest.Tx(t), `select to_regclass('written') is not null`) {
			t.Error("it stayed")
		}
	})

	t.Run("leaves nothing in its session", func(t *testing.T) {
		t.Parallel()
		t.Run("takes", func(t *testing.T) {
			tx := pgtest.Tx(t)
			one[string](t, tx, `select pg_advisory_lock(4711)::text`)
			if err := tx.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			// Outside of a transaction it is the session's.
			one[string](t, tx.Conn(), `select set_config('application_name', 'left', false)`)
		})
		if one[bool](t, pgtest.Tx(t), `select exists (select from pg_locks where locktype = 'advisory' and objid = 4711)`) {
			t.Error("the lock is still held")
		}
		if one[bool](t, pgtest.Tx(t), `select exists (select from pg_stat_activity where application_name = 'left')`) {
			t.Error("the setting is still set")
		}
	})

	t.Run("does not commit", func(t *testing.T) {
		t.Parallel()
		r := &recorder{TB: t}
		err := pgtest.Tx(r).Commit(t.Context())
		if err == nil || !strings.Contains(r.said, "pgtest.DB") {
			t.Errorf("commit gives %v, and the test hears %q", err, r.said)
		}
	})
}

// recorder is a test that does not mind its errors.
type recorder struct {
	testing.TB
	said string
}

func (r *recorder) Error(args ...any) { r.said += fmt.Sprint(args...) }

func TestDB(t *testing.T) {
	t.Parallel()
	var name string

	t.Run("is a migrated database that pools of one test share", func(t *testing.T) {
		url := pgtest.URL(t)
		first, second, other := pgtest.Pool(t, url), pgtest.Pool(t, url), pgtest.DB(t)
		if _, err := first.Exec(t.Context(), `create table written as select 1`); err != nil {
			t.Fatal(err)
		}
		const written = `select to_regclass('schema_migrations') is not null and to_regclass('written') is not null`
		if !one[bool](t, second, written) {
			t.Error("the second pool does not see what the first committed")
		}
		if one[bool](t, other, written) {
			t.Error("another database sees it")
		}
		name = one[string](t, first, `select current_database()::text`)
	})

	t.Run("goes when the test ends", func(t *testing.T) {
		if name == "" || exists(t, name) {
			t.Errorf("%q is still there", name)
		}
	})

	t.Run("goes even if a process is still connected", func(t *testing.T) {
		var name string
		t.Run("connects", func(t *testing.T) {
			conn, err := pgx.Connect(t.Context(), pgtest.URL(t))
			if err != nil {
				t.Fatal(err)
			}
			name = one[string](t, conn, `select current_database()::text`)
		})
		if exists(t, name) {
			t.Error("it is still there")
		}
	})

	t.Run("is copied from one template however many want it at once", func(t *testing.T) {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() { pgtest.URL(t) })
		}
		all.Wait()
		own := one[string](t, pgtest.DB(t), `select regexp_replace(current_database(), '[0-9]+$', '') || '%'`)
		if n := one[int](t, pgtest.Tx(t), `select count(*) from pg_database where not datallowconn and datname like '`+own+`'`); n != 1 {
			t.Errorf("there are %d templates", n)
		}
	})
}

func TestEmptyURL(t *testing.T) {
	t.Parallel()
	n := one[int](t, pgtest.Pool(t, pgtest.EmptyURL(t)), `select count(*) from pg_tables where schemaname = 'public'`)
	if n != 0 {
		t.Errorf("it has %d tables", n)
	}
}

// TestProcess is what other tests run in a process of its own.
func TestProcess(t *testing.T) {
	switch os.Getenv("CERTCTL_PGTEST_HELPER") {
	case "twice":
		t.Run("first", func(t *testing.T) { pgtest.Tx(t) })
		t.Run("second", func(t *testing.T) { pgtest.DB(t) })
	case "leave":
		fmt.Println("made", one[string](t, pgtest.DB(t), `select current_database()::text`))
		os.Exit(0) // without cleaning up
	}
}

func process(what string, env ...string) (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	cmd := exec.Command(exe, "-test.run=^TestProcess$", "-test.v")
	cmd.Env = append(os.Environ(), "CERTCTL_PGTEST_HELPER="+what)
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestWithoutPostgreSQL(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, env, want string }{
		{"every test fails if none answers", "CERTCTL_TEST_DATABASE_URL=postgres://nobody@127.0.0.1:1/none", "does not answer"},
		{"every test fails if none is named", "CERTCTL_TEST_DATABASE_URL=here", "postgres://user:password@host:port/database"},
		{"every test fails if the way to it is unknown", "CERTCTL_TEST_POSTGRES=magic", "want local, container or download"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			out, err := process("twice", "CERTCTL_TEST_POSTGRES=", c.env)
			if err == nil || strings.Count(out, c.want) != 2 || strings.Count(out, "    --- FAIL") != 2 {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

func TestSharedServer(t *testing.T) {
	t.Parallel()
	server := "CERTCTL_TEST_DATABASE_URL=" + pgtest.EmptyURL(t)
	mine := one[string](t, pgtest.DB(t), `select current_database()::text`)
	leave := func() (name string) {
		t.Helper()
		out, err := process("leave", "CERTCTL_TEST_POSTGRES=", server)
		if _, after, ok := strings.Cut(out, "made "); ok && err == nil {
			name, _, _ = strings.Cut(after, "\n")
			return name
		}
		t.Fatalf("%v: %s", err, out)
		return name
	}
	left := leave()
	if !exists(t, left) {
		t.Fatalf("%s is not there", left)
	}
	leave()
	if exists(t, left) {
		t.Errorf("%s of an ended process is still there", left)
	}
	if !exists(t, mine) {
		t.Error("a database of a running process was dropped")
	}
}

func exists(t *testing.T, database string) bool {
	t.Helper()
	return one[bool](t, pgtest.Tx(t), `select exists (select from pg_database where datname = '`+database+`')`)
}

// one returns the value that a statement gives.
func one[T any](t *testing.T, q interface {
	Query(context.Context, string, ...any) (pgx.Rows, error)
}, sql string,
) T {
	t.Helper()
	rows, _ := q.Query(t.Context(), sql)
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatal(err)
	}
	return v
}
