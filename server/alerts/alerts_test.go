package alerts_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"certctl/server/alerts"
	"certctl/server/audit"
	"certctl/server/connector"
	"certctl/server/fault"
	"certctl/server/notify"
	"certctl/server/outbox"
	"certctl/server/perm"
	"certctl/server/pg"
	"certctl/server/pg/pgtest"
	"certctl/server/seal"
	"certctl/server/store"
)

// pigeon is a channel that a test has in hand.
type pigeon struct {
	sent []notify.Message
	err  error
}

func (p *pigeon) Send(_ context.Context, m notify.Message) error {
	p.sent = append(p.sent, m)
	return p.err
}

func (*pigeon) Test(context.Context) error { return nil }

// loft returns the alerts of a replica whose channels all are p.
func loft(t *testing.T, db *pgxpool.Pool, p *pigeon) (*alerts.Alerts, []byte) {
	t.Helper()
	typ := notify.Declare("pigeon", "Flies.", func(struct{}, connector.Env) (notify.Channel, error) { return p, nil })
	channels := notify.NewRegistry([]notify.Type{typ}, nil)
	box, err := seal.New(seal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	channels.Box = box
	sealed, err := channels.Seal(typ, "chn_1", json.RawMessage(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	return &alerts.Alerts{DB: db, Channels: channels, Every: day, Told: func() {}}, sealed
}

func inTx(db *pgxpool.Pool) func(context.Context, func(pgx.Tx) error) error {
	return func(ctx context.Context, f func(pgx.Tx) error) error { return pg.InTx(ctx, db, f) }
}

func exec(t *testing.T, q pg.Q, sql string, args ...any) {
	t.Helper()
	if _, err := q.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// around are certificates 1 to n, of which each ends as many days from now, and
// a channel that gets the digest.
const around = `
	insert into owners (id, name) values ('own_1', 'Ada');
	insert into issuers (id, name, type, enabled, settings, shown) values ('iss_1', 'root', 'local', true, '', '{}');
	insert into profiles (id, name, enabled, key_algorithms, default_validity_seconds, max_validity_seconds, ext_key_usages, san_kinds,
		dns_patterns, ip_ranges, uri_prefixes, email_domains, max_sans, wildcards, must_staple, short_lived, cab_lints)
	values ('pro_1', 'servers', true, '{}', 3600, 3600, '{}', '{}', '{}', '{}', '{}', '{}', 1, false, false, false, false);
	insert into renewal_policies (id, name, auto_renew, renew_before_seconds, max_retries, retry_every_seconds, attempt_timeout_seconds,
		start_over_after_seconds, alerts) values ('pol_1', 'monthly', true, 60, 1, 1, 1, 60, '[]');
	insert into channels (id, name, type, enabled, digest, settings, shown) values ('chn_1', 'post', 'pigeon', true, true, '', '{}'), ('chn_2', 'other', 'pigeon', true, true, '', '{}'), ('chn_3', 'third', 'pigeon', true, false, '', '{}');
	insert into chains (id, ders) values ('\x01', '{}')`

const certificates = `
	with c as (
		select n, 'crt_' || n as id, '01' || lpad(to_hex(n), 6, '0') as serial, clock_timestamp() - interval '60 days' as begins,
			clock_timestamp() + n * interval '1 day' as ends
		from generate_series(1, $1::int) n
	), v as (
		insert into certificate_versions (certificate_id, number, issuer_id, serial, fingerprint, not_before, not_after, key_algorithm, der, chain_id)
		select id, 1, 'iss_1', serial, sha256(id::bytea), begins, ends, 'ecdsa-p256', '\x30', '\x01' from c
	)
	insert into certificates (id, name, state, common_name, sans, environment, tags, owner_id, issuer_id, profile_id, policy_id, key_algorithm,
		validity_seconds, created_by, version, serial, fingerprint, not_before, not_after)
	select id, 'name ' || n, 'active', '', '{}', '', '{}', 'own_1', 'iss_1', 'pro_1', 'pol_1', 'ecdsa-p256', 3600, 'k', 1, serial, sha256(id::bytea), begins, ends from c`

func TestDigestIsQueuedOncePerPeriodByThreeReplicas(t *testing.T) {
	t.Parallel()
	db := pgtest.DB(t)
	exec(t, db, around)
	exec(t, db, certificates, 40)
	exec(t, db, `
		update certificates set state = 'revoked' where id = 'crt_39';
		insert into revocations (issuer_id, serial, certificate_id, number, reason, revoked_at, not_after, listed, entry)
		values ('iss_1', '01000027', 'crt_39', 1, 1, now() - interval '1 second', now(), true, ''), ('iss_1', '01000026', 'crt_38', 1, 4, now() - interval '9 days', now(), true, '');
		insert into jobs (id, kind, state, certificate_id, args, priority, max_attempts, retry_every, timeout, created_by, finished_at, error)
		values ('job_1', 'renew', 'dead', 'crt_5', '{}', 1, 1, '1s', '1s', 'k', now() - interval '1 second', 'no answer'),
			('job_2', 'renew', 'dead', 'crt_6', '{}', 1, 1, '1s', '1s', 'k', now() - interval '9 days', 'old'),
			('job_3', 'issue', 'dead', 'crt_6', '{}', 1, 1, '1s', '1s', 'k', now() - interval '1 second', 'first');
		insert into notifications (id, once, event, severity, channel_id, data, recipients, state, finished_at, error)
		values ('ntf_1', '1', 'cert.revoked', 'warning', 'chn_3', '{}', '{}', 'dead', now() - interval '1 second', 'nobody there')`)
	var replicas sync.WaitGroup
	for range 3 {
		pool := pgtest.Pool(t, db.Config().ConnString())
		a, _ := loft(t, pool, &pigeon{})
		replicas.Go(func() {
			for range 3 {
				if _, err := a.Digest(t.Context(), inTx(pool)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	replicas.Wait()
	all, err := outbox.List(t.Context(), db, outbox.Filter{Event: outbox.Digest.Name}, 10)
	if err != nil || len(all) != 2 || all[0].ChannelID == all[1].ChannelID {
		t.Fatalf("queued are %+v (%v)", all, err)
	}
	var d store.Digest
	if err := json.Unmarshal(all[0].Data, &d); err != nil {
		t.Fatal(err)
	}
	if !d.First || d.Until.Sub(d.Since) != day {
		t.Errorf("it covers %s to %s, the first of its channel: %t", d.Since, d.Until, d.First)
	}
	if d.States["active"] != 39 || d.States["revoked"] != 1 || d.EndingTotal != 30 || len(d.Ending) != 30 || d.Ending[0].Name != "name 1" || d.Ending[0].Owner != "Ada" || !d.Ending[0].AutoRenew {
		t.Errorf("it counts %v, and %d that end, from %+v", d.States, d.EndingTotal, d.Ending[0])
	}
	if d.FailedTotal != 1 || d.Failed[0] != (store.DigestFailed{ID: "crt_5", Name: "name 5", Error: "no answer"}) ||
		d.RevokedTotal != 1 || d.Revoked[0] != (store.DigestRevoked{ID: "crt_39", Name: "name 39", Reason: 1}) ||
		d.DeadTotal != 1 || d.Dead[0] != (store.DigestUntold{Channel: "third", Count: 1, Error: "nobody there"}) {
		t.Errorf("since the one before it has %+v", d)
	}
	exec(t, db, `update digests set period_start = period_start - interval '1 day'`)
	a, _ := loft(t, db, &pigeon{})
	exec(t, db, `update notifications set once = once || ' of yesterday'`)
	if n, err := a.Digest(t.Context(), inTx(db)); n != 2 || err != nil {
		t.Errorf("in the next period %d are queued (%v)", n, err)
	}
	all, err = outbox.List(t.Context(), db, outbox.Filter{Event: outbox.Digest.Name}, 1)
	if err != nil {
		t.Fatal(err)
	}
	until := d.Until
	d = store.Digest{}
	if err := json.Unmarshal(all[0].Data, &d); err != nil || d.First || !d.Since.Equal(until) || d.RevokedTotal+d.FailedTotal+d.DeadTotal != 0 {
		t.Errorf("the next one begins at %s where the first ended at %s, and has %+v (%v)", d.Since, until, d, err)
	}
}

func TestDigestShowsFiftyRows(t *testing.T) {
	t.Parallel()
	db := pgtest.DB(t)
	exec(t, db, around)
	exec(t, db, certificates, 60)
	exec(t, db, `update certificates set not_after = now() + interval '3 days'`)
	d, err := store.ReadDigest(t.Context(), db, time.Now().Add(-day), time.Now(), alerts.Rows)
	if err != nil || d.EndingTotal != 60 || len(d.Ending) != 50 {
		t.Errorf("it has %d of %d (%v)", len(d.Ending), d.EndingTotal, err)
	}
}

func TestSend(t *testing.T) {
	t.Parallel()
	p := &pigeon{}
	a, sealed := loft(t, nil, p)
	d := &outbox.Delivery{
		ID: "ntf_1", Event: outbox.CertExpired.Name, Severity: outbox.Critical.Name, At: at, Now: at, Data: row(-time.Minute, nil), Recipients: []string{"ada@example.com"},
		ChannelID: "chn_1", ChannelType: "pigeon", ChannelRevision: 1, ChannelSettings: sealed,
	}
	if reply, err := a.Send(t.Context(), d); reply.Wait != 0 || reply.Partly || err != nil {
		t.Fatal(reply, err)
	}
	m := p.sent[0]
	if m.Key != "ntf_1" || m.Event != "cert.expired" || m.Severity != "critical" || !m.At.Equal(at) || !strings.Contains(m.Subject, "has ended") ||
		!strings.Contains(m.Text, "What to do") || !strings.Contains(m.HTML, "<h1") || string(m.Data) != string(d.Data) || len(m.To) != 1 {
		t.Errorf("sent is %+v", m)
	}
	t.Run("a repetition at the same time says the same", func(t *testing.T) {
		if _, err := a.Send(t.Context(), d); err != nil || fmt.Sprint(p.sent[1]) != fmt.Sprint(m) {
			t.Errorf("sent is %+v (%v)", p.sent[1], err)
		}
	})
	t.Run("what a receiver asks for is passed on", func(t *testing.T) {
		p.err = fmt.Errorf("send: %w", &notify.Later{After: time.Hour, Err: fault.New(fault.Unavailable, "too many")})
		if reply, err := a.Send(t.Context(), d); reply.Wait != time.Hour || reply.Partly || fault.Of(err) != fault.Unavailable {
			t.Errorf("%+v, %v", reply, err)
		}
	})
	t.Run("who has it is passed on, both ways", func(t *testing.T) {
		p.err = &notify.Partly{Done: []string{"b@example.com"}, Err: fault.New(fault.Unavailable, "some")}
		again := *d
		again.Delivered = []string{"a@example.com"}
		reply, err := a.Send(t.Context(), &again)
		if !reply.Partly || !slices.Equal(reply.Done, []string{"b@example.com"}) || fault.Of(err) != fault.Unavailable {
			t.Errorf("%+v, %v", reply, err)
		}
		if m := p.sent[len(p.sent)-1]; !slices.Equal(m.Done, again.Delivered) {
			t.Errorf("sent is %+v", m)
		}
	})
	t.Run("a channel that cannot be opened is told nothing", func(t *testing.T) {
		broken := *d
		broken.ChannelID = "chn_2"
		if _, err := a.Send(t.Context(), &broken); !errors.Is(err, seal.ErrOpen) {
			t.Error(err)
		}
	})
}

func TestNotificationsOfTheAPI(t *testing.T) {
	t.Parallel()
	db := pgtest.DB(t)
	exec(t, db, around)
	a, _ := loft(t, db, &pigeon{})
	told := 0
	a.Told = func() { told++ }
	ctx := perm.With(t.Context(), perm.Actor{Kind: perm.ByKey, ID: "k", Name: "somebody"})
	exec(t, db, `
		insert into notifications (id, once, event, severity, channel_id, data, recipients, state, finished_at)
		values ('ntf_1', '1', 'cert.expired', 'critical', 'chn_1', $1::text::jsonb, '{}', 'dead', now()), ('ntf_2', '2', 'cert.lost', 'critical', 'chn_1', '{}', '{}', 'sent', now())`,
		string(row(-time.Minute, nil)))
	page, err := a.List(ctx, &alerts.Query{Limit: 1})
	if err != nil || len(page.Items) != 1 || page.Next == "" {
		t.Errorf("the first page is %+v (%v)", page, err)
	}
	page, err = a.List(ctx, &alerts.Query{Limit: 1, After: page.Next})
	if err != nil || len(page.Items) != 1 || page.Next != "" || page.Items[0].Text != "" {
		t.Errorf("the second page is %+v (%v)", page, err)
	}
	if n, err := a.Get(ctx, &alerts.One{ID: "ntf_1"}); err != nil || !strings.Contains(n.Subject, "has ended") || n.Text == "" || n.Channel != "post" {
		t.Errorf("it is %+v (%v)", n, err)
	}
	if n, err := a.Get(ctx, &alerts.One{ID: "ntf_2"}); err != nil || n.Subject != "cert.lost" {
		t.Errorf("one of another version is %+v (%v)", n, err)
	}
	if _, err := a.Get(ctx, &alerts.One{ID: "none"}); fault.Of(err) != fault.NotFound {
		t.Error(err)
	}
	if n, err := a.Requeue(ctx, &alerts.One{ID: "ntf_1"}); err != nil || n.State != "pending" || told != 1 {
		t.Errorf("it is %+v (%v)", n, err)
	}
	if _, err := a.Requeue(ctx, &alerts.One{ID: "ntf_2"}); fault.Of(err) != fault.Conflict {
		t.Error(err)
	}
	events, err := audit.List(ctx, db, audit.Filter{Action: audit.NotificationRequeued.Name}, audit.Page{Limit: 10})
	if err != nil || len(events) != 1 || events[0].ResourceID != "ntf_1" || events[0].Details["event"] != "cert.expired" {
		t.Errorf("the events are %+v (%v)", events, err)
	}
}

func TestExpiringWakesThisReplica(t *testing.T) {
	t.Parallel()
	db := pgtest.DB(t)
	exec(t, db, around)
	exec(t, db, certificates, 3)
	exec(t, db, `
		update renewal_policies set alerts = '[{"days": 7, "severity": "warning"}]';
		insert into policy_channels (policy_id, channel_id, from_severity) values ('pol_1', 'chn_1', 'warning')`)
	a, _ := loft(t, db, &pigeon{})
	told := 0
	a.Told = func() { told++ }
	for _, want := range []int{3, 0} {
		if n, err := a.Expiring(t.Context()); n != want || err != nil || told != 1 {
			t.Errorf("%d are queued (%v), %d times told", n, err, told)
		}
	}
	n, err := outbox.List(t.Context(), db, outbox.Filter{CertificateID: "crt_2"}, 1)
	if err != nil || len(n) != 1 {
		t.Fatal(err)
	}
	if w, err := alerts.Compose(n[0].Event, n[0].Severity, n[0].CreatedAt, n[0].CreatedAt, n[0].Data); err != nil || !strings.HasPrefix(w.Subject, "Certificate name 2 ends in 47 hours, on ") {
		t.Errorf("what the database tells is composed as %q (%v)", w.Subject, err)
	}
}
