package revocation_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/audit"
	"certctl/server/cert"
	"certctl/server/fault"
	"certctl/server/pg"
	"certctl/server/pg/pgtest"
	"certctl/server/revocation"
	"certctl/server/store"
)

func TestEveryReasonIsRecordedAndListed(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	versions := map[*cert.Reason]version{}
	for _, r := range cert.Reasons() {
		versions[r] = l.certificate(r.Name, leaf{})
		if err := l.revoke(r.Name, r.Name); err != nil {
			t.Fatal(err)
		}
	}
	list := l.list()
	for r, v := range versions {
		want, action := "revoked", audit.CertRevoked
		if r == cert.CertificateHold {
			want, action = "held", audit.CertHeld
		}
		if got := l.state(v.id); got != want {
			t.Errorf("%s left the certificate %s", r.Name, got)
		}
		e := entry(list, v)
		if e == nil || e.ReasonCode != r.Code || (len(e.Extensions) == 0) != (r.Code == 0) {
			t.Errorf("the list says of %s: %+v", r.Name, e)
		}
		if !slices.ContainsFunc(l.events(action), func(s string) bool {
			return strings.HasPrefix(s, v.id+" ") && strings.Contains(s, v.serial) && strings.Contains(s, `"reason": "`+r.Name+`"`) &&
				strings.Contains(s, `"version": "1"`) && strings.Contains(s, `"issuer": "ca"`)
		}) {
			t.Errorf("the events of %s are %v", action.Name, l.events(action))
		}
	}
	if len(list.RevokedCertificateEntries) != len(versions) || !sorted(list) {
		t.Errorf("the list has %d entries for %d certificates, in order: %v", len(list.RevokedCertificateEntries), len(versions), sorted(list))
	}
	if n := one[int](l, `select count(*) from certificates where state = 'revoked' and renew_at is not null`); n > 0 {
		t.Errorf("%d revoked certificates are still to be renewed", n)
	}
}

func TestNoReasonIsUnspecified(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.certificate("a", leaf{})
	c, err := l.RevokeCertificate(l.ctx, &revocation.NewRevocation{OneCertificate: revocation.OneCertificate{ID: "a"}})
	if err != nil || c.State != "revoked" || c.Revision != 2 {
		t.Errorf("the certificate is %+v (%v)", c, err)
	}
	if got := one[int](l, `select reason from revocations`); got != cert.Unspecified.Code {
		t.Errorf("the reason is %d", got)
	}
}

func TestWhatCannotBeRevokedIsRefusedWithTheWayOut(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.pending("pending")
	l.pending("failed")
	l.exec(`update certificates set state = 'failed' where id = 'failed'`)
	archived := l.certificate("archived", leaf{})
	l.exec(`update certificates set state = 'archived', archived_at = now() where id = 'archived'`)
	l.certificate("expired", leaf{begin: -time.Hour, end: -time.Minute})
	l.exec(`update certificates set state = 'expired' where id = 'expired'`)
	l.certificate("ended", leaf{begin: -time.Hour, end: -time.Minute})
	active := l.certificate("active", leaf{})
	l.certificate("revoked", leaf{})
	l.certificate("held", leaf{})
	for id, reason := range map[string]string{"revoked": "keyCompromise", "held": "certificateHold"} {
		if err := l.revoke(id, reason); err != nil {
			t.Fatal(err)
		}
	}
	future, early := time.Now().Add(time.Hour), time.Now().Add(-25*time.Hour)
	for name, c := range map[string]struct {
		id   string
		why  revocation.Why
		kind *fault.Kind
		says string
	}{
		"one that is not there":          {"none", revocation.Why{}, fault.NotFound, "certificate not found"},
		"one that waits to be issued":    {"pending", revocation.Why{}, fault.Conflict, "archive it"},
		"one that was never issued":      {"failed", revocation.Why{}, fault.Conflict, "archive it"},
		"an archived one":                {"archived", revocation.Why{}, fault.Conflict, "body.serial"},
		"an expired one":                 {"expired", revocation.Why{}, fault.Conflict, "has ended"},
		"one that is about to expire":    {"ended", revocation.Why{}, fault.Conflict, "has ended"},
		"a revoked one":                  {"revoked", revocation.Why{}, fault.Conflict, "revoked already"},
		"a revoked one, to hold it":      {"revoked", revocation.Why{Reason: "certificateHold"}, fault.Conflict, "revoked already"},
		"a held one, to hold it":         {"held", revocation.Why{Reason: "certificateHold"}, fault.Conflict, "on hold already"},
		"for no reason that there is":    {"active", revocation.Why{Reason: "removeFromCRL"}, fault.Invalid, "give one of unspecified, keyCompromise"},
		"a serial number that is none":   {"active", revocation.Why{Serial: "xyz"}, fault.Invalid, "body.serial is not a serial number"},
		"another's serial number":        {"active", revocation.Why{Serial: archived.serial}, fault.Invalid, "body.serial is of no version"},
		"invalid since a time to come":   {"active", revocation.Why{InvalidityDate: &future}, fault.Invalid, "body.invalidity_date is in the future"},
		"invalid since before it was so": {"active", revocation.Why{InvalidityDate: &early}, fault.Invalid, "body.invalidity_date is more than a day"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := l.RevokeCertificate(l.ctx, asked(c.id, c.why))
			is(t, err, c.kind, c.says)
		})
	}
	if got := l.state(active.id); got != "active" {
		t.Errorf("a refused revocation left the certificate %s", got)
	}
	if n := one[int](l, `select count(*) from revocations`); n != 2 {
		t.Errorf("%d versions are revoked, want 2", n)
	}
	t.Run("a version of an archived certificate is revoked by its serial number", func(t *testing.T) {
		if err := l.revoke("archived", "keyCompromise", archived.serial); err != nil {
			t.Fatal(err)
		}
		if got := l.state("archived"); got != "archived" {
			t.Errorf("it is %s now", got)
		}
		if entry(l.list(), archived) == nil {
			t.Error("the list does not have it")
		}
	})
}

func TestInvalidityDateIsListed(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	// The key may be older than the version that is in force.
	l.certificate("a", leaf{begin: -100 * time.Hour, end: -10 * time.Hour})
	v := l.issue("a", leaf{})
	since := time.Now().Add(-50 * time.Hour).Truncate(time.Second)
	if _, err := l.RevokeCertificate(l.ctx, asked("a", revocation.Why{Reason: "keyCompromise", InvalidityDate: &since})); err != nil {
		t.Fatal(err)
	}
	e := entry(l.list(), v)
	if e == nil || !strings.Contains(string(e.Raw), since.UTC().Format("20060102150405Z")) {
		t.Errorf("the entry is %+v", e)
	}
	if got := one[time.Time](l, `select invalidity_at from revocations`); !got.Equal(since) {
		t.Errorf("the row says %s, want %s", got, since)
	}
}

func TestRevocationEndsEveryVersionThatHasNotEnded(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	ended := l.certificate("a", leaf{begin: -100 * time.Hour, end: -time.Minute})
	old, current := l.issue("a", leaf{}), l.issue("a", leaf{})
	other := l.certificate("b", leaf{})
	if err := l.revoke("a", "superseded"); err != nil {
		t.Fatal(err)
	}
	list := l.list()
	for v, want := range map[version]bool{ended: false, old: true, current: true, other: false} {
		if got := entry(list, v) != nil; got != want {
			t.Errorf("version %d of %s is listed: %v", v.number, v.id, got)
		}
	}
}

func TestOneVersionIsRevokedByItsSerialNumber(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	old, current := l.certificate("a", leaf{}), l.issue("a", leaf{})
	// As openssl prints it.
	colons := strings.ToUpper(old.serial[:2] + ":" + old.serial[2:])
	if err := l.revoke("a", "keyCompromise", colons); err != nil {
		t.Fatal(err)
	}
	if got := l.state("a"); got != "active" {
		t.Errorf("without its old version the certificate is %s", got)
	}
	is(t, l.revoke("a", "keyCompromise", old.serial), fault.Conflict, "revoked already")
	if list := l.list(); entry(list, old) == nil || entry(list, current) != nil {
		t.Errorf("the list has %v", list.RevokedCertificateEntries)
	}
	if err := l.revoke("a", "superseded", current.serial); err != nil {
		t.Fatal(err)
	}
	if got := l.state("a"); got != "revoked" {
		t.Errorf("without its current version the certificate is %s", got)
	}
}

func TestHold(t *testing.T) {
	t.Parallel()
	t.Run("a released certificate is active and off the list", func(t *testing.T) {
		t.Parallel()
		l := newLab(t)
		v := l.certificate("a", leaf{})
		is(t, l.release("a"), fault.Conflict, "not on hold")
		is(t, l.release("none"), fault.NotFound, "certificate not found")
		if err := l.revoke("a", "certificateHold"); err != nil {
			t.Fatal(err)
		}
		if entry(l.list(), v) == nil {
			t.Error("the list does not have a hold")
		}
		if err := l.release("a"); err != nil {
			t.Fatal(err)
		}
		if got := l.state("a"); got != "active" {
			t.Errorf("it is %s", got)
		}
		if entry(l.list(), v) != nil {
			t.Error("the list still has it")
		}
		if got := l.events(audit.CertReleased); len(got) != 1 || !strings.Contains(got[0], v.serial) {
			t.Errorf("the events are %v", got)
		}
		is(t, l.release("a"), fault.Conflict, "not on hold")
	})
	t.Run("one that ended on hold is released as expired", func(t *testing.T) {
		t.Parallel()
		l := newLab(t)
		l.certificate("a", leaf{})
		if err := l.revoke("a", "certificateHold"); err != nil {
			t.Fatal(err)
		}
		l.exec(`update certificates set not_after = clock_timestamp() where id = 'a'`)
		if err := l.release("a"); err != nil {
			t.Fatal(err)
		}
		if got := l.state("a"); got != "expired" {
			t.Errorf("it is %s", got)
		}
	})
	t.Run("a hold becomes a revocation for good, with the time of the hold", func(t *testing.T) {
		t.Parallel()
		l := newLab(t)
		v := l.certificate("a", leaf{})
		if err := l.revoke("a", "certificateHold"); err != nil {
			t.Fatal(err)
		}
		// As if it had been held an hour ago.
		l.exec(`update revocations set revoked_at = revoked_at - interval '1 hour'`)
		held := one[time.Time](l, `select revoked_at from revocations`)
		if err := l.revoke("a", "keyCompromise"); err != nil {
			t.Fatal(err)
		}
		if got := l.state("a"); got != "revoked" {
			t.Errorf("it is %s", got)
		}
		e := entry(l.list(), v)
		if e == nil || e.ReasonCode != cert.KeyCompromise.Code || !e.RevocationTime.Equal(held) {
			t.Errorf("the entry is %+v, want %s", e, held)
		}
		is(t, l.release("a"), fault.Conflict, "not on hold")
	})
	t.Run("an old version on hold is released and the certificate stays active", func(t *testing.T) {
		t.Parallel()
		l := newLab(t)
		old := l.certificate("a", leaf{})
		l.issue("a", leaf{})
		if err := errors.Join(l.revoke("a", "certificateHold", old.serial), l.release("a")); err != nil {
			t.Fatal(err)
		}
		if got := l.state("a"); got != "active" {
			t.Errorf("it is %s", got)
		}
		if entry(l.list(), old) != nil {
			t.Error("the list still has it")
		}
	})
}

func TestShortLivedCertificatesAreNeverListed(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	v := l.certificate("a", leaf{neverListed: true})
	first := l.list()
	if err := l.revoke("a", "keyCompromise"); err != nil {
		t.Fatal(err)
	}
	if got := l.state("a"); got != "revoked" {
		t.Errorf("it is %s", got)
	}
	if list := l.list(); list.Number.Cmp(first.Number) != 0 {
		t.Error("a list was signed for it")
	}
	l.exec(`update crls set due_at = 'epoch'`)
	if entry(l.list(), v) != nil {
		t.Error("the list has it")
	}
}

func TestTwoRevocationsAtOnceAreOne(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, reason := range []string{"keyCompromise", "certificateHold"} {
		l.certificate(reason, leaf{})
		var wg sync.WaitGroup
		errs := make([]error, 8)
		for i := range errs {
			wg.Go(func() { errs[i] = l.revoke(reason, reason) })
		}
		wg.Wait()
		done := 0
		for _, err := range errs {
			if err == nil {
				done++
			} else {
				is(t, err, fault.Conflict, "already")
			}
		}
		if n := one[int](l, `select count(*) from audit_events where resource_id = $1`, reason); done != 1 || n != 1 {
			t.Errorf("%d callers revoked it, with %d events", done, n)
		}
	}
}

func TestAVersionThatComesInMeanwhile(t *testing.T) {
	t.Parallel()
	t.Run("is revoked too if it was first", func(t *testing.T) {
		t.Parallel()
		l := newLab(t)
		l.certificate("a", leaf{})
		tx, err := l.db.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(t.Context()) }()
		second, err := l.tryIssue(tx, "a", leaf{})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- l.revoke("a", "keyCompromise") }()
		l.waits("certificates")
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if entry(l.list(), second) == nil || l.state("a") != "revoked" {
			t.Errorf("the renewed version is not revoked; the certificate is %s", l.state("a"))
		}
	})
	t.Run("is refused if the revocation was first", func(t *testing.T) {
		t.Parallel()
		l := newLab(t)
		l.certificate("a", leaf{})
		o := revocation.Order{IDs: []string{"a"}, Reason: cert.KeyCompromise}
		told, err := l.Tell(l.ctx, l.db, o)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		err = pg.InTx(l.ctx, l.db, func(tx pgx.Tx) error {
			_, err := l.Revoke(l.ctx, tx, o, told)
			go func() { _, err := l.tryIssue(l.db, "a", leaf{}); done <- err }()
			l.waits("certificates")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := <-done; pg.Code(err) != "CC409" {
			t.Errorf("the version got %v", err)
		}
	})
}

// waits returns once a session waits for a lock on the table.
func (l *lab) waits(table string) {
	l.t.Helper()
	pgtest.Eventually(l.t, "a session waits for a row of "+table, func() bool {
		return one[bool](l, `select exists (
			select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and query ilike '%' || $1 || '%')`, table)
	})
}

// A job that ends holds its row and then wants the certificate.
func TestRevocationAndAJobThatEndsDoNotDeadlock(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.certificate("a", leaf{})
	l.exec(`insert into jobs (id, kind, certificate_id, args, priority, max_attempts, retry_every, timeout, created_by)
		values ('j', 'renew', 'a', '{}', 1, 3, '1 minute', '1 minute', 'k')`)
	tx, err := l.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if _, err := tx.Exec(t.Context(), `select from jobs where id = 'j' for update`); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- l.revoke("a", "keyCompromise") }()
	l.waits("jobs")
	if _, err := l.tryIssue(tx, "a", leaf{}); err != nil {
		t.Fatalf("the job: %v", err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatalf("the revocation: %v", err)
	}
	if got := one[string](l, `select state from jobs`); got != "cancelled" {
		t.Errorf("the job is %s", got)
	}
}

func TestARevocationCancelsOpenJobsOfItsCertificateOnly(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, id := range []string{"a", "b", "c"} {
		l.certificate(id, leaf{})
		l.exec(`insert into jobs (id, kind, certificate_id, args, priority, max_attempts, retry_every, timeout, created_by)
			values ($1, 'renew', $1, '{}', 1, 3, '1 minute', '1 minute', 'k')`, id)
	}
	old := one[string](l, `select serial from certificates where id = 'c'`)
	l.issue("c", leaf{})
	if err := errors.Join(l.revoke("a", "certificateHold"), l.revoke("c", "superseded", old)); err != nil {
		t.Fatal(err)
	}
	got := one[string](l, `select string_agg(id || ' ' || state, ', ' order by id) from jobs`)
	if want := "a cancelled, b pending, c pending"; got != want {
		t.Errorf("the jobs are %s, want %s", got, want)
	}
}

func TestManyAreRevokedAtOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.pending("pending")
	var ids []string
	for i := range 50 {
		id := string(rune('a'+i%26)) + string(rune('a'+i/26))
		l.certificate(id, leaf{})
		ids = append(ids, id)
	}
	if err := l.revoke(ids[0], "superseded"); err != nil {
		t.Fatal(err)
	}
	ids = append(ids, "pending", "none")
	var outcomes []store.Outcome
	err := pg.InTx(l.ctx, l.db, func(tx pgx.Tx) (err error) {
		outcomes, err = l.RevokeMany(l.ctx, tx, ids, cert.KeyCompromise, nil)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(outcomes) != len(ids) {
		t.Fatalf("%d outcomes of %d", len(outcomes), len(ids))
	}
	for i, o := range outcomes {
		want := store.Done
		if i == 0 || i >= 50 {
			want = store.Skipped
		}
		if o.ID != ids[i] || o.Outcome != want || (o.Message == "") != (want == store.Done) {
			t.Errorf("%+v, want %s %s", o, ids[i], want)
		}
	}
	if n := len(l.list().RevokedCertificateEntries); n != 50 {
		t.Errorf("the list has %d entries", n)
	}
	if n := len(l.events(audit.CertRevoked)); n != 50 {
		t.Errorf("%d events", n)
	}
	if n := one[int](l, `select count(*) from crl_requests`); n != 0 {
		t.Errorf("%d requests are left", n)
	}
}

func TestAuthoritiesThatKeepTheirOwnListsAreToldFirst(t *testing.T) {
	t.Parallel()
	start := func(t *testing.T) (*lab, *remote, version) {
		t.Helper()
		l := newLab(t)
		far := &remote{authority: l.signing("far")}
		l.exec(`delete from crls where issuer_id = 'far'`)
		l.issuers["far"] = far
		return l, far, l.certificate("a", leaf{issuer: "far"})
	}
	t.Run("and what they accept is revoked here", func(t *testing.T) {
		t.Parallel()
		l, far, v := start(t)
		if err := l.revoke("a", "superseded"); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(far.told, []string{v.serial + " superseded"}) || l.state("a") != "revoked" {
			t.Errorf("told %v, and the certificate is %s", far.told, l.state("a"))
		}
		if n := one[int](l, `select count(*) from crl_requests`); n != 0 {
			t.Error("a list was asked for that nobody signs")
		}
	})
	t.Run("and what they refuse is not", func(t *testing.T) {
		t.Parallel()
		l, far, _ := start(t)
		far.refuse = fault.New(fault.Unavailable, "try later")
		is(t, l.revoke("a", "superseded"), fault.Unavailable, "try later")
		if got := l.state("a"); got != "active" {
			t.Errorf("the certificate is %s", got)
		}
		far.refuse = nil
		if err := l.revoke("a", "superseded"); err != nil || l.state("a") != "revoked" {
			t.Errorf("the second try: %v", err)
		}
	})
	t.Run("of nothing that is refused here", func(t *testing.T) {
		t.Parallel()
		l, far, _ := start(t)
		l.exec(`update certificates set state = 'archived', archived_at = now() where id = 'a'`)
		is(t, l.revoke("a", "superseded"), fault.Conflict, "archived")
		if len(far.told) > 0 {
			t.Errorf("told %v", far.told)
		}
	})
	t.Run("and not of a hold, which could not be released", func(t *testing.T) {
		t.Parallel()
		l, far, _ := start(t)
		is(t, l.revoke("a", "certificateHold"), fault.Conflict, "lists of its own")
		if len(far.told) > 0 || l.state("a") != "active" {
			t.Errorf("told %v, and the certificate is %s", far.told, l.state("a"))
		}
	})
	t.Run("and of a version that comes in meanwhile", func(t *testing.T) {
		t.Parallel()
		l, far, first := start(t)
		var second version
		far.during = sync.OnceFunc(func() { second = l.issue("a", leaf{issuer: "far"}) })
		if err := l.revoke("a", "superseded"); err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(far.told, first.serial+" superseded") || !slices.Contains(far.told, second.serial+" superseded") {
			t.Errorf("told %v", far.told)
		}
		if n := one[int](l, `select count(*) from revocations`); n != 2 {
			t.Errorf("%d versions are revoked", n)
		}
	})
}
