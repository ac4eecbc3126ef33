package outbound_test

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"certctl/server/fault"
	"certctl/server/outbound"
)

const setting = "CERTCTL_TEST_SETTING"

func guard(allow ...string) *outbound.Guard {
	g := &outbound.Guard{Setting: setting}
	for _, p := range allow {
		g.Allow = append(g.Allow, netip.MustParsePrefix(p))
	}
	return g
}

func TestOnlyPublicUnicastIsPermitted(t *testing.T) {
	public := []string{
		"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255",
		"128.0.0.1", "168.63.129.15", "168.63.129.17", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "191.255.255.255", "192.0.1.1",
		"192.0.3.0", "192.31.196.1", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "203.0.114.0",
		"223.255.255.255", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2000::1", "2001:200::1", "2001:4860:4860::8888",
		"2003::1", "2606:4700:4700::1111", "2620:4f:8000::1", "3ffe::1",
	}
	other := []string{
		"0.0.0.0", "0.255.255.255", "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.127.255.255", "127.0.0.1",
		"127.255.255.255", "168.63.129.16", "169.254.0.1", "169.254.169.254", "172.16.0.0", "172.31.255.255", "192.0.0.1", "192.0.0.170",
		"192.0.2.1", "192.88.99.1", "192.168.0.0", "192.168.255.255", "198.18.0.0", "198.19.255.255", "198.51.100.1",
		"203.0.113.255", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.254", "255.255.255.255",
		"::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
		"::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::8.8.8.8",
		"100::1", "2001::1", "2001:0:7f00:1::", "2001:2::1", "2001:10::1", "2001:20::1", "2001:1ff:ffff::1", "2001:db8::1",
		"2002:7f00:1::1", "2002:a00:1::1", "2002:808:808::1", "3fff::1", "3fff:fff:ffff::1", "4000::1", "5f00::1",
		"fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "febf::1", "fec0::1", "ff02::1", "ff0e::1",
	}
	for _, s := range public {
		if err := guard().Check(netip.MustParseAddr(s)); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // what is connected to may not answer
	defer cancel()
	for _, s := range other {
		a := netip.MustParseAddr(s)
		errs := map[string]error{"Check": guard().Check(a)}
		_, errs["Dial"] = guard().Dial(ctx, "tcp", netip.AddrPortFrom(a, 9).String())
		for what, err := range errs {
			if fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), setting) || strings.Contains(err.Error(), s+" ") {
				t.Errorf("%s of %s: %v", what, s, err)
			}
		}
		if err := guard("0.0.0.0/0", "::/0").Check(a); err != nil {
			t.Errorf("with everything allowed, %s: %v", s, err)
		}
	}
	if err := guard().Check(netip.Addr{}); fault.Of(err) != fault.Invalid {
		t.Errorf("no address at all: %v", err)
	}
}

func TestAllowIsExact(t *testing.T) {
	g := guard("10.1.0.0/16", "fd00::/64")
	for s, want := range map[string]bool{
		"10.1.2.3": true, "::ffff:10.1.2.3": true, "64:ff9b::10.1.2.3": true, "fd00::1": true, "8.8.8.8": true,
		"10.2.0.1": false, "127.0.0.1": false, "fd00:0:0:1::1": false, "64:ff9b::10.2.0.1": false,
	} {
		if err := g.Check(netip.MustParseAddr(s)); (err == nil) != want {
			t.Errorf("%s: %v", s, err)
		}
	}
}

// listen returns the port of a listener on 127.0.0.1 that counts connections.
func listen(t *testing.T) (port string, accepted func() int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := make(chan struct{}, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n <- struct{}{}
			c.Close()
		}
	}()
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port, func() int { l.Close(); <-done; return len(n) }
}

func TestNothingIsConnectedToThatIsNotPermitted(t *testing.T) {
	port, accepted := listen(t)
	// Without a host, and with that which stands for all, the system connects to itself.
	for _, host := range []string{"127.0.0.1", "localhost", "0.0.0.0", "::ffff:127.0.0.1", ""} {
		if c, err := guard().Dial(t.Context(), "tcp", net.JoinHostPort(host, port)); err == nil {
			c.Close()
			t.Errorf("%q is connected to", host)
		} else if fault.Of(err) != fault.Invalid {
			t.Errorf("%q: %v", host, err)
		}
	}
	if n := accepted(); n != 0 {
		t.Errorf("%d connections arrived", n)
	}
	for _, network := range []string{"udp", "unix", "ip4:icmp"} {
		if _, err := guard("0.0.0.0/0").Dial(t.Context(), network, "127.0.0.1:9"); err == nil {
			t.Errorf("a connection of %s is made", network)
		}
	}
}

// resolve has every name lead to the addresses, for the length of a test.
func resolve(t *testing.T, addrs ...string) {
	t.Helper()
	was := net.DefaultResolver
	t.Cleanup(func() { net.DefaultResolver = was })
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go answer(server, addrs)
		return client, nil
	}}
}

// answer is a name server on a stream.
func answer(c net.Conn, addrs []string) {
	defer c.Close()
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return
	}
	raw := make([]byte, int(size[0])<<8|int(size[1]))
	if _, err := io.ReadFull(c, raw); err != nil {
		return
	}
	var q dnsmessage.Message
	if err := q.Unpack(raw); err != nil || len(q.Questions) != 1 {
		return
	}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: q.ID, Response: true, RecursionAvailable: true}, Questions: q.Questions}
	for _, s := range addrs {
		a := netip.MustParseAddr(s)
		h := dnsmessage.ResourceHeader{Name: q.Questions[0].Name, Type: q.Questions[0].Type, Class: dnsmessage.ClassINET}
		switch {
		case a.Is4() && h.Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
		case a.Is6() && h.Type == dnsmessage.TypeAAAA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	raw, err := m.Pack()
	if err != nil {
		return
	}
	c.Write(append([]byte{byte(len(raw) >> 8), byte(len(raw))}, raw...))
}

func TestOfANameOnlyPermittedAddressesAreTried(t *testing.T) {
	port, accepted := listen(t)
	at := net.JoinHostPort("mixed.example", port)

	resolve(t, "10.0.0.1", "127.0.0.1", "::1", "192.168.0.1")
	c, err := guard("127.0.0.1/32").Dial(t.Context(), "tcp", at)
	if err != nil {
		t.Fatalf("one of them is permitted, and: %v", err)
	}
	c.Close()
	_, err = guard("172.16.0.0/12").Dial(t.Context(), "tcp", at)
	if fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), setting) {
		t.Errorf("none of them is permitted, and: %v", err)
	}
	if n := accepted(); n != 1 {
		t.Errorf("%d connections arrived", n)
	}
	// Now nobody listens there any more, which may change.
	_, err = guard("127.0.0.1/32").Dial(t.Context(), "tcp", at)
	if err == nil || !fault.Of(err).Retry {
		t.Errorf("the one that is permitted refuses, and: %v", err)
	}
	if f := outbound.Fault("it", err); fault.Of(f) != fault.Unavailable {
		t.Errorf("the fault is %v", f)
	}
}

func TestANameThatChangesIsLookedAtWhenItIsUsed(t *testing.T) {
	resolve(t, "8.8.8.8")
	if _, err := net.DefaultResolver.LookupHost(t.Context(), "rebound.example"); err != nil {
		t.Fatal(err)
	}
	resolve(t, "169.254.169.254")
	if _, err := guard().Dial(t.Context(), "tcp", "rebound.example:80"); fault.Of(err) != fault.Invalid {
		t.Errorf("got %v", err)
	}
}

func TestClient(t *testing.T) {
	handle := http.NewServeMux()
	handle.HandleFunc("/redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/", http.StatusFound) })
	handle.HandleFunc("/large", func(w http.ResponseWriter, _ *http.Request) { io.CopyN(w, zeros{}, 2<<20) })
	handle.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	handle.HandleFunc("/headers", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Large", strings.Repeat("a", 100<<10))
	})
	handle.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, r.RemoteAddr) })
	srv := httptest.NewUnstartedServer(handle)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	root := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
	trust, err := outbound.Trust(root, "body.ca")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	var dialled string
	record := func(_ context.Context, _, address string) (net.Conn, error) {
		dialled = address
		return nil, errors.New("not now")
	}
	get := func(dial outbound.Dial, trust *tls.Config, timeout time.Duration, url string) error {
		res, err := outbound.HTTPClient(dial, trust, timeout).Get(url)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		_, err = io.Copy(io.Discard, res.Body)
		return err
	}
	if err := get(record, trust, time.Minute, "https://direct.example"); err == nil || dialled != "direct.example:443" {
		t.Errorf("it connects to %s", dialled)
	}
	open := guard("127.0.0.0/8").Dial
	client := outbound.HTTPClient(open, trust, time.Minute)
	res, err := client.Get(srv.URL + "/redirect")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusFound {
		t.Errorf("a redirect: %d", res.StatusCode)
	}
	if err := get(open, trust, time.Minute, srv.URL+"/large"); err == nil {
		t.Error("a large body is taken")
	}
	if err := get(open, trust, time.Minute, srv.URL+"/headers"); err == nil {
		t.Error("large headers are taken")
	}
	seen := map[string]bool{}
	for range 3 {
		res, err := client.Get(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := io.ReadAll(res.Body)
		res.Body.Close()
		seen[string(raw)] = true
	}
	if len(seen) != 3 {
		t.Errorf("three requests came on %d connections", len(seen))
	}

	plain, _ := outbound.Trust("", "")
	gone := httptest.NewServer(nil)
	gone.Close()
	for name, c := range map[string]struct {
		err  func() error
		says string
	}{
		"a certificate that is not trusted": {func() error { return get(open, plain, time.Minute, srv.URL) }, "certificate"},
		"an answer that does not come":      {func() error { return get(open, trust, 100*time.Millisecond, srv.URL+"/slow") }, "in time"},
		"nobody there": {func() error {
			return get(open, trust, time.Minute, gone.URL)
		}, "refuses"},
		"no such name": {func() error {
			resolve(t)
			return get(open, trust, time.Minute, "https://nowhere.example")
		}, "resolved"},
		"a call that is given up": {func() error {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err := open(ctx, "tcp", "127.0.0.1:1")
			return err
		}, "waited"},
		"what a peer said": {func() error { return fmt.Errorf("malformed answer %q", "canary") }, "broke"},
	} {
		err := outbound.Fault("it", c.err())
		if fault.Of(err) != fault.Unavailable || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
	err = get(guard().Dial, trust, time.Minute, srv.URL)
	if f := outbound.Fault("it", err); fault.Of(f) != fault.Invalid || !strings.Contains(f.Error(), setting) {
		t.Errorf("an address that is refused: %v", f)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := open(ctx, "tcp", "127.0.0.1:1"); !errors.Is(outbound.Fault("it", err), context.Canceled) {
		t.Errorf("a call that is given up does not say so: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestTrust(t *testing.T) {
	for _, bad := range []string{
		"canary",
		"-----BEGIN PRIVATE KEY-----\nY2FuYXJ5\n-----END PRIVATE KEY-----\n",
		"-----BEGIN CERTIFICATE-----\nY2FuYXJ5\n-----END CERTIFICATE-----\n",
	} {
		if _, err := outbound.Trust(bad, "body.settings.ca"); fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "body.settings.ca") || strings.Contains(err.Error(), "anary") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	c, err := outbound.Trust("", "")
	if err != nil || c.RootCAs != nil || c.MinVersion != tls.VersionTLS12 {
		t.Errorf("without roots: %+v, %v", c, err)
	}
}
