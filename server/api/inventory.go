package api

import (
	"certctl/server/bulk"
	"certctl/server/cert"
	"certctl/server/inventory"
	"certctl/server/issuance"
	"certctl/server/renewal"
	"certctl/server/revocation"
	"certctl/server/store"
)

// What stands around certificates. The feature that serves the routes owns
// their types; clients know them by these names.
type (
	// ByID names one thing.
	ByID = inventory.ByID
	// ByName asks for a page of things, by name.
	ByName = inventory.ListByName

	// Team is a team.
	Team = store.Team
	// NewTeam asks for a team.
	NewTeam = inventory.NewTeam
	// TeamChange changes a team.
	TeamChange = inventory.TeamChange
	// TeamPage is a page of teams.
	TeamPage = inventory.Page[store.Team]

	// Owner is somebody who certificates belong to.
	Owner = store.Owner
	// NewOwner asks for an owner.
	NewOwner = inventory.NewOwner
	// OwnerChange changes an owner.
	OwnerChange = inventory.OwnerChange
	// OwnerPage is a page of owners.
	OwnerPage = inventory.Page[store.Owner]

	// Policy is a renewal policy.
	Policy = store.Policy
	// NewPolicy asks for a renewal policy.
	NewPolicy = inventory.NewPolicy
	// PolicyChange changes a renewal policy.
	PolicyChange = inventory.PolicyChange
	// PolicyPage is a page of renewal policies.
	PolicyPage = inventory.Page[store.Policy]

	// Profile is a profile.
	Profile = cert.Profile
	// NewProfile asks for a profile.
	NewProfile = inventory.NewProfile
	// ProfileChange changes a profile.
	ProfileChange = inventory.ProfileChange
	// ProfilePage is a page of profiles.
	ProfilePage = inventory.Page[cert.Profile]

	// Issuer is an issuer, its secrets withheld.
	Issuer = store.Issuer
	// NewIssuer asks for an issuer.
	NewIssuer = inventory.NewIssuer
	// IssuerChange changes an issuer.
	IssuerChange = inventory.IssuerChange
	// IssuerPage is a page of issuers.
	IssuerPage = inventory.Page[store.Issuer]
	// IssuerTest is what a test of an issuer found.
	IssuerTest = inventory.Tested
)

// Certificates.
type (
	// Certificate is a certificate with its current version.
	Certificate = store.Certificate
	// OneCertificate names a certificate.
	OneCertificate = inventory.ByID
	// NewCertificate asks for a certificate.
	NewCertificate = issuance.New
	// IssuedCertificate is a certificate that was issued, or is going to be.
	IssuedCertificate = issuance.Created
	// NewCertificates asks for many certificates.
	NewCertificates = issuance.NewMany
	// CertificateRequest is one of many requests.
	CertificateRequest = issuance.Request
	// IssuedCertificates are the outcomes of many requests.
	IssuedCertificates = issuance.Many
	// KeyDownload asks for a key that the server made.
	KeyDownload = issuance.KeyDownload
	// DownloadedKey is a key that the server made.
	DownloadedKey = issuance.DownloadedKey
	// CertificateQuery asks for a page of certificates.
	CertificateQuery = inventory.ListCertificates
	// CertificatePage is a page of certificates.
	CertificatePage = inventory.CertificatePage
	// CertificateChange changes what is known of a certificate.
	CertificateChange = inventory.CertificateChange
	// CertificateVersions are the versions of a certificate.
	CertificateVersions = inventory.Versions
	// CertificateExport asks for a version in PEM.
	CertificateExport = inventory.OneVersion
	// ExportedPEM is a version in PEM.
	ExportedPEM = inventory.PEM
	// TrustStoreExport asks for a version as a PKCS#12 trust store.
	TrustStoreExport = inventory.NewTrustStore
	// ExportedTrustStore is a PKCS#12 trust store.
	ExportedTrustStore = inventory.TrustStore
	// OneToRenew names a certificate to renew.
	OneToRenew = renewal.OneCertificate
	// QueuedRenewal is a renewal that was queued.
	QueuedRenewal = renewal.Queued
	// NewRevocation asks for a revocation.
	NewRevocation = revocation.NewRevocation
	// Why is what a revocation says.
	Why = revocation.Why
	// OneToRelease names a certificate to release from its hold.
	OneToRelease = revocation.OneCertificate
	// CRLs are the newest revocation lists.
	CRLs = revocation.CRLs
	// StatsQuery asks for counts.
	StatsQuery = inventory.StatsQuery
	// Stats are counts of certificates and jobs.
	Stats = store.Stats
)

// Actions on many certificates.
type (
	// NewBulk asks for an action on many certificates.
	NewBulk = bulk.New
	// TryBulk asks what an action would do.
	TryBulk = bulk.Trial
	// BulkBody says what to do to which certificates.
	BulkBody = bulk.Body
	// BulkPreview says what an action would do.
	BulkPreview = bulk.Preview
	// BulkOperation is an action with how far it has come.
	BulkOperation = store.BulkOperation
	// BulkQuery asks for a page of actions.
	BulkQuery = bulk.Query
	// BulkPage is a page of actions.
	BulkPage = bulk.Page
	// OneBulk names an action.
	OneBulk = bulk.One
	// BulkItemQuery asks for what became of the certificates of an action.
	BulkItemQuery = bulk.ItemQuery
	// BulkItemPage says what became of certificates.
	BulkItemPage = bulk.ItemPage
)

// The actions on many certificates.
var (
	BulkRenew    = bulk.Renew
	BulkRevoke   = bulk.Revoke
	BulkReassign = bulk.Reassign
)
