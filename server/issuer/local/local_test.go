package local_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	zcrypto "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"

	"certctl/server/cert"
	"certctl/server/config"
	"certctl/server/connector"
	"certctl/server/fault"
	"certctl/server/issuer"
	"certctl/server/issuer/issuertest"
	"certctl/server/issuer/local"
)

var env = connector.Env{ID: "iss_1", PKIURL: "http://pki.example/"}

func prepare(t testing.TB, settings string) json.RawMessage {
	t.Helper()
	s, err := local.Type.Prepare(json.RawMessage(settings))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func open(t testing.TB, settings string) *local.Issuer {
	t.Helper()
	i, err := local.Type.New(prepare(t, settings), env)
	if err != nil {
		t.Fatal(err)
	}
	return i.(*local.Issuer)
}

// is fails the test unless err has the kind and says all of that.
func is(t *testing.T, what string, err error, kind *fault.Kind, says ...string) {
	t.Helper()
	if err == nil || fault.Of(err) != kind {
		t.Errorf("%s: got %v, want %s", what, err, kind.Code)
		return
	}
	for _, s := range says {
		if !strings.Contains(fault.Shown(err), s) {
			t.Errorf("%s: %q does not say %q", what, fault.Shown(err), s)
		}
	}
}

func order(t testing.TB, k *cert.KeyAlgorithm, names ...string) cert.Order {
	t.Helper()
	o, _, err := issuertest.Order(k, names...)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func issue(t testing.TB, i issuer.Issuer, o cert.Order) issuer.Issued {
	t.Helper()
	got, err := i.Issue(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestContract(t *testing.T) {
	for _, k := range []*cert.KeyAlgorithm{cert.ECDSAP256, cert.ECDSAP384, cert.RSA2048, cert.Ed25519} {
		t.Run(k.Name, func(t *testing.T) {
			kept := prepare(t, `{"common_name":"Root","key_algorithm":"`+k.Name+`"}`)
			issuertest.Run(t, func(t *testing.T) issuer.Issuer {
				i, err := local.Type.New(kept, env)
				if err != nil {
					t.Fatal(err)
				}
				return i
			})
		})
	}
	t.Run("subordinate", func(t *testing.T) {
		issuertest.Run(t, func(t *testing.T) issuer.Issuer { return open(t, subordinate(t).settings()) })
	})
	if want := []string{issuer.SignsAtOnce.Name, issuer.HasChain.Name, issuer.SignsCRLs.Name}; !slices.Equal(local.Type.Can, want) {
		t.Errorf("it says that it can %v, want %v", local.Type.Can, want)
	}
}

func TestRootIsMadeOnce(t *testing.T) {
	for _, k := range cert.KeyAlgorithms() {
		kept := prepare(t, `{"common_name":"Example Root","organization":"Exämple","country":"AT","validity_days":30,"key_algorithm":"`+k.Name+`",
			"permitted_dns_domains":["corp.example"],"excluded_dns_domains":["secret.corp.example"],"permitted_ip_ranges":["192.0.2.0/24","2001:db8::/32"]}`)
		var opened [2]*x509.Certificate
		for n := range opened {
			i, err := local.Type.New(kept, env)
			if err != nil {
				t.Fatal(err)
			}
			opened[n] = i.(*local.Issuer).Chain()[0]
		}
		root := opened[0]
		if !root.Equal(opened[1]) {
			t.Errorf("%s: another root after it was opened again", k.Name)
		}
		if a, err := cert.KeyAlgorithmOf(root.PublicKey); err != nil || a != k {
			t.Errorf("%s: the key is %v (%v)", k.Name, a, err)
		}
		if got, want := root.Subject.String(), "CN=Example Root,O=Exämple,C=AT"; got != want {
			t.Errorf("the subject is %s, want %s", got, want)
		}
		if lasts := root.NotAfter.Sub(root.NotBefore) + time.Second; lasts != 30*24*time.Hour {
			t.Errorf("it lasts %v", lasts)
		}
		if !root.PermittedDNSDomainsCritical || !slices.Equal(root.PermittedDNSDomains, []string{"corp.example"}) ||
			!slices.Equal(root.ExcludedDNSDomains, []string{"secret.corp.example"}) || len(root.PermittedIPRanges) != 2 {
			t.Errorf("its constraints are %v, %v, %v", root.PermittedDNSDomains, root.ExcludedDNSDomains, root.PermittedIPRanges)
		}
		noErrors(t, root)
	}
}

// noErrors runs the lints of RFC 5280 on a certificate, as somebody else would.
func noErrors(t *testing.T, c *x509.Certificate) {
	t.Helper()
	parsed, err := zcrypto.ParseCertificate(c.Raw)
	if err != nil {
		t.Fatal(err)
	}
	registry, err := lint.GlobalRegistry().Filter(lint.FilterOptions{IncludeSources: lint.SourceList{lint.RFC5280}})
	if err != nil {
		t.Fatal(err)
	}
	passed := 0
	for name, r := range zlint.LintCertificateEx(parsed, registry).Results {
		if r.Status >= lint.Warn {
			t.Errorf("%s: %s: %s", c.Subject, name, r.Details)
		}
		if r.Status == lint.Pass {
			passed++
		}
	}
	if passed < 10 {
		t.Errorf("only %d lints passed", passed)
	}
}

func TestSettingsOfARootAreChecked(t *testing.T) {
	for settings, says := range map[string]string{
		`{}`:                     "body.settings.common_name is missing",
		`{"common_name":" "}`:    "body.settings.common_name is missing",
		`{"common_name":" a"}`:   "body.settings.common_name has characters that do not print, or blanks",
		`{"common_name":"a\nb"}`: "body.settings.common_name has characters",
		`{"common_name":"` + strings.Repeat("a", 65) + `"}`:          "body.settings.common_name is out of bounds",
		`{"common_name":"a","organization":"a\u0000"}`:               "body.settings.organization has characters",
		`{"common_name":"a","country":"at"}`:                         "body.settings.country is not two upper-case letters",
		`{"common_name":"a","key_algorithm":"dsa"}`:                  "body.settings.key_algorithm is out of bounds; give one of ecdsa-p256",
		`{"common_name":"a","validity_days":0}`:                      "body.settings.validity_days is out of bounds",
		`{"common_name":"a","permitted_dns_domains":[".a.example"]}`: "body.settings.permitted_dns_domains has one that is not a domain",
		`{"common_name":"a","permitted_dns_domains":[""]}`:           "body.settings.permitted_dns_domains",
		`{"common_name":"a","excluded_dns_domains":["A.example"]}`:   "body.settings.excluded_dns_domains",
		`{"common_name":"a","permitted_ip_ranges":["192.0.2.1/24"]}`: "body.settings.permitted_ip_ranges has one that is not a range",
		`{"common_name":"a","permitted_ip_ranges":["192.0.2.1"]}`:    "body.settings.permitted_ip_ranges",
	} {
		_, err := local.Type.Prepare(json.RawMessage(settings))
		is(t, settings, err, fault.Invalid, says)
	}
	_, err := local.Type.Prepare(json.RawMessage(`{"country":"at","permitted_ip_ranges":["x"]}`))
	is(t, "several", err, fault.Invalid, "common_name", "country", "permitted_ip_ranges")
}

func TestNothingOfAnAuthorityChanges(t *testing.T) {
	kept := prepare(t, `{"common_name":"Root"}`)
	shown := local.Type.Redact(kept)
	if strings.Contains(string(shown), "PRIVATE") || !strings.Contains(string(shown), config.Withheld) || !strings.Contains(string(shown), "BEGIN CERTIFICATE") {
		t.Errorf("shown are %s", shown)
	}
	merged, err := local.Type.Merge(kept, shown)
	if err != nil || !bytes.Equal(merged, kept) {
		t.Errorf("what was shown merges into %s (%v)", merged, err)
	}
	for field, value := range map[string]string{
		"key_algorithm": `"ed25519"`, "common_name": `"x"`, "organization": `"x"`, "country": `"AT"`, "validity_days": `7`,
		"permitted_dns_domains": `["a"]`, "excluded_dns_domains": `["a"]`, "permitted_ip_ranges": `["::/0"]`,
		"certificate_pem": `"x"`, "key_pem": `"x"`,
	} {
		_, err := local.Type.Merge(kept, json.RawMessage(`{"`+field+`":`+value+`}`))
		is(t, field, err, fault.Invalid, "body.settings."+field+" cannot be changed after creation")
	}
	for _, f := range local.Type.Settings {
		if !f.Fixed || f.Secret != (f.Name == "key_pem") {
			t.Errorf("%s is declared as %+v", f.Name, f)
		}
	}
}

// ca is an authority that a test makes by itself, to bring it.
type ca struct {
	chain []*x509.Certificate
	key   crypto.Signer
}

// newCA makes an authority under parent, or a root.
func newCA(t testing.TB, parent *ca, k *cert.KeyAlgorithm, change func(*x509.Certificate)) *ca {
	t.Helper()
	key, err := k.Generate()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: cert.NewSerial(), Subject: pkix.Name{CommonName: "CA " + cert.Serial(cert.NewSerial())},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(30 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
	}
	if change != nil {
		change(template)
	}
	by, signer := template, key
	var above []*x509.Certificate
	if parent != nil {
		by, signer, above = parent.chain[0], parent.key, parent.chain
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &ca{append([]*x509.Certificate{c}, above...), key}
}

func subordinate(t testing.TB) *ca {
	t.Helper()
	return newCA(t, newCA(t, nil, cert.ECDSAP384, nil), cert.ECDSAP256, nil)
}

func (c *ca) certificates() string {
	var b strings.Builder
	for _, x := range c.chain {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: x.Raw}))
	}
	return b.String()
}

func (c *ca) keyPEM() string { return pkcs8(c.key) }

func pkcs8(key crypto.Signer) string {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func (c *ca) settings() string { return brought(c.certificates(), c.keyPEM()) }

func brought(certificates, key string) string {
	raw, err := json.Marshal(map[string]string{"certificate_pem": certificates, "key_pem": key})
	if err != nil {
		panic(err)
	}
	return string(raw)
}

func TestSubordinateIsDescribedAsItIs(t *testing.T) {
	c := newCA(t, newCA(t, nil, cert.ECDSAP384, nil), cert.RSA2048, nil)
	var s local.Settings
	if err := json.Unmarshal(prepare(t, c.settings()), &s); err != nil {
		t.Fatal(err)
	}
	if s.KeyAlgorithm != "rsa-2048" || s.ValidityDays != 30 {
		t.Errorf("it has %s and lasts %d days", s.KeyAlgorithm, s.ValidityDays)
	}
	i := open(t, c.settings())
	got := issue(t, i, order(t, cert.ECDSAP256, "a.example"))
	if len(i.Chain()) != 2 || len(got.Chain) != 1 || !got.Chain[0].Equal(c.chain[0]) {
		t.Errorf("the chain has %d certificates, that of a leaf %d", len(i.Chain()), len(got.Chain))
	}
}

func TestKeysAreTakenAsOpenSSLWritesThem(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("there is no openssl")
	}
	ec, rsa := newCA(t, nil, cert.ECDSAP256, nil), newCA(t, nil, cert.RSA2048, nil)
	for name, c := range map[string]struct {
		of   *ca
		args []string
		says string // if it is refused
	}{
		"PKCS#8":                 {ec, []string{"pkey"}, ""},
		"SEC 1":                  {ec, []string{"ec"}, ""},
		"SEC 1 with parameters":  {ec, []string{"ec", "-param_out"}, ""},
		"PKCS#1":                 {rsa, []string{"rsa", "-traditional"}, ""},
		"encrypted":              {ec, []string{"pkey", "-aes256", "-passout", "pass:secret"}, "decrypt it with `openssl pkey`"},
		"encrypted, the old way": {rsa, []string{"rsa", "-traditional", "-aes256", "-passout", "pass:secret"}, "decrypt it with `openssl pkey`"},
	} {
		cmd := exec.CommandContext(t.Context(), openssl, c.args...)
		cmd.Stdin = strings.NewReader(c.of.keyPEM())
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if name == "SEC 1 with parameters" {
			// What `openssl ecparam -genkey` writes: the parameters, then the key.
			sec1, err := exec.CommandContext(t.Context(), openssl, "ecparam", "-name", "prime256v1").Output()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), openssl, "ec")
			cmd.Stdin = strings.NewReader(c.of.keyPEM())
			key, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			out = slices.Concat(sec1, key)
		}
		_, err = local.Type.Prepare(json.RawMessage(brought(c.of.certificates(), string(out))))
		if c.says != "" {
			is(t, name, err, fault.Invalid, "body.settings.key_pem", c.says)
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAuthorityThatCouldNotWorkIsRefused(t *testing.T) {
	good := subordinate(t)
	root := newCA(t, nil, cert.ECDSAP256, nil)
	changed := func(change func(*x509.Certificate)) string {
		return newCA(t, root, cert.ECDSAP256, change).settings()
	}
	p521, err := exec.CommandContext(t.Context(), "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-521", "-nodes", "-keyout", "/dev/stdout", "-subj", "/CN=a").Output()
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode(p521)
	p521Key := string(pem.EncodeToMemory(block))
	short := newCA(t, newCA(t, newCA(t, nil, cert.ECDSAP256, func(c *x509.Certificate) { c.MaxPathLenZero = true }), cert.ECDSAP256, nil), cert.ECDSAP256, nil)
	swapped := *good
	swapped.chain = []*x509.Certificate{good.chain[0], root.chain[0]}
	headless := *good
	headless.chain = good.chain[:1]
	sha1 := exec.CommandContext(t.Context(), "openssl", "req", "-x509", "-sha1", "-key", "/dev/stdin", "-subj", "/CN=a",
		"-addext", "keyUsage=critical,keyCertSign,cRLSign")
	sha1.Stdin = strings.NewReader(root.keyPEM())
	weak, err := sha1.Output()
	if err != nil {
		t.Fatal(err)
	}
	certificate, key := "body.settings.certificate_pem", "body.settings.key_pem"
	for name, c := range map[string]struct {
		settings string
		says     []string
	}{
		"a certificate without its key":  {brought(good.certificates(), ""), []string{key, "holds no private key in PEM"}},
		"a key without its certificate":  {brought("", good.keyPEM()), []string{certificate, "holds no certificate in PEM"}},
		"a text":                         {brought("c4n4ry", good.keyPEM()), []string{certificate, "holds no certificate"}},
		"a text behind it":               {brought(good.certificates()+"c4n4ry", good.keyPEM()), []string{certificate, "ends in something that is not PEM"}},
		"a certificate that is none":     {brought("-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----\n", good.keyPEM()), []string{certificate, "cannot be read"}},
		"a request":                      {brought("-----BEGIN CERTIFICATE REQUEST-----\nYQ==\n-----END CERTIFICATE REQUEST-----\n", good.keyPEM()), []string{certificate, "is not a certificate"}},
		"the key among the certificates": {brought(good.certificates()+good.keyPEM(), good.keyPEM()), []string{certificate, "holds a private key"}},
		"too many":                       {brought(strings.Repeat(good.certificates(), 6), good.keyPEM()), []string{certificate, "more certificates than"}},
		"the key of another":             {brought(good.certificates(), root.keyPEM()), []string{key, "is not the key of the first certificate"}},
		"two keys":                       {brought(good.certificates(), good.keyPEM()+good.keyPEM()), []string{key, "more than one"}},
		"a key that is none":             {brought(good.certificates(), "-----BEGIN PRIVATE KEY-----\nYQ==\n-----END PRIVATE KEY-----\n"), []string{key, "cannot be read"}},
		"a certificate as the key":       {brought(good.certificates(), good.certificates()), []string{key, "more than one private key"}},
		"one certificate as the key":     {brought(good.certificates(), headless.certificates()), []string{key, "something else than a private key"}},
		"no authority":                   {changed(func(c *x509.Certificate) { c.IsCA = false; c.KeyUsage = x509.KeyUsageDigitalSignature }), []string{certificate, "CA:TRUE"}},
		"one that may not sign":          {changed(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), []string{certificate, "keyCertSign"}},
		"one that may not sign lists":    {changed(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign }), []string{certificate, "cRLSign"}},
		"one that has ended":             {changed(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), []string{certificate, "not valid now"}},
		"one that has not begun":         {changed(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), []string{certificate, "not valid now"}},
		"one with an unknown extension": {changed(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		}), []string{certificate, "critical extension"}},
		"a root that allows none below":    {short.settings(), []string{certificate, "path length"}},
		"a chain in another order":         {brought(root.certificates()+good.certificates(), root.keyPEM()), []string{certificate, "not signed"}},
		"a chain of another":               {swapped.settings(), []string{certificate, "the next has not signed"}},
		"a chain without its root":         {headless.settings(), []string{certificate, "does not end in a root"}},
		"a key that is not declared":       {brought(string(rest), p521Key), []string{certificate, "ECDSA on the curve P-521"}},
		"a signature with SHA-1":           {brought(string(weak), root.keyPEM()), []string{certificate, "signature that is weak"}},
		"a name for what has one":          {strings.Replace(good.settings(), "{", `{"common_name":"a",`, 1), []string{certificate, "says its own name"}},
		"constraints for what has its own": {strings.Replace(good.settings(), "{", `{"permitted_dns_domains":["a"],`, 1), []string{certificate, "says its own name and constraints"}},
	} {
		_, err := local.Type.Prepare(json.RawMessage(c.settings))
		is(t, name, err, fault.Invalid, c.says...)
		if err != nil && strings.Contains(err.Error(), "c4n4ry") {
			t.Errorf("%s: the refusal repeats the value", name)
		}
	}
	if _, err := local.Type.Prepare(json.RawMessage(newCA(t, root, cert.ECDSAP256, func(c *x509.Certificate) { c.MaxPathLenZero = true }).settings())); err != nil {
		t.Errorf("one that allows leaves only: %v", err)
	}
}

func TestLeafIsAsTheOrderSays(t *testing.T) {
	i := open(t, `{"common_name":"Root"}`)
	server, client, mail := x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageEmailProtection
	o := order(t, cert.ECDSAP256, "a.example", "*.b.example")
	uri, err := url.Parse("spiffe://prod/ns/a")
	if err != nil {
		t.Fatal(err)
	}
	o.Names.IP, o.Names.Email, o.Names.URI = []netip.Addr{netip.MustParseAddr("::1"), netip.MustParseAddr("192.0.2.1")}, []string{"a@b.example"}, []*url.URL{uri}
	o.Usages = []x509.ExtKeyUsage{server, client, mail}
	leaf := issue(t, i, o).Leaf
	names := cert.Names{DNS: leaf.DNSNames, Email: leaf.EmailAddresses, URI: leaf.URIs}
	for _, a := range leaf.IPAddresses {
		addr, _ := netip.AddrFromSlice(a)
		names.IP = append(names.IP, addr)
	}
	if !slices.Equal(names.Text(), o.Names.Text()) || !slices.Equal(leaf.ExtKeyUsage, o.Usages) || leaf.Subject.String() != "CN=a.example" {
		t.Errorf("it is of %s, %v, for %v", leaf.Subject, names.Text(), leaf.ExtKeyUsage)
	}
	noErrors(t, issue(t, i, order(t, cert.ECDSAP256, "a.example")).Leaf)
	if !slices.Equal(leaf.CRLDistributionPoints, []string{"http://pki.example/.well-known/pki/crl/iss_1"}) ||
		!slices.Equal(leaf.IssuingCertificateURL, []string{"http://pki.example/.well-known/pki/ca/iss_1"}) {
		t.Errorf("it points to %v and %v", leaf.CRLDistributionPoints, leaf.IssuingCertificateURL)
	}
	if !bytes.Equal(leaf.AuthorityKeyId, i.Chain()[0].SubjectKeyId) || len(leaf.SubjectKeyId) != 20 {
		t.Errorf("its key identifiers are %x under %x", leaf.SubjectKeyId, leaf.AuthorityKeyId)
	}
	if lasts := leaf.NotAfter.Sub(leaf.NotBefore) + time.Second; lasts != o.Validity {
		t.Errorf("it lasts %v, want %v", lasts, o.Validity)
	}

	const signs, encrypts = x509.KeyUsageDigitalSignature, x509.KeyUsageKeyEncipherment
	for _, c := range []struct {
		k      *cert.KeyAlgorithm
		usages []x509.ExtKeyUsage
		want   x509.KeyUsage
	}{
		{cert.ECDSAP384, []x509.ExtKeyUsage{server}, signs},
		{cert.Ed25519, []x509.ExtKeyUsage{server, mail}, signs},
		{cert.RSA2048, []x509.ExtKeyUsage{server}, signs | encrypts},
		{cert.RSA2048, []x509.ExtKeyUsage{mail}, signs | encrypts},
		{cert.RSA2048, []x509.ExtKeyUsage{client, x509.ExtKeyUsageCodeSigning}, signs},
	} {
		o := order(t, c.k, "a.example")
		o.Usages = c.usages
		if got := issue(t, i, o).Leaf.KeyUsage; got != c.want {
			t.Errorf("the key usage of %s for %v is %b, want %b", c.k.Name, c.usages, got, c.want)
		}
	}
}

// extension returns whether a certificate has an extension, and whether it is
// critical.
func extension(c *x509.Certificate, oid string) (has, critical bool) {
	for _, e := range c.Extensions {
		if e.Id.String() == oid {
			return true, e.Critical
		}
	}
	return false, false
}

func TestExtensions(t *testing.T) {
	i := open(t, `{"common_name":"Root"}`)
	nowhere, err := local.Type.New(prepare(t, `{"common_name":"Root"}`), connector.Env{ID: "iss_2"})
	if err != nil {
		t.Fatal(err)
	}
	const san, constraints, usage, purposes, points, policies, access = "2.5.29.17", "2.5.29.19", "2.5.29.15", "2.5.29.37", "2.5.29.31", "2.5.29.32", "1.3.6.1.5.5.7.1.1"
	const staple, noRevocation = "1.3.6.1.5.5.7.1.24", "2.5.29.56"
	always := []string{usage + "!", purposes, constraints + "!", "2.5.29.14", "2.5.29.35"}
	for name, c := range map[string]struct {
		issuer issuer.Issuer
		change func(*cert.Order)
		want   []string
	}{
		"plain":              {i, func(*cert.Order) {}, []string{san, points, access}},
		"without a subject":  {i, func(o *cert.Order) { o.CommonName = "" }, []string{san + "!", points, access}},
		"a long common name": {i, func(o *cert.Order) { o.CommonName = strings.Repeat("a", 65) }, []string{san + "!", points, access}},
		"the issuer's name":  {i, func(o *cert.Order) { o.CommonName = "Root" }, []string{san + "!", points, access}},
		"must staple":        {i, func(o *cert.Order) { o.MustStaple = true }, []string{san, points, access, staple}},
		"short-lived":        {i, func(o *cert.Order) { o.ShortLived = true }, []string{san, access, noRevocation}},
		"of the Forum":       {i, func(o *cert.Order) { o.CABLints = true; o.Names.DNS = []string{"example.com"}; o.CommonName = "" }, []string{san + "!", points, access, policies}},
		"nowhere":            {nowhere, func(*cert.Order) {}, []string{san}},
	} {
		o := order(t, cert.ECDSAP256, "a.example")
		c.change(&o)
		var got []string
		for _, e := range issue(t, c.issuer, o).Leaf.Extensions {
			s := e.Id.String()
			if e.Critical {
				s += "!"
			}
			got = append(got, s)
		}
		want := slices.Concat(always, c.want)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
	o := order(t, cert.ECDSAP256, "a.example")
	o.Usages = []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping}
	leaf := issue(t, i, o).Leaf
	if has, critical := extension(leaf, purposes); !has || !critical || !slices.Equal(leaf.ExtKeyUsage, o.Usages) {
		t.Errorf("the purposes of time stamps are %v, critical %v", leaf.ExtKeyUsage, critical)
	}
}

func TestPeriod(t *testing.T) {
	root := newCA(t, nil, cert.ECDSAP256, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(48 * time.Hour) })
	fresh := newCA(t, root, cert.ECDSAP256, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(-time.Second) })
	i := open(t, fresh.settings())
	o := order(t, cert.ECDSAP256, "a.example")
	leaf := issue(t, i, o).Leaf
	if leaf.NotBefore.Before(fresh.chain[0].NotBefore) {
		t.Error("it begins before its issuer")
	}
	o.Validity = time.Minute
	leaf = issue(t, open(t, newCA(t, nil, cert.ECDSAP256, nil).settings()), o).Leaf
	if time.Until(leaf.NotAfter) < 45*time.Second || time.Since(leaf.NotBefore) < 5*time.Second {
		t.Errorf("one of a minute begins at %v and ends in %v", leaf.NotBefore, time.Until(leaf.NotAfter))
	}
	o.Validity = 49 * time.Hour // the root ends before, and the issuer after
	_, err := i.Issue(t.Context(), o)
	is(t, "longer than the root", err, fault.Conflict, "would outlive the issuer's own", root.chain[0].NotAfter.Format(time.RFC3339))

	for name, change := range map[string]func(*x509.Certificate){
		"ended":   func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) },
		"not yet": func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) },
	} {
		// One that is kept can end; it is opened all the same, to sign lists.
		i, err := local.Type.New(json.RawMessage(newCA(t, root, cert.ECDSAP256, change).settings()), env)
		if err != nil {
			t.Fatal(err)
		}
		_, err = i.Issue(t.Context(), order(t, cert.ECDSAP256, "a.example"))
		is(t, name, err, fault.Conflict, "choose another issuer")
		is(t, name, i.Test(t.Context()), fault.Conflict, "choose another issuer")
		if _, err := i.(issuer.CRLSigner).SignCRL(t.Context(), issuer.List{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}); err != nil {
			t.Errorf("%s: list: %v", name, err)
		}
	}
}

func TestConstraintsAreKept(t *testing.T) {
	_, tenNet, err := net.ParseCIDR("10.0.0.0/8")
	if err != nil {
		t.Fatal(err)
	}
	_, tenOne, err := net.ParseCIDR("10.1.0.0/16")
	if err != nil {
		t.Fatal(err)
	}
	root := newCA(t, nil, cert.ECDSAP256, func(c *x509.Certificate) {
		c.PermittedDNSDomainsCritical = true
		c.PermittedDNSDomains, c.ExcludedDNSDomains = []string{"corp.example", "x.test"}, []string{"secret.corp.example"}
		c.PermittedIPRanges, c.ExcludedIPRanges = []*net.IPNet{tenNet}, []*net.IPNet{tenOne}
		c.PermittedEmailAddresses, c.ExcludedEmailAddresses = []string{"boss@corp.example", "mail.example", ".sub.example"}, []string{"bad.sub.example"}
		c.PermittedURIDomains, c.ExcludedURIDomains = []string{"host.example", ".id.example"}, []string{"no.id.example"}
	})
	i := open(t, newCA(t, root, cert.ECDSAP256, nil).settings())
	// A name that is taken wrongly would be refused by the standard library, in
	// other words.
	for _, c := range []struct {
		name    string
		allowed bool
	}{
		{"dns:corp.example", true},
		{"dns:a.corp.example", true},
		{"dns:*.corp.example", false},
		{"dns:*.a.corp.example", true},
		{"dns:corp.example.org", false},
		{"dns:acorp.example", false},
		{"dns:a.example", false},
		{"dns:secret.corp.example", false},
		{"dns:a.secret.corp.example", false},
		{"dns:*.secret.corp.example", false},
		{"dns:nosecret.corp.example", true},
		{"dns:*.x.test", true},
		{"ip:10.2.0.1", true},
		{"ip:10.1.0.1", false},
		{"ip:11.0.0.1", false},
		{"ip:2001:db8::1", false},
		{"email:boss@corp.example", true},
		{"email:clerk@corp.example", false},
		{"email:a@mail.example", true},
		{"email:a@x.mail.example", false},
		{"email:a@x.sub.example", true},
		{"email:a@sub.example", false},
		{"email:a@bad.sub.example", false},
		{"uri:https://host.example/a", true},
		{"uri:https://a.host.example/", false},
		{"uri:spiffe://a.id.example/x", true},
		{"uri:spiffe://id.example/x", false},
		{"uri:spiffe://no.id.example/x", false},
		{"uri:spiffe://a.no.id.example/x", false},
	} {
		o := order(t, cert.ECDSAP256, "corp.example")
		o.CommonName = ""
		o.Names = names(t, c.name)
		_, err := i.Issue(t.Context(), o)
		if c.allowed && err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if !c.allowed {
			is(t, c.name, err, fault.Invalid, "the name constraints of the issuer do not allow")
			if _, value, _ := strings.Cut(c.name, ":"); err != nil && strings.Contains(err.Error(), value) {
				t.Errorf("%s: the refusal repeats the name", c.name)
			}
		}
	}
	o := order(t, cert.ECDSAP256, "corp.example")
	o.Names = names(t, "dns:corp.example", "dns:a.example", "dns:b.example", "ip:10.0.0.1", "ip:192.0.2.1", "email:a@b.example", "uri:https://a.example/")
	_, err = i.Issue(t.Context(), o)
	is(t, "several", err, fault.Invalid, "do not allow DNS name 1, DNS name 2, IP address 2, mail address 1, URI 1,")
}

func names(t *testing.T, texts ...string) cert.Names {
	t.Helper()
	n, problems := cert.ParseNames(texts)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return n
}

func TestPurposesOfTheChainAreKept(t *testing.T) {
	root := newCA(t, nil, cert.ECDSAP256, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} })
	i := open(t, newCA(t, root, cert.ECDSAP256, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }).settings())
	o := order(t, cert.ECDSAP256, "a.example")
	o.Usages = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	issue(t, i, o)
	o.Usages = append(o.Usages, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageCodeSigning)
	_, err := i.Issue(t.Context(), o)
	is(t, "more purposes", err, fault.Invalid, "do not allow the purposes codeSigning, serverAuth;")
}

func TestWhatWouldNotVerifyDoesNotLeave(t *testing.T) {
	// The authority wants policies, of which the leaf has none.
	wants := newCA(t, newCA(t, nil, cert.ECDSAP256, nil), cert.ECDSAP256, func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 36}, Critical: true, Value: []byte{0x30, 3, 0x80, 1, 0}}}
	})
	_, err := open(t, wants.settings()).Issue(t.Context(), order(t, cert.ECDSAP256, "a.example"))
	is(t, "without a policy", err, fault.Invalid, "would not verify under the issuer's own")
}

func TestLintsRefuseBeforeItIsSigned(t *testing.T) {
	i := open(t, `{"common_name":"Root"}`)
	o := order(t, cert.ECDSAP256, "a..example", "-.x")
	o.CommonName = ""
	_, err := i.Issue(t.Context(), o)
	is(t, "two labels", err, fault.Invalid, "e_rfc_dnsname_empty_label (", "e_rfc_dnsname_hyphen_in_sld (")

	o = order(t, cert.ECDSAP256, "a.internal")
	issue(t, i, o)
	o.CABLints = true
	o.Validity = 399 * 24 * time.Hour
	_, err = i.Issue(t.Context(), o)
	is(t, "an internal name for 399 days", err, fault.Invalid, "e_dnsname_not_valid_tld (", "validity")

	o = order(t, cert.ECDSAP256, "example.com")
	o.CABLints = true
	issue(t, i, o)
	o.ShortLived = true
	issue(t, i, o)
}

func TestOpenSSLVerifiesLeaves(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("there is no openssl")
	}
	for _, k := range []*cert.KeyAlgorithm{cert.ECDSAP256, cert.ECDSAP384, cert.RSA2048, cert.Ed25519} {
		i := open(t, newCA(t, newCA(t, nil, k, nil), k, nil).settings())
		for _, of := range []*cert.KeyAlgorithm{cert.ECDSAP256, cert.RSA2048, cert.Ed25519} {
			o := order(t, of, "a.example")
			o.MustStaple = true
			got := issue(t, i, o)
			dir := t.TempDir()
			write := func(name string, c *x509.Certificate) string {
				path := filepath.Join(dir, name)
				if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}), 0o600); err != nil {
					t.Fatal(err)
				}
				return path
			}
			out, err := exec.CommandContext(t.Context(), openssl, "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", "a.example",
				"-CAfile", write("root", i.Chain()[1]), "-untrusted", write("ca", got.Chain[0]), write("leaf", got.Leaf)).CombinedOutput()
			if err != nil {
				t.Errorf("%s under %s: %s", of.Name, k.Name, out)
			}
		}
	}
}

func BenchmarkIssue(b *testing.B) {
	for _, k := range []*cert.KeyAlgorithm{cert.ECDSAP256, cert.RSA2048} {
		for name, cab := range map[string]bool{"rfc": false, "cab": true} {
			b.Run(k.Name+"/"+name, func(b *testing.B) {
				i := open(b, `{"common_name":"Root","key_algorithm":"`+k.Name+`"}`)
				o := order(b, cert.ECDSAP256, "example.com")
				o.CABLints = cab
				b.ReportAllocs()
				for b.Loop() {
					issue(b, i, o)
				}
			})
		}
	}
}
