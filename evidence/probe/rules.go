package probe

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"

	"certctl/evidence"
	"certctl/evidence/lab"
	"certctl/evidence/observe"
	"certctl/server/api"
	"certctl/server/cert"
	"certctl/server/client"
	"certctl/server/fault"
)

// A breach is a request that breaks one rule under a profile that all others
// are kept under.
type breach struct {
	profile func(*api.NewProfile)                   // how its profile differs; nil if it does not
	request func(*api.CertificateRequest)           // how the request differs from one that is granted
	csr     func() (*x509.CertificateRequest, bool) // asked for instead of names, whether its signature is to be broken
}

func sans(names ...string) func(*api.CertificateRequest) {
	return func(r *api.CertificateRequest) { r.SANs = names }
}

// weakCSR was made with openssl for an RSA key whose exponent is 3. Nobody has
// kept that key.
//
//go:embed weak.csr
var weakCSR string

// breaches has a request for each rule.
var breaches = map[*cert.Rule]breach{
	cert.RuleProfileForm:     {profile: func(p *api.NewProfile) { p.Body.IPRanges = &[]string{"no range"} }},
	cert.RuleProfileDisabled: {profile: func(p *api.NewProfile) { p.Body.Enabled = new(bool) }},
	cert.RuleCSRForm:         {request: func(r *api.CertificateRequest) { r.SANs, r.CSR = nil, "no request" }},
	cert.RuleCSRSignature: {csr: func() (*x509.CertificateRequest, bool) {
		return &x509.CertificateRequest{DNSNames: []string{"a." + inside}}, true
	}},
	cert.RuleCSRExtension: {csr: func() (*x509.CertificateRequest, bool) {
		authority, err := asn1.Marshal(struct{ CA bool }{true})
		if err != nil {
			panic(err) // it is a truth value
		}
		basic := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Value: authority}
		return &x509.CertificateRequest{DNSNames: []string{"a." + inside}, ExtraExtensions: []pkix.Extension{basic}}, false
	}},
	cert.RuleCSRAlone: {
		csr: func() (*x509.CertificateRequest, bool) {
			return &x509.CertificateRequest{DNSNames: []string{"a." + inside}}, false
		},
		request: sans("a." + inside),
	},
	cert.RuleKeyAlgorithm: {request: func(r *api.CertificateRequest) { r.KeyAlgorithm = cert.RSA4096.Name }},
	cert.RuleWeakKey:      {request: func(r *api.CertificateRequest) { r.SANs, r.CSR = nil, weakCSR }},
	cert.RuleExtKeyUsage: {csr: func() (*x509.CertificateRequest, bool) {
		purposes, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 2}}) // clientAuth
		if err != nil {
			panic(err) // it is a list of identifiers
		}
		usage := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Value: purposes}
		return &x509.CertificateRequest{DNSNames: []string{"a." + inside}, ExtraExtensions: []pkix.Extension{usage}}, false
	}},
	cert.RuleValidity:       {request: func(r *api.CertificateRequest) { r.ValiditySeconds = longest + 1 }},
	cert.RuleSANMissing:     {request: sans()},
	cert.RuleSANCount:       {request: sans("a."+inside, "b."+inside, "c."+inside, "d."+inside, "e."+inside, "f."+inside)},
	cert.RuleSANKind:        {profile: func(p *api.NewProfile) { p.Body.SANKinds = &[]string{cert.IPAddress.Name} }},
	cert.RuleNameForm:       {request: sans("-a." + inside)},
	cert.RuleNameConfusable: {request: sans("\u0430bc." + inside)}, // its first letter is Cyrillic
	cert.RuleWildcard:       {request: sans("*." + inside)},
	cert.RuleDNSPattern:     {request: sans(outsideName)},
	cert.RuleIPRange:        {request: sans("198.51.100.1")},
	cert.RuleURIPrefix:      {request: sans("spiffe://" + outsideName + "/a")},
	cert.RuleEmailDomain:    {request: sans("a@" + outsideName)},
	cert.RuleCommonName:     {request: func(r *api.CertificateRequest) { r.CommonName = "b." + inside }},
}

// longest is what the profile allows, in seconds.
const longest = 30 * 24 * 60 * 60

// severalRules is a request that breaks many of them.
const severalRules = "a request that breaks several rules"

var several = []*cert.Rule{
	cert.RuleKeyAlgorithm, cert.RuleValidity, cert.RuleSANCount, cert.RuleNameForm, cert.RuleWildcard, cert.RuleDNSPattern,
	cert.RuleIPRange, cert.RuleURIPrefix, cert.RuleEmailDomain, cert.RuleCommonName,
}

func breakSeveral(r *api.CertificateRequest) {
	r.KeyAlgorithm, r.ValiditySeconds, r.CommonName = cert.RSA4096.Name, longest+1, "b."+inside
	r.SANs = []string{"-a." + inside, "*." + inside, "c." + inside, outsideName, "198.51.100.1", "spiffe://" + outsideName + "/a", "a@" + outsideName}
}

func lookRules(ctx context.Context, s *Site) (any, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	request, err := lab.Estate(ctx, s.Admin, unique("ruled"), nil)
	if err != nil {
		return nil, err
	}
	seen := evidence.RulesSeen{Refused: []evidence.RefusalSeen{}}
	// Profiles come first: all that is made from then on is made by a request that
	// was to be refused.
	profiles := map[*cert.Rule]string{}
	var form *api.NewProfile
	for _, rule := range slices.SortedFunc(maps.Keys(breaches), func(a, b *cert.Rule) int { return strings.Compare(a.Name, b.Name) }) {
		in := profile(breaches[rule])
		if rule == cert.RuleProfileForm {
			form = in
			continue
		}
		made, err := client.Do(ctx, s.Admin, api.CreateProfile, in)
		if err != nil {
			return nil, err
		}
		profiles[rule] = made.ID
	}
	if seen.Before, err = observe.Issued(ctx, conn); err != nil {
		return nil, err
	}
	for rule, b := range breaches {
		ask := func() error {
			if rule == cert.RuleProfileForm {
				_, err := client.Do(ctx, s.Admin, api.CreateProfile, form)
				return err
			}
			in := &api.NewCertificate{Body: request}
			in.Body.ProfileID, in.Body.Name, in.Body.SANs = profiles[rule], unique(rule.Name), []string{"a." + inside}
			if b.csr != nil {
				in.Body.SANs = nil
				if in.Body.CSR, err = signed(b.csr()); err != nil {
					return err
				}
			}
			if b.request != nil {
				b.request(&in.Body)
			}
			_, err := client.Do(ctx, s.Admin, api.IssueCertificate, in)
			return err
		}
		r, err := refusal(rule.Name, []*cert.Rule{rule}, ask())
		if err != nil {
			return nil, err
		}
		seen.Refused = append(seen.Refused, r)
	}
	in := &api.NewCertificate{Body: request}
	in.Body.ProfileID, in.Body.Name = profiles[cert.RuleWildcard], unique(severalRules)
	breakSeveral(&in.Body)
	_, err = client.Do(ctx, s.Admin, api.IssueCertificate, in)
	r, err := refusal(severalRules, several, err)
	if err != nil {
		return nil, err
	}
	seen.Refused = append(seen.Refused, r)
	slices.SortFunc(seen.Refused, func(a, b evidence.RefusalSeen) int { return strings.Compare(a.Request, b.Request) })
	seen.After, err = observe.Issued(ctx, conn)
	return seen, err
}

// profile is the one that all breaches but one of its own are kept under.
func profile(b breach) *api.NewProfile {
	in := &api.NewProfile{}
	in.Body.Name = unique("ruled")
	in.Body.KeyAlgorithms = &[]string{cert.ECDSAP256.Name, cert.RSA2048.Name}
	in.Body.SANKinds = &[]string{cert.DNSName.Name, cert.IPAddress.Name, cert.EmailAddress.Name, cert.URI.Name}
	in.Body.DNSPatterns, in.Body.EmailDomains = &[]string{"*." + inside}, &[]string{inside}
	in.Body.IPRanges, in.Body.URIPrefixes = &[]string{"192.0.2.0/24"}, &[]string{"spiffe://" + inside + "/a"}
	most, validity := 5, int64(longest)
	in.Body.MaxSANs, in.Body.MaxValiditySeconds, in.Body.Wildcards = &most, &validity, new(bool)
	if b.profile != nil {
		b.profile(in)
	}
	return in
}

// signed is a request in PEM, with a key that nobody keeps.
func signed(template *x509.CertificateRequest, spoil bool) (string, error) {
	key, err := cert.ECDSAP256.Generate()
	if err != nil {
		return "", err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return "", err
	}
	if spoil { // another name of the same length
		der = bytes.Replace(der, []byte("a."+inside), []byte("b."+inside), 1)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}

// refusal reads the names of rules out of an answer.
func refusal(request string, breaks []*cert.Rule, err error) (evidence.RefusalSeen, error) {
	r := evidence.RefusalSeen{Request: request, Breaks: []string{}, Named: []string{}}
	for _, rule := range breaks {
		r.Breaks = append(r.Breaks, rule.Name)
	}
	switch {
	case err == nil:
		return r, nil
	case fault.Of(err) != fault.Invalid:
		return r, fmt.Errorf("%s: %w", request, err)
	}
	for _, rule := range cert.Rules() {
		if strings.Contains(err.Error(), "("+rule.Name+")") {
			r.Named = append(r.Named, rule.Name)
		}
	}
	return r, nil
}

// widened are the rules that widen opens.
var widened = []*cert.Rule{
	cert.RuleSANCount, cert.RuleWildcard, cert.RuleDNSPattern, cert.RuleIPRange, cert.RuleURIPrefix, cert.RuleEmailDomain,
}

const widen = `
	create function widen() returns trigger language plpgsql as $$
	begin
		new.max_sans := 1000;
		new.wildcards := true;
		new.dns_patterns := '{}';
		new.ip_ranges := '{}';
		new.uri_prefixes := '{}';
		new.email_domains := '{}';
		return new;
	end $$;
	create trigger widen before insert or update on profiles for each row execute function widen()`
