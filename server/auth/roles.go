package auth

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"

	"certctl/server/audit"
	"certctl/server/fault"
	"certctl/server/perm"
	"certctl/server/pg"
	"certctl/server/store"
	"certctl/server/web"
)

// Roles lists every role.
type Roles struct {
	Items []store.Role `json:"items" nullable:"false"`
}

// ListRoles lists every role with its permissions.
func (a *Access) ListRoles(ctx context.Context, _ *web.Nothing) (Roles, error) {
	roles, err := store.Roles(ctx, a.DB)
	return Roles{roles}, err
}

// Permissions lists every permission.
type Permissions struct {
	Items []*perm.Permission `json:"items" nullable:"false"`
}

// ListPermissions lists every permission that a role can hold.
func (a *Access) ListPermissions(context.Context, *web.Nothing) (Permissions, error) {
	return Permissions{perm.All()}, nil
}

// NewRole asks for a custom role.
type NewRole struct {
	Body struct {
		Name        string   `json:"name" minLength:"1" maxLength:"63" pattern:"^[a-z][a-z0-9-]*$" patternDescription:"lower-case letters, digits and dashes, from a letter on"`
		Does        string   `json:"does" minLength:"1" maxLength:"500" doc:"what the role is for"`
		Permissions []string `json:"permissions" minItems:"1" maxItems:"200" uniqueItems:"true" nullable:"false" doc:"permissions that the caller holds"`
	}
}

// CreateRole makes a custom role.
func (a *Access) CreateRole(ctx context.Context, in *NewRole) (store.Role, error) {
	for _, name := range in.Body.Permissions {
		if _, ok := perm.Named(name); !ok {
			return store.Role{}, fault.New(fault.Invalid, "body.permissions names one that does not exist; GET /api/v1/permissions lists them")
		}
	}
	if err := mayHold(ctx, "make a role of it", in.Body.Permissions); err != nil {
		return store.Role{}, err
	}
	var role store.Role
	err := pg.InTx(ctx, a.DB, func(tx pgx.Tx) error {
		if err := store.InsertRole(ctx, tx, in.Body.Name, in.Body.Does, in.Body.Permissions); err != nil {
			return err
		}
		roles, err := store.RolesNamed(ctx, tx, in.Body.Name)
		if err != nil {
			return err
		}
		role = roles[0]
		return audit.Write(ctx, tx, audit.Event{
			Action: audit.RoleCreated, ResourceKind: "role", ResourceID: in.Body.Name,
			Details: map[string]string{"permissions": strings.Join(role.Permissions, " ")},
		})
	})
	return role, err
}

// OneRole names a role.
type OneRole struct {
	Name string `path:"name" maxLength:"63" doc:"name of the role"`
}

// DeleteRole deletes a custom role that no key holds.
func (a *Access) DeleteRole(ctx context.Context, in *OneRole) (web.Nothing, error) {
	return web.Nothing{}, pg.InTx(ctx, a.DB, func(tx pgx.Tx) error {
		roles, err := store.RolesNamed(ctx, tx, in.Name)
		switch {
		case err != nil:
			return err
		case len(roles) == 0:
			return fault.New(fault.NotFound, "no role has this name")
		case roles[0].Declared:
			return fault.New(fault.Conflict, "the role %s is a default role, which every deployment has", in.Name)
		}
		deleted, err := store.DeleteRole(ctx, tx, in.Name)
		if err == nil && !deleted {
			err = fault.New(fault.Conflict, "keys hold the role %s; withdraw it from them first", in.Name)
		}
		if err != nil {
			return err
		}
		return audit.Write(ctx, tx, audit.Event{Action: audit.RoleDeleted, ResourceKind: "role", ResourceID: in.Name})
	})
}
