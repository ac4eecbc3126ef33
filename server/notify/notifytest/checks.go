// Package notifytest tells whether a type of channel keeps the contract, and has
// sinks to try channels, and what sends by them, with.
package notifytest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"certctl/server/fault"
	"certctl/server/notify"
)

// A Place is a channel, and where it delivers to.
type Place struct {
	Channel notify.Channel
	Sink    Sink
	Secrets []string // of the channel's settings
	HTML    bool     // whether it delivers HTML
	Data    bool     // whether it delivers what is for programs
}

// Run has a channel, as open returns a new one with a new sink, keep the
// contract. It closes the sinks.
func Run(t *testing.T, open func(t *testing.T) Place) {
	t.Helper()
	can := open(t)
	defer can.Sink.Close()
	for _, c := range Checks {
		if c.Needs != nil && !c.Needs(can) {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			p := open(t)
			defer p.Sink.Close()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := c.Of(ctx, p); err != nil {
				t.Error(err)
			}
		})
	}
}

// A Check is one sentence of the contract.
type Check struct {
	Name  string
	Of    func(ctx context.Context, p Place) error // says what is not as it should be
	Needs func(p Place) bool                       // without which there is nothing to check
}

// Checks are the whole contract.
var Checks = []Check{
	{"it delivers subject and text", deliversText, nil},
	{"it delivers HTML, if there is some", deliversHTML, func(p Place) bool { return p.HTML }},
	{"it delivers what is for programs", deliversData, func(p Place) bool { return p.Data }},
	{"what it delivers has the key, and the same one again", carriesKey, nil},
	{"it honours its context", honoursContext, nil},
	{"a refusal for now is not final, and one for good is", tellsKind, nil},
	{"no error holds a secret", keepsSecrets, nil},
	{"its test tells whether it works, and delivers nothing", testsOnly, nil},
	{"it can be used by many at once", servesMany, nil},
}

var happened = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// Message returns a message, another one for each key.
func Message(key string) notify.Message {
	return notify.Message{
		Key: key, Event: "cert.expiring", Severity: "warning", At: happened,
		Subject: "*.bücher.example läuft in sieben Tagen ab, und niemand hat etwas getan: “dringend” (" + key + ")",
		Text:    "Erste Zeile.\n.\n.. zwei Punkte\nFrom hier\n\n" + strings.Repeat("sehr lang = ", 200) + "\nÜber " + key + "\n",
		HTML:    "<p>Über <b>" + key + "</b></p>\n",
		Data:    json.RawMessage(`{"certificate":{"names":["*.bücher.example"],"days":7},"html":"<&>"}`),
		To:      []string{"owner@example.org"},
	}
}

// orNothing is the error, or that there is none.
func orNothing(err error) error {
	if err == nil {
		return errors.New("no error")
	}
	return err
}

// one sends a message and returns its only delivery.
func one(ctx context.Context, p Place, m notify.Message) (d Delivery, err error) {
	if err := p.Channel.Send(ctx, m); err != nil {
		return d, err
	}
	all := p.Sink.Deliveries()
	if len(all) != 1 {
		return d, fmt.Errorf("one message was delivered %d times", len(all))
	}
	return all[0], nil
}

func same(what, got, want string) error {
	if strings.TrimRight(got, "\n") != strings.TrimRight(want, "\n") {
		return fmt.Errorf("the %s is %.80q, not %.80q", what, got, want)
	}
	return nil
}

func deliversText(ctx context.Context, p Place) error {
	m := Message("ntf_1")
	d, err := one(ctx, p, m)
	if err != nil {
		return err
	}
	return errors.Join(same("subject", d.Subject, m.Subject), same("text", d.Text, m.Text))
}

func deliversHTML(ctx context.Context, p Place) error {
	m := Message("ntf_1")
	d, err := one(ctx, p, m)
	if err != nil {
		return err
	}
	m.Key, m.HTML = "ntf_2", ""
	if err := p.Channel.Send(ctx, m); err != nil {
		return err
	}
	without := p.Sink.Deliveries()[1]
	return errors.Join(same("HTML", d.HTML, Message("ntf_1").HTML), same("HTML where there is none", without.HTML, ""), same("text beside none", without.Text, m.Text))
}

func deliversData(ctx context.Context, p Place) error {
	m := Message("ntf_1")
	d, err := one(ctx, p, m)
	if err != nil {
		return err
	}
	var got, want any
	if err := errors.Join(json.Unmarshal(d.Data, &got), json.Unmarshal(m.Data, &want)); err != nil {
		return err
	}
	if !reflect.DeepEqual(got, want) {
		return fmt.Errorf("the data are %s", d.Data)
	}
	if !d.Happened.Equal(m.At) {
		return fmt.Errorf("the time is %s, not %s", d.Happened, m.At)
	}
	return errors.Join(same("event", d.Event, m.Event), same("severity", d.Severity, m.Severity))
}

func carriesKey(ctx context.Context, p Place) error {
	for _, key := range []string{"ntf_1", "ntf_1", "ntf_2"} {
		if err := p.Channel.Send(ctx, Message(key)); err != nil {
			return err
		}
	}
	var keys []string
	for _, d := range p.Sink.Deliveries() {
		keys = append(keys, d.Key)
	}
	if !slices.Equal(keys, []string{"ntf_1", "ntf_1", "ntf_2"}) {
		return fmt.Errorf("the keys are %q", keys)
	}
	bad := Message("ntf_1")
	bad.Key = "ntf_1\r\nBcc: canary@example.com"
	if err := p.Channel.Send(ctx, bad); err == nil || fault.Of(err).Retry {
		return fmt.Errorf("a key of two lines: want a final refusal: %w", orNothing(err))
	}
	return nil
}

// grace is how long after the end of its context a call may go on.
const grace = 3 * time.Second

func honoursContext(ctx context.Context, p Place) error {
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if err := p.Channel.Send(cancelled, Message("ntf_1")); !errors.Is(err, context.Canceled) {
		return fmt.Errorf("under a cancelled context Send has: %w", orNothing(err))
	}
	if err := p.Channel.Test(cancelled); !errors.Is(err, context.Canceled) {
		return fmt.Errorf("under a cancelled context Test has: %w", orNothing(err))
	}
	if n := len(p.Sink.Deliveries()); n != 0 {
		return fmt.Errorf("under a cancelled context %d messages were delivered", n)
	}
	// It is delivered, and nobody says so: whether it was is not known.
	p.Sink.Be(Silent)
	ctx, cancel = context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- p.Channel.Send(ctx, Message("ntf_1")) }()
	for len(p.Sink.Deliveries()) == 0 {
		select {
		case err := <-done:
			return fmt.Errorf("it did not wait for an answer: %w", orNothing(err))
		case <-time.After(time.Millisecond):
		}
	}
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) || !fault.Of(err).Retry {
			return fmt.Errorf("a call that was cancelled: want an error that is not final: %w", orNothing(err))
		}
		return nil
	case <-time.After(grace):
		return errors.New("it goes on when its context has ended")
	}
}

func tellsKind(ctx context.Context, p Place) error {
	for mode, final := range map[Mode]bool{NotNow: false, Never: true} {
		p.Sink.Be(mode)
		if err := p.Channel.Send(ctx, Message("ntf_1")); err == nil || fault.Of(err).Retry == final {
			return fmt.Errorf("want an error that is final (%t): %w", final, orNothing(err))
		}
	}
	p.Sink.Be(Takes)
	_, err := one(ctx, p, Message("ntf_1"))
	return err
}

func keepsSecrets(ctx context.Context, p Place) error {
	var errs []error
	for _, mode := range []Mode{NotNow, Never} {
		p.Sink.Be(mode)
		errs = append(errs, p.Channel.Send(ctx, Message("ntf_1")))
	}
	if err := p.Sink.Close(); err != nil {
		return err
	}
	errs = append(errs, p.Channel.Send(ctx, Message("ntf_1")), p.Channel.Test(ctx))
	for _, err := range errs {
		if err == nil {
			return errors.New("there is an error too few")
		}
		said := fmt.Sprintf("%v %+v %s", err, err, fault.Shown(err))
		for n, secret := range p.Secrets {
			if strings.Contains(said, secret) {
				return fmt.Errorf("an error holds secret %d", n)
			}
		}
	}
	return nil
}

func testsOnly(ctx context.Context, p Place) error {
	if err := p.Channel.Test(ctx); err != nil {
		return err
	}
	if n := len(p.Sink.Deliveries()); n != 0 {
		return fmt.Errorf("%d messages were delivered", n)
	}
	if err := p.Sink.Close(); err != nil {
		return err
	}
	if p.Channel.Test(ctx) == nil {
		return errors.New("it passes when nobody is there")
	}
	return nil
}

func servesMany(ctx context.Context, p Place) error {
	const callers, each = 8, 4
	var wg sync.WaitGroup
	errs := make([]error, callers)
	for n := range callers {
		wg.Go(func() {
			for k := range each {
				errs[n] = errors.Join(errs[n], p.Channel.Send(ctx, Message(fmt.Sprintf("ntf_%d_%d", n, k))))
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	keys := map[string]bool{}
	for _, d := range p.Sink.Deliveries() {
		keys[d.Key] = true
		m := Message(d.Key)
		if err := errors.Join(same("subject", d.Subject, m.Subject), same("text", d.Text, m.Text)); err != nil {
			return fmt.Errorf("%s: %w", d.Key, err)
		}
	}
	if n := len(p.Sink.Deliveries()); n != callers*each || len(keys) != n {
		return fmt.Errorf("%d messages were delivered %d times under %d keys", callers*each, n, len(keys))
	}
	return nil
}
