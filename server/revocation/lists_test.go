package revocation_test

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/audit"
	"certctl/server/cert"
	"certctl/server/connector"
	"certctl/server/fault"
	"certctl/server/issuer"
	"certctl/server/issuer/local"
	"certctl/server/pg"
	"certctl/server/pg/pgtest"
	"certctl/server/revocation"
	"certctl/server/store"
)

func generate(t testing.TB, l *lab, want int) {
	t.Helper()
	if n, err := l.Generate(l.ctx); err != nil || n != want {
		t.Errorf("%d lists were signed (%v), want %d", n, err, want)
	}
}

func TestListsAreSignedWhenTheyAreDueOrAskedFor(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.signing("other")
	generate(t, l, 2)
	first := l.current()
	if len(first.RevokedCertificateEntries) != 0 || first.NextUpdate.Sub(first.ThisUpdate) != validity {
		t.Errorf("the first list is valid for %s with %d entries", first.NextUpdate.Sub(first.ThisUpdate), len(first.RevokedCertificateEntries))
	}
	generate(t, l, 0)

	l.certificate("a", leaf{})
	if err := l.revoke("a", "superseded"); err != nil {
		t.Fatal(err)
	}
	generate(t, l, 1)
	second := l.current()
	if len(second.RevokedCertificateEntries) != 1 || second.Number.Cmp(first.Number) <= 0 {
		t.Errorf("list %d after %d has %d entries", second.Number, first.Number, len(second.RevokedCertificateEntries))
	}
	events := l.events(audit.CRLSigned)
	if want := fmt.Sprintf(`ca {"number": "%d", "entries": "1"}`, second.Number); len(events) != 3 || events[2] != want {
		t.Errorf("the events are %v, want the last to be %s", events, want)
	}

	generate(t, l, 0)
	half := one[float64](l, `select extract(epoch from due_at - this_update) from crls where issuer_id = 'ca'`)
	if half != (validity / 2).Seconds() {
		t.Errorf("the next list is due after %f seconds", half)
	}
	l.exec(`update crls set due_at = clock_timestamp() where issuer_id = 'other'`)
	generate(t, l, 1)

	states, err := l.List(l.ctx, &revocation.ListCRLs{})
	if err != nil || len(states.Items) != 2 {
		t.Fatalf("the lists are %+v (%v)", states, err)
	}
	s := states.Items[0]
	if s.IssuerID != "ca" || s.Number != second.Number.Int64() || s.Entries != 1 || s.Bytes != int64(len(second.Raw)) || s.SignedBy != "one" ||
		s.Error != "" || s.AgeSeconds == nil || *s.AgeSeconds < 0 || *s.AgeSeconds > 60 || !s.NextUpdate.Equal(second.NextUpdate) {
		t.Errorf("the list is told of as %+v", s)
	}
}

func TestNumbersNeverGoBack(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	first := l.list()
	// A database that was restored knows an older list, or none.
	l.exec(`delete from crls; insert into crls (issuer_id) values ('ca')`)
	second := l.list()
	if second.Number.Cmp(first.Number) <= 0 {
		t.Errorf("after a restore %d follows %d", second.Number, first.Number)
	}
	const ahead = int64(1) << 50 // of the clock
	l.exec(`update crls set number = $1, due_at = 'epoch'`, ahead)
	if third := l.list(); third.Number.Int64() != ahead+1 {
		t.Errorf("%d follows %d", third.Number, ahead)
	}
	_, err := l.db.Exec(t.Context(), `update crls set number = 1`)
	if pg.Code(err) != "CC409" {
		t.Errorf("the number was put back: %v", err)
	}
}

func TestASecondReplicaPassesOverAnIssuerWhoseListIsBeingSigned(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	l := labOn(t, pgtest.Pool(t, url))
	ca := l.issuers["ca"].(*authority)
	l.signing("other")
	l.exec(`update crls set due_at = due_at + interval '1 second' where issuer_id = 'other'`) // the second in line
	signing, goOn := make(chan struct{}), make(chan struct{})
	reached := sync.OnceFunc(func() { close(signing) })
	ca.before = func() error { reached(); <-goOn; return nil }
	done := make(chan error, 1)
	go func() { _, err := l.Generate(l.ctx); done <- err }()
	<-signing

	second := l.another(url)
	generate(t, second, 1)
	if got := one[string](l, `select signed_by from crls where issuer_id = 'other'`); got != "two" {
		t.Errorf("the other issuer's list is signed by %q", got)
	}

	t.Run("a revocation in the meantime waits for nobody, and is in the next list", func(t *testing.T) {
		v := l.certificate("a", leaf{})
		if err := l.revoke("a", "superseded"); err != nil {
			t.Fatal(err)
		}
		close(goOn)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if entry(l.current(), v) != nil {
			t.Fatal("the list had been read before the revocation")
		}
		ca.before = func() error { return nil }
		if entry(l.list(), v) == nil {
			t.Error("the next list does not have it")
		}
	})
}

func TestManyReplicasSignOneListForOneRequest(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	l := labOn(t, pgtest.Pool(t, url))
	l.list()
	replicas := []*lab{l, l.another(url), l.another(url)}
	for i := range 10 {
		id := fmt.Sprint(i)
		l.certificate(id, leaf{})
		if err := l.revoke(id, "superseded"); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		signed := 0
		for _, r := range replicas {
			wg.Go(func() {
				n, err := r.Generate(r.ctx)
				mu.Lock()
				defer mu.Unlock()
				if signed += n; err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if signed != 1 {
			t.Errorf("%d lists were signed", signed)
		}
	}
}

// A statement that began before another replica's commit still sees the request
// that was done, and locks the row after it.
func TestARequestThatWasDoneAtThatMomentIsNotDoneAgain(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.list()
	l.exec(`insert into crl_requests (issuer_id) values ('ca')`)
	// Whoever looks for requests waits for the test's lock.
	l.exec(`
		alter table crl_requests rename to requests;
		create view crl_requests as select id, issuer_id from requests where pg_advisory_xact_lock_shared(7) is not null`)
	tx, err := l.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if _, err := tx.Exec(t.Context(), `select pg_advisory_xact_lock(7)`); err != nil {
		t.Fatal(err)
	}
	type outcome struct {
		signed int
		err    error
	}
	done := make(chan outcome, 1)
	go func() { n, err := l.Generate(l.ctx); done <- outcome{n, err} }()
	l.waits("crl_requests")
	l.exec(`with r as (delete from requests) update crls set number = number + 1`) // the other replica
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := <-done; got.signed != 0 || got.err != nil {
		t.Errorf("%d lists were signed (%v)", got.signed, got.err)
	}
}

func TestAnIssuerThatCannotSign(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	broken, other := l.issuers["ca"].(*authority), "other"
	before := l.list()
	v := l.certificate("a", leaf{})
	if err := l.revoke("a", "superseded"); err != nil {
		t.Fatal(err)
	}
	broken.before = func() error { return fault.New(fault.Unavailable, "the key is elsewhere") }
	l.signing(other)

	n, err := l.Generate(l.ctx)
	if n != 1 || err == nil || !strings.Contains(err.Error(), "list of the issuer ca: sign: the key is elsewhere") {
		t.Errorf("%d lists were signed: %v", n, err)
	}
	if l.current().Number.Cmp(before.Number) != 0 {
		t.Error("the old list is gone")
	}
	if n := one[int](l, `select count(*) from crl_requests`); n != 1 {
		t.Errorf("%d requests are left, want the one", n)
	}
	if got := one[string](l, `select error from crls where issuer_id = 'ca'`); got != "the key is elsewhere" {
		t.Errorf("the error is told as %q", got)
	}
	if got := one[float64](l, `select extract(epoch from due_at - clock_timestamp()) from crls where issuer_id = 'ca'`); got < 30 || got > 60 {
		t.Errorf("it is tried again in %f seconds", got)
	}
	generate(t, l, 0) // though it was asked for

	l.exec(`update crls set due_at = clock_timestamp() where issuer_id = 'ca'`)
	broken.before = func() error { return nil }
	generate(t, l, 1)
	if got := one[string](l, `select error from crls where issuer_id = 'ca'`); got != "" || entry(l.current(), v) == nil {
		t.Errorf("once it can sign, the error is %q and the list %v", got, l.current().RevokedCertificateEntries)
	}

	t.Run("says nothing of a list that another replica has signed since", func(t *testing.T) {
		late := store.DueCRL{IssuerID: "ca", Before: before.Number.Int64()}
		if err := store.CRLFailed(l.ctx, l.db, late, "too late"); err != nil {
			t.Fatal(err)
		}
		if got := one[string](l, `select error from crls where issuer_id = 'ca'`); got != "" {
			t.Errorf("the error is told as %q", got)
		}
	})
	t.Run("keeps its secrets", func(t *testing.T) {
		broken.before = func() error { return errors.New("password hunter2") }
		l.exec(`update crls set due_at = clock_timestamp() where issuer_id = 'ca'`)
		if _, err := l.Generate(l.ctx); err == nil {
			t.Error("no error")
		}
		if got := one[string](l, `select error from crls where issuer_id = 'ca'`); got != "internal error" {
			t.Errorf("the error is told as %q", got)
		}
	})
	t.Run("because it is none that signs lists", func(t *testing.T) {
		l.issuers["ca"] = struct{ issuer.Issuer }{broken}
		l.exec(`update crls set due_at = clock_timestamp() where issuer_id = 'ca'`)
		if _, err := l.Generate(l.ctx); err == nil || !strings.Contains(err.Error(), "signs no revocation lists") {
			t.Error(err)
		}
	})
}

func TestAnEntryStaysUntilItWasInOneListAfterItsCertificateEnded(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	v := l.certificate("a", leaf{})
	if err := l.revoke("a", "certificateHold"); err != nil { // which lets the test move the row
		t.Fatal(err)
	}
	for ended, listed := range map[time.Duration]bool{0: true, validity - time.Minute: true, validity + time.Second: false} {
		l.exec(`update revocations set not_after = clock_timestamp() - $1::interval`, ended)
		l.exec(`update crls set due_at = 'epoch'`)
		if got := entry(l.list(), v) != nil; got != listed {
			t.Errorf("%s after the end it is listed: %v", ended, got)
		}
	}
}

func TestEntriesAreReadInOrderWithoutASort(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	revoked(l, 5000)
	err := pg.InTx(l.ctx, l.db, func(tx pgx.Tx) error {
		entries, err := store.CRLEntries(l.ctx, tx, "ca", validity)
		if err != nil {
			return err
		}
		if entries.Count != 5000 || float64(cap(entries.DER)) > 1.1*float64(len(entries.DER)) {
			t.Errorf("%d entries of %d bytes in %d", entries.Count, len(entries.DER), cap(entries.DER))
		}
		// The statement as the session has just run it, under the same settings.
		rows, _ := tx.Query(l.ctx, `explain select entry from revocations
			where issuer_id = 'ca' and listed and not_after > clock_timestamp() - interval '1 day' order by serial`)
		plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if text := strings.Join(plan, "\n"); strings.Contains(text, "Sort") || !strings.Contains(text, "revocations_pkey") {
			t.Errorf("the plan is\n%s", text)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if list := l.list(); len(list.RevokedCertificateEntries) != 5000 || !sorted(list) {
		t.Errorf("%d entries, in order: %v", len(list.RevokedCertificateEntries), sorted(list))
	}
}

// revoked adds n revoked certificates of the issuer "ca" whose bytes are none.
func revoked(l *lab, n int) {
	l.t.Helper()
	l.exec(`
		with n as (
			select 'c' || n as id, '5' || substr(md5(n::text), 2) as serial, sha256(n::text::bytea) as sum, now() + interval '90 days' as not_after
			from generate_series(1, $1::integer) n
		), c as (
			insert into certificates (id, name, state, common_name, sans, environment, tags, owner_id, issuer_id, profile_id, policy_id,
				key_algorithm, validity_seconds, version, serial, fingerprint, not_before, not_after, created_by)
			select id, id, 'revoked', id, '{}', '', '{}', 'o', 'ca', 'f', 'p', 'ecdsa-p256', 1, 1, serial, sum, now(), not_after, 'k' from n
		), v as (
			insert into certificate_versions (certificate_id, number, issuer_id, serial, fingerprint, not_before, not_after, key_algorithm, der, chain_id)
			select id, 1, 'ca', serial, sum, now(), not_after, 'ecdsa-p256', '', '' from n
		)
		insert into crl_requests (issuer_id) values ('ca')`, n)
	rows, _ := l.db.Query(l.t.Context(), `select serial from certificate_versions where der = ''`)
	serials, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		l.t.Fatal(err)
	}
	var entries [][]byte
	for _, s := range serials {
		number, _ := cert.ParseSerial(s)
		e, err := issuer.Entry(number, time.Now(), cert.KeyCompromise, nil)
		if err != nil {
			l.t.Fatal(err)
		}
		entries = append(entries, e)
	}
	l.exec(`
		insert into revocations (issuer_id, serial, certificate_id, number, reason, revoked_at, not_after, listed, entry)
		select v.issuer_id, v.serial, v.certificate_id, v.number, 1, now(), v.not_after, true, u.entry
		from certificate_versions v join unnest($1::text[], $2::bytea[]) u (serial, entry) on u.serial = v.serial`, serials, entries)
	l.exec(`analyze`)
}

func TestServedList(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	v := l.certificate("a", leaf{})
	get := func(method, id string, header ...string) *httptest.ResponseRecorder {
		t.Helper()
		return serve(t, l.ServeCRL, method, id, header...)
	}
	if w := get("GET", "none"); w.Code != http.StatusNotFound {
		t.Errorf("an unknown issuer: %d %s", w.Code, w.Body)
	}
	if w := get("GET", "ca"); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("before the first list: %d %v", w.Code, w.Header())
	}
	old := l.list()
	if err := l.revoke("a", "keyCompromise"); err != nil {
		t.Fatal(err)
	}
	list := l.list()
	w := get("GET", "ca")
	h := w.Header()
	if w.Code != http.StatusOK || !bytes.Equal(w.Body.Bytes(), list.Raw) || h.Get("Content-Type") != "application/pkix-crl" ||
		h.Get("Content-Length") != fmt.Sprint(len(list.Raw)) || h.Get("Last-Modified") != list.ThisUpdate.Format(http.TimeFormat) {
		t.Errorf("the list is served as %d %v", w.Code, h)
	}
	tag := h.Get("ETag")
	if tag != `"`+list.Number.String()+`"` {
		t.Errorf("the tag is %s", tag)
	}
	if h.Get("Cache-Control") != "public, max-age=43200" {
		t.Errorf("a fresh list may be kept for %s", h.Get("Cache-Control"))
	}

	modified, before := h.Get("Last-Modified"), list.ThisUpdate.Add(-time.Second).Format(http.TimeFormat)
	for name, c := range map[string]struct {
		header []string
		status int
	}{
		"one with its tag has it":                        {[]string{"If-None-Match", tag}, 304},
		"one with its tag among others has it":           {[]string{"If-None-Match", `"1", W/` + tag}, 304},
		"one with any has it":                            {[]string{"If-None-Match", "*"}, 304},
		"one with another tag does not":                  {[]string{"If-None-Match", `"` + old.Number.String() + `"`}, 200},
		"a tag without quotes is none":                   {[]string{"If-None-Match", list.Number.String()}, 200},
		"one from its time has it":                       {[]string{"If-Modified-Since", modified}, 304},
		"one from before does not":                       {[]string{"If-Modified-Since", before}, 200},
		"a time that is none says nothing":               {[]string{"If-Modified-Since", "yesterday"}, 200},
		"a tag says it better than a time":               {[]string{"If-None-Match", `"1"`, "If-Modified-Since", modified}, 200},
		"a tag says it better than a time, for both":     {[]string{"If-None-Match", tag, "If-Modified-Since", before}, 304},
		"one whose tag is longer than numbers can be":    {[]string{"If-None-Match", `"99999999999999999999"`}, 200},
		"one whose tag is the number in another form":    {[]string{"If-None-Match", `"+` + list.Number.String() + `"`}, 200},
		"one whose header is a list of nothing does not": {[]string{"If-None-Match", ",,"}, 200},
	} {
		t.Run(name, func(t *testing.T) {
			w := get("GET", "ca", c.header...)
			if w.Code != c.status || w.Header().Get("ETag") != tag || (w.Body.Len() > 0) != (c.status == 200) {
				t.Errorf("%d with %d bytes and %v", w.Code, w.Body.Len(), w.Header())
			}
		})
	}
	t.Run("HEAD says how long it is", func(t *testing.T) {
		w := get("HEAD", "ca")
		if w.Code != http.StatusOK || w.Body.Len() != 0 || w.Header().Get("Content-Length") != fmt.Sprint(len(list.Raw)) {
			t.Errorf("%d with %d bytes and %v", w.Code, w.Body.Len(), w.Header())
		}
	})
	t.Run("a list near its end, or past it, is not kept longer", func(t *testing.T) {
		l.exec(`update crls set this_update = clock_timestamp() - interval '1 hour', next_update = clock_timestamp() + interval '100.9 seconds'`)
		if got := get("GET", "ca").Header().Get("Cache-Control"); got != "public, max-age=100" {
			t.Error(got)
		}
		l.exec(`update crls set next_update = clock_timestamp() - interval '1 second'`)
		if got := get("GET", "ca").Header().Get("Cache-Control"); got != "public, max-age=0" {
			t.Error(got)
		}
	})
	t.Run("openssl verifies it, and finds the certificate revoked", func(t *testing.T) {
		dir := t.TempDir()
		ca := l.issuers["ca"].(*authority)
		write(t, filepath.Join(dir, "crl.der"), w.Body.Bytes())
		write(t, filepath.Join(dir, "ca.der"), ca.certificate.Raw)
		write(t, filepath.Join(dir, "leaf.der"), one[[]byte](l, `select der from certificate_versions where serial = $1`, v.serial))
		openssl(t, dir, "x509", "-inform", "der", "-in", "ca.der", "-out", "ca.pem")
		openssl(t, dir, "x509", "-inform", "der", "-in", "leaf.der", "-out", "leaf.pem")
		openssl(t, dir, "crl", "-inform", "der", "-in", "crl.der", "-out", "crl.pem")
		if out, err := openssl(t, dir, "crl", "-inform", "der", "-in", "crl.der", "-noout", "-verify", "-CAfile", "ca.pem"); err != nil || !strings.Contains(out, "verify OK") {
			t.Errorf("%s (%v)", out, err)
		}
		out, err := openssl(t, dir, "verify", "-crl_check", "-CAfile", "ca.pem", "-CRLfile", "crl.pem", "leaf.pem")
		if err == nil || !strings.Contains(out, "certificate revoked") {
			t.Errorf("%s (%v)", out, err)
		}
	})
}

func TestWithAnAuthorityOfTheServer(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []string{"ecdsa-p256", "rsa-2048", "ed25519"} {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			settings, err := local.Type.Prepare(json.RawMessage(`{"common_name": "Root", "key_algorithm": "` + algorithm + `"}`))
			if err != nil {
				t.Fatal(err)
			}
			ca, err := local.Type.New(settings, connector.Env{ID: "ca"})
			if err != nil {
				t.Fatal(err)
			}
			l.issuers["ca"] = ca
			issue := func(id string, shortLived bool) version {
				t.Helper()
				key, err := cert.ECDSAP256.Generate()
				if err != nil {
					t.Fatal(err)
				}
				issued, err := ca.Issue(l.ctx, cert.Order{
					PublicKey: key.Public(), KeyAlgorithm: cert.ECDSAP256, Names: cert.Names{DNS: []string{"a.example"}},
					Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, Validity: time.Hour, ShortLived: shortLived,
				})
				if err != nil {
					t.Fatal(err)
				}
				l.pending(id)
				v, err := l.record(l.db, id, "ca", issued.Leaf.Raw)
				if err := errors.Join(err, l.revoke(id, "keyCompromise")); err != nil {
					t.Fatal(err)
				}
				return v
			}
			usual, short := issue("usual", false), issue("short", true)
			list := l.list()
			if entry(list, usual) == nil || entry(list, short) != nil || len(list.RevokedCertificateEntries) != 1 {
				t.Errorf("the list has %v", list.RevokedCertificateEntries)
			}
			dir := t.TempDir()
			write(t, filepath.Join(dir, "ca.der"), serve(t, l.ServeCA, "GET", "ca").Body.Bytes())
			write(t, filepath.Join(dir, "crl.der"), serve(t, l.ServeCRL, "GET", "ca").Body.Bytes())
			openssl(t, dir, "x509", "-inform", "der", "-in", "ca.der", "-out", "ca.pem")
			if out, err := openssl(t, dir, "crl", "-inform", "der", "-in", "crl.der", "-noout", "-verify", "-CAfile", "ca.pem"); err != nil || !strings.Contains(out, "verify OK") {
				t.Errorf("%s (%v)", out, err)
			}
		})
	}
}

// Behind a pooler pgx may have to learn every type from Go's.
func TestWorksWithoutPreparedStatements(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	l := labOn(t, pgtest.Pool(t, url))
	sep := "?"
	if strings.Contains(url, "?") {
		sep = "&"
	}
	l.DB = pgtest.Pool(t, url+sep+"default_query_exec_mode=exec")
	held, v := l.certificate("a", leaf{}), l.certificate("b", leaf{})
	since := time.Now()
	_, err := l.RevokeCertificate(l.ctx, asked("b", revocation.Why{Reason: "keyCompromise", InvalidityDate: &since}))
	if err := errors.Join(err, l.revoke("a", "certificateHold"), l.release("a")); err != nil {
		t.Fatal(err)
	}
	list := l.list()
	if entry(list, v) == nil || entry(list, held) != nil {
		t.Errorf("the list has %v", list.RevokedCertificateEntries)
	}
	if w := serve(t, l.ServeCRL, "GET", "ca"); !bytes.Equal(w.Body.Bytes(), list.Raw) {
		t.Errorf("served %d with %d bytes", w.Code, w.Body.Len())
	}
	for header, value := range map[string]string{
		"If-None-Match": `"` + list.Number.String() + `"`, "If-Modified-Since": list.ThisUpdate.Format(http.TimeFormat),
	} {
		if w := serve(t, l.ServeCRL, "GET", "ca", header, value); w.Code != http.StatusNotModified {
			t.Errorf("%s: %d", header, w.Code)
		}
	}
	if states, err := l.List(l.ctx, &revocation.ListCRLs{}); err != nil || len(states.Items) != 1 {
		t.Errorf("%+v (%v)", states, err)
	}
	l.issuers["ca"].(*authority).before = func() error { return errors.New("broken") }
	l.exec(`update crls set due_at = 'epoch'`)
	if _, err := l.Generate(l.ctx); err == nil || one[string](l, `select error from crls`) == "" {
		t.Error(err)
	}
}

func TestServedAuthority(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	w := serve(t, l.ServeCA, "GET", "ca")
	served, err := x509.ParseCertificate(w.Body.Bytes())
	if err != nil || !served.Equal(l.issuers["ca"].(*authority).certificate) || w.Header().Get("Content-Type") != "application/pkix-cert" ||
		w.Header().Get("Cache-Control") != "public, max-age=86400" {
		t.Errorf("%d %v (%v)", w.Code, w.Header(), err)
	}
	if w := serve(t, l.ServeCA, "GET", "ca", "If-None-Match", w.Header().Get("ETag")); w.Code != http.StatusNotModified || w.Body.Len() > 0 {
		t.Errorf("one that has it gets %d", w.Code)
	}
	if w := serve(t, l.ServeCA, "GET", "none"); w.Code != http.StatusNotFound {
		t.Errorf("an unknown issuer: %d", w.Code)
	}
	l.issuers["ca"] = struct{ issuer.Issuer }{l.issuers["ca"]}
	if w := serve(t, l.ServeCA, "GET", "ca"); w.Code != http.StatusNotFound {
		t.Errorf("an issuer without a certificate here: %d", w.Code)
	}
}

func serve(t *testing.T, h func(http.ResponseWriter, *http.Request) error, method, id string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, "/", nil)
	r.SetPathValue("issuer", id)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	if err := h(w, r); err != nil {
		w.WriteHeader(fault.Of(err).Status)
		_ = json.NewEncoder(w).Encode(fault.Shown(err))
	}
	return w
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func openssl(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	c := exec.CommandContext(t.Context(), "openssl", args...)
	c.Dir = dir
	out, err := c.CombinedOutput()
	return string(out), err
}

// BenchmarkList signs a list of 100,000 entries from the database.
func BenchmarkList(b *testing.B) {
	l := newLab(b)
	revoked(l, 100_000)
	b.ReportAllocs()
	for b.Loop() {
		l.exec(`update crls set due_at = 'epoch'`)
		generate(b, l, 1)
	}
	b.ReportMetric(float64(one[int64](l, `select length(der) from crls`))/(1<<20), "MiB-list")
}
