package migrate_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"certctl/migrations"
	"certctl/server/fault"
	"certctl/server/migrate"
	"certctl/server/pg/pgtest"
)

// files returns a file system of migrations by name.
func files(sql map[string]string) fstest.MapFS {
	m := fstest.MapFS{}
	for name, text := range sql {
		m[name+".sql"] = &fstest.MapFile{Data: []byte(text)}
	}
	return m
}

func up(t *testing.T, url string, fsys fs.FS) error {
	t.Helper()
	return migrate.Up(t.Context(), url, migrate.Options{Files: fsys, Replica: t.Name(), Server: "test"})
}

func mustUp(t *testing.T, url string, fsys fs.FS) {
	t.Helper()
	if err := up(t, url, fsys); err != nil {
		t.Fatal(err)
	}
}

func ledger(t *testing.T, pool *pgxpool.Pool) []migrate.Row {
	t.Helper()
	rows, err := migrate.Ledger(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func embedded(t *testing.T) []migrate.Migration {
	t.Helper()
	ms, err := migrate.Read(migrations.Files)
	if err != nil {
		t.Fatal(err)
	}
	if len(ms) == 0 {
		t.Fatal("the binary embeds no migration")
	}
	return ms
}

func TestRunMigrations_PopulatesSchemaMigrations(t *testing.T) {
	t.Parallel()
	url := pgtest.EmptyURL(t)
	mustUp(t, url, files(map[string]string{"0001_a": "create table a ()", "0002_b": "-- readable-from: 0001\ncreate table b ()"}))

	got := ledger(t, pgtest.Pool(t, url))
	if len(got) != 2 || got[0].Version != "0001_a" || got[1].Version != "0002_b" {
		t.Fatalf("the ledger has %+v, want 0001_a and 0002_b", got)
	}
	for _, r := range got {
		if len(r.SHA256) != 64 || r.AppliedAt.IsZero() || r.Took <= 0 || r.Server != "test" || r.Replica != t.Name() {
			t.Errorf("the row of %s lacks a fact: %+v", r.Version, r)
		}
	}
	if got[0].ReadableFrom != "" || got[1].ReadableFrom != "0001" {
		t.Errorf("readable from %q and %q, want only the second from 0001", got[0].ReadableFrom, got[1].ReadableFrom)
	}
}

func TestRunMigrations_SkipsAppliedOnSecondCall(t *testing.T) {
	t.Parallel()
	url := pgtest.EmptyURL(t)
	fsys := files(map[string]string{"0001_a": "create table a (n int); insert into a values (1)"})
	mustUp(t, url, fsys)
	pool := pgtest.Pool(t, url)
	before := ledger(t, pool)
	mustUp(t, url, fsys)

	if after := ledger(t, pool); !slices.Equal(before, after) {
		t.Errorf("the second call changed the ledger from %+v to %+v", before, after)
	}
	var n int
	if err := pool.QueryRow(t.Context(), `select count(*) from a`).Scan(&n); err != nil || n != 1 {
		t.Errorf("the migration's statement took effect %d times (%v), want once", n, err)
	}
}

func TestRunMigrations_ConcurrentCallsSerialized(t *testing.T) {
	t.Parallel()
	url := pgtest.EmptyURL(t)
	// The first statement would fail in a second transaction at the same time;
	// the second keeps the first caller busy until the second one waits.
	fsys := files(map[string]string{
		"0001_a": "create table a (n int); select pg_sleep(0.3)",
		"0002_b": "insert into a values (1)",
	})
	// Two pools, as two replicas have them: a session may take its own lock
	// twice.
	pools := []*pgxpool.Pool{pgtest.Pool(t, url), pgtest.Pool(t, url)}
	var wg sync.WaitGroup
	for _, pool := range pools {
		wg.Go(func() {
			if err := migrate.Up(t.Context(), pool.Config().ConnString(), migrate.Options{Files: fsys}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()

	var n int
	if err := pools[0].QueryRow(t.Context(), `select count(*) from a`).Scan(&n); err != nil || n != 1 {
		t.Errorf("0002_b took effect %d times (%v), want once", n, err)
	}
	if rows := ledger(t, pools[1]); len(rows) != 2 {
		t.Errorf("the ledger has %d rows, want 2", len(rows))
	}
}

func TestRunMigrations_FreshDatabaseHappyPath(t *testing.T) {
	t.Parallel()
	url := pgtest.EmptyURL(t)
	mustUp(t, url, migrations.Files)

	want := embedded(t)
	got := ledger(t, pgtest.Pool(t, url))
	if len(got) != len(want) {
		t.Fatalf("the ledger has %d rows, the binary embeds %d migrations", len(got), len(want))
	}
	for i := range want {
		if got[i].Version != want[i].Version || got[i].SHA256 != want[i].SHA256 {
			t.Errorf("row %d is %s %s, want %s %s", i, got[i].Version, got[i].SHA256, want[i].Version, want[i].SHA256)
		}
	}
}

func TestRefusesADatabaseThatDoesNotFit(t *testing.T) {
	t.Parallel()
	ab := map[string]string{"0001_a": "create table a ()", "0002_b": "create table b ()"}
	with := func(change map[string]string) fstest.MapFS {
		m := files(ab)
		for name, text := range change {
			delete(m, name+".sql")
			if text != "" {
				m[name+".sql"] = &fstest.MapFile{Data: []byte(text)}
			}
		}
		return m
	}
	tests := []struct {
		name string
		fsys fs.FS
		edit string // of the database, after ab was applied
		want string // part of the refusal; empty if it must not refuse
	}{
		{
			"an applied file that was edited", with(map[string]string{"0002_b": "create table edited ()"}), "",
			"0002_b was applied from a file with checksum",
		},
		{
			"a row without a file", with(map[string]string{"0002_b": "", "0002_renamed": "create table b ()"}), "",
			"0002_b is in the ledger and this server has no file",
		},
		{
			"a row that is missing below a later one", files(ab), `delete from schema_migrations where version = '0001_a'`,
			"0001_a was not applied, and a later one was",
		},
		{
			"a newer database", with(map[string]string{"0002_b": ""}), "",
			"0002_b was applied by a newer server (test), and this one cannot work with it; start that version",
		},
		{
			"a newer database that this server can read", with(map[string]string{"0002_b": ""}),
			`update schema_migrations set readable_from = '0001' where version = '0002_b'`, "",
		},
		{
			"a newer database that only a newer server can read", with(map[string]string{"0002_b": ""}),
			`update schema_migrations set readable_from = '0002' where version = '0002_b'`, "0002_b was applied by a newer server",
		},
		{
			"a gap in the numbers", files(map[string]string{"0001_a": ab["0001_a"], "0003_c": "select 1"}), "",
			"0003_c.sql: want the name 0002_subject.sql",
		},
		{
			"two files with one number", with(map[string]string{"0002_also": "select 1"}), "",
			"want the name 0003_subject.sql",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.EmptyURL(t)
			mustUp(t, url, files(ab))
			pool := pgtest.Pool(t, url)
			if tt.edit != "" {
				if _, err := pool.Exec(t.Context(), tt.edit); err != nil {
					t.Fatal(err)
				}
			}
			before := ledger(t, pool)
			err := up(t, url, tt.fsys)
			if tt.want == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v\nwant an error with %q", err, tt.want)
			}
			if after := ledger(t, pool); !slices.Equal(before, after) {
				t.Errorf("the refusal changed the ledger to %+v", after)
			}
		})
	}
}

func TestCheckAppliesNothing(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t, pgtest.EmptyURL(t))
	err := migrate.Check(t.Context(), pool, migrations.Files)
	if fault.Of(err) != fault.Conflict || !strings.Contains(fmt.Sprint(err), "is pending; run `certctl-server migrate`") {
		t.Errorf("got %v, want that the first migration is pending", err)
	}
	if rows := ledger(t, pool); rows != nil {
		t.Errorf("the check left a ledger: %+v", rows)
	}
}

func TestFailedMigrationLeavesThePreviousVersionWhole(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, sql, want string }{
		{"an error in the last statement", "create table b (); select 1/0", "division by zero"},
		{"a statement that cannot run in a transaction", "create table b (); create index concurrently on a (n)", "cannot run inside a transaction block"},
		{"a file that ends its transaction", "create table b (); commit; begin; create table c ()", "ends the transaction it runs in"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.EmptyURL(t)
			err := up(t, url, files(map[string]string{"0001_a": "create table a (n int)", "0002_b": tt.sql}))
			if err == nil || !strings.Contains(err.Error(), "migration 0002_b.sql: ") || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want one about 0002_b.sql: %s", err, tt.want)
			}
			if rows := ledger(t, pgtest.Pool(t, url)); len(rows) != 1 {
				t.Errorf("the ledger has %+v, want the first migration alone", rows)
			}
		})
	}
}

func TestEmbeddedMigrationsStayInTheirTransaction(t *testing.T) {
	t.Parallel()
	// Up refuses a file that leaves its transaction, but the refusal comes too
	// late for what such a file has committed: none may be shipped.
	conn, err := pgx.Connect(t.Context(), pgtest.EmptyURL(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for _, m := range embedded(t) {
		sql, err := fs.ReadFile(migrations.Files, m.File())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), "begin;"+string(sql)); err != nil {
			t.Fatalf("%s: %v", m.File(), err)
		}
		var mine bool
		err = conn.QueryRow(t.Context(), `select pg_current_xact_id_if_assigned() is not null and now() <> clock_timestamp()`).Scan(&mine)
		if status := conn.PgConn().TxStatus(); err != nil || status != 'T' || !mine {
			t.Errorf("%s: after it the session is in state %c (%v), want its transaction still open", m.File(), status, err)
		}
		if _, err := conn.Exec(t.Context(), "commit"); err != nil {
			t.Fatal(err)
		}
	}
}

// The test binary is also the process that is killed, and each of those that
// start together.
const child = "CERTCTL_TEST_MIGRATE"

func TestMain(m *testing.M) {
	raw, ok := os.LookupEnv(child)
	if !ok {
		os.Exit(m.Run())
	}
	var in struct {
		URL   string
		Files map[string]string // the embedded ones if nil
	}
	if err := json.Unmarshal([]byte(raw), &in); err != nil {
		panic(err)
	}
	var fsys fs.FS = migrations.Files
	if in.Files != nil {
		fsys = files(in.Files)
	}
	err := migrate.Up(context.Background(), in.URL, migrate.Options{Files: fsys, Replica: fmt.Sprint(os.Getpid())})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func process(t *testing.T, url string, sql map[string]string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	in, err := json.Marshal(map[string]any{"URL": url, "Files": sql})
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), child+"="+string(in))
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, &stderr
}

func TestKilledInTheMiddleOfAMigration(t *testing.T) {
	t.Parallel()
	url := pgtest.EmptyURL(t)
	sql := map[string]string{
		"0001_a": "create table a ()",
		"0002_b": "create table b (); insert into c_marks values (1); select pg_sleep(600)",
	}
	pool := pgtest.Pool(t, url)
	if _, err := pool.Exec(t.Context(), `create table c_marks (n int)`); err != nil {
		t.Fatal(err)
	}
	cmd, _ := process(t, url, sql)
	pgtest.Eventually(t, "the process sleeps in its migration", func() bool {
		var n int
		err := pool.QueryRow(t.Context(), `
			select count(*) from pg_stat_activity
			where datname = current_database() and wait_event = 'PgSleep'`).Scan(&n)
		return err == nil && n == 1
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed

	if rows := ledger(t, pool); len(rows) != 1 || rows[0].Version != "0001_a" {
		t.Errorf("the ledger has %+v, want 0001_a alone", rows)
	}
	sql["0002_b"] = "create table b (); insert into c_marks values (1)"
	mustUp(t, url, files(sql))
	var n int
	if err := pool.QueryRow(t.Context(), `select count(*) from c_marks`).Scan(&n); err != nil || n != 1 {
		t.Errorf("the killed migration left %d marks after the next start (%v), want 1", n, err)
	}
}

func TestEightProcessesStartOnAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	url := pgtest.EmptyURL(t)
	const replicas = 8
	type running struct {
		cmd    *exec.Cmd
		stderr *bytes.Buffer
	}
	var all []running
	for range replicas {
		cmd, stderr := process(t, url, nil)
		all = append(all, running{cmd, stderr})
	}
	for _, r := range all {
		if err := r.cmd.Wait(); err != nil {
			t.Errorf("a process failed: %v\n%s", err, r.stderr)
		}
	}
	rows := ledger(t, pgtest.Pool(t, url))
	if len(rows) != len(embedded(t)) {
		t.Fatalf("the ledger has %d rows, want %d", len(rows), len(embedded(t)))
	}
	for _, r := range rows {
		if r.Replica != rows[0].Replica {
			t.Errorf("%s was applied by %s and %s by %s, want one process for all", rows[0].Version, rows[0].Replica, r.Version, r.Replica)
		}
	}
}
