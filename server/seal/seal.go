// Package seal encrypts secrets at rest: AES-256-GCM under one key that the
// operator keeps outside the database.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
)

// KeySize is the length of a key in bytes.
const KeySize = 32

// A Box seals and opens secrets.
type Box struct{ aead cipher.AEAD }

// ErrOpen says that a secret was sealed under another key, for another
// purpose, or was altered.
var ErrOpen = errors.New("sealed under another key, or altered")

// New returns the box of a key in standard base64, as NewKey makes it.
func New(key string) (*Box, error) {
	raw, err := base64.StdEncoding.DecodeString(key)
	if err != nil || len(raw) != KeySize {
		return nil, fmt.Errorf("want %d bytes in base64, as `openssl rand -base64 %d` prints them", KeySize, KeySize)
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &Box{aead}, nil
}

// NewKey returns a fresh key in the form that New reads.
func NewKey() string {
	raw := make([]byte, KeySize)
	rand.Read(raw)
	return base64.StdEncoding.EncodeToString(raw)
}

// Seal encrypts secret for purpose. Open needs the same purpose, so that a
// sealed value cannot be moved to another column and used there.
func (b *Box) Seal(secret []byte, purpose string) []byte {
	return b.aead.Seal(nil, nil, secret, []byte(purpose))
}

// Open returns the secret that Seal was given.
func (b *Box) Open(sealed []byte, purpose string) ([]byte, error) {
	secret, err := b.aead.Open(nil, nil, sealed, []byte(purpose))
	if err != nil {
		return nil, ErrOpen
	}
	return secret, nil
}
