package email_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/mail"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"certctl/server/connector"
	"certctl/server/fault"
	"certctl/server/notify"
	"certctl/server/notify/email"
	"certctl/server/notify/notifytest"
	"certctl/server/outbound"
)

var env = connector.Env{ID: "chn_1", Dial: new(net.Dialer).DialContext}

// canary stands where no error may repeat what is there.
const canary = "c4n4ry"

func sink(t *testing.T, o notifytest.MailOptions) *notifytest.MailSink {
	t.Helper()
	s, err := notifytest.NewMailSink(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// open opens a channel to the sink, with some of its settings changed: name,
// value, name, value.
func open(t *testing.T, s *notifytest.MailSink, changes ...any) notify.Channel {
	t.Helper()
	settings := map[string]any{}
	if err := json.Unmarshal(s.Settings("ops@example.com"), &settings); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(changes); i += 2 {
		settings[changes[i].(string)] = changes[i+1]
	}
	raw, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	c, err := email.Type.New(raw, env)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestContract(t *testing.T) {
	for name, o := range map[string]notifytest.MailOptions{
		"STARTTLS": {}, "TLS from the first byte": {Implicit: true}, "signing in by LOGIN": {Login: true},
	} {
		t.Run(name, func(t *testing.T) {
			notifytest.Run(t, func(t *testing.T) notifytest.Place {
				s := sink(t, o)
				return notifytest.Place{Channel: open(t, s), Sink: s, Secrets: s.Secrets(), HTML: true}
			})
		})
	}
}

func TestSettings(t *testing.T) {
	const good = `"host":"mail.example.com","from":"a@example.com"`
	for given, says := range map[string][]string{
		`{}`:                                                                  {"body.settings.host", "body.settings.from"},
		`{"host":"c4n4ry:25","from":"c4n4ry"}`:                                {"body.settings.host", "body.settings.from"},
		`{"host":"c4n4ry/","from":"a@b"}`:                                     {"body.settings.host"},
		`{"host":"c4n4ry\r\n","from":"a@b"}`:                                  {"body.settings.host"},
		`{` + good + `,"security":"c4n4ry"}`:                                  {"body.settings.security"},
		`{` + good + `,"username":"c4n4ry"}`:                                  {"body.settings.username and body.settings.password"},
		`{` + good + `,"password":"c4n4ry"}`:                                  {"body.settings.username and body.settings.password"},
		`{` + good + `,"ca":"c4n4ry"}`:                                        {"body.settings.ca"},
		`{` + good + `,"to":["a@b.example","x c4n4ry",""]}`:                   {"body.settings.to[1]", "body.settings.to[2]"},
		`{` + good + `,"to":["a@b.example, c4n4ry@b.example"]}`:               {"body.settings.to[0]"},
		`{` + good + `,"to":["c4n4rÿ@b.example"]}`:                            {"body.settings.to[0]"},
		`{` + good + `,"to":["\"c4n4ry> X\"@b.example"]}`:                     {"body.settings.to[0]"},
		`{` + good + `,"to":["c4n4ry@[127.0.0.1]"]}`:                          {"body.settings.to[0]"},
		`{` + good + `,"to":["a@b.example\r\nBcc: c4n4ry@b.example"]}`:        {"body.settings.to[0]"},
		`{` + good + `,"security":"none","username":"u","password":"c4n4ry"}`: {"body.settings.security is none"},
		`{"host":"a","from":"=?utf-8?q?c4n4ry=0D=0ABcc:_x?= <a@b.example>"}`:  {"body.settings.from"},
	} {
		_, err := email.Type.New(json.RawMessage(given), env)
		if fault.Of(err) != fault.Invalid || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", given, err)
			continue
		}
		for _, part := range says {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q does not say %q", given, err, part)
			}
		}
	}
	many, err := json.Marshal(map[string]any{"host": "a", "from": "a@b.example", "to": slices.Repeat([]string{"a@b.example"}, 51)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := email.Type.New(many, env); fault.Of(err) != fault.Invalid {
		t.Errorf("51 addresses: %v", err)
	}
	for _, host := range []string{"mail", "mail.example.com", "192.0.2.1", "2001:db8::1"} {
		raw := json.RawMessage(`{"host":"` + host + `","from":"a@example.com","security":"none"}`)
		if _, err := email.Type.New(raw, env); err != nil {
			t.Errorf("%s: %v", host, err)
		}
		if _, err := email.Type.New(raw, connector.Env{}); err == nil {
			t.Error("it is opened with nothing to connect with")
		}
	}
}

func TestMail(t *testing.T) {
	s := sink(t, notifytest.MailOptions{})
	c := open(t, s, "from", "Zertifikate für alle <certctl@example.com>", "to", []string{"Ops <ops@example.com>", "OPS@Example.com", "second@example.com"})
	m := notifytest.Message("ntf_1")
	m.To = []string{"owner@example.org", "second@EXAMPLE.com", "owner@example.org"}
	before := time.Now().Truncate(time.Second)
	for range 2 {
		if err := c.Send(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	all := s.Deliveries()
	if len(all) != 2 {
		t.Fatalf("%d deliveries", len(all))
	}
	for _, d := range all {
		if want := []string{"ops@example.com", "second@example.com", "owner@example.org"}; !slices.Equal(d.To, want) {
			t.Errorf("it goes to %q, want %q", d.To, want)
		}
		h := mail.Header(d.Header)
		if got := h.Get("Message-ID"); got != "<ntf_1@example.com>" {
			t.Errorf("its identifier is %q", got)
		}
		if at, err := h.Date(); err != nil || at.Before(before) || time.Since(at) > time.Minute {
			t.Errorf("its date is %v, %v", at, err)
		}
		from, err := h.AddressList("From")
		if err != nil || len(from) != 1 || from[0].Name != "Zertifikate für alle" || from[0].Address != "certctl@example.com" {
			t.Errorf("it is from %v, %v", from, err)
		}
		to, err := h.AddressList("To")
		if err != nil || len(to) != 3 {
			t.Errorf("it says it goes to %v, %v", to, err)
		}
		if got := h.Get("Auto-Submitted"); got != "auto-generated" {
			t.Errorf("it is submitted as %q", got)
		}
	}
}

func TestNoHeaderCanBeSmuggledIn(t *testing.T) {
	s := sink(t, notifytest.MailOptions{})
	c := open(t, s)
	m := notifytest.Message("ntf_1")
	m.To = nil
	m.Subject = "a\r\nBcc: c4n4ry@example.com\r\n\r\nbody\x00\u2028\u202eend \xff  of it"
	if err := c.Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	d := s.Deliveries()[0]
	if want := "a Bcc: c4n4ry@example.com body end of it"; d.Subject != want || len(d.Header["Bcc"]) != 0 || !strings.Contains(d.Text, "Erste Zeile") {
		t.Errorf("the subject is %q, Bcc is %q, the text %.20q", d.Subject, d.Header["Bcc"], d.Text)
	}
	// What is no address of an owner is not sent to, and is told.
	for _, bad := range []string{"a@b.example\r\nRCPT TO:<c4n4ry@b.example>", "c4n4ry", "a b@b.example", "a@b.example> SIZE=1", "<a@b.example>,<c4n4ry@b.example>"} {
		m.To = []string{bad}
		before := len(s.Deliveries())
		err := c.Send(t.Context(), m)
		if fault.Of(err) != fault.Conflict || !strings.Contains(fault.Shown(err), "1 of 2 recipients") || strings.Contains(err.Error(), canary) {
			t.Errorf("%q: %v", bad, err)
		}
		if all := s.Deliveries(); len(all) != before+1 || !slices.Equal(all[before].To, []string{"ops@example.com"}) {
			t.Errorf("%q: it was delivered to %q", bad, all[before:])
		}
	}
	if strings.Contains(s.Said(), "RCPT TO:<c4n4ry") {
		t.Error("a recipient was smuggled in")
	}
}

func TestNobodyToSendTo(t *testing.T) {
	s := sink(t, notifytest.MailOptions{})
	c := open(t, s, "to", []string{})
	m := notifytest.Message("ntf_1")
	for _, to := range [][]string{nil, {"nobody"}} {
		m.To = to
		if err := c.Send(t.Context(), m); fault.Of(err) != fault.Invalid || !strings.Contains(fault.Shown(err), "no recipient") {
			t.Errorf("%q: %v", to, err)
		}
	}
	if s.Said() != "" {
		t.Error("it connected to say nothing")
	}
	m.To = []string{"owner@example.org"}
	if err := c.Send(t.Context(), m); err != nil {
		t.Errorf("an owner alone: %v", err)
	}
}

func TestPasswordIsNotToldInTheClear(t *testing.T) {
	s := sink(t, notifytest.MailOptions{Plain: true})
	c := open(t, s)
	for what, err := range map[string]error{"Send": c.Send(t.Context(), notifytest.Message("ntf_1")), "Test": c.Test(t.Context())} {
		if fault.Of(err) != fault.Conflict || !strings.Contains(fault.Shown(err), "does not offer STARTTLS") {
			t.Errorf("%s: %v", what, err)
		}
	}
	said := s.Said()
	if !strings.Contains(said, "AUTH PLAIN") || strings.Contains(said, "\nAUTH") || strings.Contains(said, "\nMAIL") || len(s.Deliveries()) != 0 {
		t.Errorf("it was said:\n%s", said)
	}
	// Without credentials there is nothing to hide but the mail.
	c = open(t, s, "security", "none", "username", "", "password", "")
	if err := c.Send(t.Context(), notifytest.Message("ntf_1")); err != nil {
		t.Error(err)
	}
	if strings.Contains(s.Said(), "\nAUTH") || len(s.Deliveries()) != 1 {
		t.Errorf("it was said:\n%s", s.Said())
	}
}

func TestCertificateHasToBeTrusted(t *testing.T) {
	for name, o := range map[string]notifytest.MailOptions{"STARTTLS": {}, "TLS": {Implicit: true}} {
		s := sink(t, o)
		for what, c := range map[string]notify.Channel{
			"an authority that is not known": open(t, s, "ca", ""),
			"another name":                   open(t, s, "host", "127.0.0.2"),
		} {
			for call, err := range map[string]error{"Send": c.Send(t.Context(), notifytest.Message("ntf_1")), "Test": c.Test(t.Context())} {
				if fault.Of(err) != fault.Unavailable {
					t.Errorf("%s, %s, %s: %v", name, what, call, err)
				}
			}
		}
		if strings.Contains(s.Said(), "\nAUTH") || len(s.Deliveries()) != 0 {
			t.Errorf("%s: it was said:\n%s", name, s.Said())
		}
	}
}

func TestTestSaysNoMoreThanItHasTo(t *testing.T) {
	s := sink(t, notifytest.MailOptions{})
	if err := open(t, s).Test(t.Context()); err != nil {
		t.Fatal(err)
	}
	var verbs []string
	for line := range strings.Lines(s.Said()) {
		if verb, _, _ := strings.Cut(strings.TrimSpace(line), " "); slices.Contains([]string{"EHLO", "HELO", "STARTTLS", "AUTH", "NOOP", "QUIT", "MAIL", "RCPT", "DATA", "RSET"}, verb) {
			verbs = append(verbs, verb)
		}
	}
	if want := []string{"EHLO", "STARTTLS", "EHLO", "AUTH", "NOOP", "QUIT"}; !slices.Equal(verbs, want) {
		t.Errorf("it said %q, want %q", verbs, want)
	}
	if !strings.Contains(s.Said(), "EHLO [127.0.0.1]") {
		t.Errorf("it calls itself otherwise:\n%s", s.Said())
	}
}

func TestReplies(t *testing.T) {
	s := sink(t, notifytest.MailOptions{})
	c := open(t, s)
	for _, x := range []struct {
		what  string
		code  int
		final bool
	}{
		{notifytest.SignIn, 535, true},
		{notifytest.SignIn, 454, false},
		{notifytest.Sender, 550, true},
		{notifytest.Sender, 451, false},
		{notifytest.Sender, 552, true},
		{"ops@example.com", 450, false},
		{"ops@example.com", 452, false},
		{"ops@example.com", 552, false}, // too many recipients, as it was once
		{notifytest.Content, 552, true}, // the mail is too large
		{notifytest.Content, 554, true},
		{notifytest.Content, 452, false},
	} {
		s.Refuse(x.what, x.code)
		m := notifytest.Message("ntf_1")
		m.To = nil
		err := c.Send(t.Context(), m)
		if err == nil || fault.Of(err).Retry == x.final || !strings.Contains(fault.Shown(err), fmt.Sprintf("(%d %d.7.1)", x.code, x.code/100)) {
			t.Errorf("%s, %d: %v", x.what, x.code, err)
		}
		if strings.Contains(fmt.Sprintf("%+v", err), s.Password) {
			t.Errorf("%s, %d: the error repeats what the server said", x.what, x.code)
		}
		if n := len(s.Deliveries()); n != 0 {
			t.Fatalf("%s, %d: it is delivered", x.what, x.code)
		}
		s.Refuse(x.what, 0)
	}
	err := open(t, s, "password", canary).Test(t.Context())
	if fault.Of(err) != fault.Conflict || !strings.Contains(fault.Shown(err), "body.settings.password") || strings.Contains(err.Error(), canary) {
		t.Errorf("another password: %v", err)
	}
}

func TestOneBadRecipientDoesNotKeepTheOthers(t *testing.T) {
	s := sink(t, notifytest.MailOptions{})
	c := open(t, s)
	s.Refuse("owner@example.org", 550)
	err := c.Send(t.Context(), notifytest.Message("ntf_1"))
	if fault.Of(err) != fault.Conflict || !strings.Contains(fault.Shown(err), "1 of 2 recipients") || !strings.Contains(fault.Shown(err), "550 5.7.1") {
		t.Errorf("got %v", err)
	}
	if all := s.Deliveries(); len(all) != 1 || !slices.Equal(all[0].To, []string{"ops@example.com"}) {
		t.Errorf("delivered were %+v", all)
	}
	s.Refuse("ops@example.com", 550)
	err = c.Send(t.Context(), notifytest.Message("ntf_1"))
	if fault.Of(err) != fault.Conflict || strings.Contains(fault.Shown(err), "recipients") || len(s.Deliveries()) != 1 {
		t.Errorf("all are bad: %v", err)
	}
	s.Refuse("ops@example.com", 450)
	err = c.Send(t.Context(), notifytest.Message("ntf_1"))
	if fault.Of(err) != fault.Unavailable || len(s.Deliveries()) != 1 {
		t.Errorf("one is not to be reached now: %v", err)
	}
}

// Whoever can have it now has it, once; the others are tried again.
func TestRecipientsAreTriedUntilEachHasIt(t *testing.T) {
	s := sink(t, notifytest.MailOptions{})
	c := open(t, s, "to", []string{"Ops@example.com", "second@example.com"})
	m := notifytest.Message("ntf_1") // and to owner@example.org
	for _, step := range []struct {
		refuse map[string]int
		has    []string // who got it by this attempt
		kind   *fault.Kind
		says   string
	}{
		{map[string]int{"second@example.com": 450, "owner@example.org": 550}, []string{"Ops@example.com"}, fault.Unavailable, "1 of 3 recipients so far"},
		{map[string]int{"second@example.com": 450, "owner@example.org": 450}, nil, fault.Unavailable, "1 of 3 recipients so far"},
		{map[string]int{"second@example.com": 0, "owner@example.org": 550}, []string{"second@example.com"}, fault.Conflict, "2 of 3 recipients, and will not go to the others"},
		{map[string]int{"owner@example.org": 550}, nil, fault.Conflict, "2 of 3 recipients, and will not go to the others"},
	} {
		for who, code := range step.refuse {
			s.Refuse(who, code)
		}
		before := len(s.Deliveries())
		err := c.Send(t.Context(), m)
		partly, ok := errors.AsType[*notify.Partly](err)
		if !ok || fault.Of(err) != step.kind || !strings.Contains(fault.Shown(err), step.says) || !slices.Equal(partly.Done, step.has) {
			t.Fatalf("%v: it is %v, done %+v", step.refuse, err, partly)
		}
		for _, d := range s.Deliveries()[before:] {
			if !slices.Equal(d.To, step.has) {
				t.Errorf("%v: it went to %q", step.refuse, d.To)
			}
		}
		m.Done = append(m.Done, partly.Done...)
	}
	s.Refuse("owner@example.org", 0)
	if err := c.Send(t.Context(), m); err != nil {
		t.Errorf("the last one: %v", err)
	}
	m.Done = []string{"ops@EXAMPLE.com", "second@example.com", "owner@example.org"}
	said := s.Said()
	if err := c.Send(t.Context(), m); err != nil || s.Said() != said {
		t.Errorf("when all have it: %v", err)
	}
}

// A server that never ends what it says is not listened to for ever.
func TestRepliesAreBounded(t *testing.T) {
	dial := func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			line := []byte("220-" + strings.Repeat("x", 500) + "\r\n")
			for said := 0; ; {
				n, err := server.Write(line)
				said += n
				if err != nil || said > 8<<20 {
					return
				}
			}
		}()
		return client, nil
	}
	c, err := email.Type.New(json.RawMessage(`{"host":"mail.example.com","from":"a@example.com","to":["b@example.com"]}`), connector.Env{Dial: dial})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Test(t.Context()); fault.Of(err) != fault.Unavailable || !strings.Contains(fault.Shown(err), "says more than it has to") {
		t.Errorf("got %v", err)
	}
}

func TestOnlyWhatTheGuardAllows(t *testing.T) {
	s := sink(t, notifytest.MailOptions{})
	for allowed, prefix := range map[bool]string{true: "127.0.0.0/8", false: "10.0.0.0/8"} {
		g := &outbound.Guard{Allow: []netip.Prefix{netip.MustParsePrefix(prefix)}, Setting: "CERTCTL_TEST"}
		c, err := email.Type.New(s.Settings("ops@example.com"), connector.Env{Dial: g.Dial})
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

func TestTimeout(t *testing.T) {
	s := sink(t, notifytest.MailOptions{})
	s.Be(notifytest.Silent)
	err := open(t, s, "timeout_seconds", 1).Send(t.Context(), notifytest.Message("ntf_1"))
	if fault.Of(err) != fault.Unavailable || !strings.Contains(fault.Shown(err), "in time") {
		t.Errorf("got %v", err)
	}
	if n := len(s.Deliveries()); n != 1 {
		t.Errorf("%d deliveries", n)
	}
}
