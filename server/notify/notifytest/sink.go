package notifytest

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"certctl/server/cert"
)

// A Sink is where a channel delivers to. It listens on the loopback interface.
type Sink interface {
	Deliveries() []Delivery // that were taken, in the order they came
	Be(m Mode)              // from now on
	Slow(d time.Duration)   // has everything that comes from now on wait
	io.Closer
}

// A Mode is what a sink does with what comes.
type Mode int

// The modes. A sink that is silent answers when it is in another mode, or not at
// all if it is closed before.
const (
	Takes  Mode = iota
	NotNow      // refuses for now
	Never       // refuses for good
	Silent      // takes, and does not answer
)

// A Delivery is what a sink took, as far as what it came by has it.
type Delivery struct {
	At       time.Time // when it came
	Key      string
	Event    string
	Severity string
	Happened time.Time
	Subject  string
	Text     string
	HTML     string
	Data     json.RawMessage
	To       []string            // whom the mail server was told
	Header   map[string][]string // of a mail
}

// book is what the sinks share.
type book struct {
	mu      sync.Mutex
	mode    Mode
	delay   time.Duration
	kept    []Delivery
	changed chan struct{} // closed when there is another mode
	closed  chan struct{}
	once    sync.Once
}

func newBook() *book { return &book{changed: make(chan struct{}), closed: make(chan struct{})} }

// Deliveries returns what was taken.
func (b *book) Deliveries() []Delivery {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.kept)
}

// Be changes the mode.
func (b *book) Be(m Mode) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mode = m
	close(b.changed)
	b.changed = make(chan struct{})
}

// Slow changes how long everything waits.
func (b *book) Slow(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.delay = d
}

func (b *book) close() { b.once.Do(func() { close(b.closed) }) }

// take keeps a delivery as the mode wants it, and returns when it is time to
// answer: according to the mode, and not at all if ok is false.
func (b *book) take(d Delivery, gone <-chan struct{}) (m Mode, ok bool) {
	b.mu.Lock()
	delay := b.delay
	b.mu.Unlock()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-b.closed:
			return 0, false
		case <-gone:
			return 0, false
		}
	}
	b.mu.Lock()
	m, changed := b.mode, b.changed
	if m == Takes || m == Silent {
		d.At = time.Now()
		b.kept = append(b.kept, d)
	}
	b.mu.Unlock()
	if m != Silent {
		return m, true
	}
	select {
	case <-changed:
		return Takes, true
	case <-b.closed:
	case <-gone:
	}
	return 0, false
}

// certify returns a certificate for the loopback interface, and itself as a root
// in PEM.
func certify() (*tls.Config, string, error) {
	key, err := cert.ECDSAP256.Generate()
	if err != nil {
		return nil, "", err
	}
	template := &x509.Certificate{
		SerialNumber: cert.NewSerial(), Subject: pkix.Name{CommonName: "Sink"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IsCA: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, "", err
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	}, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), nil
}

// listen listens on a free port of the loopback interface.
func listen() (net.Listener, error) {
	return new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
}
