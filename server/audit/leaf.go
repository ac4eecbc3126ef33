package audit

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
	"golang.org/x/mod/sumdb/tlog"
)

// A record is an event as the database has it.
type record struct {
	ID           int64
	At           pgtype.Timestamptz
	ActorKind    string
	ActorID      string
	ActorName    string
	Action       string
	ResourceKind string
	ResourceID   string
	Details      []byte // jsonb
	RequestID    string
	Replica      string
}

// leafTime is RFC 3339 in UTC with exactly six decimals, as PostgreSQL keeps.
const leafTime = "2006-01-02T15:04:05.000000Z"

// canonical returns the bytes that the log commits to. They are the event as
// canonical JSON (RFC 8785: sorted keys, no spaces, the shortest escapes):
//
//	{"action":"role.granted","actor":{"id":"…","kind":"key","name":"…"},
//	 "at":"2026-01-02T03:04:05.000006Z","details":{"role":"viewer"},"id":17,
//	 "replica":"…","request_id":"…","resource":{"id":"…","kind":"key"}}
//
// on one line, and the leaf hash is SHA-256(0x00 ‖ bytes) as in RFC 6962. Every
// field is always there. A change to this function would make all logs look
// edited.
func (r *record) canonical() []byte {
	b := make([]byte, 0, 512)
	field := func(key, s string) { b = appendString(append(b, key...), s) }
	field(`{"action":`, r.Action)
	field(`,"actor":{"id":`, r.ActorID)
	field(`,"kind":`, r.ActorKind)
	field(`,"name":`, r.ActorName)
	field(`},"at":`, when(r.At))
	b = append(b, `,"details":`...)
	b = appendDetails(b, r.Details)
	b = append(b, `,"id":`...)
	b = strconv.AppendInt(b, r.ID, 10)
	field(`,"replica":`, r.Replica)
	field(`,"request_id":`, r.RequestID)
	field(`,"resource":{"id":`, r.ResourceID)
	field(`,"kind":`, r.ResourceKind)
	return append(b, "}}"...)
}

func (r *record) leaf() tlog.Hash { return tlog.RecordHash(r.canonical()) }

// when also has a text for times that no event can have, so that one that was
// edited into the table shows as edited.
func when(t pgtype.Timestamptz) string {
	if !t.Valid || t.InfinityModifier != pgtype.Finite {
		return t.InfinityModifier.String()
	}
	return t.Time.UTC().Format(leafTime)
}

func appendDetails(b, details []byte) []byte {
	var m map[string]string
	if err := json.Unmarshal(details, &m); err != nil || m == nil {
		return appendString(b, string(details)) // edited: Write cannot have made it
	}
	b = append(b, '{')
	for i, k := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, k), ':')
		b = appendString(b, m[k])
	}
	return append(b, '}')
}

// appendString appends s as a string of canonical JSON. The standard library's
// encoder escapes more than RFC 8785 and may change what it escapes.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c >= ' ':
			b = append(b, c)
		case c == '\b':
			b = append(b, `\b`...)
		case c == '\t':
			b = append(b, `\t`...)
		case c == '\n':
			b = append(b, `\n`...)
		case c == '\f':
			b = append(b, `\f`...)
		case c == '\r':
			b = append(b, `\r`...)
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(b, '"')
}

// parseLeaf reads what canonical wrote, for messages about it.
func parseLeaf(b []byte) (record, error) {
	var e struct {
		Action   string          `json:"action"`
		Actor    kindID          `json:"actor"`
		At       string          `json:"at"`
		Details  json.RawMessage `json:"details"`
		ID       int64           `json:"id"`
		Replica  string          `json:"replica"`
		Request  string          `json:"request_id"`
		Resource kindID          `json:"resource"`
	}
	err := json.Unmarshal(b, &e)
	at, errAt := time.Parse(leafTime, e.At)
	return record{
		e.ID,
		pgtype.Timestamptz{Time: at, Valid: errAt == nil},
		e.Actor.Kind, e.Actor.ID, e.Actor.Name, e.Action,
		e.Resource.Kind, e.Resource.ID, e.Details, e.Request, e.Replica,
	}, err
}

type kindID struct {
	Kind string `json:"kind"`
	ID   string `json:"id"`
	Name string `json:"name"`
}
