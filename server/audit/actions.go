package audit

import "certctl/server/table"

// An Action is one kind of event.
type Action struct {
	Name     string `json:"name"` // noun.past participle
	Category string `json:"category"`
	Does     string `json:"does"` // what an event of it records
}

var actions = table.By(func(a *Action) string { return a.Name })

// Actions returns every action, in declaration order.
func Actions() []*Action { return actions.Rows() }

// The categories.
const (
	Access = "access" // keys, roles and who holds them
	Trail  = "audit"  // the trail itself
	Server = "server" // processes
)

func declare(name, category, does string) *Action {
	return actions.Add(&Action{name, category, does})
}

// The actions.
var (
	KeyCreated    = declare("key.created", Access, "An API key was created.")
	KeyRotated    = declare("key.rotated", Access, "An API key was given a new secret.")
	KeyRevoked    = declare("key.revoked", Access, "An API key was revoked.")
	RoleGranted   = declare("role.granted", Access, "A role was granted to a key.")
	RoleWithdrawn = declare("role.withdrawn", Access, "A role was taken from a key.")
	RoleCreated   = declare("role.created", Access, "A custom role was created.")
	RoleDeleted   = declare("role.deleted", Access, "A custom role was deleted.")
	BootstrapUsed = declare("bootstrap.used", Access, "The bootstrap token created the first API key.")

	Exported = declare("audit.exported", Trail, "The audit trail was exported, whole or by a filter.")
	Verified = declare("audit.verified", Trail, "The audit log was recomputed by a replica; the details say what was found.")

	ServerStarted = declare("server.started", Server, "A replica started to serve.")
)

// named returns the names of the actions in a category.
func named(category string) []string {
	names := []string{}
	for _, a := range actions.Rows() {
		if a.Category == category {
			names = append(names, a.Name)
		}
	}
	return names
}
