package audit

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"math"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/mod/sumdb/tlog"
)

// Export writes the log as lines of JSON, in the order of the log:
//
//	{"log":{"origin":"…","verifiers":["…"],"filter":{…}}}
//	{"seq":0,"leaf":"<base64>","event":{…}}
//	{"seq":1,"leaf":"<base64>","nodes":["<base64>"],"event":{…}}
//	{"checkpoint":"<signed note>"}
//	{"end":{"events":2,"waiting":0,"sha256":"<hex>"}}
//
// The bytes of an event are those that its leaf hash covers. nodes are the
// stored hashes of the subtrees that the event completes, lowest first. A
// checkpoint follows the last event that it signs. An event that the filter
// leaves out keeps its line without "event", so that the rest can be proved. One
// that is gone has "missing" and its id instead. waiting is how many events
// were committed and not yet in the log; they are not in the export. sha256 is
// that of all bytes before it, and shows damage, not forgery.
//
// A wrong filter is refused before anything is written. The export is one
// snapshot, whose transaction stays open until w has taken the last line. The
// caller writes the event Exported before.
func Export(ctx context.Context, db *pgxpool.Pool, w io.Writer, f Filter) error {
	for _, t := range []*time.Time{&f.Since, &f.Until} {
		if !t.IsZero() {
			*t = t.UTC()
		}
	}
	return snapshot(ctx, db, func(tx pgx.Tx) error {
		keys, err := allKeys(ctx, tx)
		if err != nil {
			return fmt.Errorf("read the audit signing keys: %w", err)
		}
		h := header{Verifiers: publicKeys(keys)}
		for _, k := range keys {
			if k.Active {
				h.Origin = k.Name
			}
		}
		if f != (Filter{}) {
			h.Filter = &f
		}
		sum := sha256.New()
		buffered := bufio.NewWriterSize(w, 64<<10)
		put := func(line []byte) error {
			sum.Write(line)
			_, err := buffered.Write(line)
			return err
		}
		if err := put(h.line()); err != nil {
			return err
		}
		var scratch []byte
		size, waiting, err := walk(ctx, tx, f, visitor{
			entry: func(l entry) error {
				scratch = l.appendLine(scratch[:0])
				return put(scratch)
			},
			checkpoint: func(c checkpointRow) error { return put(checkpointLine(c.Note)) },
		})
		if err != nil {
			return err
		}
		if _, err := buffered.Write(end{Events: size, Waiting: waiting}.line(sum)); err != nil {
			return err
		}
		return buffered.Flush()
	})
}

func snapshot(ctx context.Context, db *pgxpool.Pool, f func(pgx.Tx) error) error {
	// A reader may be slow; one that says nothing for five minutes is frozen,
	// and its snapshot would keep migrations waiting.
	return pgx.BeginTxFunc(ctx, db, pgx.TxOptions{
		BeginQuery: `begin isolation level repeatable read read only; set local idle_in_transaction_session_timeout = '5min'`,
	}, f)
}

type header struct {
	Origin    string   `json:"origin"`
	Verifiers []string `json:"verifiers"` // oldest first
	Filter    *Filter  `json:"filter,omitempty"`
}

func (h header) line() []byte {
	b, err := json.Marshal(map[string]header{"log": h})
	if err != nil {
		return nil // a time that neither args nor the decoder takes
	}
	return append(b, '\n')
}

// An entry is a place in the log with what is stored for it.
type entry struct {
	Seq     int64
	Leaf    []byte   // empty if it is gone
	Nodes   [][]byte // of the subtrees that it completes; empty ones are gone
	Event   []byte   // canonical; nil if it is gone or left out
	Missing *int64   // id of the event that is gone, 0 if not even that is known
}

func (e entry) appendLine(b []byte) []byte {
	b = append(b, `{"seq":`...)
	b = strconv.AppendInt(b, e.Seq, 10)
	b = append(b, `,"leaf":"`...)
	b = base64.StdEncoding.AppendEncode(b, e.Leaf)
	b = append(b, '"')
	for i, n := range e.Nodes {
		if i == 0 {
			b = append(b, `,"nodes":["`...)
		} else {
			b = append(b, `,"`...)
		}
		b = base64.StdEncoding.AppendEncode(b, n)
		b = append(b, '"')
		if i == len(e.Nodes)-1 {
			b = append(b, ']')
		}
	}
	if e.Event != nil {
		b = append(b, `,"event":`...)
		b = append(b, e.Event...)
	}
	if e.Missing != nil {
		b = append(b, `,"missing":`...)
		b = strconv.AppendInt(b, *e.Missing, 10)
	}
	return append(b, "}\n"...)
}

func checkpointLine(signed string) []byte {
	b := appendString([]byte(`{"checkpoint":`), signed)
	return append(b, "}\n"...)
}

type end struct {
	Events  int64  `json:"events"`
	Waiting int64  `json:"waiting"`
	SHA256  string `json:"sha256"`
}

// line closes sum, which has seen all lines before.
func (e end) line(sum hash.Hash) []byte {
	b := fmt.Appendf(nil, `{"end":{"events":%d,"waiting":%d,"sha256":"`, e.Events, e.Waiting)
	sum.Write(b)
	b = hex.AppendEncode(b, sum.Sum(nil))
	return append(b, "\"}}\n"...)
}

// wire is any line of an export.
type wire struct {
	Log        *header         `json:"log"`
	Seq        *int64          `json:"seq"`
	Leaf       []byte          `json:"leaf"`
	Nodes      [][]byte        `json:"nodes"`
	Event      json.RawMessage `json:"event"`
	Missing    *int64          `json:"missing"`
	Checkpoint *string         `json:"checkpoint"`
	End        *end            `json:"end"`
}

func (w wire) empty() bool {
	return w.Log == nil && w.Seq == nil && w.Checkpoint == nil && w.End == nil
}

func (w wire) entry() entry { return entry{*w.Seq, w.Leaf, w.Nodes, w.Event, w.Missing} }

// is reports whether line is byte for byte what an export writes for w. Go's
// decoder takes other spellings too, and none may pass for an untouched line.
func (w wire) is(line []byte) bool {
	switch {
	case w.Log != nil:
		return bytes.Equal(line, w.Log.line())
	case w.Seq != nil:
		return bytes.Equal(line, w.entry().appendLine(make([]byte, 0, len(line))))
	case w.Checkpoint != nil:
		return bytes.Equal(line, checkpointLine(*w.Checkpoint))
	}
	return true // the end is compared with its checksum
}

// longest is more than any log holds, and leaves room to calculate with.
const longest = 1 << 50

// A visitor is shown the log in order: each entry, and each checkpoint after
// the last entry that it signs.
type visitor struct {
	entry      func(entry) error
	checkpoint func(checkpointRow) error
}

type checkpointRow struct {
	Size  int64
	Root  []byte
	Note  string
	Token int64
	At    time.Time
}

type entryRow struct {
	Seq     int64
	EventID int64
	Found   bool
	Shown   bool
	record
}

type hashRow struct {
	Idx  int64
	Hash []byte
}

// stretch is what one round trip of walk reads.
type stretch struct {
	first, end  int64
	entries     []entryRow
	hashes      []hashRow
	checkpoints []checkpointRow
}

// walk shows the whole log to v and reports its size and how many events wait.
func walk(ctx context.Context, tx pgx.Tx, f Filter, v visitor) (size, waiting int64, err error) {
	args, err := f.args()
	if err != nil {
		return 0, 0, err
	}
	var lastHash int64
	if err := tx.QueryRow(ctx, readExtent).Scan(&size, &lastHash, &waiting); err != nil {
		return 0, 0, fmt.Errorf("read the extent of the audit log: %w", err)
	}
	if size > longest || lastHash > tlog.StoredHashCount(longest) {
		return 0, 0, fmt.Errorf("the audit log was written to: seq %d or hash %d is beyond any log", size-1, lastHash)
	}
	if lastHash >= 0 {
		// Hashes that outlived their entries show where the log once went.
		level, n := tlog.SplitStoredHashIndex(lastHash)
		size = max(size, (n+1)<<level)
	}

	// The next stretch is read while v works on this one. The transaction is the
	// reader's until it has closed ahead.
	ahead, enough, failed := make(chan stretch), make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(ahead)
		failed <- read(ctx, tx, args, size, ahead, enough)
	}()
	defer func() {
		close(enough)
		for range ahead {
		}
	}()
	for s := range ahead {
		if err := s.show(v); err != nil {
			return 0, 0, err
		}
	}
	if err := <-failed; err != nil {
		return 0, 0, fmt.Errorf("read the audit log: %w", err)
	}
	return size, waiting, nil
}

func read(ctx context.Context, tx pgx.Tx, args pgx.StrictNamedArgs, size int64, ahead chan<- stretch, enough <-chan struct{}) error {
	for first, signed := int64(0), int64(0); ; {
		s := stretch{first: first, end: min(first+batch, size)}
		if first == size {
			s.end = math.MaxInt64 // checkpoints of a log that was longer
		}
		queries := &pgx.Batch{}
		queries.Queue(checkpoints, signed, s.end).Query(collect(&s.checkpoints, pgx.RowToStructByName[checkpointRow]))
		if first < size {
			args["first"], args["end"] = s.first, s.end
			queries.Queue(entries, args).Query(collect(&s.entries, scanEntry))
			queries.Queue(hashes, tlog.StoredHashIndex(0, s.first), tlog.StoredHashIndex(0, s.end)).
				Query(collect(&s.hashes, pgx.RowToStructByPos[hashRow]))
		}
		if err := tx.SendBatch(ctx, queries).Close(); err != nil {
			return err
		}
		select {
		case ahead <- s:
		case <-enough:
			return nil
		}
		signed = s.end
		switch {
		case first == size:
			return nil
		case len(s.entries) > 0 || len(s.hashes) > 0 || s.end == size:
			first = s.end
		default:
			// Somebody wrote an entry far beyond the end; nothing is between.
			var err error
			if first, err = next(ctx, tx, s.end, size); err != nil {
				return err
			}
		}
	}
}

// next is the first place at or after seq that has an entry or a hash.
func next(ctx context.Context, tx pgx.Tx, seq, size int64) (int64, error) {
	var entry, hash int64
	err := tx.QueryRow(ctx, readNext, seq, tlog.StoredHashIndex(0, seq)).Scan(&entry, &hash)
	if hash < math.MaxInt64 {
		level, n := tlog.SplitStoredHashIndex(hash)
		hash = (n+1)<<level - 1
	}
	return min(entry, hash, size), err
}

func scanEntry(row pgx.CollectableRow) (r entryRow, err error) {
	// By hand, for speed: this is half the cost of a verification.
	err = row.Scan(&r.Seq, &r.EventID, &r.Found, &r.Shown, &r.ID, &r.At, &r.ActorKind, &r.ActorID, &r.ActorName,
		&r.Action, &r.ResourceKind, &r.ResourceID, &r.Details, &r.RequestID, &r.Replica)
	return r, err
}

// show lines up entries, hashes and checkpoints, all of which may have holes.
func (s *stretch) show(v visitor) error {
	if len(s.entries) == 0 && len(s.hashes) == 0 {
		return s.signed(s.end, v)
	}
	if err := s.signed(s.first, v); err != nil {
		return err
	}
	for seq := s.first; seq < s.end; seq++ {
		e, empty := entry{Seq: seq}, true
		place := tlog.StoredHashIndex(0, seq)
		for i := range 1 + completes(seq) {
			var h []byte
			if len(s.hashes) > 0 && s.hashes[0].Idx == place+int64(i) {
				h, s.hashes, empty = s.hashes[0].Hash, s.hashes[1:], false
			}
			if i == 0 {
				e.Leaf = h
			} else {
				e.Nodes = append(e.Nodes, h)
			}
		}
		e.Missing = new(int64)
		if len(s.entries) > 0 && s.entries[0].Seq == seq {
			row := &s.entries[0]
			s.entries, empty = s.entries[1:], false
			switch {
			case !row.Found:
				e.Missing = &row.EventID
			case row.Shown:
				e.Event, e.Missing = row.canonical(), nil
			default:
				e.Missing = nil
			}
		}
		if !empty { // else the next entry shows the gap
			if err := v.entry(e); err != nil {
				return err
			}
		}
		if err := s.signed(seq+1, v); err != nil {
			return err
		}
	}
	return nil
}

// signed shows the checkpoints up to a size.
func (s *stretch) signed(size int64, v visitor) error {
	for len(s.checkpoints) > 0 && s.checkpoints[0].Size <= size {
		if err := v.checkpoint(s.checkpoints[0]); err != nil {
			return err
		}
		s.checkpoints = s.checkpoints[1:]
	}
	return nil
}
