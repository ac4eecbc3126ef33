package store

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"certctl/server/cert"
	"certctl/server/pg"
)

// Stats counts certificates and jobs.
type Stats struct {
	ByState       map[string]int64 `json:"by_state" nullable:"false" doc:"certificates in each state"`
	ByIssuer      []IssuerCount    `json:"by_issuer" nullable:"false" doc:"certificates that are not archived; issuers without any are left out"`
	ByEnvironment map[string]int64 `json:"by_environment" nullable:"false" doc:"certificates that are not archived"`
	Ending        []EndingCount    `json:"ending" nullable:"false" doc:"active certificates that end within so many days; those within none have ended and are about to be marked"`
	Expired       int64            `json:"expired" doc:"certificates that ended without having been renewed"`
	Issued        []DayCount       `json:"issued" nullable:"false" doc:"versions issued on each of the last days (UTC), today included"`
	Jobs          []JobCount       `json:"jobs" nullable:"false" doc:"jobs that are on record"`
}

// An IssuerCount is how many certificates an issuer has.
type IssuerCount struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Count int64  `json:"count"`
}

// An EndingCount is how many certificates end within some days.
type EndingCount struct {
	Days  int   `json:"days"`
	Count int64 `json:"count"`
}

// A DayCount is how much there was on a day.
type DayCount struct {
	Day   string `json:"day" format:"date"`
	Count int64  `json:"count"`
}

// A JobCount is how many jobs of a kind are in a state.
type JobCount struct {
	Kind  string `json:"kind"`
	State string `json:"state"`
	Count int64  `json:"count"`
}

const (
	countByState = `select state as key, count(*) as n from certificates group by state`

	// Active certificates, by the smallest of @days within which they end. The
	// days go up.
	countByDaysLeft = `
		select (@days::integer[])[width_bucket(not_after, ends) + 1] as key, count(*) as n
		from (select array(select now + d * interval '1 day' from unnest(@days::integer[]) d order by d) as ends
		      from (select clock_timestamp() as now) t offset 0) t
		join certificates on state = 'active' and not_after < ends[cardinality(ends)]
		group by 1`
)

// EndingDays are the numbers of days within which certificates are counted that
// end.
var EndingDays = []int{1, 7, 14, 30, 60, 90}

// ReadStats counts certificates and jobs in one round trip, with what was issued
// on each of the last issued days.
func ReadStats(ctx context.Context, q pg.Q, issued int) (Stats, error) {
	ending := slices.Concat([]int{0}, EndingDays)
	rows, _ := q.Query(ctx, `
		select
			(select coalesce(jsonb_object_agg(key, n), '{}') from (`+countByState+`) c) as by_state,
			(select coalesce(jsonb_agg(jsonb_build_object('id', i.id, 'name', i.name, 'count', c.n) order by c.n desc, i.name), '[]')
			 from (select issuer_id, count(*) as n from certificates where state <> 'archived' group by issuer_id) c
			 join issuers i on i.id = c.issuer_id) as by_issuer,
			(select coalesce(jsonb_object_agg(environment, n), '{}')
			 from (select environment, count(*) as n from certificates where state <> 'archived' group by environment) c) as by_environment,
			(select coalesce(jsonb_object_agg(key, n), '{}') from (`+countByDaysLeft+`) c) as days_left,
			(select jsonb_agg(jsonb_build_object('day', d.day::date, 'count', coalesce(v.n, 0)) order by d.day)
			 from (select date_trunc('day', clock_timestamp() at time zone 'UTC') as today) t,
			      generate_series(today - (@issued::integer - 1) * interval '1 day', today, interval '1 day') d (day)
			 left join (
				select date_trunc('day', created_at at time zone 'UTC') as day, count(*) as n
				from certificate_versions
				where created_at >= (select date_trunc('day', clock_timestamp(), 'UTC') - (@issued - 1) * interval '24 hours')
				group by 1) v on v.day = d.day) as issued,
			(select coalesce(jsonb_agg(jsonb_build_object('kind', kind, 'state', state, 'count', n) order by kind, state), '[]')
			 from (select kind, state, count(*) as n from jobs group by kind, state) j) as jobs`,
		pgx.StrictNamedArgs{"days": ending, "issued": issued})
	type row struct {
		ByState       map[string]int64
		ByIssuer      []IssuerCount
		ByEnvironment map[string]int64
		DaysLeft      map[int]int64
		Issued        []DayCount
		Jobs          []JobCount
	}
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[row])
	if err != nil {
		return Stats{}, pg.Fault(err, "stats")
	}
	s := Stats{
		ByState: everyState(r.ByState), ByIssuer: r.ByIssuer, ByEnvironment: r.ByEnvironment,
		Expired: r.ByState[cert.Expired.Name], Issued: r.Issued, Jobs: r.Jobs,
	}
	for _, days := range ending {
		s.Ending = append(s.Ending, EndingCount{days, within(r.DaysLeft, days)})
	}
	return s, nil
}

// StateCounts counts the certificates in each state.
func StateCounts(ctx context.Context, q pg.Q) (map[string]int64, error) {
	counts, err := counted[string](q.Query(ctx, countByState))
	return everyState(counts), pg.Fault(err, "certificates")
}

// Ending counts, for each of EndingDays, the active certificates that end within
// so many days, those within fewer included.
func Ending(ctx context.Context, q pg.Q) (map[int]int64, error) {
	left, err := counted[int](q.Query(ctx, countByDaysLeft, pgx.StrictNamedArgs{"days": EndingDays}))
	counts := map[int]int64{}
	for _, d := range EndingDays {
		counts[d] = within(left, d)
	}
	return counts, pg.Fault(err, "certificates")
}

// counted reads rows of a key and a count. Query's error comes with its rows.
func counted[K comparable](rows pgx.Rows, _ error) (map[K]int64, error) {
	var key K
	var n int64
	counts := map[K]int64{}
	_, err := pgx.ForEachRow(rows, []any{&key, &n}, func() error {
		counts[key] = n
		return nil
	})
	return counts, err
}

func everyState(counts map[string]int64) map[string]int64 {
	all := map[string]int64{}
	for _, name := range cert.StateNames() {
		all[name] = counts[name]
	}
	return all
}

func within(left map[int]int64, days int) (n int64) {
	for d, count := range left {
		if d <= days {
			n += count
		}
	}
	return n
}
