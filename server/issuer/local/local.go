// Package local is an authority inside the server: a root that it makes, or a
// subordinate whose certificate and key the operator brings.
package local

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"strings"
	"time"

	"certctl/server/cert"
	"certctl/server/connector"
	"certctl/server/defect"
	"certctl/server/fault"
	"certctl/server/issuer"
)

// Type is the type of these issuers.
var Type = issuer.Declare("local",
	"An authority inside the server. Its key is sealed in the database with its settings.", open, prepare)

// Settings are the settings of an authority. Once there is one, the last two are
// set, whoever made them.
type Settings struct {
	KeyAlgorithm        algorithm `json:"key_algorithm" default:"ecdsa-p256" fixed:"true" doc:"of the key that is made"`
	CommonName          string    `json:"common_name" maxLength:"64" fixed:"true" doc:"names the root that is made"`
	Organization        string    `json:"organization" maxLength:"64" fixed:"true" doc:"of the root that is made"`
	Country             string    `json:"country" maxLength:"2" fixed:"true" doc:"of the root that is made, in two upper-case letters"`
	ValidityDays        int       `json:"validity_days" default:"3650" minimum:"1" maximum:"36500" fixed:"true" doc:"of the root that is made"`
	PermittedDNSDomains []string  `json:"permitted_dns_domains" fixed:"true" doc:"domains that DNS names have to be in, as the root that is made says; any if empty"`
	ExcludedDNSDomains  []string  `json:"excluded_dns_domains" fixed:"true" doc:"domains that no DNS name may be in, as the root that is made says"`
	PermittedIPRanges   []string  `json:"permitted_ip_ranges" fixed:"true" doc:"what addresses have to be in, as CIDR, as the root that is made says; any if empty"`
	CertificatePEM      string    `json:"certificate_pem" fixed:"true" doc:"the authority's certificate, then those that lead to its root, in PEM; a root is made without it"`
	KeyPEM              string    `json:"key_pem" fixed:"true" secret:"true" doc:"the authority's private key in PEM, not encrypted"`
}

type algorithm string

func (algorithm) Values() []string {
	var names []string
	for _, k := range cert.KeyAlgorithms() {
		names = append(names, k.Name)
	}
	return names
}

// Issuer is an authority that is open.
type Issuer struct {
	chain    []*x509.Certificate // its own first, the root last
	key      crypto.Signer
	endsAt   time.Time // the earliest end of the chain
	url      string    // of the server's public routes; empty if nowhere
	id       string
	roots    *x509.CertPool
	between  *x509.CertPool
	beginsAt time.Time // the latest begin of the chain
}

func open(s Settings, env connector.Env) (*Issuer, error) {
	chain, key, err := authority(s.CertificatePEM, s.KeyPEM)
	if err != nil {
		return nil, err
	}
	i := &Issuer{
		chain: chain, key: key, url: strings.TrimSuffix(env.PKIURL, "/"), id: env.ID,
		roots: x509.NewCertPool(), between: x509.NewCertPool(),
	}
	i.beginsAt, i.endsAt = period(chain)
	for _, c := range chain {
		i.between.AddCert(c)
	}
	i.roots.AddCert(chain[len(chain)-1])
	return i, nil
}

// Immediate says that nothing but this process takes part.
func (i *Issuer) Immediate() {}

// Chain returns the authority's certificates, its own first and the root last.
func (i *Issuer) Chain() []*x509.Certificate { return i.chain }

// SignCRL signs a revocation list, also after the authority has ended.
func (i *Issuer) SignCRL(ctx context.Context, l issuer.List) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return issuer.SignList(i.chain[0], i.key, l)
}

// Test signs something that is of no use to anybody, and looks at the period.
func (i *Issuer) Test(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// It checks its signature with the public key, which is that of the certificate.
	if _, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, i.key); err != nil {
		return err
	}
	return i.inForce(defect.Now())
}

// inForce refuses to sign when nobody would trust it.
func (i *Issuer) inForce(now time.Time) error {
	if now.Before(i.beginsAt) {
		return fault.New(fault.Conflict, "the issuer's certificates are not valid before %s; look at the server's clock, or choose another issuer", i.beginsAt.Format(time.RFC3339))
	}
	if now.After(i.endsAt) {
		return fault.New(fault.Conflict, "the issuer's certificates ended at %s; choose another issuer", i.endsAt.Format(time.RFC3339))
	}
	return nil
}
