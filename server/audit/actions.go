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
	Config = "config" // the inventory around certificates
	Life   = "cert"   // certificates and what becomes of them
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

	TeamCreated    = declare("team.created", Config, "A team was created.")
	TeamChanged    = declare("team.changed", Config, "A team was changed; the details name the fields.")
	TeamDeleted    = declare("team.deleted", Config, "A team was deleted.")
	OwnerCreated   = declare("owner.created", Config, "An owner was created.")
	OwnerChanged   = declare("owner.changed", Config, "An owner was changed; the details name the fields.")
	OwnerDeleted   = declare("owner.deleted", Config, "An owner was deleted.")
	PolicyCreated  = declare("policy.created", Config, "A renewal policy was created.")
	PolicyChanged  = declare("policy.changed", Config, "A renewal policy was changed; the details name the fields.")
	PolicyDeleted  = declare("policy.deleted", Config, "A renewal policy was deleted.")
	ProfileCreated = declare("profile.created", Config, "A profile was created.")
	ProfileChanged = declare("profile.changed", Config, "A profile was changed; the details name the fields.")
	ProfileDeleted = declare("profile.deleted", Config, "A profile was deleted.")
	IssuerCreated  = declare("issuer.created", Config, "An issuer was created, with its keys if it makes its own.")
	IssuerChanged  = declare("issuer.changed", Config, "An issuer was changed; the details name the fields, never their values.")
	IssuerDeleted  = declare("issuer.deleted", Config, "An issuer was deleted that has issued nothing.")
	IssuerTested   = declare("issuer.tested", Config, "An issuer was tested; the details say with what outcome.")

	ChannelCreated = declare("channel.created", Config, "A channel was created.")
	ChannelChanged = declare("channel.changed", Config, "A channel was changed; the details name the fields, never their values.")
	ChannelDeleted = declare("channel.deleted", Config, "A channel was deleted that no policy has.")
	ChannelTested  = declare("channel.tested", Config, "A channel was tested; the details say with what outcome. Nothing was sent.")

	CertRequested     = declare("cert.requested", Life, "A certificate was asked for, to be issued by a job.")
	CertIssued        = declare("cert.issued", Life, "A version of a certificate was signed; it is handed out only once this event is there.")
	IssuanceFailed    = declare("issuance.failed", Life, "A certificate could not be issued, and no attempt is left.")
	RenewalFailed     = declare("renewal.failed", Life, "A certificate could not be renewed, and no attempt is left for now.")
	CertChanged       = declare("cert.changed", Life, "What is known of a certificate was changed; the details name the fields.")
	CertArchived      = declare("cert.archived", Life, "A certificate was archived.")
	CertExpired       = declare("cert.expired", Life, "A certificate ended without having been renewed.")
	CertKeyDownloaded = declare("cert-key.downloaded", Life, "A key that the server had made was handed out and erased.")
	CertRevoked       = declare("cert.revoked", Life, "A version of a certificate was revoked for good.")
	CertHeld          = declare("cert.held", Life, "A version of a certificate was revoked for the time being.")
	CertReleased      = declare("cert.released", Life, "A version of a certificate was released from its hold.")
	CRLSigned         = declare("crl.signed", Life, "A revocation list was signed.")

	RenewalQueued = declare("renewal.queued", Life, "A renewal was asked for by a caller.")
	JobCancelled  = declare("job.cancelled", Life, "A job was cancelled by a caller.")
	JobRetried    = declare("job.retried", Life, "A job that had no attempt left was given new ones by a caller.")
	BulkStarted   = declare("bulk.started", Life, "An action on many certificates was asked for.")
	BulkFinished  = declare("bulk.finished", Life, "An action on many certificates has come to its end; the details count what became of them.")

	NotificationDead     = declare("notification.dead", Life, "A notification was given up; the details say why. Those that are sent are on record as rows, and in what they tell of.")
	NotificationRequeued = declare("notification.requeued", Life, "A notification that was given up was queued again by a caller.")

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
