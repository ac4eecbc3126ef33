package cert_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"certctl/server/cert"
	"certctl/server/fault"
)

// open is a profile that allows much.
func open(change ...func(*cert.Profile)) *cert.Profile {
	p := &cert.Profile{
		Enabled: true, KeyAlgorithms: []string{"ecdsa-p256", "ecdsa-p384", "rsa-2048", "rsa-3072", "ed25519"},
		DefaultValiditySeconds: 3600, MaxValiditySeconds: 86400, ExtKeyUsages: []string{"serverAuth", "clientAuth"},
		SANKinds: []string{"dns", "ip", "email", "uri"}, MaxSANs: 100, Wildcards: true,
	}
	for _, c := range change {
		c(p)
	}
	return p
}

var keys = sync.OnceValue(func() map[string]crypto.Signer {
	must := func(key crypto.Signer, err error) crypto.Signer {
		if err != nil {
			panic(err)
		}
		return key
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	return map[string]crypto.Signer{
		"p256": must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), "p384": must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)),
		"p521": must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)), "ed25519": must(edwards, err),
		"rsa1024": must(rsa.GenerateKey(rand.Reader, 1024)), "rsa2048": must(rsa.GenerateKey(rand.Reader, 2048)),
	}
})

// csr signs a request. Without a key it is on P-256.
func csr(t testing.TB, template x509.CertificateRequest, key ...string) []byte {
	t.Helper()
	signer := keys()[append(key, "p256")[0]]
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, signer)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func encode(der []byte, typ string) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der})
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	der, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// withExtension asks for a name and an extension.
func withExtension(t testing.TB, oid asn1.ObjectIdentifier, value []byte) []byte {
	t.Helper()
	return csr(t, x509.CertificateRequest{DNSNames: []string{"a.example"}, ExtraExtensions: []pkix.Extension{{Id: oid, Value: value}}})
}

// withSANs asks for names of any kind, by their tags.
func withSANs(t testing.TB, names ...asn1.RawValue) []byte {
	t.Helper()
	if names == nil {
		names = []asn1.RawValue{}
	}
	return csr(t, x509.CertificateRequest{ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: marshal(t, names)}}})
}

func general(tag int, value string) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: []byte(value)}
}

// broken returns the fields and rules of a refusal.
func broken(t testing.TB, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	refusal, ok := errors.AsType[*cert.Refusal](err)
	if !ok || fault.Of(err) != fault.Invalid || fault.Shown(err) != refusal.Error() {
		t.Fatalf("%v is no refusal", err)
	}
	var names []string
	for _, v := range refusal.Violations {
		names = append(names, strings.TrimPrefix(v.Field, "body.")+" "+v.Rule.Name)
		if !strings.Contains(err.Error(), v.Field+" "+v.Says+" ("+v.Rule.Name+")") {
			t.Errorf("%q does not have %+v", err, v)
		}
	}
	if !slices.IsSorted(names) {
		t.Errorf("%q is not sorted", names)
	}
	return names
}

func TestRulesRefuseWhatBreaksThem(t *testing.T) {
	dns := x509.CertificateRequest{DNSNames: []string{"a.example"}}
	good := csr(t, dns)
	forged := bytes.Clone(good)
	forged[len(forged)-1] ^= 1
	other := csr(t, x509.CertificateRequest{DNSNames: []string{"b.example"}})
	moved := bytes.Replace(good, []byte("a.example"), []byte("c.example"), 1)
	cn := func(s string) pkix.Name { return pkix.Name{CommonName: s} }
	names := func(texts ...string) cert.Request { return cert.Request{SANs: texts} }
	ca := asn1.ObjectIdentifier{2, 5, 29, 19}
	ku := asn1.ObjectIdentifier{2, 5, 29, 15}
	eku := asn1.ObjectIdentifier{2, 5, 29, 37}
	staple := asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}
	staples := marshal(t, []int{5})
	only := func(set func(p *cert.Profile, values ...string), values ...string) func(*cert.Profile) {
		return func(p *cert.Profile) { set(p, values...) }
	}
	kinds := func(p *cert.Profile, v ...string) { p.SANKinds = v }
	algorithms := func(p *cert.Profile, v ...string) { p.KeyAlgorithms = v }
	patterns := func(p *cert.Profile, v ...string) { p.DNSPatterns = v }
	ranges := func(p *cert.Profile, v ...string) { p.IPRanges = v }
	prefixes := func(p *cert.Profile, v ...string) { p.URIPrefixes = v }
	domains := func(p *cert.Profile, v ...string) { p.EmailDomains = v }
	usages := func(p *cert.Profile, v ...string) { p.ExtKeyUsages = v }
	atMost := func(n int) func(*cert.Profile) { return func(p *cert.Profile) { p.MaxSANs = n } }
	var many []string
	for i := range 2000 {
		many = append(many, fmt.Sprintf("h%d.example", i))
	}

	for _, c := range []struct {
		name    string
		profile func(*cert.Profile)
		request cert.Request
		want    []string // empty: it is approved
	}{
		{name: "a CSR in DER", request: cert.Request{CSR: good}},
		{name: "a CSR in PEM", request: cert.Request{CSR: encode(good, "CERTIFICATE REQUEST")}},
		{name: "a CSR of an old tool", request: cert.Request{CSR: encode(good, "NEW CERTIFICATE REQUEST")}},
		{name: "a CSR with words around it", request: cert.Request{CSR: slices.Concat([]byte("request:\r\n"), encode(good, "CERTIFICATE REQUEST"), []byte(" \r\n"))}},
		{name: "a CSR in DER that holds PEM", request: cert.Request{CSR: csr(t, x509.CertificateRequest{Subject: pkix.Name{Organization: []string{string(encode(other, "CERTIFICATE REQUEST"))}}, DNSNames: []string{"a.example"}})}},
		{name: "a key of the server", request: names("a.example")},
		{name: "an algorithm of the profile", request: cert.Request{SANs: []string{"a.example"}, KeyAlgorithm: "ed25519"}},

		{name: "a profile that is not enabled", profile: func(p *cert.Profile) { p.Enabled = false }, request: names("a.example"), want: []string{"profile_id profile-disabled"}},

		{name: "a profile of a newer replica", profile: only(usages, "newer"), request: names("a.example"), want: []string{"profile_id profile-form"}},

		{name: "no PEM", request: cert.Request{CSR: []byte("x")}, want: []string{"csr csr-form"}},
		{name: "PEM of a certificate", request: cert.Request{CSR: encode(good, "CERTIFICATE")}, want: []string{"csr csr-form"}},
		{name: "PEM of a key", request: cert.Request{CSR: encode(good, "PRIVATE KEY")}, want: []string{"csr csr-form"}},
		{name: "two CSRs", request: cert.Request{CSR: append(encode(good, "CERTIFICATE REQUEST"), encode(other, "CERTIFICATE REQUEST")...)}, want: []string{"csr csr-form"}},
		{name: "a CSR with something behind it", request: cert.Request{CSR: append(encode(good, "CERTIFICATE REQUEST"), 'x')}, want: []string{"csr csr-form"}},
		{name: "DER with something behind it", request: cert.Request{CSR: append(bytes.Clone(good), 0)}, want: []string{"csr csr-form"}},
		{name: "DER with something behind it in PEM", request: cert.Request{CSR: encode(append(bytes.Clone(good), 0), "CERTIFICATE REQUEST")}, want: []string{"csr csr-form"}},
		{name: "half a CSR", request: cert.Request{CSR: good[:len(good)/2]}, want: []string{"csr csr-form"}},
		{name: "a CSR that is too large", request: cert.Request{CSR: append(bytes.Repeat([]byte("x\n"), 32<<10), encode(good, "CERTIFICATE REQUEST")...)}, want: []string{"csr csr-form"}},
		{name: "an extension twice", request: cert.Request{CSR: twice(t)}, want: []string{"csr csr-form"}},
		{name: "names with something behind them", request: cert.Request{CSR: csr(t, x509.CertificateRequest{ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: append(marshal(t, []asn1.RawValue{general(2, "a.example")}), 0)},
		}})}, want: []string{"csr csr-form"}},
		{name: "an address of five bytes", request: cert.Request{CSR: withSANs(t, general(7, "12345"))}, want: []string{"csr csr-form"}},

		{name: "a signature that is forged", request: cert.Request{CSR: forged}, want: []string{"csr csr-signature"}},
		{name: "a name that was not signed", request: cert.Request{CSR: moved}, want: []string{"csr csr-signature"}},
		{name: "SHA-1", request: cert.Request{CSR: overSHA1(t)}, want: []string{"csr csr-signature"}},
		{name: "MD5", request: cert.Request{CSR: overMD5(t)}, want: []string{"csr csr-signature"}},

		{name: "CA:FALSE", request: cert.Request{CSR: withExtension(t, ca, marshal(t, struct{}{}))}},
		{name: "CA:TRUE", request: cert.Request{CSR: withExtension(t, ca, marshal(t, struct{ CA bool }{true}))}, want: []string{"csr csr-extension"}},
		{name: "basic constraints that are none", request: cert.Request{CSR: withExtension(t, ca, []byte{1})}, want: []string{"csr csr-form"}},
		{name: "key usages of a leaf", request: cert.Request{CSR: withExtension(t, ku, marshal(t, asn1.BitString{Bytes: []byte{0xf8}, BitLength: 5}))}},
		{name: "keyCertSign", request: cert.Request{CSR: withExtension(t, ku, marshal(t, asn1.BitString{Bytes: []byte{0x04}, BitLength: 6}))}, want: []string{"csr csr-extension"}},
		{name: "cRLSign", request: cert.Request{CSR: withExtension(t, ku, marshal(t, asn1.BitString{Bytes: []byte{0x02}, BitLength: 7}))}, want: []string{"csr csr-extension"}},
		{name: "key usages that are none", request: cert.Request{CSR: withExtension(t, ku, []byte("x"))}, want: []string{"csr csr-form"}},
		{name: "an identifier of the key", request: cert.Request{CSR: withExtension(t, asn1.ObjectIdentifier{2, 5, 29, 14}, []byte{4, 1, 1})}},
		{name: "name constraints", request: cert.Request{CSR: withExtension(t, asn1.ObjectIdentifier{2, 5, 29, 30}, []byte{0x30, 0})}, want: []string{"csr csr-extension"}},
		{name: "must-staple where the profile has it", profile: func(p *cert.Profile) { p.MustStaple = true }, request: cert.Request{CSR: withExtension(t, staple, staples)}},
		{name: "must-staple where it has not", request: cert.Request{CSR: withExtension(t, staple, staples)}, want: []string{"csr csr-extension"}},

		{name: "purposes of the profile", request: cert.Request{CSR: withExtension(t, eku, marshal(t, []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 2}}))}},
		{name: "a purpose that the profile has not", request: cert.Request{CSR: withExtension(t, eku, marshal(t, []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 2}, {1, 3, 6, 1, 5, 5, 7, 3, 3}}))}, want: []string{"csr ext-key-usage"}},
		{name: "any purpose", request: cert.Request{CSR: withExtension(t, eku, marshal(t, []asn1.ObjectIdentifier{{2, 5, 29, 37, 0}}))}, want: []string{"csr ext-key-usage"}},
		{name: "a purpose where the profile has none", profile: only(usages), request: cert.Request{CSR: withExtension(t, eku, marshal(t, []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 2}}))}, want: []string{"csr ext-key-usage"}},
		{name: "purposes with something behind them", request: cert.Request{CSR: withExtension(t, eku, append(marshal(t, []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 2}}), 0))}, want: []string{"csr csr-form"}},
		{name: "purposes that are none", request: cert.Request{CSR: withExtension(t, eku, []byte("x"))}, want: []string{"csr csr-form"}},

		{name: "names beside a CSR", request: cert.Request{CSR: good, SANs: []string{"a.example"}}, want: []string{"sans csr-alone"}},
		{name: "a common name beside a CSR", request: cert.Request{CSR: good, CommonName: "a.example"}, want: []string{"common_name csr-alone"}},
		{name: "an algorithm beside a CSR", request: cert.Request{CSR: good, KeyAlgorithm: "ecdsa-p256"}, want: []string{"key_algorithm csr-alone"}},

		{name: "a key on P-384", request: cert.Request{CSR: csr(t, dns, "p384")}},
		{name: "a key on Ed25519", request: cert.Request{CSR: csr(t, dns, "ed25519")}},
		{name: "a key of RSA", request: cert.Request{CSR: csr(t, dns, "rsa2048")}},
		{name: "a key on P-521", request: cert.Request{CSR: csr(t, dns, "p521")}, want: []string{"csr key-algorithm"}},
		{name: "a key of RSA of 1024 bits", request: cert.Request{CSR: csr(t, dns, "rsa1024")}, want: []string{"csr key-algorithm"}},
		{name: "a key that the profile has not", profile: only(algorithms, "rsa-2048"), request: cert.Request{CSR: good}, want: []string{"csr key-algorithm"}},
		{name: "an algorithm that the profile has not", profile: only(algorithms, "rsa-2048"), request: cert.Request{SANs: []string{"a.example"}, KeyAlgorithm: "ecdsa-p256"}, want: []string{"key_algorithm key-algorithm"}},
		{name: "an algorithm that nobody has", request: cert.Request{SANs: []string{"a.example"}, KeyAlgorithm: "x"}, want: []string{"key_algorithm key-algorithm"}},
		{name: "a profile without algorithms", profile: only(algorithms), request: names("a.example"), want: []string{"key_algorithm key-algorithm"}},
		{name: "an exponent of 3", request: cert.Request{CSR: weakRSA(t, 3, false)}, want: []string{"csr csr-signature", "csr weak-key"}},
		{name: "an even exponent", request: cert.Request{CSR: weakRSA(t, 65538, false)}, want: []string{"csr csr-signature", "csr weak-key"}},
		{name: "a modulus with a small factor", request: cert.Request{CSR: weakRSA(t, 65537, true)}, want: []string{"csr csr-signature", "csr weak-key"}},

		{name: "the longest validity", request: cert.Request{SANs: []string{"a.example"}, Validity: 24 * time.Hour}},
		{name: "the shortest validity", request: cert.Request{SANs: []string{"a.example"}, Validity: time.Minute}},
		{name: "a validity that is too long", request: cert.Request{SANs: []string{"a.example"}, Validity: 24*time.Hour + 1}, want: []string{"validity_seconds validity"}},
		{name: "a validity that is too short", request: cert.Request{SANs: []string{"a.example"}, Validity: time.Minute - 1}, want: []string{"validity_seconds validity"}},
		{name: "a negative validity", request: cert.Request{SANs: []string{"a.example"}, Validity: -time.Hour}, want: []string{"validity_seconds validity"}},

		{name: "no name", request: cert.Request{}, want: []string{"sans san-missing"}},
		{name: "no name in a CSR", request: cert.Request{CSR: csr(t, x509.CertificateRequest{})}, want: []string{"csr san-missing"}},
		{name: "an empty list of names in a CSR", request: cert.Request{CSR: withSANs(t)}, want: []string{"csr san-missing"}},
		{name: "as many names as allowed, one twice", profile: atMost(2), request: names("a.example", "b.example", "dns:A.example")},
		{name: "as many names in a CSR as allowed, one twice", profile: atMost(2), request: cert.Request{CSR: csr(t, x509.CertificateRequest{DNSNames: []string{"a.example", "b.example", "A.example"}})}},
		{name: "more names", profile: atMost(2), request: names("a.example", "b.example", "c.example"), want: []string{"sans san-count"}},
		{name: "more names in a CSR", profile: atMost(2), request: cert.Request{CSR: csr(t, x509.CertificateRequest{DNSNames: []string{"a.example", "b.example", "c.example"}})}, want: []string{"csr san-count"}},
		{name: "very many names", profile: atMost(1 << 20), request: names(many...), want: []string{"sans san-count"}},
		{name: "very many names in a CSR", profile: atMost(1 << 20), request: cert.Request{CSR: csr(t, x509.CertificateRequest{DNSNames: many})}, want: []string{"csr san-count"}},

		{name: "kinds of the profile", profile: only(kinds, "ip", "uri"), request: names("::1", "spiffe://a")},
		{name: "another kind", profile: only(kinds, "ip"), request: names("a.example", "a@a.example", "spiffe://a", "::1"), want: []string{"sans san-kind"}},
		{name: "another kind in a CSR", profile: only(kinds, "dns"), request: cert.Request{CSR: csr(t, x509.CertificateRequest{
			DNSNames: []string{"a.example"}, IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1)}, EmailAddresses: []string{"a@a.example"}, URIs: []*url.URL{{Scheme: "spiffe", Host: "a"}},
		})}, want: []string{"csr san-kind", "csr san-kind", "csr san-kind"}},
		{name: "otherName", request: cert.Request{CSR: withSANs(t, general(2, "a.example"), asn1.RawValue{Class: 2, Tag: 0, IsCompound: true, Bytes: []byte{6, 1, 42}})}, want: []string{"csr san-kind"}},
		{name: "directoryName alone", request: cert.Request{CSR: withSANs(t, asn1.RawValue{Class: 2, Tag: 4, IsCompound: true, Bytes: []byte{0x30, 0}})}, want: []string{"csr san-kind"}},
		{name: "registeredID", request: cert.Request{CSR: withSANs(t, general(2, "a.example"), general(8, "\x2a"))}, want: []string{"csr san-kind"}},

		{
			name: "names in a CSR that are none", request: cert.Request{CSR: withSANs(t, general(2, "a_b"), general(2, ""), general(2, "a.example."), general(1, "a"), general(6, "a:b"), general(6, "x://a/#"), general(7, "\x00\x00\x00\x00"))},
			want: []string{"csr name-form", "csr name-form", "csr name-form", "csr name-form"},
		},
		{name: "a name in a CSR that can be taken for another", request: cert.Request{CSR: withSANs(t, general(2, "xn--pypal-4ve.example"))}, want: []string{"csr name-confusable"}},
		{name: "an address in another form", profile: only(ranges, "192.0.2.0/24"), request: cert.Request{CSR: withSANs(t, general(7, strings.Repeat("\x00", 10)+"\xff\xff\xc0\x00\x02\x01"))}},

		{name: "a wildcard where it is allowed", request: names("*.a.example")},
		{name: "a wildcard where none is", profile: func(p *cert.Profile) { p.Wildcards = false }, request: names("a.example", "*.a.example"), want: []string{"sans wildcard"}},
		{name: "a wildcard that is a common name where none is", profile: func(p *cert.Profile) { p.Wildcards = false }, request: cert.Request{CommonName: "*.a.example"}, want: []string{"common_name wildcard"}},

		{name: "names of the patterns", profile: only(patterns, "a.example", "*.B.example", "*.bücher.example"), request: names("a.example", "a.b.example", "a.b.b.example", "*.b.example", "*.c.b.example", "c.xn--bcher-kva.example")},
		{name: "the base of a pattern", profile: only(patterns, "*.b.example"), request: names("b.example"), want: []string{"sans dns-pattern"}},
		{name: "a name that ends as the base of a pattern", profile: only(patterns, "*.b.example"), request: names("ab.example"), want: []string{"sans dns-pattern"}},
		{name: "a name below a pattern without wildcard", profile: only(patterns, "b.example"), request: names("a.b.example"), want: []string{"sans dns-pattern"}},
		{name: "a wildcard for what a pattern names", profile: only(patterns, "a.b.example"), request: names("*.b.example"), want: []string{"sans dns-pattern"}},
		{name: "a pattern that is none", profile: only(patterns, "*"), request: names("b.example"), want: []string{"sans dns-pattern"}},
		{name: "names of other kinds beside patterns", profile: only(patterns, "b.example"), request: names("::1", "a@a.example", "spiffe://a")},

		{name: "addresses of the ranges", profile: only(ranges, "192.0.2.0/24", "2001:db8::/32"), request: names("192.0.2.255", "2001:db8::1")},
		{name: "addresses of no range", profile: only(ranges, "192.0.2.0/24"), request: names("192.0.3.0", "2001:db8::1"), want: []string{"sans ip-range"}},
		{name: "a range that is none", profile: only(ranges, "x"), request: names("192.0.3.0"), want: []string{"sans ip-range"}},

		{name: "URIs of the prefixes", profile: only(prefixes, "SPIFFE://a/b", "https://a.example/c/", "x://h"), request: names("spiffe://a/b", "spiffe://a/b/c", "spiffe://A/b?d", "https://a.example/c/d", "x://h/y")},
		{name: "a URI whose segment begins as the prefix", profile: only(prefixes, "spiffe://a/b"), request: names("spiffe://a/bc"), want: []string{"sans uri-prefix"}},
		{name: "a URI whose host begins as the prefix", profile: only(prefixes, "spiffe://a"), request: names("spiffe://a.b/"), want: []string{"sans uri-prefix"}},
		{name: "a URI whose host is the prefix's with a port", profile: only(prefixes, "https://a"), request: names("https://a:1/"), want: []string{"sans uri-prefix"}},
		{name: "a prefix that is none", profile: only(prefixes, "spiffe:"), request: names("spiffe://a"), want: []string{"sans uri-prefix"}},

		{name: "addresses of the domains", profile: only(domains, "A.example"), request: names("x@a.example")},
		{name: "addresses of no domain", profile: only(domains, "a.example"), request: names("x@b.a.example"), want: []string{"sans email-domain"}},
		{name: "a domain that is none", profile: only(domains, "@a.example"), request: names("x@a.example"), want: []string{"sans email-domain"}},

		{name: "a common name alone", request: cert.Request{CommonName: "a.example"}},
		{name: "a common name alone in a CSR", request: cert.Request{CSR: csr(t, x509.CertificateRequest{Subject: cn("A.example")})}},
		{name: "a common name beside an empty list of names", request: cert.Request{CSR: csr(t, x509.CertificateRequest{Subject: cn("a.example"), ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: []byte{0x30, 0}}}})}},
		{name: "a common name that is one of the names", request: cert.Request{CommonName: "A.example", SANs: []string{"b.example", "a.example"}}},
		{name: "an address that is one of the names", request: cert.Request{CommonName: "::ffff:192.0.2.1", SANs: []string{"ip:192.0.2.1"}}},
		{name: "a common name that is none of the names", request: cert.Request{CommonName: "c.example", SANs: []string{"a.example"}}, want: []string{"common_name common-name"}},
		{name: "a common name that is none of the names in a CSR", request: cert.Request{CSR: csr(t, x509.CertificateRequest{Subject: cn("b.example"), DNSNames: []string{"a.example"}})}, want: []string{"csr common-name"}},
		{name: "a common name where names were refused", request: cert.Request{CommonName: "c.example", SANs: []string{"_"}}, want: []string{"common_name common-name", "sans name-form"}},
		{name: "two common names", request: cert.Request{CSR: csr(t, x509.CertificateRequest{DNSNames: []string{"a.example"}, RawSubject: subject(t, "a.example", "a.example")})}, want: []string{"csr common-name"}},
		{name: "a common name that is no text", request: cert.Request{CSR: csr(t, x509.CertificateRequest{DNSNames: []string{"a.example"}, RawSubject: subject(t, 1)})}, want: []string{"csr common-name"}},
		{name: "a common name in words", request: cert.Request{CSR: csr(t, x509.CertificateRequest{Subject: cn("Émile Zola")})}, want: []string{"csr name-form"}},
		{name: "a common name with NUL", request: cert.Request{CSR: csr(t, x509.CertificateRequest{Subject: cn("a.example\x00.b.example"), DNSNames: []string{"a.example"}})}, want: []string{"csr name-form"}},
		{name: "a common name of a kind that the profile has not", profile: only(kinds, "ip"), request: cert.Request{CommonName: "a.example"}, want: []string{"common_name san-kind"}},
		{name: "a common name beside other fields of the subject", request: cert.Request{CSR: csr(t, x509.CertificateRequest{Subject: pkix.Name{CommonName: "a.example", Organization: []string{"A"}}})}},

		{name: "everything wrong", profile: func(p *cert.Profile) {
			p.Enabled, p.Wildcards, p.MaxSANs = false, false, 3
			p.KeyAlgorithms, p.DNSPatterns, p.SANKinds = []string{"rsa-2048"}, []string{"a.example"}, []string{"dns", "ip"}
			p.IPRanges = []string{"192.0.2.0/24"}
		}, request: cert.Request{
			CommonName: "c.example", KeyAlgorithm: "x", Validity: time.Second,
			SANs: []string{"*.b.example", "::1", "::2", "a@a.example", "a_b", "*.com", "p\u0430ypal.example", "*.d.example"},
		}, want: []string{
			"common_name common-name", "key_algorithm key-algorithm", "profile_id profile-disabled", "sans dns-pattern", "sans ip-range", "sans name-confusable",
			"sans name-form", "sans san-count", "sans san-kind", "sans wildcard", "sans wildcard", "validity_seconds validity",
		}},
		{name: "everything wrong in a CSR", profile: func(p *cert.Profile) { p.KeyAlgorithms, p.MaxSANs = []string{"rsa-2048"}, 1 }, request: cert.Request{
			CSR: bytes.Replace(csr(t, x509.CertificateRequest{
				Subject: cn("b.example"), DNSNames: []string{"d.example", "c.example"},
				ExtraExtensions: []pkix.Extension{{Id: ca, Value: marshal(t, struct{ CA bool }{true})}, {Id: eku, Value: marshal(t, []asn1.ObjectIdentifier{{1, 2, 3}})}},
			}), []byte("d.example"), []byte("e.example"), 1), SANs: []string{"a.example"},
		}, want: []string{"csr common-name", "csr csr-extension", "csr csr-signature", "csr ext-key-usage", "csr key-algorithm", "csr san-count", "sans csr-alone"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := open()
			if c.profile != nil {
				c.profile(p)
			}
			order, key, err := p.Approve(c.request)
			if got := broken(t, err); !slices.Equal(got, c.want) {
				t.Fatalf("%q, not %q: %v", got, c.want, err)
			}
			if err != nil {
				if key != nil || !reflect.DeepEqual(order, cert.Order{}) {
					t.Errorf("something is approved: %+v", order)
				}
				return
			}
			check(t, p, c.request, order, key)
		})
	}
}

// check looks at an order that p approved, and has it approved again.
func check(t testing.TB, p *cert.Profile, r cert.Request, order cert.Order, key crypto.Signer) {
	t.Helper()
	parsed, err := x509.ParseCertificateRequest(order.CSR)
	if err != nil || parsed.CheckSignature() != nil {
		t.Fatalf("the CSR of the order: %v", err)
	}
	public, ok := order.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(parsed.PublicKey) {
		t.Error("the order has another key than its CSR")
	}
	algorithm, err := cert.KeyAlgorithmOf(order.PublicKey)
	if err != nil || algorithm != order.KeyAlgorithm || !slices.Contains(p.KeyAlgorithms, algorithm.Name) {
		t.Errorf("a key of %v: %v", algorithm, err)
	}
	if (key == nil) != (len(r.CSR) > 0) || key != nil && !public.Equal(key.Public()) {
		t.Errorf("the key of the server is %T", key)
	}
	if n := order.Names.Len(); n < 1 || n > p.MaxSANs {
		t.Errorf("%d names", n)
	}
	for _, text := range order.Names.Text() {
		if kind, _, _ := strings.Cut(text, ":"); !slices.Contains(p.SANKinds, kind) {
			t.Errorf("the name %q", text)
		}
	}
	if cn := order.CommonName; cn != "" && !slices.ContainsFunc(order.Names.Text(), func(n string) bool { return strings.HasSuffix(n, ":"+cn) }) {
		t.Errorf("the common name %q is none of %q", cn, order.Names.Text())
	}
	if order.Validity < time.Minute || order.Validity > time.Duration(p.MaxValiditySeconds)*time.Second || len(order.Usages) != len(p.ExtKeyUsages) {
		t.Errorf("the validity %s and usages %v", order.Validity, order.Usages)
	}

	again, _, err := p.Approve(cert.Request{CSR: order.CSR, Validity: order.Validity})
	if err != nil {
		t.Fatalf("its CSR is not approved again: %v", err)
	}
	if !reflect.DeepEqual(again, order) {
		t.Errorf("its CSR is approved again as\n%+v, not\n%+v", again, order)
	}
	if order.KeyAlgorithm != cert.RSA2048 && order.KeyAlgorithm != cert.RSA3072 { // they take long to make
		again, _, err = p.Approve(cert.Request{CommonName: order.CommonName, SANs: order.Names.Text(), KeyAlgorithm: order.KeyAlgorithm.Name, Validity: order.Validity})
		again.CSR, again.PublicKey = order.CSR, order.PublicKey
		if err != nil || !reflect.DeepEqual(again, order) {
			t.Errorf("its names are approved again as\n%+v, not\n%+v: %v", again, order, err)
		}
	}
}

func TestOrdersHaveWhatTheProfileSays(t *testing.T) {
	p := open(func(p *cert.Profile) { p.MustStaple, p.ShortLived, p.CABLints = true, true, true })
	order, _, err := p.Approve(cert.Request{CommonName: "B.example", SANs: []string{"b.example", "a.example"}})
	if err != nil {
		t.Fatal(err)
	}
	if order.Validity != time.Hour || order.KeyAlgorithm != cert.ECDSAP256 || order.CommonName != "b.example" ||
		!slices.Equal(order.Names.DNS, []string{"a.example", "b.example"}) || !order.MustStaple || !order.ShortLived || !order.CABLints ||
		!slices.Equal(order.Usages, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}) {
		t.Errorf("%+v", order)
	}
	order, _, err = p.Approve(cert.Request{SANs: []string{"b.example"}, Validity: 2 * time.Hour, KeyAlgorithm: "ecdsa-p384"})
	if err != nil || order.Validity != 2*time.Hour || order.KeyAlgorithm != cert.ECDSAP384 || order.CommonName != "" {
		t.Errorf("%+v, %v", order, err)
	}
}

// What comes from outside is named by its place.
func TestRefusalsRepeatNoValue(t *testing.T) {
	const canary = "c4n4ry"
	p := open(func(p *cert.Profile) {
		p.Wildcards, p.DNSPatterns, p.EmailDomains = false, []string{"a.example"}, []string{"a.example"}
	})
	for _, r := range []cert.Request{
		{CommonName: canary, KeyAlgorithm: canary, SANs: []string{canary, canary + "_", "*." + canary, canary + "@b", "x://" + canary + "#", "ip:" + canary, canary + ":a"}},
		{CSR: []byte(canary)},
		{CSR: encode([]byte(canary), canary)},
		{CSR: csr(t, x509.CertificateRequest{Subject: pkix.Name{CommonName: canary}, DNSNames: []string{canary + "_"}, URIs: []*url.URL{{Scheme: "x", Host: canary + "."}}})},
	} {
		_, _, err := p.Approve(r)
		if err == nil || strings.Contains(err.Error(), canary) {
			t.Error(err)
		}
	}
	p.DNSPatterns, p.IPRanges, p.URIPrefixes, p.EmailDomains = []string{canary + "_"}, []string{canary}, []string{canary}, []string{canary + "_"}
	p.KeyAlgorithms, p.SANKinds, p.ExtKeyUsages = []string{canary}, []string{canary}, []string{canary}
	if err := p.Validate(); len(broken(t, err)) != 7 || strings.Contains(err.Error(), canary) {
		t.Error(err)
	}
}

func TestProfilesThatContradictThemselvesAreRefused(t *testing.T) {
	const day = 86400
	for name, c := range map[string]struct {
		change func(*cert.Profile)
		want   string // empty: it is good
	}{
		"a good one": {func(*cert.Profile) {}, ""},
		"limits of names": {func(p *cert.Profile) {
			p.DNSPatterns, p.IPRanges, p.URIPrefixes, p.EmailDomains = []string{"a.example", "*.B.example", "*.com", "bücher.example"}, []string{"192.0.2.0/24", "::/0", "192.0.2.1/32"}, []string{"spiffe://a", "https://a.example/b/"}, []string{"a.example"}
		}, ""},
		"no purpose":                     {func(p *cert.Profile) { p.ExtKeyUsages = nil }, "ext_key_usages"},
		"no algorithm":                   {func(p *cert.Profile) { p.KeyAlgorithms = nil }, "key_algorithms"},
		"an algorithm that is none":      {func(p *cert.Profile) { p.KeyAlgorithms = []string{"ecdsa-p256", "ecdsa-p521"} }, "key_algorithms"},
		"an algorithm twice":             {func(p *cert.Profile) { p.KeyAlgorithms = []string{"ecdsa-p256", "ecdsa-p256"} }, "key_algorithms"},
		"a purpose that is none":         {func(p *cert.Profile) { p.ExtKeyUsages = []string{"any"} }, "ext_key_usages"},
		"a purpose twice":                {func(p *cert.Profile) { p.ExtKeyUsages = []string{"serverAuth", "serverAuth"} }, "ext_key_usages"},
		"no kind":                        {func(p *cert.Profile) { p.SANKinds = []string{} }, "san_kinds"},
		"a kind that is none":            {func(p *cert.Profile) { p.SANKinds = []string{"DNS"} }, "san_kinds"},
		"a pattern for everything":       {func(p *cert.Profile) { p.DNSPatterns = []string{"*"} }, "dns_patterns"},
		"a pattern in the middle":        {func(p *cert.Profile) { p.DNSPatterns = []string{"a.*.example"} }, "dns_patterns"},
		"an empty pattern":               {func(p *cert.Profile) { p.DNSPatterns = []string{""} }, "dns_patterns"},
		"an address as a range":          {func(p *cert.Profile) { p.IPRanges = []string{"192.0.2.1"} }, "ip_ranges"},
		"a range with bits of a host":    {func(p *cert.Profile) { p.IPRanges = []string{"192.0.2.1/24"} }, "ip_ranges"},
		"a range of mapped addresses":    {func(p *cert.Profile) { p.IPRanges = []string{"::ffff:192.0.2.0/120"} }, "ip_ranges"},
		"a prefix without a host":        {func(p *cert.Profile) { p.URIPrefixes = []string{"spiffe://"} }, "uri_prefixes"},
		"a prefix with a query":          {func(p *cert.Profile) { p.URIPrefixes = []string{"https://a/?b="} }, "uri_prefixes"},
		"a prefix with an empty query":   {func(p *cert.Profile) { p.URIPrefixes = []string{"https://a/?"} }, "uri_prefixes"},
		"an address as a domain":         {func(p *cert.Profile) { p.EmailDomains = []string{"a@a.example"} }, "email_domains"},
		"a wildcard as a domain":         {func(p *cert.Profile) { p.EmailDomains = []string{"*.a.example"} }, "email_domains"},
		"no names":                       {func(p *cert.Profile) { p.MaxSANs = 0 }, "max_sans"},
		"1000 names":                     {func(p *cert.Profile) { p.MaxSANs = 1000 }, ""},
		"1001 names":                     {func(p *cert.Profile) { p.MaxSANs = 1001 }, "max_sans"},
		"a minute":                       {func(p *cert.Profile) { p.DefaultValiditySeconds, p.MaxValiditySeconds = 60, 60 }, ""},
		"less than a minute":             {func(p *cert.Profile) { p.DefaultValiditySeconds = 59 }, "default_validity_seconds"},
		"a default above the maximum":    {func(p *cert.Profile) { p.DefaultValiditySeconds = day + 1 }, "default_validity_seconds"},
		"a default that overflows":       {func(p *cert.Profile) { p.DefaultValiditySeconds = 1 << 62 }, "default_validity_seconds"},
		"4000 days":                      {func(p *cert.Profile) { p.MaxValiditySeconds = 4000 * day }, ""},
		"more than 4000 days":            {func(p *cert.Profile) { p.MaxValiditySeconds = 4000*day + 1 }, "max_validity_seconds"},
		"a short life of a week":         {func(p *cert.Profile) { p.ShortLived, p.MaxValiditySeconds = true, 7*day }, ""},
		"a short life of more":           {func(p *cert.Profile) { p.ShortLived, p.MaxValiditySeconds = true, 7*day+1 }, "short_lived"},
		"lints of servers":               {func(p *cert.Profile) { p.CABLints = true }, ""},
		"lints of servers for no server": {func(p *cert.Profile) { p.CABLints, p.ExtKeyUsages = true, []string{"clientAuth"} }, "cab_lints"},
	} {
		p := open(c.change)
		got := broken(t, p.Validate())
		want := []string{c.want + " profile-form"}
		if c.want == "" {
			want = nil
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q", name, got)
		}
	}
	var none cert.Profile
	if got := broken(t, none.Validate()); len(got) != 5 {
		t.Errorf("an empty profile: %q", got)
	}
}

// Whatever is approved is approved again, as the same.
func TestApprovalIsStable(t *testing.T) {
	p := open()
	label := rapid.StringMatching(`[a-zA-Z0-9]{1,5}(-[a-z0-9]{1,3})?`)
	host := rapid.Custom(func(t *rapid.T) string {
		wild := rapid.SampledFrom([]string{"", "", "*."}).Draw(t, "wild")
		return wild + strings.Join(rapid.SliceOfN(label, 1, 3).Draw(t, "labels"), ".") + rapid.SampledFrom([]string{".example", ".bücher", ".xn--bcher-kva", ".рф"}).Draw(t, "end")
	})
	name := rapid.OneOf(host,
		rapid.Custom(func(t *rapid.T) string { return net.IP(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "ip")).String() }),
		rapid.Custom(func(t *rapid.T) string { return net.IP(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "ip")).String() }),
		rapid.Custom(func(t *rapid.T) string {
			return rapid.StringMatching(`[a-zA-Z!+]{1,4}(\.[a-z]{1,4})?`).Draw(t, "local") + "@" + strings.TrimPrefix(host.Draw(t, "host"), "*.")
		}),
		rapid.Custom(func(t *rapid.T) string {
			return rapid.SampledFrom([]string{"spiffe", "HTTPS"}).Draw(t, "scheme") + "://" + strings.TrimPrefix(host.Draw(t, "host"), "*.") +
				rapid.StringMatching(`(:[1-9]{1,4})?(/[a-zA-Z"%2f<~;=]{0,5}){0,3}(\?[a-z=&%]{0,5})?`).Draw(t, "rest")
		}),
	)
	approved := 0
	rapid.Check(t, func(rt *rapid.T) {
		r := cert.Request{SANs: rapid.SliceOfN(name, 0, 5).Draw(rt, "names"), KeyAlgorithm: rapid.SampledFrom([]string{"", "ed25519"}).Draw(rt, "algorithm")}
		if rapid.Bool().Draw(rt, "named") {
			r.CommonName = name.Draw(rt, "common name")
			if len(r.SANs) > 0 && rapid.Bool().Draw(rt, "of them") {
				r.CommonName = r.SANs[0]
			}
		}
		order, key, err := p.Approve(r)
		if err != nil {
			broken(t, err)
			return
		}
		approved++
		check(t, p, r, order, key)
	})
	if approved < 10 {
		t.Errorf("%d were approved", approved)
	}
}

// FuzzApprove sends bytes as they are, and in the place of the names of a CSR
// that is signed.
func FuzzApprove(f *testing.F) {
	f.Add(csr(f, x509.CertificateRequest{DNSNames: []string{"a.example"}}))
	f.Add(encode(csr(f, x509.CertificateRequest{Subject: pkix.Name{CommonName: "a.example"}}), "CERTIFICATE REQUEST"))
	f.Add(marshal(f, []asn1.RawValue{general(2, "a.example"), general(7, "1234"), general(6, "a://b/c?d"), general(1, "a@b.example")}))
	f.Add(marshal(f, []asn1.RawValue{general(2, "*.xn--bcher-kva"), general(6, `https://a/"%2f`)}))
	p := open(func(p *cert.Profile) {
		p.MaxSANs, p.Wildcards = 3, false
		p.IPRanges = []string{"0.0.0.0/1"}
	})
	f.Fuzz(func(t *testing.T, data []byte) {
		requests := [][]byte{data}
		if der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
			ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: data}},
		}, keys()["p256"]); err == nil {
			requests = append(requests, der)
		}
		for _, r := range requests {
			order, key, err := p.Approve(cert.Request{CSR: r})
			if err != nil {
				broken(t, err)
			} else if len(r) > 0 {
				check(t, p, cert.Request{CSR: r}, order, key)
			}
		}
	})
}

func BenchmarkApprove(b *testing.B) {
	der := csr(b, x509.CertificateRequest{Subject: pkix.Name{CommonName: "a.example"}, DNSNames: []string{"a.example", "b.example"}})
	p := open(func(p *cert.Profile) { p.DNSPatterns = []string{"*.example", "*.internal"} })
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := p.Approve(cert.Request{CSR: der}); err != nil {
			b.Fatal(err)
		}
	}
}

// info is a PKCS#10 structure before it is signed.
type info struct {
	Version    int
	Subject    asn1.RawValue
	PublicKey  asn1.RawValue
	Attributes asn1.RawValue
}

// signed is a CSR that was signed by other means than x509.
func signed(t testing.TB, i info, algorithm asn1.ObjectIdentifier, sign func(tbs []byte) []byte) []byte {
	t.Helper()
	tbs := marshal(t, i)
	sig := sign(tbs)
	return marshal(t, struct {
		Info      asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{
		asn1.RawValue{FullBytes: tbs},
		pkix.AlgorithmIdentifier{Algorithm: algorithm, Parameters: asn1.NullRawValue},
		asn1.BitString{Bytes: sig, BitLength: len(sig) * 8},
	})
}

func infoOf(t testing.TB, der []byte) info {
	t.Helper()
	parsed, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	var i info
	if _, err := asn1.Unmarshal(parsed.RawTBSCertificateRequest, &i); err != nil {
		t.Fatal(err)
	}
	return i
}

func overSHA1(t testing.TB) []byte {
	key := keys()["rsa2048"].(*rsa.PrivateKey)
	der := csr(t, x509.CertificateRequest{DNSNames: []string{"a.example"}}, "rsa2048")
	der = signed(t, infoOf(t, der), asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 5}, func(tbs []byte) []byte {
		sum := sha1.Sum(tbs)
		sig, err := rsa.SignPKCS1v15(nil, key, crypto.SHA1, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		return sig
	})
	if parsed, err := x509.ParseCertificateRequest(der); err != nil || parsed.CheckSignature() != nil {
		t.Fatal("the signature over SHA-1 is not good")
	}
	return der
}

func overMD5(t testing.TB) []byte {
	der := csr(t, x509.CertificateRequest{DNSNames: []string{"a.example"}}, "rsa2048")
	return signed(t, infoOf(t, der), asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 4}, func([]byte) []byte { return make([]byte, 256) })
}

// weakRSA has a key that nobody can sign with as they should.
func weakRSA(t testing.TB, exponent int, factor bool) []byte {
	n := new(big.Int).Set(keys()["rsa2048"].(*rsa.PrivateKey).N)
	if factor {
		n.Sub(n, new(big.Int).Mod(n, big.NewInt(751)))
		if n.Bit(0) == 0 {
			n.Sub(n, big.NewInt(751))
		}
	}
	der, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: n, E: exponent})
	if err != nil {
		t.Fatal(err)
	}
	i := infoOf(t, csr(t, x509.CertificateRequest{DNSNames: []string{"a.example"}}, "rsa2048"))
	i.PublicKey = asn1.RawValue{FullBytes: der}
	return signed(t, i, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, func([]byte) []byte { return make([]byte, 256) })
}

func twice(t testing.TB) []byte {
	e := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 14}, Value: []byte{4, 1, 1}}
	return csr(t, x509.CertificateRequest{DNSNames: []string{"a.example"}, ExtraExtensions: []pkix.Extension{e, e}})
}

func subject(t testing.TB, commonNames ...any) []byte {
	var raw []asn1.RawValue
	for _, cn := range commonNames {
		pair := marshal(t, struct {
			Type  asn1.ObjectIdentifier
			Value asn1.RawValue
		}{asn1.ObjectIdentifier{2, 5, 4, 3}, asn1.RawValue{FullBytes: marshal(t, cn)}})
		raw = append(raw, asn1.RawValue{FullBytes: marshal(t, asn1.RawValue{Tag: asn1.TagSet, IsCompound: true, Bytes: pair})})
	}
	return marshal(t, raw)
}
