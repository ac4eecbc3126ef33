package inventory

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/audit"
	"certctl/server/connector"
	"certctl/server/fault"
	"certctl/server/issuer"
	"certctl/server/pg"
	"certctl/server/store"
	"certctl/server/web"
)

// issuers lacks what writes settings: that is sealed, which a row is not.
var issuers = &kind[store.Issuer]{
	what: "issuer", noun: "issuer", prefix: "iss",
	created: audit.IssuerCreated, changed: audit.IssuerChanged, deleted: audit.IssuerDeleted,
	key:  func(x *store.Issuer) key { return key{x.ID, x.Name, x.Revision} },
	list: store.Issuers, byID: store.IssuerByID, lock: store.LockIssuer, drop: store.DeleteIssuer,
	inUse: map[string]string{
		"certificates_issuer_id_fkey":         "certificates refer to the issuer, archived ones too; disable it to have it issue no more",
		"certificate_versions_issuer_id_fkey": "the issuer has issued certificates; disable it to have it issue no more",
	},
}

// NewIssuer asks for an issuer.
type NewIssuer struct {
	Idempotency
	Body struct {
		Name     string          `json:"name" minLength:"1" maxLength:"255" doc:"no two issuers share a name"`
		Type     string          `json:"type" minLength:"1" maxLength:"63" doc:"name of a type of issuer"`
		Enabled  *bool           `json:"enabled,omitempty" nullable:"false" doc:"nothing is issued by an issuer that is not; true by default"`
		Settings json.RawMessage `json:"settings,omitempty" doc:"an object with settings of the type"`
	}
}

// CreateIssuer makes an issuer, with its keys if its type makes them.
func (i *Inventory) CreateIssuer(ctx context.Context, in *NewIssuer) (store.Issuer, error) {
	t, ok := i.typeNamed(in.Body.Type)
	if !ok {
		return store.Issuer{}, fault.New(fault.Invalid, "body.type is no type of issuer; the types are %s", strings.Join(i.typeNames(), ", "))
	}
	settings, err := t.Prepare(in.Body.Settings)
	if err != nil {
		return store.Issuer{}, err
	}
	x := store.Issuer{ID: issuers.newID(), Name: in.Body.Name, Type: t.Name, Enabled: or(in.Body.Enabled, true)}
	sealed, err := i.seal(t, &x, settings)
	if err != nil {
		return store.Issuer{}, err
	}
	asked := in.Body
	asked.Settings = t.Redact(asked.Settings) // a hash of it is kept, from which a short secret could be found
	k := *issuers
	k.insert = func(ctx context.Context, q pg.Q, x store.Issuer) (store.Issuer, error) {
		return store.InsertIssuer(ctx, q, x, sealed)
	}
	x, err = create(ctx, i, &k, in.Idempotency, asked, x, func(tx pgx.Tx) error {
		if !slices.Contains(t.Can, issuer.SignsCRLs.Name) {
			return nil
		}
		return store.InsertCRL(ctx, tx, x.ID)
	})
	return i.able(x), err
}

// seal checks settings, and returns them sealed. What of them may be shown
// becomes part of x.
func (i *Inventory) seal(t issuer.Type, x *store.Issuer, settings json.RawMessage) ([]byte, error) {
	if _, err := t.New(settings, connector.Env{ID: x.ID, PKIURL: i.Issuers.PKIURL}); err != nil {
		return nil, err
	}
	x.Settings = t.Redact(settings)
	return i.Box.Seal(settings, issuer.Purpose(x.ID)), nil
}

func (i *Inventory) typeNamed(name string) (issuer.Type, bool) {
	at := slices.IndexFunc(i.Types, func(t issuer.Type) bool { return t.Name == name })
	if at < 0 {
		return issuer.Type{}, false
	}
	return i.Types[at], true
}

func (i *Inventory) typeNames() []string {
	var names []string
	for _, t := range i.Types {
		names = append(names, t.Name)
	}
	return names
}

// able completes an issuer by what its type can do in this build.
func (i *Inventory) able(x store.Issuer) store.Issuer {
	x.Can = []string{}
	if t, ok := i.typeNamed(x.Type); ok {
		x.Can = t.Can
	}
	return x
}

// ListIssuers lists issuers by name, without their secrets.
func (i *Inventory) ListIssuers(ctx context.Context, in *ListByName) (Page[store.Issuer], error) {
	page, err := list(ctx, i, issuers, in)
	for n, x := range page.Items {
		page.Items[n] = i.able(x)
	}
	return page, err
}

// Issuer returns one issuer without its secrets.
func (i *Inventory) Issuer(ctx context.Context, in *ByID) (store.Issuer, error) {
	x, err := issuers.byID(ctx, i.DB, in.ID)
	return i.able(x), err
}

// IssuerChange changes those fields of an issuer, and those of its settings,
// that it gives.
type IssuerChange struct {
	ByID
	Body struct {
		Revision *int64          `json:"revision,omitempty" nullable:"false" doc:"refuses the change if the issuer has another one by now"`
		Name     *string         `json:"name,omitempty" minLength:"1" maxLength:"255" nullable:"false"`
		Enabled  *bool           `json:"enabled,omitempty" nullable:"false"`
		Settings json.RawMessage `json:"settings,omitempty" doc:"an object with those settings that change; null stands for the default, and the word that stands for a secret for the secret there is"`
	}
}

// ChangeIssuer changes an issuer. Secrets stay that are not given.
func (i *Inventory) ChangeIssuer(ctx context.Context, in *IssuerChange) (store.Issuer, error) {
	var old store.Sealed
	var sealed []byte // null if the settings stay
	k := *issuers
	k.lock = func(ctx context.Context, q pg.Q, id string) (x store.Issuer, err error) {
		if x, err = store.LockIssuer(ctx, q, id); err == nil {
			old, err = store.SealedIssuer(ctx, q, id)
		}
		return x, err
	}
	k.update = func(ctx context.Context, q pg.Q, x store.Issuer) (store.Issuer, error) {
		return store.ChangeIssuer(ctx, q, x, sealed)
	}
	x, err := change(ctx, i, &k, in.ID, in.Body.Revision, func(x *store.Issuer) (e edits, err error) {
		set(&e, "name", &x.Name, in.Body.Name)
		set(&e, "enabled", &x.Enabled, in.Body.Enabled)
		if len(in.Body.Settings) == 0 {
			return e, nil
		}
		t, ok := i.typeNamed(x.Type)
		if !ok {
			return nil, fault.New(fault.Conflict, "the issuer is of a type that this version does not have; the types are %s", strings.Join(i.typeNames(), ", "))
		}
		was, err := i.Box.Open(old.Settings, issuer.Purpose(x.ID))
		if err != nil {
			return nil, err
		}
		settings, err := t.Merge(was, in.Body.Settings)
		if err != nil {
			return nil, err
		}
		differ, err := differences(was, settings)
		if err != nil || len(differ) == 0 {
			return e, err
		}
		sealed, err = i.seal(t, x, settings)
		return append(e, differ...), err
	})
	return i.able(x), err
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

// DeleteIssuer deletes an issuer that has issued nothing, with its keys.
func (i *Inventory) DeleteIssuer(ctx context.Context, in *ByID) (web.Nothing, error) {
	return remove(ctx, i, issuers, in)
}

// IssuerTest is what a test of an issuer found.
type IssuerTest struct {
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty" doc:"what keeps the issuer from signing"`
}

// testTimeout is how long an issuer may take to answer a test.
const testTimeout = 10 * time.Second

// TestIssuer tries whether an issuer can sign, and keeps what it found.
func (i *Inventory) TestIssuer(ctx context.Context, in *ByID) (IssuerTest, error) {
	s, err := store.SealedIssuer(ctx, i.DB, in.ID)
	if err != nil {
		return IssuerTest{}, err
	}
	failure := i.try(ctx, s)
	found, outcome := "", "passed"
	if failure != nil {
		found, outcome = fault.Shown(failure), "failed"
	}
	err = pg.InTx(ctx, i.DB, func(tx pgx.Tx) error {
		same, err := store.IssuerTested(ctx, tx, s.ID, s.Revision, found)
		if err == nil && !same {
			err = fault.New(fault.Conflict, "the issuer was changed while it was tested; test it again")
		}
		if err != nil {
			return err
		}
		return issuers.write(ctx, tx, audit.IssuerTested, key{s.ID, s.Name, s.Revision}, map[string]string{"outcome": outcome})
	})
	if err == nil && failure != nil && fault.Of(failure) == fault.Internal {
		err = failure // the log says what callers are not told
	}
	return IssuerTest{failure == nil, found}, err
}

func (i *Inventory) try(ctx context.Context, s store.Sealed) error {
	opened, err := i.Issuers.Open(s.ID, s.Type, s.Revision, s.Settings)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, testTimeout)
	defer cancel()
	err = opened.Test(limited)
	if limited.Err() != nil && err != nil {
		err = &fault.Error{Kind: fault.Unavailable, Msg: "the issuer did not answer in ten seconds", Err: err}
	}
	return err
}
