package audit_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"certctl/server/audit"
	"certctl/server/fault"
	"certctl/server/pg"
	"certctl/server/pg/pgtest"
	"certctl/server/seal"
)

func newBox(t testing.TB) *seal.Box {
	t.Helper()
	box, err := seal.New(seal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	return box
}

func TestOpen(t *testing.T) {
	t.Run("replicas that start together agree on one key", func(t *testing.T) {
		url, box := pgtest.URL(t), newBox(t)
		var wg sync.WaitGroup
		verifiers := make([]string, 6)
		for i := range verifiers {
			db := pgtest.Pool(t, url)
			wg.Go(func() {
				log, err := audit.Open(t.Context(), db, box)
				if err != nil {
					t.Error(err)
					return
				}
				verifiers[i] = log.Verifier()
			})
		}
		wg.Wait()
		for _, v := range verifiers {
			if v != verifiers[0] {
				t.Errorf("keys differ: %q", verifiers)
			}
		}
		var keys int
		if err := pgtest.Pool(t, url).QueryRow(t.Context(), "select count(*) from audit_keys").Scan(&keys); err != nil || keys != 1 {
			t.Errorf("%d keys, %v", keys, err)
		}
	})
	t.Run("the origin differs between databases", func(t *testing.T) {
		if a, b := newTrail(t), newTrail(t); a.log.Origin() == b.log.Origin() {
			t.Errorf("both are %s", a.log.Origin())
		}
	})
	t.Run("another encryption key is refused with the setting and the way out", func(t *testing.T) {
		tr := newTrail(t)
		outside := tr.grow(3)
		old := tr.log.Verifier()
		_, err := audit.Open(tr.ctx, tr.db, newBox(t))
		if !errors.Is(err, seal.ErrOpen) || !strings.Contains(err.Error(), "CERTCTL_ENCRYPTION_KEY") {
			t.Fatalf("got %v", err)
		}
		_, wayOut, _ := strings.Cut(err.Error(), `"`)
		wayOut, _, _ = strings.Cut(wayOut, `"`)
		if _, err := tr.db.Exec(tr.ctx, wayOut); err != nil {
			t.Fatalf("the way out %q: %v", wayOut, err)
		}
		if tr.log, err = audit.Open(tr.ctx, tr.db, newBox(t)); err != nil {
			t.Fatal(err)
		}
		tr.grow(3)
		// The old key is believed if it was kept outside, and only then.
		r, err := tr.log.Verify(tr.ctx, tr.db, audit.Options{Verifiers: []string{old, tr.log.Verifier()}, Checkpoints: []string{outside}})
		if err != nil || !r.Intact() {
			t.Errorf("%v\n%s", err, r)
		}
		r, err = tr.log.Verify(tr.ctx, tr.db, audit.Options{})
		if got := problems(r); err != nil || len(got) != 1 || got[0] != "forged 2" {
			t.Errorf("%v\n%s", err, r)
		}
	})
	t.Run("a verifier that is not that of the sealed key is refused", func(t *testing.T) {
		tr, other := newTrail(t), newTrail(t)
		tr.tamper("update audit_keys set verifier = '" + other.log.Verifier() + "'")
		if _, err := audit.Open(tr.ctx, tr.db, tr.box); err == nil {
			t.Error("want an error")
		}
	})
	t.Run("a sealed key does not open under another name", func(t *testing.T) {
		tr := newTrail(t)
		tr.tamper("update audit_keys set name = 'certctl-audit-x'")
		if _, err := audit.Open(tr.ctx, tr.db, tr.box); !errors.Is(err, seal.ErrOpen) {
			t.Errorf("got %v", err)
		}
	})
}

func TestSequence(t *testing.T) {
	t.Run("nothing queued writes nothing", func(t *testing.T) {
		tr := newTrail(t)
		tr.sequence()
		tr.grow(3)
		if n := tr.sequence(); n != 0 {
			t.Errorf("acted %d", n)
		}
		if n := tr.count("select count(*) from audit_checkpoints"); n != 1 {
			t.Errorf("%d checkpoints, want 1", n)
		}
	})
	t.Run("a long queue is drained in batches", func(t *testing.T) {
		tr := newTrail(t)
		tr.write(2500)
		if n := tr.sequence(); n != 2500 {
			t.Errorf("acted %d", n)
		}
		if n := tr.count("select count(*) from audit_checkpoints"); n != 3 {
			t.Errorf("%d checkpoints, want 3", n)
		}
		tr.intact()
	})
	t.Run("the checkpoint says the size, the root, the token and what came before", func(t *testing.T) {
		tr := newTrail(t)
		tr.grow(3)
		signed := tr.grow(2)
		v, err := note.NewVerifier(tr.log.Verifier())
		if err != nil {
			t.Fatal(err)
		}
		n, err := note.Open([]byte(signed), note.VerifierList(v))
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(n.Text, "\n")
		if lines[0] != tr.log.Origin() || lines[1] != "5" || lines[3] != "previous 3" || lines[4] != "token 7" {
			t.Errorf("got %q", n.Text)
		}
	})
}

// parse reads a signed note as a third party would.
func parse(t testing.TB, signed string) tlog.Tree {
	t.Helper()
	lines := strings.Split(signed, "\n")
	var size int64
	if _, err := fmt.Sscan(lines[1], &size); err != nil {
		t.Fatal(err)
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		t.Fatal(err)
	}
	return tlog.Tree{N: size, Hash: root}
}

func TestConcurrentWritersAreSequencedExactlyOnce(t *testing.T) {
	const writers, each = 8, 200
	for name, fence := range map[string]func(*pgxpool.Pool) func(context.Context, func(pgx.Tx) error) error{
		"with one replica at a time": func(db *pgxpool.Pool) func(context.Context, func(pgx.Tx) error) error {
			return func(ctx context.Context, f func(pgx.Tx) error) error {
				return pg.InTx(ctx, db, func(tx pgx.Tx) error {
					if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock(1)"); err != nil {
						return err
					}
					return f(tx)
				})
			}
		},
		"with two replicas that do not know of each other": inTx,
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTrail(t)
			var committed sync.Map
			var writing, sequencing sync.WaitGroup
			for w := range writers {
				writing.Go(func() {
					random := rand.New(rand.NewPCG(1, uint64(w)))
					var held pgx.Tx // commits after one that began later
					var ids []string
					finish := func() {
						if held == nil {
							return
						}
						if random.IntN(4) == 0 {
							held.Rollback(tr.ctx)
						} else if err := held.Commit(tr.ctx); err != nil {
							t.Error(err)
						} else {
							for _, id := range ids {
								committed.Store(id, true)
							}
						}
						held = nil
					}
					for done := 0; done < each; {
						tx, err := tr.db.Begin(tr.ctx)
						if err != nil {
							t.Error(err)
							return
						}
						var mine []string
						for range 1 + random.IntN(3) {
							id := fmt.Sprintf("%d-%d", w, done)
							if err := audit.Write(tr.ctx, tx, audit.Event{Action: audit.KeyCreated, ResourceID: id}); err != nil {
								t.Error(err)
							}
							mine = append(mine, id)
							done++
						}
						if random.IntN(3) == 0 && held == nil {
							held, ids = tx, mine
							continue
						}
						if err := tx.Commit(tr.ctx); err != nil {
							t.Error(err)
						}
						for _, id := range mine {
							committed.Store(id, true)
						}
						finish()
					}
					finish()
				})
			}
			stop := make(chan struct{})
			for range 2 {
				log, err := audit.Open(tr.ctx, tr.db, tr.box)
				if err != nil {
					t.Fatal(err)
				}
				sequencing.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						// Without a fence the slower one fails.
						if _, err := log.Sequence(tr.ctx, 1, fence(tr.db)); err != nil && strings.HasPrefix(name, "with one") {
							t.Error(err)
						}
					}
				})
			}
			writing.Wait()
			close(stop)
			sequencing.Wait()
			tr.sequence()

			want := maps.Collect(func(yield func(string, bool) bool) {
				committed.Range(func(k, _ any) bool { return yield(k.(string), true) })
			})
			rows, _ := tr.db.Query(tr.ctx, `select e.resource_id from audit_log l join audit_events e on e.id = l.event_id order by l.seq`)
			logged, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				t.Fatal(err)
			}
			for _, id := range logged {
				if !want[id] {
					t.Errorf("%s was logged twice or never committed", id)
				}
				delete(want, id)
			}
			if len(want) > 0 || len(logged) == 0 {
				t.Errorf("%d committed events are not in the log of %d", len(want), len(logged))
			}
			if n := tr.count("select max(seq) + 1 - count(*) from audit_log"); n != 0 {
				t.Errorf("%d gaps in seq", n)
			}
			tr.intact()
		})
	}
}

// dying is a transaction whose session the database ends before the batch that
// is number left.
type dying struct {
	pgx.Tx
	left int
	kill func()
}

func (d *dying) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if d.left--; d.left < 0 {
		d.kill()
	}
	return d.Tx.SendBatch(ctx, b)
}

func TestSequenceLeavesNothingHalfDone(t *testing.T) {
	tr := newTrail(t)
	tr.grow(3)
	tr.write(5)
	const state = `select 1000 * (select count(*) from audit_log) + 100 * (select count(*) from audit_checkpoints) + (select count(*) from audit_hashes) + (select count(*) from audit_queue)`
	before := tr.count(state)
	for after := range 4 { // before each of the three batches, and before the commit
		acted, err := tr.log.Sequence(tr.ctx, 7, func(ctx context.Context, f func(pgx.Tx) error) error {
			return pg.InTx(ctx, tr.db, func(tx pgx.Tx) error {
				var pid int
				if err := tx.QueryRow(ctx, "select pg_backend_pid()").Scan(&pid); err != nil {
					return err
				}
				kill := func() {
					if _, err := tr.db.Exec(ctx, "select pg_terminate_backend($1, 10000)", pid); err != nil {
						t.Error(err)
					}
				}
				err := f(&dying{tx, after, kill})
				if after == 3 {
					kill()
				}
				return err
			})
		})
		if err == nil || acted != 0 {
			t.Errorf("killed before step %d: acted %d, %v", after, acted, err)
		}
		if now := tr.count(state); now != before {
			t.Errorf("killed before step %d: something of it stayed", after)
		}
	}
	t.Run("a transaction that the fence refuses leaves nothing", func(t *testing.T) {
		lost := errors.New("the lease is another replica's")
		acted, err := tr.log.Sequence(tr.ctx, 7, func(ctx context.Context, f func(pgx.Tx) error) error {
			return pg.InTx(ctx, tr.db, func(tx pgx.Tx) error { return errors.Join(f(tx), lost) })
		})
		if !errors.Is(err, lost) || acted != 0 || tr.count(state) != before {
			t.Errorf("acted %d, %v", acted, err)
		}
	})
	if n := tr.sequence(); n != 5 {
		t.Errorf("the next pass appended %d, want 5", n)
	}
	tr.intact()
}

func TestSequenceDoesNotSignWhatWasChanged(t *testing.T) {
	for name, c := range map[string]struct{ change, says string }{
		"a hash that the next root needs was changed": {"update audit_hashes set hash = sha256('x') where idx = 3", "hashes"},
		"such a hash was removed":                     {"delete from audit_hashes where idx = 3", "hashes"},
		"the newest entry was removed":                {"delete from audit_log where seq = 2", "it has 2 entries and its newest checkpoint signs 3"},
		"the newest checkpoint was removed":           {"delete from audit_checkpoints where size = 3", "checkpoint"},
		"the newest checkpoint was changed":           {"update audit_checkpoints set note = replace(note, 'token 7', 'token 8')", "invalid signature"},
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTrail(t)
			outside := tr.grow(3)
			tr.write(1)
			tr.tamper(c.change)
			if n, err := tr.log.Sequence(tr.ctx, 7, inTx(tr.db)); n != 0 || err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("appended %d, %v", n, err)
			}
			r, err := tr.log.Verify(tr.ctx, tr.db, audit.Options{Checkpoints: []string{outside}})
			if err != nil || r.Intact() {
				t.Errorf("%v\n%s", err, r)
			}
		})
	}
	t.Run("a checkpoint is put back from its copy outside", func(t *testing.T) {
		tr := newTrail(t)
		outside := tr.grow(3)
		tr.tamper("delete from audit_checkpoints")
		root := parse(t, outside).Hash
		at := strings.TrimPrefix(strings.Split(outside, "\n")[5], "at ")
		_, err := tr.db.Exec(tr.ctx, "insert into audit_checkpoints values (3, $1, $2, 7, $3::text::timestamptz)", root[:], outside, at)
		if err != nil {
			t.Fatal(err)
		}
		tr.intact(outside, tr.grow(1))
	})
}

// The bytes of a leaf are a promise to those who recompute them.
func TestLeafBytesAreStable(t *testing.T) {
	tr := newTrail(t)
	_, err := tr.db.Exec(tr.ctx, `
		insert into audit_events (id, at, actor_kind, actor_id, actor_name, action, resource_kind, resource_id, details, request_id, replica)
		overriding system value values (17, '2026-01-02 04:04:05.000006+01', 'key', 'k1', E'Zoë "Z" <\\>&', 'role.granted', 'key', E'\t\n\r\b\f\x01\x7f/\u2028\U0001F600',
			'{"b": "2", "a": "\u001f", "é": ""}', 'req', 'r-1');
		insert into audit_queue values (17)`, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		t.Fatal(err)
	}
	tr.sequence()
	_, line, _ := bytes.Cut(tr.export(audit.Filter{}), []byte("\n"))
	line, _, _ = bytes.Cut(line, []byte("\n"))

	const event = `{"action":"role.granted","actor":{"id":"k1","kind":"key","name":"Zoë \"Z\" <\\>&"},"at":"2026-01-02T03:04:05.000006Z",` +
		`"details":{"a":"\u001f","b":"2","é":""},"id":17,"replica":"r-1","request_id":"req",` +
		`"resource":{"id":"\t\n\r\b\f\u0001` + "\x7f/\u2028\U0001F600" + `","kind":"key"}}`
	sum := sha256.Sum256([]byte("\x00" + event))
	want := `{"seq":0,"leaf":"` + base64.StdEncoding.EncodeToString(sum[:]) + `","event":` + event + `}`
	if string(line) != want {
		t.Errorf("got  %s\nwant %s", line, want)
	}
	tr.intact()
}

func TestProofs(t *testing.T) {
	tr := newTrail(t)
	var trees []tlog.Tree
	for n := range 13 {
		trees = append(trees, parse(t, tr.grow(n+1)))
	}
	q := pg.Q(tr.db)
	for _, tree := range trees {
		for seq := range tree.N {
			p, err := audit.Inclusion(tr.ctx, q, seq, tree.N)
			if err != nil {
				t.Fatal(err)
			}
			leaf := tlog.Hash(sha256.Sum256(append([]byte{0}, p.Event...)))
			if err := tlog.CheckRecord(p.Proof, tree.N, tree.Hash, seq, leaf); err != nil || p.Leaf != leaf || p.Root != tree.Hash {
				t.Errorf("inclusion of %d in %d: %v", seq, tree.N, err)
			}
		}
		for _, old := range trees {
			if old.N > tree.N {
				break
			}
			p, err := audit.Consistency(tr.ctx, q, old.N, tree.N)
			if err != nil {
				t.Fatal(err)
			}
			if err := tlog.CheckTree(p.Proof, tree.N, tree.Hash, old.N, old.Hash); err != nil || p.OldRoot != old.Hash || p.NewRoot != tree.Hash {
				t.Errorf("consistency of %d with %d: %v", old.N, tree.N, err)
			}
		}
	}

	t.Run("size 0 is the present size", func(t *testing.T) {
		newest := trees[len(trees)-1]
		p, err := audit.Inclusion(tr.ctx, q, 0, 0)
		if err != nil || p.Size != newest.N || p.Root != newest.Hash {
			t.Errorf("got %+v, %v", p, err)
		}
		c, err := audit.Consistency(tr.ctx, q, 1, 0)
		if err != nil || c.New != newest.N || c.NewRoot != newest.Hash {
			t.Errorf("got %+v, %v", c, err)
		}
	})
	t.Run("wrong numbers are named by their field", func(t *testing.T) {
		inclusion := func(seq, size int64) error {
			_, err := audit.Inclusion(tr.ctx, q, seq, size)
			return err
		}
		consistency := func(old, size int64) error {
			_, err := audit.Consistency(tr.ctx, q, old, size)
			return err
		}
		for _, c := range []struct {
			err   error
			kind  *fault.Kind
			field string
		}{
			{inclusion(-1, 5), fault.Invalid, "seq"},
			{inclusion(5, 5), fault.NotFound, "seq"},
			{inclusion(0, -1), fault.Invalid, "size"},
			{inclusion(0, 1000), fault.NotFound, "size"},
			{consistency(0, 5), fault.Invalid, "old"},
			{consistency(6, 5), fault.Invalid, "old"},
			{consistency(1, 1000), fault.NotFound, "new"},
			{consistency(1, -1), fault.Invalid, "new"},
		} {
			if fault.Of(c.err) != c.kind || !strings.HasPrefix(c.err.Error(), c.field+":") {
				t.Errorf("got %v, want %s of %s", c.err, c.kind.Code, c.field)
			}
		}
	})
	t.Run("an edited event does not prove", func(t *testing.T) {
		tr.tamper("update audit_events set actor_id = 'eve' where id = 4")
		tree := trees[len(trees)-1]
		p, err := audit.Inclusion(tr.ctx, q, 3, tree.N)
		if err != nil || tlog.CheckRecord(p.Proof, tree.N, tree.Hash, 3, p.Leaf) == nil {
			t.Errorf("it does: %v", err)
		}
	})
	t.Run("a log without checkpoints has none to give", func(t *testing.T) {
		empty := pgtest.Tx(t)
		if _, err := audit.Checkpoint(tr.ctx, empty); fault.Of(err) != fault.NotFound {
			t.Errorf("got %v", err)
		}
	})
}
