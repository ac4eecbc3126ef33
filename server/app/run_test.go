package app_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"certctl/server/api"
	"certctl/server/app"
	"certctl/server/client"
	"certctl/server/config"
	"certctl/server/pg/pgtest"
	"certctl/server/seal"
)

// running is a server on a database of its own.
type running struct {
	*client.Client // as the administrator
	url            string
	logs           *observer.ObservedLogs
}

const bootstrapToken = "bootstrap-token-of-the-tests-0123456789"

// encryptionKey is that of every replica.
var encryptionKey = seal.NewKey()

// settings of a server that a test starts.
func settings(url string) config.Values {
	return config.Values{
		config.DatabaseURL.Name: url, config.EncryptionKey.Name: encryptionKey,
		config.BootstrapToken.Name: bootstrapToken, config.Listen.Name: "127.0.0.1:0",
		// Limits are tested where it is said.
		config.HTTPAddressBurst.Name: 1_000_000, config.HTTPAddressRate.Name: 100_000.0,
		config.HTTPActorBurst.Name: 1_000_000, config.HTTPActorRate.Name: 100_000.0,
		config.ExportsPerHour.Name: 1_000_000, config.BootstrapPerHour.Name: 1_000_000,
	}
}

// run starts a server with further settings until the test ends.
func run(t testing.TB, more config.Values) *running {
	t.Helper()
	return runOn(t, pgtest.URL(t), more)
}

// runOn is run on the database at url.
func runOn(t testing.TB, url string, more config.Values) *running {
	t.Helper()
	r := serve(t, url, more)
	in := &api.NewBootstrap{}
	in.Body.Name, in.Body.Token = "administrator", bootstrapToken
	key, err := client.Do(t.Context(), r.Client, api.Bootstrap, in)
	if err != nil {
		t.Fatal(err)
	}
	r.Client = r.With(key.Secret)
	return r
}

// serve starts a server on the database at url that nobody has a key to yet.
func serve(t testing.TB, url string, more config.Values) *running {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	v := settings(url)
	maps.Copy(v, more)
	a := app.New(v, app.Build{Version: "test"}, zap.New(core))
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan string, 1), make(chan error, 1)
	go func() { done <- a.Run(ctx, app.Options{Ready: func(address string) { ready <- address }}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	select {
	case address := <-ready:
		c, err := client.New(address, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		tr := c.HTTP.Transport.(*http.Transport)
		tr.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} // the server's certificate is its own
		// HTTP/2 has the client repeat what the server's framing refuses.
		tr.ForceAttemptHTTP2, tr.TLSNextProto = false, map[string]func(string, *tls.Conn) http.RoundTripper{}
		return &running{c, url, logs}
	case err := <-done:
		done <- nil
		t.Fatalf("the server did not start: %v", err)
	}
	return nil
}

// answer is what came back of a request that was sent as it is.
type answer struct {
	status int
	header http.Header
	body   string
}

// raw sends a request as it is, with further headers as names and values.
func (r *running) raw(t *testing.T, method, target, contentType, body string, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.URL+"/", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.URL.Opaque = target
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	req.Header.Set("Authorization", "Bearer "+r.Key)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := r.HTTP.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	return answer{res.StatusCode, res.Header, string(text)}
}

// document is the part of the OpenAPI document that the tests read.
type document struct {
	Paths      map[string]map[string]operation
	Components struct{ Schemas map[string]*schema }
}

type operation struct {
	OperationID string
	Parameters  []struct {
		Name, In string
		Required bool
		Schema   *schema
	}
	RequestBody *struct {
		Content map[string]struct{ Schema *schema }
	}
}

type schema struct {
	Ref        string `json:"$ref"`
	Type       kind
	Format     string
	Properties map[string]*schema
	Required   []string
	Items      *schema
	Minimum    *float64
	Maximum    *float64
	MinLength  *int
	MaxLength  *int
	MinItems   *int
	MaxItems   *int
	Pattern    string
}

// kind is the type of a schema, without the null that may stand beside it.
type kind string

func (k *kind) UnmarshalJSON(raw []byte) error {
	var all []string
	if json.Unmarshal(raw, &all) == nil {
		*k = kind(all[0])
		return nil
	}
	return json.Unmarshal(raw, (*string)(k))
}

func (r *running) document(t *testing.T) document {
	t.Helper()
	body, err := r.Get(t.Context(), api.OpenAPI)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	var d document
	if err := json.NewDecoder(body).Decode(&d); err != nil {
		t.Fatal(err)
	}
	return d
}
