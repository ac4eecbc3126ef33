package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"strconv"
	"time"
)

// The headers that a receiver verifies a post by.
const (
	HeaderTimestamp = "X-Certctl-Timestamp" // seconds since 1970, when it was posted
	HeaderSignature = "X-Certctl-Signature" // v1= and HMAC-SHA256 in hex
)

// Tolerance is how far a post's time and the receiver's may be apart.
const Tolerance = 5 * time.Minute

func sign(secret string, at time.Time, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte("v1." + strconv.FormatInt(at.Unix(), 10) + "."))
	mac.Write(body)
	return "v1=" + hex.EncodeToString(mac.Sum(nil))
}

// Verify is what a receiver does with a post, before it reads what is in it: the
// signature is "v1=" and the HMAC-SHA256, in hex and under the secret, of "v1.",
// the timestamp, "." and the body, byte for byte as it came. An old post is
// refused, since somebody may have kept it. Within the tolerance a post can
// arrive more than once; its id, which is signed with it, tells.
func Verify(secret string, h http.Header, body []byte, now time.Time) error {
	seconds, err := strconv.ParseInt(h.Get(HeaderTimestamp), 10, 64)
	if err != nil {
		return errors.New("there is no time in " + HeaderTimestamp)
	}
	at := time.Unix(seconds, 0)
	if !hmac.Equal([]byte(h.Get(HeaderSignature)), []byte(sign(secret, at, body))) {
		return errors.New("the signature in " + HeaderSignature + " is not that of the post under this secret")
	}
	if now.Sub(at).Abs() > Tolerance {
		return errors.New("the time in " + HeaderTimestamp + " is not now")
	}
	return nil
}
