package outbox_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"certctl/server/fault"
	"certctl/server/outbox"
	"certctl/server/pg"
	"certctl/server/pg/pgtest"
)

// around are an owner with an address, a policy with warnings and what else a
// certificate needs, and the channels a, b and c: the policy has a for what is
// informational and worse, and b for what is critical.
const around = `
	insert into owners (id, name, email) values ('own_1', 'Ada', 'ada@example.com'), ('own_2', 'Nobody', '');
	insert into issuers (id, name, type, enabled, settings, shown) values ('iss_1', 'root', 'local', true, '', '{}');
	insert into profiles (id, name, enabled, key_algorithms, default_validity_seconds, max_validity_seconds, ext_key_usages, san_kinds,
		dns_patterns, ip_ranges, uri_prefixes, email_domains, max_sans, wildcards, must_staple, short_lived, cab_lints)
	values ('pro_1', 'servers', true, '{}', 3600, 3600, '{}', '{}', '{}', '{}', '{}', '{}', 1, false, false, false, false);
	insert into renewal_policies (id, name, auto_renew, renew_before_seconds, max_retries, retry_every_seconds, attempt_timeout_seconds,
		start_over_after_seconds, alerts)
	values ('pol_1', 'monthly', true, 60, 1, 1, 1, 60,
		'[{"days": 30, "severity": "informational"}, {"days": 14, "severity": "warning"}, {"days": 7, "severity": "warning"},
		  {"days": 1, "severity": "critical"}, {"days": 0, "severity": "critical"}]');
	insert into channels (id, name, type, enabled, digest, settings, shown)
	select 'chn_' || n, n, 'fake', true, false, '', '{}' from unnest(array['a', 'b', 'c']) n;
	insert into policy_channels (policy_id, channel_id, from_severity)
	values ('pol_1', 'chn_a', 'informational'), ('pol_1', 'chn_b', 'critical');
	insert into chains (id, ders) values ('\x01', '{}')`

// certificate inserts an active one whose version began and ends so many days
// from now.
const certificate = `
	with v as (
		insert into certificate_versions (certificate_id, number, issuer_id, serial, fingerprint, not_before, not_after, key_algorithm, der, chain_id)
		values ($1, 1, 'iss_1', '7f' || left(md5($1), 6), sha256($1::bytea), clock_timestamp() + $2::float8 * interval '1 day',
			clock_timestamp() + $3::float8 * interval '1 day', 'ecdsa-p256', '\x30', '\x01')
		returning certificate_id, serial, fingerprint, not_before, not_after
	)
	insert into certificates (id, name, state, common_name, sans, environment, tags, owner_id, issuer_id, profile_id, policy_id, key_algorithm,
		validity_seconds, created_by, version, serial, fingerprint, not_before, not_after)
	select certificate_id, 'name of ' || certificate_id, 'active', '', '{dns:a.example}', '', '{}', 'own_1', 'iss_1', 'pro_1', 'pol_1', 'ecdsa-p256', 3600, 'key-1',
		1, serial, fingerprint, not_before, not_after from v`

func exec(t testing.TB, q pg.Q, sql string, args ...any) {
	t.Helper()
	if _, err := q.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func one[T any](t testing.TB, q pg.Q, sql string, args ...any) (v T) {
	t.Helper()
	if err := q.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func all[T any](t testing.TB, q pg.Q, sql string, args ...any) []T {
	t.Helper()
	rows, _ := q.Query(t.Context(), sql, args...)
	v, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// estate is a database with what is around, and certificates of 90 days that end
// in 60.
func estate(t testing.TB, ids ...string) *pgxpool.Pool {
	t.Helper()
	db := pgtest.DB(t)
	exec(t, db, around)
	for _, id := range ids {
		exec(t, db, certificate, id, -30, 60)
	}
	return db
}

// The rows say which moves there are, and how bad severities are; the database
// agrees.
func TestWordsAreThoseOfTheDatabase(t *testing.T) {
	t.Parallel()
	tx := pgtest.Tx(t)
	for _, from := range outbox.States() {
		for _, to := range outbox.States() {
			want := from == to || slices.Contains(from.Moves, to.Name)
			if got := one[bool](t, tx, `select notification_may_move($1, $2)`, from.Name, to.Name); got != want {
				t.Errorf("from %s to %s: the database says %t", from.Name, to.Name, got)
			}
		}
	}
	for n, s := range outbox.Severities() {
		if got := one[int](t, tx, `select severity_rank($1)`, s.Name); got != n+1 {
			t.Errorf("%s has the rank %d", s.Name, got)
		}
	}
	if got := one[*int](t, tx, `select severity_rank('dire')`); got != nil {
		t.Errorf("a severity that is none has the rank %d", *got)
	}
}

func TestTheDatabaseGuardsMoves(t *testing.T) {
	t.Parallel()
	db := estate(t)
	queue(t, db, "n", "chn_a", 1)
	_, err := db.Exec(t.Context(), `update notifications set state = 'sent', finished_at = now()`)
	if pg.Code(err) != pg.Refused {
		t.Errorf("from pending to sent: %v", err)
	}
	exec(t, db, `update notifications set state = 'sending', token = 3, leased_until = now()`)
	_, err = db.Exec(t.Context(), `update notifications set token = 2`)
	if pg.Code(err) != pg.Refused {
		t.Errorf("a token that goes back: %v", err)
	}
}

func TestTellIsForTheChannelsOfThePolicy(t *testing.T) {
	t.Parallel()
	db := estate(t, "crt_1", "crt_2")
	exec(t, db, `update certificates set owner_id = 'own_2' where id = 'crt_2'`)
	tell := func(severity *outbox.Severity, once string, ids ...string) int {
		t.Helper()
		var happened []outbox.Occasion
		for _, id := range ids {
			happened = append(happened, outbox.Occasion{
				CertificateID: id, Severity: severity.Name, Once: once, Details: map[string]any{"error": "a zero byte \x00 in it"},
			})
		}
		n, err := outbox.Tell(t.Context(), db, outbox.RenewalFailed, happened)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	t.Run("of each those that are told of events as bad as that", func(t *testing.T) {
		if n := tell(outbox.Warning, "j/1", "crt_1", "crt_2"); n != 2 {
			t.Errorf("a warning about two certificates is %d rows", n)
		}
		if n := tell(outbox.Critical, "j/2", "crt_1", "crt_2"); n != 4 {
			t.Errorf("what is critical about them is %d rows", n)
		}
	})
	t.Run("once", func(t *testing.T) {
		if n := tell(outbox.Critical, "j/2", "crt_1", "crt_2"); n != 0 {
			t.Errorf("again it is %d rows", n)
		}
		want := []string{
			"renewal.failed/crt_1/1/j/1/chn_a", "renewal.failed/crt_1/1/j/2/chn_a", "renewal.failed/crt_1/1/j/2/chn_b",
			"renewal.failed/crt_2/1/j/1/chn_a", "renewal.failed/crt_2/1/j/2/chn_a", "renewal.failed/crt_2/1/j/2/chn_b",
		}
		if got := all[string](t, db, `select once from notifications order by once collate "C"`); !slices.Equal(got, want) {
			t.Errorf("told are %q", got)
		}
	})
	t.Run("with what there is to say", func(t *testing.T) {
		page, err := outbox.List(t.Context(), db, outbox.Filter{CertificateID: "crt_1", ChannelID: "chn_b"}, 10)
		if err != nil || len(page) != 1 {
			t.Fatalf("listed are %+v (%v)", page, err)
		}
		n := page[0]
		var data struct {
			Certificate struct{ Name, ID string }
			Owner       string
			Error       string
		}
		if err := json.Unmarshal(n.Data, &data); err != nil {
			t.Fatal(err)
		}
		if data.Certificate.Name != "name of crt_1" || data.Owner != "Ada" || !strings.HasPrefix(data.Error, "a zero byte") || n.Channel != "b" ||
			!slices.Equal(n.Recipients, []string{"ada@example.com"}) || *n.Version != 1 || n.Event != "renewal.failed" || n.Severity != "critical" || n.State != "pending" {
			t.Errorf("it is %+v with %s", n, n.Data)
		}
		if got := all[[]string](t, db, `select recipients from notifications where certificate_id = 'crt_2' limit 1`); len(got[0]) != 0 {
			t.Errorf("an owner without an address is told at %q", got)
		}
	})
	t.Run("and for nobody where the channel is not enabled, or there is none", func(t *testing.T) {
		exec(t, db, `update channels set enabled = false where id = 'chn_b'`)
		if n := tell(outbox.Critical, "j/3", "crt_1"); n != 1 {
			t.Errorf("it is %d rows", n)
		}
		exec(t, db, `delete from policy_channels`)
		if n := tell(outbox.Critical, "j/4", "crt_1"); n != 0 {
			t.Errorf("it is %d rows", n)
		}
	})
	t.Run("as part of the transaction", func(t *testing.T) {
		exec(t, db, `insert into policy_channels (policy_id, channel_id, from_severity) values ('pol_1', 'chn_a', 'warning')`)
		undo := errors.New("undo")
		err := pg.InTx(t.Context(), db, func(tx pgx.Tx) error {
			if _, err := outbox.Tell(t.Context(), tx, outbox.RenewalFailed, []outbox.Occasion{{CertificateID: "crt_1", Severity: "critical", Once: "x"}}); err != nil {
				return err
			}
			return undo
		})
		if n := one[int](t, db, `select count(*) from notifications where once like '%/x/%'`); !errors.Is(err, undo) || n != 0 {
			t.Errorf("%d rows are left of what was undone (%v)", n, err)
		}
	})
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	tell := func(t *testing.T, db *pgxpool.Pool) {
		t.Helper()
		if _, err := outbox.TellExpiring(t.Context(), db); err != nil {
			t.Fatal(err)
		}
	}
	told := func(t *testing.T, db *pgxpool.Pool) string {
		t.Helper()
		return strings.Join(all[string](t, db, `select once from notifications order by version, days desc, certificate_id, channel_id`), " ")
	}
	// move has certificates of 90 days end so many days from now.
	move := func(t *testing.T, db *pgxpool.Pool, days float64) {
		t.Helper()
		exec(t, db, `
			update certificates set not_before = clock_timestamp() + ($1::float8 - 90) * interval '1 day',
				not_after = clock_timestamp() + $1::float8 * interval '1 day'`, days)
	}

	t.Run("is told once for each threshold and channel, the worse it is the more channels", func(t *testing.T) {
		t.Parallel()
		db := estate(t, "crt_1")
		want := ""
		for _, step := range []struct {
			days float64
			more string
		}{
			{60, ""},
			{29, "cert.expiring/crt_1/1/30/chn_a"},
			{28, ""},
			{13, " cert.expiring/crt_1/1/14/chn_a"},
			{6, " cert.expiring/crt_1/1/7/chn_a"},
			{0.5, " cert.expiring/crt_1/1/1/chn_a cert.expiring/crt_1/1/1/chn_b"},
			{0.4, ""},
			{-0.1, " cert.expired/crt_1/1/0/chn_a cert.expired/crt_1/1/0/chn_b"},
		} {
			move(t, db, step.days)
			want += step.more
			for range 2 {
				tell(t, db)
				if got := told(t, db); got != want {
					t.Errorf("%v days before the end it is %q, want %q", step.days, got, want)
				}
			}
		}
		exec(t, db, `update certificates set state = 'expired'`)
		tell(t, db)
		if got := told(t, db); got != want {
			t.Errorf("once it is marked it is %q", got)
		}
	})
	t.Run("that was missed is told late, and of all only the most urgent", func(t *testing.T) {
		t.Parallel()
		db := estate(t, "crt_1")
		move(t, db, 5)
		tell(t, db)
		if got := told(t, db); got != "cert.expiring/crt_1/1/7/chn_a" {
			t.Errorf("it is %q", got)
		}
		move(t, db, -1)
		exec(t, db, `update certificates set state = 'expired'; update renewal_policies set alerts = '[{"days": 1, "severity": "critical"}]'`)
		tell(t, db)
		if got := told(t, db); got != "cert.expiring/crt_1/1/7/chn_a" {
			t.Errorf("of a threshold before the end it is %q after the end", got)
		}
		exec(t, db, `update renewal_policies set alerts = '[{"days": 30, "severity": "critical"}, {"days": 0, "severity": "critical"}]'`)
		move(t, db, -31)
		tell(t, db)
		if got := told(t, db); got != "cert.expiring/crt_1/1/7/chn_a" {
			t.Errorf("a month after the end it is %q", got)
		}
		move(t, db, -29)
		tell(t, db)
		if got := told(t, db); got != "cert.expiring/crt_1/1/7/chn_a cert.expired/crt_1/1/0/chn_a cert.expired/crt_1/1/0/chn_b" {
			t.Errorf("before that it is %q", got)
		}
	})
	t.Run("that is less urgent than what was told is not, though the policy changed", func(t *testing.T) {
		t.Parallel()
		db := estate(t, "crt_1")
		move(t, db, 5)
		tell(t, db)
		exec(t, db, `update renewal_policies set alerts = '[{"days": 20, "severity": "warning"}]'`)
		tell(t, db)
		if got := told(t, db); got != "cert.expiring/crt_1/1/7/chn_a" {
			t.Errorf("it is %q", got)
		}
		exec(t, db, `insert into policy_channels (policy_id, channel_id, from_severity) values ('pol_1', 'chn_c', 'informational')`)
		tell(t, db)
		if got := told(t, db); got != "cert.expiring/crt_1/1/20/chn_c cert.expiring/crt_1/1/7/chn_a" {
			t.Errorf("a channel that is new gets %q", got)
		}
	})
	t.Run("counts in the second half of a life alone", func(t *testing.T) {
		t.Parallel()
		db := estate(t)
		exec(t, db, certificate, "crt_long", -31, 29) // 60 days: 30 counts
		exec(t, db, certificate, "crt_short", -1, 29) // 30 days: 30 does not
		exec(t, db, certificate, "crt_week", 0, 7)    // 7 days: no more than 1 and 0 count
		exec(t, db, certificate, "crt_late", -6.5, 0.5)
		tell(t, db)
		if got := told(t, db); got != "cert.expiring/crt_long/1/30/chn_a cert.expiring/crt_late/1/1/chn_a cert.expiring/crt_late/1/1/chn_b" {
			t.Errorf("it is %q", got)
		}
	})
	t.Run("is told of the current version of what is active", func(t *testing.T) {
		t.Parallel()
		db := estate(t, "crt_1", "crt_held", "crt_revoked", "crt_archived")
		move(t, db, 5)
		exec(t, db, `
			update certificates set state = 'held' where id = 'crt_held';
			update certificates set state = 'revoked' where id = 'crt_revoked';
			update certificates set state = 'archived', archived_at = now() where id = 'crt_archived'`)
		tell(t, db)
		if got := told(t, db); got != "cert.expiring/crt_1/1/7/chn_a" {
			t.Errorf("it is %q", got)
		}
		// A version that ends later makes it quiet; its own end is told again.
		exec(t, db, `
			insert into certificate_versions (certificate_id, number, issuer_id, serial, fingerprint, not_before, not_after, key_algorithm, der, chain_id)
			select id, 2, issuer_id, '77', sha256('2'), now(), now() + interval '90 days', key_algorithm, '\x30', '\x01' from certificates where id = 'crt_1';
			update certificates set version = 2, serial = '77', fingerprint = sha256('2'), not_before = now() - interval '80 days',
				not_after = now() + interval '90 days' where id = 'crt_1'`)
		tell(t, db)
		if got := told(t, db); got != "cert.expiring/crt_1/1/7/chn_a" {
			t.Errorf("once renewed it is %q", got)
		}
		exec(t, db, `update certificates set not_after = now() + interval '5 days' where id = 'crt_1'`)
		tell(t, db)
		if got := told(t, db); got != "cert.expiring/crt_1/1/7/chn_a cert.expiring/crt_1/2/7/chn_a" {
			t.Errorf("of the next version it is %q", got)
		}
	})
	t.Run("of what somebody is changing waits", func(t *testing.T) {
		t.Parallel()
		db := estate(t, "crt_1")
		move(t, db, 5)
		tx, err := db.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		exec(t, tx, `select from certificates for no key update`)
		tell(t, db)
		if got := told(t, db); got != "" {
			t.Errorf("it is %q", got)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		tell(t, db)
		if got := told(t, db); got != "cert.expiring/crt_1/1/7/chn_a" {
			t.Errorf("then it is %q", got)
		}
	})
	t.Run("is told once by replicas that look at the same time", func(t *testing.T) {
		t.Parallel()
		db := estate(t)
		exec(t, db, `
			with c as (select n, 'crt_' || n as id, clock_timestamp() - interval '80 days' as begins, clock_timestamp() + interval '5 days' as ends from generate_series(1, 2500) n),
			v as (
				insert into certificate_versions (certificate_id, number, issuer_id, serial, fingerprint, not_before, not_after, key_algorithm, der, chain_id)
				select id, 1, 'iss_1', '01' || lpad(to_hex(n), 6, '0'), sha256(id::bytea), begins, ends, 'ecdsa-p256', '\x30', '\x01' from c)
			insert into certificates (id, name, state, common_name, sans, environment, tags, owner_id, issuer_id, profile_id, policy_id, key_algorithm,
				validity_seconds, created_by, version, serial, fingerprint, not_before, not_after)
			select id, id, 'active', '', '{}', '', '{}', 'own_1', 'iss_1', 'pro_1', 'pol_1', 'ecdsa-p256', 3600, 'k', 1, '01' || lpad(to_hex(n), 6, '0'),
				sha256(id::bytea), begins, ends from c`)
		var replicas sync.WaitGroup
		for range 3 {
			pool := pgtest.Pool(t, db.Config().ConnString())
			replicas.Go(func() {
				if _, err := outbox.TellExpiring(t.Context(), pool); err != nil {
					t.Error(err)
				}
			})
		}
		replicas.Wait()
		tell(t, db)
		if n, of := one[int](t, db, `select count(*) from notifications`), one[int](t, db, `select count(distinct certificate_id) from notifications`); n != 2500 || of != 2500 {
			t.Errorf("%d rows of %d certificates", n, of)
		}
	})
}

func TestDigestIsOneOfEachPeriodAndChannel(t *testing.T) {
	t.Parallel()
	db := estate(t)
	exec(t, db, `update channels set digest = true where id in ('chn_a', 'chn_b'); update channels set enabled = false where id = 'chn_b'`)
	const every = 24 * time.Hour
	ask := func() []outbox.Period {
		t.Helper()
		all, err := outbox.DigestPeriods(t.Context(), db, every)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	tell := func(all []outbox.Period) (n int) {
		t.Helper()
		for _, p := range all {
			queued, err := outbox.TellDigest(t.Context(), db, p, json.RawMessage(`{}`))
			if err != nil {
				t.Fatal(err)
			}
			n += queued
		}
		return n
	}
	first := ask()
	if len(first) != 1 {
		t.Fatalf("the periods are %+v", first)
	}
	p := first[0]
	if !slices.Equal(p.Channels, []string{"chn_a"}) || p.Start.UTC().Format(time.TimeOnly) != "00:00:00" || p.Start.After(p.Now) || p.Now.Sub(p.Start) >= every ||
		!p.First || p.Now.Sub(p.Since) != every {
		t.Errorf("the period is %+v", p)
	}
	if n := tell(first); n != 1 {
		t.Errorf("%d digests were queued", n)
	}
	if n := tell(first); n != 0 || len(ask()) != 0 {
		t.Errorf("%d digests were queued again", n)
	}
	exec(t, db, `delete from notifications`) // as the retention would
	if n := tell(first); n != 0 || len(ask()) != 0 {
		t.Errorf("%d digests were queued once their rows had been deleted", n)
	}
	exec(t, db, `update channels set enabled = true`)
	late := ask()
	if len(late) != 1 || !late[0].First || !slices.Equal(late[0].Channels, []string{"chn_b"}) || tell(late) != 1 {
		t.Errorf("a channel that lacks it does not get it: %+v", late)
	}
	exec(t, db, `update digests set period_start = period_start - interval '3 days'; delete from notifications`)
	next := ask()
	slices.SortFunc(next, func(a, b outbox.Period) int { return strings.Compare(a.Channels[0], b.Channels[0]) })
	if len(next) != 2 || next[0].First || next[1].First || !next[0].Since.Equal(p.Now) || !next[1].Since.Equal(late[0].Now) {
		t.Fatalf("after three days without one the periods are %+v", next)
	}
	if n := tell(next); n != 2 {
		t.Errorf("%d digests were queued", n)
	}
	if n := len(all[string](t, db, `select channel_id from digests where until = $1`, next[0].Now)); n != 2 {
		t.Errorf("%d digests cover what there was until then", n)
	}
}

func TestListsNeitherLoseNorRepeat(t *testing.T) {
	t.Parallel()
	db := estate(t)
	queue(t, db, "n", "chn_a", 25)
	exec(t, db, `update notifications set created_at = now()`)
	seen := map[string]bool{}
	for _, f := range []outbox.Filter{{}, {State: "pending"}, {Event: "digest"}} {
		clear(seen)
		for {
			page, err := outbox.List(t.Context(), db, f, 10)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range page {
				if seen[n.ID] {
					t.Errorf("%s is listed twice", n.ID)
				}
				seen[n.ID] = true
			}
			if len(page) < 10 {
				break
			}
			f.After = page[len(page)-1].Cursor()
		}
		if len(seen) != 25 {
			t.Errorf("%d are listed of %+v", len(seen), f)
		}
	}
	for _, f := range []outbox.Filter{{State: "dead"}, {ChannelID: "chn_b"}, {CertificateID: "crt"}, {Event: "x"}, {ChannelID: "chn_a", State: "sent"}, {State: "pending", Event: "x"}} {
		if page, err := outbox.List(t.Context(), db, f, 10); err != nil || len(page) != 0 {
			t.Errorf("%+v chooses %d (%v)", f, len(page), err)
		}
	}
	_, err := outbox.List(t.Context(), db, outbox.Filter{After: "x"}, 10)
	if fault.Of(err) != fault.Invalid {
		t.Errorf("a cursor that is none: %v", err)
	}
	if n, err := outbox.OpenFor(t.Context(), db, "chn_a"); n != 25 || err != nil {
		t.Errorf("%d are open (%v)", n, err)
	}
}

// A warning whose row was deleted would be given again.
func TestRetentionKeepsWarningsOfTheCurrentVersion(t *testing.T) {
	t.Parallel()
	db := estate(t, "crt_1", "crt_2")
	exec(t, db, `
		insert into notifications (id, once, event, severity, channel_id, certificate_id, version, days, data, recipients, state, token, finished_at)
		values ('warning', '1', 'cert.expiring', 'warning', 'chn_a', 'crt_1', 1, 365, '{}', '{}', 'sent', 1, now() - interval '60 days'),
			('earlier', '2', 'cert.expiring', 'warning', 'chn_a', 'crt_2', 7, 365, '{}', '{}', 'sent', 1, now() - interval '60 days'),
			('other', '3', 'renewal.failed', 'warning', 'chn_a', 'crt_1', 1, null, '{}', '{}', 'dead', 1, now() - interval '60 days'),
			('young', '4', 'renewal.failed', 'warning', 'chn_a', 'crt_1', 1, null, '{}', '{}', 'dead', 1, now() - interval '2 days'),
			('open', '5', 'renewal.failed', 'warning', 'chn_a', 'crt_1', 1, null, '{}', '{}', 'pending', 1, null)`)
	n, err := outbox.DeleteFinished(t.Context(), db, 30*24*time.Hour, 10)
	if left := all[string](t, db, `select id from notifications order by id`); err != nil || n != 2 || !slices.Equal(left, []string{"open", "warning", "young"}) {
		t.Errorf("%d are deleted, left are %q (%v)", n, left, err)
	}
}

// What is looked for has an index that has it in its order.
func TestListsGoAlongAnIndex(t *testing.T) {
	t.Parallel()
	tx := pgtest.Tx(t)
	exec(t, tx, `set local enable_seqscan = off; set local enable_sort = off; set local enable_bitmapscan = off`)
	for index, sql := range map[string]string{
		"notifications_by_event": `select id from notifications where event = 'digest' and (created_at, id) < (now(), 'x') order by created_at desc, id desc limit 9`,
		"revocations_newest":     `select serial from revocations where revoked_at >= now() - interval '1 day' and revoked_at < now()`,
	} {
		plan := strings.Join(all[string](t, tx, `explain `+sql), " ")
		if !strings.Contains(plan, "using "+index) || strings.Contains(plan, "Filter") {
			t.Errorf("%s is not of use: %s", index, plan)
		}
	}
}

// A version that is not current any more, or not in use, is not warned of.
func TestWarningsAreWithdrawn(t *testing.T) {
	t.Parallel()
	const overtake = `update certificates set version = 2 where id = 'crt_1'`
	// warned has a warning of each of two certificates in a state.
	warned := func(t *testing.T, state string) *pgxpool.Pool {
		t.Helper()
		db := estate(t, "crt_1", "crt_2")
		exec(t, db, `
			insert into certificate_versions (certificate_id, number, issuer_id, serial, fingerprint, not_before, not_after, key_algorithm, der, chain_id)
			select id, 2, issuer_id, '77', sha256('2'), now(), now() + interval '90 days', key_algorithm, '\x30', '\x01' from certificates where id = 'crt_1'`)
		exec(t, db, `
			insert into notifications (id, once, event, severity, channel_id, certificate_id, version, days, data, recipients, state, leased_until, token)
			select id, id, 'cert.expiring', 'warning', 'chn_c', id, 1, 7, '{}', '{}', $1, case $1 when 'sending' then now() + interval '1 hour' end, 1 from certificates`, state)
		return db
	}
	states := func(t *testing.T, db *pgxpool.Pool) string {
		t.Helper()
		return strings.Join(all[string](t, db, `select state from notifications where days is not null order by certificate_id`), " ")
	}
	for _, state := range []string{"pending", "failed"} {
		for does, change := range map[string]string{
			"is renewed": overtake, "is revoked": `update certificates set state = 'revoked' where id = 'crt_1'`,
			"is archived": `update certificates set state = 'archived', archived_at = now() where id = 'crt_1'`,
		} {
			t.Run("when it "+does+" and the warning is "+state, func(t *testing.T) {
				t.Parallel()
				db := warned(t, state)
				exec(t, db, change)
				if err := outbox.Withdraw(t.Context(), db, []string{"crt_1", "crt_2"}); err != nil {
					t.Fatal(err)
				}
				if got := states(t, db); got != "withdrawn "+state {
					t.Errorf("they are %s", got)
				}
			})
		}
	}
	t.Run("not for a hold, which can be released", func(t *testing.T) {
		t.Parallel()
		db := warned(t, "pending")
		exec(t, db, `update certificates set state = 'held'`)
		if _, err := outbox.Tell(t.Context(), db, outbox.CertRevoked, []outbox.Occasion{{CertificateID: "crt_1", Severity: "warning"}}); err != nil {
			t.Fatal(err)
		}
		if got := states(t, db); got != "pending pending" {
			t.Errorf("they are %s", got)
		}
	})
	for _, e := range []*outbox.Event{outbox.RenewalSucceeded, outbox.CertRevoked, outbox.RenewalFailed} {
		t.Run("with what is told of "+e.Name, func(t *testing.T) {
			t.Parallel()
			db := warned(t, "pending")
			exec(t, db, overtake)
			if _, err := outbox.Tell(t.Context(), db, e, []outbox.Occasion{{CertificateID: "crt_1", Severity: "warning"}}); err != nil {
				t.Fatal(err)
			}
			if got := states(t, db); (got == "withdrawn pending") != (e != outbox.RenewalFailed) {
				t.Errorf("they are %s", got)
			}
		})
	}
	t.Run("that was being sent is not sent again", func(t *testing.T) {
		t.Parallel()
		db := warned(t, "sending")
		exec(t, db, overtake)
		if err := outbox.Withdraw(t.Context(), db, []string{"crt_1"}); err != nil {
			t.Fatal(err)
		}
		if got := states(t, db); got != "sending sending" {
			t.Errorf("they are %s", got)
		}
		exec(t, db, `update notifications set state = 'pending', leased_until = null`)
		s := &sink{}
		pass(t, newRunner(db, "one", s))
		if got := states(t, db); got != "withdrawn sent" || s.sent["crt_1"] != 0 || s.sent["crt_2"] != 1 {
			t.Errorf("they are %s, sent are %v", got, s.sent)
		}
	})
}

// Between what a statement sees and what it locks, a certificate can change.
func TestExpiryTellsWhatItHasLocked(t *testing.T) {
	t.Parallel()
	db := estate(t, "crt_1")
	exec(t, db, `
		insert into certificate_versions (certificate_id, number, issuer_id, serial, fingerprint, not_before, not_after, key_algorithm, der, chain_id)
		select id, 2, issuer_id, '77', sha256('2'), now(), now() + interval '90 days', key_algorithm, '\x30', '\x01' from certificates;
		update certificates set not_after = now() + interval '5 days'`)
	// A statement that ranks severities has seen everything, and waits.
	exec(t, db, `
		create or replace function severity_rank(severity text) returns integer language plpgsql as $$
		begin
			perform pg_advisory_xact_lock_shared(7);
			return array_position(array['informational', 'warning', 'critical'], severity);
		end $$`)
	conn, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	exec(t, conn, `select pg_advisory_lock(7)`)
	over := make(chan error)
	go func() {
		_, err := outbox.TellExpiring(t.Context(), db)
		over <- err
	}()
	pgtest.Eventually(t, "it waits", func() bool {
		return one[int](t, conn, `select count(*) from pg_locks where locktype = 'advisory' and not granted and database = (select oid from pg_database where datname = current_database())`) > 0
	})
	exec(t, conn, `update certificates set version = 2, serial = '77', fingerprint = sha256('2'), name = 'another'`)
	exec(t, conn, `select pg_advisory_unlock(7)`)
	if err := <-over; err != nil {
		t.Fatal(err)
	}
	if got := all[string](t, db, `select concat_ws(' ', once, version, data->'certificate'->>'name', data->'certificate'->>'serial') from notifications`); !slices.Equal(got, []string{"cert.expiring/crt_1/2/7/chn_a 2 another 77"}) {
		t.Errorf("told are %q", got)
	}
}
