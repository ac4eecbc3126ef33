package cert

import (
	"crypto/x509"

	"certctl/server/table"
)

// An ExtKeyUsage is a purpose of a certificate (RFC 5280 §4.2.1.12).
type ExtKeyUsage struct {
	Name string           `json:"name"`
	Does string           `json:"does"`
	X509 x509.ExtKeyUsage `json:"-"`
}

var extKeyUsages = table.By(func(u *ExtKeyUsage) string { return u.Name })

// ExtKeyUsages returns every purpose that a profile can give.
func ExtKeyUsages() []*ExtKeyUsage { return extKeyUsages.Rows() }

// ExtKeyUsageNamed returns the purpose with the given name.
func ExtKeyUsageNamed(name string) (*ExtKeyUsage, bool) { return extKeyUsages.Row(name) }

// The purposes.
var (
	ServerAuth      = extKeyUsage("serverAuth", "A TLS server shows it.", x509.ExtKeyUsageServerAuth)
	ClientAuth      = extKeyUsage("clientAuth", "A TLS client shows it.", x509.ExtKeyUsageClientAuth)
	CodeSigning     = extKeyUsage("codeSigning", "It signs programs.", x509.ExtKeyUsageCodeSigning)
	EmailProtection = extKeyUsage("emailProtection", "It signs or encrypts mail (S/MIME).", x509.ExtKeyUsageEmailProtection)
	TimeStamping    = extKeyUsage("timeStamping", "It signs time stamps (RFC 3161).", x509.ExtKeyUsageTimeStamping)
)

func extKeyUsage(name, does string, u x509.ExtKeyUsage) *ExtKeyUsage {
	return extKeyUsages.Add(&ExtKeyUsage{name, does, u})
}

// A Reason says why a certificate is revoked (RFC 5280 §5.3.1).
type Reason struct {
	Name string `json:"name"`
	Code int    `json:"code"`
	Does string `json:"does"`
}

var reasons = table.By(func(r *Reason) string { return r.Name })

// Reasons returns every reason that a revocation may give.
func Reasons() []*Reason { return reasons.Rows() }

// ReasonNamed returns the reason with the given name.
func ReasonNamed(name string) (*Reason, bool) { return reasons.Row(name) }

// ReasonOf returns the reason with the given code.
func ReasonOf(code int) (*Reason, bool) {
	for _, r := range reasons.Rows() {
		if r.Code == code {
			return r, true
		}
	}
	return nil, false
}

// The reasons. removeFromCRL stands in delta lists only, and 7 is not used.
var (
	Unspecified          = reason("unspecified", 0, "No reason is given; a revocation list leaves it out.")
	KeyCompromise        = reason("keyCompromise", 1, "The private key is known to others, or may be.")
	CACompromise         = reason("cACompromise", 2, "The key of the authority is known to others, or may be.")
	AffiliationChanged   = reason("affiliationChanged", 3, "The subject's name, or who it belongs to, has changed.")
	Superseded           = reason("superseded", 4, "Another certificate takes its place.")
	CessationOfOperation = reason("cessationOfOperation", 5, "What it was for no longer runs.")
	CertificateHold      = reason("certificateHold", 6, "It is revoked for the time being and can be released.")
	PrivilegeWithdrawn   = reason("privilegeWithdrawn", 9, "The subject may no longer do what the certificate allows.")
	AACompromise         = reason("aACompromise", 10, "An attribute authority is compromised.")
)

func reason(name string, code int, does string) *Reason {
	return reasons.Add(&Reason{name, code, does})
}
