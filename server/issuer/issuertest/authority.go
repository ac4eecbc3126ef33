package issuertest

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"certctl/server/cert"
)

// Authority is a remote authority that a test has in hand.
type Authority struct {
	URL   string
	Token string

	chain []*x509.Certificate // its own, then the root
	key   crypto.Signer

	mu       sync.Mutex
	down     bool
	delay    time.Duration
	pending  int
	orders   []*placed
	revoked  map[string]string // reason by serial number
	replaced []string
}

type placed struct {
	order
	asks   int      // how often it is still pending when asked about
	issued [][]byte // empty as long as it is pending
}

// NewAuthority starts an authority that ends with the test.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{Token: "token of the remote authority", revoked: map[string]string{}}
	var keys []crypto.Signer
	for range 2 {
		key, err := cert.ECDSAP256.Generate()
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	root := a.certify(t, "Remote Root", nil, keys[0], keys[0])
	a.chain = []*x509.Certificate{a.certify(t, "Remote Authority", root, keys[1], keys[0]), root}
	a.key = keys[1]

	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, answer{}) })
	mux.HandleFunc("POST /orders", a.place)
	mux.HandleFunc("GET /orders/{order}", a.status)
	mux.HandleFunc("POST /revocations", a.revoke)
	srv := httptest.NewServer(a.gate(mux))
	t.Cleanup(srv.Close)
	a.URL = srv.URL
	return a
}

// Chain is its own certificate, then its root.
func (a *Authority) Chain() []*x509.Certificate { return a.chain }

// Settings are those of a Remote issuer that has this authority sign.
func (a *Authority) Settings() json.RawMessage {
	raw, _ := json.Marshal(RemoteSettings{a.URL, a.Token}) // two texts
	return raw
}

// Fail has the authority be out of order, or work again.
func (a *Authority) Fail(down bool) { a.locked(func() { a.down = down }) }

// Slow has every answer take its time.
func (a *Authority) Slow(d time.Duration) { a.locked(func() { a.delay = d }) }

// Pend has new orders be pending until they were asked about as often.
func (a *Authority) Pend(asks int) { a.locked(func() { a.pending = asks }) }

// Orders is how many orders were placed.
func (a *Authority) Orders() (n int) {
	a.locked(func() { n = len(a.orders) })
	return n
}

// Revoked returns the reasons of what was revoked, by serial number.
func (a *Authority) Revoked() (reasons map[string]string) {
	a.locked(func() { reasons = maps.Clone(a.revoked) })
	return reasons
}

// Replaced returns the serial numbers of what orders replace, as they came.
func (a *Authority) Replaced() (serials []string) {
	a.locked(func() { serials = slices.Clone(a.replaced) })
	return serials
}

func (a *Authority) locked(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

func (a *Authority) certify(t testing.TB, name string, parent *x509.Certificate, key, by crypto.Signer) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: cert.NewSerial(), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(10 * 365 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
	}
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// gate lets callers in who have the token, when the authority works.
func (a *Authority) gate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var down bool
		var delay time.Duration
		a.locked(func() { down, delay = a.down, a.delay })
		body, err := io.ReadAll(r.Body) // or nobody notices that the caller goes away
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if delay > 0 {
			select {
			case <-time.After(delay):
			case <-r.Context().Done():
				return
			}
		}
		switch {
		case down:
			reply(w, http.StatusServiceUnavailable, answer{Error: "out of order"})
		case r.Header.Get("Authorization") != "Bearer "+a.Token:
			reply(w, http.StatusUnauthorized, answer{Error: "another token"})
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func (a *Authority) place(w http.ResponseWriter, r *http.Request) {
	var o order
	if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
		reply(w, http.StatusBadRequest, answer{Error: "not an order"})
		return
	}
	if time.Now().Add(o.Validity).After(a.chain[0].NotAfter) {
		reply(w, http.StatusBadRequest, answer{Error: "it would outlive the authority"})
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.orders = append(a.orders, &placed{order: o, asks: a.pending})
	if o.Replaces != "" {
		a.replaced = append(a.replaced, o.Replaces)
	}
	a.answer(w, len(a.orders)-1)
}

func (a *Authority) status(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n, err := strconv.Atoi(r.PathValue("order"))
	if err != nil || n < 0 || n >= len(a.orders) {
		reply(w, http.StatusNotFound, answer{Error: "there is no such order"})
		return
	}
	a.orders[n].asks--
	a.answer(w, n)
}

// answer says how far an order has come, and completes one whose time has come.
func (a *Authority) answer(w http.ResponseWriter, n int) {
	o := a.orders[n]
	if o.issued == nil && o.asks <= 0 {
		der, err := a.sign(o.order)
		if err != nil {
			reply(w, http.StatusBadRequest, answer{Error: err.Error()})
			return
		}
		o.issued = [][]byte{der, a.chain[0].Raw}
	}
	reply(w, http.StatusOK, answer{Order: strconv.Itoa(n), Certificates: o.issued})
}

func (a *Authority) sign(o order) ([]byte, error) {
	key, err := x509.ParsePKIXPublicKey(o.PublicKey)
	if err != nil {
		return nil, err
	}
	begin := time.Now().UTC().Truncate(time.Second)
	template := &x509.Certificate{
		SerialNumber: cert.NewSerial(), Subject: pkix.Name{CommonName: o.CommonName},
		NotBefore: begin, NotAfter: begin.Add(o.Validity - time.Second), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: o.Usages, BasicConstraintsValid: true, DNSNames: o.DNS, IPAddresses: o.IP, EmailAddresses: o.Email,
	}
	for _, s := range o.URI {
		u, err := url.Parse(s)
		if err != nil {
			return nil, err
		}
		template.URIs = append(template.URIs, u)
	}
	return x509.CreateCertificate(rand.Reader, template, a.chain[0], key, a.key)
}

func (a *Authority) revoke(w http.ResponseWriter, r *http.Request) {
	var in revocation
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		reply(w, http.StatusBadRequest, answer{Error: "not a revocation"})
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.ContainsFunc(a.orders, func(o *placed) bool { return o.is(in.Serial) }) {
		reply(w, http.StatusNotFound, answer{Error: "there is no such certificate"})
		return
	}
	a.revoked[in.Serial] = in.Reason
	reply(w, http.StatusOK, answer{})
}

// is reports whether the order was completed with the certificate.
func (o *placed) is(serial string) bool {
	if o.issued == nil {
		return false
	}
	c, err := x509.ParseCertificate(o.issued[0])
	return err == nil && cert.Serial(c.SerialNumber) == serial
}

func reply(w http.ResponseWriter, status int, a answer) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(a) // the caller went away
}
