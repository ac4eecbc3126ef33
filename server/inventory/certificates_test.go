package inventory_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"software.sslmate.com/src/go-pkcs12"

	"certctl/server/audit"
	"certctl/server/fault"
	"certctl/server/inventory"
	"certctl/server/perm"
	"certctl/server/pg"
	"certctl/server/pg/pgtest"
	"certctl/server/store"
)

// kept are certificates n = 1 to 6 of one version each, in the states active,
// held, expired, revoked, pending and archived; the policies 1 and 2 renew them
// 1 and 2 days before their end, 3 does not.
const kept = `
	insert into teams (id, name) values ('team_1', 'team 1');
	insert into owners (id, name) values ('own_1', 'owner 1'), ('own_2', 'owner 2');
	insert into renewal_policies (id, name, auto_renew, renew_before_seconds, max_retries, retry_every_seconds,
		attempt_timeout_seconds, start_over_after_seconds, alerts)
	select 'pol_' || n, 'policy ' || n, n <> 3, n * 86400, 3, 60, 60, 86400, '[]' from generate_series(1, 3) n;
	insert into profiles (id, name, enabled, key_algorithms, default_validity_seconds, max_validity_seconds, ext_key_usages,
		san_kinds, dns_patterns, ip_ranges, uri_prefixes, email_domains, max_sans, wildcards, must_staple, short_lived, cab_lints)
	values ('pro_1', 'profile 1', true, '{ecdsa-p256}', 86400, 86400, '{serverAuth}', '{dns}', '{}', '{}', '{}', '{}', 10, false, false, false, false);
	insert into issuers (id, name, type, enabled, settings, shown) values ('iss_1', 'issuer 1', 'fake', true, '', '{}');
	insert into chains (id, ders) values ('\x01', '{}');
	with c as (
		select n, 'crt_' || n as id, (array['active', 'held', 'expired', 'revoked', 'pending', 'archived'])[n] as state,
			clock_timestamp() - interval '1 day' as begins, clock_timestamp() + interval '89 days' as ends
		from generate_series(1, 6) n
	), certificate as (
		insert into certificates (id, name, state, common_name, sans, environment, tags, owner_id, team_id, issuer_id, profile_id,
			policy_id, csr, key_algorithm, validity_seconds, version, serial, fingerprint, not_before, not_after, renew_at,
			created_at, created_by, archived_at)
		select id, 'name ' || n, state, n || '.example', array['dns:' || n || '.example'], 'test', '{"app": "shop", "odd": "a,b\\c"}',
			'own_1', 'team_1', 'iss_1', 'pro_1', 'pol_1', '\x30', 'ecdsa-p256', 86400,
			case when n <> 5 then 1 end, case when n <> 5 then '1' || n end, case when n <> 5 then sha256(id::bytea) end,
			case when n <> 5 then begins end, case when n <> 5 then ends end, case when n <= 3 then ends - interval '1 day' end,
			timestamptz '2024-01-01 00:00:00Z' + n * interval '1 day', 'key', case when n = 6 then clock_timestamp() end
		from c
	)
	insert into certificate_versions (certificate_id, number, issuer_id, serial, fingerprint, not_before, not_after,
		key_algorithm, der, chain_id)
	select id, 1, 'iss_1', '1' || n, sha256(id::bytea), begins, ends, 'ecdsa-p256', '\x30', '\x01' from c where state <> 'pending'`

// keeping returns an inventory with the certificates, and a context in which a
// key acts.
func keeping(t *testing.T) (context.Context, *inventory.Inventory) {
	t.Helper()
	db := pgtest.DB(t)
	if _, err := db.Exec(t.Context(), kept); err != nil {
		t.Fatal(err)
	}
	return perm.With(t.Context(), perm.Actor{Kind: perm.ByKey, ID: "key_1", Name: "tester"}), &inventory.Inventory{DB: db}
}

// changes are the events of an action, the newest first.
func changes(t *testing.T, db *pgxpool.Pool, action *audit.Action) []audit.Entry {
	t.Helper()
	events, err := audit.List(t.Context(), db, audit.Filter{Action: action.Name}, audit.Page{})
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func one(id string) *inventory.ByID { return &inventory.ByID{ID: id} }

func refused(t *testing.T, err error, kind *fault.Kind, says string) {
	t.Helper()
	if fault.Of(err) != kind || !strings.Contains(fault.Shown(err), says) {
		t.Errorf("it says %v (%s), want %s: %s", err, fault.Of(err).Code, kind.Code, says)
	}
}

func TestListOfCertificates(t *testing.T) {
	t.Parallel()
	ctx, inv := keeping(t)
	names := func(in *inventory.ListCertificates) (names []string) {
		t.Helper()
		in.Limit, in.Sort = 100, "name"
		page, err := inv.Certificates(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range page.Items {
			names = append(names, c.Name)
		}
		return names
	}
	t.Run("leaves the archived ones out", func(t *testing.T) {
		if got := names(&inventory.ListCertificates{}); len(got) != 5 || slices.Contains(got, "name 6") {
			t.Errorf("it holds %v", got)
		}
	})
	t.Run("has those that are asked for", func(t *testing.T) {
		if got := names(&inventory.ListCertificates{State: []string{"held", "archived"}, Tag: "app=shop", SAN: "6.example"}); !slices.Equal(got, []string{"name 6"}) {
			t.Errorf("it holds %v", got)
		}
	})
	t.Run("finds a tag whose value has a comma and a backslash", func(t *testing.T) {
		if got := names(&inventory.ListCertificates{Tag: `odd=a\,b\\c,app=shop`}); len(got) != 5 {
			t.Errorf("it holds %v", got)
		}
		if got := names(&inventory.ListCertificates{Tag: `odd=a\,b`}); len(got) != 0 {
			t.Errorf("it holds %v", got)
		}
	})
	t.Run("refuses a tag without a value, and a key twice", func(t *testing.T) {
		for _, tag := range []string{"app", "app=shop,app=bar"} {
			_, err := inv.Certificates(ctx, &inventory.ListCertificates{Tag: tag, Limit: 5})
			refused(t, err, fault.Invalid, "query.tag")
		}
	})
	t.Run("goes on where the page before ended", func(t *testing.T) {
		in := &inventory.ListCertificates{Limit: 2}
		var got []string
		for {
			page, err := inv.Certificates(ctx, in)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range page.Items {
				got = append(got, c.ID)
			}
			if in.After = page.Next; page.Next == "" {
				break
			}
		}
		if !slices.Equal(got, []string{"crt_5", "crt_4", "crt_3", "crt_2", "crt_1"}) {
			t.Errorf("it holds %v", got)
		}
	})
	t.Run("that is empty is an array", func(t *testing.T) {
		page, err := inv.Certificates(ctx, &inventory.ListCertificates{OwnerID: "nobody", Limit: 5})
		raw, _ := json.Marshal(page)
		if err != nil || string(raw) != `{"items":[]}` {
			t.Errorf("it is %s (%v)", raw, err)
		}
	})
}

func TestFieldsOfAList(t *testing.T) {
	t.Parallel()
	ctx, inv := keeping(t)
	items := func(t *testing.T, fields ...string) []map[string]any {
		t.Helper()
		page, err := inv.Certificates(ctx, &inventory.ListCertificates{Fields: fields, Limit: 100, Sort: "created_at"})
		if err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(page)
		if err != nil {
			t.Fatal(err)
		}
		var got struct{ Items []map[string]any }
		if err := json.Unmarshal(raw, &got); err != nil {
			t.Fatal(err)
		}
		return got.Items
	}
	t.Run("are those that were asked for, and the id", func(t *testing.T) {
		got := items(t, "not_after", "name", "name")
		if keys := slices.Sorted(maps.Keys(got[0])); !slices.Equal(keys, []string{"id", "name", "not_after"}) || got[0]["id"] != "crt_1" {
			t.Errorf("it is %v", got[0])
		}
		if keys := slices.Sorted(maps.Keys(got[4])); !slices.Equal(keys, []string{"id", "name"}) {
			t.Errorf("of one that was never issued it is %v", got[4])
		}
	})
	t.Run("are as they are without asking", func(t *testing.T) {
		c, err := inv.Certificate(ctx, one("crt_1"))
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := json.Marshal(c)
		var whole map[string]any
		if err := json.Unmarshal(raw, &whole); err != nil {
			t.Fatal(err)
		}
		if got := items(t)[0]; !reflect.DeepEqual(got, whole) {
			t.Errorf("it is %v, want %v", got, whole)
		}
		if got := items(t, slices.Collect(maps.Keys(whole))...)[0]; !reflect.DeepEqual(got, whole) {
			t.Errorf("with all of them named it is %v, want %v", got, whole)
		}
	})
	t.Run("that no certificate has are refused with the nearest", func(t *testing.T) {
		_, err := inv.Certificates(ctx, &inventory.ListCertificates{Fields: []string{"not_aftre"}, Limit: 5})
		refused(t, err, fault.Invalid, "the nearest is not_after")
	})
	t.Run("are all optional in the document but the id", func(t *testing.T) {
		s := huma.NewMapRegistry("#/", huma.DefaultSchemaNamer).Schema(reflect.TypeFor[inventory.CertificateItem](), false, "")
		if !slices.Equal(s.Required, []string{"id"}) || s.Properties["not_after"] == nil || s.Properties["fields"] != nil {
			t.Errorf("it requires %v of %v", s.Required, slices.Collect(maps.Keys(s.Properties)))
		}
	})
}

// issue makes crt_1 a real certificate of an authority of the test's own.
func issue(t *testing.T, db *pgxpool.Pool) (leaf, ca *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(name string, parent *x509.Certificate) *x509.Certificate {
		c := &x509.Certificate{
			SerialNumber: big.NewInt(17), Subject: pkix.Name{CommonName: name}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1e10, 0),
			IsCA: parent == nil, BasicConstraintsValid: true,
		}
		if parent == nil {
			parent = c
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		c, err = x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	ca = sign("authority", nil)
	leaf = sign("leaf", ca)
	_, err = db.Exec(t.Context(), `
		with chain as (insert into chains (id, ders) values ('\x02', array[$2::bytea]) returning id)
		insert into certificate_versions (certificate_id, number, issuer_id, serial, fingerprint, not_before, not_after, key_algorithm, der, chain_id)
		select 'crt_1', 2, 'iss_1', '20', sha256($1), not_before, not_after, key_algorithm, $1, chain.id
		from certificate_versions, chain where certificate_id = 'crt_1'`, leaf.Raw, ca.Raw)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(t.Context(), `update certificates set version = 2 where id = 'crt_1'`); err != nil {
		t.Fatal(err)
	}
	return leaf, ca
}

func TestExport(t *testing.T) {
	t.Parallel()
	ctx, inv := keeping(t)
	leaf, ca := issue(t, inv.DB)
	t.Run("has the certificate, its chain, and both", func(t *testing.T) {
		got, err := inv.Export(ctx, &inventory.OneVersion{ByID: *one("crt_1")})
		if err != nil || got.Version != 2 || got.FullPEM != got.CertificatePEM+got.ChainPEM {
			t.Fatalf("%+v (%v)", got, err)
		}
		for text, want := range map[string]*x509.Certificate{got.CertificatePEM: leaf, got.ChainPEM: ca} {
			if b, rest := pem.Decode([]byte(text)); b == nil || b.Type != "CERTIFICATE" || len(rest) > 0 || !bytes.Equal(b.Bytes, want.Raw) {
				t.Errorf("%s is not %s", text, want.Subject)
			}
		}
	})
	t.Run("has an older version, with no chain if it has none", func(t *testing.T) {
		got, err := inv.Export(ctx, &inventory.OneVersion{ByID: *one("crt_1"), Version: 1})
		if err != nil || got.Version != 1 || got.ChainPEM != "" || got.FullPEM != got.CertificatePEM {
			t.Errorf("%+v (%v)", got, err)
		}
	})
	t.Run("says why there is none", func(t *testing.T) {
		_, err := inv.Export(ctx, &inventory.OneVersion{ByID: *one("crt_1"), Version: 9})
		refused(t, err, fault.NotFound, "from 1 to 2")
		_, err = inv.Export(ctx, &inventory.OneVersion{ByID: *one("crt_5")})
		refused(t, err, fault.NotFound, "pending")
		_, err = inv.Export(ctx, &inventory.OneVersion{ByID: *one("crt_0")})
		refused(t, err, fault.NotFound, "certificate not found")
	})
	t.Run("as a trust store opens with the password and no other", func(t *testing.T) {
		in := &inventory.NewTrustStore{ByID: *one("crt_1")}
		in.Body.Password = "pässword"
		got, err := inv.ExportP12(ctx, in)
		if err != nil || got.Version != 2 {
			t.Fatal(got.Version, err)
		}
		certs, err := pkcs12.DecodeTrustStore(got.PKCS12, in.Body.Password)
		if err != nil || len(certs) != 2 || !certs[0].Equal(leaf) || !certs[1].Equal(ca) {
			t.Errorf("it holds %d (%v)", len(certs), err)
		}
		if _, err := pkcs12.DecodeTrustStore(got.PKCS12, "password"); !errors.Is(err, pkcs12.ErrIncorrectPassword) {
			t.Errorf("with another password: %v", err)
		}
		in.Body.Password = "password \U0001F511"
		_, err = inv.ExportP12(ctx, in)
		refused(t, err, fault.Invalid, "body.password")
	})
}

func TestVersionsOfACertificate(t *testing.T) {
	t.Parallel()
	ctx, inv := keeping(t)
	issue(t, inv.DB)
	for id, want := range map[string]int{"crt_1": 2, "crt_2": 1, "crt_5": 0} {
		v, err := inv.Versions(ctx, one(id))
		if raw, _ := json.Marshal(v); err != nil || len(v.Items) != want || strings.Contains(string(raw), "null") {
			t.Errorf("%s has %s (%v)", id, raw, err)
		}
	}
	_, err := inv.Versions(ctx, one("crt_0"))
	refused(t, err, fault.NotFound, "certificate not found")
}

func TestChangeOfACertificate(t *testing.T) {
	t.Parallel()
	ctx, inv := keeping(t)
	change := func(id string, edit func(*inventory.CertificateChange)) (store.Certificate, error) {
		in := &inventory.CertificateChange{ByID: *one(id)}
		edit(in)
		return inv.ChangeCertificate(ctx, in)
	}
	before, err := inv.Certificate(ctx, one("crt_1"))
	if err != nil {
		t.Fatal(err)
	}
	t.Run("changes what it names and tells of it", func(t *testing.T) {
		got, err := change("crt_1", func(in *inventory.CertificateChange) {
			in.Body.Revision, in.Body.Name, in.Body.OwnerID, in.Body.TeamID = new(int64(1)), new("another"), new("own_2"), new("")
			in.Body.Environment, in.Body.Tags = new("test"), map[string]string{"new": "tag"}
		})
		if err != nil || got.Name != "another" || got.OwnerID != "own_2" || got.TeamID != nil || got.Environment != "test" ||
			!maps.Equal(got.Tags, map[string]string{"new": "tag"}) || got.Revision != 2 || !got.UpdatedAt.After(before.UpdatedAt) ||
			!got.RenewAt.Equal(*before.RenewAt) || got.PolicyID != "pol_1" {
			t.Errorf("%+v (%v)", got, err)
		}
		if read, err := inv.Certificate(ctx, one("crt_1")); err != nil || !reflect.DeepEqual(read, got) {
			t.Errorf("it is read as %+v (%v)", read, err)
		}
		e := changes(t, inv.DB, audit.CertChanged)
		if len(e) != 1 || e[0].ResourceKind != "certificate" || e[0].ResourceID != "crt_1" || e[0].ActorID != "key_1" ||
			!maps.Equal(e[0].Details, map[string]string{"name": "another", "fields": "name owner_id team_id tags"}) {
			t.Errorf("it is told as %+v", e)
		}
	})
	t.Run("that changes nothing leaves no trace", func(t *testing.T) {
		got, err := change("crt_1", func(in *inventory.CertificateChange) {
			in.Body.Name, in.Body.Tags = new("another"), map[string]string{"new": "tag"}
		})
		if err != nil || got.Revision != 2 || len(changes(t, inv.DB, audit.CertChanged)) != 1 {
			t.Errorf("%+v (%v)", got, err)
		}
	})
	t.Run("empties the tags", func(t *testing.T) {
		got, err := change("crt_1", func(in *inventory.CertificateChange) { in.Body.Tags = map[string]string{} })
		if err != nil || len(got.Tags) != 0 || got.Revision != 3 {
			t.Errorf("%+v (%v)", got, err)
		}
	})
	t.Run("of the policy says anew when it is renewed", func(t *testing.T) {
		for _, n := range []int{2, 1} { // they are under the first
			policy := fmt.Sprintf("pol_%d", n)
			for _, id := range []string{"crt_1", "crt_2", "crt_3"} {
				got, err := change(id, func(in *inventory.CertificateChange) { in.Body.PolicyID = &policy })
				if err != nil || got.RenewAt == nil {
					t.Fatalf("%+v (%v)", got, err)
				}
				var want time.Time
				err = inv.DB.QueryRow(ctx, `select renewal_time(id, not_before, not_after, $2) from certificates where id = $1`, id, n*86400).Scan(&want)
				if err != nil || !got.RenewAt.Equal(want) {
					t.Errorf("%s under %s is renewed at %s, want %s (%v)", id, policy, got.RenewAt, want, err)
				}
			}
		}
		got, err := change("crt_1", func(in *inventory.CertificateChange) { in.Body.PolicyID = new("pol_3") })
		if err != nil || got.RenewAt != nil {
			t.Errorf("under a policy that does not renew: %+v (%v)", got.RenewAt, err)
		}
		for _, id := range []string{"crt_4", "crt_5"} {
			got, err := change(id, func(in *inventory.CertificateChange) { in.Body.PolicyID = new("pol_2") })
			if err != nil || got.PolicyID != "pol_2" || got.RenewAt != nil {
				t.Errorf("%s, which is %s: %+v (%v)", id, got.State, got.RenewAt, err)
			}
		}
	})
	t.Run("is refused", func(t *testing.T) {
		events := len(changes(t, inv.DB, audit.CertChanged))
		for _, c := range []struct {
			id   string
			edit func(*inventory.CertificateChange)
			kind *fault.Kind
			says string
		}{
			{"crt_0", func(in *inventory.CertificateChange) { in.Body.Name = new("x") }, fault.NotFound, "certificate not found"},
			{"crt_6", func(in *inventory.CertificateChange) { in.Body.Name = new("x") }, fault.Conflict, "archived"},
			{"crt_1", func(in *inventory.CertificateChange) { in.Body.Revision, in.Body.Name = new(int64(1)), new("x") }, fault.Conflict, "body.revision"},
			{"crt_1", func(in *inventory.CertificateChange) { in.Body.Name = new("name 2") }, fault.Conflict, "body.name"},
			{"crt_1", func(in *inventory.CertificateChange) { in.Body.OwnerID = new("own_9") }, fault.Invalid, "body.owner_id"},
			{"crt_1", func(in *inventory.CertificateChange) { in.Body.TeamID = new("team_9") }, fault.Invalid, "body.team_id"},
			{"crt_1", func(in *inventory.CertificateChange) { in.Body.PolicyID = new("pol_9") }, fault.Invalid, "body.policy_id"},
			{"crt_1", func(in *inventory.CertificateChange) { in.Body.Tags = map[string]string{"UPPER": ""} }, fault.Invalid, "body.tags"},
			{"crt_1", func(in *inventory.CertificateChange) { in.Body.Environment = new("a\x00b") }, fault.Invalid, "zero byte"},
		} {
			_, err := change(c.id, c.edit)
			refused(t, err, c.kind, c.says)
		}
		if now := len(changes(t, inv.DB, audit.CertChanged)); now != events {
			t.Errorf("%d refusals were told as changes", now-events)
		}
	})
	t.Run("may take the name of an archived one", func(t *testing.T) {
		if _, err := change("crt_1", func(in *inventory.CertificateChange) { in.Body.Name = new("name 6") }); err != nil {
			t.Error(err)
		}
	})
}

func TestChangesOfOneCertificateDoNotLoseEachOther(t *testing.T) {
	t.Parallel()
	ctx, inv := keeping(t)
	var all sync.WaitGroup
	for n := range 20 {
		all.Go(func() {
			in := &inventory.CertificateChange{ByID: *one("crt_1")}
			if n%2 == 0 {
				in.Body.Environment = new(strings.Repeat("e", n+1))
			} else {
				in.Body.Name = new(strings.Repeat("n", n))
			}
			if _, err := inv.ChangeCertificate(ctx, in); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	c, err := inv.Certificate(ctx, one("crt_1"))
	if err != nil || c.Revision != 21 || !strings.HasPrefix(c.Environment, "e") || !strings.HasPrefix(c.Name, "nn") && c.Name != "n" {
		t.Errorf("it is %s in %s, revision %d (%v)", c.Name, c.Environment, c.Revision, err)
	}
}

// waits returns once a session waits for a lock.
func waits(t *testing.T, db *pgxpool.Pool) {
	t.Helper()
	pgtest.Eventually(t, "another session waits", func() bool {
		var waits bool
		err := db.QueryRow(t.Context(), `select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')`).Scan(&waits)
		return err == nil && waits
	})
}

// A change of a policy that is under way when a certificate comes to it holds
// for the certificate too.
func TestChangeToAPolicyThatIsBeingChanged(t *testing.T) {
	t.Parallel()
	ctx, inv := keeping(t)
	done := make(chan error, 1)
	err := pg.InTx(ctx, inv.DB, func(tx pgx.Tx) error {
		p, err := store.LockPolicyForChange(ctx, tx, "pol_2")
		if err != nil {
			return err
		}
		p.RenewBeforeSeconds = 40 * 86400
		if _, err := store.ChangePolicy(ctx, tx, p); err != nil {
			return err
		}
		go func() {
			in := &inventory.CertificateChange{ByID: *one("crt_1")}
			in.Body.PolicyID = new("pol_2")
			_, err := inv.ChangeCertificate(ctx, in)
			done <- err
		}()
		waits(t, inv.DB)
		return nil
	})
	if err := errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	var right bool
	err = inv.DB.QueryRow(ctx, `select renew_at = renewal_time(id, not_before, not_after, 40 * 86400) from certificates where id = 'crt_1'`).Scan(&right)
	if err != nil || !right {
		t.Errorf("it is renewed by the policy as it was (%v)", err)
	}
}

func TestArchive(t *testing.T) {
	t.Parallel()
	ctx, inv := keeping(t)
	job := func(id, certificate, state string) {
		t.Helper()
		_, err := inv.DB.Exec(ctx, `
			insert into jobs (id, kind, certificate_id, args, priority, max_attempts, retry_every, timeout, created_by, state, leased_until)
			values ($1, 'renew', $2, '{}', 1, 1, '1 s', '1 s', 'key', $3, case when $3 = 'running' then clock_timestamp() + interval '1 hour' end)`,
			id, certificate, state)
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := inv.DB.Exec(ctx, `
		insert into notifications (id, once, event, severity, channel_id, certificate_id, version, days, data, recipients)
		select 'ntf_' || id, id, 'cert.expiring', 'warning', 'chn_1', id, version, 7, '{}', '{}' from certificates where id in ('crt_1', 'crt_2')`); err != nil {
		t.Fatal(err)
	}
	job("job_1", "crt_1", "running")
	job("job_2", "crt_2", "pending")
	job("job_3", "crt_3", "failed")
	for _, id := range []string{"crt_1", "crt_3", "crt_4", "crt_5"} {
		t.Run("of "+id, func(t *testing.T) {
			if _, err := inv.ArchiveCertificate(ctx, one(id)); err != nil {
				t.Fatal(err)
			}
			c, err := inv.Certificate(ctx, one(id))
			if err != nil || c.State != "archived" || c.ArchivedAt == nil || c.RenewAt != nil || c.Revision != 2 {
				t.Errorf("%+v (%v)", c, err)
			}
		})
	}
	t.Run("again changes nothing", func(t *testing.T) {
		for _, id := range []string{"crt_1", "crt_6"} {
			before, err := inv.Certificate(ctx, one(id))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := inv.ArchiveCertificate(ctx, one(id)); err != nil {
				t.Fatal(err)
			}
			if now, err := inv.Certificate(ctx, one(id)); err != nil || !reflect.DeepEqual(now, before) {
				t.Errorf("%+v, before %+v (%v)", now, before, err)
			}
		}
	})
	t.Run("is refused for one that is held, and for none", func(t *testing.T) {
		_, err := inv.ArchiveCertificate(ctx, one("crt_2"))
		refused(t, err, fault.Conflict, "release it or revoke it")
		_, err = inv.ArchiveCertificate(ctx, one("crt_0"))
		refused(t, err, fault.NotFound, "certificate not found")
	})
	t.Run("is told once each", func(t *testing.T) {
		told := map[string]string{}
		events := changes(t, inv.DB, audit.CertArchived)
		for _, e := range events {
			told[e.ResourceID] = e.Details["name"] + " " + e.Details["from"]
		}
		if len(events) != 4 || !maps.Equal(told, map[string]string{"crt_1": "name 1 active", "crt_3": "name 3 expired", "crt_4": "name 4 revoked", "crt_5": "name 5 pending"}) {
			t.Errorf("it is told as %v", told)
		}
	})
	t.Run("withdraws what would warn of its end", func(t *testing.T) {
		rows, _ := inv.DB.Query(ctx, `select state from notifications order by id`)
		if states, err := pgx.CollectRows(rows, pgx.RowTo[string]); err != nil || !slices.Equal(states, []string{"withdrawn", "pending"}) {
			t.Errorf("they are %q (%v)", states, err)
		}
	})
	t.Run("cancels what would issue or renew it", func(t *testing.T) {
		rows, _ := inv.DB.Query(ctx, `select state from jobs order by id`)
		states, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || !slices.Equal(states, []string{"cancelled", "pending", "cancelled"}) {
			t.Errorf("the jobs are %v (%v)", states, err)
		}
	})
}

// A job that ends holds its own row before it gets to the certificate.
func TestArchiveDoesNotDeadlockWithAJobThatEnds(t *testing.T) {
	t.Parallel()
	ctx, inv := keeping(t)
	_, err := inv.DB.Exec(ctx, `
		insert into jobs (id, kind, certificate_id, args, priority, max_attempts, retry_every, timeout, created_by, state, leased_until)
		values ('job_1', 'renew', 'crt_1', '{}', 1, 1, '1 s', '1 s', 'key', 'running', clock_timestamp() + interval '1 hour')`)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	err = pg.InTx(ctx, inv.DB, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select from jobs where id = 'job_1' for no key update`); err != nil {
			return err
		}
		go func() {
			_, err := inv.ArchiveCertificate(ctx, one("crt_1"))
			done <- err
		}()
		waits(t, inv.DB)
		_, err := tx.Exec(ctx, `update certificates set updated_at = clock_timestamp() where id = 'crt_1'`)
		return err
	})
	if err := errors.Join(err, <-done); err != nil {
		t.Error(err)
	}
}

func TestExpire(t *testing.T) {
	t.Parallel()
	ctx, inv := keeping(t)
	inTx := func(ctx context.Context, f func(pgx.Tx) error) error { return pg.InTx(ctx, inv.DB, f) }
	const n = 2500
	_, err := inv.DB.Exec(ctx, `
		with v as (
			insert into certificate_versions (certificate_id, number, issuer_id, serial, fingerprint, not_before, not_after, key_algorithm, der, chain_id)
			select 'old_' || n, 1, 'iss_1', to_char(100000 + n, 'FM000000'), sha256(n::text::bytea), '2024-01-01Z', '2024-02-01Z', 'ecdsa-p256', '\x30', '\x01'
			from generate_series(1, $1::integer) n
		), k as (
			insert into certificate_keys (certificate_id, number, sealed, not_after) select 'old_' || n, 1, '\x01', '2024-02-01Z' from generate_series(1, $1) n
		)
		insert into certificates (id, name, state, common_name, sans, environment, tags, owner_id, issuer_id, profile_id, policy_id,
			key_algorithm, validity_seconds, version, serial, fingerprint, not_before, not_after, created_by)
		select 'old_' || n, 'old ' || n, 'active', '', '{}', '', '{}', 'own_1', 'iss_1', 'pro_1', 'pol_1', 'ecdsa-p256', 86400,
			1, to_char(100000 + n, 'FM000000'), sha256(n::text::bytea), '2024-01-01Z', '2024-02-01Z', 'key'
		from generate_series(1, $1) n`, n)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := inv.DB.Exec(ctx, `insert into certificate_keys (certificate_id, number, sealed, not_after) values ('crt_1', 1, '\x01', '2100-01-01Z')`); err != nil {
		t.Fatal(err)
	}
	t.Run("that fails marks and tells nothing", func(t *testing.T) {
		broken := errors.New("broken")
		_, err := inv.Expire(ctx, func(ctx context.Context, f func(pgx.Tx) error) error {
			return inTx(ctx, func(tx pgx.Tx) error { return errors.Join(f(tx), broken) })
		})
		if c, _ := inv.Certificate(ctx, one("old_1")); !errors.Is(err, broken) || c.State != "active" || len(changes(t, inv.DB, audit.CertExpired)) != 0 {
			t.Errorf("it is %s (%v)", c.State, err)
		}
	})
	t.Run("by three replicas at once marks and tells of each once", func(t *testing.T) {
		var all sync.WaitGroup
		var marked [3]int
		for r := range marked {
			all.Go(func() {
				var err error
				if marked[r], err = inv.Expire(ctx, inTx); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		// Rows that one had locked were left by the others.
		last, err := inv.Expire(ctx, inTx)
		if got := marked[0] + marked[1] + marked[2] + last; err != nil || got != n {
			t.Errorf("%v and then %d were marked, want %d (%v)", marked, last, n, err)
		}
		var expired, told, keys int
		err = inv.DB.QueryRow(ctx, `
			select (select count(*) from certificates where state = 'expired' and id like 'old%'),
			       (select count(distinct resource_id) from audit_events where action = $1),
			       (select count(*) from certificate_keys)`, audit.CertExpired.Name).Scan(&expired, &told, &keys)
		if err != nil || expired != n || told != n || keys != 1 {
			t.Errorf("%d are expired, %d told of, %d keys are left (%v)", expired, told, keys, err)
		}
	})
	t.Run("says of which version", func(t *testing.T) {
		e := changes(t, inv.DB, audit.CertExpired)
		d := e[0].Details
		if d["version"] != "1" || d["issuer"] != "iss_1" || d["not_after"] != "2024-02-01T00:00:00Z" || !strings.HasPrefix(d["name"], "old ") || d["serial"] == "" || e[0].ResourceKind != "certificate" {
			t.Errorf("it is told as %+v", e[0])
		}
	})
}

func TestStats(t *testing.T) {
	t.Parallel()
	ctx, inv := keeping(t)
	s, err := inv.Stats(ctx, &inventory.StatsQuery{Days: 7})
	if err != nil || s.ByState["active"] != 1 || len(s.Issued) != 7 || s.Ending[len(s.Ending)-1] != (store.EndingCount{Days: 90, Count: 1}) {
		t.Errorf("%+v (%v)", s, err)
	}
}
