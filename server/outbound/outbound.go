// Package outbound connects to the outside, and only to there: settings that
// name a host must not lead to what only this network can reach.
package outbound

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"certctl/server/fault"
)

// A Guard connects to public unicast addresses, and to those of Allow.
type Guard struct {
	Allow   []netip.Prefix
	Setting string // what has to name other addresses, for errors
}

// Dial connects as net.Dialer.DialContext does, and may be used by several
// goroutines. Of the addresses of a name only those that are permitted are tried.
// If there is none the error is final and names the setting.
func (g *Guard) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if !slices.Contains([]string{"tcp", "tcp4", "tcp6"}, network) {
		return nil, fmt.Errorf("no connections of %s are made", network)
	}
	var mu sync.Mutex
	var refusal error
	var tried bool
	d := net.Dialer{
		// It sees each address that is about to be connected to, so that a name
		// cannot be one when it is looked at and another when it is used.
		ControlContext: func(_ context.Context, _, resolved string, _ syscall.RawConn) error {
			err := g.check(resolved)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				tried = true
				return nil
			}
			refusal = err
			return errNotTried
		},
	}
	conn, err := d.DialContext(ctx, network, address)
	if err == nil {
		return conn, nil
	}
	mu.Lock()
	defer mu.Unlock()
	switch {
	case refusal == nil, ctx.Err() != nil:
		return nil, err
	case tried: // what was refused says nothing about the others
		return nil, fmt.Errorf("those addresses that are permitted cannot be reached: %w", err)
	}
	return nil, refusal
}

var errNotTried = errors.New("the address is not permitted")

func (g *Guard) check(resolved string) error {
	ap, err := netip.ParseAddrPort(resolved)
	if err != nil { // without a host the system connects to itself
		return g.refusal("no address")
	}
	return g.Check(ap.Addr())
}

// Check refuses an address that Dial does not connect to.
func (g *Guard) Check(a netip.Addr) error {
	a = a.Unmap().WithZone("")
	if g.allows(a) {
		return nil
	}
	if translated.Contains(a) { // a gateway connects to the IPv4 address in it
		b := a.As16()
		if a = netip.AddrFrom4([4]byte(b[12:])); g.allows(a) {
			return nil
		}
	}
	for _, r := range special {
		if r.prefix.Contains(a) {
			return g.refusal(fmt.Sprintf("an address in %s (%s)", r.prefix, r.is))
		}
	}
	if a.Is6() && !unicast.Contains(a) {
		return g.refusal(fmt.Sprintf("an address outside of %s", unicast))
	}
	if !a.IsValid() {
		return g.refusal("no address")
	}
	return nil
}

func (g *Guard) allows(a netip.Addr) bool {
	return slices.ContainsFunc(g.Allow, func(p netip.Prefix) bool { return p.Contains(a) })
}

// refusal does not say which address it was: who sets a name is not told what
// the server's resolver makes of it.
func (g *Guard) refusal(what string) error {
	return fault.New(fault.Invalid, "the host leads to %s, which is not public; if that is meant, have %s contain the address", what, g.Setting)
}

var (
	unicast    = netip.MustParsePrefix("2000::/3")     // all that is allocated for the public
	translated = netip.MustParsePrefix("64:ff9b::/96") // NAT64, RFC 6052
)

// special are the ranges of IANA's registries for special purposes that are not
// reachable by everybody, and what else is no public unicast address. What is not
// in unicast needs no row; some have one for the sake of its name.
var special = []struct {
	prefix netip.Prefix
	is     string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "this network"},
	{netip.MustParsePrefix("10.0.0.0/8"), "private"},
	{netip.MustParsePrefix("100.64.0.0/10"), "shared by a provider"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},           // clouds tell secrets there
	{netip.MustParsePrefix("168.63.129.16/32"), "of a cloud's hosts"}, // public by its number; it tells guests secrets
	{netip.MustParsePrefix("172.16.0.0/12"), "private"},
	{netip.MustParsePrefix("192.0.0.0/24"), "of protocols"},
	{netip.MustParsePrefix("192.0.2.0/24"), "for documentation"},
	{netip.MustParsePrefix("192.88.99.0/24"), "6to4 relays"},
	{netip.MustParsePrefix("192.168.0.0/16"), "private"},
	{netip.MustParsePrefix("198.18.0.0/15"), "for benchmarks"},
	{netip.MustParsePrefix("198.51.100.0/24"), "for documentation"},
	{netip.MustParsePrefix("203.0.113.0/24"), "for documentation"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("255.255.255.255/32"), "broadcast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved"},
	// Teredo, ORCHID and benchmarks among them. Teredo and 6to4 embed addresses of
	// IPv4 and are out of use, so that nobody has to look into them.
	{netip.MustParsePrefix("2001::/23"), "of protocols"},
	{netip.MustParsePrefix("2001:db8::/32"), "for documentation"},
	{netip.MustParsePrefix("2002::/16"), "6to4"},
	{netip.MustParsePrefix("3fff::/20"), "for documentation"},
	{netip.MustParsePrefix("::/128"), "unspecified"},
	{netip.MustParsePrefix("::1/128"), "loopback"},
	{netip.MustParsePrefix("fc00::/7"), "private"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
}
