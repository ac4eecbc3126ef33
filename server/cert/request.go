package cert

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cryptobyteasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// A Request is what somebody asks for: a signature for a key of their own, or a
// key with it.
type Request struct {
	CSR          []byte        // PKCS#10 in PEM or DER; without it the server makes the key
	CommonName   string        // without a CSR only, as the next two
	SANs         []string      // as ParseNames reads them
	KeyAlgorithm string        // the profile's first if empty
	Validity     time.Duration // the profile's default if 0
}

// The bounds of requests and profiles.
const (
	maxCSR        = 64 << 10
	maxSANs       = 1000
	minValidity   = time.Minute
	maxValidity   = 4000 * 24 * time.Hour
	maxShortLived = 7 * 24 * time.Hour // RFC 9608 leaves it open; the Baseline Requirements say so
)

// Approve checks a request and says what is to be signed. With a CSR there is
// no key; otherwise it is the one that the server made for the order. What was
// approved is approved again as the same, from the CSR that came with it or from
// its names without one, as long as the profile stays as it is. The error is a
// Refusal with every rule that the request breaks.
func (p *Profile) Approve(r Request) (Order, crypto.Signer, error) {
	var f findings
	order := Order{
		Validity: r.Validity, MustStaple: p.MustStaple, ShortLived: p.ShortLived, CABLints: p.CABLints,
	}
	if !p.Enabled {
		f.add(RuleProfileDisabled, "body.profile_id", "is a profile that is not enabled; enable it, or choose another")
	}
	if order.Validity == 0 {
		order.Validity = seconds(p.DefaultValiditySeconds)
	}
	if order.Validity < minValidity || order.Validity > seconds(p.MaxValiditySeconds) {
		f.add(RuleValidity, "body.validity_seconds", "is less than a minute, or more than the profile's max_validity_seconds; choose one between, or leave it out")
	}
	for _, name := range p.ExtKeyUsages {
		u, ok := ExtKeyUsageNamed(name)
		if !ok { // a certificate without any purpose is good for all
			f.add(RuleProfileForm, "body.profile_id", "is a profile with a purpose that this replica does not know; finish the upgrade, or choose another")
			continue
		}
		order.Usages = append(order.Usages, u.X509)
	}
	a := asked{findings: &f, limits: limitsOf(p, &findings{})}
	if len(r.CSR) > 0 {
		a.readCSR(r, &order)
	} else {
		a.readRequest(r, &order)
	}
	if err := Refused(f.violations()); err != nil {
		return Order{}, nil, err
	}
	order.Names = namesOf(a.names)
	if len(r.CSR) > 0 {
		return order, nil, nil
	}
	key, err := order.makeKey()
	return order, key, err
}

// asked is a request on its way to an order.
type asked struct {
	*findings
	limits
	names []name
}

func (a *asked) readRequest(r Request, order *Order) {
	algorithm := r.KeyAlgorithm
	if algorithm == "" && len(a.KeyAlgorithms) > 0 {
		algorithm = a.KeyAlgorithms[0]
	}
	k, ok := KeyAlgorithmNamed(algorithm)
	if !ok || !slices.Contains(a.KeyAlgorithms, algorithm) {
		a.add(RuleKeyAlgorithm, "body.key_algorithm", "is none of the profile's key_algorithms; choose one of them, or leave it out")
	}
	order.KeyAlgorithm = k
	if len(r.SANs) > maxSANs {
		a.tooMany("body.sans")
	} else {
		for i, text := range r.SANs {
			a.name("body.sans", i+1, "a name", func() (name, *problem) { return parseName(text) })
		}
	}
	order.CommonName = a.commonName("body.common_name", r.CommonName, len(r.SANs) > 0)
	a.count("body.sans", len(r.SANs) > 0 || r.CommonName != "")
}

func (a *asked) readCSR(r Request, order *Order) {
	if r.CommonName != "" {
		a.add(RuleCSRAlone, "body.common_name", "comes beside a CSR, which has its own; leave it out")
	}
	if len(r.SANs) > 0 {
		a.add(RuleCSRAlone, "body.sans", "comes beside a CSR, which has its own; leave it out")
	}
	if r.KeyAlgorithm != "" {
		a.add(RuleCSRAlone, "body.key_algorithm", "comes beside a CSR, which has a key; leave it out")
	}
	csr, says := parseCSR(r.CSR)
	if csr == nil {
		a.add(RuleCSRForm, "body.csr", says)
		return
	}
	order.CSR, order.PublicKey = csr.Raw, csr.PublicKey
	order.KeyAlgorithm = a.checkKey(csr)
	named := a.checkExtensions(csr)
	cn, ok := commonNameOf(csr)
	if !ok {
		a.add(RuleCommonName, "body.csr", "has several common names, or one that is no text; ask for one, or for none")
		return
	}
	order.CommonName = a.commonName("body.csr", cn, named)
	a.count("body.csr", named || cn != "")
}

// parseCSR returns what is wrong if it returns nil.
func parseCSR(data []byte) (*x509.CertificateRequest, string) {
	if len(data) > maxCSR {
		return nil, "is larger than 64 KiB; ask for fewer names"
	}
	der := data
	// What was stored is DER, and may hold anything that looks like PEM.
	if data[0] != 0x30 {
		block, rest := pem.Decode(data)
		switch {
		case block == nil:
			return nil, "is no PEM; send what stands from BEGIN CERTIFICATE REQUEST to END CERTIFICATE REQUEST, with both lines"
		case block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST":
			return nil, "is PEM of another type; send a CERTIFICATE REQUEST, and never a private key"
		case len(bytes.TrimSpace(rest)) > 0:
			return nil, "has something behind the request; send one CERTIFICATE REQUEST and nothing else"
		}
		der = block.Bytes
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, "is no PKCS#10 request that can be read; make it anew with a current tool, for a key of one of the profile's key_algorithms"
	}
	return csr, ""
}

// checkKey returns the algorithm of the key, nil if it is not declared. Only
// then is the signature not verified: what that costs is up to whoever made the
// key.
func (a *asked) checkKey(csr *x509.CertificateRequest) *KeyAlgorithm {
	k, err := KeyAlgorithmOf(csr.PublicKey)
	if err != nil || !slices.Contains(a.KeyAlgorithms, k.Name) {
		a.add(RuleKeyAlgorithm, "body.csr", "has a key that is of none of the profile's key_algorithms; make one of those, or choose another profile")
	}
	if err != nil {
		return nil
	}
	if public, ok := csr.PublicKey.(*rsa.PublicKey); ok && weak(public) {
		a.add(RuleWeakKey, "body.csr", "has a weak RSA key: its exponent is even or smaller than 65537, or its modulus has a small factor; make another key with a current tool")
	}
	old := csr.SignatureAlgorithm == x509.SHA1WithRSA || csr.SignatureAlgorithm == x509.ECDSAWithSHA1
	if old || csr.CheckSignature() != nil {
		a.add(RuleCSRSignature, "body.csr", "is not signed by the key in it, or over MD5 or SHA-1; sign it with that key over SHA-256 or better")
	}
	return k
}

// smallPrimes is the product of the primes that no good modulus is divisible by
// (NIST SP 800-89 §5.3.3).
var smallPrimes = func() *big.Int {
	product := big.NewInt(1)
	for n := int64(2); n < 752; n++ {
		if p := big.NewInt(n); p.ProbablyPrime(0) {
			product.Mul(product, p)
		}
	}
	return product
}()

func weak(k *rsa.PublicKey) bool {
	return k.E < 65537 || k.E%2 == 0 || new(big.Int).GCD(nil, nil, k.N, smallPrimes).Cmp(big.NewInt(1)) != 0
}

// Object identifiers of extensions (RFC 5280 §4.2.1, RFC 7633).
var (
	oidSubjectKeyID     = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidSubjectAltName   = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidExtKeyUsage      = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidTLSFeature       = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}
	oidCommonName       = asn1.ObjectIdentifier{2, 5, 4, 3}
)

// checkExtensions checks what the request asks for besides a signature, and
// reports whether it has names. The identifier of the key, that it is no
// authority's, and usages of it are taken: the issuer sets its own.
func (a *asked) checkExtensions(csr *x509.CertificateRequest) (named bool) {
	unreadable := func() {
		a.add(RuleCSRForm, "body.csr", "has an extension that cannot be read; make it anew with a current tool")
	}
	for i, e := range csr.Extensions {
		switch {
		case e.Id.Equal(oidSubjectAltName):
			var ok bool
			if named, ok = a.readSANs(e.Value); !ok {
				unreadable()
			}
		case e.Id.Equal(oidExtKeyUsage):
			var purposes []asn1.ObjectIdentifier
			if !whole(e.Value, &purposes) {
				unreadable()
			}
			for i, purpose := range purposes {
				if !slices.ContainsFunc(a.ExtKeyUsages, func(name string) bool {
					u, ok := ExtKeyUsageNamed(name)
					return ok && u.X509.OID().EqualASN1OID(purpose)
				}) {
					a.at("body.csr", i+1, "a purpose", &problem{RuleExtKeyUsage, "is none of the profile's ext_key_usages; ask for those only, or choose another profile"})
				}
			}
		case e.Id.Equal(oidBasicConstraints):
			var c struct {
				CA      bool `asn1:"optional"`
				PathLen int  `asn1:"optional,default:-1"`
			}
			if !whole(e.Value, &c) {
				unreadable()
			} else if c.CA {
				a.add(RuleCSRExtension, "body.csr", "asks to be an authority (CA:TRUE); ask for CA:FALSE, or leave the extension out")
			}
		case e.Id.Equal(oidKeyUsage):
			var bits asn1.BitString
			if !whole(e.Value, &bits) {
				unreadable()
			} else if bits.At(5) != 0 || bits.At(6) != 0 {
				a.add(RuleCSRExtension, "body.csr", "asks for the key usages of an authority (keyCertSign, cRLSign); leave them out")
			}
		case e.Id.Equal(oidTLSFeature):
			if !a.MustStaple {
				a.add(RuleCSRExtension, "body.csr", "asks for must-staple, which the profile does not set; leave it out, or choose another profile")
			}
		case e.Id.Equal(oidSubjectKeyID):
		default:
			a.at("body.csr", i+1, "an extension", &problem{RuleCSRExtension, "is not granted to anybody; ask for subjectAltName, keyUsage, extendedKeyUsage and must-staple only"})
		}
	}
	return named
}

// whole reads a value that has nothing behind it.
func whole(der []byte, v any) bool {
	rest, err := asn1.Unmarshal(der, v)
	return err == nil && len(rest) == 0
}

// readSANs reads the names of a request, which x509 would do without saying that
// there are any of other kinds. It reports false of what cannot be read.
func (a *asked) readSANs(der cryptobyte.String) (named, ok bool) {
	var list cryptobyte.String
	if !der.ReadASN1(&list, cryptobyteasn1.SEQUENCE) || !der.Empty() {
		return true, false
	}
	places := map[*SANKind]int{}
	for n := 0; !list.Empty(); n++ {
		var value cryptobyte.String
		var tag cryptobyteasn1.Tag
		if !list.ReadAnyASN1(&value, &tag) {
			return true, false
		}
		if n == maxSANs {
			a.tooMany("body.csr")
			return true, true
		}
		named = true
		i := slices.IndexFunc(SANKinds(), func(k *SANKind) bool { return tag == cryptobyteasn1.Tag(k.tag).ContextSpecific() })
		if i < 0 {
			a.at("body.csr", n+1, "a name", &problem{RuleSANKind, "is of a kind that nobody grants, as otherName or directoryName; ask for DNS names, addresses, mail addresses and URIs only"})
			continue
		}
		k := SANKinds()[i]
		places[k]++
		a.name("body.csr", places[k], k.noun, func() (name, *problem) {
			if k != IPAddress {
				return k.read(string(value))
			}
			addr, _ := netip.AddrFromSlice(net.IP(value))
			return k.read(addr.String())
		})
	}
	return named, true
}

// name takes a name, or says why not.
func (a *asked) name(field string, place int, noun string, read func() (name, *problem)) {
	n, problem := read()
	if problem != nil {
		a.at(field, place, noun, problem)
		return
	}
	for _, problem := range a.problems(n) {
		a.at(field, place, noun, problem)
	}
	a.names = append(a.names, n)
}

var otherKind = &problem{RuleSANKind, "is of none of the profile's san_kinds; choose a name of one, or another profile"}

func (l *limits) problems(n name) []*problem {
	problems := n.kind.allows(l, n)
	if !slices.Contains(l.SANKinds, n.kind.Name) {
		problems = append(problems, otherKind)
	}
	return problems
}

// commonName returns a common name in the form of the name that it is. Without
// other names it becomes the only one.
func (a *asked) commonName(field, text string, named bool) string {
	if text == "" {
		return ""
	}
	n, problem := parseName(text)
	switch {
	case problem != nil:
		a.add(problem.rule, field, "has a common name that "+problem.says)
	case named && !slices.ContainsFunc(a.names, func(o name) bool { return o.kind == n.kind && o.text == n.text }):
		a.add(RuleCommonName, field, "has a common name that is none of the subject alternative names; add it to them, or leave it out")
	case !named:
		for _, problem := range a.problems(n) {
			a.add(problem.rule, field, "has a common name that "+problem.says)
		}
		a.names = append(a.names, n)
	}
	return n.text
}

// count checks how many names there are. Of names that were refused it does not
// say that they are missing.
func (a *asked) count(field string, named bool) {
	switch names := namesOf(a.names); {
	case names.Len() > a.MaxSANs:
		a.tooMany(field)
	case names.Len() == 0 && !named:
		a.add(RuleSANMissing, field, "has no name; give at least one subject alternative name")
	}
}

func (a *asked) tooMany(field string) {
	a.add(RuleSANCount, field, "has more names than the profile's max_sans; ask for several certificates, or choose another profile")
}

// commonNameOf reports false of a subject with several, or with one that is no
// text.
func commonNameOf(csr *x509.CertificateRequest) (cn string, ok bool) {
	found := 0
	ok = true
	for _, a := range csr.Subject.Names {
		if a.Type.Equal(oidCommonName) {
			found++
			cn, ok = a.Value.(string)
		}
	}
	return cn, ok && found <= 1
}

// makeKey makes the key of an order, and a CSR by which any authority can sign
// it.
func (o *Order) makeKey() (crypto.Signer, error) {
	key, err := o.KeyAlgorithm.Generate()
	if err != nil {
		return nil, err
	}
	template := x509.CertificateRequest{
		Subject: pkix.Name{CommonName: o.CommonName}, DNSNames: o.Names.DNS, EmailAddresses: o.Names.Email, URIs: o.Names.URI,
	}
	for _, a := range o.Names.IP {
		template.IPAddresses = append(template.IPAddresses, a.AsSlice())
	}
	o.CSR, err = x509.CreateCertificateRequest(rand.Reader, &template, key)
	o.PublicKey = key.Public()
	return key, err
}

// Validate checks what a profile says. The error is a Refusal.
func (p *Profile) Validate() error {
	var f findings
	limitsOf(p, &f)
	declared(&f, "body.key_algorithms", p.KeyAlgorithms, KeyAlgorithms(), func(k *KeyAlgorithm) string { return k.Name })
	declared(&f, "body.ext_key_usages", p.ExtKeyUsages, ExtKeyUsages(), func(u *ExtKeyUsage) string { return u.Name })
	declared(&f, "body.san_kinds", p.SANKinds, SANKinds(), func(k *SANKind) string { return k.Name })
	for _, wrong := range []struct {
		is          bool
		field, says string
	}{
		{len(p.KeyAlgorithms) == 0, "key_algorithms", "is empty; name at least one"},
		{len(p.SANKinds) == 0, "san_kinds", "is empty; name at least one"},
		{p.MaxSANs < 1 || p.MaxSANs > maxSANs, "max_sans", "is not between 1 and 1000; choose one that is"},
		{seconds(p.DefaultValiditySeconds) < minValidity, "default_validity_seconds", "is less than a minute; choose a longer one"},
		{p.DefaultValiditySeconds > p.MaxValiditySeconds, "default_validity_seconds", "is more than max_validity_seconds; choose a shorter one, or raise that"},
		{p.MaxValiditySeconds > int64(maxValidity/time.Second), "max_validity_seconds", "is more than 4000 days; choose a shorter one"},
		{p.ShortLived && p.MaxValiditySeconds > int64(maxShortLived/time.Second), "short_lived", "goes with max_validity_seconds of a week at most; lower that, or set it to false"},
		{len(p.ExtKeyUsages) == 0, "ext_key_usages", "is empty; a certificate without a purpose is good for all, so name at least one"},
		{p.CABLints && !slices.Contains(p.ExtKeyUsages, ServerAuth.Name), "cab_lints", "is about certificates of TLS servers; add serverAuth to ext_key_usages, or set it to false"},
	} {
		if wrong.is {
			f.add(RuleProfileForm, "body."+wrong.field, wrong.says)
		}
	}
	return Refused(f.violations())
}

// declared checks a list of names of rows.
func declared[R any](f *findings, field string, names []string, rows []R, name func(R) string) {
	var all []string
	for _, r := range rows {
		all = append(all, name(r))
	}
	for i, n := range names {
		if !slices.Contains(all, n) {
			f.at(field, i+1, "an element", &problem{RuleProfileForm, "does not exist; choose from " + strings.Join(all, ", ")})
		} else if slices.Index(names, n) < i {
			f.at(field, i+1, "an element", &problem{RuleProfileForm, "is there before; leave it out"})
		}
	}
}

// seconds saturates: a bound that is compared with it is far below its end.
func seconds(n int64) time.Duration {
	const most = int64(1<<63-1) / int64(time.Second)
	return time.Duration(min(max(n, 0), most)) * time.Second
}
