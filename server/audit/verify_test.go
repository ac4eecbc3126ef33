package audit_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"certctl/server/audit"
	"certctl/server/fault"
)

// problems are what a report names: kind, places, event.
func problems(r audit.Report) []string {
	got := []string{}
	for _, p := range r.Problems {
		s := string(p.Kind)
		switch {
		case p.Last > p.Seq:
			s += fmt.Sprintf(" %d-%d", p.Seq, p.Last)
		case p.Seq >= 0:
			s += fmt.Sprintf(" %d", p.Seq)
		}
		if p.EventID > 0 {
			s += fmt.Sprintf(" event %d", p.EventID)
		}
		got = append(got, s)
	}
	return got
}

// rewrite recomputes hashes of the whole log from the events as they are now,
// as somebody would who edited them and knows how the log works: the leaves
// only, or everything up to the root.
func (tr *trail) rewrite(leavesOnly bool) {
	tr.t.Helper()
	var events [][]byte
	for _, line := range bytes.Split(tr.export(audit.Filter{}), []byte("\n")) {
		if _, event, ok := bytes.Cut(line, []byte(`,"event":`)); ok {
			events = append(events, event[:len(event)-1])
		}
	}
	var stored []tlog.Hash
	read := tlog.HashReaderFunc(func(places []int64) (hs []tlog.Hash, err error) {
		for _, p := range places {
			hs = append(hs, stored[p])
		}
		return hs, nil
	})
	var sql []string
	set := func(place int, h tlog.Hash) {
		sql = append(sql, fmt.Sprintf(`update audit_hashes set hash = '\x%x' where idx = %d`, h[:], place))
	}
	for seq, event := range events {
		hashes, err := tlog.StoredHashes(int64(seq), event, read)
		if err != nil {
			tr.t.Fatal(err)
		}
		for i, h := range hashes {
			if i == 0 || !leavesOnly {
				set(len(stored)+i, h)
			}
		}
		stored = append(stored, hashes...)
	}
	tr.tamper(sql...)
}

// resign replaces every checkpoint with one of the present hashes, signed with
// skey.
func (tr *trail) resign(skey string) {
	tr.t.Helper()
	signer, err := note.NewSigner(skey)
	if err != nil {
		tr.t.Fatal(err)
	}
	rows, _ := tr.db.Query(tr.ctx, "select note from audit_checkpoints order by size")
	defer rows.Close()
	var notes []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			tr.t.Fatal(err)
		}
		notes = append(notes, s)
	}
	for _, old := range notes {
		tree := parse(tr.t, old)
		p, err := audit.Consistency(tr.ctx, tr.db, tree.N, 0)
		if err != nil {
			tr.t.Fatal(err)
		}
		text, _, _ := strings.Cut(old, "\n\n")
		lines := strings.Split(text, "\n")
		lines[0], lines[2] = signer.Name(), p.OldRoot.String()
		signed, err := note.Sign(&note.Note{Text: strings.Join(lines, "\n") + "\n"}, signer)
		if err != nil {
			tr.t.Fatal(err)
		}
		tr.tamper(fmt.Sprintf(`update audit_checkpoints set note = $n$%s$n$, root = '\x%x' where size = %d`, signed, p.OldRoot[:], tree.N))
	}
}

var tables = []string{"audit_events", "audit_queue", "audit_log", "audit_hashes", "audit_checkpoints"}

// Every log here has the sizes 8, 13 and 20, and the checkpoints of 13 and 20
// were kept outside. The event at seq has the id seq+1.
func TestVerifyNamesWhatWasChanged(t *testing.T) {
	leaf := func(seq int64) int64 { return tlog.StoredHashIndex(0, seq) }
	edit := "update audit_events set actor_name = 'Eve' where id = 6"
	for name, c := range map[string]struct {
		change  func(tr *trail)
		sql     []string
		want    []string
		offline []string // where the export shows something else
		inside  []string // what the database finds without checkpoints kept outside, where that is less
	}{
		"nothing": {want: []string{}},
		"an event was edited": {
			sql:  []string{edit},
			want: []string{"edited 5 event 6"},
		},
		"an event was given a time that none can have": {
			sql:  []string{"update audit_events set at = 'infinity' where id = 6"},
			want: []string{"edited 5 event 6"},
		},
		"an event's details were nested": {
			sql:  []string{`update audit_events set details = '{"role": {"a": 1}}' where id = 6`},
			want: []string{"edited 5 event 6"},
		},
		"three events were edited": {
			sql:  []string{"update audit_events set request_id = 'x' where id in (1, 9, 20)"},
			want: []string{"edited 0 event 1", "edited 8 event 9", "edited 19 event 20"},
		},
		"an event was deleted": {
			sql:  []string{"delete from audit_events where id = 6"},
			want: []string{"missing 5 event 6"},
		},
		"an event and its entry were deleted": {
			sql:  []string{"delete from audit_events where id = 6", "delete from audit_log where event_id = 6"},
			want: []string{"missing 5"},
		},
		"an event was deleted with everything of its own": {
			sql: []string{
				"delete from audit_events where id = 6", "delete from audit_log where event_id = 6",
				fmt.Sprintf("delete from audit_hashes where idx in (%d, %d)", leaf(5), leaf(5)+1),
			},
			want: []string{"missing 5"},
		},
		"an entry was deleted and its event kept": {
			sql:  []string{"delete from audit_log where event_id = 6"},
			want: []string{"missing 5", "unlogged event 6"}, offline: []string{"missing 5"},
		},
		"an event was deleted and the log closed up": {
			change: func(tr *trail) {
				tr.tamper("delete from audit_events where id = 6", "delete from audit_log where event_id = 6",
					"update audit_log set seq = seq + 1000 where seq > 5", "update audit_log set seq = seq - 1001 where seq > 1000",
					fmt.Sprintf("delete from audit_hashes where idx >= %d", leaf(19)))
				tr.rewrite(false)
			},
			want: []string{"replaced 0-7", "replaced 0-12", "truncated 19", "truncated 19"},
		},
		"the newest event was deleted": {
			sql:  []string{"delete from audit_events where id = 20"},
			want: []string{"missing 19 event 20"},
		},
		"the newest events were deleted with all that tells of them": {
			sql: []string{
				"delete from audit_events where id > 13", "delete from audit_log where seq >= 13", "delete from audit_checkpoints where size > 13",
				fmt.Sprintf("delete from audit_hashes where idx >= %d", leaf(13)),
			},
			want: []string{"truncated 13-19"}, inside: []string{},
		},
		"the newest entries were deleted and their checkpoint kept": {
			sql: []string{
				"delete from audit_events where id > 13", "delete from audit_log where seq >= 13",
				fmt.Sprintf("delete from audit_hashes where idx >= %d", leaf(13)),
			},
			want: []string{"truncated 13-19", "truncated 13-19"},
		},
		"two events were exchanged": {
			sql: []string{`update audit_events e set (at, actor_kind, actor_id, actor_name, action, resource_kind, resource_id, details, request_id, replica)
				= (select at, actor_kind, actor_id, actor_name, action, resource_kind, resource_id, details, request_id, replica from audit_events where id = 16 - e.id)
				where id in (6, 10)`},
			want: []string{"swapped 5-9"},
		},
		"two entries were exchanged": {
			sql:  []string{"update audit_log set event_id = -16 + event_id where event_id in (6, 10)", "update audit_log set event_id = -event_id where event_id < 0"},
			want: []string{"swapped 5-9"},
		},
		"an event was edited and its leaf hash rewritten": {
			change: func(tr *trail) { tr.tamper(edit); tr.rewrite(true) },
			want:   []string{"replaced 0-7", "replaced 0-12", "edited 4-5"},
		},
		"an event was edited and all hashes rewritten": {
			change: func(tr *trail) { tr.tamper(edit); tr.rewrite(false) },
			want:   []string{"replaced 0-7", "replaced 0-12"},
		},
		"a late event was edited and all hashes rewritten": {
			change: func(tr *trail) {
				tr.tamper("update audit_events set actor_name = 'Eve' where id = 15")
				tr.rewrite(false)
			},
			want: []string{"replaced 13-19", "replaced 13-19"},
		},
		"an event was edited and everything signed anew with another key": {
			change: func(tr *trail) {
				tr.tamper(edit)
				tr.rewrite(false)
				skey, _, err := note.GenerateKey(rand.Reader, tr.log.Origin())
				if err != nil {
					tr.t.Fatal(err)
				}
				tr.resign(skey)
			},
			want: []string{"replaced 0-12", "unsigned 0-19", "forged 7", "forged 12", "forged 19"},
		},
		"a key was added and everything signed anew with it": {
			change: func(tr *trail) {
				tr.tamper(edit)
				tr.rewrite(false)
				skey, vkey, err := note.GenerateKey(rand.Reader, "certctl-audit-eve")
				if err != nil {
					tr.t.Fatal(err)
				}
				tr.tamper("insert into audit_keys values ('certctl-audit-eve', '" + vkey + "', 'x', now(), now())")
				tr.resign(skey)
			},
			want: []string{"replaced 0-12", "unsigned 0-19", "forged 7", "forged 12", "forged 19"},
		},
		"a leaf hash was changed": {
			sql:  []string{fmt.Sprintf("update audit_hashes set hash = sha256('x') where idx = %d", leaf(5))},
			want: []string{"rehashed 5 event 6"},
		},
		"a hash above two events was changed": {
			sql:  []string{fmt.Sprintf("update audit_hashes set hash = sha256('x') where idx = %d", leaf(5)+1)},
			want: []string{"rehashed 4-5"},
		},
		"a checkpoint was removed": {
			sql:  []string{"delete from audit_checkpoints where size = 13"},
			want: []string{"missing 12"},
		},
		"the newest checkpoint was removed": {
			sql:  []string{"delete from audit_checkpoints where size = 20"},
			want: []string{"unsigned 13-19"},
		},
		"all checkpoints were removed": {
			sql:  []string{"delete from audit_checkpoints"},
			want: []string{"unsigned 0-19"},
		},
		"a checkpoint's note was edited": {
			sql:  []string{"update audit_checkpoints set note = replace(note, 'token 7', 'token 9') where size = 13"},
			want: []string{"forged 12"},
		},
		"a checkpoint's row was edited": {
			sql:  []string{"update audit_checkpoints set token = 9 where size = 13"},
			want: []string{"forged 12"}, offline: []string{},
		},
		"an event was taken out of the queue": {
			change: func(tr *trail) { tr.write(1); tr.tamper("delete from audit_queue") },
			want:   []string{"unlogged event 21"}, offline: []string{},
		},
		"an event was deleted before it was logged": {
			change: func(tr *trail) { tr.write(1); tr.tamper("delete from audit_events where id = 21") },
			want:   []string{"missing event 21"}, offline: []string{},
		},
		"an entry was written far beyond the end": {
			sql:  []string{"insert into audit_log values (1000000000, 6000)"},
			want: []string{"unsigned 20-1000000000", "missing 20-999999999", "missing 1000000000 event 6000", "missing 1000000000"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := newTrail(t)
			tr.grow(8)
			o := audit.Options{Verifiers: []string{tr.log.Verifier()}, Checkpoints: []string{tr.grow(5), tr.grow(7)}}
			if c.change != nil {
				c.change(tr)
			}
			tr.tamper(c.sql...)

			check := func(where string, r audit.Report, err error, want []string) {
				t.Helper()
				got := problems(r)
				slices.Sort(got)
				want = slices.Sorted(slices.Values(want))
				if err != nil || !slices.Equal(got, want) || r.Intact() != (len(want) == 0) || r.Unchecked != 0 {
					t.Errorf("%s: %v\ngot  %q\nwant %q\n%s", where, err, got, want, r)
				}
			}
			if c.offline == nil {
				c.offline = c.want
			}
			r, err := tr.log.Verify(tr.ctx, tr.db, o)
			check("database", r, err, c.want)
			r, err = audit.VerifyStream(bytes.NewReader(tr.export(audit.Filter{})), o)
			check("export", r, err, c.offline)
			if c.inside != nil {
				r, err = tr.log.Verify(tr.ctx, tr.db, audit.Options{})
				check("database alone", r, err, c.inside)
			}
		})
	}
}

func TestVerifyFindsAReturnToAnOlderCopy(t *testing.T) {
	tr := newTrail(t)
	kept := []string{tr.grow(8), tr.grow(5)}
	for _, table := range tables {
		if _, err := tr.db.Exec(tr.ctx, "create table old_"+table+" as select * from "+table); err != nil {
			t.Fatal(err)
		}
	}
	kept = append(kept, tr.grow(7))
	for _, table := range tables {
		tr.tamper("delete from "+table, "insert into "+table+" overriding system value select * from old_"+table)
	}
	o := audit.Options{Verifiers: []string{tr.log.Verifier()}, Checkpoints: kept}
	both := func(want ...string) {
		t.Helper()
		r, err := tr.log.Verify(tr.ctx, tr.db, o)
		if err != nil || !slices.Equal(problems(r), want) {
			t.Errorf("database: %v\n%s", err, r)
		}
		r, err = audit.VerifyStream(bytes.NewReader(tr.export(audit.Filter{})), o)
		if err != nil || !slices.Equal(problems(r), want) {
			t.Errorf("export: %v\n%s", err, r)
		}
	}
	both("truncated 13-19")
	tr.grow(9)
	both("replaced 13-19")
}

func TestVerifyOfAFork(t *testing.T) {
	// Both histories are signed with the log's key; a copy of the checkpoints of
	// one among those of the other contradicts it.
	tr := newTrail(t)
	tr.grow(8)
	for _, table := range tables {
		if _, err := tr.db.Exec(tr.ctx, "create table old_"+table+" as select * from "+table); err != nil {
			t.Fatal(err)
		}
	}
	other := tr.grow(5)
	for _, table := range tables {
		tr.tamper("delete from "+table, "insert into "+table+" overriding system value select * from old_"+table)
	}
	tr.grow(7)
	root := parse(t, other).Hash
	at := strings.TrimPrefix(strings.Split(other, "\n")[5], "at ")
	tr.tamper(fmt.Sprintf(`insert into audit_checkpoints values (13, '\x%x', $n$%s$n$, 7, '%s')`, root[:], other, at))
	r, err := tr.log.Verify(tr.ctx, tr.db, audit.Options{})
	if got := problems(r); err != nil || !slices.Equal(got, []string{"replaced 8-12", "replaced 14"}) {
		t.Errorf("%v %q\n%s", err, got, r)
	}
}

func TestVerifyOptions(t *testing.T) {
	tr, other := newTrail(t), newTrail(t)
	tr.grow(3)
	foreign := other.grow(3)
	export := tr.export(audit.Filter{})

	t.Run("a report says that it believed the log's own key", func(t *testing.T) {
		r, err := audit.VerifyStream(bytes.NewReader(export), audit.Options{})
		if err != nil || !r.Intact() || !r.OwnKey || !strings.Contains(r.String(), "key that came with the log") {
			t.Errorf("%v\n%s", err, r)
		}
	})
	t.Run("another log's key does not fit", func(t *testing.T) {
		r, err := audit.VerifyStream(bytes.NewReader(export), audit.Options{Verifiers: []string{other.log.Verifier()}})
		if err != nil || !slices.Equal(problems(r), []string{"unsigned 0-2", "forged 2"}) {
			t.Errorf("%v\n%s", err, r)
		}
	})
	t.Run("another log's checkpoint does not fit", func(t *testing.T) {
		r, err := tr.log.Verify(tr.ctx, tr.db, audit.Options{Checkpoints: []string{foreign}})
		if err != nil || !slices.Equal(problems(r), []string{"forged 2"}) {
			t.Errorf("%v\n%s", err, r)
		}
	})
	t.Run("what is no key and no checkpoint is the caller's mistake", func(t *testing.T) {
		for field, o := range map[string]audit.Options{
			"verifiers":   {Verifiers: []string{"x"}},
			"checkpoints": {Checkpoints: []string{"x"}},
		} {
			_, err := audit.VerifyStream(bytes.NewReader(export), o)
			if fault.Of(err) != fault.Invalid || !strings.HasPrefix(err.Error(), field+":") {
				t.Errorf("%s: got %v", field, err)
			}
			if _, err := tr.log.Verify(tr.ctx, tr.db, o); fault.Of(err) != fault.Invalid {
				t.Errorf("%s: got %v", field, err)
			}
		}
	})
	t.Run("a reader that fails is no verdict", func(t *testing.T) {
		broken := errors.New("broken")
		_, err := audit.VerifyStream(io.MultiReader(bytes.NewReader(export[:200]), iotest.ErrReader(broken)), audit.Options{})
		if !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("an export that was cut off is incomplete", func(t *testing.T) {
		lines := bytes.SplitAfter(export, []byte("\n"))
		r, err := audit.VerifyStream(bytes.NewReader(bytes.Join(lines[:3], nil)), audit.Options{})
		if err != nil || !slices.Contains(problems(r), "incomplete 2") {
			t.Errorf("%v\n%s", err, r)
		}
	})
	t.Run("a line after the end is malformed", func(t *testing.T) {
		r, err := audit.VerifyStream(strings.NewReader(string(export)+"{}\n"), audit.Options{})
		if err != nil || !slices.Equal(problems(r), []string{"malformed 3"}) {
			t.Errorf("%v\n%s", err, r)
		}
	})
	t.Run("an empty file is incomplete", func(t *testing.T) {
		r, err := audit.VerifyStream(strings.NewReader(""), audit.Options{})
		if err != nil || !slices.Equal(problems(r), []string{"incomplete 0"}) {
			t.Errorf("%v\n%s", err, r)
		}
	})
	t.Run("a log without events is intact", func(t *testing.T) {
		newTrail(t).intact()
	})
}

func TestExport(t *testing.T) {
	tr := newTrail(t)
	tr.grow(1100)
	outside := tr.grow(1)
	tr.write(2)

	t.Run("events that are not in the log are counted and left out", func(t *testing.T) {
		export := tr.export(audit.Filter{})
		r, err := audit.VerifyStream(bytes.NewReader(export), audit.Options{})
		if err != nil || !r.Intact() || r.Events != 1101 || r.Waiting != 2 || r.Checkpoints != 3 {
			t.Errorf("%v\n%s", err, r)
		}
		if n := bytes.Count(export, []byte(`"event":`)); n != 1101 {
			t.Errorf("%d events", n)
		}
	})
	t.Run("a filtered export proves what it shows", func(t *testing.T) {
		export := tr.export(audit.Filter{ResourceID: "key-7"})
		o := audit.Options{Verifiers: []string{tr.log.Verifier()}, Checkpoints: []string{outside}}
		r, err := audit.VerifyStream(bytes.NewReader(export), o)
		if err != nil || !r.Intact() || r.Withheld != 1100 || r.Outside != 1 {
			t.Errorf("%v\n%s", err, r)
		}
		if n := bytes.Count(export, []byte(`"event":`)); n != 1 {
			t.Errorf("%d events", n)
		}
		r, err = audit.VerifyStream(bytes.NewReader(bytes.Replace(export, []byte(`"Ada"`), []byte(`"Eve"`), 1)), o)
		if err != nil || !slices.Contains(problems(r), "edited 7 event 8") {
			t.Errorf("%v\n%s", err, r)
		}
	})
	t.Run("events taken out of a whole export are missing", func(t *testing.T) {
		export := regexp.MustCompile(`,"event":[^\n]*}}}`).ReplaceAll(tr.export(audit.Filter{}), []byte("}"))
		r, err := audit.VerifyStream(bytes.NewReader(reseal(export)), audit.Options{})
		if err != nil || int64(len(r.Problems))+r.More != 1101 || r.Problems[0].Kind != audit.Missing {
			t.Errorf("%v\n%s", err, r)
		}
	})
	t.Run("a wrong filter is refused before anything is written", func(t *testing.T) {
		var b bytes.Buffer
		err := audit.Export(tr.ctx, tr.db, &b, audit.Filter{Category: "x"})
		if fault.Of(err) != fault.Invalid || b.Len() > 0 {
			t.Errorf("got %v and %q", err, b.String())
		}
	})
	t.Run("a writer that fails ends it and leaves the connection usable", func(t *testing.T) {
		full := errors.New("full")
		if err := audit.Export(tr.ctx, tr.db, failing{full}, audit.Filter{}); !errors.Is(err, full) {
			t.Errorf("got %v", err)
		}
		if n := tr.db.Stat().AcquiredConns(); n != 0 {
			t.Errorf("%d connections were not given back", n)
		}
	})
}

type failing struct{ err error }

func (w failing) Write([]byte) (int, error) { return 0, w.err }

// reseal gives an export the checksum that it would have were it genuine.
func reseal(export []byte) []byte {
	i := bytes.LastIndex(export, []byte(`"sha256":"`))
	if i < 0 {
		return export
	}
	i += len(`"sha256":"`)
	sum := sha256.Sum256(export[:i])
	return append(hex.AppendEncode(bytes.Clone(export[:i]), sum[:]), "\"}}\n"...)
}

func TestEveryMutationOfAnExportIsFound(t *testing.T) {
	tr := newTrail(t)
	tr.grow(8)
	tr.grow(5)
	o := audit.Options{Verifiers: []string{tr.log.Verifier()}, Checkpoints: []string{tr.grow(7)}}
	export := tr.export(audit.Filter{})
	if r, err := audit.VerifyStream(bytes.NewReader(export), o); err != nil || !r.Intact() {
		t.Fatalf("unmutated: %v\n%s", err, r)
	}
	if !bytes.Equal(reseal(export), export) {
		t.Fatal("reseal changes an export that was not mutated")
	}
	whole := bytes.SplitAfter(export, []byte("\n"))
	whole = whole[:len(whole)-1]

	rapid.Check(t, func(t *rapid.T) {
		lines := slices.Clone(whole)
		line := rapid.IntRange(0, len(lines)-1).Draw(t, "line")
		// The first and the last line hold things that nothing but the checksum
		// covers: somebody who can compute one can change those.
		inner := line > 0 && line < len(lines)-1
		sealed := false
		switch how := rapid.SampledFrom([]string{"flip", "insert", "cut", "remove", "repeat", "swap", "renumber"}).Draw(t, "how"); how {
		case "flip":
			at := rapid.IntRange(0, len(lines[line])-1).Draw(t, "at")
			lines[line] = bytes.Clone(lines[line])
			lines[line][at] ^= byte(rapid.IntRange(1, 255).Draw(t, "bits"))
			sealed = inner
		case "insert":
			at := rapid.IntRange(0, len(lines[line])).Draw(t, "at")
			lines[line] = slices.Insert(bytes.Clone(lines[line]), at, rapid.Byte().Draw(t, "byte"))
			sealed = inner
		case "cut":
			at := rapid.IntRange(0, len(lines[line])-1).Draw(t, "at")
			lines = append(lines[:line], lines[line][:at])
		case "remove":
			lines = slices.Delete(lines, line, line+1)
			sealed = inner
		case "repeat":
			lines = slices.Insert(lines, line, lines[line])
			sealed = inner
		case "swap", "renumber":
			other := rapid.IntRange(0, len(lines)-1).Draw(t, "other")
			if bytes.Equal(lines[line], lines[other]) {
				t.Skip("nothing changes")
			}
			sealed = inner && other > 0 && other < len(lines)-1
			lines[line], lines[other] = lines[other], lines[line]
			if how == "renumber" {
				seq := regexp.MustCompile(`^{"seq":\d+`)
				a, b := seq.Find(lines[line]), seq.Find(lines[other])
				if a == nil || b == nil {
					t.Skip("only entries have numbers")
				}
				lines[line], lines[other] = seq.ReplaceAll(lines[line], b), seq.ReplaceAll(lines[other], a)
			}
		}
		mutated := bytes.Join(lines, nil)
		if sealed && rapid.Bool().Draw(t, "reseal") {
			mutated = reseal(mutated)
		}
		r, err := audit.VerifyStream(bytes.NewReader(mutated), o)
		if err != nil || r.Intact() {
			t.Fatalf("not found: %v\n%s\n%s", err, r, mutated)
		}
	})
}

func TestVerifyStreamNamesWhatWasChangedInTheFile(t *testing.T) {
	tr := newTrail(t)
	tr.grow(8)
	o := audit.Options{Verifiers: []string{tr.log.Verifier()}, Checkpoints: []string{tr.grow(5)}}
	whole := bytes.SplitAfter(tr.export(audit.Filter{}), []byte("\n"))
	whole = whole[:len(whole)-1] // 0 log; 1-8 events; 9 checkpoint; 10-14 events; 15 checkpoint; 16 end
	for name, c := range map[string]struct {
		change func(lines [][]byte) [][]byte
		want   []string
	}{
		"a line was removed":                                      {func(l [][]byte) [][]byte { return slices.Delete(l, 3, 4) }, []string{"missing 2"}},
		"the last line before a checkpoint was removed":           {func(l [][]byte) [][]byte { return slices.Delete(l, 8, 9) }, []string{"missing 7"}},
		"two lines changed places":                                {func(l [][]byte) [][]byte { l[3], l[4] = l[4], l[3]; return l }, []string{"swapped 2-3"}},
		"a checkpoint and the event that it signs changed places": {func(l [][]byte) [][]byte { l[14], l[15] = l[15], l[14]; return l }, []string{"malformed 12"}},
		"a line stands twice":                                     {func(l [][]byte) [][]byte { return slices.Insert(l, 3, l[3]) }, []string{"malformed 2"}},
		"a checkpoint was removed":                                {func(l [][]byte) [][]byte { return slices.Delete(l, 9, 10) }, []string{"missing 7"}},
		"the last event was removed":                              {func(l [][]byte) [][]byte { return slices.Delete(l, 14, 15) }, []string{"missing 12", "truncated 12", "truncated 12"}},
		"the tail was removed":                                    {func(l [][]byte) [][]byte { return slices.Delete(l, 10, 16) }, []string{"missing 8-12", "truncated 8-12"}},
		"an event was edited":                                     {replaced(3, "Ada", "Eve"), []string{"edited 2 event 3"}},
		"an event and leaf were edited":                           {func(l [][]byte) [][]byte { l[3] = forge(l[3]); return l }, []string{"edited 2-3", "replaced 0-7", "replaced 0-12"}},
		"a name was spelled otherwise":                            {replaced(3, `"leaf"`, `"LEAF"`), []string{"malformed 2"}},
		"a blank was added":                                       {replaced(3, `{"seq":2,`, `{"seq":2, `), []string{"malformed 2"}},
		"a line was added that is none":                           {func(l [][]byte) [][]byte { return slices.Insert(l, 3, []byte("{}\n")) }, []string{"malformed 2"}},
		"unused bits of a signature were set":                     {looseBits, []string{"forged 7"}},
		"a signature was added":                                   {replaced(9, `=\n"}`, `=\n— other AAAAAAAA\n"}`), []string{"forged 7"}},
		"the header was removed":                                  {func(l [][]byte) [][]byte { return l[1:] }, []string{"malformed 0"}},
	} {
		t.Run(name, func(t *testing.T) {
			mutated := reseal(bytes.Join(c.change(slices.Clone(whole)), nil))
			r, err := audit.VerifyStream(bytes.NewReader(mutated), o)
			got := problems(r)
			slices.Sort(got)
			if err != nil || !slices.Equal(got, slices.Sorted(slices.Values(c.want))) {
				t.Errorf("%v\ngot  %q\nwant %q\n%s", err, got, c.want, r)
			}
		})
	}
}

func replaced(line int, old, text string) func([][]byte) [][]byte {
	return func(lines [][]byte) [][]byte {
		if !bytes.Contains(lines[line], []byte(old)) {
			panic("nothing to replace")
		}
		lines[line] = bytes.Replace(lines[line], []byte(old), []byte(text), 1)
		return lines
	}
}

// looseBits changes the bits of a signature that base64 does not use.
func looseBits(lines [][]byte) [][]byte {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	line := bytes.Clone(lines[9])
	i := bytes.LastIndex(line, []byte("=")) - 1
	line[i] = alphabet[strings.IndexByte(alphabet, line[i])|1]
	lines[9] = line
	return lines
}

// forge edits the event of a line and makes the leaf hash fit.
func forge(line []byte) []byte {
	line = bytes.Replace(line, []byte("Ada"), []byte("Eve"), 1)
	var l struct {
		Leaf  string          `json:"leaf"`
		Event json.RawMessage `json:"event"`
	}
	if err := json.Unmarshal(line, &l); err != nil {
		panic(err)
	}
	h := tlog.RecordHash(l.Event)
	return bytes.Replace(line, []byte(l.Leaf), []byte(base64.StdEncoding.EncodeToString(h[:])), 1)
}
