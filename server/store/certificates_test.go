package store_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"certctl/server/cert"
	"certctl/server/fault"
	"certctl/server/pg"
	"certctl/server/pg/pgtest"
	"certctl/server/store"
)

// around are the rows that certificates refer to: three of each.
const around = `
	insert into teams (id, name) select 'tm_' || n, 'team ' || n from generate_series(1, 3) n;
	insert into owners (id, name) select 'own_' || n, 'owner ' || n from generate_series(1, 3) n;
	insert into renewal_policies (id, name, auto_renew, renew_before_seconds, max_retries, retry_every_seconds,
		attempt_timeout_seconds, start_over_after_seconds, alerts)
	select 'pol_' || n, 'policy ' || n, n <> 3, n * 86400, 3, 60, 60, 86400, '[]' from generate_series(1, 3) n;
	insert into profiles (id, name, enabled, key_algorithms, default_validity_seconds, max_validity_seconds, ext_key_usages,
		san_kinds, dns_patterns, ip_ranges, uri_prefixes, email_domains, max_sans, wildcards, must_staple, short_lived, cab_lints)
	select 'pro_' || n, 'profile ' || n, true, '{ecdsa-p256}', 86400, 86400, '{serverAuth}', '{dns}', '{}', '{}', '{}', '{}',
		10, false, false, false, false
	from generate_series(1, 3) n;
	insert into issuers (id, name, type, enabled, settings, shown)
	select 'iss_' || n, 'issuer ' || n, 'fake', true, '', '{}' from generate_series(1, 3) n;
	insert into chains (id, ders) values ('\x01', array['\x3001'::bytea, '\x3002'])`

// many are certificates from @first to @last with one version each, all in the
// batch @batch: nine of ten are active, the others in each other state. Half of
// them share one created_at.
const many = `
	with n as (
		select n, lpad(n::text, 9, '0') as key,
			(array['active', 'active', 'active', 'active', 'active', 'active', 'active', 'active', 'active', 'expired',
			       'active', 'active', 'active', 'active', 'active', 'active', 'active', 'active', 'active', 'archived',
			       'active', 'active', 'active', 'active', 'active', 'active', 'active', 'active', 'active', 'pending'])[n % 30 + 1] as state,
			date_trunc('hour', clock_timestamp()) - interval '1 day' + case when n % 2 = 0 then interval '0' else n * interval '1 microsecond' end as at,
			date_trunc('hour', clock_timestamp()) + case when n % 10 = 9 then interval '-1 hour' else (n % 300 + 1) * interval '7 hours' end as ends
		from generate_series(@first::integer, @last) n
	), c as (
		insert into certificates (id, name, state, common_name, sans, environment, tags, owner_id, team_id, issuer_id,
			profile_id, policy_id, csr, key_algorithm, validity_seconds, version, serial, fingerprint, not_before, not_after,
			renew_at, created_at, created_by, updated_at, archived_at)
		select 'crt_' || @batch || key, 'name-' || @batch || '-' || key, state, 'host-' || n % 500 || '.example',
			array['dns:host-' || n % 500 || '.example', 'dns:only-' || n || '.example'], (array['prod', 'test', 'dev', 'dev'])[n % 4 + 1],
			jsonb_build_object('app', 'app-' || n % 100, 'n', n::text), 'own_' || n % 3 + 1,
			case when n % 4 > 0 then 'tm_' || n % 3 + 1 end, 'iss_' || n % 3 + 1, 'pro_' || n % 3 + 1, 'pol_' || n % 3 + 1,
			case when n % 2 = 0 then '\x30'::bytea end, 'ecdsa-p256', 86400,
			case when state <> 'pending' then 1 end,
			case when state <> 'pending' then '1' || @batch || key end,
			case when state <> 'pending' then sha256((@batch || key)::bytea) end,
			case when state <> 'pending' then at end,
			case when state <> 'pending' then ends end,
			case when state <> 'pending' then ends end, at, 'key', at + interval '1 minute', case when state = 'archived' then at end
		from n
	)
	insert into certificate_versions (certificate_id, number, issuer_id, serial, fingerprint, not_before, not_after,
		key_algorithm, der, chain_id, created_at)
	select 'crt_' || @batch || key, 1, 'iss_' || n % 3 + 1, '1' || @batch || key, sha256((@batch || key)::bytea), at, ends,
		'ecdsa-p256', decode(repeat('30', 600), 'hex'), '\x01', at
	from n where state <> 'pending'`

// add inserts what many says.
func add(ctx context.Context, q pg.Q, batch, first, last int) error {
	_, err := q.Exec(ctx, many, pgx.StrictNamedArgs{"batch": fmt.Sprintf("%02d", batch), "first": first, "last": last})
	return err
}

// seed makes n certificates, in the batch 0.
func seed(t testing.TB, q pg.Q, n int) {
	t.Helper()
	if _, err := q.Exec(t.Context(), around); err != nil {
		t.Fatal(err)
	}
	if err := add(t.Context(), q, 0, 1, n); err != nil {
		t.Fatal(err)
	}
}

// walk returns all that the filter selects, in pages of limit.
func walk(ctx context.Context, q pg.Q, f store.CertFilter, sort string, limit int) (all []store.Certificate, err error) {
	p := store.CertPage{Sort: sort, Limit: limit}
	seen := map[string]bool{}
	for {
		page, next, err := store.Certificates(ctx, q, f, p)
		for _, c := range page {
			if seen[c.ID] {
				return all, fmt.Errorf("%s is on two pages", c.ID)
			}
			seen[c.ID] = true
		}
		if all = append(all, page...); err != nil || next == "" {
			return all, err
		}
		if len(page) != limit {
			return all, fmt.Errorf("a page of %d that is not the last holds %d", limit, len(page))
		}
		p.After = next
	}
}

func ids(all []store.Certificate) []string {
	var ids []string
	for _, c := range all {
		ids = append(ids, c.ID)
	}
	return ids
}

func TestCertificatesAreThoseOfTheFilter(t *testing.T) {
	t.Parallel()
	tx := pgtest.Tx(t)
	seed(t, tx, 300)
	all, err := walk(t.Context(), tx, store.CertFilter{States: cert.StateNames()}, "created_at", 1000)
	if err != nil || len(all) != 300 {
		t.Fatalf("there are %d certificates (%v)", len(all), err)
	}
	of := all[200]
	for _, c := range []struct {
		name   string
		filter store.CertFilter
		picks  func(store.Certificate) bool
	}{
		{"nothing is asked for", store.CertFilter{}, func(store.Certificate) bool { return true }},
		{"one state", store.CertFilter{States: []string{"expired"}}, func(c store.Certificate) bool { return c.State == "expired" }},
		{"archived", store.CertFilter{States: []string{"archived"}}, func(c store.Certificate) bool { return c.State == "archived" }},
		{"two states", store.CertFilter{States: []string{"pending", "archived"}}, func(c store.Certificate) bool { return c.State == "pending" || c.State == "archived" }},
		{"environment", store.CertFilter{Environment: "test"}, func(c store.Certificate) bool { return c.Environment == "test" }},
		{"owner", store.CertFilter{OwnerID: of.OwnerID}, func(c store.Certificate) bool { return c.OwnerID == of.OwnerID }},
		{"team", store.CertFilter{TeamID: "tm_1"}, func(c store.Certificate) bool { return c.TeamID != nil && *c.TeamID == "tm_1" }},
		{"issuer", store.CertFilter{IssuerID: of.IssuerID}, func(c store.Certificate) bool { return c.IssuerID == of.IssuerID }},
		{"profile", store.CertFilter{ProfileID: of.ProfileID}, func(c store.Certificate) bool { return c.ProfileID == of.ProfileID }},
		{"policy", store.CertFilter{PolicyID: of.PolicyID}, func(c store.Certificate) bool { return c.PolicyID == of.PolicyID }},
		{"a tag", store.CertFilter{Tags: map[string]string{"app": "app-7"}}, func(c store.Certificate) bool { return c.Tags["app"] == "app-7" }},
		{"two tags", store.CertFilter{Tags: map[string]string{"app": "app-7", "n": "107"}}, func(c store.Certificate) bool { return c.Name == "name-00-000000107" }},
		{"beginning of the name", store.CertFilter{NamePrefix: "name-00-00000010"}, func(c store.Certificate) bool { return strings.HasPrefix(c.Name, "name-00-00000010") }},
		{"common name", store.CertFilter{CommonName: of.CommonName}, func(c store.Certificate) bool { return c.CommonName == of.CommonName }},
		{"a name with its kind", store.CertFilter{SAN: "dns:only-5.example"}, func(c store.Certificate) bool { return slices.Contains(c.SANs, "dns:only-5.example") }},
		{"a name without its kind", store.CertFilter{SAN: "Only-5.example"}, func(c store.Certificate) bool { return slices.Contains(c.SANs, "dns:only-5.example") }},
		{"serial", store.CertFilter{Serial: "0x10:00:00:00:00:07"}, func(c store.Certificate) bool { return c.Serial != nil && *c.Serial == "100000000007" }},
		{"fingerprint", store.CertFilter{Fingerprint: strings.ToUpper(*of.Fingerprint)}, func(c store.Certificate) bool { return c.ID == of.ID }},
		{"ends before", store.CertFilter{ExpiresBefore: *of.NotAfter}, func(c store.Certificate) bool { return c.NotAfter != nil && c.NotAfter.Before(*of.NotAfter) }},
		{"ends after", store.CertFilter{ExpiresAfter: *of.NotAfter}, func(c store.Certificate) bool { return c.NotAfter != nil && c.NotAfter.After(*of.NotAfter) }},
		{"created before", store.CertFilter{CreatedBefore: of.CreatedAt}, func(c store.Certificate) bool { return c.CreatedAt.Before(of.CreatedAt) }},
		{"created after", store.CertFilter{CreatedAfter: of.CreatedAt}, func(c store.Certificate) bool { return c.CreatedAt.After(of.CreatedAt) }},
		{"updated after", store.CertFilter{UpdatedAfter: of.UpdatedAt}, func(c store.Certificate) bool { return c.UpdatedAt.After(of.UpdatedAt) }},
		{"several at once", store.CertFilter{States: []string{"active"}, Environment: "dev", IssuerID: of.IssuerID}, func(c store.Certificate) bool {
			return c.State == "active" && c.Environment == "dev" && c.IssuerID == of.IssuerID
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var want []string
			for _, x := range all {
				if c.picks(x) && (x.State != "archived" || slices.Contains(c.filter.States, "archived")) {
					want = append(want, x.ID)
				}
			}
			if len(want) == 0 || len(want) == len(all) {
				t.Fatalf("%d of %d are asked for: nothing is tested", len(want), len(all))
			}
			got, err := walk(t.Context(), tx, c.filter, "created_at", 7)
			if err != nil || !slices.Equal(ids(got), want) {
				t.Errorf("got %d certificates, want %d (%v)\n%v\n%v", len(got), len(want), err, ids(got), want)
			}
		})
	}
}

func TestPagesHoldEveryCertificateOnceWhileOthersAreAdded(t *testing.T) {
	t.Parallel()
	db := pgtest.DB(t)
	const n = 5000
	seed(t, db, n)
	var there []store.Certificate
	rows, _ := db.Query(t.Context(), `select id, name, common_name, not_after, created_at, updated_at from certificates where state <> 'archived'`)
	there, err := pgx.CollectRows(rows, pgx.RowToStructByNameLax[store.Certificate])
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	for w := range 2 {
		writers.Go(func() {
			for i := 1; ctx.Err() == nil && i < 10_000; i += 10 {
				if err := add(ctx, db, w+1, i, i+9); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
	}
	forever := time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
	ends := func(c store.Certificate) time.Time {
		if c.NotAfter == nil {
			return forever
		}
		return *c.NotAfter
	}
	orders := map[string]func(a, b store.Certificate) int{
		"created_at":  func(a, b store.Certificate) int { return a.CreatedAt.Compare(b.CreatedAt) },
		"updated_at":  func(a, b store.Certificate) int { return a.UpdatedAt.Compare(b.UpdatedAt) },
		"not_after":   func(a, b store.Certificate) int { return ends(a).Compare(ends(b)) },
		"name":        func(a, b store.Certificate) int { return strings.Compare(a.Name, b.Name) },
		"common_name": func(a, b store.Certificate) int { return strings.Compare(a.CommonName, b.CommonName) },
	}
	for _, sort := range store.CertSorts() {
		t.Run("in the order "+sort, func(t *testing.T) {
			got, err := walk(t.Context(), db, store.CertFilter{}, sort, 250)
			if err != nil {
				t.Fatal(err)
			}
			name, down := strings.CutPrefix(sort, "-")
			order := orders[name]
			compare := func(a, b store.Certificate) int {
				c := order(a, b)
				if c == 0 {
					c = strings.Compare(a.ID, b.ID)
				}
				if down {
					c = -c
				}
				return c
			}
			if !slices.IsSortedFunc(got, compare) {
				t.Error("the certificates are in another order")
			}
			seen := map[string]int{}
			for _, c := range got {
				seen[c.ID]++
			}
			for _, c := range there {
				if seen[c.ID] != 1 {
					t.Fatalf("%s is there %d times", c.ID, seen[c.ID])
				}
			}
		})
	}
	t.Run("of which thousands were created at the same time", func(t *testing.T) {
		at := map[time.Time]int{}
		for _, c := range there {
			at[c.CreatedAt]++
		}
		if most := slices.Max(slices.Collect(maps.Values(at))); most < 2000 {
			t.Errorf("%d were", most)
		}
	})
	stop()
	writers.Wait()
	var now int
	if err := db.QueryRow(t.Context(), `select count(*) from certificates`).Scan(&now); err != nil || now <= n {
		t.Errorf("there are %d certificates: none was added (%v)", now, err)
	}
}

func TestListRefusesWhatItCannotRead(t *testing.T) {
	t.Parallel()
	tx := pgtest.Tx(t)
	seed(t, tx, 30)
	_, next, err := store.Certificates(t.Context(), tx, store.CertFilter{}, store.CertPage{Limit: 5})
	if err != nil || next == "" {
		t.Fatalf("no next page (%v)", err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(next)
	if err != nil {
		t.Fatal(err)
	}
	encoded := func(v string) string { return base64.RawURLEncoding.EncodeToString([]byte(v)) }
	for _, c := range []struct {
		name   string
		filter store.CertFilter
		page   store.CertPage
		field  string
	}{
		{"a cursor of another order", store.CertFilter{}, store.CertPage{Sort: "name", After: next}, "query.after"},
		{"a cursor of the same order upside down", store.CertFilter{}, store.CertPage{Sort: "created_at", After: next}, "query.after"},
		{"a cursor that is cut short", store.CertFilter{}, store.CertPage{After: next[:len(next)-3]}, "query.after"},
		{"a cursor with a letter too many", store.CertFilter{}, store.CertPage{After: next + "A"}, "query.after"},
		{"a cursor that is no base64", store.CertFilter{}, store.CertPage{After: "***"}, "query.after"},
		{"a cursor that is no JSON", store.CertFilter{}, store.CertPage{After: encoded("x")}, "query.after"},
		{"a cursor without an id", store.CertFilter{}, store.CertPage{After: encoded(`{"s":"-created_at","v":"2020-01-01T00:00:00Z"}`)}, "query.after"},
		{"a cursor with another time", store.CertFilter{}, store.CertPage{After: encoded(strings.Replace(string(raw), `"v":"2`, `"v":"x`, 1))}, "query.after"},
		{"a cursor whose id cannot be stored", store.CertFilter{}, store.CertPage{After: encoded(`{"s":"-created_at","v":"2020-01-01T00:00:00Z","i":"\u0000"}`)}, ""},
		{"an order that is none", store.CertFilter{}, store.CertPage{Sort: "serial"}, "query.sort"},
		{"a state that is none", store.CertFilter{States: []string{"lost"}}, store.CertPage{}, "query.state"},
		{"a serial number that is none", store.CertFilter{Serial: "xyz"}, store.CertPage{}, "query.serial"},
		{"a name that is none", store.CertFilter{SAN: "a b"}, store.CertPage{}, "query.san"},
		{"a fingerprint that is too short", store.CertFilter{Fingerprint: "abcd"}, store.CertPage{}, "query.fingerprint"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.page.Limit = 5
			sub, err := tx.Begin(t.Context()) // a refusal of the database ends the transaction
			if err != nil {
				t.Fatal(err)
			}
			defer sub.Rollback(t.Context())
			_, _, err = store.Certificates(t.Context(), sub, c.filter, c.page)
			if fault.Of(err) != fault.Invalid || !strings.Contains(fault.Shown(err), c.field) {
				t.Errorf("it says %v", err)
			}
		})
	}
	t.Run("a cursor beyond the last is the end", func(t *testing.T) {
		page, next, err := store.Certificates(t.Context(), tx, store.CertFilter{}, store.CertPage{Limit: 5, After: encoded(`{"s":"-created_at","v":"1990-01-01T00:00:00Z","i":"x"}`)})
		if err != nil || len(page) != 0 || next != "" {
			t.Errorf("it holds %d, then %q (%v)", len(page), next, err)
		}
	})
}

// explained is a Q that has the plan of each statement first, of that statement
// with those arguments.
type explained struct {
	*pgxpool.Conn
	t    testing.TB
	scan map[string]bool // the tables that a plan reads from their beginning to their end
	read float64         // rows of certificates that it looks at
}

type plan struct {
	Node     string  `json:"Node Type"`
	Relation string  `json:"Relation Name"`
	Rows     float64 `json:"Actual Rows"`
	Loops    float64 `json:"Actual Loops"`
	Removed  float64 `json:"Rows Removed by Filter"`
	Plans    []plan
}

func (e *explained) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	var top []struct{ Plan plan }
	if err := e.Conn.QueryRow(ctx, "explain (analyze, format json) "+sql, args...).Scan(&top); err != nil {
		e.t.Fatal(err)
	}
	var look func(plan)
	look = func(p plan) {
		if p.Node == "Seq Scan" {
			e.scan[p.Relation] = true
		}
		if p.Relation == "certificates" {
			e.read += p.Loops * (p.Rows + p.Removed)
		}
		for _, sub := range p.Plans {
			look(sub)
		}
	}
	look(top[0].Plan)
	return e.Conn.Query(ctx, sql, args...)
}

// singles are filters that name one thing each, as the beginnings of names or
// times that few, many or none have.
func singles() map[string]store.CertFilter {
	now := time.Now()
	return map[string]store.CertFilter{
		"no filter":           {},
		"active":              {States: []string{"active"}},
		"archived":            {States: []string{"archived"}},
		"no held ones":        {States: []string{"held"}},
		"two states":          {States: []string{"pending", "expired"}},
		"environment":         {Environment: "prod"},
		"no environment":      {Environment: "nowhere"},
		"owner":               {OwnerID: "own_1"},
		"team":                {TeamID: "tm_1"},
		"no team":             {TeamID: "tm_9"},
		"issuer":              {IssuerID: "iss_1"},
		"profile":             {ProfileID: "pro_1"},
		"policy":              {PolicyID: "pol_1"},
		"a tag of a few":      {Tags: map[string]string{"app": "app-7"}},
		"a tag of one":        {Tags: map[string]string{"n": "77"}},
		"two tags":            {Tags: map[string]string{"app": "app-7", "n": "107"}},
		"names of all":        {NamePrefix: "name-"},
		"names of a few":      {NamePrefix: "name-00-0000001"},
		"common name":         {CommonName: "host-7.example"},
		"a name of a few":     {SAN: "host-7.example"},
		"a name of one":       {SAN: "dns:only-77.example"},
		"serial":              {Serial: "100000000077"},
		"fingerprint":         {Fingerprint: strings.Repeat("ab", 32)},
		"ends soon":           {ExpiresBefore: now.AddDate(0, 0, 1)},
		"ends some time":      {ExpiresBefore: now.AddDate(1, 0, 0)},
		"ends late":           {ExpiresAfter: now.AddDate(0, 0, 80)},
		"ends not now":        {ExpiresAfter: now},
		"created long ago":    {CreatedBefore: now.AddDate(0, 0, -20)},
		"created before now":  {CreatedBefore: now},
		"created after now":   {CreatedAfter: now},
		"created this month":  {CreatedAfter: now.AddDate(0, 0, -20)},
		"updated just now":    {UpdatedAfter: now},
		"updated this decade": {UpdatedAfter: now.AddDate(-10, 0, 0)},
	}
}

// A list that reads the whole table is as slow as the table is long.
func TestNoListReadsTheWholeTable(t *testing.T) {
	t.Parallel()
	db := pgtest.DB(t)
	const n = 10_000
	seed(t, db, n)
	if _, err := db.Exec(t.Context(), `vacuum analyze`); err != nil {
		t.Fatal(err)
	}
	conn, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	q := &explained{Conn: conn, t: t}
	whole := func(t *testing.T, f store.CertFilter, p store.CertPage) (next string) {
		t.Helper()
		q.scan, q.read = map[string]bool{}, 0
		page, next, err := store.Certificates(t.Context(), q, f, p)
		if err != nil {
			t.Fatal(err)
		}
		if q.scan["certificates"] || q.scan["certificate_versions"] {
			t.Errorf("%+v %+v reads all of %v", f, p, slices.Collect(maps.Keys(q.scan)))
		}
		// Of how many have a tag, PostgreSQL knows little.
		if next == "" && p.After == "" && len(page) <= n/100 && f.Tags == nil && q.read > n/10 {
			t.Errorf("%+v %+v looks at %.0f certificates to find %d", f, p, q.read, len(page))
		}
		return next
	}
	for name, f := range singles() {
		t.Run(name, func(t *testing.T) {
			for _, sort := range store.CertSorts() {
				if next := whole(t, f, store.CertPage{Sort: sort, Limit: 100}); next != "" {
					whole(t, f, store.CertPage{Sort: sort, Limit: 100, After: next})
				}
			}
			whole(t, f, store.CertPage{Limit: 1})
			whole(t, f, store.CertPage{Limit: 500})
		})
	}
	t.Run("however often it was asked for", func(t *testing.T) {
		for range 12 { // PostgreSQL plans a prepared statement for any arguments after five times
			whole(t, store.CertFilter{OwnerID: "own_1"}, store.CertPage{Limit: 100})
			whole(t, store.CertFilter{Serial: "100000000077"}, store.CertPage{Limit: 100})
		}
	})
	t.Run("one certificate", func(t *testing.T) {
		q.scan = map[string]bool{}
		if _, err := store.CertificateByID(t.Context(), q, "crt_00000000077"); err != nil || q.scan["certificates"] {
			t.Errorf("it reads all of the table: %v (%v)", q.scan, err)
		}
	})
	t.Run("a scan would be seen", func(t *testing.T) {
		q.scan = map[string]bool{}
		rows, _ := q.Query(t.Context(), `select id from certificates where csr = '\x30'`)
		rows.Close()
		if !q.scan["certificates"] {
			t.Error("it was not")
		}
	})
}

func BenchmarkCertificates(b *testing.B) {
	db := pgtest.DB(b)
	seed(b, db, 10_000)
	if _, err := db.Exec(b.Context(), `vacuum analyze`); err != nil {
		b.Fatal(err)
	}
	for name, f := range map[string]store.CertFilter{
		"list":          {},
		"list/owner":    {OwnerID: "own_1"},
		"list/tag":      {Tags: map[string]string{"app": "app-7"}},
		"list/serial":   {Serial: "100000000077"},
		"list/expiring": {ExpiresBefore: time.Now().AddDate(0, 0, 30)},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, _, err := store.Certificates(b.Context(), db, f, store.CertPage{Limit: 100}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("get", func(b *testing.B) {
		for b.Loop() {
			if _, err := store.CertificateByID(b.Context(), db, "crt_00000000077"); err != nil {
				b.Fatal(err)
			}
		}
	})
}
