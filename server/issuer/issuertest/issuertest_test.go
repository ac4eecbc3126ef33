package issuertest_test

import (
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"certctl/server/cert"
	"certctl/server/connector"
	"certctl/server/fault"
	"certctl/server/issuer"
	"certctl/server/issuer/issuertest"
)

func remote(t *testing.T, pending int) (*issuertest.Authority, *issuertest.RemoteIssuer) {
	t.Helper()
	a := issuertest.NewAuthority(t)
	a.Pend(pending)
	i, err := issuertest.Remote.New(a.Settings(), connector.Env{ID: "iss_remote"})
	if err != nil {
		t.Fatal(err)
	}
	return a, i.(*issuertest.RemoteIssuer)
}

func TestRemoteKeepsTheContract(t *testing.T) {
	for name, pending := range map[string]int{"at once": 0, "pending for a while": 3} {
		t.Run(name, func(t *testing.T) {
			issuertest.Run(t, func(t *testing.T) issuer.Issuer {
				_, i := remote(t, pending)
				return i
			})
		})
	}
	want := []string{issuer.Renews.Name, issuer.Revokes.Name, issuer.Polls.Name}
	if !slices.Equal(issuertest.Remote.Can, want) {
		t.Errorf("the type says it can %v, want %v", issuertest.Remote.Can, want)
	}
}

// The names of the checks.
const (
	signsWhatWasOrdered = "it signs the key, names, purposes and period that were ordered"
	leadsToRoot         = "what it signed leads to its root"
	honoursContext      = "it honours its context"
	servesMany          = "it can be used by many at once"
	tellsKind           = "a refusal tells its kind"
	passesTest          = "its test passes"
	signsAtOnce         = "one that signs at once has nothing pending"
	renewsIt            = "it renews"
	revokesIt           = "it revokes, also again"
	pollsIt             = "it knows how far an order has come, and which it has not had"
	signsLists          = "it signs revocation lists"
)

// variant is the remote issuer with some of what it does done otherwise.
type variant struct {
	*issuertest.RemoteIssuer
	issue  func(context.Context, cert.Order) (issuer.Issued, error)
	renew  func(context.Context, *x509.Certificate, cert.Order) (issuer.Issued, error)
	revoke func(context.Context, *x509.Certificate, *cert.Reason, time.Time) error
	status func(context.Context, string) (issuer.Issued, error)
}

func (v variant) Issue(ctx context.Context, o cert.Order) (issuer.Issued, error) {
	if v.issue == nil {
		return v.RemoteIssuer.Issue(ctx, o)
	}
	return v.issue(ctx, o)
}

func (v variant) Renew(ctx context.Context, old *x509.Certificate, o cert.Order) (issuer.Issued, error) {
	if v.renew == nil {
		return v.RemoteIssuer.Renew(ctx, old, o)
	}
	return v.renew(ctx, old, o)
}

func (v variant) Revoke(ctx context.Context, leaf *x509.Certificate, r *cert.Reason, at time.Time) error {
	if v.revoke == nil {
		return v.RemoteIssuer.Revoke(ctx, leaf, r, at)
	}
	return v.revoke(ctx, leaf, r, at)
}

func (v variant) Status(ctx context.Context, order string) (issuer.Issued, error) {
	if v.status == nil {
		return v.RemoteIssuer.Status(ctx, order)
	}
	return v.status(ctx, order)
}

type immediate struct{ variant }

func (immediate) Immediate() {}

type unpolled struct{ issuer.Issuer }

type authority struct {
	variant
	chain []*x509.Certificate
}

func (a authority) Chain() []*x509.Certificate { return a.chain }

func (authority) SignCRL(context.Context, issuer.List) ([]byte, error) { return []byte{0x30, 0}, nil }

func TestEachCheckTurnsRed(t *testing.T) {
	a, i := remote(t, 0)
	_, slow := remote(t, 1)
	down, broken := remote(t, 0)
	down.Fail(true)
	other := issuertest.NewAuthority(t).Chain()

	// changed has the order changed before it is placed.
	changed := func(change func(*cert.Order)) variant {
		return variant{RemoteIssuer: i, issue: func(ctx context.Context, o cert.Order) (issuer.Issued, error) {
			change(&o)
			return i.Issue(ctx, o)
		}}
	}
	var mu sync.Mutex
	var last issuer.Issued
	mixedUp := variant{RemoteIssuer: i, issue: func(ctx context.Context, o cert.Order) (issuer.Issued, error) {
		got, err := i.Issue(ctx, o)
		mu.Lock()
		defer mu.Unlock()
		got, last = last, got
		return got, err
	}}
	once := false
	seen := map[string]bool{}
	for name, c := range map[string]struct {
		check  string
		broken issuer.Issuer
	}{
		"a name more":      {signsWhatWasOrdered, changed(func(o *cert.Order) { o.Names.DNS = append(slices.Clone(o.Names.DNS), "c.example") })},
		"a name less":      {signsWhatWasOrdered, changed(func(o *cert.Order) { o.Names.IP = nil })},
		"a longer period":  {signsWhatWasOrdered, changed(func(o *cert.Order) { o.Validity += time.Second })},
		"a shorter period": {signsWhatWasOrdered, changed(func(o *cert.Order) { o.Validity /= 2 })},
		"other purposes":   {signsWhatWasOrdered, changed(func(o *cert.Order) { o.Usages = nil })},
		"a common name":    {signsWhatWasOrdered, changed(func(o *cert.Order) { o.CommonName = "c.example" })},
		"another key":      {signsWhatWasOrdered, changed(func(o *cert.Order) { o.PublicKey = other[0].PublicKey })},
		"pending for ever": {signsWhatWasOrdered, unpolled{slow}},
		"a chain with root": {leadsToRoot, variant{RemoteIssuer: i, issue: func(ctx context.Context, o cert.Order) (issuer.Issued, error) {
			got, err := i.Issue(ctx, o)
			got.Chain = append(got.Chain, a.Chain()[1])
			return got, err
		}}},
		"the chain of another": {leadsToRoot, authority{variant{RemoteIssuer: i}, other}},
		"no cancellation": {honoursContext, variant{RemoteIssuer: i, issue: func(ctx context.Context, o cert.Order) (issuer.Issued, error) {
			return i.Issue(context.WithoutCancel(ctx), o)
		}}},
		"answers mixed up": {servesMany, mixedUp},
		"errors without a kind": {tellsKind, variant{RemoteIssuer: i, issue: func(context.Context, cert.Order) (issuer.Issued, error) {
			return issuer.Issued{}, errors.New("no")
		}}},
		"a period cut short": {tellsKind, changed(func(o *cert.Order) { o.Validity = time.Hour })},
		"out of order":       {passesTest, broken},
		"pending at once":    {signsAtOnce, immediate{variant{RemoteIssuer: slow}}},
		"the old one again": {renewsIt, variant{RemoteIssuer: i, renew: func(_ context.Context, old *x509.Certificate, _ cert.Order) (issuer.Issued, error) {
			return issuer.Issued{Leaf: old}, nil
		}}},
		"revoked once": {revokesIt, variant{RemoteIssuer: i, revoke: func(context.Context, *x509.Certificate, *cert.Reason, time.Time) error {
			if once {
				return fault.New(fault.Conflict, "it is revoked already")
			}
			once = true
			return nil
		}}},
		"anything revoked": {revokesIt, variant{RemoteIssuer: i, revoke: func(context.Context, *x509.Certificate, *cert.Reason, time.Time) error { return nil }}},
		"any order known": {pollsIt, variant{RemoteIssuer: i, status: func(context.Context, string) (issuer.Issued, error) {
			return issuer.Issued{}, &issuer.Pending{}
		}}},
		"a list that is none": {signsLists, authority{variant{RemoteIssuer: i}, a.Chain()}},
	} {
		at := slices.IndexFunc(issuertest.Checks, func(check issuertest.Check) bool { return check.Name == c.check })
		if at < 0 {
			t.Fatalf("%s: there is no check %q", name, c.check)
		}
		seen[c.check] = true
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if err := issuertest.Checks[at].Of(ctx, c.broken); err == nil || ctx.Err() != nil {
			t.Errorf("%s: %q says %v", name, c.check, err)
		}
		cancel()
	}
	for _, c := range issuertest.Checks {
		if !seen[c.Name] {
			t.Errorf("nothing breaks %q", c.Name)
		}
	}
}

func TestRemoteTellsWhatIsWrong(t *testing.T) {
	a, i := remote(t, 0)
	o, _, err := issuertest.Order(cert.ECDSAP256, "a.example")
	if err != nil {
		t.Fatal(err)
	}
	a.Fail(true)
	if _, err := i.Issue(t.Context(), o); fault.Of(err) != fault.Unavailable {
		t.Errorf("out of order: %v", err)
	}
	a.Fail(false)
	a.Slow(time.Minute)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := i.Issue(ctx, o); !errors.Is(err, context.DeadlineExceeded) || fault.Of(err) != fault.Unavailable {
		t.Errorf("slow: %v", err)
	}
	a.Slow(0)
	a.Token = "another"
	if _, err := i.Issue(t.Context(), o); fault.Of(err) != fault.Conflict {
		t.Errorf("with another token: %v", err)
	}
	if a.Orders() != 0 {
		t.Errorf("%d orders were placed", a.Orders())
	}
	if _, err := issuertest.Remote.New(nil, connector.Env{}); fault.Of(err) != fault.Invalid {
		t.Errorf("without settings: %v", err)
	}
}

func TestAuthorityKeepsABook(t *testing.T) {
	a, i := remote(t, 0)
	o, _, err := issuertest.Order(cert.ECDSAP256, "a.example")
	if err != nil {
		t.Fatal(err)
	}
	first, err := i.Issue(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	serial := cert.Serial(first.Leaf.SerialNumber)
	if _, err := i.Renew(t.Context(), first.Leaf, o); err != nil {
		t.Fatal(err)
	}
	if err := i.Revoke(t.Context(), first.Leaf, cert.Superseded, time.Now()); err != nil {
		t.Fatal(err)
	}
	if a.Orders() != 2 || !slices.Equal(a.Replaced(), []string{serial}) || a.Revoked()[serial] != "superseded" {
		t.Errorf("the book has %d orders, replaced %v, revoked %v", a.Orders(), a.Replaced(), a.Revoked())
	}
}
