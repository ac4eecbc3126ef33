package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/cert"
	"certctl/server/pg"
)

// A Certificate is a name that the server keeps a certificate for, with its
// current version.
type Certificate struct {
	ID              string            `json:"id"`
	Name            string            `json:"name" doc:"no two certificates that are not archived share a name"`
	State           string            `json:"state"`
	CommonName      string            `json:"common_name"`
	SANs            []string          `json:"sans" nullable:"false" doc:"subject alternative names"`
	Environment     string            `json:"environment"`
	Tags            map[string]string `json:"tags" nullable:"false"`
	OwnerID         string            `json:"owner_id"`
	TeamID          *string           `json:"team_id,omitempty"`
	IssuerID        string            `json:"issuer_id"`
	ProfileID       string            `json:"profile_id"`
	PolicyID        string            `json:"policy_id" doc:"of renewal"`
	KeySource       string            `json:"key_source" enum:"csr,server" doc:"csr: the caller has the key; server: the server makes a new one for each version"`
	KeyAlgorithm    string            `json:"key_algorithm"`
	ValiditySeconds int64             `json:"validity_seconds" doc:"what was asked for"`
	Version         *int              `json:"version,omitempty" doc:"the current one; absent until it is issued"`
	Serial          *string           `json:"serial,omitempty" doc:"of the current version, in hex"`
	Fingerprint     *string           `json:"fingerprint,omitempty" doc:"SHA-256 of the current version, in hex"`
	NotBefore       *time.Time        `json:"not_before,omitempty"`
	NotAfter        *time.Time        `json:"not_after,omitempty"`
	RenewAt         *time.Time        `json:"renew_at,omitempty" doc:"when it is renewed; absent if it is not renewed by itself"`
	Revision        int64             `json:"revision" doc:"counts changes"`
	CreatedAt       time.Time         `json:"created_at"`
	CreatedBy       string            `json:"created_by" doc:"id of the key that asked for it"`
	UpdatedAt       time.Time         `json:"updated_at"`
	ArchivedAt      *time.Time        `json:"archived_at,omitempty"`
}

const certificateColumns = `
	c.id, c.name, c.state, c.common_name, c.sans, c.environment, c.tags, c.owner_id, c.team_id, c.issuer_id,
	c.profile_id, c.policy_id, case when c.csr is null then 'server' else 'csr' end as key_source, c.key_algorithm,
	c.validity_seconds, c.version, c.serial, encode(c.fingerprint, 'hex') as fingerprint, c.not_before, c.not_after,
	c.renew_at, c.revision, c.created_at, c.created_by, c.updated_at, c.archived_at`

// CertificateByID returns one certificate.
func CertificateByID(ctx context.Context, q pg.Q, id string) (Certificate, error) {
	rows, _ := q.Query(ctx, `select `+certificateColumns+` from certificates c where c.id = $1`, id)
	c, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Certificate])
	return c, pg.Fault(err, "certificate")
}

// A Version is what was issued for a certificate once.
type Version struct {
	Number       int        `json:"number" doc:"counts from 1"`
	IssuerID     string     `json:"issuer_id"`
	Serial       string     `json:"serial" doc:"in hex"`
	Fingerprint  string     `json:"fingerprint" doc:"SHA-256, in hex"`
	NotBefore    time.Time  `json:"not_before"`
	NotAfter     time.Time  `json:"not_after"`
	KeyAlgorithm string     `json:"key_algorithm"`
	JobID        *string    `json:"job_id,omitempty" doc:"of the job that issued it; absent if a request did"`
	CreatedAt    time.Time  `json:"created_at"`
	RevokedAt    *time.Time `json:"revoked_at,omitempty" doc:"absent unless it is revoked or held"`
	Reason       *string    `json:"reason,omitempty" db:"-" doc:"of the revocation (RFC 5280 §5.3.1)"`
	InvalidityAt *time.Time `json:"invalidity_at,omitempty" doc:"since when its key may have been in other hands, if the revocation says so"`
}

// Versions returns the versions of a certificate, the newest first.
func Versions(ctx context.Context, q pg.Q, id string) ([]Version, error) {
	rows, _ := q.Query(ctx, `
		select v.number, v.issuer_id, v.serial, encode(v.fingerprint, 'hex') as fingerprint, v.not_before, v.not_after,
		       v.key_algorithm, v.job_id, v.created_at, r.revoked_at, r.reason as code, r.invalidity_at
		from certificate_versions v
		left join revocations r on r.issuer_id = v.issuer_id and r.serial = v.serial
		where v.certificate_id = $1
		order by v.number desc`, id)
	versions, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Version, error) {
		r, err := pgx.RowToStructByName[struct {
			Version
			Code *int
		}](row)
		if r.Code != nil {
			reason, ok := cert.ReasonOf(*r.Code)
			if !ok {
				return Version{}, fmt.Errorf("the reason %d of a revocation is not declared", *r.Code)
			}
			r.Reason = &reason.Name
		}
		return r.Version, err
	})
	return versions, pg.Fault(err, "versions of the certificate")
}

// DERs are a version of a certificate and the chain from it towards the root.
type DERs struct {
	Number int
	Leaf   []byte
	Chain  [][]byte
}

// VersionDER returns what was issued as a version of a certificate, the current
// one if number is zero.
func VersionDER(ctx context.Context, q pg.Q, id string, number int) (DERs, error) {
	rows, _ := q.Query(ctx, `
		select v.number, v.der as leaf, h.ders as chain
		from certificates c
		join certificate_versions v on v.certificate_id = c.id and v.number = coalesce(nullif(@number::integer, 0), c.version)
		join chains h on h.id = v.chain_id
		where c.id = @id`,
		pgx.StrictNamedArgs{"id": id, "number": number})
	d, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[DERs])
	return d, pg.Fault(err, "version of the certificate")
}

// QueueDERs queues the reading of what was issued as the current versions of
// certificates that have one.
func QueueDERs(b *pgx.Batch, ids []string, each func(id string, d DERs)) {
	b.Queue(`
		select c.id, v.number, v.der, h.ders
		from certificates c
		join certificate_versions v on v.certificate_id = c.id and v.number = c.version
		join chains h on h.id = v.chain_id
		where c.id = any($1)`, ids).Query(func(rows pgx.Rows) error {
		var id string
		var d DERs
		_, err := pgx.ForEachRow(rows, []any{&id, &d.Number, &d.Leaf, &d.Chain}, func() error {
			each(id, d)
			d = DERs{}
			return nil
		})
		return err
	})
}

// LockCertificate returns a certificate and keeps others from changing it until
// the transaction ends.
func LockCertificate(ctx context.Context, q pg.Q, id string) (Certificate, error) {
	rows, _ := q.Query(ctx, `select `+certificateColumns+` from certificates c where c.id = $1 for no key update`, id)
	c, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Certificate])
	return c, pg.Fault(err, "certificate")
}

// LockPolicy keeps others from changing when a renewal policy, if there is one
// with the id, has certificates renewed until the transaction ends. A transaction
// that also locks certificates locks the policy first, as a change of the policy
// does.
func LockPolicy(ctx context.Context, q pg.Q, id string) error {
	_, err := q.Exec(ctx, `select from renewal_policies where id = $1 for share`, id)
	return pg.Fault(err, "renewal policy")
}

// ChangeCertificate sets what callers may change of a certificate, and when it
// is renewed if the policy is another. It returns the certificate as it is then.
func ChangeCertificate(ctx context.Context, q pg.Q, c Certificate) (Certificate, error) {
	tags, err := json.Marshal(c.Tags)
	if err != nil {
		return c, err
	}
	rows, _ := q.Query(ctx, `
		update certificates c
		set name = @name, environment = @environment, tags = @tags::jsonb, owner_id = @owner_id, team_id = @team_id,
		    policy_id = @policy_id, revision = c.revision + 1, updated_at = clock_timestamp(),
		    renew_at = case
		        when c.policy_id = @policy_id then c.renew_at
		        when c.state in ('active', 'expired', 'held') then (
		            select case when p.auto_renew then renewal_time(c.id, c.not_before, c.not_after, p.renew_before_seconds) end
		            from renewal_policies p where p.id = @policy_id)
		    end
		where c.id = @id
		returning `+certificateColumns,
		pgx.StrictNamedArgs{
			"id": c.ID, "name": c.Name, "environment": c.Environment, "tags": string(tags), "owner_id": c.OwnerID,
			"team_id": c.TeamID, "policy_id": c.PolicyID,
		})
	changed, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Certificate])
	return changed, pg.Fault(err, "certificate")
}

// ArchiveCertificate moves a certificate to archived, and erases the keys that
// the server made for it.
func ArchiveCertificate(ctx context.Context, q pg.Q, id string) error {
	_, err := q.Exec(ctx, `
		with erased as (
			delete from certificate_keys where certificate_id = $1
		)
		update certificates
		set state = 'archived', archived_at = clock_timestamp(), renew_at = null, revision = revision + 1,
		    updated_at = clock_timestamp()
		where id = $1`, id)
	return pg.Fault(err, "certificate")
}

// Ended is a certificate that has ended.
type Ended struct {
	ID       string
	Name     string
	Version  int
	Serial   string
	IssuerID string
	NotAfter time.Time
}

// Expire moves up to limit certificates that have ended to expired, and returns
// them. One on hold stays so until it is released: what is expired can be
// renewed. It leaves those that somebody is changing for the next time; one that
// was renewed since the statement began is looked at as it is now, once its lock
// is had.
func Expire(ctx context.Context, q pg.Q, limit int) ([]Ended, error) {
	rows, _ := q.Query(ctx, `
		with due as (
			select id from certificates
			where state = 'active' and not_after <= (select clock_timestamp())
			order by not_after limit @limit
			for no key update skip locked
		)
		update certificates c
		set state = 'expired', revision = c.revision + 1, updated_at = clock_timestamp()
		from due where c.id = due.id
		returning c.id, c.name, c.version, c.serial, c.issuer_id, c.not_after`,
		pgx.StrictNamedArgs{"limit": limit})
	ended, err := pgx.CollectRows(rows, pgx.RowToStructByName[Ended])
	return ended, pg.Fault(err, "certificates")
}

// EraseEndedKeys erases up to limit keys that the server made for versions
// which have ended, and returns how many.
func EraseEndedKeys(ctx context.Context, q pg.Q, limit int) (int, error) {
	tag, err := q.Exec(ctx, `
		delete from certificate_keys d
		using (
			select certificate_id, number from certificate_keys
			where not_after <= (select clock_timestamp())
			order by not_after limit @limit
			for update skip locked
		) ended
		where d.certificate_id = ended.certificate_id and d.number = ended.number`,
		pgx.StrictNamedArgs{"limit": limit})
	return int(tag.RowsAffected()), pg.Fault(err, "keys of certificates")
}
