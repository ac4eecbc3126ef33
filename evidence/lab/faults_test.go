package lab_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"certctl/evidence/lab"
	"certctl/server/api"
	"certctl/server/client"
	"certctl/server/pg/pgtest"
)

func TestServersWorkThroughAPoolerInTransactionMode(t *testing.T) {
	r := laboratory(t).on(t)
	pooled, err := r.Pooled(t.Context(), r.url)
	if err != nil {
		t.Fatal(err)
	}
	one, err := r.Server(t.Context(), pooled, lab.Direct(r.url))
	if err != nil {
		t.Fatal(err)
	}
	r.byName[one.Name] = one
	c := r.admin()
	if _, err := lab.Estate(t.Context(), c, "pooled", nil); err != nil {
		t.Fatal(err)
	}
	through, err := pgx.Connect(t.Context(), pooled)
	if err != nil {
		t.Fatal(err)
	}
	defer through.Close(t.Context())
	// A session that is the client's own would keep this; in transaction mode
	// another client that is served meanwhile changes nothing of it either way, so
	// ask who the server's side of the connection is in two transactions.
	pid := func(tx pgx.Tx) (n int) {
		if err := tx.QueryRow(t.Context(), `select pg_backend_pid()`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	first, err := through.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	was := pid(first)
	if err := first.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	other, err := pgx.Connect(t.Context(), pooled)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(t.Context())
	taken, err := other.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Rollback(t.Context()) }()
	if got := pid(taken); got != was {
		t.Errorf("after a transaction its session was %d, and the next client got %d: it is not in transaction mode", was, got)
	}
}

func TestACrashOfPostgreSQLEndsItsSessionsAndLosesNothing(t *testing.T) {
	r := laboratory(t)
	begin := time.Now()
	apart, err := r.Apart(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("another laboratory took %s", time.Since(begin))
	t.Cleanup(func() {
		if err := apart.Stop(); err != nil {
			t.Error(err)
		}
	})
	url, err := apart.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	one, err := apart.Server(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	on := &replicas{Lab: apart, t: t, url: url, pool: pool, byName: map[string]*lab.Replica{one.Name: one}}
	c := on.admin()
	for round := range 3 {
		on.exec(`create table if not exists kept (n int)`)
		on.exec(`insert into kept values ($1)`, round)
		session, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		begin = time.Now()
		if err := apart.Crash(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Logf("a crash took %s", time.Since(begin))
		if session.Ping(t.Context()) == nil {
			t.Error("a session has outlived the crash")
		}
		pool.Reset()
		if n := ask[int](t, pool, `select count(*) from kept`); n != round+1 {
			t.Errorf("%d rows are left of %d", n, round+1)
		}
	}
	pgtest.Eventually(t, "the server works again", func() bool {
		_, err := client.Do(t.Context(), c, api.ListTeams, &api.ByName{Limit: 1})
		return err == nil
	})
}

// What a laboratory has started is gone soon after it was killed. The test runs
// itself, as the process that is killed.
func TestAPoolerGoesWithItsLaboratory(t *testing.T) {
	if binary := os.Getenv("CERTCTL_TEST_LAB_OF"); binary != "" {
		ctx := context.Background()
		l, err := lab.Start(ctx, binary)
		if err != nil {
			t.Fatal(err)
		}
		url, err := l.Database(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Pooled(ctx, url); err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("pooled\n")
		select {}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "CERTCTL_TEST_LAB_OF="+self) // nothing is started of it
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	before := poolers(t)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var its []string
	pgtest.Eventually(t, "there is one more pooler", func() bool {
		its = nil
		for dir := range poolers(t) {
			if !before[dir] {
				its = append(its, dir)
			}
		}
		return len(its) > 0
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	killed := time.Now()
	pgtest.Eventually(t, "the pooler is gone", func() bool {
		left := poolers(t)
		for _, one := range its {
			if left[one] {
				return false
			}
		}
		return true
	})
	if took := time.Since(killed); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

// poolers are the processes of poolers, by the file that they were given.
func poolers(t *testing.T) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range lines {
		text, _ := os.ReadFile(path) // it may have ended
		if args := strings.Split(string(text), "\x00"); strings.HasSuffix(args[0], "pgbouncer") && len(args) > 1 {
			found[args[1]] = true
		}
	}
	return found
}
