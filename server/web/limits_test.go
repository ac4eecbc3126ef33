package web_test

import (
	"net/http/httptest"
	"net/netip"
	"testing"

	"certctl/server/web"
)

func TestAddress(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, tt := range []struct {
		name, peer string
		headers    []string // of X-Forwarded-For
		want       string
	}{
		{"the peer's, whatever its port", "192.0.2.7:4711", nil, "192.0.2.7"},
		{"a header of somebody who is no proxy counts for nothing", "192.0.2.7:1", []string{"203.0.113.1"}, "192.0.2.7"},
		{"a proxy's word counts", "10.0.0.1:1", []string{"203.0.113.1"}, "203.0.113.1"},
		{"what comes before the proxy's word is the caller's own", "10.0.0.1:1", []string{"198.51.100.9, 203.0.113.1"}, "203.0.113.1"},
		{"proxies behind proxies are passed over", "10.0.0.1:1", []string{"198.51.100.9, 203.0.113.1, 10.0.0.2, 10.9.9.9"}, "203.0.113.1"},
		{"several headers are one list", "10.0.0.1:1", []string{"198.51.100.9", "203.0.113.1, 10.0.0.2"}, "203.0.113.1"},
		{"what is no address ends the list", "10.0.0.1:1", []string{"203.0.113.1, nonsense, 10.0.0.2"}, "10.0.0.2"},
		{"an empty header is none", "10.0.0.1:1", []string{""}, "10.0.0.1"},
		{"a list of proxies alone is from the first", "10.0.0.1:1", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		{"a port in the list does not count", "10.0.0.1:1", []string{"203.0.113.1:55"}, "203.0.113.1"},
		{"of IPv6 the first half counts", "[2001:db8:1:2:3:4:5:6]:1", nil, "2001:db8:1:2::/64"},
		{"an address of IPv6 that holds one of IPv4 is that", "[::ffff:192.0.2.7]:1", nil, "192.0.2.7"},
		{"a proxy's IPv6 too", "[fd00::1]:1", []string{"[2001:db8:1:2:3::4]:55"}, "2001:db8:1:2::/64"},
		{"a proxy that is mapped is a proxy", "[::ffff:10.0.0.1]:1", []string{"203.0.113.1"}, "203.0.113.1"},
		{"a zone does not tell callers apart", "[fe80::1%eth0]:1", nil, "fe80::/64"},
		{"a peer without an address is one", "@", []string{"203.0.113.1"}, "@"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
			r.RemoteAddr = tt.peer
			r.Header["X-Forwarded-For"] = tt.headers
			r.Header.Set("Forwarded", "for=198.51.100.1")
			r.Header.Set("X-Real-Ip", "198.51.100.1")
			if got := web.Address(r, proxies); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}
