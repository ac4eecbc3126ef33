package cert

import (
	"crypto"
	"crypto/x509"
	"time"
)

// A Profile says what a certificate may look like.
type Profile struct {
	ID                     string    `json:"id"`
	Name                   string    `json:"name"`
	Description            string    `json:"description"`
	Enabled                bool      `json:"enabled" doc:"nothing is issued under a profile that is not"`
	KeyAlgorithms          []string  `json:"key_algorithms" nullable:"false" doc:"names of algorithms that keys may have; the first is that of a key the server makes"`
	DefaultValiditySeconds int64     `json:"default_validity_seconds" doc:"of a request that names none"`
	MaxValiditySeconds     int64     `json:"max_validity_seconds"`
	ExtKeyUsages           []string  `json:"ext_key_usages" nullable:"false" doc:"purposes that every certificate gets; a request may name no other"`
	SANKinds               []string  `json:"san_kinds" nullable:"false" doc:"kinds of subject alternative names that are allowed"`
	DNSPatterns            []string  `json:"dns_patterns" nullable:"false" doc:"DNS names that are allowed; a leading *. stands for one label or more; any name if empty"`
	IPRanges               []string  `json:"ip_ranges" nullable:"false" doc:"addresses that are allowed, as CIDR; any if empty"`
	URIPrefixes            []string  `json:"uri_prefixes" nullable:"false" doc:"what URIs have to begin with; any if empty"`
	EmailDomains           []string  `json:"email_domains" nullable:"false" doc:"domains of mail addresses that are allowed; any if empty"`
	MaxSANs                int       `json:"max_sans" doc:"how many names a certificate may have"`
	Wildcards              bool      `json:"wildcards" doc:"whether a DNS name may begin with *."`
	MustStaple             bool      `json:"must_staple" doc:"whether servers have to staple an OCSP response (RFC 7633)"`
	ShortLived             bool      `json:"short_lived" doc:"whether certificates say that they are never revoked by a list (RFC 9608); they last a week at most"`
	CABLints               bool      `json:"cab_lints" doc:"whether the lints of the CA/Browser Forum apply beside those of RFC 5280"`
	Revision               int64     `json:"revision" doc:"counts changes"`
	CreatedAt              time.Time `json:"created_at"`
	UpdatedAt              time.Time `json:"updated_at"`
}

// An Order is what an authority is asked to sign: what a profile has approved.
type Order struct {
	CSR          []byte // PKCS#10 in DER; its signature has been verified
	PublicKey    crypto.PublicKey
	KeyAlgorithm *KeyAlgorithm
	CommonName   string // empty, or one of the names
	Names        Names
	Usages       []x509.ExtKeyUsage
	Validity     time.Duration
	MustStaple   bool
	ShortLived   bool
	CABLints     bool
}
