package outbound

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"syscall"
	"time"

	"certctl/server/fault"
)

// Dial is how a connection is made: Guard.Dial, in the server.
type Dial = func(ctx context.Context, network, address string) (net.Conn, error)

const (
	maxHeaders = 64 << 10
	maxBody    = 1 << 20
)

// HTTPClient returns a client of HTTP/1.1 that makes a new connection for each
// request, so that it never sends one twice by itself. It follows no redirect and
// heeds no proxy of the environment. An answer whose headers or body are too
// large for a machine's is an error to read.
func HTTPClient(dial Dial, trust *tls.Config, timeout time.Duration) *http.Client {
	return &http.Client{
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: bounded{&http.Transport{
			DialContext:            dial,
			TLSClientConfig:        trust,
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: maxHeaders,
		}},
	}
}

// bounded bounds the bodies of answers.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := b.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	res.Body = http.MaxBytesReader(nil, res.Body, maxBody)
	return res, nil
}

// Trust returns how others prove who they are: to the system's roots, and to
// those in PEM besides. field names where they are from, for errors.
func Trust(roots, field string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if roots == "" {
		return c, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a system without roots
	}
	for rest, found := []byte(roots), false; ; found = true {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if found {
				break
			}
			return nil, fault.New(fault.Invalid, "%s is not PEM; give the certificates of authorities as CERTIFICATE blocks", field)
		}
		root, err := x509.ParseCertificate(block.Bytes)
		if err != nil || block.Type != "CERTIFICATE" {
			return nil, fault.New(fault.Invalid, "%s holds something that is no certificate; give CERTIFICATE blocks only", field)
		}
		pool.AddCert(root)
	}
	c.RootCAs = pool
	return c, nil
}

// Fault is the error of a connection to what, which may work later unless the
// address is one that the Guard refuses. The error of a peer can hold what the
// peer said, which Fault leaves out.
func Fault(what string, err error) error {
	if refused, ok := errors.AsType[*fault.Error](err); ok {
		return refused
	}
	problem, cause := reason(err)
	return &fault.Error{Kind: fault.Unavailable, Msg: what + " " + problem, Err: cause}
}

func reason(err error) (problem string, cause error) {
	untrusted, isUntrusted := errors.AsType[*tls.CertificateVerificationError](err)
	unknown, isUnknown := errors.AsType[*net.DNSError](err)
	notTLS, isNotTLS := errors.AsType[tls.RecordHeaderError](err)
	op, isOp := errors.AsType[*net.OpError](err)
	timeout, isNet := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, context.Canceled):
		return "was not waited for", context.Canceled
	case errors.Is(err, context.DeadlineExceeded), isNet && timeout.Timeout():
		return "does not answer in time", context.DeadlineExceeded
	case isUntrusted:
		return "has a certificate that is not trusted", untrusted
	case isUnknown:
		return "has a name that cannot be resolved", unknown
	case isNotTLS:
		return "does not speak TLS", errors.New(notTLS.Msg)
	case isOp && errors.Is(err, syscall.ECONNREFUSED):
		return "refuses connections", op
	case isOp:
		return "cannot be reached", op
	}
	return "broke the connection off", nil
}
