package app_test

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"certctl/server/api"
	"certctl/server/client"
	"certctl/server/pg/pgtest"
	"certctl/server/schedule"
	"certctl/server/store"
)

// BenchmarkCertificates measures one caller after another at a server that has
// 10,000 certificates, through HTTPS and on a real PostgreSQL. Beside the time it
// reports, of each call, the 99th percentile, the statements, how often the server
// waits for the database, and the processor time of the database's sessions.
func BenchmarkCertificates(b *testing.B) {
	e := newEstate(b, 10_000)
	page := &api.CertificateQuery{Limit: 100}
	b.Run("list", func(b *testing.B) {
		e.measure(b, func() error { return errorOf(client.Do(b.Context(), e.Client, api.ListCertificates, page)) })
	})
	b.Run("get", func(b *testing.B) {
		e.measure(b, func() error {
			return errorOf(client.Do(b.Context(), e.Client, api.GetCertificate, &api.OneCertificate{ID: e.next()}))
		})
	})
	b.Run("create", func(b *testing.B) {
		e.measure(b, func() error {
			return errorOf(client.Do(b.Context(), e.Client, api.IssueCertificate, &api.NewCertificate{Body: e.ask("")}))
		})
	})
	b.Run("create from a CSR", func(b *testing.B) {
		e.measure(b, func() error {
			return errorOf(client.Do(b.Context(), e.Client, api.IssueCertificate, &api.NewCertificate{Body: e.ask(testCSR())}))
		})
	})
	b.Run("create 100 at once", func(b *testing.B) {
		e.measure(b, func() error { return e.create(b, 100) })
	})
	b.Run("renew", e.renew)
	b.Run("revoke", func(b *testing.B) {
		e.measure(b, func() error {
			return errorOf(client.Do(b.Context(), e.Client, api.RevokeCertificate, &api.NewRevocation{OneCertificate: api.OneToRelease{ID: e.next()}}))
		})
	})
}

func errorOf[T any](_ T, err error) error { return err }

// measured is a server with many certificates.
type measured struct {
	*replica
	db      *pgxpool.Pool // not through the wire
	request api.CertificateRequest
	count   int
	ids     []string
	at      int
}

func newEstate(b *testing.B, n int) *measured {
	b.Helper()
	url := pgtest.URL(b)
	e := &measured{db: pgtest.Pool(b, url), replica: start(b, url, "measured")}
	e.administrate(b)
	owner, policy, profile, issuer := &api.NewOwner{}, &api.NewPolicy{}, &api.NewProfile{}, &api.NewIssuer{}
	owner.Body.Name, policy.Body.Name, profile.Body.Name = "somebody", "monthly", "servers"
	issuer.Body.Name, issuer.Body.Type, issuer.Body.Settings = "root", "local", []byte(`{"common_name": "Root of the benchmarks"}`)
	must(client.Do(b.Context(), e.Client, api.CreateOwner, owner))(b)
	must(client.Do(b.Context(), e.Client, api.CreatePolicy, policy))(b)
	must(client.Do(b.Context(), e.Client, api.CreateProfile, profile))(b)
	must(client.Do(b.Context(), e.Client, api.CreateIssuer, issuer))(b)
	e.request = api.CertificateRequest{Refs: store.Refs{OwnerID: "somebody", PolicyID: "monthly", ProfileID: "servers", IssuerID: "root"}}
	for range n / 500 {
		if err := e.create(b, 500); err != nil {
			b.Fatal(err)
		}
	}
	// Planned for what is there, as after autovacuum has come by.
	must(e.db.Exec(b.Context(), `vacuum analyze`))(b)
	rows, _ := e.db.Query(b.Context(), `select id from certificates order by hashtext(id)`)
	e.ids = must(pgx.CollectRows(rows, pgx.RowTo[string]))(b)
	return e
}

func (e *measured) ask(csr string) api.CertificateRequest {
	e.count++
	r := e.request
	r.Name, r.CSR = fmt.Sprintf("certificate %d", e.count), csr
	if csr == "" {
		r.SANs = []string{fmt.Sprintf("host-%d.example.com", e.count)}
	}
	return r
}

func (e *measured) create(b *testing.B, n int) error {
	in := &api.NewCertificates{}
	for range n {
		in.Body.Requests = append(in.Body.Requests, e.ask(""))
	}
	out, err := client.Do(b.Context(), e.Client, api.IssueCertificates, in)
	if err == nil && out.Issued != n {
		return fmt.Errorf("%d of %d were issued", out.Issued, n)
	}
	return err
}

// next returns another certificate each time.
func (e *measured) next() string {
	e.at++
	return e.ids[e.at%len(e.ids)]
}

// measure runs f as often as it takes.
func (e *measured) measure(b *testing.B, f func() error) {
	for range 10 { // statements are prepared and planned
		if err := f(); err != nil {
			b.Fatal(err)
		}
	}
	var took []time.Duration
	cost := e.cost(b)
	for b.Loop() {
		begin := time.Now()
		if err := f(); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100]), "p99-ns")
	cost(b.N)
}

// renew measures how fast the queue renews what is due, 200 at a time.
func (e *measured) renew(b *testing.B) {
	const many = 200
	cost := e.cost(b)
	for b.Loop() {
		b.StopTimer()
		var due []string
		for range many {
			due = append(due, e.next())
		}
		must(e.db.Exec(b.Context(), `update certificates set renew_at = clock_timestamp() where id = any($1)`, due))(b)
		b.StartTimer()
		for _, loop := range []*schedule.Loop{schedule.RenewalCheck, schedule.JobProcessor} {
			if err := e.pass(b, loop); err != nil {
				b.Fatal(err)
			}
		}
		pgtest.Eventually(b, "all are renewed", func() bool {
			var left bool
			err := e.db.QueryRow(b.Context(), `select exists (select from jobs where state <> 'done')`).Scan(&left)
			return err == nil && !left
		})
	}
	jobs := b.N * many
	var p99 float64
	err := e.db.QueryRow(b.Context(), `
		select percentile_disc(0.99) within group (order by extract(epoch from finished_at - started_at)::float8 * 1e9) from jobs`).Scan(&p99)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.Elapsed())/float64(jobs), "ns/op")
	b.ReportMetric(float64(jobs)/b.Elapsed().Seconds(), "jobs/s")
	b.ReportMetric(p99, "p99-ns") // from the claim to the end
	cost(jobs)
}

// cost begins to count what calls cost the database.
func (e *measured) cost(b *testing.B) func(calls int) {
	statements, trips, cpu := e.wire.statements.Load(), e.wire.trips.Load(), e.sessions(b)
	return func(calls int) {
		n := float64(calls)
		b.ReportMetric(float64(e.wire.statements.Load()-statements)/n, "statements/op")
		b.ReportMetric(float64(e.wire.trips.Load()-trips)/n, "trips/op")
		used, seen := time.Duration(0), false
		for pid, now := range e.sessions(b) {
			used, seen = used+now-cpu[pid], true
		}
		if seen {
			b.ReportMetric(float64(used.Microseconds())/n, "postgres-µs/op")
		}
	}
}

// sessions returns the processor time of each of the server's sessions, and
// none where PostgreSQL does not run beside this process.
func (e *measured) sessions(b *testing.B) map[int]time.Duration {
	b.Helper()
	rows, _ := e.db.Query(b.Context(), `
		select pid from pg_stat_activity where datname = current_database() and application_name = 'certctl ' || $1::text`, e.name)
	used := map[int]time.Duration{}
	for _, pid := range must(pgx.CollectRows(rows, pgx.RowTo[int]))(b) {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if _, after, ok := strings.Cut(string(raw), "(postgres) "); err == nil && ok {
			const utime, stime, tick = 11, 12, 10 * time.Millisecond // of the fields behind the name (proc(5))
			fields := strings.Fields(after)
			user, _ := strconv.Atoi(fields[utime])
			system, _ := strconv.Atoi(fields[stime])
			used[pid] = time.Duration(user+system) * tick
		}
	}
	return used
}
