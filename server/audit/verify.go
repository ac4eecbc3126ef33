package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"certctl/server/fault"
)

// Options say what a verification may trust. Each is worth something only if it
// was kept where those who can write to the database cannot.
type Options struct {
	// Verifiers are the public keys that signed the log: Log.Verifier, and those
	// of retired keys. Without one, the keys that come with the log are used.
	Verifiers []string
	// Checkpoints are signed notes that Checkpoint returned at some time.
	Checkpoints []string
}

// A Kind of problem.
type Kind string

// The kinds of problem. What was changed has the first that fits.
const (
	Edited     Kind = "edited"     // an event is not the one that was logged
	Swapped    Kind = "swapped"    // two events stand in each other's place
	Rehashed   Kind = "rehashed"   // a stored hash was changed, the events below it were not
	Missing    Kind = "missing"    // something between others is gone
	Truncated  Kind = "truncated"  // a checkpoint signs more events than there are
	Replaced   Kind = "replaced"   // the log is another one than a checkpoint signs: rewritten, or rolled back and continued
	Forged     Kind = "forged"     // a checkpoint is not signed by the log's key, or its row says something else
	Unsigned   Kind = "unsigned"   // the newest entries have no checkpoint, which they were written with
	Unlogged   Kind = "unlogged"   // an event is neither in the log nor waiting for it
	Malformed  Kind = "malformed"  // a line is not one that an export has there
	Incomplete Kind = "incomplete" // an export was cut off
)

// A Problem is one thing that is not as it was signed.
type Problem struct {
	Kind    Kind   `json:"kind"`
	Seq     int64  `json:"seq"`                // the first place in the log that is concerned; -1 if none is
	Last    int64  `json:"last"`               // the last one
	EventID int64  `json:"event_id,omitempty"` // 0 if unknown, or if there are several
	Detail  string `json:"detail"`
}

func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(string(p.Kind))
	switch {
	case p.Kind == Swapped:
		fmt.Fprintf(&b, " seq %d and %d", p.Seq, p.Last)
	case p.Seq >= 0 && p.Last == p.Seq:
		fmt.Fprintf(&b, " seq %d", p.Seq)
	case p.Seq >= 0:
		fmt.Fprintf(&b, " seq %d to %d", p.Seq, p.Last)
	}
	if p.EventID != 0 {
		fmt.Fprintf(&b, " (event %d)", p.EventID)
	}
	return b.String() + ": " + p.Detail
}

// A Report is what a verification found.
type Report struct {
	Origin      string    `json:"origin"`
	OwnKey      bool      `json:"own_key"`     // signatures were checked with the key that came with the log
	Events      int64     `json:"events"`      // places in the log
	Withheld    int64     `json:"withheld"`    // of these, left out by the export's filter: proved to be there, not read
	Waiting     int64     `json:"waiting"`     // events not in the log yet, so not verified
	Checkpoints int64     `json:"checkpoints"` // stored ones that the log agrees with
	Outside     int64     `json:"outside"`     // ones kept outside that the log agrees with
	Unchecked   int64     `json:"unchecked"`   // checkpoints that lost hashes leave without comparison
	Problems    []Problem `json:"problems"`
	More        int64     `json:"more"` // problems beyond those listed
}

// Intact reports whether nothing was found.
func (r Report) Intact() bool { return len(r.Problems) == 0 && r.More == 0 }

func (r Report) String() string {
	var b strings.Builder
	state := "intact"
	if !r.Intact() {
		state = fmt.Sprintf("%d problems", int64(len(r.Problems))+r.More)
	}
	fmt.Fprintf(&b, "audit log %s: %s; %d events, %d checkpoints, %d kept outside", r.Origin, state, r.Events, r.Checkpoints, r.Outside)
	if r.Withheld > 0 {
		fmt.Fprintf(&b, "; %d events withheld by the filter", r.Withheld)
	}
	if r.Waiting > 0 {
		fmt.Fprintf(&b, "; %d events wait for the log", r.Waiting)
	}
	if r.Unchecked > 0 {
		fmt.Fprintf(&b, "; %d checkpoints could not be compared", r.Unchecked)
	}
	b.WriteByte('\n')
	for _, p := range r.Problems {
		fmt.Fprintf(&b, "  %s\n", p)
	}
	if r.More > 0 {
		fmt.Fprintf(&b, "  and %d more\n", r.More)
	}
	if r.OwnKey {
		b.WriteString("  signatures were checked with the key that came with the log: give one that was kept outside to find forgery\n")
	}
	if r.Outside == 0 {
		b.WriteString("  no checkpoint kept outside agrees with the log: a cut at its end and a return to an older copy stay unseen without one\n")
	}
	return b.String()
}

// listed is how many problems a report lists.
const listed = 100

// Verify recomputes the whole log from the events in the database.
func (l *Log) Verify(ctx context.Context, db *pgxpool.Pool, o Options) (Report, error) {
	var v *verifier
	err := snapshot(ctx, db, func(tx pgx.Tx) error {
		keys, err := allKeys(ctx, tx)
		if err != nil {
			return err
		}
		// A key that is not sealed under the server's own key may have been put
		// there; it has to be named from outside.
		own := []string{}
		for _, k := range keys {
			if _, err := k.open(l.box); err == nil {
				own = append(own, k.Verifier)
			}
		}
		if v, err = newVerifier(o); err != nil {
			return err
		}
		if err := v.trust(l.Origin(), own); err != nil {
			return err
		}
		_, v.report.Waiting, err = walk(ctx, tx, Filter{}, visitor{
			entry: func(e entry) error { v.entry(e); return nil },
			checkpoint: func(row checkpointRow) error {
				if c, err := v.checkpoint(row.Note); err == nil && !row.says(c) {
					v.problem(Problem{
						Forged, c.Size - 1, c.Size - 1, 0,
						fmt.Sprintf("the row of the checkpoint of size %d does not repeat its note", row.Size),
					})
				}
				return nil
			},
		})
		if err != nil {
			return err
		}
		return v.strays(ctx, tx)
	})
	if err != nil {
		return Report{}, fmt.Errorf("verify the audit log: %w", err)
	}
	return v.finish(), nil
}

func (r checkpointRow) says(c checkpoint) bool {
	return r.Size == c.Size && bytes.Equal(r.Root, c.Root[:]) && r.Token == c.Token && r.At.Equal(c.At)
}

// strays looks for events that the log does not lead to.
func (v *verifier) strays(ctx context.Context, tx pgx.Tx) error {
	var without, gone []int64
	read := &pgx.Batch{}
	read.Queue(unlogged, listed).Query(collect(&without, pgx.RowTo[int64]))
	read.Queue(lostFromQueue, listed).Query(collect(&gone, pgx.RowTo[int64]))
	if err := tx.SendBatch(ctx, read).Close(); err != nil {
		return err
	}
	for _, id := range without {
		v.problem(Problem{Unlogged, -1, -1, id, "the event is neither in the log nor waiting for it"})
	}
	for _, id := range gone {
		v.problem(Problem{Missing, -1, -1, id, "the event waits for the log and is gone"})
	}
	return nil
}

// maxLine bounds a line of an export; Write bounds what an event can need.
const maxLine = 16 << 20

// VerifyStream verifies an export. It needs nothing else, and memory that does
// not grow with the log. An error says that r failed or o is wrong; whatever is
// wrong with the export is in the report.
func VerifyStream(r io.Reader, o Options) (Report, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	lines.Split(wholeLines)
	v, err := newVerifier(o)
	if err != nil {
		return Report{}, err
	}
	sum := sha256.New()
	var last *end
	for n := 1; lines.Scan(); n++ {
		line := lines.Bytes()
		var w wire
		malformed := func(format string, args ...any) {
			v.problem(Problem{Malformed, v.stored.n, v.stored.n, 0, fmt.Sprintf("line %d ", n) + fmt.Sprintf(format, args...)})
		}
		switch err := json.Unmarshal(line, &w); {
		case last != nil:
			malformed("stands after the end")
		case err != nil || w.empty():
			malformed("is not one of an export")
		case !w.is(line):
			malformed("was edited: an export writes it otherwise")
		case (n == 1) != (w.Log != nil):
			malformed("is out of place: an export begins with its log, and only there")
		}
		if n == 1 {
			h := header{}
			if w.Log != nil {
				h = *w.Log
			}
			v.filter = h.Filter != nil
			if err := v.trust(h.Origin, h.Verifiers); err != nil {
				malformed("names keys that are none: %v", err)
			}
		}
		if last != nil {
			continue
		}
		switch {
		case w.Seq != nil:
			v.entry(w.entry())
		case w.Checkpoint != nil:
			_, _ = v.checkpoint(*w.Checkpoint) // what is wrong with it is in the report
		case w.End != nil:
			last = w.End
			if !bytes.Equal(line, last.line(sum)) {
				malformed("has another checksum than the lines before it: one of them was edited")
			}
		}
		sum.Write(line)
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		v.problem(Problem{Malformed, v.stored.n, v.stored.n, 0, fmt.Sprintf("a line is longer than %d bytes, and nothing after it was read", maxLine)})
	case err != nil:
		return Report{}, fmt.Errorf("read the export: %w", err)
	}
	switch n := v.stored.n; {
	case last == nil:
		v.problem(Problem{Incomplete, n, n, 0, fmt.Sprintf("the export was cut off after %d events", n)})
	case last.Events > n:
		v.problem(Problem{Missing, n, last.Events - 1, 0, fmt.Sprintf("the export ends with %d events and has %d", last.Events, n)})
	case last.Events < n:
		v.problem(Problem{Malformed, last.Events, n - 1, 0, fmt.Sprintf("the export ends with %d events and has %d", last.Events, n)})
	default:
		v.report.Waiting = last.Waiting
	}
	return v.finish(), nil
}

// wholeLines splits into lines and leaves them their line feed, so that no byte
// goes unseen.
func wholeLines(data []byte, atEOF bool) (int, []byte, error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i+1], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

// A verifier follows a log from its first entry. It keeps the edge of the tree
// and what it has found.
type verifier struct {
	given   Options
	keys    note.Verifiers
	outside []checkpoint // kept outside and not reached yet, ascending; all are signed
	ahead   []checkpoint // stored ones for which entries lack, ascending
	filter  bool         // events may be left out

	// stored grows from the leaf hashes as they are stored, computed from those
	// of the events as they are. Which of the two a checkpoint signs tells
	// whether the event was changed or its hash. They differ only while forked.
	stored, computed tree
	forked           bool

	suspects      []*suspect // in order
	previous      int64      // size at the last stored checkpoint
	signed        int64      // size at the last one with a good signature
	inside, apart series     // stored checkpoints, and those kept outside

	report Report
}

// A suspect is a place, or the places below a subtree, whose hashes contradict
// each other.
type suspect struct {
	first, last int64
	is          Kind // empty until a checkpoint tells
	// Of a single place:
	event  []byte
	leaf   tlog.Hash // stored
	actual tlog.Hash // of the event
}

// A series is the checkpoints that come from one place.
type series struct {
	good  int64       // size at the last one that the log agrees with
	bad   *checkpoint // the first that it does not agree with
	from  int64       // good at that time
	later int         // how many more
}

func newVerifier(o Options) (*verifier, error) {
	if _, err := verifiers(o.Verifiers); err != nil {
		return nil, fault.New(fault.Invalid, "verifiers: %v", err)
	}
	for i, signed := range o.Checkpoints {
		if _, err, _ := openCheckpoint(signed, nil); err != nil {
			return nil, fault.New(fault.Invalid, "checkpoints: number %d is %v", i+1, err)
		}
	}
	return &verifier{given: o, report: Report{OwnKey: len(o.Verifiers) == 0, Problems: []Problem{}}}, nil
}

// trust sets the keys, the given ones or else the log's own, and reads the
// checkpoints that were kept outside.
func (v *verifier) trust(origin string, own []string) (err error) {
	v.report.Origin = origin
	keys := v.given.Verifiers
	if v.report.OwnKey {
		keys = own
	}
	v.keys, err = verifiers(keys)
	for _, signed := range v.given.Checkpoints {
		c, _, errSign := openCheckpoint(signed, v.keys)
		if errSign != nil {
			v.problem(Problem{
				Forged, c.Size - 1, c.Size - 1, 0,
				fmt.Sprintf("the checkpoint of size %d kept outside, of the log %s: %v", c.Size, c.Origin, errSign),
			})
			continue
		}
		v.outside = append(v.outside, c)
	}
	slices.SortFunc(v.outside, func(a, b checkpoint) int { return cmp.Compare(a.Size, b.Size) })
	return err
}

func (v *verifier) problem(p Problem) {
	if len(v.report.Problems) == listed {
		v.report.More++
		return
	}
	v.report.Problems = append(v.report.Problems, p)
}

func (v *verifier) suspect(s *suspect) {
	if len(v.suspects) == listed {
		v.report.More++
		return
	}
	v.suspects = append(v.suspects, s)
}

// entry takes the next entry of the log.
func (v *verifier) entry(e entry) {
	if e.Seq < v.stored.n || e.Seq >= longest {
		v.late(e.Seq)
		return
	}
	if e.Seq > v.stored.n {
		v.problem(Problem{Missing, v.stored.n, e.Seq - 1, 0, "nothing stands in the log between its neighbours"})
		v.skip(e.Seq)
	}
	for _, c := range v.ahead { // no gap explains why
		v.problem(Problem{Malformed, c.Size - 1, c.Size - 1, 0, fmt.Sprintf("the checkpoint of size %d stands before this entry", c.Size)})
	}
	v.ahead = nil
	here := func(kind Kind, event int64, detail string) { v.problem(Problem{kind, e.Seq, e.Seq, event, detail}) }

	leaf := node{known: len(e.Leaf) == tlog.HashSize}
	if leaf.known {
		leaf.hash = tlog.Hash(e.Leaf)
	} else {
		here(Missing, 0, "its leaf hash is gone")
	}
	actual := leaf
	switch {
	case e.Event != nil:
		actual = node{tlog.RecordHash(e.Event), true}
		if !leaf.known {
			leaf = actual
		}
		if leaf != actual {
			v.suspect(&suspect{first: e.Seq, last: e.Seq, event: bytes.Clone(e.Event), leaf: leaf.hash, actual: actual.hash})
		}
	case e.Missing != nil && *e.Missing == 0:
		here(Missing, 0, "its entry in the log is gone")
	case e.Missing != nil:
		here(Missing, *e.Missing, "the event was logged and is gone")
	case v.filter:
		v.report.Withheld++
	default:
		here(Missing, 0, "the event was taken out")
	}
	if len(e.Nodes) > completes(e.Seq) {
		here(Malformed, 0, "it has more hashes than it completes subtrees")
	}
	v.grow(e, leaf, actual)
}

// grow appends the leaf to the trees and compares every subtree that it
// completes with the stored hash.
func (v *verifier) grow(e entry, leaf, actual node) {
	if leaf != actual && !v.forked {
		v.computed, v.forked = v.stored.clone(), true
	}
	kept := func(level int) (node, bool) {
		if level <= len(e.Nodes) && len(e.Nodes[level-1]) == tlog.HashSize {
			return node{tlog.Hash(e.Nodes[level-1]), true}, true
		}
		return node{}, false
	}
	v.stored.add(leaf, func(level int, n node) node {
		first := e.Seq + 1 - 1<<level
		switch k, ok := kept(level); {
		case !ok:
			v.problem(Problem{Missing, first, e.Seq, 0, "the stored hash of these places is gone"})
		case !n.known:
			return k // a lost leaf stays below it; the next checkpoint tells whether it is true
		case n != k && !v.suspected(first):
			v.suspect(&suspect{first: first, last: e.Seq})
		}
		return n
	})
	if v.forked {
		v.computed.add(actual, func(level int, n node) node {
			if k, ok := kept(level); ok && !n.known {
				return k
			}
			return n
		})
	}
	v.reach()
}

// suspected reports whether something from first on is suspect already, so that
// the hashes above it are no news.
func (v *verifier) suspected(first int64) bool {
	return len(v.suspects) > 0 && v.suspects[len(v.suspects)-1].first >= first
}

// late takes an entry whose place has been passed, or is none.
func (v *verifier) late(seq int64) {
	for i, p := range v.report.Problems {
		if p.Kind == Missing && p.Seq == seq && p.Last == seq {
			v.report.Problems[i] = Problem{Swapped, seq, v.stored.n - 1, 0, "the first stands after the second"}
			return
		}
	}
	v.problem(Problem{Malformed, seq, seq, 0, fmt.Sprintf("it stands after %d events", v.stored.n)})
}

// farthest is how many lost places are gone through one by one.
const farthest = 1 << 20

// skip loses the leaves up to seq.
func (v *verifier) skip(seq int64) {
	if seq-v.stored.n > farthest {
		v.stored = tree{seq, make([]node, bits.OnesCount64(uint64(seq)))}
		v.forked = false
	}
	for same := func(_ int, n node) node { return n }; v.stored.n < seq; {
		v.stored.add(node{}, same)
		if v.forked {
			v.computed.add(node{}, same)
		}
	}
	v.reach()
}

// reach compares the checkpoints of the present size that came before it.
func (v *verifier) reach() {
	v.outside = v.reached(v.outside, &v.apart, &v.report.Outside)
	v.ahead = v.reached(v.ahead, &v.inside, &v.report.Checkpoints)
}

func (v *verifier) reached(cs []checkpoint, in *series, agree *int64) []checkpoint {
	for ; len(cs) > 0 && cs[0].Size <= v.stored.n; cs = cs[1:] {
		if cs[0].Size == v.stored.n {
			v.compare(cs[0], in, agree)
		} else {
			v.report.Unchecked++ // it signs the middle of a gap
		}
	}
	return cs
}

// checkpoint takes the next stored checkpoint. An error says that the note
// tells nothing, which is reported already.
func (v *verifier) checkpoint(signed string) (checkpoint, error) {
	n := v.stored.n
	c, err, errSign := openCheckpoint(signed, v.keys)
	if err != nil {
		v.problem(Problem{Forged, n - 1, n - 1, 0, fmt.Sprintf("a checkpoint after %d events: %v", n, err)})
		return c, err
	}
	about := func(kind Kind, size int64, format string, args ...any) {
		v.problem(Problem{kind, size - 1, size - 1, 0, fmt.Sprintf("the checkpoint of size %d ", size) + fmt.Sprintf(format, args...)})
	}
	if errSign == nil && !soleSignature(signed) {
		errSign = errors.New("more than its signature was written to it")
	}
	if c.Size <= v.previous {
		about(Malformed, c.Size, "stands after that of size %d", v.previous)
		return c, nil
	}
	before := v.previous
	v.previous = c.Size
	if errSign != nil {
		about(Forged, c.Size, "of the log %s: %v", c.Origin, errSign)
		return c, errSign
	}
	switch {
	case c.Previous > before:
		about(Missing, c.Previous, "is gone: that of size %d follows it", c.Size)
	case c.Previous < before:
		about(Replaced, c.Size, "follows that of size %d, and that of size %d stands between: the log has two histories", c.Previous, before)
	}
	v.signed = c.Size
	switch {
	case c.Size > n && len(v.ahead) < listed:
		v.ahead = append(v.ahead, c)
	case c.Size > n:
		v.report.More++
	case c.Size < n:
		about(Malformed, c.Size, "stands after the event %d", n-1)
	default:
		v.compare(c, &v.inside, &v.report.Checkpoints)
	}
	return c, nil
}

// compare sets a checkpoint whose signature is good beside the trees of its
// size.
func (v *verifier) compare(c checkpoint, in *series, agree *int64) {
	root, known := v.stored.root()
	other, otherKnown := root, known
	if v.forked {
		other, otherKnown = v.computed.root()
	}
	switch {
	case known && root == c.Root:
		v.settle(Edited)
	case otherKnown && other == c.Root:
		v.stored = v.computed
		v.settle(Rehashed)
	case !known && !otherKnown:
		v.report.Unchecked++
		return
	case in.bad != nil:
		in.later++
		return
	default:
		in.bad, in.from = &c, in.good
		return
	}
	in.good = c.Size
	*agree++
}

// settle says what happened to the suspects so far: leaf is what did to single
// places. A subtree that a checkpoint covers is as it was signed.
func (v *verifier) settle(leaf Kind) {
	for _, s := range v.suspects {
		if s.is == "" {
			s.is = leaf
			if s.event == nil {
				s.is = Rehashed
			}
		}
	}
	v.forked, v.computed = false, tree{}
}

// finish returns the report of a log that ends here.
func (v *verifier) finish() Report {
	n := v.stored.n
	v.report.Events = n
	v.swapped()
	for _, s := range v.suspects {
		v.problem(s.problem())
	}
	for _, in := range []struct {
		series
		which string
	}{{v.inside, ""}, {v.apart, " kept outside"}} {
		if in.bad == nil {
			continue
		}
		detail := fmt.Sprintf("the log does not hold what the checkpoint of size %d%s signs", in.bad.Size, in.which)
		if in.from > 0 {
			detail += fmt.Sprintf("; it agrees with that of size %d", in.from)
		}
		if in.later > 0 {
			detail += fmt.Sprintf("; %d later ones do not fit either", in.later)
		}
		v.problem(Problem{Replaced, in.from, in.bad.Size - 1, 0, detail})
	}
	for _, c := range v.ahead {
		v.problem(Problem{Truncated, n, c.Size - 1, 0, fmt.Sprintf("the log has %d events, a checkpoint signs %d", n, c.Size)})
	}
	for _, c := range v.outside {
		v.problem(Problem{Truncated, n, c.Size - 1, 0, fmt.Sprintf("the log has %d events, a checkpoint kept outside signs %d", n, c.Size)})
	}
	if v.signed < n {
		v.problem(Problem{Unsigned, v.signed, n - 1, 0, "no checkpoint signs these entries, and each is written with one"})
	}
	slices.SortStableFunc(v.report.Problems, func(a, b Problem) int { return cmp.Compare(uint64(a.Seq), uint64(b.Seq)) })
	return v.report
}

func (s *suspect) problem() Problem {
	p := Problem{s.is, s.first, s.last, 0, ""}
	switch {
	case s.is == Rehashed:
		p.Detail = "a stored hash was changed; what it stands for is as it was signed"
	case s.event == nil:
		p.Kind, p.Detail = Edited, "something here was rewritten together with its hash: the stored hash above does not follow"
	case s.is == Edited:
		p.Detail = "the event is not the one that was logged and signed"
	default:
		p.Kind, p.Detail = Edited, "the event and its stored hash contradict each other, and no checkpoint tells which was changed"
	}
	if s.event != nil {
		if r, err := parseLeaf(s.event); err == nil {
			p.EventID = r.ID
		}
	}
	return p
}

// swapped turns pairs of edited events, each of which fits in the other's
// place, into one problem.
func (v *verifier) swapped() {
	var left []*suspect
	for _, s := range v.suspects {
		i := slices.IndexFunc(left, func(o *suspect) bool { return exchanged(s, o) })
		if i < 0 {
			left = append(left, s)
			continue
		}
		o := left[i]
		left = slices.Delete(left, i, i+1)
		v.problem(Problem{Swapped, o.first, s.first, 0, "each holds the event that was logged in the other's place"})
	}
	v.suspects = left
}

func exchanged(a, b *suspect) bool {
	if a.event == nil || b.event == nil || a.is == Rehashed || b.is == Rehashed {
		return false
	}
	if a.actual == b.leaf && b.actual == a.leaf {
		return true
	}
	// The rows may have kept their ids and exchanged all else.
	ra, errA := parseLeaf(a.event)
	rb, errB := parseLeaf(b.event)
	ra.ID, rb.ID = rb.ID, ra.ID
	return errA == nil && errB == nil && ra.leaf() == b.leaf && rb.leaf() == a.leaf
}
