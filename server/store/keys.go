package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/limit"
	"certctl/server/pg"
)

// liveKey is the condition of a row k of api_keys that still opens something.
const liveKey = `k.revoked_at is null and (k.expires_at is null or k.expires_at > clock_timestamp())`

// A Key is an API key without its secret.
type Key struct {
	ID         string     `json:"id"`
	Name       string     `json:"name"`
	Roles      []string   `json:"roles" nullable:"false"`
	CreatedAt  time.Time  `json:"created_at"`
	CreatedBy  string     `json:"created_by" doc:"id of the key that made it, or bootstrap"`
	ExpiresAt  *time.Time `json:"expires_at,omitempty"`
	RotatedAt  *time.Time `json:"rotated_at,omitempty"`
	RevokedAt  *time.Time `json:"revoked_at,omitempty"`
	LastUsedAt *time.Time `json:"last_used_at,omitempty" doc:"to the minute"`
}

const keyColumns = `
	k.id, k.name, k.created_at, k.created_by, k.expires_at, k.rotated_at, k.revoked_at, k.last_used_at,
	array(select role from key_roles where key_id = k.id order by role) as roles`

// Keys returns up to limit keys, newest first, that come after the key with
// the id after.
func Keys(ctx context.Context, q pg.Q, after string, revoked bool, limit int) ([]Key, error) {
	rows, _ := q.Query(ctx, `
		select `+keyColumns+` from api_keys k
		where (@revoked or k.revoked_at is null)
		  and (@after = '' or (k.created_at, k.id) < (select created_at, id from api_keys where id = @after))
		order by k.created_at desc, k.id desc
		limit @limit`,
		pgx.StrictNamedArgs{"after": after, "revoked": revoked, "limit": limit})
	keys, err := pgx.CollectRows(rows, pgx.RowToStructByName[Key])
	return keys, pg.Fault(err, "API keys")
}

// KeyByID returns one key.
func KeyByID(ctx context.Context, q pg.Q, id string) (Key, error) {
	rows, _ := q.Query(ctx, `select `+keyColumns+` from api_keys k where k.id = $1`, id)
	k, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Key])
	return k, pg.Fault(err, "API key")
}

// InsertKey adds a key whose secret has the SHA-256 hash. It reports false,
// and adds nothing, if the key would be expired by the database's clock.
func InsertKey(ctx context.Context, q pg.Q, k Key, hash []byte) (bool, error) {
	tag, err := q.Exec(ctx, `
		with k as (
			insert into api_keys (id, name, hash, created_by, expires_at)
			select @id, @name, @hash, @created_by, @expires_at
			where @expires_at::timestamptz is null or @expires_at > clock_timestamp()
			returning id
		)
		insert into key_roles (key_id, role, granted_by)
		select k.id, role, @created_by from k, unnest(@roles::text[]) role`,
		pgx.StrictNamedArgs{
			"id": k.ID, "name": k.Name, "hash": hash, "created_by": k.CreatedBy,
			"expires_at": k.ExpiresAt, "roles": k.Roles,
		})
	return tag.RowsAffected() > 0, pg.Fault(err, "a live API key of that name")
}

// RotateKey gives a live key a new secret. The one in force stays valid for
// grace; one from an earlier rotation ends now.
func RotateKey(ctx context.Context, q pg.Q, id string, hash []byte, grace time.Duration) (bool, error) {
	tag, err := q.Exec(ctx, `
		update api_keys k
		set hash = @hash, previous_hash = k.hash, previous_expires_at = clock_timestamp() + @grace::interval,
		    rotated_at = clock_timestamp()
		where k.id = @id and `+liveKey,
		pgx.StrictNamedArgs{"id": id, "hash": hash, "grace": grace})
	return tag.RowsAffected() == 1, pg.Fault(err, "API key")
}

// RevokeKey ends a key. It reports false if the key is revoked already.
func RevokeKey(ctx context.Context, q pg.Q, id string) (bool, error) {
	tag, err := q.Exec(ctx, `
		update api_keys set revoked_at = clock_timestamp() where id = $1 and revoked_at is null`, id)
	return tag.RowsAffected() == 1, pg.Fault(err, "API key")
}

// GrantRole gives a key a role. It reports false if the key holds it already.
func GrantRole(ctx context.Context, q pg.Q, id, role, by string) (bool, error) {
	tag, err := q.Exec(ctx, `
		insert into key_roles (key_id, role, granted_by) values ($1, $2, $3) on conflict do nothing`, id, role, by)
	return tag.RowsAffected() == 1, pg.Fault(err, "the grant")
}

// WithdrawRole takes a role from a key. It reports false if the key does not
// hold it.
func WithdrawRole(ctx context.Context, q pg.Q, id, role string) (bool, error) {
	tag, err := q.Exec(ctx, `delete from key_roles where key_id = $1 and role = $2`, id, role)
	return tag.RowsAffected() == 1, pg.Fault(err, "the grant")
}

// An Admission is what decides whether a secret opens anything, and what.
type Admission struct {
	ID           string
	Name         string
	Hash         []byte
	PreviousHash []byte // null once its grace is over
	Revoked      bool
	Expired      bool
	ExpiresAt    *time.Time
	Roles        []string
	Permissions  []string // of those roles that are not declared
	Address      []int64  // state of the bucket of the address; null if its limit was not asked
	Actor        []int64  // state of the bucket of the key; null if it was not asked, or the secret opens nothing
}

// Admit asks the limit of an address, looks a key up by id, and asks the limit of
// the key if hash is that of its secret: for as many requests as come together,
// in one round trip. A limit without terms is not asked. If the address has used
// its bucket up, no key is found.
//
// It notes the use of the key, and waits for nobody to: a use is not noted while
// the key is being changed.
func Admit(ctx context.Context, q pg.Q, address string, ofAddress, ofActor *limit.Terms, id string, hash []byte, asked int64) (Admission, error) {
	args := pgx.StrictNamedArgs{"id": id, "hash": hash, "asked": asked, "address": address, "limited": ofAddress != nil}
	for prefix, t := range map[string]*limit.Terms{"address_": ofAddress, "actor_": ofActor} {
		if t == nil {
			t = &limit.Terms{}
		}
		args[prefix+"name"], args[prefix+"cap"], args[prefix+"per"] = t.Name, t.Cap, t.Per
		args[prefix+"sliding"], args[prefix+"durable"] = t.Sliding, t.Durable
	}
	rows, _ := q.Query(ctx, `
		with address as materialized (
			select case when @limited then rate_limit_take(
				@address_name, @address, @asked, @address_cap, @address_per, @address_sliding, @address_durable) end as state
		), found as materialized (
			select k.*, coalesce(address.state[1], @asked) as asked,
				`+liveKey+` and (k.hash = @hash or (k.previous_hash = @hash and k.previous_expires_at > clock_timestamp())) as opens
			from address, api_keys k where k.id = @id and coalesce(address.state[1], 1) > 0
		), actor as materialized (
			select rate_limit_take(
				@actor_name, found.id, found.asked, @actor_cap, @actor_per, @actor_sliding, @actor_durable) as state
			from found where found.opens and @limited
		), used as (
			update api_keys set last_used_at = clock_timestamp()
			where id = (
				select k.id from found join api_keys k on k.id = found.id
				where found.opens and (k.last_used_at is null or k.last_used_at < clock_timestamp() - interval '1 minute')
				for no key update of k skip locked)
		)
		select coalesce(k.id, '') as id, coalesce(k.name, '') as name, k.hash, k.expires_at,
		       case when k.previous_expires_at > clock_timestamp() then k.previous_hash end as previous_hash,
		       k.revoked_at is not null as revoked,
		       coalesce(k.expires_at <= clock_timestamp(), false) as expired,
		       array(select role from key_roles where key_id = k.id order by role) as roles,
		       array(select distinct permission from role_permissions rp
		             join key_roles kr on kr.role = rp.role
		             join roles r on r.name = rp.role and not r.declared
		             where kr.key_id = k.id) as permissions,
		       address.state as address, actor.state as actor
		from address left join found k on true left join actor on true`, args)
	a, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Admission])
	return a, pg.Fault(err, "API key")
}

// UseBootstrap records that the bootstrap token made the key with the id. It
// reports false if the token was used before, by whatever replica.
func UseBootstrap(ctx context.Context, q pg.Q, keyID string) (bool, error) {
	tag, err := q.Exec(ctx, `insert into bootstrap (key_id) values ($1) on conflict do nothing`, keyID)
	return tag.RowsAffected() == 1, pg.Fault(err, "bootstrap")
}

// Bootstrapped reports whether the bootstrap token was used.
func Bootstrapped(ctx context.Context, q pg.Q) (used bool, err error) {
	err = q.QueryRow(ctx, `select exists (select from bootstrap)`).Scan(&used)
	return used, pg.Fault(err, "bootstrap")
}
