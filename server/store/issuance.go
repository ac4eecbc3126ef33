package store

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/cert"
	"certctl/server/pg"
)

// Refs say what a certificate belongs to, each by its id or its name.
type Refs struct {
	OwnerID   string `json:"owner_id" minLength:"1" maxLength:"255" doc:"id or name of the owner"`
	TeamID    string `json:"team_id,omitempty" maxLength:"255" doc:"id or name of a team; the owner's without it"`
	IssuerID  string `json:"issuer_id" minLength:"1" maxLength:"255" doc:"id or name of the issuer"`
	ProfileID string `json:"profile_id" minLength:"1" maxLength:"255" doc:"id or name of the profile"`
	PolicyID  string `json:"policy_id" minLength:"1" maxLength:"255" doc:"id or name of the renewal policy"`
}

// Referred are the rows that requests refer to.
type Referred struct {
	Now      time.Time       // by the database's clock
	Taken    map[string]bool // names of certificates that are in use
	owners   []ownerRef
	teams    []ref
	issuers  []Sealed
	profiles []cert.Profile
	policies []ref
}

type ref struct{ ID, Name string }

type ownerRef struct {
	ID     string
	Name   string
	TeamID *string
}

const namedOrKeyed = ` where id = any($1) or name = any($1)`

// Refer reads, in one round trip, all that requests for certificates with the
// given names refer to.
func Refer(ctx context.Context, db interface {
	SendBatch(context.Context, *pgx.Batch) pgx.BatchResults
}, refs []Refs, names []string,
) (*Referred, error) {
	var owners, teams, issuers, profiles, policies []string
	for _, r := range refs {
		owners, teams, issuers = append(owners, r.OwnerID), append(teams, r.TeamID), append(issuers, r.IssuerID)
		profiles, policies = append(profiles, r.ProfileID), append(policies, r.PolicyID)
	}
	found := &Referred{Taken: map[string]bool{}}
	b := &pgx.Batch{}
	b.Queue(`select clock_timestamp()`).QueryRow(func(row pgx.Row) error { return row.Scan(&found.Now) })
	b.Queue(`select name from certificates where name = any($1) and state <> 'archived'`, names).Query(func(rows pgx.Rows) error {
		taken, err := pgx.CollectRows(rows, pgx.RowTo[string])
		for _, name := range taken {
			found.Taken[name] = true
		}
		return err
	})
	collect(b, &found.owners, `select id, name, team_id from owners`+namedOrKeyed, owners)
	collect(b, &found.teams, `select id, name from teams`+namedOrKeyed, teams)
	collect(b, &found.issuers, `select `+sealedColumns+` from issuers`+namedOrKeyed, issuers)
	collect(b, &found.profiles, `select `+profileColumns+` from profiles`+namedOrKeyed, profiles)
	collect(b, &found.policies, `select id, name from renewal_policies`+namedOrKeyed, policies)
	return found, pg.Fault(db.SendBatch(ctx, b).Close(), "what the certificate refers to")
}

func collect[T any](b *pgx.Batch, to *[]T, sql string, args ...any) {
	b.Queue(sql, args...).Query(func(rows pgx.Rows) (err error) {
		*to, err = pgx.CollectRows(rows, pgx.RowToStructByName[T])
		return err
	})
}

// Owner returns the owner that key names, with its team.
func (r *Referred) Owner(key string) (id string, team *string, ok bool) {
	for _, o := range r.owners {
		if o.ID == key || o.Name == key {
			return o.ID, o.TeamID, true
		}
	}
	return "", nil, false
}

// Team returns the id of the team that key names.
func (r *Referred) Team(key string) (string, bool) { return id(r.teams, key) }

// Policy returns the id of the policy that key names.
func (r *Referred) Policy(key string) (string, bool) { return id(r.policies, key) }

func id(refs []ref, key string) (string, bool) {
	for _, x := range refs {
		if x.ID == key || x.Name == key {
			return x.ID, true
		}
	}
	return "", false
}

// Issuer returns the issuer that key names.
func (r *Referred) Issuer(key string) (Sealed, bool) {
	for _, x := range r.issuers {
		if x.ID == key || x.Name == key {
			return x, true
		}
	}
	return Sealed{}, false
}

// Profile returns the profile that key names.
func (r *Referred) Profile(key string) (*cert.Profile, bool) {
	for i, x := range r.profiles {
		if x.ID == key || x.Name == key {
			return &r.profiles[i], true
		}
	}
	return nil, false
}

// Bytes are a bytea in JSON.
type Bytes []byte

// MarshalText is the input form of bytea.
func (b Bytes) MarshalText() ([]byte, error) {
	return append([]byte(`\x`), hex.EncodeToString(b)...), nil
}

// A NewCertificate is a row of certificates with its first version, or without
// one.
type NewCertificate struct {
	ID              string            `json:"id"`
	Name            string            `json:"name"`
	State           string            `json:"state"`
	CommonName      string            `json:"common_name"`
	SANs            []string          `json:"sans"`
	Environment     string            `json:"environment"`
	Tags            map[string]string `json:"tags"`
	OwnerID         string            `json:"owner_id"`
	TeamID          *string           `json:"team_id"`
	IssuerID        string            `json:"issuer_id"`
	ProfileID       string            `json:"profile_id"`
	PolicyID        string            `json:"policy_id"`
	CSR             *Bytes            `json:"csr"`
	KeyAlgorithm    string            `json:"key_algorithm"`
	ValiditySeconds int64             `json:"validity_seconds"`
	CreatedAt       time.Time         `json:"created_at"`
	CreatedBy       string            `json:"created_by"`
	Signed          *Signed           `json:"-"`
}

// Signed is a version of a certificate as it is recorded.
type Signed struct {
	CertificateID string    `json:"certificate_id"`
	Number        int       `json:"number"`
	IssuerID      string    `json:"issuer_id"`
	Serial        string    `json:"serial"`
	Fingerprint   Bytes     `json:"fingerprint"`
	NotBefore     time.Time `json:"not_before"`
	NotAfter      time.Time `json:"not_after"`
	KeyAlgorithm  string    `json:"key_algorithm"`
	DER           Bytes     `json:"der"`
	ChainID       Bytes     `json:"chain_id"`
	Chain         []Bytes   `json:"ders"`
	Key           *Bytes    `json:"sealed"` // that the server made
	JobID         *string   `json:"job_id"`
	CreatedAt     time.Time `json:"created_at"`
}

const insertCertificates = `
	insert into certificates (
		id, name, state, common_name, sans, environment, tags, owner_id, team_id, issuer_id, profile_id, policy_id,
		csr, key_algorithm, validity_seconds, version, serial, fingerprint, not_before, not_after, renew_at,
		created_at, created_by, updated_at)
	select r.id, r.name, r.state, r.common_name, r.sans, r.environment, r.tags, r.owner_id, r.team_id, r.issuer_id,
		r.profile_id, r.policy_id, r.csr, r.key_algorithm, r.validity_seconds, v.number, v.serial, v.fingerprint,
		v.not_before, v.not_after,
		case when p.auto_renew then renewal_time(r.id, v.not_before, v.not_after, p.renew_before_seconds) end,
		r.created_at, r.created_by, r.created_at
	from json_to_recordset(@certificates::text::json) r (
		id text, name text, state text, common_name text, sans text[], environment text, tags jsonb, owner_id text,
		team_id text, issuer_id text, profile_id text, policy_id text, csr bytea, key_algorithm text,
		validity_seconds bigint, created_at timestamptz, created_by text)
	left join json_to_recordset(@versions::text::json) v (
		certificate_id text, number integer, serial text, fingerprint bytea, not_before timestamptz, not_after timestamptz)
		on v.certificate_id = r.id
	left join (
		select id, auto_renew, renew_before_seconds from renewal_policies
		where id in (select policy_id from json_to_recordset(@certificates::text::json) k (policy_id text))
		for key share -- waits for a change of the policy, and sees it
	) p on p.id = r.policy_id`

const insertVersions = `
	with v as materialized (
		select * from json_to_recordset(@versions::text::json) r (
			certificate_id text, number integer, issuer_id text, serial text, fingerprint bytea, not_before timestamptz,
			not_after timestamptz, key_algorithm text, der bytea, chain_id bytea, ders bytea[], sealed bytea, job_id text,
			created_at timestamptz)
	), chain as (
		insert into chains (id, ders)
		select distinct chain_id, ders from v where not exists (select from chains where id = v.chain_id)
		order by chain_id on conflict do nothing
	), key as (
		insert into certificate_keys (certificate_id, number, sealed, not_after)
		select certificate_id, number, sealed, not_after from v where sealed is not null
	)
	insert into certificate_versions (
		certificate_id, number, issuer_id, serial, fingerprint, not_before, not_after, key_algorithm, der, chain_id,
		job_id, created_at)
	select certificate_id, number, issuer_id, serial, fingerprint, not_before, not_after, key_algorithm, der, chain_id,
		job_id, created_at
	from v order by certificate_id`

// QueueCertificates puts certificates, each with its first version if it has
// one, into a batch of statements.
func QueueCertificates(b *pgx.Batch, certificates []NewCertificate) error {
	var signed []*Signed
	for _, c := range certificates {
		if c.Signed != nil {
			signed = append(signed, c.Signed)
		}
	}
	rows, err := json.Marshal(certificates)
	if err != nil {
		return err
	}
	versions, err := json.Marshal(signed)
	if err != nil {
		return err
	}
	if len(signed) == 0 {
		versions = []byte(`[]`)
	}
	b.Queue(insertCertificates, pgx.StrictNamedArgs{"certificates": string(rows), "versions": string(versions)})
	if len(signed) > 0 {
		b.Queue(insertVersions, pgx.StrictNamedArgs{"versions": string(versions)})
	}
	return nil
}

// QueueCertificatesByID puts the reading of certificates into a batch of
// statements.
func QueueCertificatesByID(b *pgx.Batch, ids []string, each func(Certificate)) {
	b.Queue(`select `+certificateColumns+` from certificates c where c.id = any($1)`, ids).Query(func(rows pgx.Rows) error {
		all, err := pgx.CollectRows(rows, pgx.RowToStructByName[Certificate])
		for _, c := range all {
			each(c)
		}
		return err
	})
}

// DERs are the version and its chain, the leaf first.
func (v *Signed) DERs() [][]byte {
	all := [][]byte{v.DER}
	for _, c := range v.Chain {
		all = append(all, c)
	}
	return all
}

// AddVersion records the next version of a certificate and makes it the current
// one. It reports false, and writes nothing, if the certificate has another
// version by now, or is in a state that is not issued.
func AddVersion(ctx context.Context, q pg.Q, v Signed) (bool, error) {
	if err := KeepPolicies(ctx, q, []string{v.CertificateID}); err != nil {
		return false, err
	}
	if _, err := q.Exec(ctx, `select from certificates where id = $1 for no key update`, v.CertificateID); err != nil {
		return false, pg.Fault(err, "certificate")
	}
	tag, err := q.Exec(ctx, `
		update certificates c
		set state = 'active', version = @number, serial = @serial, fingerprint = @fingerprint,
		    not_before = @not_before, not_after = @not_after,
		    renew_at = case when p.auto_renew then renewal_time(c.id, @not_before, @not_after, p.renew_before_seconds) end,
		    revision = c.revision + 1, updated_at = clock_timestamp()
		from renewal_policies p
		where c.id = @id and p.id = c.policy_id and c.state in ('pending', 'active', 'expired')
		  and coalesce(c.version, 0) = @number::integer - 1`,
		pgx.StrictNamedArgs{
			"id": v.CertificateID, "number": v.Number, "serial": v.Serial, "fingerprint": []byte(v.Fingerprint),
			"not_before": v.NotBefore, "not_after": v.NotAfter,
		})
	if err != nil || tag.RowsAffected() == 0 {
		return false, pg.Fault(err, "certificate")
	}
	versions, err := json.Marshal([]Signed{v})
	if err != nil {
		return false, err
	}
	_, err = q.Exec(ctx, insertVersions, pgx.StrictNamedArgs{"versions": string(versions)})
	return err == nil, pg.Fault(err, "version of the certificate")
}

// ToIssue is what a job needs to issue or renew a certificate.
type ToIssue struct {
	State           string
	Name            string
	CommonName      string
	SANs            []string
	CSR             []byte
	KeyAlgorithm    string
	ValiditySeconds int64
	Version         int
	DER             []byte // of the current version
	Issuer          Sealed
	Profile         cert.Profile
	Now             time.Time
}

// CertificateToIssue reads, in one round trip, what a job needs to issue or
// renew a certificate.
func CertificateToIssue(ctx context.Context, db interface {
	SendBatch(context.Context, *pgx.Batch) pgx.BatchResults
}, id string,
) (ToIssue, error) {
	var t ToIssue
	b := &pgx.Batch{}
	b.Queue(`
		select c.state, c.name, c.common_name, c.sans, c.csr, c.key_algorithm, c.validity_seconds, coalesce(c.version, 0),
			v.der, clock_timestamp()
		from certificates c left join certificate_versions v on v.certificate_id = c.id and v.number = c.version
		where c.id = $1`, id).QueryRow(func(row pgx.Row) error {
		return row.Scan(&t.State, &t.Name, &t.CommonName, &t.SANs, &t.CSR, &t.KeyAlgorithm, &t.ValiditySeconds, &t.Version, &t.DER, &t.Now)
	})
	b.Queue(`select `+sealedColumns+` from issuers where id = (select issuer_id from certificates where id = $1)`, id).
		Query(one(&t.Issuer))
	b.Queue(`select `+profileColumns+` from profiles where id = (select profile_id from certificates where id = $1)`, id).
		Query(one(&t.Profile))
	return t, pg.Fault(db.SendBatch(ctx, b).Close(), "certificate")
}

func one[T any](to *T) func(pgx.Rows) error {
	return func(rows pgx.Rows) (err error) {
		*to, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[T])
		return err
	}
}

// FailPending moves those of the certificates that wait for their first
// version to failed, and returns their ids.
func FailPending(ctx context.Context, q pg.Q, ids []string) ([]string, error) {
	rows, _ := q.Query(ctx, `
		update certificates set state = 'failed', revision = revision + 1, updated_at = clock_timestamp()
		where id = any($1) and state = 'pending'
		returning id`, ids)
	failed, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return failed, pg.Fault(err, "certificates")
}

// KeepPolicies keeps the policies of certificates as they are until the
// transaction ends: a change of one is waited for, and then seen. It comes before
// a lock on the certificates, as in the change.
func KeepPolicies(ctx context.Context, q pg.Q, certificateIDs []string) error {
	_, err := q.Exec(ctx, `
		select from renewal_policies where id in (select policy_id from certificates where id = any($1))
		order by id for key share`, certificateIDs)
	return pg.Fault(err, "renewal policies")
}

// PostponeRenewal has the certificates, whose renewal failed for good, wait for
// as long as their policy says, and returns the ids of those that still can be
// renewed.
func PostponeRenewal(ctx context.Context, q pg.Q, ids []string) ([]string, error) {
	if err := KeepPolicies(ctx, q, ids); err != nil {
		return nil, err
	}
	rows, _ := q.Query(ctx, `
		update certificates c
		set renew_at = case when p.auto_renew then
			greatest(c.renew_at, clock_timestamp() + p.start_over_after_seconds * interval '1 second') end,
		    updated_at = clock_timestamp()
		from renewal_policies p
		where c.id = any($1) and p.id = c.policy_id and c.state in ('active', 'expired')
		returning c.id`, ids)
	postponed, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return postponed, pg.Fault(err, "certificates")
}

// A KeyToTake is what a download of a key needs to know.
type KeyToTake struct {
	State  string
	ByCSR  bool // the server never had it
	Number int
	DER    []byte
	Chain  [][]byte
	Sealed []byte // null if it was taken
}

// TakeKey erases the sealed key of a version, the current one if number is
// zero, and returns what it was.
func TakeKey(ctx context.Context, q pg.Q, id string, number int) (KeyToTake, error) {
	rows, _ := q.Query(ctx, `
		with c as (
			select id, state, csr is not null as by_csr, case when @number = 0 then version else @number end as number
			from certificates where id = @id
		), taken as (
			delete from certificate_keys k using c
			where k.certificate_id = c.id and k.number = c.number
			returning k.sealed
		)
		select c.state, c.by_csr, v.number, v.der, h.ders as chain, (select sealed from taken) as sealed
		from c
		join certificate_versions v on v.certificate_id = c.id and v.number = c.number
		join chains h on h.id = v.chain_id`,
		pgx.StrictNamedArgs{"id": id, "number": number})
	k, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[KeyToTake])
	return k, pg.Fault(err, "version of the certificate")
}
