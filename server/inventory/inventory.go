// Package inventory keeps what is known of certificates and what stands around
// them: teams, owners, renewal policies, profiles, issuers and channels.
package inventory

import (
	"context"
	"encoding/base64"
	"reflect"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"certctl/server/audit"
	"certctl/server/cert"
	"certctl/server/fault"
	"certctl/server/issuer"
	"certctl/server/notify"
	"certctl/server/perm"
	"certctl/server/pg"
	"certctl/server/store"
	"certctl/server/web"
)

// Inventory manages what is known of certificates.
type Inventory struct {
	DB       *pgxpool.Pool
	Issuers  *issuer.Registry
	Channels *notify.Registry
}

// A kind is a table whose rows have a name and are created, changed and deleted
// by callers. Every change comes with its audit event.
type kind[T any] struct {
	what   string // for people
	noun   string // for programs: of routes, resources of audit events, and ids
	prefix string // of ids

	created, changed, deleted *audit.Action

	key            func(*T) key
	list           func(ctx context.Context, q pg.Q, after string, limit int) ([]T, error)
	byID           func(ctx context.Context, q pg.Q, id string) (T, error)
	lock           func(ctx context.Context, q pg.Q, id string) (T, error)
	insert, update func(ctx context.Context, q pg.Q, row T) (T, error)
	drop           func(ctx context.Context, q pg.Q, id string) error

	// By the name of a foreign key: what it says of a change that it refuses.
	unknown, inUse map[string]string
}

// key is what every row has.
type key struct {
	id, name string
	revision int64
}

// ByID names a row.
type ByID struct {
	ID string `path:"id" maxLength:"64" doc:"its id"`
}

// ListByName asks for a page of a list that is in the order of names.
type ListByName struct {
	After string `query:"after" maxLength:"2000" doc:"next of the page before"`
	Limit int    `query:"limit" minimum:"1" maximum:"500" default:"100"`
}

// Page is a part of a list, by name.
type Page[T any] struct {
	Items []T    `json:"items" nullable:"false"`
	Next  string `json:"next,omitempty" doc:"give it as after for the next page; absent on the last"`
}

// Idempotency lets a create be sent again.
type Idempotency struct {
	Key string `header:"Idempotency-Key" maxLength:"200" doc:"a request that is sent again under the same key is answered as the first was"`
}

func list[T any](ctx context.Context, i *Inventory, k *kind[T], in *ListByName) (Page[T], error) {
	after, err := base64.RawURLEncoding.DecodeString(in.After)
	if err != nil {
		return Page[T]{}, fault.New(fault.Invalid, "query.after is not the next of a page; give that, or leave it out")
	}
	rows, err := k.list(ctx, i.DB, string(after), in.Limit+1)
	if err != nil || len(rows) <= in.Limit {
		return Page[T]{Items: rows}, err
	}
	rows = rows[:in.Limit]
	last := k.key(&rows[in.Limit-1]).name
	return Page[T]{rows, base64.RawURLEncoding.EncodeToString([]byte(last))}, nil
}

// create adds a row. asked is the body that asked for it, secrets withheld.
func create[T any](ctx context.Context, i *Inventory, k *kind[T], once Idempotency, asked any, row T, then ...func(pgx.Tx) error) (T, error) {
	return store.Once(ctx, i.DB, perm.From(ctx).ID, once.Key, "create-"+k.noun, asked, func(tx pgx.Tx) (T, error) {
		if err := cert.CheckName(k.key(&row).name, k.prefix); err != nil {
			return row, err
		}
		row, err := k.insert(ctx, tx, row)
		if err != nil {
			return row, k.refusal(err)
		}
		for _, f := range then {
			if err := f(tx); err != nil {
				return row, err
			}
		}
		return row, k.write(ctx, tx, k.created, k.key(&row), nil)
	})
}

// edits are the names of the fields that a change sets to another value.
type edits []string

// set gives a field its new value, if there is one.
func set[T any](e *edits, name string, field, value *T) {
	if value != nil && !reflect.DeepEqual(*field, *value) {
		*field = *value
		*e = append(*e, name)
	}
}

// change lets edit change a row that nobody else can change meanwhile. Nothing
// is written where nothing differs.
func change[T any](ctx context.Context, i *Inventory, k *kind[T], id string, revision *int64, edit func(*T) (edits, error)) (T, error) {
	var row T
	err := pg.InTx(ctx, i.DB, func(tx pgx.Tx) (err error) {
		if row, err = k.lock(ctx, tx, id); err != nil {
			return err
		}
		before := k.key(&row)
		if revision != nil && *revision != before.revision {
			return fault.New(fault.Conflict, "body.revision is not that of the %s, which was changed since; read it again", k.what)
		}
		fields, err := edit(&row)
		if err != nil || len(fields) == 0 {
			return err
		}
		if name := k.key(&row).name; name != before.name {
			if err := cert.CheckName(name, k.prefix); err != nil {
				return err
			}
		}
		if row, err = k.update(ctx, tx, row); err != nil {
			return k.refusal(err)
		}
		return k.write(ctx, tx, k.changed, k.key(&row), map[string]string{"fields": strings.Join(fields, " ")})
	})
	return row, err
}

func remove[T any](ctx context.Context, i *Inventory, k *kind[T], in *ByID) (web.Nothing, error) {
	return web.Nothing{}, pg.InTx(ctx, i.DB, func(tx pgx.Tx) error {
		row, err := k.lock(ctx, tx, in.ID)
		if err != nil {
			return err
		}
		if err := k.drop(ctx, tx, in.ID); err != nil {
			if why, ok := k.inUse[pg.Constraint(err)]; ok {
				return &fault.Error{Kind: fault.Conflict, Msg: why, Err: err}
			}
			return err
		}
		return k.write(ctx, tx, k.deleted, k.key(&row), nil)
	})
}

// newID returns the id of a new row.
func (k *kind[T]) newID() string { return cert.NewID(k.prefix) }

// refusal says which field of the body a constraint has refused.
func (k *kind[T]) refusal(err error) error {
	constraint := pg.Constraint(err)
	if strings.HasSuffix(constraint, "_name_is_taken") {
		return &fault.Error{Kind: fault.Conflict, Msg: "body.name is the name of another " + k.what + "; choose another", Err: err}
	}
	if why, ok := k.unknown[constraint]; ok {
		return &fault.Error{Kind: fault.Invalid, Msg: why, Err: err}
	}
	return err
}

func (k *kind[T]) write(ctx context.Context, tx pgx.Tx, action *audit.Action, row key, details map[string]string) error {
	if details == nil {
		details = map[string]string{}
	}
	details["name"] = row.name
	return audit.Write(ctx, tx, audit.Event{Action: action, ResourceKind: k.noun, ResourceID: row.id, Details: details})
}

// or returns what was given, or else the default.
func or[T any](given *T, otherwise T) T {
	if given != nil {
		return *given
	}
	return otherwise
}
