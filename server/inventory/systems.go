package inventory

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/audit"
	"certctl/server/connector"
	"certctl/server/fault"
	"certctl/server/pg"
	"certctl/server/store"
)

// systems is a kind whose rows configure something outside, a C. It writes
// settings, which are sealed, beside what a row shows of them.
type systems[T any, C tested] struct {
	*kind[T]
	tests *audit.Action // is written of a test

	system   func(*T) *store.System
	registry func(*Inventory) *connector.Registry[C]
	sealed   func(ctx context.Context, q pg.Q, id string) (store.Sealed, error)
	insert   func(ctx context.Context, q pg.Q, row T, sealed []byte) (T, error)
	update   func(ctx context.Context, q pg.Q, row T, sealed []byte) (T, error) // nil if the settings stay
	found    func(ctx context.Context, q pg.Q, id string, revision int64, found string) (bool, error)
}

// tested is what can say what keeps it from working.
type tested interface {
	Test(ctx context.Context) error
}

// createSystem adds a row of the type that it names. asked is the body that
// asked for it but for the settings.
func createSystem[T any, C tested](ctx context.Context, i *Inventory, s *systems[T, C], once Idempotency, asked any, row T, settings json.RawMessage, then ...func(pgx.Tx) error) (T, error) {
	registry, x := s.registry(i), s.system(&row)
	t, ok := registry.Type(x.Type)
	if !ok {
		return row, fault.New(fault.Invalid, "body.type is no type of %s; the types are %s", s.what, registry.Names())
	}
	prepared, err := t.Prepare(settings)
	if err != nil {
		return row, err
	}
	sealed, err := registry.Seal(t, x.ID, prepared)
	if err != nil {
		return row, err
	}
	x.Settings = t.Redact(prepared)
	k := *s.kind
	k.insert = func(ctx context.Context, q pg.Q, row T) (T, error) { return s.insert(ctx, q, row, sealed) }
	// A hash of what was asked is kept, from which a short secret could be found.
	return create(ctx, i, &k, once, []any{asked, t.Redact(settings)}, row, then...)
}

// changeSystem lets edit change a row, and changes those settings that it is
// given.
func changeSystem[T any, C tested](ctx context.Context, i *Inventory, s *systems[T, C], id string, revision *int64, settings json.RawMessage, edit func(*edits, *T)) (T, error) {
	registry := s.registry(i)
	var old store.Sealed
	var sealed []byte
	k := *s.kind
	k.lock = func(ctx context.Context, q pg.Q, id string) (row T, err error) {
		if row, err = s.lock(ctx, q, id); err == nil {
			old, err = s.sealed(ctx, q, id)
		}
		return row, err
	}
	k.update = func(ctx context.Context, q pg.Q, row T) (T, error) { return s.update(ctx, q, row, sealed) }
	return change(ctx, i, &k, id, revision, func(row *T) (e edits, err error) {
		edit(&e, row)
		if len(settings) == 0 {
			return e, nil
		}
		x := s.system(row)
		t, ok := registry.Type(x.Type)
		if !ok {
			return nil, fault.New(fault.Conflict, "the %s is of a type that this version does not have; the types are %s", s.what, registry.Names())
		}
		was, err := registry.Settings(x.ID, old.Settings)
		if err != nil {
			return nil, err
		}
		is, err := t.Merge(was, settings)
		if err != nil {
			return nil, err
		}
		differ, err := differences(was, is)
		if err != nil || len(differ) == 0 {
			return e, err
		}
		x.Settings = t.Redact(is)
		sealed, err = registry.Seal(t, x.ID, is)
		return append(e, differ...), err
	})
}

// differences are the names of the settings that are not the same.
func differences(a, b json.RawMessage) (edits, error) {
	var was, is map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(a, &was), json.Unmarshal(b, &is)); err != nil {
		return nil, err
	}
	var e edits
	for _, name := range slices.Sorted(maps.Keys(is)) {
		if string(was[name]) != string(is[name]) {
			e = append(e, "settings."+name)
		}
	}
	return e, nil
}

// Tested is what a test found.
type Tested struct {
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty" doc:"what keeps it from working"`
}

// testTimeout is how long something outside may take to answer a test.
const testTimeout = 10 * time.Second

// testSystem tries whether a system works, and keeps what it found.
func testSystem[T any, C tested](ctx context.Context, i *Inventory, s *systems[T, C], id string) (Tested, error) {
	row, err := s.sealed(ctx, i.DB, id)
	if err != nil {
		return Tested{}, err
	}
	failure := try(ctx, s, s.registry(i), row)
	found, outcome := "", "passed"
	if failure != nil {
		found, outcome = fault.Shown(failure), "failed"
	}
	err = pg.InTx(ctx, i.DB, func(tx pgx.Tx) error {
		same, err := s.found(ctx, tx, row.ID, row.Revision, found)
		if err == nil && !same {
			err = fault.New(fault.Conflict, "the %s was changed while it was tested; test it again", s.what)
		}
		if err != nil {
			return err
		}
		return s.write(ctx, tx, s.tests, key{row.ID, row.Name, row.Revision}, map[string]string{"outcome": outcome})
	})
	if err == nil && failure != nil && fault.Of(failure) == fault.Internal {
		err = failure // the log says what callers are not told
	}
	return Tested{failure == nil, found}, err
}

func try[T any, C tested](ctx context.Context, s *systems[T, C], registry *connector.Registry[C], row store.Sealed) error {
	system, err := registry.Open(row.ID, row.Type, row.Revision, row.Settings)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, testTimeout)
	defer cancel()
	err = system.Test(limited)
	if limited.Err() != nil && err != nil {
		err = &fault.Error{Kind: fault.Unavailable, Msg: "the " + s.what + " did not answer in ten seconds", Err: err}
	}
	return err
}
