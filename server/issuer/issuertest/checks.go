// Package issuertest tells whether a type of issuer keeps the contract, and has
// a small remote authority to try it, and jobs, with.
package issuertest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"certctl/server/cert"
	"certctl/server/fault"
	"certctl/server/issuer"
)

// Run has an issuer, as open returns a new one, keep the contract.
func Run(t *testing.T, open func(t *testing.T) issuer.Issuer) {
	t.Helper()
	can := open(t)
	for _, c := range Checks {
		if slices.ContainsFunc(c.Needs, func(a *issuer.Ability) bool { return !a.In(can) }) {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := c.Of(ctx, open(t)); err != nil {
				t.Error(err)
			}
		})
	}
}

// A Check is one sentence of the contract.
type Check struct {
	Name  string
	Of    func(ctx context.Context, i issuer.Issuer) error // says what is not as it should be
	Needs []*issuer.Ability                                // without which there is nothing to check
}

// Checks are the whole contract.
var Checks = []Check{
	{"it signs the key, names, purposes and period that were ordered", signsWhatWasOrdered, nil},
	{"what it signed leads to its root", leadsToRoot, nil},
	{"it honours its context", honoursContext, nil},
	{"it can be used by many at once", servesMany, nil},
	{"a refusal tells its kind", tellsKind, nil},
	{"its test passes", passesTest, nil},
	{"one that signs at once has nothing pending", signsAtOnce, []*issuer.Ability{issuer.SignsAtOnce}},
	{"it renews", renews, []*issuer.Ability{issuer.Renews}},
	{"it revokes, also again", revokes, []*issuer.Ability{issuer.Revokes}},
	{"it knows how far an order has come, and which it has not had", polls, []*issuer.Ability{issuer.Polls}},
	{"it signs revocation lists", signsLists, []*issuer.Ability{issuer.SignsCRLs, issuer.HasChain}},
}

// Order returns an order for a new key, and the key.
func Order(k *cert.KeyAlgorithm, names ...string) (cert.Order, crypto.Signer, error) {
	key, err := k.Generate()
	if err != nil {
		return cert.Order{}, nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: names}, key)
	return cert.Order{
		CSR: csr, PublicKey: key.Public(), KeyAlgorithm: k, CommonName: names[0],
		Names:  cert.Names{DNS: names},
		Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, Validity: 24 * time.Hour,
	}, key, err
}

// complete waits for orders that are pending.
func complete(ctx context.Context, i issuer.Issuer, got issuer.Issued, err error) (issuer.Issued, error) {
	for {
		pending, ok := errors.AsType[*issuer.Pending](err)
		if !ok {
			return got, err
		}
		poller, ok := i.(issuer.Poller)
		if !ok {
			return got, errors.New("an order is pending, and nothing can be asked about it")
		}
		select {
		case <-ctx.Done():
			return got, ctx.Err()
		case <-time.After(pending.After):
		}
		got, err = poller.Status(ctx, pending.Order)
	}
}

func obtain(ctx context.Context, i issuer.Issuer, o cert.Order) (issuer.Issued, error) {
	got, err := i.Issue(ctx, o)
	got, err = complete(ctx, i, got, err)
	if err != nil {
		return got, err
	}
	return got, agrees(got.Leaf, o)
}

// agrees says in what a certificate is not as it was ordered.
func agrees(leaf *x509.Certificate, o cert.Order) error {
	var errs []error
	wrong := func(what string, got, want any) {
		errs = append(errs, fmt.Errorf("%s: got %v, want %v", what, got, want))
	}
	if leaf == nil {
		return errors.New("there is no certificate")
	}
	if k, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !k.Equal(o.PublicKey) {
		wrong("key", leaf.PublicKey, o.PublicKey)
	}
	names := cert.Names{DNS: leaf.DNSNames, Email: leaf.EmailAddresses, URI: leaf.URIs}
	for _, a := range leaf.IPAddresses {
		addr, _ := netip.AddrFromSlice(a)
		names.IP = append(names.IP, addr.Unmap())
	}
	if !slices.Equal(names.Text(), o.Names.Text()) {
		wrong("names", names.Text(), o.Names.Text())
	}
	if !slices.Equal(leaf.ExtKeyUsage, o.Usages) {
		wrong("purposes", leaf.ExtKeyUsage, o.Usages)
	}
	if cn := leaf.Subject.CommonName; cn != "" && cn != o.CommonName {
		wrong("common name", cn, o.CommonName)
	}
	const slack = 5 * time.Minute
	if lasts := leaf.NotAfter.Sub(leaf.NotBefore) + time.Second; lasts > o.Validity || lasts < o.Validity-slack {
		wrong("period", lasts, o.Validity)
	}
	if now := time.Now(); now.Before(leaf.NotBefore) || now.Sub(leaf.NotBefore) > slack {
		wrong("begin", leaf.NotBefore, now)
	}
	if leaf.IsCA || !leaf.BasicConstraintsValid {
		wrong("authority", leaf.IsCA, false)
	}
	if leaf.SerialNumber.Sign() <= 0 || leaf.SerialNumber.BitLen() > 159 || leaf.SerialNumber.BitLen() < 64 {
		wrong("bits of the serial number", leaf.SerialNumber.BitLen(), "from 64 to 159")
	}
	return errors.Join(errs...)
}

func signsWhatWasOrdered(ctx context.Context, i issuer.Issuer) error {
	var errs []error
	for _, k := range []*cert.KeyAlgorithm{cert.ECDSAP256, cert.ECDSAP384, cert.RSA2048, cert.Ed25519} {
		o, _, err := Order(k, "a.example", "*.b.example")
		if err != nil {
			return err
		}
		o.Names.IP = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
		o.Usages = append(o.Usages, x509.ExtKeyUsageClientAuth)
		if _, err := obtain(ctx, i, o); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", k.Name, err))
		}
	}
	return errors.Join(errs...)
}

func leadsToRoot(ctx context.Context, i issuer.Issuer) error {
	o, _, err := Order(cert.ECDSAP256, "a.example")
	if err != nil {
		return err
	}
	got, err := obtain(ctx, i, o)
	if err != nil {
		return err
	}
	below := got.Leaf
	for n, c := range got.Chain {
		if err := below.CheckSignatureFrom(c); err != nil {
			return fmt.Errorf("certificate %d of the chain: %w", n+1, err)
		}
		if c.CheckSignatureFrom(c) == nil {
			return errors.New("the chain holds the root")
		}
		below = c
	}
	authority, ok := i.(issuer.Authority)
	if !ok {
		return nil
	}
	chain := authority.Chain()
	if err := got.Leaf.CheckSignatureFrom(chain[0]); err != nil {
		return fmt.Errorf("under the issuer's own certificate: %w", err)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(chain[len(chain)-1])
	for _, c := range got.Chain {
		between.AddCert(c)
	}
	_, err = got.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: "a.example"})
	return err
}

func honoursContext(ctx context.Context, i issuer.Issuer) error {
	o, _, err := Order(cert.ECDSAP256, "a.example")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := i.Issue(ctx, o); !errors.Is(err, context.Canceled) {
		return fmt.Errorf("Issue under a cancelled context: %w", orNothing(err))
	}
	if err := i.Test(ctx); !errors.Is(err, context.Canceled) {
		return fmt.Errorf("Test under a cancelled context: %w", orNothing(err))
	}
	return nil
}

func orNothing(err error) error {
	if err == nil {
		return errors.New("no error")
	}
	return err
}

func servesMany(ctx context.Context, i issuer.Issuer) error {
	const callers, each = 8, 4
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	serials := map[string]bool{}
	for range callers {
		wg.Go(func() {
			for range each {
				o, _, err := Order(cert.ECDSAP256, "a.example")
				var got issuer.Issued
				if err == nil {
					got, err = obtain(ctx, i, o)
				}
				mu.Lock()
				if err != nil {
					errs = append(errs, err)
				} else {
					serials[cert.Serial(got.Leaf.SerialNumber)] = true
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(errs) == 0 && len(serials) != callers*each {
		return fmt.Errorf("%d certificates have %d serial numbers", callers*each, len(serials))
	}
	return errors.Join(errs...)
}

func tellsKind(ctx context.Context, i issuer.Issuer) error {
	o, _, err := Order(cert.ECDSAP256, "a.example")
	if err != nil {
		return err
	}
	o.Validity = 200 * 365 * 24 * time.Hour // no authority lasts as long
	_, err = obtain(ctx, i, o)
	return refusal(err)
}

func refusal(err error) error {
	if err == nil || fault.Of(err).Retry { // as an error without a kind is
		return fmt.Errorf("want a refusal that is for the caller: %w", orNothing(err))
	}
	return nil
}

func passesTest(ctx context.Context, i issuer.Issuer) error { return i.Test(ctx) }

func signsAtOnce(ctx context.Context, i issuer.Issuer) error {
	o, _, err := Order(cert.ECDSAP256, "a.example")
	if err != nil {
		return err
	}
	_, err = i.Issue(ctx, o)
	return err
}

func renews(ctx context.Context, i issuer.Issuer) error {
	r := i.(issuer.Renewer)
	o, _, err := Order(cert.ECDSAP256, "a.example")
	if err != nil {
		return err
	}
	old, err := obtain(ctx, i, o)
	if err != nil {
		return err
	}
	next, _, err := Order(cert.ECDSAP256, "a.example", "b.example")
	if err != nil {
		return err
	}
	got, err := r.Renew(ctx, old.Leaf, next)
	if got, err = complete(ctx, i, got, err); err != nil {
		return err
	}
	if got.Leaf.SerialNumber.Cmp(old.Leaf.SerialNumber) == 0 {
		return errors.New("the new certificate has the serial number of the old one")
	}
	return agrees(got.Leaf, next)
}

func revokes(ctx context.Context, i issuer.Issuer) error {
	r := i.(issuer.Revoker)
	o, _, err := Order(cert.ECDSAP256, "a.example")
	if err != nil {
		return err
	}
	got, err := obtain(ctx, i, o)
	if err != nil {
		return err
	}
	for _, when := range []string{"the first time", "again"} {
		if err := r.Revoke(ctx, got.Leaf, cert.KeyCompromise, time.Now()); err != nil {
			return fmt.Errorf("%s: %w", when, err)
		}
	}
	unknown := *got.Leaf
	unknown.SerialNumber = cert.NewSerial()
	return refusal(r.Revoke(ctx, &unknown, cert.KeyCompromise, time.Now()))
}

func polls(ctx context.Context, i issuer.Issuer) error {
	_, err := i.(issuer.Poller).Status(ctx, "no-such-order")
	return refusal(err)
}

func signsLists(ctx context.Context, i issuer.Issuer) error {
	s, authority := i.(issuer.CRLSigner), i.(issuer.Authority)
	now := time.Now().UTC().Truncate(time.Second)
	serial := cert.NewSerial()
	entry, err := issuer.Entry(serial, now, cert.KeyCompromise, nil)
	if err != nil {
		return err
	}
	for _, entries := range [][]byte{nil, entry} {
		der, err := s.SignCRL(ctx, issuer.List{Number: big.NewInt(7), ThisUpdate: now, NextUpdate: now.Add(time.Hour), Entries: entries})
		if err != nil {
			return err
		}
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return err
		}
		own := authority.Chain()[0]
		if err := list.CheckSignatureFrom(own); err != nil {
			return err
		}
		if !bytes.Equal(list.RawIssuer, own.RawSubject) || !bytes.Equal(list.AuthorityKeyId, own.SubjectKeyId) {
			return errors.New("the list is of another issuer")
		}
		if list.Number.Int64() != 7 || !list.ThisUpdate.Equal(now) || !list.NextUpdate.Equal(now.Add(time.Hour)) {
			return fmt.Errorf("the list has number %v and is of %v to %v", list.Number, list.ThisUpdate, list.NextUpdate)
		}
		if n := len(list.RevokedCertificateEntries); n != min(len(entries), 1) || n == 1 && list.RevokedCertificateEntries[0].SerialNumber.Cmp(serial) != 0 {
			return fmt.Errorf("the list holds %d entries, and not those that it was given", n)
		}
	}
	return nil
}
