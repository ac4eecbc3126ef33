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

	TeamRead      = declare("team.read", "List teams and owners.")
	TeamEdit      = declare("team.edit", "Create, change and delete teams and owners.")
	PolicyRead    = declare("policy.read", "List renewal policies.")
	PolicyEdit    = declare("policy.edit", "Create, change and delete renewal policies.")
	ProfileRead   = declare("profile.read", "List profiles.")
	ProfileEdit   = declare("profile.edit", "Create, change and delete profiles.")
	IssuerRead    = declare("issuer.read", "List issuers, their secrets withheld.")
	IssuerEdit    = declare("issuer.edit", "Create, change, test and delete issuers.")
	CertRead      = declare("cert.read", "List certificates and their versions, and export them without keys.")
	CertIssue     = declare("cert.issue", "Have certificates issued.")
	CertRenew     = declare("cert.renew", "Have certificates renewed.")
	CertEdit      = declare("cert.edit", "Change what is known of certificates, and archive them.")
	CertRevoke    = declare("cert.revoke", "Revoke certificates, and release them from a hold.")
	CertExportKey = declare("cert.export-key", "Download the keys that the server made, once each.")
	CertBulk      = declare("cert.bulk", "Act on many certificates at once, with the permission of the action.")
	StatsRead     = declare("stats.read", "Read counts of certificates and jobs.")
	JobRead       = declare("job.read", "List jobs.")
	JobEdit       = declare("job.edit", "Cancel jobs, and give them new attempts.")

	ChannelRead      = declare("channel.read", "List channels, their secrets withheld.")
	ChannelEdit      = declare("channel.edit", "Create, change, test and delete channels.")
	NotificationRead = declare("notification.read", "List notifications and what became of them.")
	NotificationEdit = declare("notification.edit", "Have notifications sent again that were given up.")
)

// The default roles. A role with no permission yet has its name reserved: the
// first route it needs brings the permission.
var (
	Admin    = role("admin", "Holds every permission.", All()...)
	Operator = role("operator", "Runs the system day by day.", append(reads(),
		TeamEdit, PolicyEdit, CertIssue, CertRenew, CertEdit, CertRevoke, CertExportKey, CertBulk, JobEdit, NotificationEdit)...)
	Viewer = role("viewer", "Reads everything that is not a secret.", reads()...)
	Agent  = role("agent", "Is held by an agent on a host.")
	MCP    = role("mcp", "Is held by a tool server that acts for a person.", IntrospectionRead, MetricRead)
	CLI    = role("cli", "Is held by an operator's command line.", AuditRead, IntrospectionRead, MetricRead, KeyRead, KeyCreate, KeyRotate, RoleRead,
		TeamRead, PolicyRead, ProfileRead, IssuerRead, CertRead, CertIssue, CertRenew, StatsRead, JobRead, ChannelRead, NotificationRead)
	Auditor = role("auditor", "Reads and exports the audit trail and the server's declarations, nothing else.", AuditRead, AuditExport, IntrospectionRead)
)

// reads are the permissions to read all that is no secret.
func reads() []*Permission {
	return []*Permission{
		AuditRead, IntrospectionRead, MetricRead, KeyRead, RoleRead,
		TeamRead, PolicyRead, ProfileRead, IssuerRead, CertRead, StatsRead, JobRead,
		ChannelRead, NotificationRead,
	}
}
