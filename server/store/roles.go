// Package store holds the statements on tables that no mechanism owns, one
// file per table, so that a transaction of a feature can span them.
package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/perm"
	"certctl/server/pg"
)

// SyncRoles makes the declared permissions and default roles rows of the
// database. It writes nothing where nothing differs, so replicas that start
// together do not wait for each other.
func SyncRoles(ctx context.Context, q pg.Q, perms []*perm.Permission, roles []*perm.Role) error {
	args := struct{ perms, permsDo, roles, rolesDo, grantRoles, grantPerms []string }{}
	for _, p := range perms {
		args.perms, args.permsDo = append(args.perms, p.Name), append(args.permsDo, p.Does)
	}
	for _, r := range roles {
		args.roles, args.rolesDo = append(args.roles, r.Name), append(args.rolesDo, r.Does)
		for _, p := range r.Can {
			args.grantRoles, args.grantPerms = append(args.grantRoles, r.Name), append(args.grantPerms, p.Name)
		}
	}
	_, err := q.Exec(ctx, `
		with p as (
			insert into permissions as p (name, does)
			select * from unnest(@perms::text[], @perms_do::text[])
			on conflict (name) do update set does = excluded.does where p.does <> excluded.does
		), r as (
			insert into roles as r (name, does, declared)
			select name, does, true from unnest(@roles::text[], @roles_do::text[]) u (name, does)
			on conflict (name) do update set does = excluded.does, declared = true
			where r.does <> excluded.does or not r.declared
		), granted as (
			insert into role_permissions (role, permission)
			select * from unnest(@grant_roles::text[], @grant_perms::text[])
			on conflict do nothing
		)
		delete from role_permissions
		where role = any(@roles) and (role, permission) not in (
			select * from unnest(@grant_roles::text[], @grant_perms::text[]))`,
		pgx.StrictNamedArgs{
			"perms": args.perms, "perms_do": args.permsDo, "roles": args.roles, "roles_do": args.rolesDo,
			"grant_roles": args.grantRoles, "grant_perms": args.grantPerms,
		})
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

// HasHolder reports whether a live key holds the role.
func HasHolder(ctx context.Context, q pg.Q, role string) (held bool, err error) {
	err = q.QueryRow(ctx, `
		select exists (select from key_roles kr join api_keys k on k.id = kr.key_id where kr.role = $1 and `+liveKey+`)`,
		role).Scan(&held)
	return held, pg.Fault(err, "role")
}
