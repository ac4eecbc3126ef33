package webhook_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"certctl/server/connector"
	"certctl/server/fault"
	"certctl/server/notify"
	"certctl/server/notify/notifytest"
	"certctl/server/notify/webhook"
	"certctl/server/outbound"
)

var env = connector.Env{ID: "chn_1", Dial: new(net.Dialer).DialContext}

// canary stands where no error may repeat what is there.
const canary = "c4n4ry"

func open(t *testing.T, settings any) notify.Channel {
	t.Helper()
	raw, ok := settings.(json.RawMessage)
	if !ok {
		var err error
		if raw, err = json.Marshal(settings); err != nil {
			t.Fatal(err)
		}
	}
	c, err := webhook.Type.New(raw, env)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func sink(t *testing.T) *notifytest.HookSink {
	t.Helper()
	s, err := notifytest.NewHookSink()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestContract(t *testing.T) {
	notifytest.Run(t, func(t *testing.T) notifytest.Place {
		s := sink(t)
		return notifytest.Place{Channel: open(t, s.Settings()), Sink: s, Secrets: s.Secrets(), Data: true}
	})
}

func TestSettings(t *testing.T) {
	for given, says := range map[string]string{
		`{}`:                                                            "body.settings.url",
		`{"url":"http://c4n4ry.example/"}`:                              "body.settings.url",
		`{"url":"https:///c4n4ry"}`:                                     "body.settings.url",
		`{"url":"https://c4n4ry:99999/"}`:                               "body.settings.url",
		`{"url":"https://a:c4n4ry@a.example/"}`:                         "body.settings.authorization",
		`{"url":"https://a.example/#c4n4ry"}`:                           "body.settings.url",
		`{"url":"https://c4n4rÿ.example/"}`:                             "body.settings.url",
		`{"url":"https://a.example/c4n4ry\r\n"}`:                        "body.settings.url",
		`{"url":"https://a.example/","secret":"c4n4ry"}`:                "body.settings.secret is shorter than 16",
		`{"url":"https://a.example/","authorization":"c4n4ry\r\nA: b"}`: "body.settings.authorization",
		`{"url":"https://a.example/","ca":"c4n4ry"}`:                    "body.settings.ca",
		`{"url":"https://a.example/","timeout_seconds":61}`:             "body.settings.timeout_seconds",
	} {
		_, err := webhook.Type.New(json.RawMessage(given), env)
		if fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", given, err)
		}
	}
	good := json.RawMessage(`{"url":"https://[2001:db8::1]:8443/a?b=c","secret":"0123456789abcdef"}`)
	if _, err := webhook.Type.New(good, env); err != nil {
		t.Error(err)
	}
	if _, err := webhook.Type.New(good, connector.Env{}); err == nil {
		t.Error("it is opened with nothing to connect with")
	}
}

func TestPost(t *testing.T) {
	got := make(chan *http.Request, 1)
	var body []byte
	srv := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ = io.ReadAll(r.Body)
		got <- r
	}))
	defer srv.Close()
	settings := map[string]string{
		"url": srv.URL + "/a?b=c", "secret": "0123456789abcdef",
		"ca": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})),
	}
	m := notify.Message{
		Key: "ntf_1", Event: "cert.expired", Severity: "critical", At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600)),
		Subject: "S", Text: "T", HTML: "<p>H</p>", Data: json.RawMessage(`{"a": 1}`), To: []string{"owner@example.org"},
	}
	if err := open(t, settings).Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	r := <-got
	const want = `{"id":"ntf_1","event":"cert.expired","severity":"critical","at":"2026-01-02T02:04:05Z","subject":"S","text":"T","data":{"a":1}}`
	if string(body) != want || r.Method != http.MethodPost || r.RequestURI != "/a?b=c" {
		t.Errorf("got %s %s %s", r.Method, r.RequestURI, body)
	}
	for name, want := range map[string]string{"Content-Type": "application/json", "User-Agent": "certctl", "Idempotency-Key": `"ntf_1"`, "Authorization": ""} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	at := r.Header.Get("X-Certctl-Timestamp")
	mac := hmac.New(sha256.New, []byte("0123456789abcdef"))
	fmt.Fprintf(mac, "v1.%s.%s", at, body)
	if got, want := r.Header.Get("X-Certctl-Signature"), "v1="+hex.EncodeToString(mac.Sum(nil)); got != want {
		t.Errorf("the signature is %q, want %q", got, want)
	}
	if n, err := strconv.ParseInt(at, 10, 64); err != nil || time.Since(time.Unix(n, 0)).Abs() > time.Minute {
		t.Errorf("the time is %q", at)
	}

	delete(settings, "secret")
	settings["authorization"] = "Bearer x"
	m.Data = nil
	if err := open(t, settings).Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	r = <-got
	if r.Header.Get("X-Certctl-Signature") != "" || r.Header.Get("X-Certctl-Timestamp") == "" || r.Header.Get("Authorization") != "Bearer x" {
		t.Errorf("without a secret: %v", r.Header)
	}
	if !strings.HasSuffix(string(body), `"data":{}}`) {
		t.Errorf("without data: %s", body)
	}
	m.Data = json.RawMessage(`[1]`)
	if err := open(t, settings).Send(t.Context(), m); fault.Of(err) != fault.Invalid {
		t.Errorf("with data that are no object: %v", err)
	}
}

func TestAnswers(t *testing.T) {
	s := sink(t)
	c := open(t, s.Settings())
	send := func(status int, headers map[string]string) error {
		t.Helper()
		s.Answer(status, headers)
		return c.Send(t.Context(), notifytest.Message(canary))
	}
	for _, status := range []int{200, 201, 202, 204, 299} {
		if err := send(status, nil); err != nil {
			t.Errorf("%d: %v", status, err)
		}
	}
	for status, final := range map[int]bool{
		300: true, 301: true, 302: true, 303: true, 304: true, 307: true, 308: true,
		400: true, 401: true, 403: true, 405: true, 410: true, 413: true, 415: true, 422: true, 451: true,
		404: false, 408: false, 409: false, 425: false, 429: false, 500: false, 502: false, 503: false, 504: false, 599: false,
	} {
		err := send(status, map[string]string{"Location": s.URL, canary: canary})
		if err == nil || fault.Of(err).Retry == final || !strings.Contains(fault.Shown(err), strconv.Itoa(status)) || strings.Contains(err.Error(), canary) {
			t.Errorf("%d, final %t: %v", status, final, err)
		}
		if later, ok := errors.AsType[*notify.Later](err); ok {
			t.Errorf("%d: %v", status, later)
		}
	}
	if n := len(s.Deliveries()); n != 0 {
		t.Errorf("redirects were followed: %d deliveries", n)
	}
	soon := time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)
	for _, x := range []struct {
		status   int
		says     string
		from, to time.Duration
	}{
		{429, "7", 7 * time.Second, 7 * time.Second},
		{503, "120", 2 * time.Minute, 2 * time.Minute},
		{503, soon, 59 * time.Minute, time.Hour},
		{429, "4294967295", 24 * time.Hour, 24 * time.Hour},
		{503, "Fri, 31 Dec 9999 23:59:59 GMT", 24 * time.Hour, 24 * time.Hour},
		{503, "0", 0, 0},
		{503, "-1", 0, 0},
		{503, "c4n4ry", 0, 0},
		{503, "99999999999999999999", 0, 0},
		{503, "Thu, 01 Jan 1970 00:00:00 GMT", 0, 0},
		{500, "7", 0, 0},
		{409, "7", 0, 0},
	} {
		err := send(x.status, map[string]string{"Retry-After": x.says})
		later, ok := errors.AsType[*notify.Later](err)
		if ok != (x.to > 0) || ok && (later.After < x.from || later.After > x.to) || fault.Of(err) != fault.Unavailable || strings.Contains(err.Error(), canary) {
			t.Errorf("%d with Retry-After %q: %v, later %+v", x.status, x.says, err, later)
		}
	}
}

func TestReceiverThatIsNoneIsNotRepeated(t *testing.T) {
	s := sink(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	srv := httptest.NewUnstartedServer(nil)
	srv.StartTLS()
	defer srv.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			secure := tls.Server(conn, &tls.Config{Certificates: srv.TLS.Certificates})
			_, _ = secure.Read(make([]byte, 64<<10))
			_, _ = io.WriteString(secure, canary+" "+canary+"\r\n\r\n")
			secure.Close()
		}
	}()
	settings := map[string]string{
		"url": "https://" + l.Addr().String() + "/" + canary,
		"ca":  string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})),
	}
	err = open(t, settings).Send(t.Context(), notifytest.Message("ntf_1"))
	if fault.Of(err) != fault.Unavailable || strings.Contains(err.Error(), canary) {
		t.Errorf("got %v", err)
	}
	if err := open(t, settings).Test(t.Context()); err != nil {
		t.Errorf("it speaks TLS, and: %v", err)
	}

	// Its certificate is of an authority that is not trusted.
	delete(settings, "ca")
	settings["url"] = s.URL
	for what, err := range map[string]error{
		"Send": open(t, settings).Send(t.Context(), notifytest.Message("ntf_1")),
		"Test": open(t, settings).Test(t.Context()),
	} {
		if fault.Of(err) != fault.Unavailable || !strings.Contains(fault.Shown(err), "not trusted") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if len(s.Deliveries()) != 0 || s.Refused() != 0 {
		t.Error("something came")
	}
}

func TestOnlyWhatTheGuardAllows(t *testing.T) {
	s := sink(t)
	for allowed, prefix := range map[bool]string{true: "127.0.0.0/8", false: "10.0.0.0/8"} {
		g := &outbound.Guard{Allow: []netip.Prefix{netip.MustParsePrefix(prefix)}, Setting: "CERTCTL_TEST"}
		c, err := webhook.Type.New(s.Settings(), connector.Env{Dial: g.Dial})
		if err != nil {
			t.Fatal(err)
		}
		for what, err := range map[string]error{"Send": c.Send(t.Context(), notifytest.Message("ntf_1")), "Test": c.Test(t.Context())} {
			if allowed && err != nil || !allowed && (fault.Of(err) != fault.Invalid || !strings.Contains(fault.Shown(err), "CERTCTL_TEST")) {
				t.Errorf("%s, allowed %t: %v", what, allowed, err)
			}
		}
	}
}

func TestWrongCredentialsAreFinal(t *testing.T) {
	s := sink(t)
	for _, what := range []string{"secret", "authorization"} {
		settings := map[string]any{}
		if err := json.Unmarshal(s.Settings(), &settings); err != nil {
			t.Fatal(err)
		}
		settings[what] = canary + "-that-is-long-enough"
		err := open(t, settings).Send(t.Context(), notifytest.Message("ntf_1"))
		if fault.Of(err) != fault.Conflict || !strings.Contains(fault.Shown(err), "body.settings."+what) || strings.Contains(err.Error(), canary) {
			t.Errorf("another %s: %v", what, err)
		}
	}
	if s.Refused() != 2 || len(s.Deliveries()) != 0 {
		t.Errorf("%d were refused and %d delivered", s.Refused(), len(s.Deliveries()))
	}
}

func TestSlowReceiver(t *testing.T) {
	s := sink(t)
	s.Slow(50 * time.Millisecond)
	c := open(t, s.Settings())
	if err := c.Send(t.Context(), notifytest.Message("ntf_1")); err != nil {
		t.Error(err)
	}
	s.Slow(time.Minute)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Send(ctx, notifytest.Message("ntf_2")); !errors.Is(err, context.DeadlineExceeded) || !fault.Of(err).Retry {
		t.Errorf("got %v", err)
	}
	if n := len(s.Deliveries()); n != 1 {
		t.Errorf("%d deliveries", n)
	}
}

func TestVerify(t *testing.T) {
	const secret = "0123456789abcdef"
	now := time.Unix(1_800_000_000, 0)
	body := []byte(`{"id":"ntf_1"}`)
	// By: printf 'v1.1800000000.{"id":"ntf_1"}' | openssl dgst -sha256 -hmac 0123456789abcdef
	h := http.Header{"X-Certctl-Timestamp": {"1800000000"}, "X-Certctl-Signature": {"v1=8d16a83c0373893218409b8f4ef87223555b3ef878e7c575ef821a2eb2362932"}}
	for _, off := range []time.Duration{0, 5 * time.Minute, -5 * time.Minute} {
		if err := webhook.Verify(secret, h, body, now.Add(off)); err != nil {
			t.Errorf("%s later: %v", off, err)
		}
	}
	for _, off := range []time.Duration{5*time.Minute + time.Second, -5*time.Minute - time.Second} {
		if webhook.Verify(secret, h, body, now.Add(off)) == nil {
			t.Errorf("it is taken %s later", off)
		}
	}
	for name, change := range map[string]func(h http.Header) (string, []byte){
		"another secret": func(http.Header) (string, []byte) { return secret + "0", body },
		"another body":   func(http.Header) (string, []byte) { return secret, []byte(`{"id":"ntf_2"}`) },
		"another time": func(h http.Header) (string, []byte) {
			h.Set(webhook.HeaderTimestamp, "1800000001")
			return secret, body
		},
		"no time":      func(h http.Header) (string, []byte) { h.Del(webhook.HeaderTimestamp); return secret, body },
		"no signature": func(h http.Header) (string, []byte) { h.Del(webhook.HeaderSignature); return secret, body },
		"no version": func(h http.Header) (string, []byte) {
			h.Set(webhook.HeaderSignature, h.Get(webhook.HeaderSignature)[3:])
			return secret, body
		},
		"a signature cut off": func(h http.Header) (string, []byte) {
			h.Set(webhook.HeaderSignature, h.Get(webhook.HeaderSignature)[:60])
			return secret, body
		},
	} {
		changed := h.Clone()
		other, body := change(changed)
		if webhook.Verify(other, changed, body, now) == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
}

// The URL of a service is often all that it asks for.
func TestURLIsWithheld(t *testing.T) {
	settings := json.RawMessage(`{"url":"https://hooks.example.com/services/c4n4ry"}`)
	if shown := string(webhook.Type.Redact(settings)); strings.Contains(shown, "hooks") || strings.Contains(shown, canary) {
		t.Errorf("shown is %s", shown)
	}
	refuses := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no") }
	c, err := webhook.Type.New(settings, connector.Env{Dial: refuses})
	if err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"Send": c.Send(t.Context(), notifytest.Message("ntf_1")), "Test": c.Test(t.Context())} {
		if err == nil || strings.Contains(fmt.Sprintf("%v %+v", err, err), canary) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
