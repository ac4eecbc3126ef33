package issuer_test

import (
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"testing"

	"certctl/server/cert"
	"certctl/server/connector"
	"certctl/server/issuer"
)

type plain struct{}

func (*plain) Issue(context.Context, cert.Order) (issuer.Issued, error) { return issuer.Issued{}, nil }

func (*plain) Test(context.Context) error { return nil }

type able struct{ plain }

func (*able) Immediate() {}

func (*able) Chain() []*x509.Certificate { return nil }

func (*able) SignCRL(context.Context, issuer.List) ([]byte, error) { return nil, nil }

type nothing struct{}

func TestTypeTellsWhatItsIssuersCan(t *testing.T) {
	of := func(t issuer.Type) []string { return t.Can }
	can := of(issuer.Declare("plain", "x", func(nothing, connector.Env) (*plain, error) { return nil, nil }, nil))
	if can == nil || len(can) > 0 {
		t.Errorf("one that can only sign can %#v", can)
	}
	can = of(issuer.Declare("able", "x", func(nothing, connector.Env) (*able, error) { return nil, nil }, nil))
	if want := []string{issuer.SignsAtOnce.Name, issuer.HasChain.Name, issuer.SignsCRLs.Name}; !slices.Equal(can, want) {
		t.Errorf("got %v, want %v", can, want)
	}
	for _, a := range issuer.Abilities() {
		if a.Name == "" || a.Does == "" {
			t.Errorf("an ability is %+v", a)
		}
	}
}

func TestIssuerThatCannotBeOpenedIsNil(t *testing.T) {
	kind := issuer.Declare("x", "x", func(nothing, connector.Env) (*plain, error) { return nil, errors.New("no") }, nil)
	if i, err := kind.New(nil, connector.Env{}); i != nil || err == nil {
		t.Errorf("got %#v, %v", i, err)
	}
}
