package local

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"time"
	"unicode"

	"certctl/server/cert"
	"certctl/server/defect"
	"certctl/server/fault"
)

// skew is how far a clock of somebody who is shown a new certificate may be
// behind.
const skew = time.Minute

// prepare makes the root of a new authority, unless it is given one.
func prepare(s Settings) (Settings, error) {
	if s.CertificatePEM == "" && s.KeyPEM == "" {
		return selfSigned(s)
	}
	if s.CommonName != "" || s.Organization != "" || s.Country != "" ||
		len(s.PermittedDNSDomains)+len(s.ExcludedDNSDomains)+len(s.PermittedIPRanges) > 0 {
		return s, fault.New(fault.Invalid, "body.settings.certificate_pem says its own name and constraints; leave out those of a root that is made, or leave out certificate_pem and key_pem")
	}
	chain, key, err := authority(s.CertificatePEM, s.KeyPEM)
	if err != nil {
		return s, err
	}
	begin, end := period(chain)
	if now := defect.Now(); now.Before(begin.Add(-skew)) || now.After(end) {
		return s, fault.New(fault.Invalid, "body.settings.certificate_pem holds one that is not valid now; give valid ones")
	}
	k, err := cert.KeyAlgorithmOf(key.Public())
	if err != nil {
		return s, err
	}
	// They tell what there is, as for a root that is made.
	s.KeyAlgorithm = algorithm(k.Name)
	s.ValidityDays = min(max(int(chain[0].NotAfter.Sub(chain[0].NotBefore)/(24*time.Hour)), 1), 36500)
	return s, nil
}

var (
	country = regexp.MustCompile(`^([A-Z]{2})?$`)
	domain  = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

func selfSigned(s Settings) (Settings, error) {
	var problems []string
	wrong := func(problem string) { problems = append(problems, "body.settings."+problem) }
	if strings.TrimSpace(s.CommonName) == "" {
		wrong("common_name is missing; name the authority, or give certificate_pem and key_pem")
	}
	for field, text := range map[string]string{"common_name": s.CommonName, "organization": s.Organization} {
		if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) || text != strings.TrimSpace(text) {
			wrong(field + " has characters that do not print, or blanks around it; leave them out")
		}
	}
	if !country.MatchString(s.Country) {
		wrong("country is not two upper-case letters; give the code of ISO 3166, or leave it out")
	}
	for field, list := range map[string][]string{"permitted_dns_domains": s.PermittedDNSDomains, "excluded_dns_domains": s.ExcludedDNSDomains} {
		for _, d := range list {
			if len(d) > 253 || !domain.MatchString(d) {
				wrong(field + " has one that is not a domain in lower case; give it as in corp.example, without a dot in front")
				break
			}
		}
	}
	var ranges []*net.IPNet
	for _, r := range s.PermittedIPRanges {
		p, err := netip.ParsePrefix(r)
		if err != nil || p != p.Masked() || p.Addr().Is4In6() {
			wrong("permitted_ip_ranges has one that is not a range; give it as in 192.0.2.0/24")
			break
		}
		ranges = append(ranges, &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())})
	}
	if len(problems) > 0 {
		return s, invalid(problems)
	}

	subject := pkix.Name{CommonName: s.CommonName}
	if s.Organization != "" {
		subject.Organization = []string{s.Organization}
	}
	if s.Country != "" {
		subject.Country = []string{s.Country}
	}
	k, _ := cert.KeyAlgorithmNamed(string(s.KeyAlgorithm))
	key, err := k.Generate()
	if err != nil {
		return s, err
	}
	begin := defect.Now().UTC().Truncate(time.Second).Add(-skew)
	template := &x509.Certificate{
		SerialNumber: cert.NewSerial(), Subject: subject,
		NotBefore: begin, NotAfter: begin.AddDate(0, 0, s.ValidityDays).Add(-time.Second),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
		PermittedDNSDomainsCritical: true, PermittedDNSDomains: s.PermittedDNSDomains,
		ExcludedDNSDomains: s.ExcludedDNSDomains, PermittedIPRanges: ranges,
	}
	root, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return s, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return s, err
	}
	s.CertificatePEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root}))
	s.KeyPEM = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	return s, nil
}

// authority reads the two files of an authority, and refuses what could not
// sign certificates that verify. Whether they are still valid is not its question.
func authority(certificatePEM, keyPEM string) ([]*x509.Certificate, crypto.Signer, error) {
	chain, problem := parseChain(certificatePEM)
	if problem == "" {
		problem = checkChain(chain)
	}
	if problem != "" {
		return nil, nil, fault.New(fault.Invalid, "body.settings.certificate_pem %s", problem)
	}
	key, problem := parseKey(keyPEM)
	if problem != "" {
		return nil, nil, fault.New(fault.Invalid, "body.settings.key_pem %s", problem)
	}
	if p, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !p.Equal(chain[0].PublicKey) {
		return nil, nil, fault.New(fault.Invalid, "body.settings.key_pem is not the key of the first certificate of certificate_pem; give that")
	}
	return chain, key, nil
}

const wantChain = "; give the authority's certificate, then those that lead to its root, each as a block CERTIFICATE"

func parseChain(text string) (chain []*x509.Certificate, problem string) {
	rest := []byte(text)
	for {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		switch {
		case block == nil && len(chain) == 0:
			return nil, "holds no certificate in PEM" + wantChain
		case block == nil && len(bytes.TrimSpace(rest)) > 0:
			return nil, "ends in something that is not PEM" + wantChain
		case block == nil:
			return chain, ""
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			return nil, "holds a private key; it belongs into key_pem, and nowhere else"
		case block.Type != "CERTIFICATE":
			return nil, "holds something that is not a certificate" + wantChain
		case len(chain) == 10:
			return nil, "holds more certificates than any chain has" + wantChain
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, "holds a certificate that cannot be read" + wantChain
		}
		chain = append(chain, c)
	}
}

func checkChain(chain []*x509.Certificate) (problem string) {
	own, root := chain[0], chain[len(chain)-1]
	if _, err := cert.KeyAlgorithmOf(own.PublicKey); err != nil {
		return "has a key that is " + err.Error() + "; GET /api/v1/introspection names the algorithms that are taken"
	}
	for below, c := range chain {
		switch {
		case !c.BasicConstraintsValid || !c.IsCA:
			return "holds one that is not of an authority (basicConstraints); have one made with CA:TRUE"
		case c.KeyUsage&x509.KeyUsageCertSign == 0:
			return "holds one that may not sign certificates; have it made with the key usage keyCertSign"
		case (c.MaxPathLen > 0 || c.MaxPathLenZero) && c.MaxPathLen < below:
			return "holds one whose path length allows no authority below it; have the authority above it made with a larger one"
		case len(c.UnhandledCriticalExtensions) > 0:
			return "holds one with a critical extension that this server does not know; have it made without"
		}
	}
	switch {
	case own.KeyUsage&x509.KeyUsageCRLSign == 0:
		return "is of an authority that may not sign revocation lists; have it made with the key usage cRLSign"
	case len(own.SubjectKeyId) == 0:
		return "is of an authority without a subject key identifier; have it made with one"
	case !bytes.Equal(root.RawIssuer, root.RawSubject):
		return "does not end in a root" + wantChain
	}
	for at, c := range chain {
		above := chain[min(at+1, len(chain)-1)]
		if !bytes.Equal(c.RawIssuer, above.RawSubject) {
			return "holds one that the next has not signed" + wantChain
		}
		// It refuses SHA-1 and MD5 too.
		if err := c.CheckSignatureFrom(above); err != nil {
			return "holds one with a signature that is weak, or not of the next" + wantChain
		}
	}
	return ""
}

func parseKey(text string) (key crypto.Signer, problem string) {
	const want = "; give the private key as one block PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY"
	block, rest := pem.Decode([]byte(text))
	if block != nil && block.Type == "EC PARAMETERS" { // openssl ecparam writes them in front
		block, rest = pem.Decode(rest)
	}
	if block == nil {
		return nil, "holds no private key in PEM" + want
	}
	if block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "" {
		return nil, "is encrypted; decrypt it with `openssl pkey`, it is sealed here under the server's key"
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, "holds more than one private key" + want
	}
	var parsed any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, "is something else than a private key" + want
	}
	key, ok := parsed.(crypto.Signer)
	if err != nil || !ok {
		return nil, "cannot be read, or is of no kind that signs" + want
	}
	return key, ""
}

// period is when all certificates are valid.
func period(chain []*x509.Certificate) (begin, end time.Time) {
	begin, end = chain[0].NotBefore, chain[0].NotAfter
	for _, c := range chain {
		if c.NotBefore.After(begin) {
			begin = c.NotBefore
		}
		if c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	return begin, end
}
