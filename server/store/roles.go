// Package store holds the statements on tables that no mechanism owns, one
// file per table, so that a transaction of a feature can span them.
package store

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/fault"
	"certctl/server/perm"
	"certctl/server/pg"
)

// SyncRoles makes the declared permissions and the names of the default roles
// rows of the database, so that other rows can refer to them. What a default
// role may do is not among them: each replica takes that from its own build,
// or an older one beside a newer would undo it. Nothing is written, and no row
// locked, where nothing differs.
func SyncRoles(ctx context.Context, q pg.Q, perms []*perm.Permission, roles []*perm.Role) error {
	var names, does, roleNames, rolesDo []string
	for _, p := range perms {
		names, does = append(names, p.Name), append(does, p.Does)
	}
	for _, r := range roles {
		roleNames, rolesDo = append(roleNames, r.Name), append(rolesDo, r.Does)
	}
	var taken []string
	err := q.QueryRow(ctx, `
		with p as (select name, does from unnest(@names::text[], @does::text[]) u (name, does)),
		r as (select name, does from unnest(@roles::text[], @roles_do::text[]) u (name, does)),
		new_p as (
			insert into permissions (name, does)
			select name, does from p where not exists (select from permissions where name = p.name)
			order by name on conflict do nothing
		), other_p as (
			update permissions o set does = p.does from p where o.name = p.name and o.does <> p.does
		), new_r as (
			insert into roles (name, does, declared)
			select name, does, true from r where not exists (select from roles where name = r.name)
			order by name on conflict do nothing
		), other_r as (
			update roles o set does = r.does from r where o.name = r.name and o.does <> r.does and o.declared
		)
		select array(select name from roles join r using (name) where not declared)`,
		pgx.StrictNamedArgs{"names": names, "does": does, "roles": roleNames, "roles_do": rolesDo}).Scan(&taken)
	if err == nil && len(taken) > 0 {
		return fault.New(fault.Conflict, "the custom role %s has the name of a default role of this version; "+
			"make another for its keys, and delete it, with the version before", taken[0])
	}
	return pg.Fault(err, "roles")
}

// A Role is a named set of permissions.
type Role struct {
	Name        string    `json:"name"`
	Does        string    `json:"does" doc:"what the role is for"`
	Declared    bool      `json:"declared" doc:"true for the default roles, which cannot be edited"`
	Permissions []string  `json:"permissions" nullable:"false"`
	Keys        int       `json:"keys" doc:"live keys that hold it"`
	CreatedAt   time.Time `json:"created_at"`
}

const selectRoles = `
	select r.name, r.does, r.declared, r.created_at,
	       array(select permission from role_permissions where role = r.name order by permission) as permissions,
	       (select count(*) from key_roles kr join api_keys k on k.id = kr.key_id
	        where kr.role = r.name and ` + liveKey + `) as keys
	from roles r`

// Roles returns every role, by name.
func Roles(ctx context.Context, q pg.Q) ([]Role, error) {
	rows, _ := q.Query(ctx, selectRoles+` order by r.name`)
	return collectRoles(rows)
}

// RolesNamed returns those of the named roles that exist, by name.
func RolesNamed(ctx context.Context, q pg.Q, names ...string) ([]Role, error) {
	rows, _ := q.Query(ctx, selectRoles+` where r.name = any($1) order by r.name`, names)
	return collectRoles(rows)
}

func collectRoles(rows pgx.Rows) ([]Role, error) {
	roles, err := pgx.CollectRows(rows, pgx.RowToStructByName[Role])
	for i, r := range roles {
		if d, ok := perm.RoleNamed(r.Name); ok {
			roles[i].Permissions = slices.Sorted(slices.Values(perm.Names(d.Can)))
		}
	}
	return roles, pg.Fault(err, "roles")
}

// InsertRole adds a custom role.
func InsertRole(ctx context.Context, q pg.Q, name, does string, permissions []string) error {
	_, err := q.Exec(ctx, `
		with r as (insert into roles (name, does, declared) values (@name, @does, false))
		insert into role_permissions (role, permission) select @name, unnest(@permissions::text[])`,
		pgx.StrictNamedArgs{"name": name, "does": does, "permissions": permissions})
	return pg.Fault(err, "role")
}

// DeleteRole deletes a custom role that no key holds, and reports whether it
// did.
func DeleteRole(ctx context.Context, q pg.Q, name string) (bool, error) {
	tag, err := q.Exec(ctx, `
		delete from roles
		where name = @name and not declared and not exists (select from key_roles where role = @name)`,
		pgx.StrictNamedArgs{"name": name})
	return tag.RowsAffected() == 1, pg.Fault(err, "role")
}

// LockRole keeps others from changing who holds a role until the transaction
// ends.
func LockRole(ctx context.Context, q pg.Q, name string) error {
	_, err := q.Exec(ctx, `select from roles where name = $1 for no key update`, name)
	return pg.Fault(err, "role")
}

// Holders counts the live keys that hold a role, and of these the ones that
// never expire.
type Holders struct{ Live, Lasting int }

// HoldersOf counts the holders of a role.
func HoldersOf(ctx context.Context, q pg.Q, role string) (Holders, error) {
	rows, _ := q.Query(ctx, `
		select count(*) as live, count(*) filter (where k.expires_at is null) as lasting
		from key_roles kr join api_keys k on k.id = kr.key_id where kr.role = $1 and `+liveKey, role)
	h, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Holders])
	return h, pg.Fault(err, "role")
}
