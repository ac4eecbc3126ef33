package lab_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"certctl/evidence/lab"
	"certctl/server/api"
	"certctl/server/audit"
	"certctl/server/client"
	"certctl/server/config"
	"certctl/server/job"
	"certctl/server/pg/pgtest"
)

// dueCertificates is how many certificates are due at once.
const dueCertificates = 1000

// renewing are settings under which replicas look for work all the time, and a
// killed one's jobs are soon the others'.
var renewing = map[string]string{
	config.RenewalCheckEvery.Name: "20ms",
	config.JobProcessorEvery.Name: "50ms",
	config.JobRetryEvery.Name:     "100ms",
	config.JobTimeoutEvery.Name:   "100ms",
	config.JobLease.Name:          "1s",
	config.LeaseTTL.Name:          leaseTTL.String(),
}

// Each certificate that is due is renewed once, by one job, on any number of
// replicas, whichever of them is killed.
func TestEachDueCertificateIsRenewedOnce(t *testing.T) {
	r := laboratory(t)
	for _, tt := range []struct{ replicas, kills int }{{2, 0}, {3, 0}, {2, 5}, {3, 5}} {
		t.Run(fmt.Sprintf("%d replicas of which one is killed %d times", tt.replicas, tt.kills), func(t *testing.T) {
			r := r.on(t)
			for range tt.replicas {
				r.run(renewing)
			}
			r.issue(dueCertificates)
			r.exec(`update certificates set renew_at = clock_timestamp()`)
			for range tt.kills {
				at := ask[int64](t, r.pool, `select count(*) from certificate_versions where number > 1`) + rand.Int64N(60)
				pgtest.Eventually(t, "renewals go on", func() bool {
					return ask[int64](t, r.pool, `select count(*) from certificate_versions where number > 1`) >= min(at, dueCertificates)
				})
				r.kill()
				r.run(renewing)
			}
			r.settle()
			r.renewed(dueCertificates)
		})
	}
}

// The same certificates, without the constraint that keeps a second job away:
// the replicas do queue some twice. What this finds is what the constraint is for.
func TestWithoutTheConstraintSomeAreQueuedTwice(t *testing.T) {
	r := laboratory(t).on(t)
	for range 3 {
		r.run(renewing)
	}
	r.exec(`drop index jobs_one_open_issuance_per_certificate`)
	r.issue(dueCertificates)
	pgtest.Eventually(t, "a certificate has two renewals", func() bool {
		r.exec(`update certificates set renew_at = clock_timestamp()`)
		return ask[bool](t, r.pool, `
			select exists (
				select from jobs a join jobs b on a.certificate_id = b.certificate_id and a.id < b.id
				where a.kind = $1 and b.kind = $1
				  and tstzrange(a.created_at, a.finished_at) && tstzrange(b.created_at, b.finished_at))`, job.Renew.Name)
	})
}

// issue has n certificates issued, in batches.
func (r *replicas) issue(n int) {
	r.t.Helper()
	c := r.admin()
	request, err := lab.Estate(r.t.Context(), c, "renewals", map[string]any{"common_name": "Root of the renewals"})
	if err != nil {
		r.t.Fatal(err)
	}
	const batch = 250
	for from := 0; from < n; from += batch {
		in := &api.NewCertificates{}
		for i := from; i < min(from+batch, n); i++ {
			request.Name = fmt.Sprintf("due %d", i)
			request.SANs = []string{fmt.Sprintf("due-%d.example.com", i)}
			in.Body.Requests = append(in.Body.Requests, request)
		}
		out, err := client.Do(r.t.Context(), c, api.IssueCertificates, in)
		if err != nil || out.Issued != len(in.Body.Requests) {
			r.t.Fatalf("%d of %d were issued (%v): %+v", out.Issued, len(in.Body.Requests), err, out.Items[0])
		}
	}
}

// settle waits until no job is open.
func (r *replicas) settle() {
	r.t.Helper()
	pgtest.Eventually(r.t, "every renewal has come to its end", func() bool {
		return ask[bool](r.t, r.pool, `
			select not exists (select from jobs where state in ('pending', 'running', 'failed'))
			   and not exists (select from certificates where renew_at <= clock_timestamp())`)
	})
}

// renewed says that n certificates were renewed, each once, and that all that was
// issued is on record.
func (r *replicas) renewed(n int64) {
	r.t.Helper()
	for _, tt := range []struct {
		what, sql string
		want      int64
	}{
		{"jobs to renew", `select count(*) from jobs where kind = '` + job.Renew.Name + `'`, n},
		{"of them done", `select count(*) from jobs where kind = '` + job.Renew.Name + `' and state = 'done'`, n},
		{"second versions", `select count(*) from certificate_versions where number = 2`, n},
		{"later versions", `select count(*) from certificate_versions where number > 2`, 0},
		{"certificates whose current version is the second", `select count(*) from certificates where version = 2 and state = 'active'`, n},
		{"events of an issuance", `select count(*) from audit_events where action = '` + audit.CertIssued.Name + `'`, 2 * n},
		{"versions without their event", `
			select count(*) from certificate_versions v where not exists (
				select from audit_events e where e.action = '` + audit.CertIssued.Name + `' and e.resource_id = v.certificate_id
				  and e.details->>'serial' = v.serial)`, 0},
	} {
		if got := ask[int64](r.t, r.pool, tt.sql); got != tt.want {
			r.t.Errorf("%d %s, want %d", got, tt.what, tt.want)
		}
	}
}
