package email

import (
	"bytes"
	"net/mail"
	"strings"

	gomail "github.com/wneessen/go-mail"

	"certctl/server/notify"
)

// The headers by which programs know a mail: the key of the message, what
// happened, and how bad it is.
const (
	HeaderKey      = "X-Certctl-Idempotency-Key"
	HeaderEvent    = "X-Certctl-Event"
	HeaderSeverity = "X-Certctl-Severity"
)

// recipients are those of the channel and of a message, each once, and how many
// addresses of the message are none.
func (c *Channel) recipients(more []string) (all []*mail.Address, bad int) {
	seen := map[string]bool{}
	add := func(a *mail.Address) {
		if folded := strings.ToLower(a.Address); !seen[folded] {
			seen[folded] = true
			all = append(all, a)
		}
	}
	for _, a := range c.to {
		add(a)
	}
	for _, text := range more {
		if a, ok := notify.Address(text); ok {
			add(a)
		} else {
			bad++
		}
	}
	return all, bad
}

// mail writes a message as RFC 5322 has it. Its identifier is made of the key,
// so that mail programs know a repetition.
func (c *Channel) mail(m notify.Message, to []*mail.Address) ([]byte, error) {
	g := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	g.FromMailAddress(c.from)
	g.ToMailAddress(to...)
	g.Subject(notify.Line(m.Subject))
	_, domain, _ := strings.Cut(c.from.Address, "@")
	g.SetMessageIDWithValue(m.Key + "@" + domain)
	g.SetDate()
	g.SetGenHeader(HeaderKey, m.Key)
	for name, word := range map[gomail.Header]string{HeaderEvent: m.Event, HeaderSeverity: m.Severity} {
		if word != "" {
			g.SetGenHeader(name, word)
		}
	}
	g.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834: nobody's absence answers it
	g.SetBodyString(gomail.TypeTextPlain, m.Text)
	if m.HTML != "" {
		g.AddAlternativeString(gomail.TypeTextHTML, m.HTML)
	}
	var b bytes.Buffer
	_, err := g.WriteTo(&b)
	return b.Bytes(), err
}
