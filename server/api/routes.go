// Package api declares the server's HTTP surface: a table of routes with the
// types they take and answer with.
package api

import (
	"net/http"
	"time"

	"certctl/server/limit"
	"certctl/server/perm"
	"certctl/server/table"
	"certctl/server/web"
)

// The routes. Raw ones answer with something else than JSON.
var (
	Healthz = raw(&web.Route{
		Name: "get-health", Method: http.MethodGet, Path: "/healthz", Content: "text/plain",
		Does:      "says that the process answers",
		Public:    "it is what a supervisor asks, and says nothing else",
		Unlimited: "it costs nothing, and has to be answered whatever the database does",
	})
	Readyz = typed[Empty, Ready](&web.Route{
		Name: "get-readiness", Method: http.MethodGet, Path: "/readyz",
		Does:      "says whether this replica can serve: its database answers and it is not shutting down",
		Public:    "it is what a load balancer asks, and says nothing else",
		Unlimited: "a load balancer that is refused takes the replica for broken",
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
		Does:    "makes the first API key, which holds the admin role, from the bootstrap token",
		Public:  "the token, which works once in the life of a database, is the credential",
		Besides: []*limit.Limit{limit.BootstrapAttempts},
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

	CreateTeam = typed[NewTeam, Team](&web.Route{
		Name: "create-team", Method: http.MethodPost, Path: "/api/v1/teams", Status: http.StatusCreated,
		Does:  "creates a team",
		Needs: perm.TeamEdit,
	})
	ListTeams = typed[ByName, TeamPage](&web.Route{
		Name: "list-teams", Method: http.MethodGet, Path: "/api/v1/teams",
		Does:  "lists teams, by name",
		Needs: perm.TeamRead, Tagged: true,
	})
	GetTeam = typed[ByID, Team](&web.Route{
		Name: "get-team", Method: http.MethodGet, Path: "/api/v1/teams/{id}",
		Does:  "answers with one team",
		Needs: perm.TeamRead, Tagged: true,
	})
	UpdateTeam = typed[TeamChange, Team](&web.Route{
		Name: "update-team", Method: http.MethodPatch, Path: "/api/v1/teams/{id}",
		Does:  "changes the given fields of a team",
		Needs: perm.TeamEdit,
	})
	DeleteTeam = typed[ByID, web.Nothing](&web.Route{
		Name: "delete-team", Method: http.MethodDelete, Path: "/api/v1/teams/{id}",
		Does:  "deletes a team that nothing refers to",
		Needs: perm.TeamEdit,
	})

	CreateOwner = typed[NewOwner, Owner](&web.Route{
		Name: "create-owner", Method: http.MethodPost, Path: "/api/v1/owners", Status: http.StatusCreated,
		Does:  "creates an owner",
		Needs: perm.TeamEdit,
	})
	ListOwners = typed[ByName, OwnerPage](&web.Route{
		Name: "list-owners", Method: http.MethodGet, Path: "/api/v1/owners",
		Does:  "lists owners, by name",
		Needs: perm.TeamRead, Tagged: true,
	})
	GetOwner = typed[ByID, Owner](&web.Route{
		Name: "get-owner", Method: http.MethodGet, Path: "/api/v1/owners/{id}",
		Does:  "answers with one owner",
		Needs: perm.TeamRead, Tagged: true,
	})
	UpdateOwner = typed[OwnerChange, Owner](&web.Route{
		Name: "update-owner", Method: http.MethodPatch, Path: "/api/v1/owners/{id}",
		Does:  "changes the given fields of an owner",
		Needs: perm.TeamEdit,
	})
	DeleteOwner = typed[ByID, web.Nothing](&web.Route{
		Name: "delete-owner", Method: http.MethodDelete, Path: "/api/v1/owners/{id}",
		Does:  "deletes an owner that nothing refers to",
		Needs: perm.TeamEdit,
	})

	CreatePolicy = typed[NewPolicy, Policy](&web.Route{
		Name: "create-renewal-policy", Method: http.MethodPost, Path: "/api/v1/renewal-policies", Status: http.StatusCreated,
		Does:  "creates a renewal policy",
		Needs: perm.PolicyEdit,
	})
	ListPolicies = typed[ByName, PolicyPage](&web.Route{
		Name: "list-renewal-policies", Method: http.MethodGet, Path: "/api/v1/renewal-policies",
		Does:  "lists renewal policies, by name",
		Needs: perm.PolicyRead, Tagged: true,
	})
	GetPolicy = typed[ByID, Policy](&web.Route{
		Name: "get-renewal-policy", Method: http.MethodGet, Path: "/api/v1/renewal-policies/{id}",
		Does:  "answers with one renewal policy",
		Needs: perm.PolicyRead, Tagged: true,
	})
	UpdatePolicy = typed[PolicyChange, Policy](&web.Route{
		Name: "update-renewal-policy", Method: http.MethodPatch, Path: "/api/v1/renewal-policies/{id}",
		Does:  "changes the given fields of a renewal policy",
		Needs: perm.PolicyEdit, Timeout: 5 * time.Minute,
	})
	DeletePolicy = typed[ByID, web.Nothing](&web.Route{
		Name: "delete-renewal-policy", Method: http.MethodDelete, Path: "/api/v1/renewal-policies/{id}",
		Does:  "deletes a renewal policy that nothing refers to",
		Needs: perm.PolicyEdit,
	})

	CreateProfile = typed[NewProfile, Profile](&web.Route{
		Name: "create-profile", Method: http.MethodPost, Path: "/api/v1/profiles", Status: http.StatusCreated,
		Does:  "creates a profile",
		Needs: perm.ProfileEdit,
	})
	ListProfiles = typed[ByName, ProfilePage](&web.Route{
		Name: "list-profiles", Method: http.MethodGet, Path: "/api/v1/profiles",
		Does:  "lists profiles, by name",
		Needs: perm.ProfileRead, Tagged: true,
	})
	GetProfile = typed[ByID, Profile](&web.Route{
		Name: "get-profile", Method: http.MethodGet, Path: "/api/v1/profiles/{id}",
		Does:  "answers with one profile",
		Needs: perm.ProfileRead, Tagged: true,
	})
	UpdateProfile = typed[ProfileChange, Profile](&web.Route{
		Name: "update-profile", Method: http.MethodPatch, Path: "/api/v1/profiles/{id}",
		Does:  "changes the given fields of a profile",
		Needs: perm.ProfileEdit,
	})
	DeleteProfile = typed[ByID, web.Nothing](&web.Route{
		Name: "delete-profile", Method: http.MethodDelete, Path: "/api/v1/profiles/{id}",
		Does:  "deletes a profile that nothing refers to",
		Needs: perm.ProfileEdit,
	})

	CreateIssuer = typed[NewIssuer, Issuer](&web.Route{
		Name: "create-issuer", Method: http.MethodPost, Path: "/api/v1/issuers", Status: http.StatusCreated,
		Does:  "creates an issuer",
		Needs: perm.IssuerEdit,
	})
	ListIssuers = typed[ByName, IssuerPage](&web.Route{
		Name: "list-issuers", Method: http.MethodGet, Path: "/api/v1/issuers",
		Does:  "lists issuers, by name",
		Needs: perm.IssuerRead, Tagged: true,
	})
	GetIssuer = typed[ByID, Issuer](&web.Route{
		Name: "get-issuer", Method: http.MethodGet, Path: "/api/v1/issuers/{id}",
		Does:  "answers with one issuer",
		Needs: perm.IssuerRead, Tagged: true,
	})
	UpdateIssuer = typed[IssuerChange, Issuer](&web.Route{
		Name: "update-issuer", Method: http.MethodPatch, Path: "/api/v1/issuers/{id}",
		Does:  "changes the given fields of an issuer",
		Needs: perm.IssuerEdit,
	})
	DeleteIssuer = typed[ByID, web.Nothing](&web.Route{
		Name: "delete-issuer", Method: http.MethodDelete, Path: "/api/v1/issuers/{id}",
		Does:  "deletes an issuer that nothing refers to",
		Needs: perm.IssuerEdit,
	})
	TestIssuer = typed[ByID, IssuerTest](&web.Route{
		Name: "test-issuer", Method: http.MethodPost, Path: "/api/v1/issuers/{id}/test",
		Does:  "tries whether an issuer can sign, and keeps what it found",
		Needs: perm.IssuerEdit,
	})

	IssueCertificate = typed[NewCertificate, IssuedCertificate](&web.Route{
		Name: "create-certificate", Method: http.MethodPost, Path: "/api/v1/certificates", Status: http.StatusCreated,
		Does:  "issues a certificate, from a request for certification or with a key that the server makes, and keeps it",
		Needs: perm.CertIssue,
	})
	IssueCertificates = typed[NewCertificates, IssuedCertificates](&web.Route{
		Name: "create-certificates", Method: http.MethodPost, Path: "/api/v1/certificates/batch",
		Does:  "issues many certificates in one transaction, and says of each request what became of it",
		Needs: perm.CertIssue,
	})
	ListCertificates = typed[CertificateQuery, CertificatePage](&web.Route{
		Name: "list-certificates", Method: http.MethodGet, Path: "/api/v1/certificates",
		Does:  "lists certificates, filtered and sorted",
		Needs: perm.CertRead, Tagged: true,
	})
	GetCertificate = typed[OneCertificate, Certificate](&web.Route{
		Name: "get-certificate", Method: http.MethodGet, Path: "/api/v1/certificates/{id}",
		Does:  "answers with one certificate",
		Needs: perm.CertRead, Tagged: true,
	})
	UpdateCertificate = typed[CertificateChange, Certificate](&web.Route{
		Name: "update-certificate", Method: http.MethodPatch, Path: "/api/v1/certificates/{id}",
		Does:  "changes what is known of a certificate: its name, owner, team, policy, environment and tags",
		Needs: perm.CertEdit,
	})
	ArchiveCertificate = typed[OneCertificate, web.Nothing](&web.Route{
		Name: "archive-certificate", Method: http.MethodDelete, Path: "/api/v1/certificates/{id}",
		Does:  "archives a certificate: it stays on record, is not renewed, and its name can be used again",
		Needs: perm.CertEdit,
	})
	ListVersions = typed[OneCertificate, CertificateVersions](&web.Route{
		Name: "list-versions", Method: http.MethodGet, Path: "/api/v1/certificates/{id}/versions",
		Does:  "lists the versions of a certificate, with their revocations",
		Needs: perm.CertRead, Tagged: true,
	})
	ExportPEM = typed[CertificateExport, ExportedPEM](&web.Route{
		Name: "export-certificate", Method: http.MethodGet, Path: "/api/v1/certificates/{id}/pem",
		Does:  "answers with a certificate and its chain in PEM",
		Needs: perm.CertRead, Tagged: true, Besides: []*limit.Limit{limit.CertExport},
	})
	ExportTrustStore = typed[TrustStoreExport, ExportedTrustStore](&web.Route{
		Name: "export-trust-store", Method: http.MethodPost, Path: "/api/v1/certificates/{id}/pkcs12",
		Does:  "answers with a certificate and its chain as a PKCS#12 trust store, without a key",
		Needs: perm.CertRead, Besides: []*limit.Limit{limit.CertExport},
	})
	DownloadKey = typed[KeyDownload, DownloadedKey](&web.Route{
		Name: "download-key", Method: http.MethodPost, Path: "/api/v1/certificates/{id}/key",
		Does:  "hands out a key that the server made, with its certificate, as PEM or PKCS#12, and erases it",
		Needs: perm.CertExportKey, Besides: []*limit.Limit{limit.CertExport},
	})
	RenewCertificate = typed[OneToRenew, QueuedRenewal](&web.Route{
		Name: "renew-certificate", Method: http.MethodPost, Path: "/api/v1/certificates/{id}/renew", Status: http.StatusAccepted,
		Does:  "queues the renewal of a certificate, or another attempt to issue one that failed",
		Needs: perm.CertRenew,
	})
	RevokeCertificate = typed[NewRevocation, Certificate](&web.Route{
		Name: "revoke-certificate", Method: http.MethodPost, Path: "/api/v1/certificates/{id}/revoke",
		Does:  "revokes every version of a certificate that has not ended, or one of them, for good or for the time being",
		Needs: perm.CertRevoke,
	})
	ReleaseCertificate = typed[OneToRelease, Certificate](&web.Route{
		Name: "release-certificate", Method: http.MethodPost, Path: "/api/v1/certificates/{id}/release",
		Does:  "releases a certificate from its hold",
		Needs: perm.CertRevoke,
	})
	GetStats = typed[StatsQuery, Stats](&web.Route{
		Name: "get-stats", Method: http.MethodGet, Path: "/api/v1/stats",
		Does:  "counts certificates and jobs, in the database",
		Needs: perm.StatsRead, Tagged: true,
	})

	PreviewBulk = typed[TryBulk, BulkPreview](&web.Route{
		Name: "preview-bulk", Method: http.MethodPost, Path: "/api/v1/bulk/preview",
		Does:  "says what an action on many certificates would do, and does nothing",
		Needs: perm.CertBulk,
	})
	StartBulk = typed[NewBulk, BulkOperation](&web.Route{
		Name: "start-bulk", Method: http.MethodPost, Path: "/api/v1/bulk", Status: http.StatusAccepted,
		Does:  "queues an action on the certificates that the criteria choose now",
		Needs: perm.CertBulk,
	})
	ListBulk = typed[BulkQuery, BulkPage](&web.Route{
		Name: "list-bulk", Method: http.MethodGet, Path: "/api/v1/bulk",
		Does:  "lists actions on many certificates, newest first, with how far they have come",
		Needs: perm.JobRead, Tagged: true,
	})
	GetBulk = typed[OneBulk, BulkOperation](&web.Route{
		Name: "get-bulk", Method: http.MethodGet, Path: "/api/v1/bulk/{id}",
		Does:  "says how far an action on many certificates has come",
		Needs: perm.JobRead, Tagged: true,
	})
	ListBulkItems = typed[BulkItemQuery, BulkItemPage](&web.Route{
		Name: "list-bulk-items", Method: http.MethodGet, Path: "/api/v1/bulk/{id}/items",
		Does:  "says what became of each certificate",
		Needs: perm.JobRead, Tagged: true,
	})
	ResumeBulk = typed[OneBulk, BulkOperation](&web.Route{
		Name: "resume-bulk", Method: http.MethodPost, Path: "/api/v1/bulk/{id}/resume", Status: http.StatusAccepted,
		Does:  "goes on with an action whose job was cancelled or has no attempt left",
		Needs: perm.CertBulk,
	})
	ListJobs = typed[JobQuery, JobPage](&web.Route{
		Name: "list-jobs", Method: http.MethodGet, Path: "/api/v1/jobs",
		Does:  "lists jobs, newest first",
		Needs: perm.JobRead, Tagged: true,
	})
	GetJob = typed[OneJob, Job](&web.Route{
		Name: "get-job", Method: http.MethodGet, Path: "/api/v1/jobs/{id}",
		Does:  "answers with one job",
		Needs: perm.JobRead, Tagged: true,
	})
	CancelJob = typed[OneJob, Job](&web.Route{
		Name: "cancel-job", Method: http.MethodPost, Path: "/api/v1/jobs/{id}/cancel",
		Does:  "cancels a job that has not ended; one that is under way cannot write its result any more",
		Needs: perm.JobEdit,
	})
	RetryJob = typed[OneJob, Job](&web.Route{
		Name: "retry-job", Method: http.MethodPost, Path: "/api/v1/jobs/{id}/retry",
		Does:  "gives new attempts to a job that has none left",
		Needs: perm.JobEdit,
	})

	CreateChannel = typed[NewChannel, Channel](&web.Route{
		Name: "create-channel", Method: http.MethodPost, Path: "/api/v1/channels", Status: http.StatusCreated,
		Does:  "creates a channel, through which people or programs are told of what happens",
		Needs: perm.ChannelEdit,
	})
	ListChannels = typed[ByName, ChannelPage](&web.Route{
		Name: "list-channels", Method: http.MethodGet, Path: "/api/v1/channels",
		Does:  "lists channels, by name",
		Needs: perm.ChannelRead, Tagged: true,
	})
	GetChannel = typed[ByID, Channel](&web.Route{
		Name: "get-channel", Method: http.MethodGet, Path: "/api/v1/channels/{id}",
		Does:  "answers with one channel",
		Needs: perm.ChannelRead, Tagged: true,
	})
	UpdateChannel = typed[ChannelChange, Channel](&web.Route{
		Name: "update-channel", Method: http.MethodPatch, Path: "/api/v1/channels/{id}",
		Does:  "changes the given fields of a channel",
		Needs: perm.ChannelEdit,
	})
	DeleteChannel = typed[ByID, web.Nothing](&web.Route{
		Name: "delete-channel", Method: http.MethodDelete, Path: "/api/v1/channels/{id}",
		Does:  "deletes a channel that no policy has and through which nothing is on its way",
		Needs: perm.ChannelEdit,
	})
	TestChannel = typed[ByID, ChannelTest](&web.Route{
		Name: "test-channel", Method: http.MethodPost, Path: "/api/v1/channels/{id}/test",
		Does:  "tries whether a channel would deliver, sends nothing, and keeps what it found",
		Needs: perm.ChannelEdit,
	})
	ListNotifications = typed[NotificationQuery, NotificationPage](&web.Route{
		Name: "list-notifications", Method: http.MethodGet, Path: "/api/v1/notifications",
		Does:  "lists notifications, newest first, with what became of them",
		Needs: perm.NotificationRead, Tagged: true,
	})
	GetNotification = typed[OneNotification, Notification](&web.Route{
		Name: "get-notification", Method: http.MethodGet, Path: "/api/v1/notifications/{id}",
		Does:  "answers with one notification, as it is told",
		Needs: perm.NotificationRead, Tagged: true,
	})
	RequeueNotification = typed[OneNotification, Notification](&web.Route{
		Name: "requeue-notification", Method: http.MethodPost, Path: "/api/v1/notifications/{id}/requeue",
		Does:  "gives new attempts to a notification that was given up, under the same key",
		Needs: perm.NotificationEdit,
	})

	ListCRLs = typed[Empty, CRLs](&web.Route{
		Name: "list-crls", Method: http.MethodGet, Path: "/api/v1/crls",
		Does:  "lists the newest revocation list of each issuer, without its entries",
		Needs: perm.IssuerRead, Tagged: true,
	})
	GetCRL = raw(&web.Route{
		Name: "get-crl", Method: http.MethodGet, Path: "/.well-known/pki/crl/{issuer}", Content: "application/pkix-crl",
		Does:   "answers with the newest revocation list of an issuer in DER",
		Public: "relying parties have no key, and the list is for them",
	})
	GetCA = raw(&web.Route{
		Name: "get-ca", Method: http.MethodGet, Path: "/.well-known/pki/ca/{issuer}", Content: "application/pkix-cert",
		Does:   "answers with the certificate of an issuer in DER",
		Public: "relying parties have no key, and the certificate is for them",
	})
)

var routes = table.By(func(r *web.Route) string { return r.Name })

// Routes returns every route, in declaration order.
func Routes() []*web.Route { return routes.Rows() }

func typed[I, O any](r *web.Route) web.Endpoint[I, O] { return web.Typed[I, O](routes.Add(r)) }

func streamed[I any](r *web.Route) web.Stream[I] { return web.Streamed[I](routes.Add(r)) }

func raw(r *web.Route) web.Raw { return web.Raw{Route: routes.Add(r)} }
