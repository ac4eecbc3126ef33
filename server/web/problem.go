package web

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"go.uber.org/zap"

	"certctl/server/fault"
)

// A Problem is the answer to a request that was refused or failed (RFC 9457).
type Problem struct {
	Type       string  `json:"type" doc:"always about:blank; the code says which problem it is"`
	Title      string  `json:"title" doc:"text of the HTTP status"`
	Status     int     `json:"status"`
	Code       string  `json:"code" doc:"stable name of the kind of fault"`
	Detail     string  `json:"detail,omitempty" doc:"what is wrong, and the way out"`
	Errors     []Field `json:"errors,omitempty" nullable:"false" doc:"each field that is wrong"`
	RequestID  string  `json:"request_id,omitempty" doc:"as in the server's log"`
	RetryAfter float64 `json:"retry_after_seconds,omitempty" doc:"when the same request is admitted if nobody else comes first, to the millisecond"`
}

// A Field is one wrong part of a request. It never repeats the value, which
// may be a secret.
type Field struct {
	Location string `json:"location" doc:"where, as in body.name or query.limit"`
	Message  string `json:"message"`
}

func (p *Problem) Error() string { return p.Detail }

// GetStatus is the HTTP status of the answer.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType is the media type of the answer.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

func newProblem(kind *fault.Kind, id, detail string) *Problem {
	return &Problem{
		Type: "about:blank", Title: http.StatusText(kind.Status), Status: kind.Status,
		Code: kind.Code, Detail: detail, RequestID: id,
	}
}

// The HTTP library builds its own errors through package variables only, and
// its default repeats the submitted value.
func init() { //nolint:gochecknoinits // see above
	huma.NewErrorWithContext = func(ctx huma.Context, status int, msg string, errs ...error) huma.StatusError {
		p := libraryProblem(status, msg, errs...)
		if ctx != nil {
			p.RequestID = RequestID(ctx.Context())
		}
		return p
	}
	huma.NewError = func(status int, msg string, errs ...error) huma.StatusError {
		return libraryProblem(status, msg, errs...)
	}
}

func libraryProblem(status int, msg string, errs ...error) *Problem {
	kind := fault.OfStatus(status)
	if kind == fault.Internal {
		msg = fault.Shown(nil)
	}
	p := newProblem(kind, "", msg)
	for _, err := range errs {
		var d huma.ErrorDetailer
		if kind == fault.Internal || !errors.As(err, &d) {
			continue
		}
		f := Field{d.ErrorDetail().Location, d.ErrorDetail().Message}
		if f.Location == "body" && d.ErrorDetail().Value != nil && !strings.HasPrefix(f.Message, "expected ") {
			// The decoder's own message may hold a piece of the body.
			f.Message = "is not JSON of the form that the route takes"
		}
		p.Errors = append(p.Errors, f)
	}
	return p
}

// problem is err as the caller may see it.
func (s *Server) problem(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if fault.Of(err) == fault.Internal && errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		err = &fault.Error{Kind: fault.Unavailable, Msg: "the answer took too long; try again", Err: err}
	}
	kind := fault.Of(err)
	switch kind {
	case fault.Internal:
		s.logFailure(ctx, err)
	case fault.Unavailable:
		s.Log.Warn("request not served", zap.String("request_id", RequestID(ctx)), zap.Error(err))
	}
	return newProblem(kind, RequestID(ctx), fault.Shown(err))
}

func (s *Server) logFailure(ctx context.Context, err error) {
	if errors.Is(context.Cause(ctx), context.Canceled) {
		return // the caller went away
	}
	s.Log.Error("request failed", zap.String("request_id", RequestID(ctx)), zap.Error(err))
}

// Refuse answers with err outside of the HTTP library, as raw routes do.
func (s *Server) Refuse(w http.ResponseWriter, r *http.Request, err error) { s.refuse(w, r, err, 0) }

func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error, wait float64) {
	p := s.problem(r.Context(), err).(*Problem) //nolint:errorlint,forcetypeassert // it returns nothing else
	p.RetryAfter = wait
	if p.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="certctl"`)
	}
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the caller went away
}

func requestID() string { return strings.ToLower(rand.Text()) }

func url2values(r *http.Request) (url.Values, error) { return url.ParseQuery(r.URL.RawQuery) }
