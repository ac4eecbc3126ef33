package app_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
	"pgregory.net/rapid"

	"certctl/server/api"
	"certctl/server/app"
	"certctl/server/cert"
	"certctl/server/client"
	"certctl/server/config"
	"certctl/server/fault"
	"certctl/server/job"
	"certctl/server/metric"
	"certctl/server/pg"
	"certctl/server/pg/pgtest"
	"certctl/server/revocation"
	"certctl/server/schedule"
	"certctl/server/store"
)

// TestLife does what callers, loops, time and crashes can do, in any order and
// at once, on two replicas, and looks at the database after each step for what
// must never be there. -rapid.checks says how many lives it goes through, and
// -rapid.seed which.
func TestLife(t *testing.T) {
	// What failed by chance is not repeated by its file, and slows down the next time.
	defaults := map[string]string{"rapid.checks": "16", "rapid.nofailfile": "true"}
	flag.Visit(func(f *flag.Flag) { delete(defaults, f.Name) })
	for name, value := range defaults {
		f := flag.Lookup(name)
		before := f.Value.String()
		defer func() { _ = f.Value.Set(before) }()
		if err := f.Value.Set(value); err != nil {
			t.Fatal(err)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		on := rapid.Bool().Draw(rt, "enabled")
		steps := rapid.SliceOfN(rapid.Custom(drawStep), 3, 14).Draw(rt, "steps")
		l := begin(scope{t, rt})
		if err := l.enable(0, on); err != nil {
			rt.Fatal(err)
		}
		for i, s := range steps {
			l.step(s)
			l.check(fmt.Sprintf("after the step %d, %v", i+1, s), forbidden)
		}
		l.settle()
		l.check("once nothing is left to do", forbidden, unsettled)
		l.again()
		l.check("once what failed is tried again", forbidden)
		l.settle()
		l.check("in the end", forbidden, unsettled)
	})
}

// scope is the test for as long as one life.
type scope struct {
	testing.TB
	rt *rapid.T
}

func (s scope) Cleanup(f func())  { s.rt.Cleanup(f) }
func (s scope) Fatal(args ...any) { s.Helper(); s.rt.Fatal(args...) }
func (s scope) Error(args ...any) { s.Helper(); s.rt.Error(args...) }
func (s scope) Fatalf(format string, args ...any) {
	s.Helper()
	s.rt.Fatalf(format, args...)
}

func (s scope) Errorf(format string, args ...any) {
	s.Helper()
	s.rt.Errorf(format, args...)
}

// A step is what happens at once, and in the middle of it perhaps a crash.
type step struct {
	Acts []act
	// Crash cuts a replica off from the database when it speaks for this time,
	// until the end of the step; never if 0. After says that the database gets
	// to hear it, and the replica no answer.
	Crash   int
	After   bool
	Replica int
}

// An act is something that one replica is asked for.
type act struct {
	Do      string
	On      int // which certificate, or job
	With    int // what to do exactly
	Replica int
}

func drawStep(t *rapid.T) step {
	s := step{Acts: rapid.SliceOfN(rapid.Custom(drawAct), 1, 5).Draw(t, "acts")}
	if rapid.IntRange(0, 3).Draw(t, "crashes") == 3 {
		s.Crash = rapid.IntRange(1, 20).Draw(t, "crash")
		s.After = rapid.Bool().Draw(t, "after")
		s.Replica = rapid.IntRange(0, 1).Draw(t, "crashed")
	}
	return s
}

func drawAct(t *rapid.T) act {
	return act{
		Do:      rapid.SampledFrom(doings).Draw(t, "do"),
		On:      rapid.IntRange(0, 5).Draw(t, "on"),
		With:    rapid.IntRange(0, 11).Draw(t, "with"),
		Replica: rapid.IntRange(0, 1).Draw(t, "replica"),
	}
}

// life is a database with its replicas, and what callers have got of them.
type life struct {
	scope
	db       *pgxpool.Pool // not through the ways that crash
	replicas []*replica
	request  api.CertificateRequest
	owners   []string
	policies []string
	profile  string
	issuer   string

	mu         sync.Mutex
	count      int
	got        [][]byte       // certificates that callers got, in DER
	downloaded map[string]int // how often a key was handed out, by certificate and version
	answers    map[string]string
	failures   []string
}

func begin(s scope) *life {
	s.Helper()
	url := pgtest.URL(s)
	l := &life{scope: s, db: pgtest.Pool(s, url), downloaded: map[string]int{}, answers: map[string]string{}}
	if _, err := l.db.Exec(l.Context(), watch); err != nil {
		l.Fatal(err)
	}
	for i := range 2 {
		l.replicas = append(l.replicas, start(l, url, fmt.Sprintf("replica-%d", i)))
	}
	l.replicas[0].administrate(l)
	l.replicas[1].Client = l.replicas[1].With(l.replicas[0].Key)
	l.populate()
	return l
}

// populate makes what certificates belong to, and some of them.
func (l *life) populate() {
	c := l.replicas[0].Client
	for i, name := range []string{"first", "second"} {
		owner := &api.NewOwner{}
		owner.Body.Name = name
		l.owners = append(l.owners, must(client.Do(l.Context(), c, api.CreateOwner, owner))(l).ID)
		policy := &api.NewPolicy{}
		retries, every, wait := i, int64(1), int64(60)
		policy.Body.Name, policy.Body.MaxRetries, policy.Body.RetryEverySeconds, policy.Body.StartOverAfterSeconds = name, &retries, &every, &wait
		l.policies = append(l.policies, must(client.Do(l.Context(), c, api.CreatePolicy, policy))(l).ID)
	}
	profile := &api.NewProfile{}
	profile.Body.Name = "servers"
	l.profile = must(client.Do(l.Context(), c, api.CreateProfile, profile))(l).ID
	issuer := &api.NewIssuer{}
	issuer.Body.Name, issuer.Body.Type, issuer.Body.Settings = "root", "local", []byte(`{"common_name": "Root of a life"}`)
	l.issuer = must(client.Do(l.Context(), c, api.CreateIssuer, issuer))(l).ID
	l.request = api.CertificateRequest{Refs: store.Refs{
		OwnerID: l.owners[0], PolicyID: l.policies[0], ProfileID: l.profile, IssuerID: l.issuer,
	}}
	if err := acts["create many"](l, act{}); err != nil {
		l.Fatal(err)
	}
}

// must returns what ends the test if there is an error.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// step does what the step says, and waits for the answers.
func (l *life) step(s step) {
	if s.Crash > 0 {
		l.replicas[s.Replica].wire.crash(s.Crash, s.After)
	}
	var wg sync.WaitGroup
	for _, a := range s.Acts {
		wg.Go(func() {
			// A crash may take the answer, but never turns it into a lie.
			if err := acts[a.Do](l, a); err != nil && (s.Crash == 0 || fault.Of(err) == fault.Internal && isAnswer(err)) {
				l.fail("%v: %v", a, err)
			}
		})
	}
	wg.Wait()
	for _, r := range l.replicas {
		r.wire.restore()
	}
}

// isAnswer reports whether a replica gave the error, rather than nobody.
func isAnswer(err error) bool {
	_, ok := errors.AsType[*fault.Error](err)
	return ok
}

func (l *life) fail(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures = append(l.failures, fmt.Sprintf(format, args...))
}

// expected takes what an act may be answered with besides success.
func expected(err error) error {
	switch fault.Of(err) {
	case fault.Conflict, fault.Invalid, fault.NotFound, fault.Gone, fault.Unavailable:
		return nil
	}
	return err
}

// settle lets everything come to its end, be it a failure.
func (l *life) settle() {
	r := l.replicas[0]
	pass := func(loops ...*schedule.Loop) bool {
		for _, loop := range loops {
			err := r.pass(l, loop)
			if err != nil && r.wire.cuts.Load() == 0 {
				l.Fatal(err)
			}
			if err != nil {
				return false
			}
		}
		return true
	}
	pgtest.Eventually(l, "everything comes to its end", func() bool {
		l.exec(`update jobs set run_at = clock_timestamp() where state in ('failed', 'pending')`)
		l.exec(`update crls set due_at = clock_timestamp() where error <> ''`)
		var open int
		return pass(schedule.ShortLivedExpiryCheck, schedule.RenewalCheck, schedule.JobTimeout, schedule.JobRetry, schedule.JobProcessor) &&
			l.db.QueryRow(l.Context(), `select count(*) from jobs where state in ('pending', 'running', 'failed')`).Scan(&open) == nil &&
			open == 0 && pass(schedule.ShortLivedExpiryCheck, schedule.CRLGeneration) // with nobody's locks in their way
	})
}

// again has the issuer sign, and gives every job that failed for good another
// chance.
func (l *life) again() {
	pgtest.Eventually(l, "the issuer is enabled", func() bool { return l.enable(0, true) == nil })
	rows, _ := l.db.Query(l.Context(), `select id from jobs where state = 'dead'`)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, id := range ids {
		if err == nil {
			_, err = client.Do(l.Context(), l.replicas[0].Client, api.RetryJob, &api.OneJob{ID: id})
			err = expected(err)
		}
	}
	if err != nil {
		l.Fatal(err)
	}
}

func (l *life) exec(sql string, args ...any) {
	if _, err := l.db.Exec(l.Context(), sql, args...); err != nil {
		l.fail("%s: %v", sql, err)
	}
}

// id returns the id of one of the rows that a statement selects, and false if
// there is none.
func (l *life) id(n int, sql string) (string, bool) {
	rows, _ := l.db.Query(l.Context(), sql)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		l.fail("%v", err)
	}
	if len(ids) == 0 {
		return "", false
	}
	return ids[n%len(ids)], true
}

// on returns the certificate that an act is on.
func (l *life) on(a act) string {
	id, _ := l.id(a.On, `select id from certificates order by created_at, id`)
	return id
}

// keep takes what a caller got.
func (l *life) keep(text string) {
	if text == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	block, _ := pem.Decode([]byte(text))
	l.got = append(l.got, block.Bytes)
}

// ask is a request for another certificate.
func (l *life) ask() api.CertificateRequest {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count++
	r := l.request
	r.Name, r.SANs = fmt.Sprintf("certificate %d", l.count), []string{"a.example.com"}
	r.PolicyID = l.policies[l.count%2]
	return r
}

// doings are the names of the acts.
var doings = slices.Sorted(maps.Keys(acts))

var acts = map[string]func(*life, act) error{
	"create": func(l *life, a act) error {
		in := &api.NewCertificate{Body: l.ask()}
		in.Body.Queued = a.With%3 == 0
		if a.With%2 == 0 {
			in.Body.CSR, in.Body.SANs = testCSR(), nil
		}
		return l.create(a, in)
	},
	"create many": func(l *life, a act) error {
		in := &api.NewCertificates{}
		for i := range 4 {
			in.Body.Requests = append(in.Body.Requests, l.ask())
			in.Body.Requests[i].Queued = i == 3
		}
		in.Body.Requests[1].CSR, in.Body.Requests[1].SANs = testCSR(), nil
		in.Body.Requests[2].Name = in.Body.Requests[0].Name
		out, err := client.Do(l.Context(), l.replicas[a.Replica].Client, api.IssueCertificates, in)
		for _, o := range out.Items {
			if o.Created != nil {
				l.keep(o.Created.CertificatePEM)
			}
		}
		return expected(err)
	},
	// Both replicas are asked for the same at once, and then one of them.
	"create twice": func(l *life, a act) error {
		in := &api.NewCertificate{Body: l.ask()}
		in.IdempotencyKey = fmt.Sprintf("key %d", a.With%3)
		in.Body.Name = in.IdempotencyKey
		in.Body.PolicyID = l.policies[0]
		errs := make(chan error, 2)
		for i := range 2 {
			go func() { errs <- l.create(act{Replica: i}, in) }()
		}
		return errors.Join(<-errs, <-errs, l.create(a, in))
	},
	"renew": func(l *life, a act) error {
		_, err := client.Do(l.Context(), l.replicas[a.Replica].Client, api.RenewCertificate, &api.OneToRenew{ID: l.on(a)})
		return expected(err)
	},
	"revoke": func(l *life, a act) error {
		in := l.revocation(a)
		_, err := client.Do(l.Context(), l.replicas[a.Replica].Client, api.RevokeCertificate, in)
		return expected(err)
	},
	"revoke a version": func(l *life, a act) error {
		in := l.revocation(a)
		in.Body.Serial, _ = l.id(a.With, `select serial from certificate_versions where certificate_id = '`+in.ID+`' order by number desc`)
		_, err := client.Do(l.Context(), l.replicas[a.Replica].Client, api.RevokeCertificate, in)
		return expected(err)
	},
	"release": func(l *life, a act) error {
		id, ok := l.id(a.On, `select id from certificates where state = 'held' order by id`)
		if !ok {
			id = l.on(a)
		}
		_, err := client.Do(l.Context(), l.replicas[a.Replica].Client, api.ReleaseCertificate, &api.OneToRelease{ID: id})
		return expected(err)
	},
	"archive": func(l *life, a act) error {
		_, err := client.Do(l.Context(), l.replicas[a.Replica].Client, api.ArchiveCertificate, &api.OneCertificate{ID: l.on(a)})
		return expected(err)
	},
	"update": func(l *life, a act) error {
		in := &api.CertificateChange{ByID: api.ByID{ID: l.on(a)}}
		name, environment := fmt.Sprintf("renamed %d", a.With), fmt.Sprint(a.With)
		switch a.With % 3 {
		case 0:
			in.Body.Name = &name
		case 1:
			in.Body.Environment = &environment
		case 2:
			in.Body.PolicyID = &l.policies[a.With%2]
		}
		_, err := client.Do(l.Context(), l.replicas[a.Replica].Client, api.UpdateCertificate, in)
		return expected(err)
	},
	"download": func(l *life, a act) error {
		in := &api.KeyDownload{ID: l.on(a)}
		k, err := client.Do(l.Context(), l.replicas[a.Replica].Client, api.DownloadKey, in)
		if err == nil {
			l.keep(k.CertificatePEM)
			l.mu.Lock()
			l.downloaded[fmt.Sprintf("%s/%d", in.ID, k.Version)]++
			l.mu.Unlock()
		}
		return expected(err)
	},
	"bulk": func(l *life, a act) error {
		in := &api.NewBulk{}
		in.Body.Criteria.IssuerID = l.issuer
		switch a.With % 4 {
		case 0:
			in.Body.Action = "renew"
		case 1:
			in.Body.Action, in.Body.Reason = "revoke", "certificateHold"
		case 2:
			in.Body.Action, in.Body.OwnerID = "reassign", l.owners[a.On%2]
		case 3:
			in.Body.Action, in.Body.Reason, in.Body.Criteria.PolicyID = "revoke", "superseded", l.policies[a.On%2]
		}
		_, err := client.Do(l.Context(), l.replicas[a.Replica].Client, api.StartBulk, in)
		return expected(err)
	},
	"resume": func(l *life, a act) error {
		id, ok := l.id(a.On, `select id from bulk_operations order by finished_at nulls first, id`)
		if !ok {
			return nil
		}
		_, err := client.Do(l.Context(), l.replicas[a.Replica].Client, api.ResumeBulk, &api.OneBulk{ID: id})
		return expected(err)
	},
	"cancel a job": func(l *life, a act) error {
		id, ok := l.id(a.On, `select id from jobs order by finished_at nulls first, kind <> 'issue', id`)
		if !ok {
			return nil
		}
		_, err := client.Do(l.Context(), l.replicas[a.Replica].Client, api.CancelJob, &api.OneJob{ID: id})
		return expected(err)
	},
	"retry a job": func(l *life, a act) error {
		id, ok := l.id(a.On, `select id from jobs where state = 'dead' order by kind, finished_at desc, id`)
		if !ok {
			return nil
		}
		_, err := client.Do(l.Context(), l.replicas[a.Replica].Client, api.RetryJob, &api.OneJob{ID: id})
		return expected(err)
	},
	"disable": func(l *life, a act) error { return expected(l.enable(a.Replica, a.With%3 == 0)) },
	"change a policy": func(l *life, a act) error {
		in := &api.PolicyChange{ByID: api.ByID{ID: l.policies[a.On%2]}}
		on, before := a.With%2 == 0, int64(86400*(1+a.With))
		in.Body.AutoRenew, in.Body.RenewBeforeSeconds = &on, &before
		_, err := client.Do(l.Context(), l.replicas[a.Replica].Client, api.UpdatePolicy, in)
		return expected(err)
	},
	"time comes to renew": func(l *life, a act) error {
		l.exec(`update certificates set renew_at = clock_timestamp() where id = $1 and renew_at is not null`, l.on(a))
		return l.pass(a, schedule.RenewalCheck)
	},
	"time comes to end": func(l *life, a act) error {
		id := l.on(a)
		err := pgx.BeginFunc(l.Context(), l.db, func(tx pgx.Tx) error {
			for _, sql := range []string{
				`select from certificates where id = $1 for no key update`,
				`select $1::text, set_config('session_replication_role', 'replica', true)`, // no trigger, neither theirs nor ours
				`update certificate_versions set not_before = not_before - interval '90 days 1 hour', not_after = not_after - interval '90 days 1 hour'
				 where certificate_id = $1 and not_after > clock_timestamp()`,
				`update revocations r set not_after = v.not_after from certificate_versions v
				 where v.certificate_id = $1 and r.issuer_id = v.issuer_id and r.serial = v.serial`,
				`update certificate_keys k set not_after = v.not_after from certificate_versions v
				 where v.certificate_id = $1 and k.certificate_id = v.certificate_id and k.number = v.number`,
				`update certificates c set not_before = v.not_before, not_after = v.not_after from certificate_versions v
				 where c.id = $1 and v.certificate_id = c.id and v.number = c.version`,
			} {
				if _, err := tx.Exec(l.Context(), sql, id); err != nil {
					return fmt.Errorf("%s: %w", sql, err)
				}
			}
			return nil
		})
		if err != nil || a.With%2 == 0 {
			return expected(pg.Fault(err, "the certificate"))
		}
		return l.pass(a, schedule.ShortLivedExpiryCheck)
	},
	"time comes to retry": func(l *life, a act) error {
		l.exec(`update jobs set run_at = clock_timestamp() where state in ('failed', 'pending')`)
		return l.pass(a, schedule.JobRetry)
	},
	// Whoever does the jobs goes on with them, and has lost them.
	"leases run out": func(l *life, a act) error {
		for range 20 {
			l.exec(`update jobs set leased_until = clock_timestamp() where state = 'running'`)
		}
		return l.pass(a, schedule.JobTimeout)
	},
	"pass": func(l *life, a act) error {
		loops := schedule.All()
		loop := loops[a.With%len(loops)]
		l.exec(`update leases set due_at = 'epoch' where name = $1`, loop.Name)
		return l.pass(a, loop)
	},
}

// pass has the replica do one pass, which may fail once the replica has crashed:
// it finds out late which of its sessions are no more.
func (l *life) pass(a act, loop *schedule.Loop) error {
	r := l.replicas[a.Replica]
	err := r.pass(l, loop)
	if r.wire.cuts.Load() > 0 {
		return nil
	}
	return expected(err)
}

func (l *life) create(a act, in *api.NewCertificate) error {
	l.mu.Lock()
	_, again := l.answers[in.IdempotencyKey]
	l.mu.Unlock()
	out, err := client.Do(l.Context(), l.replicas[a.Replica].Client, api.IssueCertificate, in)
	if again && err != nil && fault.Of(err) == fault.Conflict {
		return fmt.Errorf("%s was answered before, and is refused: %w", in.IdempotencyKey, err)
	}
	if err != nil {
		return expected(err)
	}
	l.keep(out.CertificatePEM)
	if in.IdempotencyKey == "" {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if first, ok := l.answers[in.IdempotencyKey]; ok && first != out.Certificate.ID {
		return fmt.Errorf("%s was answered with %s and with %s", in.IdempotencyKey, first, out.Certificate.ID)
	}
	l.answers[in.IdempotencyKey] = out.Certificate.ID
	return nil
}

func (l *life) revocation(a act) *api.NewRevocation {
	reasons := cert.Reasons()
	in := &api.NewRevocation{}
	in.ID = l.on(a)
	in.Body = &revocation.Why{Reason: reasons[a.With%len(reasons)].Name}
	if a.With%4 == 0 {
		in.Body.Reason = cert.CertificateHold.Name
	}
	return in
}

// enable has the issuer and the profile sign, or not.
func (l *life) enable(replica int, on bool) error {
	issuer := &api.IssuerChange{ByID: api.ByID{ID: l.issuer}}
	issuer.Body.Enabled = &on
	_, err := client.Do(l.Context(), l.replicas[replica].Client, api.UpdateIssuer, issuer)
	profile := &api.ProfileChange{ByID: api.ByID{ID: l.profile}}
	profile.Body.Enabled = &on
	_, other := client.Do(l.Context(), l.replicas[replica].Client, api.UpdateProfile, profile)
	return errors.Join(err, other)
}

// watch keeps each row of what the replicas change as it was and as it became.
const watch = `
	create table life (
		n      bigint generated always as identity primary key,
		what   text not null,
		id     text not null,
		before jsonb,
		after  jsonb not null
	);
	create function life_note() returns trigger language plpgsql as $$
	begin
		insert into life (what, id, before, after) values (
			tg_table_name, to_jsonb(new) ->> tg_argv[0], case when tg_op = 'UPDATE' then to_jsonb(old) end, to_jsonb(new));
		return new;
	end
	$$;
	create trigger life after insert or update on certificates for each row execute function life_note('id');
	create trigger life after insert on certificate_versions for each row execute function life_note('certificate_id');
	create trigger life after insert or update on jobs for each row execute function life_note('id');
	create trigger life after update on crls for each row execute function life_note('issuer_id')`

// An invariant is what no database may hold.
type invariant struct {
	says string
	sql  string // selects what contradicts it, as one text
}

// forbidden holds at any instant.
var forbidden = []invariant{
	{"a certificate moves as its states say", `
		select id || ' from ' || (before ->> 'state') || ' to ' || (after ->> 'state') from life
		where what = 'certificates' and before ->> 'state' <> after ->> 'state'
		  and (before ->> 'state') || ' ' || (after ->> 'state') <> all(@certificate_moves)`},
	{"a certificate begins as pending or active", `
		select id from life where what = 'certificates' and before is null and after ->> 'state' not in ('pending', 'active')`},
	{"a job moves as its states say, and every claim has a token of its own", `
		select id || ' from ' || (before ->> 'state') || ' to ' || (after ->> 'state') from life
		where what = 'jobs' and before ->> 'state' <> after ->> 'state'
		  and ((before ->> 'state') || ' ' || (after ->> 'state') <> all(@job_moves)
			or (after ->> 'state' = 'running') <> ((after ->> 'token')::int = (before ->> 'token')::int + 1))`},
	{"what was issued is in the trail, once, and the other way round", `
		select coalesce(v.certificate_id, e.resource_id) || ' ' || coalesce(v.serial, e.serial) || ' ' || coalesce(e.n, 0)
		from certificate_versions v
		full join (
			select resource_id, details ->> 'version' as version, details ->> 'serial' as serial, details ->> 'issuer' as issuer, count(*) as n
			from audit_events where action = 'cert.issued' group by 1, 2, 3, 4
		) e on e.resource_id = v.certificate_id and e.version = v.number::text and e.serial = v.serial and e.issuer = v.issuer_id
		where v.serial is null or e.n is distinct from 1`},
	{"what a caller got is in the inventory", `
		select encode(f, 'hex') from unnest(@got::bytea[]) f where not exists (select from certificate_versions where fingerprint = f)`},
	{"the versions of a certificate count from one to its own", `
		select c.id from certificates c left join certificate_versions v on v.certificate_id = c.id
		group by c.id having coalesce(c.version, 0) <> count(v.number) or coalesce(max(v.number), 0) <> count(v.number)`},
	{"a certificate repeats its current version", `
		select c.id from certificates c join certificate_versions v on v.certificate_id = c.id and v.number = c.version
		where (c.serial, c.fingerprint, c.not_before, c.not_after) is distinct from (v.serial, v.fingerprint, v.not_before, v.not_after)`},
	{"a version is added only to what may be issued, which it makes active", `
		select id || ' ' || (before ->> 'state') || ' ' || (after ->> 'state') from life
		where what = 'certificates' and before is not null and before ->> 'version' is distinct from after ->> 'version'
		  and (before ->> 'state' not in ('pending', 'active', 'expired') or after ->> 'state' <> 'active')`},
	{"nothing is issued for what is revoked or archived", `
		select v.id from life v join life c on c.id = v.id and c.n < v.n and c.after ->> 'state' in ('revoked', 'archived')
		where v.what = 'certificate_versions' and c.what = 'certificates'`},
	{"one job at a time issues or renews a certificate", `
		select certificate_id from jobs where kind in ('issue', 'renew') and state in ('pending', 'running', 'failed')
		group by 1 having count(*) > 1`},
	{"one job issues one version", `
		select v.job_id from certificate_versions v left join jobs j on j.id = v.job_id
		where v.job_id is not null and (j.state is distinct from 'done' or j.certificate_id <> v.certificate_id)`},
	{"a job that is done has issued", `
		select id from jobs j where kind in ('issue', 'renew') and state = 'done'
		  and not exists (select from certificate_versions v where v.job_id = j.id)`},
	{"what is pending has a job that issues it, and what has failed has none", `
		select c.id || ' is ' || c.state from certificates c
		where c.state in ('pending', 'failed') and (c.state = 'pending') <> exists (
			select from jobs j where j.certificate_id = c.id and j.kind = 'issue' and j.state in ('pending', 'running', 'failed'))`},
	{"the state of a certificate is that of its current version", `
		select c.id || ' is ' || c.state || ', ' || coalesce('revoked for ' || r.reason, 'not revoked')
		from certificates c left join revocations r on r.certificate_id = c.id and r.number = c.version
		where not case c.state
			when 'revoked' then coalesce(r.reason <> 6, false)
			when 'held' then coalesce(r.reason = 6, false)
			when 'expired' then r.reason is null -- what ends on hold stays on hold
			when 'archived' then true
			else r.reason is null end`},
	{"what is revoked is in the trail, once, and the other way round", `
		select coalesce(r.serial, e.serial) || ' for ' || coalesce(r.reason::text, 'nothing') || ': held ' || coalesce(e.held, 0)
			|| ', released ' || coalesce(e.released, 0) || ', revoked ' || coalesce(e.revoked, 0)
		from revocations r
		full join (
			select details ->> 'serial' as serial, details ->> 'issuer' as issuer, resource_id, details ->> 'version' as version,
				count(*) filter (where action = 'cert.held') as held, count(*) filter (where action = 'cert.released') as released,
				count(*) filter (where action = 'cert.revoked') as revoked
			from audit_events where action in ('cert.held', 'cert.released', 'cert.revoked') group by 1, 2, 3, 4
		) e on e.serial = r.serial and e.issuer = r.issuer_id and e.resource_id = r.certificate_id and e.version = r.number::text
		where not coalesce(case
			when r.reason is null then e.held = e.released and e.revoked = 0
			when r.reason = 6 then e.held = e.released + 1 and e.revoked = 0
			else e.held - e.released in (0, 1) and e.revoked = 1 end, false)`},
	{"what is archived is in the trail, once, and the other way round", `
		select coalesce(c.id, e.resource_id) from (select id from certificates where state = 'archived') c
		full join (select resource_id, count(*) as n from audit_events where action = 'cert.archived' group by 1) e on e.resource_id = c.id
		where c.id is null or e.n is distinct from 1`},
	{"what ended is in the trail as often as it ended", `
		select l.id from life l where what = 'certificates' and before ->> 'state' <> 'expired' and after ->> 'state' = 'expired'
		group by l.id having (select count(*) from audit_events where action = 'cert.expired' and resource_id = l.id)
			not between count(*) filter (where before ->> 'state' = 'active') and count(*) -- a release finds it out too`},
	{"a key is kept until it is handed out, which the trail says once, or of no use any more", `
		select v.certificate_id || '/' || v.number || ': kept ' || k.n || ', handed out ' || e.n
		from certificate_versions v join certificates c on c.id = v.certificate_id
		cross join lateral (select count(*) as n from certificate_keys where certificate_id = v.certificate_id and number = v.number) k
		cross join lateral (
			select count(*) as n from audit_events
			where action = 'cert-key.downloaded' and resource_id = v.certificate_id and details ->> 'version' = v.number::text) e
		where case when c.csr is not null then k.n + e.n > 0
			when c.state in ('revoked', 'archived') then k.n > 0 or e.n > 1
			when v.not_after <= clock_timestamp() then k.n + e.n > 1
			else k.n + e.n <> 1 end`},
	{"an action on many is finished when all of them have an outcome, and the trail says once what these are", `
		select o.id from bulk_operations o join jobs j on j.id = o.job_id
		cross join lateral (
			select count(*) filter (where outcome is null) as open, count(*) filter (where outcome = 'done') as done,
				count(*) filter (where outcome = 'skipped') as skipped, count(*) filter (where outcome = 'failed') as failed
			from bulk_items where operation_id = o.id) i
		left join lateral (
			select count(*) as n, max(details ->> 'done') as done, max(details ->> 'skipped') as skipped, max(details ->> 'failed') as failed
			from audit_events where action = 'bulk.finished' and resource_id = o.id) e on true
		where case when o.finished_at is null then j.state = 'done' or e.n > 0
			else j.state <> 'done' or i.open > 0 or e.n <> 1
				or (e.done, e.skipped, e.failed) <> (i.done::text, i.skipped::text, i.failed::text) end`},
	{"what an action on many says it has done is done", `
		select o.id || ' ' || o.action || ' ' || i.certificate_id
		from bulk_operations o join bulk_items i on i.operation_id = o.id
		where i.outcome = 'done' and not case o.action
			when 'renew' then exists (
				select from jobs where certificate_id = i.certificate_id and kind = 'renew' and created_at >= o.created_at)
			else exists (
				select from audit_events where resource_id = i.certificate_id and at >= o.created_at
				and action in ('cert.changed', 'cert.revoked', 'cert.held') and (action = 'cert.changed') = (o.action = 'reassign')) end`},
	{"an action on many chose as many as the trail says", `
		select o.id from bulk_operations o
		where (select count(*)::text from bulk_items where operation_id = o.id) <> (
			select details ->> 'certificates' from audit_events
			where action = 'bulk.started' and resource_id = o.id and not details ? 'resumed')`},
	{"the number of a revocation list grows, and each is in the trail", `
		select id || ' ' || (before ->> 'number') || ' ' || (after ->> 'number') from life l
		where what = 'crls' and before ->> 'der' <> after ->> 'der' and (
			(after ->> 'number')::bigint <= (before ->> 'number')::bigint
			or (select count(*) from audit_events e where action = 'crl.signed' and resource_id = l.id
				and details ->> 'number' = after ->> 'number') <> 1)`},
	{"an idempotency key is of what there is", `
		select key from idempotency_keys where not exists (select from certificates where id = response::jsonb -> 0 ->> 'id')
		  and route = 'create-certificate'`},
	{"what can be renewed is renewed if its policy says so, and nothing else", `
		select c.id || ' is ' || c.state || ', renewed at ' || coalesce(c.renew_at::text, 'no time') || ', policy ' || p.auto_renew
		from certificates c join renewal_policies p on p.id = c.policy_id
		where (c.renew_at is not null) <> (c.state in ('active', 'expired', 'held') and p.auto_renew)`},
	{"a cancelled job issued nothing", `
		select j.id from jobs j join certificate_versions v on v.job_id = j.id where j.state = 'cancelled'`},
}

// unsettled holds once all loops have done what there was.
var unsettled = []invariant{
	{"no job is open", `select id from jobs where state in ('pending', 'running', 'failed')`},
	{"what has ended is not active", `
		select id || ' is ' || state from certificates where state = 'active' and not_after <= clock_timestamp()`},
	{"an action on many has come to its end, unless its job was cancelled or gave up", `
		select o.id || ' ' || j.state from bulk_operations o join jobs j on j.id = o.job_id
		where o.finished_at is null and j.state not in ('cancelled', 'dead')`},
	{"a revocation list has all that is revoked", `
		select c.issuer_id || ' has ' || entries from crls c
		where exists (select from crl_requests)
		   or entries <> (select count(*) from revocations r where r.issuer_id = c.issuer_id and listed)`},
	{"nobody waited for each other in a circle", `
		select deadlocks || ' times' from pg_stat_database where datname = current_database() and deadlocks > 0`},
}

// check looks for what contradicts the invariants.
func (l *life) check(when string, all ...[]invariant) {
	l.Helper()
	b, at := &pgx.Batch{}, time.Now()
	l.mu.Lock()
	var got [][]byte
	for _, der := range l.got {
		sum := sha256.Sum256(der)
		got = append(got, sum[:])
	}
	args := pgx.NamedArgs{"got": got, "certificate_moves": certificateMoves(), "job_moves": jobMoves()}
	for key, n := range l.downloaded {
		if n > 1 {
			l.failures = append(l.failures, fmt.Sprintf("the key of %s was handed out %d times", key, n))
		}
	}
	for _, some := range all {
		for _, i := range some {
			b.Queue(i.sql, args).Query(func(rows pgx.Rows) error {
				found, err := pgx.CollectRows(rows, pgx.RowTo[string])
				if len(found) > 0 {
					l.failures = append(l.failures, i.says+", but: "+strings.Join(found, "; "))
				}
				if err != nil {
					err = fmt.Errorf("%s: %w", i.says, err)
				}
				return err
			})
		}
	}
	err := l.db.SendBatch(l.Context(), b).Close()
	failures := l.failures
	l.mu.Unlock()
	if err != nil {
		l.Fatal(err)
	}
	if len(failures) > 0 {
		l.Fatalf("%s (%s):\n%s", when, time.Since(at).Round(time.Millisecond), strings.Join(failures, "\n"))
	}
}

func certificateMoves() (moves []string) {
	for _, s := range cert.States() {
		for _, to := range s.Moves {
			moves = append(moves, s.Name+" "+to)
		}
	}
	return moves
}

func jobMoves() (moves []string) {
	for _, s := range job.States() {
		for _, to := range s.Moves {
			moves = append(moves, s.Name+" "+to)
		}
	}
	return moves
}

// testCSR is a request for certification, the same each time.
var testCSR = sync.OnceValue(func() string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"a.example.com"}}, key)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
})

// A replica is a server of this process, with its way to the database.
type replica struct {
	*client.Client
	app  *app.App
	name string
	wire *wire
	db   *pgxpool.Pool // the same way
	log  *zap.Logger
}

// start starts a replica whose loops do nothing by themselves, until t ends.
// Only jobs that it queues itself are done at once.
func start(t testing.TB, url, name string) *replica {
	t.Helper()
	r := &replica{name: name, wire: lay(t, url), log: zap.NewNop()}
	r.db = pgtest.Pool(t, r.wire.url)
	v := settings(r.wire.url)
	maps.Copy(v, quietly())
	maps.Copy(v, config.Values{
		config.Replica.Name: name, config.JobLease.Name: time.Second, config.ShutdownTimeout.Name: 5 * time.Second,
	})
	r.app = app.New(v, app.Build{Version: "test"}, r.log)
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan string, 1), make(chan error, 1)
	go func() { done <- r.app.Run(ctx, app.Options{Ready: func(address string) { ready <- address }}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the replica ended with %v", err)
		}
	})
	select {
	case address := <-ready:
		c := must(client.New(address, "", nil))(t)
		tr := c.HTTP.Transport.(*http.Transport)
		tr.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} // the server's certificate is its own
		t.Cleanup(tr.CloseIdleConnections)
		r.Client = c
	case err := <-done:
		done <- nil
		t.Fatalf("the replica did not start: %v", err)
	}
	return r
}

// administrate gets the replica's client the key of an administrator.
func (r *replica) administrate(t testing.TB) {
	t.Helper()
	in := &api.NewBootstrap{}
	in.Body.Name, in.Body.Token = "administrator", bootstrapToken
	r.Client = r.With(must(client.Do(t.Context(), r.Client, api.Bootstrap, in))(t).Secret)
}

// pass has the replica do one pass of a loop. It returns early if the replica
// is cut off.
func (r *replica) pass(t testing.TB, loop *schedule.Loop) (failed error) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	defer context.AfterFunc(r.wire.alive(), cancel)()
	var bound []schedule.Binding
	for _, b := range r.app.Loops() {
		if b.Loop == loop {
			do := b.Run
			b.Run = func(ctx context.Context, p *schedule.Pass) (int, error) {
				defer cancel()
				n, err := do(ctx, p)
				failed = err
				return n, err
			}
			bound = append(bound, b)
		}
	}
	often := config.Values{loop.Every.Name: 10 * time.Millisecond, config.LeaseTTL.Name: 500 * time.Millisecond}
	runner := &schedule.Runner{DB: r.db, Replica: r.name, Settings: often, Metrics: metric.New(), Log: r.log, Bindings: bound}
	runner.Run(ctx, context.WithoutCancel(ctx))
	if failed != nil {
		return fmt.Errorf("%s: %w", loop.Name, failed)
	}
	return nil
}

// A wire is a way to a database that counts what is said on it, and that can
// be cut.
type wire struct {
	url        string
	trips      atomic.Int64 // how often somebody waited for the database
	statements atomic.Int64 // that were run; those that go as one text count as one
	cuts       atomic.Int64

	mu    sync.Mutex
	conns map[net.Conn]bool
	left  int // until it is cut, if more than 0
	after bool
	life  context.Context // until it is cut
	end   context.CancelFunc
}

func lay(t testing.TB, database string) *wire {
	t.Helper()
	u, to := must(url.Parse(database))(t), must(pgconn.ParseConfig(database))(t)
	network, address := pgconn.NetworkAddress(to.Host, to.Port)
	l := must(new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0"))(t)
	w := &wire{conns: map[net.Conn]bool{}}
	w.restore()
	t.Cleanup(func() { l.Close(); w.cut() })
	q := u.Query()
	q.Del("host")
	q.Del("port")
	q.Set("sslmode", "disable")
	u.Host, u.RawQuery = l.Addr().String(), q.Encode()
	w.url = u.String()
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := new(net.Dialer).DialContext(context.Background(), network, address)
			if err != nil || !w.open(in, out) {
				in.Close()
				continue
			}
			go w.pass(in, out)
		}
	}()
	return w
}

// crash cuts the wire when a client speaks for the nth time from now on: before
// the database gets it, or after.
func (w *wire) crash(n int, after bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left, w.after = n, after
}

// alive is done once the wire is cut.
func (w *wire) alive() context.Context {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.life
}

// restore ends what crash began.
func (w *wire) restore() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left = 0
	if w.life == nil || w.life.Err() != nil {
		w.life, w.end = context.WithCancel(context.Background())
	}
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cuts.Add(1)
	w.end()
	for c := range w.conns {
		c.Close()
	}
	clear(w.conns)
}

// open takes in a connection, unless the wire is cut.
func (w *wire) open(in, out net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.life.Err() != nil {
		out.Close()
		return false
	}
	w.conns[in], w.conns[out] = true, true
	return true
}

// trip counts, and reports whether the wire is to be cut now.
func (w *wire) trip() (now, after bool) {
	w.trips.Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.left > 0 {
		w.left--
		now = w.left == 0
	}
	return now, w.after
}

func (w *wire) pass(in, out net.Conn) {
	var answered atomic.Bool
	answered.Store(true)
	closed := func() {
		in.Close()
		out.Close()
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.conns, in)
		delete(w.conns, out)
	}
	go func() {
		defer closed()
		var f frontend
		buf := make([]byte, 64<<10)
		for {
			n, err := in.Read(buf)
			if err != nil {
				return
			}
			now, after := false, false
			if answered.Swap(false) {
				now, after = w.trip()
			}
			w.statements.Add(f.statements(buf[:n]))
			if now && !after {
				w.cut()
			}
			if _, err := out.Write(buf[:n]); err != nil {
				return
			}
			if now {
				w.cut()
			}
		}
	}()
	defer closed()
	_, _ = io.Copy(in, &noticing{out, &answered}) // one side went away
}

// frontend reads what a client says in PostgreSQL's protocol: messages of a
// type, a length that includes itself, and as much. The first has no type.
type frontend struct {
	begun bool
	head  []byte // of a message, as much as came
	skip  int    // what is left of its body
}

// statements counts those that are run in what the client says next.
func (f *frontend) statements(b []byte) (n int64) {
	for len(b) > 0 {
		k := min(f.skip, len(b))
		b, f.skip = b[k:], f.skip-k
		size := 5
		if !f.begun {
			size = 4
		}
		k = min(size-len(f.head), len(b))
		f.head, b = append(f.head, b[:k]...), b[k:]
		if f.skip > 0 || len(f.head) < size {
			continue
		}
		if f.begun && bytes.IndexByte([]byte("EQ"), f.head[0]) >= 0 {
			n++
		}
		f.skip = int(binary.BigEndian.Uint32(f.head[size-4:])) - 4
		f.begun, f.head = true, f.head[:0]
	}
	return n
}
