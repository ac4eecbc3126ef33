package store

import (
	"context"

	"github.com/jackc/pgx/v5"

	"certctl/server/pg"
)

// An Issuer is who signs certificates. Nothing new is issued by one that is not
// enabled.
type Issuer struct {
	System
	Can []string `json:"can" nullable:"false" db:"-" doc:"abilities of its type"`
}

// Issuers returns up to limit issuers by name, from the first whose name comes
// after the given one.
func Issuers(ctx context.Context, q pg.Q, after string, limit int) ([]Issuer, error) {
	rows, _ := q.Query(ctx, `select `+systemColumns+` from issuers where name > @after order by name limit @limit`,
		pgx.StrictNamedArgs{"after": after, "limit": limit})
	issuers, err := pgx.CollectRows(rows, pgx.RowToStructByName[Issuer])
	return issuers, pg.Fault(err, "issuers")
}

// IssuerByID returns one issuer.
func IssuerByID(ctx context.Context, q pg.Q, id string) (Issuer, error) {
	rows, _ := q.Query(ctx, `select `+systemColumns+` from issuers where id = $1`, id)
	return issuer(rows)
}

// LockIssuer returns an issuer and keeps others from changing it until the
// transaction ends.
func LockIssuer(ctx context.Context, q pg.Q, id string) (Issuer, error) {
	rows, _ := q.Query(ctx, `select `+systemColumns+` from issuers where id = $1 for no key update`, id)
	return issuer(rows)
}

// SealedIssuer returns one issuer with the settings that only the server can
// read.
func SealedIssuer(ctx context.Context, q pg.Q, id string) (Sealed, error) {
	rows, _ := q.Query(ctx, `select `+sealedColumns+` from issuers where id = $1`, id)
	s, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Sealed])
	return s, pg.Fault(err, "issuer")
}

// InsertIssuer adds an issuer, whose sealed settings are x.Settings with their
// secrets.
func InsertIssuer(ctx context.Context, q pg.Q, x Issuer, sealed []byte) (Issuer, error) {
	rows, _ := q.Query(ctx, `
		insert into issuers (id, name, type, enabled, settings, shown)
		values (@id, @name, @type, @enabled, @sealed, @shown::text::jsonb)
		returning `+systemColumns,
		pgx.StrictNamedArgs{
			"id": x.ID, "name": x.Name, "type": x.Type, "enabled": x.Enabled, "sealed": sealed, "shown": string(x.Settings),
		})
	return issuer(rows)
}

// InsertCRL has the server keep a revocation list for an issuer.
func InsertCRL(ctx context.Context, q pg.Q, issuerID string) error {
	_, err := q.Exec(ctx, `insert into crls (issuer_id) values ($1)`, issuerID)
	return pg.Fault(err, "revocation list")
}

// ChangeIssuer sets what callers may change of an issuer: the settings if sealed
// has them, with which what a test has found of the old ones goes.
func ChangeIssuer(ctx context.Context, q pg.Q, x Issuer, sealed []byte) (Issuer, error) {
	rows, _ := q.Query(ctx, `
		update issuers
		set name = @name, enabled = @enabled, settings = coalesce(@sealed::bytea, settings), shown = @shown::text::jsonb,
		    tested_at = case when @sealed::bytea is null then tested_at end,
		    test_error = case when @sealed::bytea is null then test_error else '' end,
		    revision = revision + 1, updated_at = clock_timestamp()
		where id = @id
		returning `+systemColumns,
		pgx.StrictNamedArgs{"id": x.ID, "name": x.Name, "enabled": x.Enabled, "sealed": sealed, "shown": string(x.Settings)})
	return issuer(rows)
}

// IssuerTested keeps what a test of an issuer has found, unless the issuer has
// another revision by now, of which it reports false.
func IssuerTested(ctx context.Context, q pg.Q, id string, revision int64, found string) (bool, error) {
	tag, err := q.Exec(ctx, `
		update issuers set tested_at = clock_timestamp(), test_error = @found where id = @id and revision = @revision`,
		pgx.StrictNamedArgs{"id": id, "revision": revision, "found": found})
	return tag.RowsAffected() == 1, pg.Fault(err, "issuer")
}

func issuer(rows pgx.Rows) (Issuer, error) {
	x, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Issuer])
	return x, pg.Fault(err, "issuer")
}

// DeleteIssuer deletes an issuer that has issued nothing, with its revocation
// list.
func DeleteIssuer(ctx context.Context, q pg.Q, id string) error {
	_, err := q.Exec(ctx, `
		with requests as (delete from crl_requests where issuer_id = @id),
		list as (delete from crls where issuer_id = @id)
		delete from issuers where id = @id`, pgx.StrictNamedArgs{"id": id})
	return pg.Fault(err, "issuer")
}
