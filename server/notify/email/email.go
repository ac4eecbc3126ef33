// Package email is a channel to people, by SMTP.
package email

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/mail"
	"net/netip"
	"regexp"
	"strings"

	"certctl/server/connector"
	"certctl/server/fault"
	"certctl/server/notify"
	"certctl/server/outbound"
)

// Type is the type of these channels.
var Type = notify.Declare("email", "Sends mail to people, as text and HTML, through a mail server.", open)

// Settings are the settings of a channel.
type Settings struct {
	Host     string   `json:"host" maxLength:"253" doc:"of the mail server, a name or an address"`
	Port     int      `json:"port" default:"587" minimum:"1" maximum:"65535" doc:"of the mail server; 465 is usual for tls"`
	Security security `json:"security" default:"starttls" doc:"starttls has to be offered by the server, tls is from the first byte, none takes no credentials"`
	Username string   `json:"username" maxLength:"320" doc:"whom the channel signs in as; it does not without one"`
	Password string   `json:"password" maxLength:"1024" secret:"true" doc:"of the user"`
	From     string   `json:"from" maxLength:"320" doc:"address of the sender, behind a name if need be: Certctl <certctl@example.com>"`
	To       []string `json:"to" doc:"addresses of those who get every mail of the channel, at most 50"`
	CA       string   `json:"ca" maxLength:"65536" doc:"authorities that the server's certificate may be from beside the public ones, in PEM"`
	Timeout  int      `json:"timeout_seconds" default:"30" minimum:"1" maximum:"300" doc:"how long a mail may take; no longer than three quarters of CERTCTL_NOTIFICATION_LEASE"`
}

type security string

const (
	startTLS security = "starttls"
	implicit security = "tls"
	none     security = "none"
)

func (security) Values() []string { return []string{string(startTLS), string(implicit), string(none)} }

// Channel is a channel that is open.
type Channel struct {
	s     Settings
	from  *mail.Address
	to    []*mail.Address
	trust *tls.Config
	dial  outbound.Dial
}

const maxTo = 50

func open(s Settings, env connector.Env) (notify.Channel, error) {
	if env.Dial == nil {
		return nil, errors.New("there is nothing to connect with")
	}
	c := &Channel{s: s, dial: env.Dial}
	var problems []string
	if _, err := netip.ParseAddr(s.Host); err != nil && !host.MatchString(s.Host) {
		problems = append(problems, "body.settings.host is no name of a host; give that of the mail server in ASCII, without a port")
	}
	if s.Security == none && s.Username+s.Password != "" {
		problems = append(problems, "body.settings.security is none, which would show the password to everybody on the way; give starttls or tls, or no credentials")
	}
	if (s.Username == "") != (s.Password == "") {
		problems = append(problems, "body.settings.username and body.settings.password are not both there; give both or none")
	}
	var ok bool
	if c.from, ok = notify.Address(s.From); !ok {
		problems = append(problems, "body.settings.from is not one address in ASCII; give one such as Certctl <certctl@example.com>")
	}
	for i, text := range s.To {
		to, ok := notify.Address(text)
		if !ok {
			problems = append(problems, fmt.Sprintf("body.settings.to[%d] is not one address in ASCII; give one such as team@example.com", i))
		}
		c.to = append(c.to, to)
	}
	if len(s.To) > maxTo {
		problems = append(problems, fmt.Sprintf("body.settings.to has more than %d addresses; give the address of a list", maxTo))
	}
	trust, err := outbound.Trust(s.CA, "body.settings.ca")
	if err != nil {
		problems = append(problems, err.Error())
	}
	if len(problems) > 0 {
		return nil, fault.New(fault.Invalid, "%s", strings.Join(problems, "; "))
	}
	trust.ServerName = s.Host
	c.trust = trust
	return c, nil
}

var host = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)
