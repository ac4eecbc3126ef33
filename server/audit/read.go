package audit

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"

	"certctl/server/fault"
	"certctl/server/pg"
)

// A Filter selects events; its zero value selects all.
type Filter struct {
	Category     string    `json:"category,omitempty"`
	Action       string    `json:"action,omitempty"`
	Actor        string    `json:"actor,omitempty"` // id
	ResourceKind string    `json:"resource_kind,omitempty"`
	ResourceID   string    `json:"resource_id,omitempty"`
	Since        time.Time `json:"since,omitzero"`
	Until        time.Time `json:"until,omitzero"` // exclusive
}

// Check says what is wrong with the filter, naming the field.
func (f Filter) Check() error {
	_, err := f.args()
	return err
}

// A Page is a part of the events that a filter selects, newest first.
type Page struct {
	Before int64 // only events with a lower id; 0 for the newest
	Limit  int   // 1 to MaxLimit; 0 for DefaultLimit
}

// The sizes of a page.
const (
	DefaultLimit = 100
	MaxLimit     = 1000
)

// args checks the filter and returns it as the arguments of a statement.
func (f Filter) args() (pgx.StrictNamedArgs, error) {
	names := []string{}
	if f.Category != "" {
		if names = named(f.Category); len(names) == 0 {
			return nil, fault.New(fault.Invalid, "category: is none of %s, %s, %s", Access, Trail, Server)
		}
	}
	for _, t := range []time.Time{f.Since, f.Until} {
		if t.Year() < 0 || t.Year() > 9999 {
			return nil, fault.New(fault.Invalid, "since, until: %s is not a year that a time can have", t.Format("2006"))
		}
	}
	if !f.Since.IsZero() && !f.Until.IsZero() && !f.Since.Before(f.Until) {
		return nil, fault.New(fault.Invalid, "until: is not after since")
	}
	return pgx.StrictNamedArgs{
		"category": f.Category, "named": names, "action": f.Action, "actor": f.Actor,
		"resource_kind": f.ResourceKind, "resource_id": f.ResourceID,
		"since": orNull(f.Since), "until": orNull(f.Until),
	}, nil
}

func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// An Entry is a recorded event.
type Entry struct {
	Seq          *int64            `json:"seq"` // its place in the log, null until it has one
	ID           int64             `json:"id"`
	At           time.Time         `json:"at"`
	ActorKind    string            `json:"actor_kind"`
	ActorID      string            `json:"actor_id"`
	ActorName    string            `json:"actor_name"`
	Action       string            `json:"action"`
	Category     string            `json:"category"` // empty for an action that this version does not know
	ResourceKind string            `json:"resource_kind"`
	ResourceID   string            `json:"resource_id"`
	Details      map[string]string `json:"details"`
	RequestID    string            `json:"request_id"`
	Replica      string            `json:"replica"`
}

// List returns a page of the events that f selects, newest first. The next page
// is before the last one's id.
func List(ctx context.Context, q pg.Q, f Filter, p Page) ([]Entry, error) {
	args, err := f.args()
	switch {
	case err != nil:
		return nil, err
	case p.Limit < 0 || p.Limit > MaxLimit:
		return nil, fault.New(fault.Invalid, "limit: %d is not from 1 to %d", p.Limit, MaxLimit)
	case p.Before < 0:
		return nil, fault.New(fault.Invalid, "before: %d is not the id of an event", p.Before)
	case p.Limit == 0:
		p.Limit = DefaultLimit
	}
	args["before"], args["limit"] = p.Before, p.Limit
	rows, _ := q.Query(ctx, list, args)
	entries, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Entry, error) {
		r, err := pgx.RowToStructByName[struct {
			Seq *int64
			record
		}](row)
		return entryOf(r.Seq, r.record), err
	})
	return entries, pg.Fault(err, "audit events")
}

func entryOf(seq *int64, r record) Entry {
	e := Entry{
		seq, r.ID, r.At.Time, r.ActorKind, r.ActorID, r.ActorName, r.Action, "",
		r.ResourceKind, r.ResourceID, nil, r.RequestID, r.Replica,
	}
	if a, ok := actions.Row(r.Action); ok {
		e.Category = a.Category
	}
	if json.Unmarshal(r.Details, &e.Details) != nil {
		// Edited into the table; one such row must not hide the others.
		e.Details = map[string]string{"unreadable": string(r.Details)}
	}
	return e
}

// Sizes says how far the log is.
type Sizes struct {
	Logged int64 `json:"logged"` // events in the log
	Queued int64 `json:"queued"` // events committed and not yet in the log
}

// Size returns how many events are in the log and how many wait for it.
func Size(ctx context.Context, q pg.Q) (Sizes, error) {
	rows, _ := q.Query(ctx, readSizes)
	s, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Sizes])
	return s, pg.Fault(err, "audit log")
}

// intactDetail is the detail of an event Verified that says what was found.
const intactDetail = "intact"

// Verification is the event that records r, or that the log could not be
// verified, which is no better than that it was altered.
func (r Report) Verification(failed error) Event {
	says := r.String()
	if failed != nil {
		says = failed.Error()
	}
	// What was altered is in it, at whatever length somebody gave it.
	const most = 4 << 10
	if len(says) > most {
		says = says[:most]
	}
	return Event{Action: Verified, Details: map[string]string{
		intactDetail: strconv.FormatBool(failed == nil && r.Intact()), "events": strconv.FormatInt(r.Events, 10), "report": says,
	}}
}

// LastVerified says what the newest verification by any replica found, and
// when that was; the zero time if there was none.
func LastVerified(ctx context.Context, q pg.Q) (intact bool, at time.Time, err error) {
	events, err := List(ctx, q, Filter{Action: Verified.Name}, Page{Limit: 1})
	if err != nil || len(events) == 0 {
		return false, time.Time{}, err
	}
	return events[0].Details[intactDetail] == strconv.FormatBool(true), events[0].At, nil
}

// Checkpoint returns the newest checkpoint, a signed note.
func Checkpoint(ctx context.Context, q pg.Q) (string, error) {
	rows, _ := q.Query(ctx, newestCheckpoint)
	signed, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[string])
	return signed, pg.Fault(err, "checkpoint of the audit log")
}

// An InclusionProof shows to anybody who has the root of the log at some size
// that an event is in it: the leaf hash is SHA-256(0x00 ‖ Event), the rest is
// RFC 6962 (tlog.CheckRecord).
type InclusionProof struct {
	Seq   int64            `json:"seq"`
	Size  int64            `json:"size"`
	Root  tlog.Hash        `json:"root"`
	Leaf  tlog.Hash        `json:"leaf"`
	Proof tlog.RecordProof `json:"proof"`
	Event json.RawMessage  `json:"event"` // the bytes that the log commits to
}

// Inclusion proves that the event seq is in the log as it was at a size; 0
// stands for its present size.
func Inclusion(ctx context.Context, q pg.Q, seq, size int64) (InclusionProof, error) {
	var none InclusionProof
	size, err := sizeOf(ctx, q, "size", size)
	switch {
	case err != nil:
		return none, err
	case seq < 0:
		return none, fault.New(fault.Invalid, "seq: %d is below 0", seq)
	case seq >= size:
		return none, fault.New(fault.NotFound, "seq: the log at size %d ends at %d", size, size-1)
	}
	rows, _ := q.Query(ctx, eventAt, seq)
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[record])
	if err != nil {
		return none, pg.Fault(err, "event of the log")
	}
	stored := hashReader{ctx, q}
	p := InclusionProof{Seq: seq, Size: size, Leaf: r.leaf(), Event: r.canonical()}
	if p.Root, err = tlog.TreeHash(size, stored); err != nil {
		return none, err
	}
	p.Proof, err = tlog.ProveRecord(size, seq, stored)
	return p, err
}

// A ConsistencyProof shows to anybody who has the roots of the log at two sizes
// that the later one only adds to the earlier (tlog.CheckTree).
type ConsistencyProof struct {
	Old     int64          `json:"old"`
	New     int64          `json:"new"`
	OldRoot tlog.Hash      `json:"old_root"`
	NewRoot tlog.Hash      `json:"new_root"`
	Proof   tlog.TreeProof `json:"proof"`
}

// Consistency proves that the log at size begins with what it was at the smaller
// size old; 0 as the size stands for the present one.
func Consistency(ctx context.Context, q pg.Q, old, size int64) (ConsistencyProof, error) {
	var none ConsistencyProof
	size, err := sizeOf(ctx, q, "new", size)
	switch {
	case err != nil:
		return none, err
	case old < 1:
		return none, fault.New(fault.Invalid, "old: %d is below 1", old)
	case old > size:
		return none, fault.New(fault.Invalid, "old: %d is above %d, the new size", old, size)
	}
	stored := hashReader{ctx, q}
	p := ConsistencyProof{Old: old, New: size}
	if p.OldRoot, err = tlog.TreeHash(old, stored); err != nil {
		return none, err
	}
	if p.NewRoot, err = tlog.TreeHash(size, stored); err != nil {
		return none, err
	}
	p.Proof, err = tlog.ProveTree(size, old, stored)
	return p, err
}

// sizeOf checks a size that the caller gave in the named field.
func sizeOf(ctx context.Context, q pg.Q, field string, size int64) (int64, error) {
	s, err := Size(ctx, q)
	switch {
	case err != nil:
		return 0, err
	case size < 0:
		return 0, fault.New(fault.Invalid, "%s: %d is below 0", field, size)
	case size > s.Logged:
		return 0, fault.New(fault.NotFound, "%s: %d is above %d, the size of the log", field, size, s.Logged)
	case size == 0:
		return s.Logged, nil
	}
	return size, nil
}

type hashReader struct {
	ctx context.Context
	q   pg.Q
}

func (r hashReader) ReadHashes(places []int64) ([]tlog.Hash, error) {
	rows, _ := r.q.Query(r.ctx, placedHashes, places)
	stored, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		return nil, err
	}
	hashes := make([]tlog.Hash, len(stored))
	for i, b := range stored {
		if len(b) != tlog.HashSize {
			return nil, errors.New("the audit log lacks hashes that it must have; verify it")
		}
		hashes[i] = tlog.Hash(b)
	}
	return hashes, nil
}
