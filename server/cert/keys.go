package cert

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"

	"certctl/server/table"
)

// A KeyAlgorithm is a kind of key with its size.
type KeyAlgorithm struct {
	Name     string `json:"name"`
	Does     string `json:"does"`
	generate func() (crypto.Signer, error)
}

// Generate makes a new key.
func (k *KeyAlgorithm) Generate() (crypto.Signer, error) { return k.generate() }

var keyAlgorithms = table.By(func(k *KeyAlgorithm) string { return k.Name })

// KeyAlgorithms returns every algorithm that keys of certificates and of
// authorities may have.
func KeyAlgorithms() []*KeyAlgorithm { return keyAlgorithms.Rows() }

// KeyAlgorithmNamed returns the algorithm with the given name.
func KeyAlgorithmNamed(name string) (*KeyAlgorithm, bool) { return keyAlgorithms.Row(name) }

// The algorithms.
var (
	ECDSAP256 = keyAlgorithm("ecdsa-p256", "ECDSA on the curve P-256.", curve(elliptic.P256()))
	ECDSAP384 = keyAlgorithm("ecdsa-p384", "ECDSA on the curve P-384.", curve(elliptic.P384()))
	RSA2048   = keyAlgorithm("rsa-2048", "RSA of 2048 bits.", bits(2048))
	RSA3072   = keyAlgorithm("rsa-3072", "RSA of 3072 bits.", bits(3072))
	RSA4096   = keyAlgorithm("rsa-4096", "RSA of 4096 bits.", bits(4096))
	Ed25519   = keyAlgorithm("ed25519", "Ed25519.", func() (crypto.Signer, error) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	})
)

func keyAlgorithm(name, does string, generate func() (crypto.Signer, error)) *KeyAlgorithm {
	return keyAlgorithms.Add(&KeyAlgorithm{name, does, generate})
}

func curve(c elliptic.Curve) func() (crypto.Signer, error) {
	return func() (crypto.Signer, error) { return ecdsa.GenerateKey(c, rand.Reader) }
}

func bits(n int) func() (crypto.Signer, error) {
	return func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, n) }
}

// KeyAlgorithmOf returns the algorithm of a public key. Of one that is not
// declared it says what it is.
func KeyAlgorithmOf(public crypto.PublicKey) (*KeyAlgorithm, error) {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return ECDSAP256, nil
		case elliptic.P384():
			return ECDSAP384, nil
		}
		return nil, fmt.Errorf("ECDSA on the curve %s", k.Curve.Params().Name)
	case *rsa.PublicKey:
		switch n := k.N.BitLen(); n {
		case 2048:
			return RSA2048, nil
		case 3072:
			return RSA3072, nil
		case 4096:
			return RSA4096, nil
		default:
			return nil, fmt.Errorf("RSA of %d bits", n)
		}
	case ed25519.PublicKey:
		return Ed25519, nil
	}
	return nil, fmt.Errorf("a key of the type %T", public)
}
