// Package api declares the server's HTTP surface: a table of routes with the
// types they take and answer with.
package api

import (
	"net/http"
	"time"

	"certctl/server/perm"
	"certctl/server/table"
	"certctl/server/web"
)

// The routes. Raw ones answer with something else than JSON.
var (
	Healthz = raw(&web.Route{
		Name: "get-health", Method: http.MethodGet, Path: "/healthz", Content: "text/plain",
		Does:   "says that the process answers",
		Public: "it is what a supervisor asks, and says nothing else",
	})
	Readyz = typed[Empty, Ready](&web.Route{
		Name: "get-readiness", Method: http.MethodGet, Path: "/readyz",
		Does:   "says whether this replica can serve: its database answers and it is not shutting down",
		Public: "it is what a load balancer asks, and says nothing else",
	})
	Metrics = raw(&web.Route{
		Name: "get-metrics", Method: http.MethodGet, Path: "/metrics", Content: "text/plain; version=0.0.4",
		Does:  "answers with the metrics of this replica in the Prometheus format",
		Needs: perm.MetricRead,
	})
	OpenAPI = raw(&web.Route{
		Name: "get-openapi", Method: http.MethodGet, Path: "/openapi.json", Content: "application/json",
		Does:   "answers with the OpenAPI document of these routes",
		Public: "it says what this table says",
	})
	Introspect = typed[Empty, Introspection](&web.Route{
		Name: "get-introspection", Method: http.MethodGet, Path: "/api/v1/introspection",
		Does:  "answers with what this server declares and the state it is in, secrets withheld",
		Needs: perm.IntrospectionRead,
	})

	Bootstrap = typed[NewBootstrap, KeySecret](&web.Route{
		Name: "bootstrap", Method: http.MethodPost, Path: "/api/v1/bootstrap", Status: http.StatusCreated,
		Does:   "makes the first API key, which holds the admin role, from the bootstrap token",
		Public: "the token, which works once in the life of a database, is the credential",
	})
	CreateKey = typed[NewKey, KeySecret](&web.Route{
		Name: "create-key", Method: http.MethodPost, Path: "/api/v1/keys", Status: http.StatusCreated,
		Does:  "creates an API key and answers with its secret, this once",
		Needs: perm.KeyCreate,
	})
	ListKeys = typed[KeyQuery, KeyPage](&web.Route{
		Name: "list-keys", Method: http.MethodGet, Path: "/api/v1/keys",
		Does:  "lists API keys without their secrets, newest first",
		Needs: perm.KeyRead,
	})
	GetKey = typed[OneKey, Key](&web.Route{
		Name: "get-key", Method: http.MethodGet, Path: "/api/v1/keys/{id}",
		Does:  "answers with one API key without its secret",
		Needs: perm.KeyRead,
	})
	RotateKey = typed[Rotation, KeySecret](&web.Route{
		Name: "rotate-key", Method: http.MethodPost, Path: "/api/v1/keys/{id}/rotate",
		Does:  "gives an API key a new secret and answers with it, this once",
		Needs: perm.KeyRotate,
	})
	RevokeKey = typed[OneKey, Key](&web.Route{
		Name: "revoke-key", Method: http.MethodPost, Path: "/api/v1/keys/{id}/revoke",
		Does:  "revokes an API key for good",
		Needs: perm.KeyRevoke,
	})
	GrantRole = typed[Grant, Key](&web.Route{
		Name: "grant-role", Method: http.MethodPut, Path: "/api/v1/keys/{id}/roles/{role}",
		Does:  "grants a role to an API key",
		Needs: perm.RoleGrant,
	})
	WithdrawRole = typed[Grant, Key](&web.Route{
		Name: "withdraw-role", Method: http.MethodDelete, Path: "/api/v1/keys/{id}/roles/{role}",
		Does:  "takes a role from an API key",
		Needs: perm.RoleGrant,
	})
	ListRoles = typed[Empty, Roles](&web.Route{
		Name: "list-roles", Method: http.MethodGet, Path: "/api/v1/roles",
		Does:  "lists the roles with their permissions",
		Needs: perm.RoleRead,
	})
	CreateRole = typed[NewRole, Role](&web.Route{
		Name: "create-role", Method: http.MethodPost, Path: "/api/v1/roles", Status: http.StatusCreated,
		Does:  "creates a custom role",
		Needs: perm.RoleEdit,
	})
	DeleteRole = typed[OneRole, web.Nothing](&web.Route{
		Name: "delete-role", Method: http.MethodDelete, Path: "/api/v1/roles/{name}",
		Does:  "deletes a custom role that no key holds",
		Needs: perm.RoleEdit,
	})
	ListPermissions = typed[Empty, Permissions](&web.Route{
		Name: "list-permissions", Method: http.MethodGet, Path: "/api/v1/permissions",
		Does:  "lists the permissions that a role can hold",
		Needs: perm.RoleRead,
	})

	ListEvents = typed[EventQuery, EventPage](&web.Route{
		Name: "list-events", Method: http.MethodGet, Path: "/api/v1/audit/events",
		Does:  "lists audit events, newest first",
		Needs: perm.AuditRead,
	})
	ExportEvents = streamed[EventFilter](&web.Route{
		Name: "export-events", Method: http.MethodGet, Path: "/api/v1/audit/export", Content: "application/x-ndjson",
		Does:  "streams the signed audit log with its checkpoints, a JSON object a line",
		Needs: perm.AuditExport, AtOnce: 2,
	})
	GetCheckpoint = typed[Empty, Checkpoint](&web.Route{
		Name: "get-checkpoint", Method: http.MethodGet, Path: "/api/v1/audit/checkpoint",
		Does:  "answers with the newest signed checkpoint of the audit log; keep it outside of the database",
		Needs: perm.AuditRead,
	})
	ProveInclusion = typed[InclusionQuery, Inclusion](&web.Route{
		Name: "prove-inclusion", Method: http.MethodGet, Path: "/api/v1/audit/proofs/inclusion",
		Does:  "proves that an event is in the log that a checkpoint signed",
		Needs: perm.AuditRead,
	})
	ProveConsistency = typed[ConsistencyQuery, Consistency](&web.Route{
		Name: "prove-consistency", Method: http.MethodGet, Path: "/api/v1/audit/proofs/consistency",
		Does:  "proves that the log a checkpoint signed is the beginning of a later one",
		Needs: perm.AuditRead,
	})
	VerifyLog = typed[Verification, VerifyReport](&web.Route{
		Name: "verify-log", Method: http.MethodPost, Path: "/api/v1/audit/verify",
		Does:  "recomputes the audit log and names what was altered, also against checkpoints that were kept outside",
		Needs: perm.AuditRead, AtOnce: 1, Timeout: 10 * time.Minute,
	})
)

var routes = table.By(func(r *web.Route) string { return r.Name })

// Routes returns every route, in declaration order.
func Routes() []*web.Route { return routes.Rows() }

func typed[I, O any](r *web.Route) web.Endpoint[I, O] { return web.Typed[I, O](routes.Add(r)) }

func streamed[I any](r *web.Route) web.Stream[I] { return web.Streamed[I](routes.Add(r)) }

func raw(r *web.Route) web.Raw { return web.Raw{Route: routes.Add(r)} }
