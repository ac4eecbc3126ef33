package cert

import (
	"net/netip"
	"net/url"
)

// Names are the subject alternative names of a certificate (RFC 5280
// §4.2.1.6).
type Names struct {
	DNS   []string // lower-case A-labels
	IP    []netip.Addr
	Email []string
	URI   []*url.URL
}
