package email

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/mail"
	"net/textproto"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/wneessen/go-mail/smtp"

	"certctl/server/fault"
	"certctl/server/notify"
	"certctl/server/outbound"
)

// Send delivers a mail to the recipients of the channel and of the message, but
// for those who have it. If the server refuses some of them, the others get it,
// and notify.Partly says so.
func (c *Channel) Send(ctx context.Context, m notify.Message) error {
	if err := m.Check(); err != nil {
		return err
	}
	all, bad := c.recipients(m.To)
	if len(all) == 0 {
		return fault.New(fault.Invalid, "the mail has no recipient with a valid address; give body.settings.to one, or the owner an email address")
	}
	has := func(a *mail.Address) bool {
		return slices.ContainsFunc(m.Done, func(done string) bool { return strings.EqualFold(done, a.Address) })
	}
	r := &round{all: len(all) + bad, bad: bad, to: slices.DeleteFunc(slices.Clone(all), has)}
	if len(r.to) == 0 {
		return r.end()
	}
	raw, err := c.mail(m, all)
	if err != nil {
		return err
	}
	return c.with(ctx, func(ctx context.Context, s *smtp.Client) error { return c.deliver(ctx, s, r, raw) })
}

// Test signs in and out again.
func (c *Channel) Test(ctx context.Context) error {
	return c.with(ctx, func(ctx context.Context, s *smtp.Client) error { return failed(ctx, "to go on", s.Noop()) })
}

// A round is an attempt to have a mail delivered to those who lack it.
type round struct {
	all   int // how many recipients there are, with those who have it
	bad   int // how many of them have no valid address
	to    []*mail.Address
	taken []string // addresses that the server took
	later error    // of one that it refused for now
	never error    // of one that it refused for good
}

// deliver offers every recipient to the server, and the mail if it takes any.
func (c *Channel) deliver(ctx context.Context, s *smtp.Client, r *round, raw []byte) error {
	if err := failed(ctx, "the sender", s.Mail("<"+c.from.Address+">")); err != nil {
		return err
	}
	for _, a := range r.to {
		err := s.Rcpt("<" + a.Address + ">")
		_, replied := errors.AsType[*textproto.Error](err)
		refusal := failed(ctx, "a recipient", err)
		switch {
		case err == nil:
			r.taken = append(r.taken, a.Address)
		case !replied:
			return refusal
		case fault.Of(refusal).Retry:
			r.later = refusal
		default:
			r.never = refusal
		}
	}
	if len(r.taken) > 0 {
		w, err := s.Data()
		if err == nil {
			if _, err = w.Write(raw); err == nil {
				err = w.Close()
			}
		}
		if err := failed(ctx, "the mail", err); err != nil {
			return err
		}
	}
	return r.end()
}

// end says what has become of a mail.
func (r *round) end() error {
	why := cmp.Or(r.later, r.never)
	switch has := r.all - r.bad - len(r.to) + len(r.taken); {
	case has == r.all:
		return nil
	case has == 0:
		return why
	case r.later != nil:
		return &notify.Partly{Done: r.taken, Err: fault.New(fault.Unavailable, "the mail went to %d of %d recipients so far: %s", has, r.all, fault.Shown(why))}
	default:
		says := "their addresses are not valid"
		if why != nil {
			says = fault.Shown(why)
		}
		return &notify.Partly{Done: r.taken, Err: fault.New(fault.Conflict, "the mail went to %d of %d recipients, and will not go to the others: %s", has, r.all, says)}
	}
}

// with signs in, calls f with the time that is left, and signs out.
func (c *Channel) with(ctx context.Context, f func(context.Context, *smtp.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(c.s.Timeout)*time.Second)
	defer cancel()
	conn, err := c.dial(ctx, "tcp", net.JoinHostPort(c.s.Host, strconv.Itoa(c.s.Port)))
	if err != nil {
		return failed(ctx, "", err)
	}
	defer conn.Close()
	conn = &bounded{conn, maxReplies}
	defer context.AfterFunc(ctx, func() { conn.Close() })() // the client knows no context
	s, err := c.signIn(ctx, conn)
	if err != nil {
		return err
	}
	if err := f(ctx, s); err != nil {
		return err
	}
	_ = s.Quit() // it is done, whatever the server has to say to that
	return nil
}

// maxReplies bounds what a mail server may say in all, TLS included.
const maxReplies = 1 << 20

// bounded is a connection that so many bytes more are read from.
type bounded struct {
	net.Conn
	left int
}

var errTooMuch = fault.New(fault.Unavailable, "the mail server says more than it has to, and is not listened to any longer")

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooMuch
	}
	n, err := b.Conn.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

func (c *Channel) signIn(ctx context.Context, conn net.Conn) (*smtp.Client, error) {
	if c.s.Security == implicit {
		secure := tls.Client(conn, c.trust)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, failed(ctx, "", err)
		}
		conn = secure
	}
	s, err := smtp.NewClient(conn, c.s.Host)
	if err != nil {
		return nil, failed(ctx, "the connection", err)
	}
	s.SkipSMTPUTF8(true) // everything is ASCII, and so is what the next server has to take
	if err := s.Hello(literal(conn.LocalAddr())); err != nil {
		return nil, failed(ctx, "the connection", err)
	}
	if c.s.Security == startTLS {
		if offered, _ := s.Extension("STARTTLS"); !offered {
			return nil, fault.New(fault.Conflict, "the mail server does not offer STARTTLS, and nothing goes to it in the clear; change body.settings.security, or the server")
		}
		if err := s.StartTLS(c.trust); err != nil {
			return nil, failed(ctx, "STARTTLS", err)
		}
	}
	if c.s.Username == "" {
		return s, nil
	}
	_, offered := s.Extension("AUTH")
	var auth smtp.Auth
	switch mechanisms := strings.Fields(offered); {
	case slices.Contains(mechanisms, "PLAIN"):
		auth = smtp.PlainAuth("", c.s.Username, c.s.Password, c.s.Host, false)
	case slices.Contains(mechanisms, "LOGIN"):
		auth = smtp.LoginAuth(c.s.Username, c.s.Password, c.s.Host, false)
	default:
		return nil, fault.New(fault.Conflict, "the mail server offers neither PLAIN nor LOGIN to sign in; leave body.settings.username and body.settings.password out, or change the server")
	}
	return s, failed(ctx, "body.settings.username and body.settings.password", s.Auth(auth))
}

// literal is how the client calls itself: by its address, since it may have no
// name that the server can look up (RFC 5321 §4.1.3).
func literal(local net.Addr) string {
	tcp, ok := local.(*net.TCPAddr)
	if !ok {
		return "localhost"
	}
	if ip := tcp.AddrPort().Addr().Unmap(); ip.Is4() {
		return "[" + ip.String() + "]"
	}
	return "[IPv6:" + tcp.AddrPort().Addr().WithZone("").String() + "]"
}

// enhanced is how a reply begins that has a code of RFC 3463.
var enhanced = regexp.MustCompile(`^[245]\.[0-9]{1,3}\.[0-9]{1,3}\b`)

// failed says what a step came to. Of a reply it repeats the codes only, since the
// text is whatever the server puts there.
func failed(ctx context.Context, what string, err error) error {
	if err == nil {
		return nil
	}
	reply, ok := errors.AsType[*textproto.Error](err)
	if !ok {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return outbound.Fault("the mail server", err)
	}
	says := strconv.Itoa(reply.Code)
	if code := enhanced.FindString(reply.Msg); code != "" {
		says += " " + code
	}
	// RFC 5321 §4.5.3.1.10: 552 for a recipient is there are too many, for now.
	if reply.Code >= 500 && (reply.Code != 552 || what != "a recipient") {
		return fault.New(fault.Conflict, "the mail server refuses %s (%s)", what, says)
	}
	return fault.New(fault.Unavailable, "the mail server refuses %s for now (%s)", what, says)
}
