package local

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"certctl/server/cert"
	"certctl/server/defect"
	"certctl/server/fault"
	"certctl/server/issuer"
)

// maxCommonName is RFC 5280's ub-common-name.
const maxCommonName = 64

var (
	// mustStaple is the TLS feature status_request (RFC 7633).
	mustStaple = pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}, Value: []byte{0x30, 3, 2, 1, 5}}
	// noRevAvail is a null (RFC 9608).
	noRevAvail = pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 56}, Value: []byte{5, 0}}
	// stamps is the purpose of time stamps alone, and critical: no stamp
	// verifies without (RFC 3161 §2.3).
	stamps = pkix.Extension{
		Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true,
		Value: []byte{0x30, 10, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 8},
	}
	domainValidated = mustOID(2, 23, 140, 1, 2, 1)
)

// Issue signs a leaf, whose names, purposes and flags are those of the order. It
// refuses, before it signs, what the chain or a lint does not allow.
func (i *Issuer) Issue(ctx context.Context, o cert.Order) (issuer.Issued, error) {
	if err := ctx.Err(); err != nil {
		return issuer.Issued{}, err
	}
	now := defect.Now().UTC().Truncate(time.Second)
	if err := i.inForce(now); err != nil {
		return issuer.Issued{}, err
	}
	template, err := i.template(o, now)
	if err != nil {
		return issuer.Issued{}, err
	}
	if template.NotAfter.After(i.endsAt) {
		return issuer.Issued{}, fault.New(fault.Conflict, "the certificate would outlive the issuer's own, which end at %s; ask for a validity that ends before, or choose another issuer", i.endsAt.Format(time.RFC3339))
	}
	if err := i.allows(o); err != nil {
		return issuer.Issued{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, i.chain[0], o.PublicKey, linted{i.key, o.CABLints})
	if err != nil {
		return issuer.Issued{}, fmt.Errorf("sign: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return issuer.Issued{}, fmt.Errorf("read what was signed: %w", err)
	}
	// Others will do the same; it never leaves the process if they would fail.
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots: i.roots, Intermediates: i.between, CurrentTime: leaf.NotBefore, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return issuer.Issued{}, &fault.Error{Kind: fault.Invalid, Msg: "the certificate would not verify under the issuer's own; choose another issuer", Err: err}
	}
	return issuer.Issued{Leaf: leaf, Chain: i.chain[:len(i.chain)-1]}, nil
}

func (i *Issuer) template(o cert.Order, now time.Time) (*x509.Certificate, error) {
	keyID, err := keyIdentifier(o.PublicKey)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: cert.NewSerial(), BasicConstraintsValid: true, KeyUsage: keyUsage(o), ExtKeyUsage: o.Usages,
		DNSNames: o.Names.DNS, EmailAddresses: o.Names.Email, URIs: o.Names.URI,
		SubjectKeyId: keyID, AuthorityKeyId: i.chain[0].SubjectKeyId,
	}
	for _, a := range o.Names.IP {
		t.IPAddresses = append(t.IPAddresses, net.IP(a.AsSlice()))
	}
	// It begins a little ago for clocks that are behind, but lasts no second
	// longer than was ordered: both ends count (RFC 5280 §4.1.2.5).
	t.NotBefore = now.Add(-min(skew, o.Validity/10)).Truncate(time.Second)
	if t.NotBefore.Before(i.beginsAt) {
		t.NotBefore = i.beginsAt
	}
	t.NotAfter = t.NotBefore.Add(o.Validity - time.Second).Truncate(time.Second)

	// A longer common name is left out; a name of its kind is an alternative name.
	if utf8.RuneCountInString(o.CommonName) <= maxCommonName {
		t.Subject.CommonName = o.CommonName
	}
	if own, err := asn1.Marshal(t.Subject.ToRDNSequence()); err != nil || bytes.Equal(own, i.chain[0].RawSubject) {
		t.Subject.CommonName = "" // who has the authority's name passes for self-issued
	}
	if len(o.Usages) == 1 && o.Usages[0] == x509.ExtKeyUsageTimeStamping {
		t.ExtraExtensions = append(t.ExtraExtensions, stamps)
	}
	if o.MustStaple {
		t.ExtraExtensions = append(t.ExtraExtensions, mustStaple)
	}
	if o.ShortLived {
		t.ExtraExtensions = append(t.ExtraExtensions, noRevAvail)
	}
	if o.CABLints && slices.Contains(o.Usages, x509.ExtKeyUsageServerAuth) {
		// The Baseline Requirements want a policy of theirs in each certificate
		// (§7.1.2.7.9); of names this server knows no more than that somebody controls them.
		t.Policies = []x509.OID{domainValidated}
	}
	if i.url != "" {
		t.IssuingCertificateURL = []string{i.url + "/.well-known/pki/ca/" + i.id}
		if !o.ShortLived { // which stands in no list (RFC 9608 §4)
			t.CRLDistributionPoints = []string{i.url + "/.well-known/pki/crl/" + i.id}
		}
	}
	return t, nil
}

// keyUsage is what a key of this kind does for the purposes of the order.
func keyUsage(o cert.Order) x509.KeyUsage {
	usage := x509.KeyUsageDigitalSignature
	_, encrypts := o.PublicKey.(*rsa.PublicKey)
	// TLS without forward secrecy, and mail that is encrypted.
	if encrypts && (slices.Contains(o.Usages, x509.ExtKeyUsageServerAuth) || slices.Contains(o.Usages, x509.ExtKeyUsageEmailProtection)) {
		usage |= x509.KeyUsageKeyEncipherment
	}
	return usage
}

// keyIdentifier is method 1 of RFC 7093 §2.
func keyIdentifier(public crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	var info struct {
		Algorithm asn1.RawValue
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(info.Key.Bytes)
	return sum[:20], nil
}

func mustOID(parts ...uint64) x509.OID {
	oid, err := x509.OIDFromInts(parts)
	if err != nil {
		panic(err)
	}
	return oid
}

// linted is a key that signs no certificate with an error that a lint finds. It
// is shown the very bytes that it is to sign.
type linted struct {
	crypto.Signer
	cab bool
}

// SignMessage is what x509 calls with the part of a certificate that is signed.
func (l linted) SignMessage(random io.Reader, tbs []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := lintTBS(tbs, l.cab); err != nil {
		return nil, err
	}
	return crypto.SignMessage(l.Signer, random, tbs, opts)
}

func invalid(problems []string) error {
	slices.Sort(problems)
	return fault.New(fault.Invalid, "%s", strings.Join(problems, "; "))
}
