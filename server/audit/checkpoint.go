package audit

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// A checkpoint says how long the log was at some time, and what it held. It is
// signed as a note whose text is a C2SP tlog-checkpoint with three extension
// lines:
//
//	certctl-audit-0123456789abcdef
//	2048
//	<root hash in base64>
//	previous 1024
//	token 17
//	at 2026-01-02T03:04:05.000006Z
//
// previous is the size at the checkpoint before this one: it makes the removal
// of a checkpoint visible.
type checkpoint struct {
	Origin   string
	Size     int64
	Root     tlog.Hash
	Previous int64
	Token    int64
	At       time.Time
}

func (c checkpoint) text() string {
	return fmt.Sprintf("%s\n%d\n%s\nprevious %d\ntoken %d\nat %s\n",
		c.Origin, c.Size, c.Root, c.Previous, c.Token, c.At.UTC().Format(leafTime))
}

var errCheckpoint = errors.New("not a checkpoint of an audit log")

func parseCheckpoint(text string) (checkpoint, error) {
	lines := strings.Split(text, "\n")
	if len(lines) < 7 {
		return checkpoint{}, errCheckpoint
	}
	number := func(line, prefix string) int64 {
		digits, ok := strings.CutPrefix(line, prefix)
		n, err := strconv.ParseInt(digits, 10, 64)
		if !ok || err != nil {
			return -1
		}
		return n
	}
	root, err := tlog.ParseHash(lines[2])
	at, errAt := time.Parse("at "+leafTime, lines[5])
	c := checkpoint{lines[0], number(lines[1], ""), root, number(lines[3], "previous "), number(lines[4], "token "), at}
	// Whatever else the text could say, it would not be what text writes.
	if err != nil || errAt != nil || c.Previous < 0 || c.Size <= c.Previous || c.text() != text {
		return checkpoint{}, errCheckpoint
	}
	return c, nil
}

// openCheckpoint returns what the note says and the error that its signature
// has: a checkpoint that nobody known signed can still tell what it claims.
func openCheckpoint(signed string, keys note.Verifiers) (c checkpoint, parse, signature error) {
	text, _, ok := strings.Cut(signed, "\n\n")
	if !ok {
		return c, errCheckpoint, nil
	}
	if c, parse = parseCheckpoint(text + "\n"); parse != nil {
		return c, parse, nil
	}
	n, err := note.Open([]byte(signed), keys)
	if err != nil {
		return c, nil, err
	}
	for _, s := range n.Sigs {
		if s.Name == c.Origin {
			return c, nil, nil
		}
	}
	return c, nil, fmt.Errorf("signed by %s, which is another log", n.Sigs[0].Name)
}

// soleSignature reports whether the note is exactly its text and one signature
// line, as Sequence writes it. The note format itself would let bytes of it
// change: further signatures, and the unused bits of base64.
func soleSignature(signed string) bool {
	_, sig, _ := strings.Cut(signed, "\n\n— ")
	sig, end, ok := strings.Cut(sig, "\n")
	if !ok || end != "" {
		return false
	}
	_, b64, _ := strings.Cut(sig, " ")
	_, err := base64.StdEncoding.Strict().DecodeString(b64)
	return err == nil
}

// verifiers reads verifier keys in the note format.
func verifiers(keys []string) (note.Verifiers, error) {
	var list []note.Verifier
	for i, k := range keys {
		v, err := note.NewVerifier(k)
		if err != nil {
			// Somebody may have given the private key: it is not repeated.
			return nil, fmt.Errorf("number %d is no verifier key: %w", i+1, err)
		}
		list = append(list, v)
	}
	return note.VerifierList(list...), nil
}
