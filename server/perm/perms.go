package perm

// The permissions.
var (
	AuditRead         = declare("audit.read", "List, prove and verify the audit trail.")
	AuditExport       = declare("audit.export", "Export the audit trail as a stream.")
	IntrospectionRead = declare("introspection.read", "Read what the server declares and the state it is in, secrets withheld.")
	MetricRead        = declare("metric.read", "Scrape the metrics.")
	KeyRead           = declare("key.read", "List API keys and their roles, never their secrets.")
	KeyCreate         = declare("key.create", "Create an API key with roles whose permissions the creator holds.")
	KeyRotate         = declare("key.rotate", "Give an API key a new secret.")
	KeyRevoke         = declare("key.revoke", "Revoke an API key for good.")
	RoleRead          = declare("role.read", "List roles and permissions.")
	RoleEdit          = declare("role.edit", "Create and delete custom roles.")
	RoleGrant         = declare("role.grant", "Grant a role whose permissions the grantor holds to a key, and take it back.")
)

// The default roles. A role with no permission yet has its name reserved: the
// first route it needs brings the permission.
var (
	Admin    = role("admin", "Holds every permission.", All()...)
	Operator = role("operator", "Runs the system day by day.", AuditRead, IntrospectionRead, MetricRead, KeyRead, RoleRead)
	Viewer   = role("viewer", "Reads everything that is not a secret.", AuditRead, IntrospectionRead, MetricRead, KeyRead, RoleRead)
	Agent    = role("agent", "Is held by an agent on a host.")
	MCP      = role("mcp", "Is held by a tool server that acts for a person.", IntrospectionRead, MetricRead)
	CLI      = role("cli", "Is held by an operator's command line.", AuditRead, IntrospectionRead, MetricRead, KeyRead, KeyCreate, KeyRotate, RoleRead)
	Auditor  = role("auditor", "Reads and exports the audit trail and the server's declarations, nothing else.", AuditRead, AuditExport, IntrospectionRead)
)
