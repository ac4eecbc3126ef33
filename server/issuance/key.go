package issuance

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"software.sslmate.com/src/go-pkcs12"

	"certctl/server/audit"
	"certctl/server/fault"
	"certctl/server/pg"
	"certctl/server/store"
)

// KeyDownload asks for the key that the server made for a certificate.
type KeyDownload struct {
	ID   string `path:"id" maxLength:"64" doc:"id of the certificate"`
	Body struct {
		Format   string `json:"format,omitempty" enum:"pem,pkcs12" default:"pem" doc:"pem: PKCS#8; pkcs12: one file with the key, the certificate and its chain"`
		Password string `json:"password,omitempty" maxLength:"1024" doc:"of the PKCS#12 file"`
		Version  int    `json:"version,omitempty" minimum:"1" maximum:"2147483647" doc:"the current one without it"`
	}
}

// DownloadedKey is a key with its certificate.
type DownloadedKey struct {
	Version        int    `json:"version"`
	KeyPEM         string `json:"key_pem,omitempty" doc:"PKCS#8, not encrypted"`
	CertificatePEM string `json:"certificate_pem,omitempty"`
	ChainPEM       string `json:"chain_pem,omitempty"`
	PKCS12         []byte `json:"pkcs12,omitempty" doc:"in base64, encrypted with AES-256 under the password"`
}

// minPassword is how many bytes a password of a PKCS#12 file has at least.
const minPassword = 8

// DownloadKey hands out a key that the server made, once: it is erased in the
// transaction that writes the event, and nothing is handed out before that is
// committed.
func (s *Issuance) DownloadKey(ctx context.Context, in *KeyDownload) (DownloadedKey, error) {
	if in.Body.Format == "pkcs12" && len(in.Body.Password) < minPassword {
		return DownloadedKey{}, fault.New(fault.Invalid, "body.password has fewer than %d characters; it encrypts the PKCS#12 file", minPassword)
	}
	if strings.ContainsFunc(in.Body.Password, func(r rune) bool { return r > 0xFFFF }) {
		return DownloadedKey{}, fault.New(fault.Invalid, "body.password has a character that PKCS#12 cannot hold (beyond U+FFFF); choose another password")
	}
	if in.Body.Format != "pkcs12" && in.Body.Password != "" {
		return DownloadedKey{}, fault.New(fault.Invalid, "body.password encrypts nothing in this format; choose pkcs12, or leave it out")
	}
	var out DownloadedKey
	err := pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		k, err := store.TakeKey(ctx, tx, in.ID, in.Body.Version)
		switch {
		case err != nil:
			return err
		case k.Sealed == nil && k.ByCSR:
			return fault.New(fault.Conflict, "the key of this certificate was made by whoever asked for it; the server never had it")
		case k.Sealed == nil:
			return fault.New(fault.Gone, "the key of this version was downloaded before, or its version has ended, and it is erased; renew the certificate for a new one")
		}
		der, err := s.Box.Open(k.Sealed, keyPurpose(in.ID, k.Number))
		if err != nil {
			return fmt.Errorf("key of the certificate: %w", err)
		}
		if out, err = pack(k, der, in.Body.Password); err != nil {
			return err
		}
		return audit.Write(ctx, tx, audit.Event{
			Action: audit.CertKeyDownloaded, ResourceKind: "certificate", ResourceID: in.ID,
			Details: map[string]string{"version": strconv.Itoa(k.Number), "format": in.Body.Format},
		})
	})
	if err != nil {
		return DownloadedKey{}, err
	}
	return out, nil
}

// pack puts a key with its certificates into PEM, or under a password into
// PKCS#12.
func pack(k store.KeyToTake, der []byte, password string) (DownloadedKey, error) {
	out := DownloadedKey{Version: k.Number}
	if password == "" {
		out.KeyPEM = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		out.CertificatePEM, out.ChainPEM = encode(k.DER), encode(k.Chain...)
		return out, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return out, err
	}
	leaf, err := x509.ParseCertificate(k.DER)
	if err != nil {
		return out, err
	}
	var chain []*x509.Certificate
	for _, c := range k.Chain {
		parsed, err := x509.ParseCertificate(c)
		if err != nil {
			return out, err
		}
		chain = append(chain, parsed)
	}
	out.PKCS12, err = pkcs12.Modern.Encode(key, leaf, chain, password)
	return out, err
}
