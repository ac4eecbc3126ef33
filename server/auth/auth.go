// Package auth says who a request comes from: API keys, their roles, and the
// token that makes the first key.
package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"certctl/server/audit"
	"certctl/server/fault"
	"certctl/server/limit"
	"certctl/server/perm"
	"certctl/server/pg"
	"certctl/server/store"
)

// Access manages API keys and roles.
type Access struct {
	DB             *pgxpool.Pool
	BootstrapToken string // empty: no first key can be made
	Limiter        *limit.Limiter

	admitted limit.Merger[caller, store.Admission]
}

// A secret has the form ck_ID_RANDOM. The id is no secret: it finds the row,
// and stands in lists and in the audit trail.
const secretPrefix = "ck_"

func newSecret() (id, secret string, hash []byte) {
	id = strings.ToLower(rand.Text())[:16]
	secret = secretPrefix + id + "_" + rand.Text()
	return id, secret, sum(secret)
}

// renew returns another secret of the key with the id.
func renew(id string) (secret string, hash []byte) {
	secret = secretPrefix + id + "_" + rand.Text()
	return secret, sum(secret)
}

// sum needs no salt and no slow hash: a secret has 130 random bits.
func sum(secret string) []byte {
	h := sha256.Sum256([]byte(secret))
	return h[:]
}

// Admit says who presents secret from an address, and what the limits of the
// address and of the key say to the request: as many as were asked. The actor is
// nobody's if one of them refuses.
func (a *Access) Admit(ctx context.Context, address, secret string) (perm.Actor, []limit.Decision, error) {
	rest, ok := strings.CutPrefix(secret, secretPrefix)
	id, _, found := strings.Cut(rest, "_")
	if !ok || !found || len(secret) > 100 || !plain(id) {
		d, err := a.Limiter.Take(ctx, limit.HTTPAddress, address)
		if err != nil {
			return perm.Actor{}, nil, err
		}
		return perm.Actor{}, []limit.Decision{d}, errUnknown
	}
	ofAddress, ofActor := a.Limiter.Terms(limit.HTTPAddress), a.Limiter.Terms(limit.HTTPActor)
	var said []limit.Decision
	shared := a.Limiter.Shared()
	if !shared {
		d := a.Limiter.TakeOwn(ofAddress, address)
		if said = append(said, d); !d.Admitted {
			return perm.Actor{}, said, nil
		}
	} else if d, ok := a.Limiter.Refused(ofAddress, address); ok {
		// Other secrets, of which none is merged with another, do not reach the
		// database.
		return perm.Actor{}, []limit.Decision{d}, nil
	}
	hash := sum(secret)
	k, place, err := a.admitted.Do(ctx, caller{address, [sha256.Size]byte(hash)}, func(ctx context.Context, asked int64) (store.Admission, error) {
		if !shared {
			return store.Admit(ctx, a.DB, address, nil, nil, id, hash, asked)
		}
		return store.Admit(ctx, a.DB, address, &ofAddress, &ofActor, id, hash, asked)
	})
	if err != nil {
		return perm.Actor{}, said, err
	}
	if shared {
		d := ofAddress.Of(k.Address, place)
		a.Limiter.Remember(d, address)
		if said = append(said, d); !d.Admitted {
			return perm.Actor{}, said, nil
		}
	}
	actor, err := opens(k, hash)
	if err != nil {
		return perm.Actor{}, said, err
	}
	if shared {
		return actor, append(said, ofActor.Of(k.Actor, place)), nil
	}
	return actor, append(said, a.Limiter.TakeOwn(ofActor, actor.ID)), nil
}

// plain reports whether an id can be one: the database need not be asked for
// what is none.
func plain(id string) bool {
	return id != "" && !strings.ContainsFunc(id, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '2' || r > '7') })
}

// A caller is whose requests are admitted together.
type caller struct {
	address string
	secret  [sha256.Size]byte
}

// opens says who presents the secret of the hash, which k was found for.
func opens(k store.Admission, hash []byte) (perm.Actor, error) {
	switch {
	case subtle.ConstantTimeCompare(hash, k.Hash)|subtle.ConstantTimeCompare(hash, k.PreviousHash) == 0:
		return perm.Actor{}, errUnknown
	case k.Revoked:
		return perm.Actor{}, fault.New(fault.Unauthenticated, "this API key was revoked; ask for another")
	case k.Expired:
		return perm.Actor{}, fault.New(fault.Unauthenticated, "this API key has expired; ask for another")
	}
	// What a default role may do is this build's to say; the database says it
	// of the others.
	can := slices.Clone(k.Permissions)
	for _, name := range k.Roles {
		if r, ok := perm.RoleNamed(name); ok {
			can = append(can, perm.Names(r.Can)...)
		}
	}
	return perm.Actor{Kind: perm.ByKey, ID: k.ID, Name: k.Name, Roles: slices.Clone(k.Roles), Can: can, ExpiresAt: k.ExpiresAt}, nil
}

var errUnknown = fault.New(fault.Unauthenticated, "no API key has this secret")

// A KeySecret is a key with its secret, which is shown once and not kept.
type KeySecret struct {
	store.Key
	Secret string `json:"secret" doc:"shown this once; send it as Authorization: Bearer SECRET"`
}

// NewBootstrap asks for the first key.
type NewBootstrap struct {
	Body struct {
		Token string `json:"token" minLength:"1" maxLength:"1024" doc:"the bootstrap token"`
		Name  string `json:"name" minLength:"1" maxLength:"200" doc:"name of the key that is made"`
	}
}

// Bootstrap makes the first key, which holds the admin role. The token works
// once in the life of a database.
func (a *Access) Bootstrap(ctx context.Context, in *NewBootstrap) (KeySecret, error) {
	// Equal lengths, so that the comparison takes the same time for any token.
	if a.BootstrapToken == "" || subtle.ConstantTimeCompare(sum(in.Body.Token), sum(a.BootstrapToken)) == 0 {
		return KeySecret{}, fault.New(fault.Unauthenticated, "this is not the bootstrap token")
	}
	ctx = perm.With(ctx, perm.Actor{Kind: perm.ByBootstrap, ID: perm.ByBootstrap, Name: perm.ByBootstrap})
	return a.insertKey(ctx, in.Body.Name, []string{perm.Admin.Name}, nil, audit.BootstrapUsed,
		func(tx pgx.Tx, id string) error {
			first, err := store.UseBootstrap(ctx, tx, id)
			if err == nil && !first {
				err = fault.New(fault.Gone, "the bootstrap token was used; an administrator can create keys. "+
					"If no administrator is left, deleting the row of the table bootstrap lets the token work once more")
			}
			return err
		})
}

// NewKey asks for a key. One that is created by a key which expires, expires
// with it or before.
type NewKey struct {
	Body struct {
		Name      string     `json:"name" minLength:"1" maxLength:"200" doc:"what the key is for; no two live keys share a name"`
		Roles     []string   `json:"roles" minItems:"1" maxItems:"50" uniqueItems:"true" nullable:"false" doc:"roles whose permissions the caller holds"`
		ExpiresAt *time.Time `json:"expires_at,omitempty" doc:"when the key ends; never without it"`
	}
}

// CreateKey makes a key.
func (a *Access) CreateKey(ctx context.Context, in *NewKey) (KeySecret, error) {
	if err := mayOutlast(ctx, "a key", in.Body.ExpiresAt); err != nil {
		return KeySecret{}, err
	}
	return a.insertKey(ctx, in.Body.Name, in.Body.Roles, in.Body.ExpiresAt, audit.KeyCreated,
		func(tx pgx.Tx, _ string) error { return mayGrant(ctx, tx, "body.roles", in.Body.Roles) })
}

func (a *Access) insertKey(ctx context.Context, name string, roles []string, expires *time.Time, action *audit.Action, guard func(pgx.Tx, string) error) (KeySecret, error) {
	id, secret, hash := newSecret()
	k := store.Key{ID: id, Name: name, Roles: roles, CreatedBy: perm.From(ctx).ID, ExpiresAt: expires}
	err := pg.InTx(ctx, a.DB, func(tx pgx.Tx) error {
		if err := guard(tx, id); err != nil {
			return err
		}
		ok, err := store.InsertKey(ctx, tx, k, hash)
		if err == nil && !ok {
			err = fault.New(fault.Invalid, "body.expires_at is past; choose a later time, or leave it out")
		}
		if err != nil {
			return err
		}
		if k, err = store.KeyByID(ctx, tx, id); err != nil {
			return err
		}
		return audit.Write(ctx, tx, audit.Event{
			Action: action, ResourceKind: "key", ResourceID: id,
			Details: map[string]string{"name": name, "roles": strings.Join(roles, " ")},
		})
	})
	return KeySecret{k, secret}, err
}

// mayOutlast refuses to a caller whose key expires to give more to something
// that ends later, or never.
func mayOutlast(ctx context.Context, what string, end *time.Time) error {
	own := perm.From(ctx).ExpiresAt
	if own != nil && (end == nil || end.After(*own)) {
		return fault.New(fault.Forbidden, "the caller's own key ends at %s, and %s must not end later (expires_at)", own.UTC().Format(time.RFC3339), what)
	}
	return nil
}

// mayGrant refuses roles that do not exist, and those that hold a permission
// which the caller does not: nobody grants more than they have.
func mayGrant(ctx context.Context, q pg.Q, field string, names []string) error {
	roles, err := store.RolesNamed(ctx, q, names...)
	if err != nil {
		return err
	}
	for _, name := range names {
		i := slices.IndexFunc(roles, func(r store.Role) bool { return r.Name == name })
		if i < 0 {
			return fault.New(fault.Invalid, "%s names a role that does not exist; GET /api/v1/roles lists them", field)
		}
		if err := mayHold(ctx, "grant or withdraw the role "+name, roles[i].Permissions); err != nil {
			return err
		}
	}
	return nil
}

func mayHold(ctx context.Context, what string, permissions []string) error {
	actor := perm.From(ctx)
	for _, p := range permissions {
		if !slices.Contains(actor.Can, p) {
			return fault.New(fault.Forbidden, "to %s needs the permission %s, which none of the caller's roles holds", what, p)
		}
	}
	return nil
}

// ListKeys asks for a page of keys.
type ListKeys struct {
	After   string `query:"after" maxLength:"64" doc:"next of the page before"`
	Limit   int    `query:"limit" minimum:"1" maximum:"500" default:"100"`
	Revoked bool   `query:"revoked" doc:"list revoked keys too"`
}

// KeyPage is a page of keys, newest first.
type KeyPage struct {
	Items []store.Key `json:"items" nullable:"false"`
	Next  string      `json:"next,omitempty" doc:"give it as after for the next page; absent on the last"`
}

// Keys lists keys without their secrets.
func (a *Access) Keys(ctx context.Context, in *ListKeys) (KeyPage, error) {
	keys, err := store.Keys(ctx, a.DB, in.After, in.Revoked, in.Limit+1)
	if err != nil {
		return KeyPage{}, err
	}
	if len(keys) == 0 && in.After != "" {
		if _, err := store.KeyByID(ctx, a.DB, in.After); fault.Of(err) == fault.NotFound {
			return KeyPage{}, fault.New(fault.Invalid, "query.after is no key; give the next of the page before")
		}
	}
	page := KeyPage{Items: keys}
	if len(keys) > in.Limit {
		page.Items = keys[:in.Limit]
		page.Next = page.Items[in.Limit-1].ID
	}
	return page, nil
}

// OneKey names a key.
type OneKey struct {
	ID string `path:"id" maxLength:"64" doc:"id of the key"`
}

// Key returns one key.
func (a *Access) Key(ctx context.Context, in *OneKey) (store.Key, error) {
	return store.KeyByID(ctx, a.DB, in.ID)
}

// Rotation asks for a new secret of a key.
type Rotation struct {
	OneKey
	Body *Grace
}

// A Grace lets two secrets of a key work side by side.
type Grace struct {
	GraceSeconds int `json:"grace_seconds,omitempty" minimum:"0" maximum:"2592000" doc:"how long the secret in force stays valid; it ends at once without it"`
}

// grace is how long the secret in force stays valid.
func (r *Rotation) grace() time.Duration {
	if r.Body == nil {
		return 0
	}
	return time.Duration(r.Body.GraceSeconds) * time.Second
}

// RotateKey gives a key a new secret. The caller must hold all that the key
// does: the answer lets them act as the key.
func (a *Access) RotateKey(ctx context.Context, in *Rotation) (KeySecret, error) {
	secret, hash := renew(in.ID)
	var k store.Key
	err := a.changeKey(ctx, in.ID, audit.KeyRotated, nil, func(tx pgx.Tx, before store.Key) error {
		if err := mayActAs(ctx, tx, "rotate", before); err != nil {
			return err
		}
		if err := mayOutlast(ctx, "a key that it rotates", before.ExpiresAt); err != nil {
			return err
		}
		ok, err := store.RotateKey(ctx, tx, in.ID, hash, in.grace())
		if err == nil && !ok {
			err = fault.New(fault.Conflict, "the key is revoked or has expired; create another")
		}
		if err == nil {
			k, err = store.KeyByID(ctx, tx, in.ID)
		}
		return err
	})
	if err != nil {
		return KeySecret{}, err
	}
	return KeySecret{k, secret}, nil
}

// mayActAs refuses to do something to a key that may do more than the caller.
func mayActAs(ctx context.Context, q pg.Q, what string, k store.Key) error {
	roles, err := store.RolesNamed(ctx, q, k.Roles...)
	if err != nil {
		return err
	}
	for _, r := range roles {
		if err := mayHold(ctx, what+" a key with the role "+r.Name, r.Permissions); err != nil {
			return err
		}
	}
	return nil
}

// RevokeKey ends a key for good.
func (a *Access) RevokeKey(ctx context.Context, in *OneKey) (store.Key, error) {
	var k store.Key
	err := a.changeKey(ctx, in.ID, audit.KeyRevoked, nil, func(tx pgx.Tx, before store.Key) error {
		if err := mayActAs(ctx, tx, "revoke", before); err != nil {
			return err
		}
		return keepAdmin(ctx, tx, func() error {
			ok, err := store.RevokeKey(ctx, tx, in.ID)
			if err == nil && !ok {
				err = fault.New(fault.Conflict, "the key is revoked already")
			}
			if err == nil {
				k, err = store.KeyByID(ctx, tx, in.ID)
			}
			return err
		})
	})
	return k, err
}

// Grant names a key and a role.
type Grant struct {
	OneKey
	Role string `path:"role" maxLength:"63" doc:"name of the role"`
}

// GrantRole gives a key a role. Granting it again changes nothing.
func (a *Access) GrantRole(ctx context.Context, in *Grant) (store.Key, error) {
	var k store.Key
	err := pg.InTx(ctx, a.DB, func(tx pgx.Tx) error {
		before, err := store.KeyByID(ctx, tx, in.ID)
		if err != nil {
			return err
		}
		if before.RevokedAt != nil {
			return fault.New(fault.Conflict, "the key is revoked; create another")
		}
		if err := mayOutlast(ctx, "a key that it grants a role", before.ExpiresAt); err != nil {
			return err
		}
		if err := mayGrant(ctx, tx, "path.role", []string{in.Role}); err != nil {
			return err
		}
		added, err := store.GrantRole(ctx, tx, in.ID, in.Role, perm.From(ctx).ID)
		if err != nil {
			return err
		}
		if k, err = store.KeyByID(ctx, tx, in.ID); err != nil || !added {
			return err
		}
		return audit.Write(ctx, tx, audit.Event{
			Action: audit.RoleGranted, ResourceKind: "key", ResourceID: in.ID,
			Details: map[string]string{"name": k.Name, "role": in.Role},
		})
	})
	return k, err
}

// WithdrawRole takes a role from a key.
func (a *Access) WithdrawRole(ctx context.Context, in *Grant) (store.Key, error) {
	var k store.Key
	err := a.changeKey(ctx, in.ID, audit.RoleWithdrawn, map[string]string{"role": in.Role}, func(tx pgx.Tx, _ store.Key) error {
		if err := mayGrant(ctx, tx, "path.role", []string{in.Role}); err != nil {
			return err
		}
		return keepAdmin(ctx, tx, func() error {
			ok, err := store.WithdrawRole(ctx, tx, in.ID, in.Role)
			if err == nil && !ok {
				err = fault.New(fault.NotFound, "the key does not hold this role")
			}
			if err == nil {
				k, err = store.KeyByID(ctx, tx, in.ID)
			}
			return err
		})
	})
	return k, err
}

// changeKey runs change on a key and writes the event in its transaction.
func (a *Access) changeKey(ctx context.Context, id string, action *audit.Action, details map[string]string, change func(pgx.Tx, store.Key) error) error {
	return pg.InTx(ctx, a.DB, func(tx pgx.Tx) error {
		k, err := store.KeyByID(ctx, tx, id)
		if err != nil {
			return err
		}
		if err := change(tx, k); err != nil {
			return err
		}
		if details == nil {
			details = map[string]string{}
		}
		details["name"] = k.Name
		return audit.Write(ctx, tx, audit.Event{Action: action, ResourceKind: "key", ResourceID: id, Details: details})
	})
}

// keepAdmin runs a change that takes roles from keys, and refuses one that
// leaves no live key with the admin role, or none that lasts where one did.
// Such changes wait for each other.
func keepAdmin(ctx context.Context, tx pgx.Tx, change func() error) error {
	admin := perm.Admin.Name
	if err := store.LockRole(ctx, tx, admin); err != nil {
		return err
	}
	before, err := store.HoldersOf(ctx, tx, admin)
	if err != nil {
		return err
	}
	if err := change(); err != nil {
		return err
	}
	after, err := store.HoldersOf(ctx, tx, admin)
	if err == nil && ((before.Live > 0 && after.Live == 0) || (before.Lasting > 0 && after.Lasting == 0)) {
		err = fault.New(fault.Conflict, "this is the last live key with the role %s that does not expire; give the role to another first", admin)
	}
	return err
}
