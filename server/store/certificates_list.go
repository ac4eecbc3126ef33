package store

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"certctl/server/cert"
	"certctl/server/fault"
	"certctl/server/pg"
)

// A CertFilter selects certificates that meet all that it names. Its zero value
// selects all but the archived ones.
type CertFilter struct {
	States        []string // any of them
	Environment   string
	OwnerID       string
	TeamID        string
	IssuerID      string
	ProfileID     string
	PolicyID      string
	Tags          map[string]string // all of them
	NamePrefix    string
	CommonName    string
	SAN           string // with its kind or without
	Serial        string // of any version
	Fingerprint   string // of any version
	ExpiresBefore time.Time
	ExpiresAfter  time.Time
	CreatedBefore time.Time
	CreatedAfter  time.Time
	UpdatedAfter  time.Time
}

// certificateMatches is the condition of a row c of certificates that a filter
// selects. Statements with it are planned with their arguments
// (pgx.QueryExecModeExec): what is not asked for is no condition then, and what
// is finds its index. A name, a serial number and a fingerprint are looked up
// first: PostgreSQL would guess that many certificates have them.
const certificateMatches = `
	(@any_state or c.state <> 'archived')
	and (@state::text = '' or c.state = @state)
	and (cardinality(@states::text[]) = 0 or c.state = any(@states))
	and (@environment::text = '' or c.environment = @environment)
	and (@owner_id::text = '' or c.owner_id = @owner_id)
	and (@team_id::text = '' or c.team_id = @team_id)
	and (@issuer_id::text = '' or c.issuer_id = @issuer_id)
	and (@profile_id::text = '' or c.profile_id = @profile_id)
	and (@policy_id::text = '' or c.policy_id = @policy_id)
	and (@tags::text = '{}' or c.tags @> @tags::text::jsonb)
	and (@name_prefix::text = '' or c.name collate "C" ^@ @name_prefix)
	and (@common_name::text = '' or c.common_name collate "C" = @common_name)
	and (cardinality(@sans::text[]) = 0 or c.id = any(array(select s.id from certificates s where s.sans @> @sans)))
	and (@serial::text = '' or c.id = any(array(
		select v.certificate_id from certificate_versions v where v.serial = @serial)))
	and (@fingerprint::bytea = '' or c.id = any(array(
		select v.certificate_id from certificate_versions v where v.fingerprint = @fingerprint)))
	and (@expires_before::timestamptz is null or coalesce(c.not_after, 'infinity'::timestamptz) < @expires_before)
	and (@expires_after::timestamptz is null
		or (coalesce(c.not_after, 'infinity'::timestamptz) > @expires_after and c.not_after is not null))
	and (@created_before::timestamptz is null or c.created_at < @created_before)
	and (@created_after::timestamptz is null or c.created_at > @created_after)
	and (@updated_after::timestamptz is null or c.updated_at > @updated_after)`

// args checks the filter and returns the arguments of certificateMatches.
func (f CertFilter) args() (pgx.StrictNamedArgs, error) {
	for _, s := range f.States {
		if !slices.Contains(cert.StateNames(), s) {
			return nil, fault.New(fault.Invalid, "query.state names something that is no state; the states are %s", strings.Join(cert.StateNames(), ", "))
		}
	}
	args := pgx.StrictNamedArgs{
		"any_state": len(f.States) > 0, "state": "", "states": []string{},
		"environment": f.Environment, "owner_id": f.OwnerID, "team_id": f.TeamID, "issuer_id": f.IssuerID,
		"profile_id": f.ProfileID, "policy_id": f.PolicyID, "tags": "{}", "name_prefix": f.NamePrefix,
		"common_name": f.CommonName, "sans": []string{}, "serial": "", "fingerprint": []byte{},
		"expires_before": orNull(f.ExpiresBefore), "expires_after": orNull(f.ExpiresAfter),
		"created_before": orNull(f.CreatedBefore), "created_after": orNull(f.CreatedAfter),
		"updated_after": orNull(f.UpdatedAfter),
	}
	if len(f.States) == 1 {
		args["state"] = f.States[0] // of which the index keeps the order
	} else if len(f.States) > 1 {
		args["states"] = f.States
	}
	if len(f.Tags) > 0 {
		tags, err := json.Marshal(f.Tags)
		if err != nil {
			return nil, err
		}
		args["tags"] = string(tags)
	}
	if f.SAN != "" {
		names, wrong := cert.ParseNames([]string{f.SAN})
		if len(wrong) > 0 {
			return nil, fault.New(fault.Invalid, "query.san is no name that a certificate could have; give one as a.example or ip:192.0.2.1")
		}
		args["sans"] = names.Text()
	}
	if f.Serial != "" {
		n, ok := cert.ParseSerial(f.Serial)
		if !ok {
			return nil, fault.New(fault.Invalid, "query.serial is no serial number; give it in hex, at most 20 bytes")
		}
		args["serial"] = cert.Serial(n)
	}
	if f.Fingerprint != "" {
		sum, err := hex.DecodeString(strings.ReplaceAll(f.Fingerprint, ":", ""))
		if err != nil || len(sum) != 32 {
			return nil, fault.New(fault.Invalid, "query.fingerprint is no SHA-256; give its 32 bytes in hex")
		}
		args["fingerprint"] = sum
	}
	return args, nil
}

func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// A CertPage is a part of the certificates that a filter selects.
type CertPage struct {
	Sort  string // name of a sort; the newest first if empty
	After string // what came with the page before
	Limit int
}

// A certSort is an order of certificates.
type certSort struct {
	name string
	list string // the statement
	of   func(Certificate) string
	read func(string) (any, error) // what of returned, as an argument
}

// certSorts are the orders that there are, each both ways.
var certSorts = slices.Concat(
	bothWays("created_at", "c.created_at", "timestamptz", func(c Certificate) string { return timeText(&c.CreatedAt) }, readTime),
	bothWays("updated_at", "c.updated_at", "timestamptz", func(c Certificate) string { return timeText(&c.UpdatedAt) }, readTime),
	bothWays("not_after", "coalesce(c.not_after, 'infinity'::timestamptz)", "timestamptz", func(c Certificate) string { return timeText(c.NotAfter) }, readTime),
	bothWays("name", `c.name collate "C"`, "text", func(c Certificate) string { return c.Name }, readText),
	bothWays("common_name", `c.common_name collate "C"`, "text", func(c Certificate) string { return c.CommonName }, readText),
)

func bothWays(name, key, of string, text func(Certificate) string, read func(string) (any, error)) []certSort {
	list := func(after, way string) string {
		return `select ` + certificateColumns + ` from certificates c where ` + certificateMatches + `
	and (@after::text is null or (` + key + `, c.id) ` + after + ` (@at::` + of + `, @after))
	order by ` + key + way + `, c.id` + way + ` limit @limit`
	}
	return []certSort{{name, list(">", ""), text, read}, {"-" + name, list("<", " desc"), text, read}}
}

// defaultSort shows the newest first.
const defaultSort = "-created_at"

// CertSorts are the names of the orders that a list can have; those with a
// minus go down.
func CertSorts() []string {
	var names []string
	for _, s := range certSorts {
		names = append(names, s.name)
	}
	return names
}

const infinity = "infinity"

// timeText is t to the microsecond, which is what the database has.
func timeText(t *time.Time) string {
	if t == nil {
		return infinity
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func readTime(s string) (any, error) {
	if s == infinity {
		return pgtype.Timestamptz{InfinityModifier: pgtype.Infinity, Valid: true}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	return pgtype.Timestamptz{Time: t, Valid: true}, err
}

func readText(s string) (any, error) { return s, nil }

// A cursor is where a page ends: the sort, what it sorts by, and the id.
type cursor struct {
	Sort string `json:"s"`
	At   string `json:"v"`
	ID   string `json:"i"`
}

// Certificates returns a page of the certificates that f selects, and what to
// give as After for the next one, which is empty after the last. It neither
// loses nor repeats a certificate that keeps what it is sorted by.
func Certificates(ctx context.Context, q pg.Q, f CertFilter, p CertPage) ([]Certificate, string, error) {
	sort, args, err := p.args(f)
	if err != nil {
		return nil, "", err
	}
	rows, _ := q.Query(ctx, sort.list, pgx.QueryExecModeExec, args)
	page, err := pgx.CollectRows(rows, pgx.RowToStructByName[Certificate])
	if err != nil || len(page) <= p.Limit {
		return page, "", pg.Fault(err, "certificates")
	}
	page = page[:p.Limit]
	last := page[p.Limit-1]
	next, err := json.Marshal(cursor{sort.name, sort.of(last), last.ID})
	return page, base64.RawURLEncoding.EncodeToString(next), err
}

// args returns the sort of the page and all arguments of its statement.
func (p CertPage) args(f CertFilter) (certSort, pgx.StrictNamedArgs, error) {
	name := p.Sort
	if name == "" {
		name = defaultSort
	}
	i := slices.IndexFunc(certSorts, func(s certSort) bool { return s.name == name })
	if i < 0 {
		return certSort{}, nil, fault.New(fault.Invalid, "query.sort is none of %s", strings.Join(CertSorts(), ", "))
	}
	sort := certSorts[i]
	args, err := f.args()
	if err != nil {
		return sort, nil, err
	}
	args["after"], args["at"], args["limit"] = nil, nil, p.Limit+1
	if p.After == "" {
		return sort, args, nil
	}
	var c cursor
	raw, err := base64.RawURLEncoding.DecodeString(p.After)
	if err != nil || json.Unmarshal(raw, &c) != nil || c.ID == "" {
		return sort, nil, errCursor
	}
	if c.Sort != sort.name {
		return sort, nil, fault.New(fault.Invalid, "query.after comes from a list in another order; give the sort of the page before")
	}
	if args["at"], err = sort.read(c.At); err != nil {
		return sort, nil, errCursor
	}
	args["after"] = c.ID
	return sort, args, nil
}

var errCursor = fault.New(fault.Invalid, "query.after is no place in a list; give the next of the page before")
