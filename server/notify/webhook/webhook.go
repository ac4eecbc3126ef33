// Package webhook is a channel to programs: it posts JSON, signed if there is a
// secret, to a URL.
package webhook

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"certctl/server/connector"
	"certctl/server/defect"
	"certctl/server/fault"
	"certctl/server/notify"
	"certctl/server/outbound"
)

// Type is the type of these channels.
var Type = notify.Declare("webhook", "Posts JSON to a URL, signed under a secret that the receiver shares.", open)

// Settings are the settings of a channel. There is no way to post without TLS: a
// receiver inside needs no more than a certificate of an authority of its own.
type Settings struct {
	URL           string `json:"url" maxLength:"2048" secret:"true" doc:"where to post to: an https:// URL; many services let in whoever knows it; redirects are not followed"`
	Secret        string `json:"secret" maxLength:"1024" secret:"true" doc:"that posts are signed under, of at least 16 characters; they are not signed without it"`
	Authorization string `json:"authorization" maxLength:"8192" secret:"true" doc:"value of the Authorization header, such as Bearer and a token; none is sent without it"`
	CA            string `json:"ca" maxLength:"65536" doc:"authorities that the receiver's certificate may be from beside the public ones, in PEM"`
	Timeout       int    `json:"timeout_seconds" default:"10" minimum:"1" maximum:"60" doc:"how long a post may take; no longer than three quarters of CERTCTL_NOTIFICATION_LEASE"`
}

// Channel is a channel that is open.
type Channel struct {
	s       Settings
	host    string // and port
	trust   *tls.Config
	dial    outbound.Dial
	client  *http.Client
	timeout time.Duration
}

const minSecret = 16

func open(s Settings, env connector.Env) (notify.Channel, error) {
	if env.Dial == nil { // a client would find a way of its own
		return nil, errors.New("there is nothing to connect with")
	}
	u, err := url.Parse(s.URL)
	if err == nil && u.Port() != "" {
		_, err = strconv.ParseUint(u.Port(), 10, 16)
	}
	switch {
	case err != nil, u.Scheme != "https", u.Hostname() == "", u.User != nil, u.Fragment != "", !printable(u.Host):
		return nil, fault.New(fault.Invalid, "body.settings.url is not one to post to; give https://, a host in ASCII and a path, with credentials in body.settings.authorization")
	case s.Secret != "" && len(s.Secret) < minSecret:
		return nil, fault.New(fault.Invalid, "body.settings.secret is shorter than %d characters; make one with `openssl rand -hex 32`", minSecret)
	case !printable(s.Authorization):
		return nil, fault.New(fault.Invalid, "body.settings.authorization has characters that no header has; give printable ASCII")
	}
	trust, err := outbound.Trust(s.CA, "body.settings.ca")
	if err != nil {
		return nil, err
	}
	trust.ServerName = u.Hostname()
	timeout := time.Duration(s.Timeout) * time.Second
	return &Channel{
		s: s, host: net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443")), trust: trust, dial: env.Dial, timeout: timeout,
		client: outbound.HTTPClient(env.Dial, trust, timeout),
	}, nil
}

// printable reports whether s is printable ASCII, as values of headers are.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// A Post is the body of a post.
type Post struct {
	ID       string          `json:"id"` // the same whenever it is posted
	Event    string          `json:"event"`
	Severity string          `json:"severity"`
	At       time.Time       `json:"at"`
	Subject  string          `json:"subject"`
	Text     string          `json:"text"`
	Data     json.RawMessage `json:"data"`
}

// Send posts a message.
func (c *Channel) Send(ctx context.Context, m notify.Message) error {
	if err := m.Check(); err != nil {
		return err
	}
	post := Post{m.Key, m.Event, m.Severity, m.At.UTC(), m.Subject, m.Text, m.Data}
	if len(post.Data) == 0 {
		post.Data = json.RawMessage(`{}`)
	}
	body, err := json.Marshal(post)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.s.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	now := defect.Now()
	for name, value := range map[string]string{
		"Content-Type":    "application/json",
		"User-Agent":      "certctl",
		"Idempotency-Key": `"` + m.Key + `"`, // a string of RFC 9651, which has nothing to escape
		HeaderTimestamp:   strconv.FormatInt(now.Unix(), 10),
		HeaderSignature:   "",
		"Authorization":   c.s.Authorization,
	} {
		if name == HeaderSignature && c.s.Secret != "" {
			value = sign(c.s.Secret, now, body)
		}
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	res, err := c.client.Do(req)
	if err != nil {
		return outbound.Fault("the receiver", err)
	}
	defer res.Body.Close() // nobody is told what is in it
	return answered(res.StatusCode, res.Header, now)
}

// answered returns the error of a status. RFC 9110 and its kin say of some that
// the same request may be sent later.
func answered(status int, h http.Header, now time.Time) error {
	says := strings.TrimSpace(fmt.Sprintf("%d %s", status, http.StatusText(status)))
	switch {
	case status >= 200 && status < 300:
		return nil
	case status >= 300 && status < 400:
		return fault.New(fault.Conflict, "the receiver answers with a redirect (%s), which is not followed; have body.settings.url name the place that it leads to", says)
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return fault.New(fault.Conflict, "the receiver does not let the channel in (%s); change body.settings.secret or body.settings.authorization", says)
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests, status >= 500,
		// Nobody is there while a receiver is put in place anew.
		status == http.StatusNotFound,
		// A receiver may say so of a key whose first request it has not finished.
		status == http.StatusConflict:
		err := fault.New(fault.Unavailable, "the receiver cannot take it now (%s)", says)
		if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
			if after := retryAfter(h.Get("Retry-After"), now); after > 0 {
				return &notify.Later{After: after, Err: err}
			}
		}
		return err
	}
	return fault.New(fault.Conflict, "the receiver refuses it (%s); look at what body.settings.url leads to", says)
}

// maxRetryAfter bounds what a receiver can ask for.
const maxRetryAfter = 24 * time.Hour

// retryAfter reads seconds or a date (RFC 9110 §10.2.3).
func retryAfter(s string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(s, 10, 32); err == nil {
		return min(time.Duration(n)*time.Second, maxRetryAfter)
	}
	at, err := http.ParseTime(s)
	if err != nil {
		return 0
	}
	return min(at.Sub(now), maxRetryAfter)
}

// Test opens a connection to the receiver and looks at its certificate.
func (c *Channel) Test(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	conn, err := c.dial(ctx, "tcp", c.host)
	if err != nil {
		return outbound.Fault("the receiver", err)
	}
	defer conn.Close()
	if err := tls.Client(conn, c.trust).HandshakeContext(ctx); err != nil {
		return outbound.Fault("the receiver", err)
	}
	return nil
}
