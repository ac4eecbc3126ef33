package issuer

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"time"

	"golang.org/x/crypto/cryptobyte"
	tag "golang.org/x/crypto/cryptobyte/asn1"

	"certctl/server/cert"
)

var (
	oidCRLNumber       = asn1.ObjectIdentifier{2, 5, 29, 20}
	oidReason          = asn1.ObjectIdentifier{2, 5, 29, 21}
	oidInvalidity      = asn1.ObjectIdentifier{2, 5, 29, 24}
	oidAuthorityKeyID  = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidSHA256WithRSA   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}
	oidECDSAWithSHA256 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	oidECDSAWithSHA384 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}
	oidEd25519         = asn1.ObjectIdentifier{1, 3, 101, 112}
)

// Entry returns one entry of a revocation list in DER (RFC 5280 §5.1.2.6). No
// reason is the same as cert.Unspecified.
func Entry(serial *big.Int, at time.Time, reason *cert.Reason, invalidity *time.Time) ([]byte, error) {
	if serial.Sign() <= 0 {
		return nil, errors.New("the serial number is not positive")
	}
	if reason == cert.Unspecified {
		reason = nil // §5.3.1: left out
	}
	var b cryptobyte.Builder
	b.AddASN1(tag.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(serial)
		addTime(b, at)
		if reason == nil && invalidity == nil {
			return
		}
		b.AddASN1(tag.SEQUENCE, func(b *cryptobyte.Builder) {
			if reason != nil {
				addExtension(b, oidReason, func(b *cryptobyte.Builder) { b.AddASN1Enum(int64(reason.Code)) })
			}
			if invalidity != nil {
				addExtension(b, oidInvalidity, func(b *cryptobyte.Builder) { b.AddASN1GeneralizedTime(invalidity.UTC()) })
			}
		})
	})
	return b.Bytes()
}

// SignList returns a revocation list in DER, signed by an authority whose
// certificate and key are given. Beside the list that it returns it holds no copy
// of the entries.
func SignList(ca *x509.Certificate, key crypto.Signer, l List) ([]byte, error) {
	algorithm, hash, err := signatureOf(key.Public())
	if err != nil {
		return nil, err
	}
	switch {
	case len(ca.SubjectKeyId) == 0:
		return nil, errors.New("the authority's certificate has no subject key identifier")
	case !l.NextUpdate.After(l.ThisUpdate):
		return nil, errors.New("the list ends before it begins")
	case l.Number.Sign() <= 0 || l.Number.BitLen() > 159: // 20 octets (§5.2.3)
		return nil, errors.New("the number of the list is not one")
	}
	for rest := cryptobyte.String(l.Entries); !rest.Empty(); {
		if !rest.SkipASN1(tag.SEQUENCE) {
			return nil, errors.New("the entries are not a row of DER sequences")
		}
	}

	var before, after cryptobyte.Builder
	before.AddASN1Int64(1) // v2
	before.AddBytes(algorithm)
	before.AddBytes(ca.RawSubject)
	addTime(&before, l.ThisUpdate)
	addTime(&before, l.NextUpdate)
	after.AddASN1(tag.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
		b.AddASN1(tag.SEQUENCE, func(b *cryptobyte.Builder) {
			addExtension(b, oidAuthorityKeyID, func(b *cryptobyte.Builder) {
				b.AddASN1(tag.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1(tag.Tag(0).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(ca.SubjectKeyId) })
				})
			})
			addExtension(b, oidCRLNumber, func(b *cryptobyte.Builder) { b.AddASN1BigInt(l.Number) })
		})
	})
	head, err := before.Bytes()
	if err != nil {
		return nil, err
	}
	tail, err := after.Bytes()
	if err != nil {
		return nil, err
	}
	if len(l.Entries) > 0 { // without any the field is absent (§5.1.2.6)
		head = appendHeader(head, len(l.Entries))
	}

	// One buffer: room for the outer header, what is signed, the signature.
	size := len(head) + len(l.Entries) + len(tail)
	list := make([]byte, maxHeader, 2*maxHeader+size+1024)
	list = appendHeader(list, size)
	list = append(list, head...)
	list = append(list, l.Entries...)
	list = append(list, tail...)
	signature, err := crypto.SignMessage(key, rand.Reader, list[maxHeader:], hash)
	if err != nil {
		return nil, err
	}
	list = append(list, algorithm...)
	list = append(list, byte(tag.BIT_STRING))
	list = appendLength(list, len(signature)+1)
	list = append(list, 0) // no bit of the last octet is unused
	list = append(list, signature...)
	outer := appendHeader(nil, len(list)-maxHeader)
	begin := maxHeader - len(outer)
	copy(list[begin:], outer)
	return list[begin:], nil
}

// signatureOf returns how a key signs: an AlgorithmIdentifier in DER, and its
// hash.
func signatureOf(public crypto.PublicKey) (der []byte, hash crypto.Hash, err error) {
	k, err := cert.KeyAlgorithmOf(public)
	if err != nil {
		return nil, 0, fmt.Errorf("no lists are signed with %w", err)
	}
	oid, hash := oidSHA256WithRSA, crypto.SHA256
	switch k {
	case cert.ECDSAP256:
		oid = oidECDSAWithSHA256
	case cert.ECDSAP384:
		oid, hash = oidECDSAWithSHA384, crypto.SHA384
	case cert.Ed25519:
		oid, hash = oidEd25519, 0
	}
	var b cryptobyte.Builder
	b.AddASN1(tag.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oid)
		if oid.Equal(oidSHA256WithRSA) { // RFC 4055 §5; the others have no parameters
			b.AddASN1NULL()
		}
	})
	der, err = b.Bytes()
	return der, hash, err
}

// addTime writes a time as RFC 5280 §5.1.2.4 wants it.
func addTime(b *cryptobyte.Builder, t time.Time) {
	if t = t.UTC(); t.Year() < 2050 {
		b.AddASN1UTCTime(t)
		return
	}
	b.AddASN1GeneralizedTime(t)
}

// addExtension writes an extension that is not critical.
func addExtension(b *cryptobyte.Builder, oid asn1.ObjectIdentifier, value cryptobyte.BuilderContinuation) {
	b.AddASN1(tag.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oid)
		b.AddASN1(tag.OCTET_STRING, value)
	})
}

// maxHeader is the length of a header with four octets of length.
const maxHeader = 6

// appendHeader appends what comes before size octets of a SEQUENCE.
func appendHeader(to []byte, size int) []byte {
	return appendLength(append(to, byte(tag.SEQUENCE)), size)
}

func appendLength(to []byte, size int) []byte {
	if size < 0x80 {
		return append(to, byte(size))
	}
	octets := big.NewInt(int64(size)).Bytes()
	return append(append(to, 0x80|byte(len(octets))), octets...)
}
