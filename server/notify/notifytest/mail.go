package notifytest

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"net/textproto"
	"strings"
	"sync"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"certctl/server/notify/email"
)

// MailSink is a mail server that has one user and delivers nothing.
type MailSink struct {
	*book
	Host     string
	Port     int
	CA       string // that its certificate is from, in PEM
	Username string
	Password string

	options MailOptions
	srv     *smtp.Server
	said    transcript
	replies map[string]int
}

// MailOptions are what a MailSink does otherwise than mail servers should.
type MailOptions struct {
	Plain    bool // offers no STARTTLS, and to sign in without
	Implicit bool // speaks TLS from the first byte
	Login    bool // signs in by LOGIN only
}

// NewMailSink starts a mail server.
func NewMailSink(o MailOptions) (*MailSink, error) {
	config, ca, err := certify()
	if err != nil {
		return nil, err
	}
	l, err := listen()
	if err != nil {
		return nil, err
	}
	s := &MailSink{
		book: newBook(), Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, CA: ca,
		Username: "user", Password: "password-of-the-mail-sink", options: o, replies: map[string]int{},
	}
	s.srv = smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &session{sink: s}, nil }))
	s.srv.Domain, s.srv.Debug = "sink.example", &s.said
	s.srv.ErrorLog = log.New(io.Discard, "", 0) // callers that go away are what it is for
	switch {
	case o.Plain:
		s.srv.AllowInsecureAuth = true
	case o.Implicit:
		l = tls.NewListener(l, config)
	default:
		s.srv.TLSConfig = config
	}
	go func() { _ = s.srv.Serve(l) }() // until Close
	return s, nil
}

// Settings are those of an email channel that sends by the sink.
func (s *MailSink) Settings(to ...string) json.RawMessage {
	security := "starttls"
	if s.options.Implicit {
		security = "tls"
	}
	raw, _ := json.Marshal(map[string]any{ // texts and numbers
		"host": s.Host, "port": s.Port, "security": security, "ca": s.CA, "username": s.Username, "password": s.Password,
		"from": "Certctl <certctl@example.com>", "to": to, "timeout_seconds": 30,
	})
	return raw
}

// Secrets are what no error may hold.
func (s *MailSink) Secrets() []string { return []string{s.Password} }

// The parts of a mail that Refuse can name beside recipients.
const (
	Sender  = "sender"
	Content = "content"
	SignIn  = "sign in"
)

// Refuse has a part of every mail, or a recipient, be answered with a code. A
// code of 0 ends that.
func (s *MailSink) Refuse(what string, code int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replies[what] = code
}

// Said is what both sides of all connections said, without the TLS.
func (s *MailSink) Said() string {
	s.said.mu.Lock()
	defer s.said.mu.Unlock()
	return s.said.text.String()
}

// Close ends the sink and its connections.
func (s *MailSink) Close() error {
	s.close()
	return s.srv.Close()
}

// reply is the error that a part of a mail is answered with, if any. It repeats
// the secrets, as a careless server might.
func (s *MailSink) reply(what string) error {
	s.mu.Lock()
	code := s.replies[what]
	s.mu.Unlock()
	if code == 0 {
		return nil
	}
	return &smtp.SMTPError{Code: code, EnhancedCode: smtp.EnhancedCode{code / 100, 7, 1}, Message: "no " + s.Username + " " + s.Password}
}

// transcript keeps the first part of what is said.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

const maxTranscript = 1 << 20

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.text.Len() < maxTranscript {
		t.text.Write(p)
	}
	return len(p), nil
}

// session is one connection's.
type session struct {
	sink   *MailSink
	signed bool
	to     []string
}

func (s *session) AuthMechanisms() []string {
	if s.sink.options.Login {
		return []string{"LOGIN"}
	}
	return []string{sasl.Plain}
}

func (s *session) Auth(string) (sasl.Server, error) {
	check := func(username, password string) error {
		if username != s.sink.Username || password != s.sink.Password {
			return smtp.ErrAuthFailed
		}
		err := s.sink.reply(SignIn)
		s.signed = err == nil
		return err
	}
	if s.sink.options.Login {
		return &login{check: check}, nil
	}
	return sasl.NewPlainServer(func(_, username, password string) error { return check(username, password) }), nil
}

func (s *session) Mail(string, *smtp.MailOptions) error {
	if !s.signed && !s.sink.options.Plain {
		return smtp.ErrAuthRequired
	}
	return s.sink.reply(Sender)
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if err := s.sink.reply(to); err != nil {
		return err
	}
	s.to = append(s.to, to)
	return nil
}

func (s *session) Data(r io.Reader) error {
	d, err := read(r)
	if err != nil {
		return &smtp.SMTPError{Code: 554, EnhancedCode: smtp.EnhancedCode{5, 6, 0}, Message: "not a mail: " + err.Error()}
	}
	if err := s.sink.reply(Content); err != nil {
		return err
	}
	d.To = s.to
	mode, ok := s.sink.take(d, nil)
	no := &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "no " + s.sink.Password}
	switch {
	case !ok, mode == NotNow:
		return no
	case mode == Never:
		no.Code, no.EnhancedCode[0] = 554, 5
		return no
	}
	return nil
}

func (s *session) Reset() { s.to = nil }

func (s *session) Logout() error { return nil }

// login is the server's side of LOGIN, which is no standard and in wide use.
type login struct {
	check    func(username, password string) error
	username *string
	asked    bool
}

func (l *login) Next(response []byte) (challenge []byte, done bool, err error) {
	text := string(response)
	switch {
	case !l.asked:
		l.asked = true
		return []byte("Username:"), false, nil
	case l.username == nil:
		l.username = &text
		return []byte("Password:"), false, nil
	}
	return nil, true, l.check(*l.username, text)
}

// read reads a mail as the program of a recipient would.
func read(r io.Reader) (d Delivery, err error) {
	m, err := mail.ReadMessage(r)
	if err != nil {
		return d, err
	}
	for _, name := range []string{"From", "To", "Date", "Message-Id", "Mime-Version", "Subject", email.HeaderKey} {
		if n := len(m.Header[textproto.CanonicalMIMEHeaderKey(name)]); n != 1 {
			return d, fmt.Errorf("it has %d of %s", n, name)
		}
	}
	d.Header, d.Key = m.Header, m.Header.Get(email.HeaderKey)
	d.Event, d.Severity = m.Header.Get(email.HeaderEvent), m.Header.Get(email.HeaderSeverity)
	if d.Subject, err = new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject")); err != nil {
		return d, err
	}
	return d, d.part(textproto.MIMEHeader(m.Header), m.Body)
}

// part reads text, HTML, or several parts that each are either.
func (d *Delivery) part(h textproto.MIMEHeader, body io.Reader) error {
	kind, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return err
	}
	if kind == "multipart/alternative" {
		for parts := multipart.NewReader(body, params["boundary"]); ; {
			p, err := parts.NextRawPart()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err == nil {
				err = d.part(p.Header, p)
			}
			if err != nil {
				return err
			}
		}
	}
	if h.Get("Content-Transfer-Encoding") == "quoted-printable" {
		body = quotedprintable.NewReader(body)
	}
	raw, err := io.ReadAll(body)
	text := strings.ReplaceAll(string(raw), "\r\n", "\n")
	switch kind {
	case "text/plain":
		d.Text = text
	case "text/html":
		d.HTML = text
	default:
		return fmt.Errorf("it has a part of %s", kind)
	}
	return err
}
