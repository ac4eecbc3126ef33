// Package cert holds the words of certificates: their states, keys, names,
// usages, reasons of revocation, and the rules that a profile sets.
package cert

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"math/big"
	"strings"

	"certctl/server/defect"
)

// NewID returns a new id with a prefix that says what it is of. Ids are made in
// about the order of time, which keeps the newest ones together in an index;
// nothing is decided by that order.
func NewID(prefix string) string {
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], uint64(defect.Now().UnixMilli())<<16)
	rand.Read(raw[6:])
	return prefix + "_" + strings.ToLower(ids.EncodeToString(raw[:]))
}

var ids = base32.HexEncoding.WithPadding(base32.NoPadding)

// NewSerial returns a serial number of 127 random bits or a few less, whose
// text always has the same length (RFC 5280 §4.1.2.2).
func NewSerial() *big.Int {
	var raw [16]byte
	rand.Read(raw[:])
	raw[0] = raw[0]&0x3f | 0x40 // positive, and no zero in front
	return new(big.Int).SetBytes(raw[:])
}

// Serial is the one text form of a serial number: its bytes in lower-case hex,
// without a zero byte in front.
func Serial(n *big.Int) string { return hex.EncodeToString(n.Bytes()) }

// ParseSerial reads a serial number in the forms that people copy from tools:
// upper or lower case, with colons, with 0x or zeros in front. It reports false for
// anything else.
func ParseSerial(s string) (*big.Int, bool) {
	s = strings.TrimPrefix(strings.ToLower(strings.ReplaceAll(s, ":", "")), "0x")
	if s == "" || len(s) > 64 || strings.Trim(s, "0123456789abcdef") != "" {
		return nil, false
	}
	n, ok := new(big.Int).SetString(s, 16)
	if !ok || n.Sign() <= 0 || len(n.Bytes()) > 20 {
		return nil, false
	}
	return n, true
}
