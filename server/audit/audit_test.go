package audit_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"certctl/server/audit"
	"certctl/server/fault"
	"certctl/server/perm"
	"certctl/server/pg"
	"certctl/server/pg/pgtest"
	"certctl/server/seal"
)

// A trail is a database with a log.
type trail struct {
	t   testing.TB
	ctx context.Context
	db  *pgxpool.Pool
	log *audit.Log
	box *seal.Box
}

func newTrail(t testing.TB) *trail {
	t.Helper()
	db, box := pgtest.DB(t), newBox(t)
	log, err := audit.Open(t.Context(), db, box)
	if err != nil {
		t.Fatal(err)
	}
	return &trail{t, acting(t.Context()), db, log, box}
}

func acting(ctx context.Context) context.Context {
	ctx = perm.With(ctx, perm.Actor{Kind: "key", ID: "key-1", Name: "Ada"})
	return audit.WithReplica(audit.WithRequest(ctx, "req-1"), "replica-a")
}

func (tr *trail) write(n int) {
	tr.t.Helper()
	for i := range n {
		err := audit.Write(tr.ctx, tr.db, audit.Event{
			Action: audit.RoleGranted, ResourceKind: "key", ResourceID: fmt.Sprintf("key-%d", i),
			Details: map[string]string{"role": "viewer"},
		})
		if err != nil {
			tr.t.Fatal(err)
		}
	}
}

func inTx(db *pgxpool.Pool) func(context.Context, func(pgx.Tx) error) error {
	return func(ctx context.Context, f func(pgx.Tx) error) error { return pg.InTx(ctx, db, f) }
}

func (tr *trail) sequence() int {
	tr.t.Helper()
	n, err := tr.log.Sequence(tr.ctx, 7, inTx(tr.db))
	if err != nil {
		tr.t.Fatal(err)
	}
	return n
}

// grow appends n events and returns the checkpoint that signs them.
func (tr *trail) grow(n int) string {
	tr.t.Helper()
	tr.write(n)
	tr.sequence()
	signed, err := audit.Checkpoint(tr.ctx, tr.db)
	if err != nil {
		tr.t.Fatal(err)
	}
	return signed
}

func (tr *trail) export(f audit.Filter) []byte {
	tr.t.Helper()
	var b bytes.Buffer
	if err := audit.Export(tr.ctx, tr.db, &b, f); err != nil {
		tr.t.Fatal(err)
	}
	return b.Bytes()
}

// tamper runs statements as somebody who can switch the triggers off.
func (tr *trail) tamper(statements ...string) {
	tr.t.Helper()
	err := pg.InTx(tr.ctx, tr.db, func(tx pgx.Tx) error {
		for _, sql := range append([]string{"set local session_replication_role = replica"}, statements...) {
			if _, err := tx.Exec(tr.ctx, sql); err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
		}
		return nil
	})
	if err != nil {
		tr.t.Fatal(err)
	}
}

func (tr *trail) count(sql string) (n int64) {
	tr.t.Helper()
	if err := tr.db.QueryRow(tr.ctx, sql).Scan(&n); err != nil {
		tr.t.Fatal(err)
	}
	return n
}

func TestWrite(t *testing.T) {
	tr := newTrail(t)
	event := audit.Event{Action: audit.KeyCreated, ResourceKind: "key", ResourceID: "k"}

	t.Run("an event goes with the transaction that it is written in", func(t *testing.T) {
		undo := errors.New("undo")
		err := pg.InTx(tr.ctx, tr.db, func(tx pgx.Tx) error {
			if err := audit.Write(tr.ctx, tx, event); err != nil {
				return err
			}
			return undo
		})
		if !errors.Is(err, undo) {
			t.Fatal(err)
		}
		if n := tr.count("select (select count(*) from audit_events) + (select count(*) from audit_queue)"); n != 0 {
			t.Errorf("%d rows of a transaction that was rolled back", n)
		}
	})
	t.Run("an event that nobody did is refused", func(t *testing.T) {
		if err := audit.Write(t.Context(), tr.db, event); err == nil {
			t.Error("want an error")
		}
	})
	t.Run("an event without an action is refused", func(t *testing.T) {
		if err := audit.Write(tr.ctx, tr.db, audit.Event{}); err == nil {
			t.Error("want an error")
		}
	})
	t.Run("an event that the database does not take is an error", func(t *testing.T) {
		ctx, cancel := context.WithCancel(tr.ctx)
		cancel()
		if err := audit.Write(ctx, tr.db, event); err == nil {
			t.Error("want an error")
		}
	})
	t.Run("details beyond what is kept are refused", func(t *testing.T) {
		e := event
		e.Details = map[string]string{"long": strings.Repeat("x", 64<<10)}
		if err := audit.Write(tr.ctx, tr.db, e); err == nil {
			t.Error("want an error")
		}
	})
	t.Run("what a client named cannot make its event unwritable", func(t *testing.T) {
		e := event
		e.ResourceID, e.Details = "a\x00b\xff", map[string]string{"name": "c\x00\xfe"}
		if err := audit.Write(tr.ctx, tr.db, e); err != nil {
			t.Fatal(err)
		}
		got, err := audit.List(tr.ctx, tr.db, audit.Filter{}, audit.Page{Limit: 1})
		if err != nil || got[0].ResourceID != "a\uFFFDb\uFFFD" || got[0].Details["name"] != "c\uFFFD\uFFFD" {
			t.Errorf("got %+v, %v", got, err)
		}
	})
}

func TestWritersDoNotWaitForEachOther(t *testing.T) {
	tr := newTrail(t)
	early, err := tr.db.Begin(tr.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer early.Rollback(tr.ctx)
	event := audit.Event{Action: audit.KeyCreated, ResourceKind: "key", ResourceID: "early"}
	if err := audit.Write(tr.ctx, early, event); err != nil {
		t.Fatal(err)
	}

	event.ResourceID = "late"
	err = pg.InTx(tr.ctx, tr.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(tr.ctx, "set local lock_timeout = 1"); err != nil {
			return err
		}
		return audit.Write(tr.ctx, tx, event)
	})
	if err != nil {
		t.Fatalf("a writer waited for another one's transaction: %v", err)
	}
	if n := tr.sequence(); n != 1 {
		t.Fatalf("sequenced %d, want the one that is committed", n)
	}
	if err := early.Commit(tr.ctx); err != nil {
		t.Fatal(err)
	}
	tr.sequence()
	got, err := audit.List(tr.ctx, tr.db, audit.Filter{}, audit.Page{})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || *got[0].Seq != 0 || *got[1].Seq != 1 || got[1].ResourceID != "early" {
		t.Errorf("an event that committed late is not the next of the log: %+v", got)
	}
	tr.intact()
}

// intact fails the test unless the database and an export of it verify.
func (tr *trail) intact(outside ...string) {
	tr.t.Helper()
	o := audit.Options{Verifiers: []string{tr.log.Verifier()}, Checkpoints: outside}
	r, err := tr.log.Verify(tr.ctx, tr.db, o)
	if err != nil || !r.Intact() {
		tr.t.Errorf("database: %v\n%s", err, r)
	}
	r, err = audit.VerifyStream(bytes.NewReader(tr.export(audit.Filter{})), o)
	if err != nil || !r.Intact() {
		tr.t.Errorf("export: %v\n%s", err, r)
	}
}

func TestTablesAreAppendOnly(t *testing.T) {
	tr := newTrail(t)
	tr.grow(3)
	for _, sql := range []string{
		"update audit_events set actor_name = 'x'", "delete from audit_events", "truncate audit_events",
		"update audit_log set seq = seq", "delete from audit_log", "truncate audit_log",
		"update audit_hashes set idx = idx", "delete from audit_hashes", "truncate audit_hashes",
		"update audit_checkpoints set token = 0", "delete from audit_checkpoints", "truncate audit_checkpoints",
		"update audit_keys set verifier = 'x'", "delete from audit_keys", "truncate audit_keys",
	} {
		_, err := tr.db.Exec(tr.ctx, sql)
		if err == nil || !strings.Contains(err.Error(), "append-only") {
			t.Errorf("%s: got %v, want a refusal that says why", sql, err)
		}
	}
	tr.intact()
}

func TestServerRunsAsARoleThatCannotChangeTheTrail(t *testing.T) {
	tr := newTrail(t)
	role := "audit_test_" + strings.ToLower(rand.Text()[:10])
	for _, sql := range []string{"create role " + role, "select audit_grant('" + role + "')"} {
		if _, err := tr.db.Exec(tr.ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	owner := tr.db
	t.Cleanup(func() {
		if _, err := owner.Exec(context.Background(), "drop owned by "+role+"; drop role "+role, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Error(err)
		}
	})
	cfg := tr.db.Config()
	cfg.AfterConnect = func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, "set role "+role)
		return err
	}
	db, err := pgxpool.NewWithConfig(tr.ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()

	t.Run("everything that the server does works", func(t *testing.T) {
		// Its first start, too: the role makes the signing key.
		tr.tamper("delete from audit_keys")
		tr.db = db
		if tr.log, err = audit.Open(tr.ctx, db, tr.box); err != nil {
			t.Fatal(err)
		}
		tr.grow(1200)
		tr.intact(tr.grow(1))
		if _, err := audit.Inclusion(tr.ctx, db, 3, 0); err != nil {
			t.Error(err)
		}
		if _, err := audit.Size(tr.ctx, db); err != nil {
			t.Error(err)
		}
	})
	t.Run("nothing written can be changed or removed", func(t *testing.T) {
		for _, table := range []string{"audit_events", "audit_log", "audit_hashes", "audit_checkpoints", "audit_keys"} {
			column := map[string]string{"audit_events": "action", "audit_log": "seq", "audit_hashes": "idx", "audit_checkpoints": "size", "audit_keys": "retired_at"}[table]
			for _, sql := range []string{
				"update " + table + " set " + column + " = " + column, "delete from " + table, "truncate " + table,
				"alter table " + table + " disable trigger all",
			} {
				if _, err := db.Exec(tr.ctx, sql); err == nil || !strings.Contains(err.Error(), "permission denied") && !strings.Contains(err.Error(), "must be owner") {
					t.Errorf("%s: got %v, want permission denied", sql, err)
				}
			}
		}
		if _, err := db.Exec(tr.ctx, "select audit_grant('"+role+"')"); err == nil {
			t.Error("the role can call the function that grants")
		}
	})
}

func TestActions(t *testing.T) {
	form := regexp.MustCompile(`^[a-z-]+\.[a-z]+$`)
	for _, a := range audit.Actions() {
		if !form.MatchString(a.Name) || a.Does == "" || !slices.Contains([]string{audit.Access, audit.Trail, audit.Server, audit.Config, audit.Life}, a.Category) {
			t.Errorf("%+v: want noun.past participle, a category and a sentence", *a)
		}
	}
}

func TestList(t *testing.T) {
	tr := newTrail(t)
	tr.write(5)
	other := perm.With(tr.ctx, perm.Actor{Kind: "server", ID: "replica-b", Name: "replica-b"})
	if err := audit.Write(other, tr.db, audit.Event{Action: audit.ServerStarted}); err != nil {
		t.Fatal(err)
	}
	tr.tamper("update audit_events set at = '2026-01-01 00:00:00Z'::timestamptz + id * interval '1 day'")
	day := func(n int) time.Time { return time.Date(2026, 1, 1+n, 0, 0, 0, 0, time.UTC) }

	for name, c := range map[string]struct {
		filter audit.Filter
		page   audit.Page
		want   []int64
	}{
		"without a filter all are listed, newest first": {want: []int64{6, 5, 4, 3, 2, 1}},
		"a limit cuts":                                       {page: audit.Page{Limit: 2}, want: []int64{6, 5}},
		"the next page is before the last id":                {page: audit.Page{Limit: 2, Before: 5}, want: []int64{4, 3}},
		"a category selects the actions in it":               {filter: audit.Filter{Category: audit.Server}, want: []int64{6}},
		"an action selects":                                  {filter: audit.Filter{Action: "role.granted"}, page: audit.Page{Limit: 1}, want: []int64{5}},
		"an actor selects by id":                             {filter: audit.Filter{Actor: "replica-b"}, want: []int64{6}},
		"a resource selects by kind and id":                  {filter: audit.Filter{ResourceKind: "key", ResourceID: "key-2"}, want: []int64{3}},
		"a time range has its first moment and not its last": {filter: audit.Filter{Since: day(2), Until: day(4)}, want: []int64{3, 2}},
		"an action that never was selects nothing":           {filter: audit.Filter{Action: "key.eaten"}, want: []int64{}},
	} {
		t.Run(name, func(t *testing.T) {
			entries, err := audit.List(tr.ctx, tr.db, c.filter, c.page)
			got := []int64{}
			for _, e := range entries {
				got = append(got, e.ID)
			}
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("got %v, %v, want %v", got, err, c.want)
			}
		})
	}
	t.Run("an entry tells all of its event and has no place yet", func(t *testing.T) {
		entries, err := audit.List(tr.ctx, tr.db, audit.Filter{ResourceID: "key-0"}, audit.Page{})
		want := []audit.Entry{{
			ID: 1, At: day(1), ActorKind: "key", ActorID: "key-1", ActorName: "Ada", Action: "role.granted", Category: audit.Access,
			ResourceKind: "key", ResourceID: "key-0", Details: map[string]string{"role": "viewer"}, RequestID: "req-1", Replica: "replica-a",
		}}
		for i := range entries {
			entries[i].At = entries[i].At.UTC()
		}
		if err != nil || !reflect.DeepEqual(entries, want) {
			t.Errorf("got %+v, %v", entries, err)
		}
	})
	t.Run("a wrong filter is named by its field", func(t *testing.T) {
		for field, call := range map[string]func() error{
			"category": func() error {
				_, err := audit.List(tr.ctx, tr.db, audit.Filter{Category: "x"}, audit.Page{})
				return err
			},
			"until": func() error {
				_, err := audit.List(tr.ctx, tr.db, audit.Filter{Since: day(2), Until: day(2)}, audit.Page{})
				return err
			},
			"limit": func() error {
				_, err := audit.List(tr.ctx, tr.db, audit.Filter{}, audit.Page{Limit: audit.MaxLimit + 1})
				return err
			},
			"before": func() error {
				_, err := audit.List(tr.ctx, tr.db, audit.Filter{}, audit.Page{Before: -1})
				return err
			},
		} {
			if err := call(); fault.Of(err) != fault.Invalid || !strings.HasPrefix(err.Error(), field+":") {
				t.Errorf("%s: got %v", field, err)
			}
		}
	})
}
