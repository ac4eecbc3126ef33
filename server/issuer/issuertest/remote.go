package issuertest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"certctl/server/cert"
	"certctl/server/connector"
	"certctl/server/fault"
	"certctl/server/issuer"
)

// Remote is the type of issuers that have an Authority sign, in this package.
var Remote = issuer.Declare("remote", "A remote authority, for tests.", openRemote, nil)

// RemoteSettings are the settings of Remote.
type RemoteSettings struct {
	URL   string `json:"url" doc:"of the authority"`
	Token string `json:"token" secret:"true" doc:"that the authority wants to see"`
}

// RemoteIssuer has an Authority sign. It can do what an issuer inside the server
// cannot.
type RemoteIssuer struct{ s RemoteSettings }

func openRemote(s RemoteSettings, _ connector.Env) (*RemoteIssuer, error) {
	if u, err := url.Parse(s.URL); err != nil || u.Host == "" {
		return nil, fault.New(fault.Invalid, "body.settings.url is not a URL; give that of the authority")
	}
	return &RemoteIssuer{s}, nil
}

// What the authority is asked, and what it answers.
type (
	order struct {
		PublicKey  []byte             `json:"public_key"`
		CommonName string             `json:"common_name"`
		DNS        []string           `json:"dns"`
		IP         []net.IP           `json:"ip"`
		Email      []string           `json:"email"`
		URI        []string           `json:"uri"`
		Usages     []x509.ExtKeyUsage `json:"usages"`
		Validity   time.Duration      `json:"validity"`
		Replaces   string             `json:"replaces"`
	}
	answer struct {
		Order        string   `json:"order"`
		Certificates [][]byte `json:"certificates"` // none as long as it is pending
		Error        string   `json:"error"`
	}
	revocation struct {
		Serial string `json:"serial"`
		Reason string `json:"reason"`
	}
)

// Issue places an order.
func (r *RemoteIssuer) Issue(ctx context.Context, o cert.Order) (issuer.Issued, error) {
	return r.place(ctx, o, "")
}

// Renew places an order that tells what it replaces.
func (r *RemoteIssuer) Renew(ctx context.Context, old *x509.Certificate, o cert.Order) (issuer.Issued, error) {
	return r.place(ctx, o, cert.Serial(old.SerialNumber))
}

func (r *RemoteIssuer) place(ctx context.Context, o cert.Order, replaces string) (issuer.Issued, error) {
	key, err := x509.MarshalPKIXPublicKey(o.PublicKey)
	if err != nil {
		return issuer.Issued{}, err
	}
	out := order{
		PublicKey: key, CommonName: o.CommonName, DNS: o.Names.DNS, Email: o.Names.Email,
		Usages: o.Usages, Validity: o.Validity, Replaces: replaces,
	}
	for _, a := range o.Names.IP {
		out.IP = append(out.IP, a.AsSlice())
	}
	for _, u := range o.Names.URI {
		out.URI = append(out.URI, u.String())
	}
	return r.issued(r.do(ctx, http.MethodPost, "/orders", out))
}

// Status asks about an order.
func (r *RemoteIssuer) Status(ctx context.Context, order string) (issuer.Issued, error) {
	return r.issued(r.do(ctx, http.MethodGet, "/orders/"+url.PathEscape(order), nil))
}

// Revoke has a certificate revoked.
func (r *RemoteIssuer) Revoke(ctx context.Context, leaf *x509.Certificate, reason *cert.Reason, _ time.Time) error {
	_, err := r.do(ctx, http.MethodPost, "/revocations", revocation{cert.Serial(leaf.SerialNumber), reason.Name})
	return err
}

// Test asks whether the authority is there and takes the token.
func (r *RemoteIssuer) Test(ctx context.Context) error {
	_, err := r.do(ctx, http.MethodGet, "/health", nil)
	return err
}

func (r *RemoteIssuer) issued(a answer, err error) (issuer.Issued, error) {
	if err != nil {
		return issuer.Issued{}, err
	}
	if len(a.Certificates) == 0 {
		return issuer.Issued{}, &issuer.Pending{Order: a.Order, After: time.Millisecond}
	}
	var all []*x509.Certificate
	for _, der := range a.Certificates {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return issuer.Issued{}, fmt.Errorf("answer of the authority: %w", err)
		}
		all = append(all, c)
	}
	return issuer.Issued{Leaf: all[0], Chain: all[1:]}, nil
}

func (r *RemoteIssuer) do(ctx context.Context, method, path string, in any) (a answer, err error) {
	body, err := json.Marshal(in)
	if err != nil {
		return a, err
	}
	req, err := http.NewRequestWithContext(ctx, method, r.s.URL+path, bytes.NewReader(body))
	if err != nil {
		return a, err
	}
	req.Header.Set("Authorization", "Bearer "+r.s.Token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return a, &fault.Error{Kind: fault.Unavailable, Msg: "the authority does not answer; try again", Err: err}
	}
	defer res.Body.Close()
	err = json.NewDecoder(res.Body).Decode(&a)
	switch says := cmp.Or(a.Error, res.Status); {
	case res.StatusCode == http.StatusUnauthorized:
		return a, fault.New(fault.Conflict, "the authority does not take the token; change body.settings.token")
	case res.StatusCode >= 500:
		return a, &fault.Error{Kind: fault.Unavailable, Msg: "the authority is out of order; try again", Err: errors.New(says)}
	case res.StatusCode >= 400:
		return a, fault.New(fault.Invalid, "the authority refuses: %s", says)
	case err != nil:
		return a, fmt.Errorf("answer of the authority: %w", err)
	}
	return a, nil
}
