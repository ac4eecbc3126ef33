package notifytest_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"certctl/server/connector"
	"certctl/server/fault"
	"certctl/server/notify"
	"certctl/server/notify/email"
	"certctl/server/notify/notifytest"
	"certctl/server/notify/webhook"
)

var env = connector.Env{ID: "chn_1", Dial: new(net.Dialer).DialContext}

// The names of the checks.
const (
	deliversText  = "it delivers subject and text"
	deliversHTML  = "it delivers HTML, if there is some"
	deliversData  = "it delivers what is for programs"
	carriesKey    = "what it delivers has the key, and the same one again"
	honoursCtx    = "it honours its context"
	tellsKind     = "a refusal for now is not final, and one for good is"
	keepsSecrets  = "no error holds a secret"
	testsOnly     = "its test tells whether it works, and delivers nothing"
	servesMany    = "it can be used by many at once"
	secretOfTests = "token-of-the-hook-sink"
)

func byHook(t *testing.T) notifytest.Place {
	t.Helper()
	s, err := notifytest.NewHookSink()
	if err != nil {
		t.Fatal(err)
	}
	c, err := webhook.Type.New(s.Settings(), env)
	if err != nil {
		t.Fatal(err)
	}
	return notifytest.Place{Channel: c, Sink: s, Secrets: s.Secrets(), Data: true}
}

func byMail(t *testing.T) notifytest.Place {
	t.Helper()
	s, err := notifytest.NewMailSink(notifytest.MailOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := email.Type.New(s.Settings("ops@example.com"), env)
	if err != nil {
		t.Fatal(err)
	}
	return notifytest.Place{Channel: c, Sink: s, Secrets: s.Secrets(), HTML: true}
}

// variant is a channel with some of what it does done otherwise.
type variant struct {
	notify.Channel
	send func(c notify.Channel, ctx context.Context, m notify.Message) error
	test func(c notify.Channel, ctx context.Context) error
}

func (v variant) Send(ctx context.Context, m notify.Message) error {
	if v.send == nil {
		return v.Channel.Send(ctx, m)
	}
	return v.send(v.Channel, ctx, m)
}

func (v variant) Test(ctx context.Context) error {
	if v.test == nil {
		return v.Channel.Test(ctx)
	}
	return v.test(v.Channel, ctx)
}

// changed has messages changed before they are sent.
func changed(change func(*notify.Message)) variant {
	return variant{send: func(c notify.Channel, ctx context.Context, m notify.Message) error {
		change(&m)
		return c.Send(ctx, m)
	}}
}

// failing has errors changed before anybody sees them.
func failing(change func(error) error) variant {
	return variant{send: func(c notify.Channel, ctx context.Context, m notify.Message) error {
		if err := c.Send(ctx, m); err != nil {
			return change(err)
		}
		return nil
	}}
}

func TestEachCheckTurnsRed(t *testing.T) {
	var mu sync.Mutex
	last, n := notifytest.Message("ntf_first"), 0
	seen := map[string]bool{}
	for name, c := range map[string]struct {
		check  string
		broken variant
	}{
		"another subject":        {deliversText, changed(func(m *notify.Message) { m.Subject = m.Subject[1:] })},
		"another text":           {deliversText, changed(func(m *notify.Message) { m.Text = strings.ReplaceAll(m.Text, "\n.. ", "\n. ") })},
		"delivered to /dev/null": {deliversText, variant{send: func(notify.Channel, context.Context, notify.Message) error { return nil }}},
		"delivered twice": {deliversText, variant{send: func(c notify.Channel, ctx context.Context, m notify.Message) error {
			return errors.Join(c.Send(ctx, m), c.Send(ctx, m))
		}}},
		"no HTML": {deliversHTML, changed(func(m *notify.Message) { m.HTML = "" })},
		"HTML where there is none": {deliversHTML, changed(func(m *notify.Message) {
			if m.HTML == "" {
				m.HTML = "<p></p>"
			}
		})},
		"no data":             {deliversData, changed(func(m *notify.Message) { m.Data = nil })},
		"another event":       {deliversData, changed(func(m *notify.Message) { m.Event = "digest" })},
		"another severity":    {deliversData, changed(func(m *notify.Message) { m.Severity = "" })},
		"the time of sending": {deliversData, changed(func(m *notify.Message) { m.At = time.Now() })},
		"a new key each time": {carriesKey, changed(func(m *notify.Message) { n++; m.Key = fmt.Sprint(m.Key[:5], n) })},
		"one key for all":     {carriesKey, changed(func(m *notify.Message) { m.Key = "ntf_1" })},
		"keys that are cut":   {carriesKey, changed(func(m *notify.Message) { m.Key = m.Key[:5] })},
		"no cancellation": {honoursCtx, variant{send: func(c notify.Channel, ctx context.Context, m notify.Message) error {
			return c.Send(context.WithoutCancel(ctx), m)
		}}},
		"a test without cancellation": {honoursCtx, variant{test: func(c notify.Channel, ctx context.Context) error {
			return c.Test(context.WithoutCancel(ctx))
		}}},
		"no cancellation once it has begun": {honoursCtx, variant{send: func(c notify.Channel, ctx context.Context, m notify.Message) error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return c.Send(context.WithoutCancel(ctx), m)
		}}},
		"no wait for the answer": {honoursCtx, variant{send: func(c notify.Channel, ctx context.Context, m notify.Message) error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			go c.Send(ctx, m)
			return nil
		}}},
		"cancellation that is final": {honoursCtx, failing(func(err error) error {
			return &fault.Error{Kind: fault.Conflict, Msg: "no", Err: err}
		})},
		"errors without a kind":           {tellsKind, failing(func(error) error { return errors.New("no") })},
		"errors that all are final":       {tellsKind, failing(func(error) error { return fault.New(fault.Invalid, "no") })},
		"refusals that nobody is told of": {tellsKind, failing(func(error) error { return nil })},
		"an error with a secret":          {keepsSecrets, failing(func(err error) error { return fmt.Errorf("with %s: %w", secretOfTests, err) })},
		"a cause with a secret": {keepsSecrets, failing(func(error) error {
			return &fault.Error{Kind: fault.Conflict, Msg: "no", Err: errors.New(secretOfTests)}
		})},
		"a test with a secret": {keepsSecrets, variant{test: func(notify.Channel, context.Context) error { return errors.New(secretOfTests) }}},
		"a test that sends": {testsOnly, variant{test: func(c notify.Channel, ctx context.Context) error {
			return c.Send(ctx, notifytest.Message("ntf_test"))
		}}},
		"a test that passes":   {testsOnly, variant{test: func(notify.Channel, context.Context) error { return nil }}},
		"a test that does not": {testsOnly, variant{test: func(notify.Channel, context.Context) error { return errors.New("no") }}},
		"messages mixed up": {servesMany, changed(func(m *notify.Message) {
			mu.Lock()
			defer mu.Unlock()
			m.Subject, last.Subject = last.Subject, m.Subject
		})},
		"only some": {servesMany, variant{send: func(c notify.Channel, ctx context.Context, m notify.Message) error {
			if strings.HasSuffix(m.Key, "_3") {
				return nil
			}
			return c.Send(ctx, m)
		}}},
	} {
		seen[c.check] = true
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := slices.IndexFunc(notifytest.Checks, func(check notifytest.Check) bool { return check.Name == c.check })
			if at < 0 {
				t.Fatalf("there is no check %q", c.check)
			}
			p := byHook(t)
			if need := notifytest.Checks[at].Needs; need != nil && !need(p) {
				p.Sink.Close()
				p = byMail(t)
			}
			defer p.Sink.Close()
			c.broken.Channel = p.Channel
			p.Channel = c.broken
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := notifytest.Checks[at].Of(ctx, p); err == nil || ctx.Err() != nil {
				t.Errorf("%q says %v", c.check, err)
			} else {
				t.Log(err)
			}
		})
	}
	for _, c := range notifytest.Checks {
		if !seen[c.Name] {
			t.Errorf("nothing breaks %q", c.Name)
		}
	}
}
