// Package issuer is the contract of those who sign certificates, and what they
// share: the bytes of a revocation list.
package issuer

import (
	"context"
	"crypto/x509"
	"math/big"
	"time"

	"certctl/server/cert"
	"certctl/server/connector"
	"certctl/server/table"
)

// An Issuer signs what a profile has approved. It honours its context and may be
// used by several goroutines. What it refuses is a fault whose message is for
// the caller.
type Issuer interface {
	// Issue returns a certificate, or a *Pending if the authority takes its time.
	Issue(ctx context.Context, o cert.Order) (Issued, error)
	// Test reports what keeps the issuer from signing.
	Test(ctx context.Context) error
}

// Issued is what an authority signed.
type Issued struct {
	Leaf  *x509.Certificate
	Chain []*x509.Certificate // who signed the leaf first; without the root
}

// Pending is the error of an order that the authority has accepted and not yet
// completed. Only a Poller returns it.
type Pending struct {
	Order string        // what the authority calls it; for Status
	After time.Duration // when it is worth asking
}

func (p *Pending) Error() string { return "the authority has not completed the order yet" }

// A Renewer tells an authority which certificate an order takes the place of.
type Renewer interface {
	Renew(ctx context.Context, old *x509.Certificate, o cert.Order) (Issued, error)
}

// A Revoker has an authority revoke on lists of its own. To revoke again what
// is revoked already is no error.
type Revoker interface {
	Revoke(ctx context.Context, leaf *x509.Certificate, reason *cert.Reason, at time.Time) error
}

// A Poller says how far an order has come: issued, still *Pending, or refused.
type Poller interface {
	Status(ctx context.Context, order string) (Issued, error)
}

// A CRLSigner signs revocation lists that this server keeps.
type CRLSigner interface {
	SignCRL(ctx context.Context, l List) ([]byte, error)
}

// An Authority has the certificates that its signatures are verified with: its
// own first, and its root last.
type Authority interface {
	Chain() []*x509.Certificate
}

// An Immediate issuer signs in process and without I/O, so that a request may
// wait for it.
type Immediate interface {
	Immediate()
}

// List is a revocation list that is to be signed.
type List struct {
	Number     *big.Int // larger than that of every list before
	ThisUpdate time.Time
	NextUpdate time.Time
	Entries    []byte // as Entry made them, one after the other
}

// Type is a type of issuer.
type Type = connector.Type[Issuer]

// Registry opens issuers from their rows.
type Registry = connector.Registry[Issuer]

// NewRegistry returns a registry of issuers of the types. What they publish is
// reached at pkiURL; empty if nowhere.
func NewRegistry(types []Type, pkiURL string) *Registry {
	return connector.NewRegistry("issuer", types, connector.Env{PKIURL: pkiURL})
}

// Declare returns the type of the issuers that open returns. I says which
// abilities they have.
func Declare[C any, I Issuer](name, does string, open func(C, connector.Env) (I, error), prepare func(C) (C, error)) Type {
	var none I
	can := []string{}
	for _, a := range abilities.Rows() {
		if a.In(none) {
			can = append(can, a.Name)
		}
	}
	return connector.Declare(name, does, can, func(c C, env connector.Env) (Issuer, error) {
		i, err := open(c, env)
		if err != nil {
			return nil, err // not a nil of the type I
		}
		return i, nil
	}, prepare)
}

// An Ability is what some types of issuers can do beside signing.
type Ability struct {
	Name string            `json:"name"`
	Does string            `json:"does"`
	In   func(Issuer) bool `json:"-"` // whether the issuer has it
}

var abilities = table.By(func(a *Ability) string { return a.Name })

// Abilities returns every ability, in declaration order.
func Abilities() []*Ability { return abilities.Rows() }

// The abilities.
var (
	SignsAtOnce = ability[Immediate]("sign-at-once", "It signs in process: a request that creates a certificate is answered with it.")
	HasChain    = ability[Authority]("chain", "The server has its certificates up to the root, and publishes its own.")
	SignsCRLs   = ability[CRLSigner]("sign-crls", "It signs the revocation lists that the server keeps and publishes.")
	Renews      = ability[Renewer]("renew", "It is told which certificate a new one takes the place of.")
	Revokes     = ability[Revoker]("revoke", "It keeps revocation lists of its own, and is told what to revoke.")
	Polls       = ability[Poller]("poll", "It may take its time to complete an order, and is asked how far that has come.")
)

func ability[A any](name, does string) *Ability {
	return abilities.Add(&Ability{name, does, func(i Issuer) bool {
		_, ok := i.(A)
		return ok
	}})
}
