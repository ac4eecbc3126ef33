package issuer_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"certctl/server/cert"
	"certctl/server/issuer"
)

// authority returns a root and its key.
func authority(t testing.TB, k *cert.KeyAlgorithm) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	key, err := k.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return root(t, key), key
}

func root(t testing.TB, key crypto.Signer) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: cert.NewSerial(), Subject: pkix.Name{CommonName: "Lists Root", Organization: []string{"Ünï"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func entry(t testing.TB, n *big.Int, at time.Time, reason *cert.Reason, invalidity *time.Time) []byte {
	t.Helper()
	der, err := issuer.Entry(n, at, reason, invalidity)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

var now = time.Now().UTC().Truncate(time.Second)

func TestListsAreThoseOfTheStandardLibrary(t *testing.T) {
	for _, k := range []*cert.KeyAlgorithm{cert.ECDSAP256, cert.ECDSAP384, cert.RSA2048, cert.Ed25519} {
		ca, key := authority(t, k)
		// Their bytes are such that each length of a length comes up.
		for _, count := range []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 1000, 2000} {
			var entries []byte
			var want []x509.RevocationListEntry
			for i := range count {
				reason := cert.Reasons()[i%len(cert.Reasons())]
				n, at := big.NewInt(int64(1)<<(i%60)+int64(i)), now.Add(-time.Duration(i)*time.Minute)
				if i == 1 {
					n, at = cert.NewSerial(), time.Date(2051, 1, 2, 3, 4, 5, 0, time.UTC)
				}
				entries = append(entries, entry(t, n, at, reason, nil)...)
				want = append(want, x509.RevocationListEntry{SerialNumber: n, RevocationTime: at, ReasonCode: reason.Code})
			}
			number := big.NewInt(int64(1) << (count % 62))
			got, err := issuer.SignList(ca, key, issuer.List{Number: number, ThisUpdate: now, NextUpdate: now.Add(time.Hour), Entries: entries})
			if err != nil {
				t.Fatal(err)
			}
			std, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
				Number: number, ThisUpdate: now, NextUpdate: now.Add(time.Hour), RevokedCertificateEntries: want,
			}, ca, key)
			if err != nil {
				t.Fatal(err)
			}
			mine, err := x509.ParseRevocationList(got)
			if err != nil {
				t.Fatalf("%s, %d entries: %v", k.Name, count, err)
			}
			theirs, err := x509.ParseRevocationList(std)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(mine.RawTBSRevocationList, theirs.RawTBSRevocationList) || mine.SignatureAlgorithm != theirs.SignatureAlgorithm {
				t.Errorf("%s, %d entries: what is signed differs from what the standard library signs", k.Name, count)
			}
			if err := mine.CheckSignatureFrom(ca); err != nil {
				t.Errorf("%s, %d entries: %v", k.Name, count, err)
			}
		}
	}
}

func TestOpenSSLVerifiesLists(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("there is no openssl")
	}
	for _, k := range []*cert.KeyAlgorithm{cert.ECDSAP256, cert.ECDSAP384, cert.RSA2048, cert.Ed25519} {
		ca, key := authority(t, k)
		invalid := now.Add(-48 * time.Hour)
		entries := slices.Concat(
			entry(t, big.NewInt(0x1234), now, cert.KeyCompromise, &invalid),
			entry(t, big.NewInt(0x5678), now, nil, nil),
		)
		der, err := issuer.SignList(ca, key, issuer.List{Number: big.NewInt(42), ThisUpdate: now, NextUpdate: now.Add(time.Hour), Entries: entries})
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		roots, list := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "list.der")
		if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(list, der, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), openssl, "crl", "-verify", "-CAfile", roots, "-inform", "DER", "-in", list, "-noout", "-text").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "verify OK") {
			t.Errorf("%s: %v\n%s", k.Name, err, out)
		}
		for _, want := range []string{"Serial Number: 1234", "Key Compromise", "Invalidity Date", "Serial Number: 5678", "X509v3 CRL Number"} {
			if !strings.Contains(string(out), want) {
				t.Errorf("%s: openssl does not read %q in\n%s", k.Name, want, out)
			}
		}
	}
}

func TestEntry(t *testing.T) {
	ca, key := authority(t, cert.Ed25519)
	before, after := time.Date(2049, 12, 31, 23, 59, 59, 0, time.UTC), time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC)
	zone := time.FixedZone("", 3600)
	for name, c := range map[string]struct {
		at         time.Time
		reason     *cert.Reason
		invalidity *time.Time
		extensions int
		tag        byte // of the time
	}{
		"without anything":       {before, nil, nil, 0, asn1.TagUTCTime},
		"with no reason":         {before, cert.Unspecified, nil, 0, asn1.TagUTCTime},
		"with a reason":          {before, cert.CertificateHold, nil, 1, asn1.TagUTCTime},
		"since a time":           {before, nil, &after, 1, asn1.TagUTCTime},
		"with both, after 2049":  {after, cert.AACompromise, &before, 2, asn1.TagGeneralizedTime},
		"in another time's zone": {after.In(zone), nil, &before, 1, asn1.TagGeneralizedTime},
	} {
		n := cert.NewSerial()
		der := entry(t, n, c.at, c.reason, c.invalidity)
		list, err := issuer.SignList(ca, key, issuer.List{Number: big.NewInt(1), ThisUpdate: now, NextUpdate: now.Add(time.Hour), Entries: der})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		parsed, err := x509.ParseRevocationList(list)
		if err != nil || len(parsed.RevokedCertificateEntries) != 1 {
			t.Fatalf("%s: %v", name, err)
		}
		e := parsed.RevokedCertificateEntries[0]
		code := 0
		if c.reason != nil {
			code = c.reason.Code
		}
		if e.SerialNumber.Cmp(n) != 0 || !e.RevocationTime.Equal(c.at) || e.ReasonCode != code || len(e.Extensions) != c.extensions {
			t.Errorf("%s: it reads %v, %v, %d with %d extensions", name, e.SerialNumber, e.RevocationTime, e.ReasonCode, len(e.Extensions))
		}
		var fields struct {
			Serial     *big.Int
			At         asn1.RawValue
			Extensions []pkix.Extension `asn1:"optional"`
		}
		if _, err := asn1.Unmarshal(der, &fields); err != nil || fields.At.Tag != int(c.tag) {
			t.Errorf("%s: the time has tag %d (%v)", name, fields.At.Tag, err)
		}
		if c.invalidity == nil {
			continue
		}
		var since time.Time
		last := e.Extensions[len(e.Extensions)-1]
		if _, err := asn1.UnmarshalWithParams(last.Value, &since, "generalized"); err != nil || !since.Equal(*c.invalidity) || last.Critical || last.Id.String() != "2.5.29.24" {
			t.Errorf("%s: it is not to be trusted since %v (%v), want %v", name, since, err, c.invalidity)
		}
	}
	for _, n := range []int64{0, -1} {
		if _, err := issuer.Entry(big.NewInt(n), now, nil, nil); err == nil {
			t.Errorf("the serial number %d is taken", n)
		}
	}
}

func TestListThatWouldBeWrongIsNotSigned(t *testing.T) {
	ca, key := authority(t, cert.ECDSAP256)
	nameless := *ca
	nameless.SubjectKeyId = nil
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := issuer.List{Number: big.NewInt(1), ThisUpdate: now, NextUpdate: now.Add(time.Hour), Entries: entry(t, big.NewInt(1), now, nil, nil)}
	if _, err := issuer.SignList(ca, key, good); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		ca     *x509.Certificate
		key    crypto.Signer
		change func(*issuer.List)
	}{
		"entries cut short":     {ca, key, func(l *issuer.List) { l.Entries = l.Entries[:len(l.Entries)-1] }},
		"entries of other kind": {ca, key, func(l *issuer.List) { l.Entries = []byte{5, 0} }},
		"number zero":           {ca, key, func(l *issuer.List) { l.Number = new(big.Int) }},
		"a number too large":    {ca, key, func(l *issuer.List) { l.Number = new(big.Int).Lsh(big.NewInt(1), 159) }},
		"no period":             {ca, key, func(l *issuer.List) { l.NextUpdate = l.ThisUpdate }},
		"no key identifier":     {&nameless, key, func(*issuer.List) {}},
		"a key of another kind": {ca, p521, func(*issuer.List) {}},
	} {
		l := good
		c.change(&l)
		if _, err := issuer.SignList(c.ca, c.key, l); err == nil {
			t.Errorf("%s: it is signed", name)
		}
	}
}

func BenchmarkSignList(b *testing.B) {
	ca, key := authority(b, cert.ECDSAP256)
	var entries []byte
	for range 100_000 {
		entries = append(entries, entry(b, cert.NewSerial(), now, cert.KeyCompromise, nil)...)
	}
	l := issuer.List{Number: big.NewInt(1), ThisUpdate: now, NextUpdate: now.Add(time.Hour), Entries: entries}
	b.SetBytes(int64(len(entries)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := issuer.SignList(ca, key, l); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEntry(b *testing.B) {
	n := cert.NewSerial()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := issuer.Entry(n, now, cert.KeyCompromise, nil); err != nil {
			b.Fatal(err)
		}
	}
}
