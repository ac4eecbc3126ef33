// Package client calls a server over the rows of its route table: the command
// line, the agent and the evidence share it.
package client

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"time"

	"certctl/server/fault"
	"certctl/server/web"
)

// A Client calls one server.
type Client struct {
	URL  string // https://host:port
	Key  string // API key; empty for public routes
	HTTP *http.Client

	// Patience is how long a call waits, in all, for limits that refuse it and say
	// when they will not.
	Patience time.Duration
}

// New returns a client that trusts the certificates in rootsPEM, or those of
// the system if it is empty.
func New(address, key string, rootsPEM []byte) (*Client, error) {
	if !strings.HasPrefix(address, "https://") {
		return nil, errors.New("the address must begin with https://: a key is not sent in the clear")
	}
	tr := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // it is one
	tr.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS13}
	if len(rootsPEM) > 0 {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(rootsPEM) {
			return nil, errors.New("the roots hold no certificate in PEM")
		}
		tr.TLSClientConfig.RootCAs = pool
	}
	return &Client{strings.TrimSuffix(address, "/"), key, &http.Client{Transport: tr}, time.Minute}, nil
}

// With returns a client of the same server with another key.
func (c *Client) With(key string) *Client { return &Client{c.URL, key, c.HTTP, c.Patience} }

// Do calls the endpoint e. A refusal is a *fault.Error of the kind that the
// server gave it.
func Do[I, O any](ctx context.Context, c *Client, e web.Endpoint[I, O], in *I) (out O, err error) {
	path, query, header, body, err := encode(e.Path, in)
	if err != nil {
		return out, fmt.Errorf("%s: %w", e.Name, err)
	}
	// The server answers within the route's time; a stream takes its own.
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(e.Timeout, web.DefaultTimeout)+time.Minute)
	defer cancel()
	res, err := c.send(ctx, e.Method, path+query, header, body)
	if err != nil {
		return out, fmt.Errorf("%s: %w", e.Name, err)
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusNoContent {
		return out, nil
	}
	if err := json.NewDecoder(res.Body).Decode(&out); err != nil {
		return out, fmt.Errorf("%s: read the answer: %w", e.Name, err)
	}
	return out, nil
}

// Stream calls the stream s and returns its answer, which the caller closes.
func Stream[I any](ctx context.Context, c *Client, s web.Stream[I], in *I) (io.ReadCloser, error) {
	path, query, _, _, err := encode(s.Path, in)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Name, err)
	}
	return c.open(ctx, s.Route, path+query)
}

// Get reads the raw route r.
func (c *Client) Get(ctx context.Context, r web.Raw) (io.ReadCloser, error) {
	return c.open(ctx, r.Route, r.Path)
}

func (c *Client) open(ctx context.Context, r *web.Route, target string) (io.ReadCloser, error) {
	res, err := c.Send(ctx, r.Method, target, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.Name, err)
	}
	return res.Body, nil
}

// Send sends one request to path and returns a successful answer.
func (c *Client) Send(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	return c.send(ctx, method, path, http.Header{}, body)
}

func (c *Client) send(ctx context.Context, method, path string, header http.Header, body []byte) (*http.Response, error) {
	for waited := time.Duration(0); ; {
		res, p, err := c.try(ctx, method, path, header, body)
		if err != nil || p == nil {
			return res, err
		}
		wait := time.Duration(p.RetryAfter * float64(time.Second))
		waited += wait
		if wait <= 0 || waited > c.Patience {
			return nil, refusal(p)
		}
		select {
		case <-time.After(wait): // nothing was done for the request
		case <-ctx.Done():
			return nil, refusal(p)
		}
	}
}

// try sends a request once, and returns the problem if it was refused.
func (c *Client) try(ctx context.Context, method, path string, header http.Header, body []byte) (*http.Response, *web.Problem, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.URL+path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	req.Header = header.Clone()
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.Key != "" {
		req.Header.Set("Authorization", "Bearer "+c.Key)
	}
	res, err := c.HTTP.Do(req)
	if err != nil || res.StatusCode < http.StatusBadRequest {
		return res, nil, err
	}
	defer res.Body.Close()
	p := &web.Problem{Status: res.StatusCode}
	if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(p); err != nil {
		p.Detail = "the answer is no problem document; is this a certctl server?"
	}
	return nil, p, nil
}

func refusal(p *web.Problem) error {
	msg := p.Detail
	for _, f := range p.Errors {
		msg += "; " + f.Location + ": " + f.Message
	}
	return fault.New(fault.OfStatus(p.Status), "%s (request %s)", msg, p.RequestID)
}

// encode puts the fields of in where their tags say: into the path, the query,
// a header or the body.
func encode(pattern string, in any) (path, query string, header http.Header, body []byte, err error) {
	q := url.Values{}
	path, header = pattern, http.Header{}
	v := reflect.ValueOf(in).Elem()
	for _, f := range reflect.VisibleFields(v.Type()) {
		value := v.FieldByIndex(f.Index)
		switch {
		case f.Tag.Get("path") != "":
			path = strings.ReplaceAll(path, "{"+f.Tag.Get("path")+"}", url.PathEscape(fmt.Sprint(value.Interface())))
		case f.Tag.Get("query") != "" && (!value.IsZero() || f.Tag.Get("required") == "true"):
			q.Set(f.Tag.Get("query"), text(value.Interface()))
		case f.Tag.Get("header") != "" && !value.IsZero():
			header.Set(f.Tag.Get("header"), text(value.Interface()))
		case f.Name == "Body" && len(f.Index) == 1 && (value.Kind() != reflect.Pointer || !value.IsNil()):
			if body, err = json.Marshal(value.Interface()); err != nil {
				return "", "", nil, nil, err
			}
		}
	}
	if len(q) > 0 {
		query = "?" + q.Encode()
	}
	return path, query, header, body, nil
}

// text is a parameter as it stands in a URL or a header: of a list, its values
// with commas between them.
func text(v any) string {
	switch v := v.(type) {
	case time.Time:
		return v.Format(time.RFC3339Nano)
	case []string:
		return strings.Join(v, ",")
	}
	return fmt.Sprint(v)
}
