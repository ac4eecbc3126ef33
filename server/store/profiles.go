package store

import (
	"context"

	"github.com/jackc/pgx/v5"

	"certctl/server/cert"
	"certctl/server/pg"
)

const profileColumns = `
	id, name, description, enabled, key_algorithms, default_validity_seconds, max_validity_seconds, ext_key_usages,
	san_kinds, dns_patterns, ip_ranges, uri_prefixes, email_domains, max_sans, wildcards, must_staple, short_lived,
	cab_lints, revision, created_at, updated_at`

// Profiles returns up to limit profiles by name, from the first whose name
// comes after the given one.
func Profiles(ctx context.Context, q pg.Q, after string, limit int) ([]cert.Profile, error) {
	rows, _ := q.Query(ctx, `select `+profileColumns+` from profiles where name > @after order by name limit @limit`,
		pgx.StrictNamedArgs{"after": after, "limit": limit})
	profiles, err := pgx.CollectRows(rows, pgx.RowToStructByName[cert.Profile])
	return profiles, pg.Fault(err, "profiles")
}

// ProfileByID returns one profile.
func ProfileByID(ctx context.Context, q pg.Q, id string) (cert.Profile, error) {
	rows, _ := q.Query(ctx, `select `+profileColumns+` from profiles where id = $1`, id)
	return profile(rows)
}

// LockProfile returns a profile and keeps others from changing it until the
// transaction ends.
func LockProfile(ctx context.Context, q pg.Q, id string) (cert.Profile, error) {
	rows, _ := q.Query(ctx, `select `+profileColumns+` from profiles where id = $1 for no key update`, id)
	return profile(rows)
}

// InsertProfile adds a profile.
func InsertProfile(ctx context.Context, q pg.Q, p cert.Profile) (cert.Profile, error) {
	rows, _ := q.Query(ctx, `
		insert into profiles (
			id, name, description, enabled, key_algorithms, default_validity_seconds, max_validity_seconds, ext_key_usages,
			san_kinds, dns_patterns, ip_ranges, uri_prefixes, email_domains, max_sans, wildcards, must_staple, short_lived,
			cab_lints)
		values (
			@id, @name, @description, @enabled, @key_algorithms, @default_validity, @max_validity, @ext_key_usages,
			@san_kinds, @dns_patterns, @ip_ranges, @uri_prefixes, @email_domains, @max_sans, @wildcards, @must_staple,
			@short_lived, @cab_lints)
		returning `+profileColumns, profileArgs(p))
	return profile(rows)
}

// ChangeProfile sets what callers may change of a profile.
func ChangeProfile(ctx context.Context, q pg.Q, p cert.Profile) (cert.Profile, error) {
	rows, _ := q.Query(ctx, `
		update profiles
		set name = @name, description = @description, enabled = @enabled, key_algorithms = @key_algorithms,
		    default_validity_seconds = @default_validity, max_validity_seconds = @max_validity,
		    ext_key_usages = @ext_key_usages, san_kinds = @san_kinds, dns_patterns = @dns_patterns,
		    ip_ranges = @ip_ranges, uri_prefixes = @uri_prefixes, email_domains = @email_domains, max_sans = @max_sans,
		    wildcards = @wildcards, must_staple = @must_staple, short_lived = @short_lived, cab_lints = @cab_lints,
		    revision = revision + 1, updated_at = clock_timestamp()
		where id = @id
		returning `+profileColumns, profileArgs(p))
	return profile(rows)
}

func profileArgs(p cert.Profile) pgx.StrictNamedArgs {
	return pgx.StrictNamedArgs{
		"id": p.ID, "name": p.Name, "description": p.Description, "enabled": p.Enabled, "key_algorithms": p.KeyAlgorithms,
		"default_validity": p.DefaultValiditySeconds, "max_validity": p.MaxValiditySeconds,
		"ext_key_usages": p.ExtKeyUsages, "san_kinds": p.SANKinds, "dns_patterns": p.DNSPatterns, "ip_ranges": p.IPRanges,
		"uri_prefixes": p.URIPrefixes, "email_domains": p.EmailDomains, "max_sans": p.MaxSANs, "wildcards": p.Wildcards,
		"must_staple": p.MustStaple, "short_lived": p.ShortLived, "cab_lints": p.CABLints,
	}
}

func profile(rows pgx.Rows) (cert.Profile, error) {
	p, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[cert.Profile])
	return p, pg.Fault(err, "profile")
}

// DeleteProfile deletes a profile that nothing refers to.
func DeleteProfile(ctx context.Context, q pg.Q, id string) error {
	_, err := q.Exec(ctx, `delete from profiles where id = $1`, id)
	return pg.Fault(err, "profile")
}
