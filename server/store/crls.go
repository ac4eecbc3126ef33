package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/pg"
)

// A DueCRL is the next revocation list of an issuer, whose row is locked.
type DueCRL struct {
	IssuerID   string
	Before     int64 // number of the list in force
	Number     int64
	ThisUpdate time.Time
	NextUpdate time.Time
	Overdue    bool // whether it is due without a request
}

// LockDueCRL locks the row of an issuer, other than those that were done, whose
// list is due or was asked for. Rows that another replica has locked are passed
// over. It reports false if there is none. After an error a list waits for its
// time, whoever asks.
//
// The number is the time in milliseconds, so that it does not go back when the
// database is restored from an older copy.
func LockDueCRL(ctx context.Context, q pg.Q, validity time.Duration, done []string) (DueCRL, bool, error) {
	// A lock for update would keep requests waiting, which refer to the row.
	rows, _ := q.Query(ctx, `
		select c.issuer_id, c.number as before,
			greatest(c.number + 1, (extract(epoch from clock_timestamp()) * 1000)::bigint) as number,
			date_trunc('second', clock_timestamp()) as this_update,
			date_trunc('second', clock_timestamp()) + @validity::interval as next_update,
			c.due_at <= clock_timestamp() as overdue
		from crls c
		where (c.due_at <= clock_timestamp()
			or (c.error = '' and exists (select from crl_requests r where r.issuer_id = c.issuer_id)))
		  and c.issuer_id <> all(@done::text[])
		order by c.due_at limit 1
		for no key update of c skip locked`,
		pgx.StrictNamedArgs{"validity": validity, "done": done})
	due, err := pgx.CollectRows(rows, pgx.RowToStructByName[DueCRL])
	if err != nil || len(due) == 0 {
		return DueCRL{}, false, pg.Fault(err, "revocation lists")
	}
	return due[0], true, nil
}

// TakeCRLRequests deletes the requests for the list of an issuer and reports
// whether there were any. What they ask for is visible to later statements.
func TakeCRLRequests(ctx context.Context, q pg.Q, issuerID string) (bool, error) {
	tag, err := q.Exec(ctx, `delete from crl_requests where issuer_id = $1`, issuerID)
	return tag.RowsAffected() > 0, pg.Fault(err, "requests for revocation lists")
}

// listedRevocation is the condition of a row of revocations that a list has. An
// entry stays until it was in a list that began after its certificate had ended
// (RFC 5280 §3.3).
const listedRevocation = `issuer_id = @issuer and listed and not_after > clock_timestamp() - @validity::interval`

// Entries are the rows of a revocation list in DER, one after another.
type Entries struct {
	Count int64
	DER   []byte
}

// ScanBytes appends b, which is the driver's.
func (e *Entries) ScanBytes(b []byte) error {
	e.Count++
	e.DER = append(e.DER, b...)
	return nil
}

// CRLEntries reads what a list has, in the order of serial numbers as text. It
// takes little more memory than the entries have bytes. q is a transaction: it
// walks the primary key, where the planner would rather sort on disk.
func CRLEntries(ctx context.Context, q pg.Q, issuerID string, validity time.Duration) (Entries, error) {
	var e Entries
	args := pgx.StrictNamedArgs{"issuer": issuerID, "validity": validity}
	var size int
	err := q.QueryRow(ctx, `
		select coalesce(sum(length(entry)), 0)::bigint from revocations, set_config('enable_sort', 'off', true)
		where `+listedRevocation, args).Scan(&size)
	if err != nil {
		return e, pg.Fault(err, "revocations")
	}
	e.DER = make([]byte, 0, size+size/16) // some may come in between
	rows, _ := q.Query(ctx, `select entry from revocations where `+listedRevocation+` order by serial`, args)
	_, err = pgx.ForEachRow(rows, []any{&e}, func() error { return nil })
	return e, pg.Fault(err, "revocations")
}

// SaveCRL makes der the issuer's list. It is due again at half of its validity.
func SaveCRL(ctx context.Context, q pg.Q, l DueCRL, entries int64, der []byte, replica string) error {
	_, err := q.Exec(ctx, `
		update crls
		set number = @number, der = @der, entries = @entries, this_update = @this_update::timestamptz,
		    next_update = @next_update, due_at = @this_update + (@next_update - @this_update) / 2, signed_by = @replica,
		    took = clock_timestamp() - now(), error = ''
		where issuer_id = @issuer`,
		pgx.StrictNamedArgs{
			"issuer": l.IssuerID, "number": l.Number, "der": der, "entries": entries,
			"this_update": l.ThisUpdate, "next_update": l.NextUpdate, "replica": replica,
		})
	return pg.Fault(err, "revocation list")
}

// CRLFailed notes why an issuer's next list could not be made, which is tried
// again in a minute. Another replica may have made it since.
func CRLFailed(ctx context.Context, q pg.Q, l DueCRL, why string) error {
	_, err := q.Exec(ctx, `
		update crls set error = @why, due_at = clock_timestamp() + interval '1 minute'
		where issuer_id = @issuer and number = @before`,
		pgx.StrictNamedArgs{"issuer": l.IssuerID, "before": l.Before, "why": why})
	return pg.Fault(err, "revocation list")
}

// A CRLState tells of an issuer's newest revocation list.
type CRLState struct {
	IssuerID   string     `json:"issuer_id"`
	Issuer     string     `json:"issuer" doc:"name of the issuer"`
	Number     int64      `json:"number" doc:"0 before the first"`
	Entries    int64      `json:"entries"`
	Bytes      int64      `json:"bytes"`
	ThisUpdate *time.Time `json:"this_update,omitempty" doc:"when it was signed"`
	NextUpdate *time.Time `json:"next_update,omitempty" doc:"when it ends"`
	AgeSeconds *float64   `json:"age_seconds,omitempty" doc:"since it was signed"`
	DueAt      time.Time  `json:"due_at" doc:"when the next is signed, if nothing is revoked before"`
	SignedBy   string     `json:"signed_by,omitempty" doc:"replica"`
	Error      string     `json:"error,omitempty" doc:"why the next could not be signed"`
}

// CRLStates tells of the newest list of each issuer that signs them, by name.
func CRLStates(ctx context.Context, q pg.Q) ([]CRLState, error) {
	rows, _ := q.Query(ctx, `
		select c.issuer_id, i.name as issuer, c.number, c.entries, length(c.der)::bigint as bytes, c.this_update, c.next_update,
			extract(epoch from clock_timestamp() - c.this_update)::float8 as age_seconds, c.due_at, c.signed_by, c.error
		from crls c join issuers i on i.id = c.issuer_id
		order by i.name`)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[CRLState])
	return all, pg.Fault(err, "revocation lists")
}

// A CRL is an issuer's newest revocation list as it is served.
type CRL struct {
	Number     int64 // 0 before the first
	ThisUpdate time.Time
	Size       int64
	MaxAge     int64  // seconds
	Same       bool   // whether it is what the reader has
	DER        []byte `db:"-"`
}

// A Reader says what it has of a list, and whether it wants another.
type Reader struct {
	Any     bool // whatever there is
	Numbers []int64
	Since   *time.Time
	Head    bool // wants no bytes
}

// NewestCRL reads what there is to say of an issuer's list, and whether it is new
// to the reader. Caches may keep it until it ends, but no longer than half its
// life.
func NewestCRL(ctx context.Context, q pg.Q, issuerID string, r Reader) (CRL, error) {
	rows, _ := q.Query(ctx, `
		select number, coalesce(this_update, 'epoch') as this_update, length(der)::bigint as size,
			coalesce(greatest(0, floor(extract(epoch from
				least(next_update - clock_timestamp(), (next_update - this_update) / 2))))::bigint, 0) as max_age,
			number > 0 and (@any or number = any(@numbers::bigint[])
				or coalesce(this_update <= @since::timestamptz, false)) as same
		from crls where issuer_id = @issuer`,
		pgx.StrictNamedArgs{"issuer": issuerID, "any": r.Any, "numbers": r.Numbers, "since": r.Since})
	l, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[CRL])
	return l, pg.Fault(err, "revocation list of an issuer with this id")
}

// CRLBytes are a revocation list in DER.
type CRLBytes struct {
	Number int64
	DER    []byte
}

// ReadCRL reads an issuer's newest list.
func ReadCRL(ctx context.Context, q pg.Q, issuerID string) (CRLBytes, error) {
	rows, _ := q.Query(ctx, `select number, der from crls where issuer_id = $1`, issuerID)
	l, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[CRLBytes])
	return l, pg.Fault(err, "revocation list of an issuer with this id")
}
