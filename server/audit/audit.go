// Package audit keeps the trail of what was done and by whom: append-only
// events, and a signed Merkle log over them from which nothing can be changed,
// moved or removed unseen.
//
// Write puts an event into the caller's transaction and takes no lock that
// another writer needs. A loop that runs on one replica then appends what was
// committed to the log (Log.Sequence) and signs a checkpoint. From a checkpoint
// that was kept outside the database, Verify and VerifyStream find every later
// change to the events that it covers.
//
// What they cannot find: changes to events that are not in the log yet; with no
// checkpoint kept outside, the removal of the newest events together with their
// checkpoints, the return to an older copy of all tables, and anything done by
// somebody who has the signing key; and what somebody with the server's own
// access to the database writes as an event that never happened. Of an export
// by a filter, the filter and the events that it leaves out are not verified.
package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"certctl/server/perm"
	"certctl/server/pg"
)

// An Event is something that is being done. Who does it, for which request and
// on which replica comes from the context.
type Event struct {
	Action       *Action
	ResourceKind string // such as "key"; empty if the action is on the server as a whole
	ResourceID   string
	Details      map[string]string // never a secret
}

// maxDetails bounds the keys and values of one event's details, in bytes.
const maxDetails = 64 << 10

var detailKey = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// Write records e in the transaction that q is, so that the event is there if
// and only if what it tells of is.
func Write(ctx context.Context, q pg.Q, e Event) error { return WriteAll(ctx, q, []Event{e}) }

// WriteAll records events, in their order, in one round trip.
func WriteAll(ctx context.Context, q pg.Q, events []Event) error {
	if len(events) == 0 {
		return nil
	}
	args, err := Arguments(ctx, events)
	if err != nil {
		return err
	}
	_, err = q.Exec(ctx, Statement, args)
	return pg.Fault(err, "audit event "+events[0].Action.Name)
}

// Arguments are those of Statement, for a caller that sends it together with
// other statements.
func Arguments(ctx context.Context, events []Event) (pgx.StrictNamedArgs, error) {
	actor := perm.From(ctx)
	var actions, kinds, ids, details []string
	for _, e := range events {
		switch {
		case e.Action == nil:
			return nil, errors.New("write an audit event: it has no action")
		case actor.Kind == "":
			return nil, fmt.Errorf("write the audit event %s: nobody acts in this context", e.Action.Name)
		}
		text, err := encode(e)
		if err != nil {
			return nil, fmt.Errorf("write the audit event %s: %w", e.Action.Name, err)
		}
		actions, kinds = append(actions, e.Action.Name), append(kinds, clean(e.ResourceKind))
		ids, details = append(ids, clean(e.ResourceID)), append(details, text)
	}
	return pgx.StrictNamedArgs{
		"actor_kind": actor.Kind, "actor_id": clean(actor.ID), "actor_name": clean(actor.Name),
		"actions": actions, "resource_kinds": kinds, "resource_ids": ids, "details": details,
		"request_id": clean(value(ctx, requestKey{})), "replica": clean(value(ctx, replicaKey{})),
	}, nil
}

// encode returns the details of e in JSON. As text they need no prepared
// statement to know that they are jsonb.
func encode(e Event) (string, error) {
	details, size := make(map[string]string, len(e.Details)), 0
	for _, k := range slices.Sorted(maps.Keys(e.Details)) {
		if !detailKey.MatchString(k) {
			return "", fmt.Errorf("the detail %q is not named in lower case", k)
		}
		details[k] = clean(e.Details[k])
		size += len(k) + len(details[k])
	}
	if size > maxDetails {
		return "", fmt.Errorf("%d bytes of details, at most %d are kept", size, maxDetails)
	}
	text, err := json.Marshal(details)
	return string(text), err
}

// clean replaces what PostgreSQL's text cannot hold: the name that a client
// gave to something must not make its event impossible to write.
func clean(s string) string {
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "\uFFFD"), "\uFFFD")
}

type (
	requestKey struct{}
	replicaKey struct{}
)

// WithRequest returns a context whose events carry the id of a request.
func WithRequest(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestKey{}, id)
}

// WithReplica returns a context whose events carry the name of this replica.
func WithReplica(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, replicaKey{}, name)
}

func value(ctx context.Context, key any) string {
	s, _ := ctx.Value(key).(string)
	return s
}
