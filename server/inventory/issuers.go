package inventory

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/jackc/pgx/v5"

	"certctl/server/audit"
	"certctl/server/connector"
	"certctl/server/issuer"
	"certctl/server/store"
	"certctl/server/web"
)

var issuers = &systems[store.Issuer, issuer.Issuer]{
	kind: &kind[store.Issuer]{
		what: "issuer", noun: "issuer", prefix: "iss",
		created: audit.IssuerCreated, changed: audit.IssuerChanged, deleted: audit.IssuerDeleted,
		key:  func(x *store.Issuer) key { return key{x.ID, x.Name, x.Revision} },
		list: store.Issuers, byID: store.IssuerByID, lock: store.LockIssuer, drop: store.DeleteIssuer,
		inUse: map[string]string{
			"certificates_issuer_id_fkey":         "certificates refer to the issuer, archived ones too; disable it to have it issue no more",
			"certificate_versions_issuer_id_fkey": "the issuer has issued certificates; disable it to have it issue no more",
		},
	},
	tests:    audit.IssuerTested,
	system:   func(x *store.Issuer) *store.System { return &x.System },
	registry: func(i *Inventory) *connector.Registry[issuer.Issuer] { return i.Issuers },
	sealed:   store.SealedIssuer, insert: store.InsertIssuer, update: store.ChangeIssuer, found: store.IssuerTested,
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
	b := in.Body
	b.Settings = nil
	x := store.Issuer{System: store.System{ID: issuers.newID(), Name: b.Name, Type: b.Type, Enabled: or(b.Enabled, true)}}
	id := x.ID
	x, err := createSystem(ctx, i, issuers, in.Idempotency, b, x, in.Body.Settings, func(tx pgx.Tx) error {
		if t, _ := i.Issuers.Type(b.Type); !slices.Contains(t.Can, issuer.SignsCRLs.Name) {
			return nil
		}
		return store.InsertCRL(ctx, tx, id)
	})
	return i.able(x), err
}

// able completes an issuer by what its type can do in this build.
func (i *Inventory) able(x store.Issuer) store.Issuer {
	x.Can = []string{}
	if t, ok := i.Issuers.Type(x.Type); ok {
		x.Can = t.Can
	}
	return x
}

// ListIssuers lists issuers by name, without their secrets.
func (i *Inventory) ListIssuers(ctx context.Context, in *ListByName) (Page[store.Issuer], error) {
	page, err := list(ctx, i, issuers.kind, in)
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
	b := &in.Body
	x, err := changeSystem(ctx, i, issuers, in.ID, b.Revision, b.Settings, func(e *edits, x *store.Issuer) {
		set(e, "name", &x.Name, b.Name)
		set(e, "enabled", &x.Enabled, b.Enabled)
	})
	return i.able(x), err
}

// DeleteIssuer deletes an issuer that has issued nothing, with its keys.
func (i *Inventory) DeleteIssuer(ctx context.Context, in *ByID) (web.Nothing, error) {
	return remove(ctx, i, issuers.kind, in)
}

// TestIssuer tries whether an issuer can sign, and keeps what it found.
func (i *Inventory) TestIssuer(ctx context.Context, in *ByID) (Tested, error) {
	return testSystem(ctx, i, issuers, in.ID)
}
