package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/pg"
)

// A Revocation is a version of a certificate that is revoked, for good or for
// the time being.
type Revocation struct {
	CertificateID string
	Number        int // of the version
	IssuerID      string
	Serial        string
	Reason        int // code of a cert.Reason
	RevokedAt     time.Time
	InvalidityAt  *time.Time
	NotAfter      time.Time
	Listed        bool   // whether revocation lists have it
	Entry         []byte // of revocation lists, in DER
}

// LockCertificates keeps certificates, and their open jobs, as they are until
// the transaction ends. The jobs come first: a job's own transaction holds its
// row before it gets to the certificate, and the other order would deadlock
// with it. What is read afterwards, in statements of their own, has what the
// lock was waited for.
func LockCertificates(ctx context.Context, q pg.Q, ids []string) error {
	_, err := q.Exec(ctx, `
		select from jobs where certificate_id = any($1) and state in ('pending', 'running', 'failed')
		order by id for no key update`, ids)
	if err == nil {
		_, err = q.Exec(ctx, `select from certificates where id = any($1) order by id for no key update`, ids)
	}
	return pg.Fault(err, "certificates")
}

// A Revocable is a version of a certificate that can be revoked, or is. A
// certificate without one has a row with the number zero.
type Revocable struct {
	CertificateID string
	State         string    // of the certificate
	BeganAt       time.Time // the certificate's first version
	Now           time.Time // by the database's clock, to the second as in DER
	Number        int
	Current       bool
	IssuerID      string
	Serial        string
	NotAfter      time.Time
	Ended         bool
	DER           []byte
	Reason        *int // null if it is not revoked
	RevokedAt     *time.Time
}

// Revocables returns the versions of certificates that have not ended, beside
// the current one and the one with the serial number, by certificate and number.
func Revocables(ctx context.Context, q pg.Q, ids []string, serial string) ([]Revocable, error) {
	rows, _ := q.Query(ctx, `
		with clock as materialized (select clock_timestamp() as now)
		select c.id as certificate_id, c.state, date_trunc('second', clock.now) as now,
			coalesce((select min(not_before) from certificate_versions where certificate_id = c.id), clock.now) as began_at,
			coalesce(v.number, 0) as number, coalesce(v.number = c.version, false) as current,
			coalesce(v.issuer_id, '') as issuer_id, coalesce(v.serial, '') as serial,
			coalesce(v.not_after, clock.now) as not_after, coalesce(v.not_after <= clock.now, true) as ended, v.der,
			r.reason, r.revoked_at
		from clock cross join certificates c
		left join certificate_versions v on v.certificate_id = c.id
			and (v.not_after > clock.now or v.number = c.version or v.serial = @serial)
		left join revocations r on r.issuer_id = v.issuer_id and r.serial = v.serial
		where c.id = any(@ids)
		order by c.id, v.number`,
		pgx.StrictNamedArgs{"ids": ids, "serial": serial})
	versions, err := pgx.CollectRows(rows, pgx.RowToStructByName[Revocable])
	return versions, pg.Fault(err, "certificates")
}

// Revoke records revocations, changes those that are a hold, and asks for the
// lists that will have them.
func Revoke(ctx context.Context, q pg.Q, all []Revocation) error {
	var ids, issuers, serials []string
	var numbers, reasons []int32
	var revoked, notAfter []time.Time
	var invalid []*time.Time
	var listed []bool
	var entries [][]byte
	for _, r := range all {
		ids, issuers, serials = append(ids, r.CertificateID), append(issuers, r.IssuerID), append(serials, r.Serial)
		numbers, reasons = append(numbers, int32(r.Number)), append(reasons, int32(r.Reason))
		revoked, notAfter, invalid = append(revoked, r.RevokedAt), append(notAfter, r.NotAfter), append(invalid, r.InvalidityAt)
		listed, entries = append(listed, r.Listed), append(entries, r.Entry)
	}
	_, err := q.Exec(ctx, `
		with new as (
			insert into revocations (
				certificate_id, number, issuer_id, serial, reason, revoked_at, invalidity_at, not_after, listed, entry)
			select * from unnest(@ids::text[], @numbers::integer[], @issuers::text[], @serials::text[], @reasons::smallint[],
				@revoked::timestamptz[], @invalid::timestamptz[], @not_after::timestamptz[], @listed::boolean[], @entries::bytea[])
			on conflict (issuer_id, serial) do update
			set reason = excluded.reason, invalidity_at = excluded.invalidity_at, entry = excluded.entry
			returning issuer_id, listed
		)
		insert into crl_requests (issuer_id) select issuer_id from crls where issuer_id in (select issuer_id from new where listed)`,
		pgx.StrictNamedArgs{
			"ids": ids, "numbers": numbers, "issuers": issuers, "serials": serials, "reasons": reasons, "revoked": revoked,
			"invalid": invalid, "not_after": notAfter, "listed": listed, "entries": entries,
		})
	return pg.Fault(err, "revocations")
}

// MoveRevoked moves certificates to held or revoked. Those that are revoked for
// good are not renewed any more.
func MoveRevoked(ctx context.Context, q pg.Q, ids []string, state string) error {
	_, err := q.Exec(ctx, `
		with erased as (
			delete from certificate_keys where certificate_id = any(@ids) and @state <> 'held'
		)
		update certificates
		set state = @state, renew_at = case when @state = 'held' then renew_at end,
		    revision = revision + 1, updated_at = clock_timestamp()
		where id = any(@ids)`,
		pgx.StrictNamedArgs{"ids": ids, "state": state})
	return pg.Fault(err, "certificates")
}

// Released is a version of a certificate that was on hold.
type Released struct {
	Number   int
	IssuerID string
	Serial   string
}

// Release takes every hold of a certificate back, asks for the lists that will
// no longer have them, and moves the certificate out of held.
func Release(ctx context.Context, q pg.Q, id string) ([]Released, error) {
	rows, _ := q.Query(ctx, `
		with old as (
			delete from revocations where certificate_id = $1 and reason = 6
			returning number, issuer_id, serial, listed
		), request as (
			insert into crl_requests (issuer_id) select issuer_id from crls where issuer_id in (select issuer_id from old where listed)
		), moved as (
			update certificates
			set state = case when not_after > clock_timestamp() then 'active' else 'expired' end,
			    revision = revision + 1, updated_at = clock_timestamp()
			where id = $1 and state = 'held' and exists (select from old)
		)
		select number, issuer_id, serial from old order by number`, id)
	released, err := pgx.CollectRows(rows, pgx.RowToStructByName[Released])
	return released, pg.Fault(err, "certificate")
}
