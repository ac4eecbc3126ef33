// Package perm declares what an actor may be allowed to do.
package perm

import (
	"context"
	"slices"
	"time"

	"certctl/server/table"
)

// A Permission guards one kind of action. Routes name permissions as Go
// variables, so a misspelled one does not compile.
type Permission struct {
	Name string `json:"name"`
	Does string `json:"does"`
}

var perms = table.By(func(p *Permission) string { return p.Name })

// All returns every permission, in declaration order.
func All() []*Permission { return perms.Rows() }

// Named returns the permission with the given name.
func Named(name string) (*Permission, bool) { return perms.Row(name) }

func declare(name, does string) *Permission {
	return perms.Add(&Permission{name, does})
}

// A Role is a named set of permissions that every deployment has. Operators
// add roles of their own as rows of the database.
type Role struct {
	Name string        `json:"name"`
	Does string        `json:"does"`
	Can  []*Permission `json:"can"`
}

var roles = table.By(func(r *Role) string { return r.Name })

// Roles returns every default role, in declaration order.
func Roles() []*Role { return roles.Rows() }

// RoleNamed returns the default role with the given name.
func RoleNamed(name string) (*Role, bool) { return roles.Row(name) }

func role(name, does string, can ...*Permission) *Role {
	return roles.Add(&Role{name, does, can})
}

// Names returns the names of ps.
func Names(ps []*Permission) []string {
	names := make([]string, len(ps))
	for i, p := range ps {
		names[i] = p.Name
	}
	return names
}

// The kinds of actor.
const (
	ByKey       = "key"       // an API key
	ByBootstrap = "bootstrap" // the bootstrap token
	ByServer    = "server"    // a replica, of its own accord
)

// An Actor is who a request or a pass acts for.
type Actor struct {
	Kind  string   // one of the above
	ID    string   // of the key; the replica's name for the server
	Name  string   // for people
	Roles []string // granted to the key
	Can   []string // names of the permissions that the roles hold

	ExpiresAt *time.Time // of the key; nil if it lasts
}

// May reports whether the actor holds p.
func (a Actor) May(p *Permission) bool { return slices.Contains(a.Can, p.Name) }

type actorKey struct{}

// With returns a context in which a acts.
func With(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// From returns who acts in ctx; the zero Actor if nobody was named.
func From(ctx context.Context) Actor {
	a, _ := ctx.Value(actorKey{}).(Actor)
	return a
}
