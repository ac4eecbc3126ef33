package revocation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"certctl/server/fault"
	"certctl/server/issuer"
	"certctl/server/store"
)

// ServeCRL answers with the newest list of the issuer that the path names, to
// anybody (RFC 5280 §4.2.1.13). It has written nothing if it returns an error.
func (r *Revocations) ServeCRL(w http.ResponseWriter, req *http.Request) error {
	list, err := r.newestFor(req)
	if err != nil {
		return err
	}
	h := w.Header()
	if list.Number == 0 {
		h.Set("Retry-After", "5")
		return fault.New(fault.Unavailable, "the issuer's first revocation list is not signed yet; try again")
	}
	h.Set("ETag", tag(list.Number))
	h.Set("Last-Modified", list.ThisUpdate.UTC().Format(http.TimeFormat))
	h.Set("Cache-Control", fmt.Sprintf("public, max-age=%d", list.MaxAge))
	if list.Same {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Type", "application/pkix-crl")
	h.Set("Content-Length", strconv.FormatInt(list.Size, 10))
	_, _ = w.Write(list.DER) // the caller went away
	return nil
}

// newestFor returns the newest list of the issuer that a request names, with its
// bytes if the sender wants them.
func (r *Revocations) newestFor(req *http.Request) (list store.CRL, err error) {
	id, asks := req.PathValue("issuer"), reader(req)
	for range 5 {
		list, err = store.NewestCRL(req.Context(), r.DB, id, asks)
		if err != nil || list.Number == 0 || list.Same || asks.Head {
			return list, err
		}
		bytes, err := r.bytes(req.Context(), id, list.Number)
		if err != nil {
			return list, err
		}
		if bytes.Number == list.Number {
			list.DER = bytes.DER
			return list, nil
		}
	}
	return list, fault.New(fault.Unavailable, "the list is being replaced; try again")
}

// bytes returns the list of an issuer, of which the replica reads one copy however
// many want it: the one with the number, unless there is another by now.
func (r *Revocations) bytes(ctx context.Context, id string, number int64) (store.CRLBytes, error) {
	if held, ok := r.newest.Load(id); ok && held.(store.CRLBytes).Number == number {
		return held.(store.CRLBytes), nil
	}
	list, _, err := r.reads.Do(ctx, id, func(ctx context.Context, _ int64) (store.CRLBytes, error) {
		if held, ok := r.newest.Load(id); ok && held.(store.CRLBytes).Number == number {
			return held.(store.CRLBytes), nil
		}
		list, err := store.ReadCRL(ctx, r.DB, id)
		if err == nil {
			r.newest.Store(id, list)
		}
		return list, err
	})
	return list, err
}

func tag(number int64) string { return `"` + strconv.FormatInt(number, 10) + `"` }

// reader is what a request says of the list that its sender has. A tag says it
// better than a time (RFC 9110 §13.1.3).
func reader(req *http.Request) store.Reader {
	r := store.Reader{Head: req.Method == http.MethodHead, Numbers: []int64{}}
	if none := req.Header.Get("If-None-Match"); none != "" {
		for t := range strings.SplitSeq(none, ",") {
			t = strings.TrimPrefix(strings.TrimSpace(t), "W/")
			n, err := strconv.ParseInt(strings.Trim(t, `"`), 10, 64)
			switch {
			case t == "*":
				r.Any = true
			case err == nil && tag(n) == t:
				r.Numbers = append(r.Numbers, n)
			}
		}
	} else if since, err := http.ParseTime(req.Header.Get("If-Modified-Since")); err == nil {
		r.Since = &since
	}
	return r
}

// ServeCA answers with the certificate of the issuer that the path names, to
// anybody (RFC 5280 §4.2.2.1). It has written nothing if it returns an error.
func (r *Revocations) ServeCA(w http.ResponseWriter, req *http.Request) error {
	opened, err := r.Open(req.Context(), r.DB, req.PathValue("issuer"))
	if err != nil {
		return err
	}
	authority, ok := opened.(issuer.Authority)
	if !ok {
		return fault.New(fault.NotFound, "the server does not have the certificate of this issuer")
	}
	der := authority.Chain()[0].Raw
	sum := sha256.Sum256(der)
	h := w.Header()
	h.Set("Content-Type", "application/pkix-cert")
	h.Set("ETag", `"`+hex.EncodeToString(sum[:16])+`"`)
	h.Set("Cache-Control", "public, max-age=86400") // it hardly ever changes
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(der))
	return nil
}
