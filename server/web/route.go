// Package web turns typed functions into HTTP handlers, mounts the route table
// and serves it over TLS.
package web

import (
	"context"
	"io"
	"net/http"
	"reflect"
	"regexp"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"

	"certctl/server/limit"
	"certctl/server/perm"
)

// A Route is one row of the API. Exactly one of Needs and Public is set.
type Route struct {
	Name         string // operationId: verb and noun, as in "create-key"
	Method, Path string
	Does         string
	Needs        *perm.Permission
	Public       string         // why no permission is needed
	Status       int            // of success; 200 if zero
	Content      string         // media type of the answer; JSON if empty
	Timeout      time.Duration  // of an answer; DefaultTimeout if zero. A stream has as long as its reader keeps reading
	AtOnce       int            // how many of them a replica serves at once; no bound if zero
	Unlimited    string         // why no limit counts requests to it
	Besides      []*limit.Limit // limits beside those that every route has
	Tagged       bool           // whether the answer has an ETag, and is not sent to a caller that has it

	In, Out reflect.Type // nil for raw routes
}

// streams reports whether the route's answer is a stream.
func (r *Route) streams() bool { return r.In != nil && r.Out == nil }

// An Endpoint is a route that takes an I and answers with an O. Fields of I
// tagged `path:"name"` or `query:"name"` come from the URL, the field Body
// from the body.
type Endpoint[I, O any] struct{ *Route }

// A Stream is a route that takes an I and answers with lines as they come.
type Stream[I any] struct{ *Route }

// A Raw route is served by an http.Handler.
type Raw struct{ *Route }

// Nothing is the input, or the answer, of a route that has none.
type Nothing struct{}

// A Binding is a route with the function that serves it.
type Binding struct {
	Route *Route
	mount func(*Server, *Route)
}

// Typed completes r as a route from I to O.
func Typed[I, O any](r *Route) Endpoint[I, O] {
	r.In, r.Out = reflect.TypeFor[I](), reflect.TypeFor[O]()
	return Endpoint[I, O]{r}
}

// Streamed completes r as a stream.
func Streamed[I any](r *Route) Stream[I] {
	r.In = reflect.TypeFor[I]()
	return Stream[I]{r}
}

// Do binds f to the endpoint.
func (e Endpoint[I, O]) Do(f func(context.Context, *I) (O, error)) Binding {
	type answer struct{ Body O }
	return Binding{e.Route, func(s *Server, r *Route) {
		op := s.operation(r)
		if r.Out == reflect.TypeFor[Nothing]() {
			op.DefaultStatus = http.StatusNoContent
			huma.Register(s.api, op, func(ctx context.Context, in *I) (*struct{}, error) {
				_, err := f(ctx, in)
				return nil, s.problem(ctx, err)
			})
			return
		}
		huma.Register(s.api, op, func(ctx context.Context, in *I) (*answer, error) {
			out, err := f(ctx, in)
			if err != nil {
				return nil, s.problem(ctx, err)
			}
			return &answer{out}, nil
		})
	}}
}

// Do binds f to the stream. f refuses the request, or returns what writes the
// answer; an error after that cuts the connection, so that the caller cannot
// take a part for the whole.
func (e Stream[I]) Do(f func(context.Context, *I) (func(io.Writer) error, error)) Binding {
	return Binding{e.Route, func(s *Server, r *Route) {
		op := s.operation(r)
		op.Responses = map[string]*huma.Response{
			"200": {Description: r.Does, Content: map[string]*huma.MediaType{r.Content: {Schema: &huma.Schema{Type: "string"}}}},
		}
		huma.Register(s.api, op, func(ctx context.Context, in *I) (*huma.StreamResponse, error) {
			write, err := f(ctx, in)
			if err != nil {
				return nil, s.problem(ctx, err)
			}
			return &huma.StreamResponse{Body: func(hc huma.Context) {
				request, _ := humachi.Unwrap(hc)
				note(request).late.Stop() // from here on the reader's pace decides
				hc.SetHeader("Content-Type", r.Content)
				_, w := humachi.Unwrap(hc)
				if err := write(&patient{w, http.NewResponseController(w)}); err != nil {
					s.logFailure(ctx, err)
					panic(http.ErrAbortHandler)
				}
			}}, nil
		})
	}}
}

// Do binds h to the raw route.
func (e Raw) Do(h http.Handler) Binding {
	return Binding{e.Route, func(s *Server, r *Route) {
		op := s.operation(r)
		op.Responses = map[string]*huma.Response{
			"200": {Description: r.Does, Content: map[string]*huma.MediaType{r.Content: {Schema: &huma.Schema{Type: "string"}}}},
		}
		for _, m := range pathParameter.FindAllStringSubmatch(r.Path, -1) {
			op.Parameters = append(op.Parameters, &huma.Param{Name: m[1], In: "path", Required: true, Schema: &huma.Schema{Type: "string"}})
		}
		s.api.OpenAPI().AddOperation(&op)
		s.router.Method(r.Method, r.Path, s.guarded(r, h))
	}}
}

var pathParameter = regexp.MustCompile(`\{([a-z_]+)\}`)

// operation is what the OpenAPI document says of r.
func (s *Server) operation(r *Route) huma.Operation {
	op := huma.Operation{
		OperationID:   r.Name,
		Method:        r.Method,
		Path:          r.Path,
		Summary:       r.Does,
		DefaultStatus: r.Status,
		MaxBodyBytes:  s.maxBody,
	}
	if r.Needs != nil {
		op.Description = "Needs the permission `" + r.Needs.Name + "`."
		op.Security = []map[string][]string{{bearer: {}}}
	} else {
		op.Description = "Public: " + r.Public + "."
	}
	var limits []string
	for _, l := range r.Limits() {
		limits = append(limits, "`"+l.Name+"`")
	}
	if len(limits) > 0 {
		op.Description += " Limits: " + strings.Join(limits, ", ") + "."
	} else {
		op.Description += " No limit: " + r.Unlimited + "."
	}
	return op
}
