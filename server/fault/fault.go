// Package fault classifies errors by what the caller can do about them.
package fault

import (
	"errors"
	"fmt"
	"net/http"

	"certctl/server/table"
)

// A Kind is a class of failure. Its row decides everything that depends on the
// class, so that no handler or job chooses a status or a retry by itself.
type Kind struct {
	Code   string `json:"code"`   // stable name for programs
	Status int    `json:"status"` // HTTP status
	Retry  bool   `json:"retry"`  // the same call may succeed later
	Does   string `json:"does"`   // what it tells the caller
}

var kinds = table.By(func(k *Kind) string { return k.Code })

// Kinds returns every kind, in declaration order.
func Kinds() []*Kind { return kinds.Rows() }

// The kinds of fault.
var (
	Internal = declare("internal", http.StatusInternalServerError, true,
		"The server failed; its log has the cause under the request id.")
	Invalid = declare("invalid", http.StatusBadRequest, false,
		"The request is wrong; each problem names its field and the way out.")
	Unauthenticated = declare("unauthenticated", http.StatusUnauthorized, false,
		"No valid credential came with the request.")
	Forbidden = declare("forbidden", http.StatusForbidden, false,
		"The credential is valid and lacks the permission that the answer names.")
	NotFound = declare("not_found", http.StatusNotFound, false,
		"Nothing has this name, or the caller may not know of it.")
	NotAllowed = declare("method_not_allowed", http.StatusMethodNotAllowed, false,
		"The path exists and the method does not.")
	NotAcceptable = declare("not_acceptable", http.StatusNotAcceptable, false,
		"The answer cannot be given in a format that the request accepts.")
	Timeout = declare("timeout", http.StatusRequestTimeout, true,
		"The request did not arrive in time.")
	Conflict = declare("conflict", http.StatusConflict, false,
		"What is there already contradicts the request.")
	Gone = declare("gone", http.StatusGone, false,
		"It could be done once and has been done.")
	TooLarge = declare("too_large", http.StatusRequestEntityTooLarge, false,
		"The body is larger than the server takes.")
	Unsupported = declare("unsupported_media_type", http.StatusUnsupportedMediaType, false,
		"The body is in a format that the route does not take.")
	Limited = declare("rate_limited", http.StatusTooManyRequests, true,
		"A limit is used up; the answer names it, and says when it admits one more.")
	Unavailable = declare("unavailable", http.StatusServiceUnavailable, true,
		"Something the server needs does not answer, or it is shutting down.")
)

func declare(code string, status int, retry bool, does string) *Kind {
	return kinds.Add(&Kind{code, status, retry, does})
}

// OfStatus returns the kind that has the HTTP status, or Internal for one that
// no kind has. 422, which the HTTP library uses for bad values, is Invalid.
func OfStatus(status int) *Kind {
	if status == http.StatusUnprocessableEntity {
		return Invalid
	}
	for _, k := range kinds.Rows() {
		if k.Status == status {
			return k
		}
	}
	return Internal
}

// KindOf returns the kind with the code, or Internal for one that no kind has.
func KindOf(code string) *Kind {
	if k, ok := kinds.Row(code); ok {
		return k
	}
	return Internal
}

// Error carries a kind and a message that is safe to show to the caller.
type Error struct {
	Kind *Kind
	Msg  string
	Err  error // the cause, for the log only
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Msg
	}
	return e.Msg + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// New returns an error of kind k with a message for the caller.
func New(k *Kind, format string, args ...any) error {
	return &Error{Kind: k, Msg: fmt.Sprintf(format, args...)}
}

// Of reports the kind of err, Internal if nothing in its chain has one.
func Of(err error) *Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// Shown is what the caller may read of err: the message of a fault, and
// nothing of an error that has no kind.
func Shown(err error) string {
	if e, ok := errors.AsType[*Error](err); ok && e.Kind != Internal {
		return e.Msg
	}
	return "internal error"
}
