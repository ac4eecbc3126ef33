package app_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"certctl/server/api"
	"certctl/server/client"
	"certctl/server/config"
	"certctl/server/fault"
	"certctl/server/pg/pgtest"
	"certctl/server/store"
)

// estate makes what a certificate belongs to, and returns a request for ones
// that belong to it.
func estate(t *testing.T, r *running) api.CertificateRequest {
	t.Helper()
	owner := &api.NewOwner{}
	owner.Body.Name = "somebody"
	policy := &api.NewPolicy{}
	policy.Body.Name = "monthly"
	profile := &api.NewProfile{}
	profile.Body.Name = "servers"
	issuer := &api.NewIssuer{}
	issuer.Body.Name, issuer.Body.Type, issuer.Body.Settings = "root", "local", []byte(`{"common_name": "Root of the tests"}`)
	made(t, r, api.CreateOwner.Name, func() error { _, err := client.Do(t.Context(), r.Client, api.CreateOwner, owner); return err })
	made(t, r, api.CreatePolicy.Name, func() error { _, err := client.Do(t.Context(), r.Client, api.CreatePolicy, policy); return err })
	made(t, r, api.CreateProfile.Name, func() error { _, err := client.Do(t.Context(), r.Client, api.CreateProfile, profile); return err })
	made(t, r, api.CreateIssuer.Name, func() error { _, err := client.Do(t.Context(), r.Client, api.CreateIssuer, issuer); return err })
	return api.CertificateRequest{Refs: store.Refs{
		OwnerID: owner.Body.Name, PolicyID: policy.Body.Name, ProfileID: profile.Body.Name, IssuerID: issuer.Body.Name,
	}}
}

func made(t *testing.T, _ *running, what string, f func() error) {
	t.Helper()
	if err := f(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// csr is a request for certification in PEM, with its key.
func csr(t *testing.T, names ...string) (string, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), key
}

func parse(t *testing.T, text string) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatalf("no certificate in %q", text)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCertificateFromARequestForCertification(t *testing.T) {
	t.Parallel()
	r := run(t, config.Values{config.PKIURL.Name: "http://pki.example.com"})
	in := &api.NewCertificate{Body: estate(t, r)}
	var key *ecdsa.PrivateKey
	in.Body.CSR, key = csr(t, "www.example.com", "example.com")
	in.Body.Name, in.Body.Tags, in.Body.Environment = "www", map[string]string{"tier": "front"}, "production"
	out, err := client.Do(t.Context(), r.Client, api.IssueCertificate, in)
	if err != nil {
		t.Fatal(err)
	}
	leaf := parse(t, out.CertificatePEM)
	if !key.PublicKey.Equal(leaf.PublicKey) || leaf.VerifyHostname("example.com") != nil {
		t.Errorf("the certificate is for another key, or other names: %v", leaf.DNSNames)
	}
	c := out.Certificate
	if c.State != "active" || *c.Version != 1 || c.KeySource != "csr" || c.RenewAt == nil || c.Tags["tier"] != "front" {
		t.Errorf("%+v", c)
	}
	if len(leaf.CRLDistributionPoints) != 1 || !strings.HasPrefix(leaf.CRLDistributionPoints[0], "http://pki.example.com/.well-known/pki/crl/") ||
		len(leaf.IssuingCertificateURL) != 1 {
		t.Errorf("it points to %v and %v", leaf.CRLDistributionPoints, leaf.IssuingCertificateURL)
	}
	_, err = client.Do(t.Context(), r.Client, api.DownloadKey, &api.KeyDownload{ID: c.ID})
	is(t, err, fault.Conflict, "the server never had it")
	in.Body.Name = "www"
	_, err = client.Do(t.Context(), r.Client, api.IssueCertificate, in)
	is(t, err, fault.Conflict, "name of another certificate")
}

func TestKeyThatTheServerMakesIsHandedOutOnce(t *testing.T) {
	t.Parallel()
	r := run(t, nil)
	in := &api.NewCertificate{Body: estate(t, r)}
	in.Body.Name, in.Body.SANs = "one", []string{"one.example.com", "192.0.2.1"}
	first, err := client.Do(t.Context(), r.Client, api.IssueCertificate, in)
	if err != nil {
		t.Fatal(err)
	}
	in.Body.Name, in.Body.KeyAlgorithm = "two", "rsa-2048"
	second, err := client.Do(t.Context(), r.Client, api.IssueCertificate, in)
	if err != nil {
		t.Fatal(err)
	}
	var sealed []byte
	pool := pgtest.Pool(t, r.url)
	if err := pool.QueryRow(t.Context(), `select sealed from certificate_keys where certificate_id = $1`, first.Certificate.ID).Scan(&sealed); err != nil {
		t.Fatal(err)
	}
	if _, err := x509.ParsePKCS8PrivateKey(sealed); err == nil {
		t.Error("the key is not sealed")
	}

	// Of many at once, one gets it.
	var wg sync.WaitGroup
	got := make([]api.DownloadedKey, 8)
	errs := make([]error, 8)
	for i := range got {
		wg.Go(func() {
			got[i], errs[i] = client.Do(t.Context(), r.Client, api.DownloadKey, &api.KeyDownload{ID: first.Certificate.ID})
		})
	}
	wg.Wait()
	n := 0
	for i, k := range got {
		if errs[i] != nil {
			is(t, errs[i], fault.Gone, "renew the certificate")
			continue
		}
		n++
		block, _ := pem.Decode([]byte(k.KeyPEM))
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil || !key.(*ecdsa.PrivateKey).PublicKey.Equal(parse(t, k.CertificatePEM).PublicKey) {
			t.Errorf("the key is not that of the certificate: %v", err)
		}
	}
	if n != 1 {
		t.Errorf("the key was handed out %d times", n)
	}

	p12 := &api.KeyDownload{ID: second.Certificate.ID}
	p12.Body.Format, p12.Body.Password = "pkcs12", "short"
	_, err = client.Do(t.Context(), r.Client, api.DownloadKey, p12)
	is(t, err, fault.Invalid, "body.password")
	p12.Body.Password = "a long password"
	k, err := client.Do(t.Context(), r.Client, api.DownloadKey, p12)
	if err != nil {
		t.Fatal(err)
	}
	_, leaf, err := pkcs12.Decode(k.PKCS12, p12.Body.Password)
	if err != nil || !leaf.Equal(parse(t, second.CertificatePEM)) {
		t.Errorf("%v %v", leaf, err)
	}
	var left int
	if err := pool.QueryRow(t.Context(), `select count(*) from certificate_keys`).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d keys are left (%v)", left, err)
	}
}

func TestManyAtOnceAreIssuedOrRefusedEach(t *testing.T) {
	t.Parallel()
	r := run(t, nil)
	request := estate(t, r)
	in := &api.NewCertificates{}
	for _, tt := range []struct{ name, san, csr, owner string }{
		{"a", "a.example.com", "", ""},
		{"a", "b.example.com", "", ""},
		{"c", "not a name", "", ""},
		{"d", "d.example.com", "", "nobody"},
		{"e", "", "nonsense", ""},
		{"f", "f.example.com", "", ""},
	} {
		one := request
		one.Name, one.CSR = tt.name, tt.csr
		if tt.san != "" {
			one.SANs = []string{tt.san}
		}
		if tt.owner != "" {
			one.OwnerID = tt.owner
		}
		in.Body.Requests = append(in.Body.Requests, one)
	}
	out, err := client.Do(t.Context(), r.Client, api.IssueCertificates, in)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"", "conflict", "invalid", "invalid", "invalid", ""}
	for i, o := range out.Items {
		if o.Code != want[i] || (o.Created == nil) != (o.Code != "") {
			t.Errorf("the request %d came to %+v, want %q", i, o, want[i])
		}
	}
	if out.Issued != 2 {
		t.Errorf("%d were issued", out.Issued)
	}
}

func TestCreateUnderAnIdempotencyKeyHappensOnce(t *testing.T) {
	t.Parallel()
	r := run(t, nil)
	in := &api.NewCertificate{IdempotencyKey: "once", Body: estate(t, r)}
	in.Body.Name, in.Body.SANs = "one", []string{"one.example.com"}
	ids := make([]string, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			out, err := client.Do(t.Context(), r.Client, api.IssueCertificate, in)
			if err != nil {
				t.Error(err)
			}
			ids[i] = out.Certificate.ID + out.CertificatePEM
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] || id == "" {
			t.Errorf("the answers differ: %q and %q", id, ids[0])
		}
	}
	other := *in
	other.Body.Name = "two"
	_, err := client.Do(t.Context(), r.Client, api.IssueCertificate, &other)
	is(t, err, fault.Conflict, "Idempotency-Key")
}

// What is sent again is answered as the first was, whatever became of its parts.
func TestManyUnderAnIdempotencyKeyHappenOnce(t *testing.T) {
	t.Parallel()
	r := run(t, nil)
	in := &api.NewCertificates{IdempotencyKey: "once"}
	request := estate(t, r)
	for _, name := range []string{"a", "b", "not a name", "queued"} {
		one := request
		one.Name, one.SANs, one.Queued = name, []string{name + ".example.com"}, name == "queued"
		in.Body.Requests = append(in.Body.Requests, one)
	}
	answers := make([]string, 8)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() {
			out, err := client.Do(t.Context(), r.Client, api.IssueCertificates, in)
			if err != nil || out.Issued != 3 {
				t.Errorf("%d issued (%v)", out.Issued, err)
				return
			}
			for n, o := range out.Items {
				answers[i] += o.Code + o.Error
				if o.Created != nil {
					answers[i] += o.Created.Certificate.ID
				}
				if o.Created != nil && n < 2 { // the job may issue the last one at any time
					answers[i] += o.Created.CertificatePEM + o.Created.ChainPEM
				}
			}
			if out.Items[3].Created.JobID == "" {
				t.Error("the answer names no job")
			}
		})
	}
	wg.Wait()
	for _, a := range answers {
		if a != answers[0] || a == "" {
			t.Errorf("the answers differ: %q and %q", a, answers[0])
		}
	}
	in.Body.Requests = in.Body.Requests[:1]
	_, err := client.Do(t.Context(), r.Client, api.IssueCertificates, in)
	is(t, err, fault.Conflict, "Idempotency-Key")
}

func TestBulkUnderAnIdempotencyKeyStartsOnce(t *testing.T) {
	t.Parallel()
	r := run(t, nil)
	one := &api.NewCertificate{Body: estate(t, r)}
	one.Body.Name, one.Body.SANs = "one", []string{"one.example.com"}
	made, err := client.Do(t.Context(), r.Client, api.IssueCertificate, one)
	if err != nil {
		t.Fatal(err)
	}
	in := &api.NewBulk{IdempotencyKey: "once"}
	in.Body.Action, in.Body.Reason, in.Body.Criteria.IDs = "revoke", "superseded", []string{made.Certificate.ID}
	ids := make([]string, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			out, err := client.Do(t.Context(), r.Client, api.StartBulk, in)
			if err != nil || out.Total != 1 || out.Open != 1 {
				t.Errorf("%+v (%v)", out, err)
			}
			ids[i] = out.ID
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("%s and %s were started", id, ids[0])
		}
	}
	var o api.BulkOperation
	for end := time.Now().Add(time.Minute); o.FinishedAt == nil && err == nil && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		o, err = client.Do(t.Context(), r.Client, api.GetBulk, &api.OneBulk{ID: ids[0]})
	}
	if err != nil || o.FinishedAt == nil || o.Done != 1 || o.Open != 0 || strings.Contains(string(o.Args), made.Certificate.ID) {
		t.Errorf("%+v (%v)", o, err)
	}
	in.Body.Reason = "keyCompromise"
	_, err = client.Do(t.Context(), r.Client, api.StartBulk, in)
	is(t, err, fault.Conflict, "Idempotency-Key")
}

func TestListIsNotSentTwice(t *testing.T) {
	t.Parallel()
	r := run(t, nil)
	in := &api.NewCertificate{Body: estate(t, r)}
	in.Body.Name, in.Body.SANs = "one", []string{"one.example.com"}
	if _, err := client.Do(t.Context(), r.Client, api.IssueCertificate, in); err != nil {
		t.Fatal(err)
	}
	first := r.raw(t, http.MethodGet, "/api/v1/certificates", "", "")
	tag := first.header.Get("ETag")
	if first.status != http.StatusOK || tag == "" {
		t.Fatalf("%+v", first)
	}
	again := r.raw(t, http.MethodGet, "/api/v1/certificates", "", "", "If-None-Match", `"other", W/`+tag)
	if again.status != http.StatusNotModified || again.body != "" || again.header.Get("ETag") != tag {
		t.Errorf("%+v", again)
	}
	in.Body.Name = "two"
	if _, err := client.Do(t.Context(), r.Client, api.IssueCertificate, in); err != nil {
		t.Fatal(err)
	}
	if changed := r.raw(t, http.MethodGet, "/api/v1/certificates", "", "", "If-None-Match", tag); changed.status != http.StatusOK {
		t.Errorf("%+v", changed)
	}
}

func TestRenewalSignsTheSameRequestAgain(t *testing.T) {
	t.Parallel()
	r := run(t, nil)
	in := &api.NewCertificate{Body: estate(t, r)}
	var key *ecdsa.PrivateKey
	in.Body.CSR, key = csr(t, "www.example.com")
	in.Body.Name = "by request"
	byRequest, err := client.Do(t.Context(), r.Client, api.IssueCertificate, in)
	if err != nil {
		t.Fatal(err)
	}
	in.Body.CSR, in.Body.SANs, in.Body.Name = "", []string{"www.example.com"}, "by server"
	byServer, err := client.Do(t.Context(), r.Client, api.IssueCertificate, in)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []api.IssuedCertificate{byRequest, byServer} {
		if _, err := client.Do(t.Context(), r.Client, api.RenewCertificate, &api.OneToRenew{ID: c.Certificate.ID}); err != nil {
			t.Fatal(err)
		}
		pgtest.Eventually(t, "it is renewed", func() bool {
			now, err := client.Do(t.Context(), r.Client, api.GetCertificate, &api.OneCertificate{ID: c.Certificate.ID})
			return err == nil && *now.Version == 2
		})
	}
	v, err := client.Do(t.Context(), r.Client, api.ExportPEM, &api.CertificateExport{ByID: api.ByID{ID: byRequest.Certificate.ID}})
	if err != nil || !key.PublicKey.Equal(parse(t, v.CertificatePEM).PublicKey) {
		t.Errorf("the renewed certificate has another key (%v)", err)
	}
	k, err := client.Do(t.Context(), r.Client, api.DownloadKey, &api.KeyDownload{ID: byServer.Certificate.ID})
	if err != nil || k.Version != 2 || bytes.Equal(parse(t, k.CertificatePEM).RawSubjectPublicKeyInfo, parse(t, byServer.CertificatePEM).RawSubjectPublicKeyInfo) {
		t.Errorf("the renewed certificate has the same key (%v)", err)
	}
}

// What is revoked, held or archived is not renewed, on any path.
func TestNoPathRenewsWhatIsRevokedOrArchived(t *testing.T) {
	t.Parallel()
	r := run(t, nil)
	pool := pgtest.Pool(t, r.url)
	request := estate(t, r)
	issue := func(name string, queued bool) string {
		in := &api.NewCertificate{Body: request}
		in.Body.Name, in.Body.SANs, in.Body.Queued = name, []string{"a.example.com"}, queued
		out, err := client.Do(t.Context(), r.Client, api.IssueCertificate, in)
		if err != nil {
			t.Fatal(err)
		}
		return out.Certificate.ID
	}
	revoke := func(id, reason string) {
		in := &api.NewRevocation{}
		in.ID = id
		raw := r.raw(t, http.MethodPost, strings.ReplaceAll(api.RevokeCertificate.Path, "{id}", id), "application/json", fmt.Sprintf(`{"reason": %q}`, reason))
		if raw.status != http.StatusOK {
			t.Fatalf("%+v", raw)
		}
	}
	ids := map[string]string{"revoked": issue("revoked", false), "held": issue("held", false), "archived": issue("archived", false)}
	revoke(ids["revoked"], "keyCompromise")
	revoke(ids["held"], "certificateHold")
	if _, err := client.Do(t.Context(), r.Client, api.ArchiveCertificate, &api.OneCertificate{ID: ids["archived"]}); err != nil {
		t.Fatal(err)
	}
	for state, id := range ids {
		_, err := client.Do(t.Context(), r.Client, api.RenewCertificate, &api.OneToRenew{ID: id})
		is(t, err, fault.Conflict, state)
		// A job that nobody should have queued.
		if _, err := pool.Exec(t.Context(), `
			insert into jobs (id, kind, certificate_id, args, priority, max_attempts, retry_every, timeout, created_by)
			values ('forced ' || $1, 'renew', $1, '{}', 0, 1, '1 second', '1 minute', 'test')`, id); err != nil {
			t.Fatal(err)
		}
		pgtest.Eventually(t, "the job is refused", func() bool {
			j, err := client.Do(t.Context(), r.Client, api.GetJob, &api.OneJob{ID: "forced " + id})
			return err == nil && j.State == "dead" && strings.Contains(j.Error, state)
		})
		// A version that nobody should have signed.
		_, err = pool.Exec(t.Context(), `
			insert into certificate_versions (certificate_id, number, issuer_id, serial, fingerprint, not_before, not_after, key_algorithm, der, chain_id)
			select certificate_id, 2, issuer_id, '01' || substr(serial, 3), sha256(der), not_before, not_after, key_algorithm, der, chain_id
			from certificate_versions where certificate_id = $1`, id)
		if err == nil || !strings.Contains(err.Error(), "is not issued again") {
			t.Errorf("a version of a certificate that is %s was recorded (%v)", state, err)
		}
	}
	if _, err := pool.Exec(t.Context(), `update certificates set renew_at = now()`); err != nil {
		t.Fatal(err)
	}
	bulk := &api.TryBulk{}
	bulk.Body.Action, bulk.Body.Criteria.All = "renew", true
	p, err := client.Do(t.Context(), r.Client, api.PreviewBulk, bulk)
	if err != nil || p.Would != 0 || p.Matched != 2 {
		t.Errorf("%+v %v", p, err)
	}
	var renewed int
	if err := pool.QueryRow(t.Context(), `select count(*) from certificate_versions where number > 1`).Scan(&renewed); err != nil || renewed != 0 {
		t.Errorf("%d were renewed (%v)", renewed, err)
	}
}
