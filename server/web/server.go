package web

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/netip"
	"path"
	"reflect"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"go.uber.org/zap"

	"certctl/server/fault"
	"certctl/server/limit"
	"certctl/server/metric"
	"certctl/server/perm"
)

// Options are what a server needs.
type Options struct {
	Version string
	MaxBody int // bytes
	Metrics *metric.Set
	Log     *zap.Logger

	// Admit says who presents a bearer token from an address, and what the limits
	// of the two say. It returns a fault of kind Unauthenticated for a token that
	// nobody holds.
	Admit func(ctx context.Context, address, token string) (perm.Actor, []limit.Decision, error)

	// Take asks a limit for one request of a key.
	Take func(ctx context.Context, l *limit.Limit, key string) (limit.Decision, error)

	Proxies []netip.Prefix // whose word counts for where a request comes from

	// Tag puts the request's id where other packages look for it.
	Tag func(ctx context.Context, requestID string) context.Context
}

// A Server answers requests over the routes that were mounted.
type Server struct {
	Options
	router  *chi.Mux
	api     huma.API
	maxBody int64 // the smallest body that is refused: the HTTP library counts so
	routes  map[string]*Route
	proxy   sync.Once // says that one is not trusted
}

// New returns a server of bindings. It does no I/O.
func New(o Options, bindings []Binding) *Server {
	s := &Server{Options: o, router: chi.NewRouter(), maxBody: int64(o.MaxBody) + 1, routes: map[string]*Route{}}
	s.router.Use(s.identify, s.observe, s.secure, s.recover, s.legible, s.head)
	s.router.NotFound(func(w http.ResponseWriter, r *http.Request) {
		s.Refuse(w, r, fault.New(fault.NotFound, "no route has this path; GET /openapi.json lists them"))
	})
	s.router.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		s.Refuse(w, r, fault.New(fault.NotAllowed, "this path does not take %s", r.Method))
	})

	cfg := huma.DefaultConfig("certctl", o.Version)
	// The defaults put a link to a schema into every body, and load their page
	// of documentation from a public network.
	cfg.CreateHooks, cfg.DocsPath, cfg.SchemasPath, cfg.OpenAPIPath = nil, "", "", ""
	cfg.RejectUnknownQueryParameters = true
	cfg.Formats = map[string]huma.Format{"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat}
	cfg.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", schemaName)
	cfg.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		bearer: {Type: "http", Scheme: "bearer", Description: "An API key."},
	}
	cfg.Info.Description = "Certificate lifecycle server. Errors are problem documents (RFC 9457)."
	s.api = huma.NewAPI(cfg, adapter{s})
	for _, b := range bindings {
		if (b.Route.Needs == nil) == (b.Route.Public == "") {
			panic("web: " + b.Route.Name + " must set one of Needs and Public")
		}
		if b.Route.Unlimited != "" && len(b.Route.Limits()) > 0 {
			panic("web: " + b.Route.Name + " is unlimited, and has limits")
		}
		s.routes[b.Route.Name] = b.Route
		for _, class := range []string{"2xx", "4xx", "5xx"} {
			s.Metrics.Init(metric.HTTPRequests, b.Route.Name, class)
		}
		b.mount(s, b.Route)
	}
	s.document()
	return s
}

// document has every operation say that whatever is no success is a problem
// document: which statuses there are, the kinds of fault say.
func (s *Server) document() {
	doc := s.api.OpenAPI()
	problem := doc.Components.Schemas.Schema(reflect.TypeFor[Problem](), true, "Problem")
	for _, item := range doc.Paths {
		for _, op := range []*huma.Operation{item.Get, item.Put, item.Post, item.Delete, item.Patch} {
			if op == nil {
				continue
			}
			for status := range op.Responses {
				if status >= "400" {
					delete(op.Responses, status)
				}
			}
			op.Responses["default"] = &huma.Response{
				Description: "A problem document (RFC 9457), whose code names the kind of fault.",
				Content:     map[string]*huma.MediaType{"application/problem+json": {Schema: problem}},
			}
		}
	}
}

const bearer = "bearer"

// schemaName puts the package before a type's name: two packages may both have
// a Problem.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Name() == "" || t.PkgPath() == "" {
		return name
	}
	return path.Base(t.PkgPath()) + "." + name
}

// adapter mounts what huma registers, behind the guard of its route.
type adapter struct{ s *Server }

func (a adapter) Handle(op *huma.Operation, handler func(huma.Context)) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler(humachi.NewContext(op, r, w)) })
	a.s.router.Method(op.Method, op.Path, a.s.guarded(a.s.routes[op.OperationID], h))
}

func (a adapter) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.s.router.ServeHTTP(w, r) }

// Router is the handler of every request.
func (s *Server) Router() chi.Router { return s.router }

// OpenAPI is the document of the mounted routes, as OpenAPI 3.1 in JSON.
func (s *Server) OpenAPI() ([]byte, error) {
	return json.MarshalIndent(s.api.OpenAPI(), "", "  ")
}

// guarded serves h to those who hold what the route needs.
func (s *Server) guarded(route *Route, h http.Handler) http.Handler {
	if route.Tagged {
		h = tagged(h)
	}
	h = s.placed(route, h)
	return s.timed(route, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		note(r).route = route.Name
		note(r).address = Address(r, s.Proxies)
		s.noteProxy(r)
		if route.Needs == nil {
			if s.open(w, r, route) && s.pass(w, r, route) {
				h.ServeHTTP(w, r)
			}
			return
		}
		if actor, ok := s.admitted(w, r, route); ok && s.pass(w, r, route) {
			h.ServeHTTP(w, r.WithContext(perm.With(r.Context(), actor)))
		}
	}))
}

// open admits a request that needs no permission.
func (s *Server) open(w http.ResponseWriter, r *http.Request, route *Route) bool {
	if route.Unlimited != "" {
		return true
	}
	d, err := s.Take(r.Context(), limit.HTTPAddress, note(r).address)
	if err != nil {
		s.Refuse(w, r, err)
		return false
	}
	return s.limited(w, r, d)
}

// admitted admits a request of somebody who holds what the route needs.
func (s *Server) admitted(w http.ResponseWriter, r *http.Request, route *Route) (perm.Actor, bool) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, bearer) || token == "" {
		if s.open(w, r, route) {
			s.Refuse(w, r, fault.New(fault.Unauthenticated, "send an API key as Authorization: Bearer KEY"))
		}
		return perm.Actor{}, false
	}
	actor, said, err := s.Admit(r.Context(), note(r).address, token)
	if !s.limited(w, r, said...) {
		return actor, false
	}
	if err == nil && !actor.May(route.Needs) {
		err = fault.New(fault.Forbidden, "needs the permission %s, which none of the key's roles holds", route.Needs.Name)
	}
	if err != nil {
		s.Refuse(w, r, err)
		return actor, false
	}
	note(r).actor, note(r).actorID = actor.Name, actor.ID
	return actor, true
}

// DefaultTimeout bounds the time for an answer.
const DefaultTimeout = 30 * time.Second

// timed serves h within the route's time. A stream sets its own once it writes.
func (s *Server) timed(route *Route, h http.Handler) http.Handler {
	timeout := cmp.Or(route.Timeout, DefaultTimeout)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancelCause(r.Context())
		defer cancel(nil)
		late := time.AfterFunc(timeout, func() { cancel(context.DeadlineExceeded) })
		defer late.Stop()
		note(r).late = late
		// A writer without deadlines, as in tests, is patient already.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(timeout + writeTimeout))
		h.ServeHTTP(w, r.WithContext(ctx))
	})
}

// placed serves no more of the route at once than it says.
func (s *Server) placed(route *Route, h http.Handler) http.Handler {
	if route.AtOnce == 0 {
		return h
	}
	places := make(chan struct{}, route.AtOnce)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
			h.ServeHTTP(w, r)
		default:
			w.Header().Set("Retry-After", "5")
			s.Refuse(w, r, fault.New(fault.Unavailable, "this replica is busy with as many of these as it does at once; try again, or try another replica"))
		}
	})
}

// notes are what the layers of one request tell each other.
type notes struct {
	id, route, address, actor, actorID string

	late *time.Timer // ends the request
}

type notesKey struct{}

func note(r *http.Request) *notes { return r.Context().Value(notesKey{}).(*notes) }

// RequestID returns the id of the request that ctx belongs to.
func RequestID(ctx context.Context) string {
	n, _ := ctx.Value(notesKey{}).(*notes)
	if n == nil {
		return ""
	}
	return n.id
}

// identify gives the request an id of the server's own making: one from
// outside could collide, or smuggle text into the log.
func (s *Server) identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := &notes{id: requestID()}
		w.Header().Set("X-Request-Id", n.id)
		ctx := context.WithValue(r.Context(), notesKey{}, n)
		next.ServeHTTP(w, r.WithContext(s.Tag(ctx, n.id)))
	})
}

// observe counts and times requests, and logs them without their query.
func (s *Server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		ww := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		defer func() {
			took, n, status := time.Since(start), note(r), ww.Status()
			if status == 0 {
				status = http.StatusOK
			}
			route := n.route
			if route == "" {
				route = "none"
			}
			s.Metrics.Add(metric.HTTPRequests, 1, route, fmt.Sprintf("%dxx", status/100))
			s.Metrics.Observe(metric.HTTPSeconds, took.Seconds(), route)
			s.Log.Debug("request", zap.String("request_id", n.id), zap.String("route", route), zap.String("actor", n.actor),
				zap.Int("status", status), zap.Int("bytes", ww.BytesWritten()), zap.Duration("took", took))
		}()
		next.ServeHTTP(ww, r)
	})
}

// secure sets the headers that hold for every answer of an API.
func (s *Server) secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Strict-Transport-Security", "max-age=31536000")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		r.Body = http.MaxBytesReader(w, r.Body, s.maxBody)
		next.ServeHTTP(w, r)
	})
}

// recover turns a panic into an answer without detail.
func (s *Server) recover(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			switch v {
			case nil:
			case http.ErrAbortHandler:
				panic(v)
			default:
				s.Log.Error("request panicked", zap.String("request_id", note(r).id), zap.Any("panic", v), zap.Stack("stack"))
				s.Refuse(w, r, errPanic)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

var errPanic = errors.New("panic")

// legible refuses a URL that does not decode to text: PostgreSQL stores none
// of it, and no name has it.
func (s *Server) legible(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !text(r.URL.Path) {
			s.Refuse(w, r, fault.New(fault.Invalid, "the path is not UTF-8 text without control characters"))
			return
		}
		query, err := url2values(r)
		if err != nil {
			s.Refuse(w, r, fault.New(fault.Invalid, "the query string cannot be decoded; escape it as application/x-www-form-urlencoded"))
			return
		}
		for name, values := range query {
			if len(values) > 1 {
				s.Refuse(w, r, fault.New(fault.Invalid, "a query parameter is given twice; give each once"))
				return
			}
			if !text(name) || !text(values[0]) {
				s.Refuse(w, r, fault.New(fault.Invalid, "a query parameter is not UTF-8 text without control characters"))
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

func text(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f })
}

// head answers HEAD as GET without its body, but for streams: whoever asks for
// one by HEAD would have it made for nothing.
func (s *Server) head(next http.Handler) http.Handler {
	get := middleware.GetHead(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, route := range s.routes {
			if r.Method == http.MethodHead && route.streams() && route.Path == r.URL.Path {
				s.Refuse(w, r, fault.New(fault.NotAllowed, "this path does not take HEAD"))
				return
			}
		}
		get.ServeHTTP(w, r)
	})
}

// Serve answers requests on l until ctx ends, then gives those under way until
// hard ends.
func (s *Server) Serve(ctx, hard context.Context, l net.Listener, certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) error {
	srv := &http.Server{
		Handler:           s.router,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          log.New(connections{s.Log}, "", 0),
		TLSConfig: &tls.Config{
			MinVersion:     tls.VersionTLS13,
			GetCertificate: certificate,
		},
	}
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(l, "", "") }()
	select {
	case err := <-done:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	if err := srv.Shutdown(hard); err != nil {
		return fmt.Errorf("requests were still under way: %w", errors.Join(err, srv.Close()))
	}
	return nil
}

// connections logs what goes wrong below requests.
type connections struct{ log *zap.Logger }

func (c connections) Write(b []byte) (int, error) {
	line := string(bytes.TrimSpace(b))
	level := zap.DebugLevel // a stranger can break off a connection as often as they like
	if strings.Contains(line, "Accept error") {
		level = zap.WarnLevel
	}
	c.log.Log(level, "connection", zap.String("problem", line))
	return len(b), nil
}

// writeTimeout bounds the time for one answer, or for one piece of a stream.
const writeTimeout = time.Minute

// patient lets a stream take as long as its reader keeps reading.
type patient struct {
	w http.ResponseWriter
	c *http.ResponseController
}

func (p *patient) Write(b []byte) (int, error) {
	// A writer without deadlines, as in tests, is patient already.
	_ = p.c.SetWriteDeadline(time.Now().Add(writeTimeout))
	return p.w.Write(b)
}
