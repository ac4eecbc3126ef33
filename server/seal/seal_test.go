package seal_test

import (
	"errors"
	"testing"

	"certctl/server/seal"
)

func TestBox(t *testing.T) {
	box, other := open(t), open(t)
	sealed := box.Seal([]byte("secret"), "audit key")

	if got, err := box.Open(sealed, "audit key"); err != nil || string(got) != "secret" {
		t.Errorf("got %q, %v; want the secret", got, err)
	}
	if _, err := other.Open(sealed, "audit key"); !errors.Is(err, seal.ErrOpen) {
		t.Errorf("another key: got %v, want ErrOpen", err)
	}
	if _, err := box.Open(sealed, "issuer settings"); !errors.Is(err, seal.ErrOpen) {
		t.Errorf("another purpose: got %v, want ErrOpen", err)
	}
	sealed[len(sealed)-1] ^= 1
	if _, err := box.Open(sealed, "audit key"); !errors.Is(err, seal.ErrOpen) {
		t.Errorf("altered: got %v, want ErrOpen", err)
	}
	if _, err := seal.New("c2hvcnQ="); err == nil {
		t.Error("a short key was taken")
	}
}

func open(t *testing.T) *seal.Box {
	t.Helper()
	box, err := seal.New(seal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	return box
}
