package local

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3/lint"
	_ "github.com/zmap/zlint/v3/lints/cabf_br" // registers itself
	_ "github.com/zmap/zlint/v3/lints/rfc"     // registers itself
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"certctl/server/fault"
)

// unlinted are the lints that do not count, each with its reason.
var unlinted = map[string]string{
	"e_ext_san_uri_host_not_fqdn_or_ip": "the trust domain of a SPIFFE id is in the place of a host, and need not have a dot",
}

var (
	rfcLints = lintsOf(lint.RFC5280)
	cabLints = lintsOf(lint.CABFBaselineRequirements)
)

func lintsOf(source lint.LintSource) []*lint.CertificateLint {
	var lints []*lint.CertificateLint
	for _, l := range lint.GlobalRegistry().CertificateLints().BySource(source) {
		if _, left := unlinted[l.Name]; !left {
			lints = append(lints, l)
		}
	}
	return lints
}

// lintTBS refuses the part of a certificate that is to be signed if a lint calls
// it an error, and names every such lint.
func lintTBS(tbs []byte, cab bool) error {
	c, err := unsigned(tbs)
	if err != nil {
		return fmt.Errorf("read for the lints: %w", err)
	}
	lints := rfcLints
	if cab {
		lints = slices.Concat(rfcLints, cabLints)
	}
	var broken []string
	for _, l := range lints {
		r := l.Execute(c, lint.GlobalRegistry().GetConfiguration())
		if r.Status >= lint.Error {
			broken = append(broken, l.Name+" ("+strings.TrimSuffix(l.Description, ".")+")")
		}
	}
	if len(broken) == 0 {
		return nil
	}
	slices.Sort(broken)
	return fault.New(fault.Invalid, "the certificate would break %s; change the request or its profile", strings.Join(broken, "; "))
}

// unsigned reads a certificate that has no signature yet.
func unsigned(tbs []byte) (*x509.Certificate, error) {
	var fields, algorithm cryptobyte.String
	outer := cryptobyte.String(tbs)
	if !outer.ReadASN1(&fields, asn1.SEQUENCE) ||
		!fields.SkipASN1(asn1.Tag(0).ContextSpecific().Constructed()) || // version
		!fields.SkipASN1(asn1.INTEGER) || // serial number
		!fields.ReadASN1Element(&algorithm, asn1.SEQUENCE) {
		return nil, errors.New("it does not begin as a certificate does")
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddBytes(algorithm)
		b.AddASN1BitString(make([]byte, 64)) // no lint looks at it
	})
	der, err := b.Bytes()
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}
