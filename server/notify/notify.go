// Package notify is the contract of channels, which tell people and programs
// outside of what happens.
package notify

import (
	"context"
	"encoding/json"
	"net"
	"regexp"
	"time"

	"certctl/server/connector"
	"certctl/server/fault"
)

// A Channel delivers messages to one place.
type Channel interface {
	// Send delivers a message. A fault whose kind says that the same call cannot
	// succeed later is final; every other error has the message sent again, under
	// the same key. Send honours its context.
	Send(ctx context.Context, m Message) error

	// Test says what keeps the channel from delivering. It delivers nothing.
	Test(ctx context.Context) error
}

// A Message is what there is to tell, for people and for programs.
type Message struct {
	Key      string          // the same whenever the message is sent; receivers know a repetition by it
	Event    string          // what happened, as in "cert.expiring"
	Severity string          // how bad it is
	At       time.Time       // when it happened
	Subject  string          // one line
	Text     string          // plain text
	HTML     string          // the same for those who would rather see it; may be empty
	Data     json.RawMessage // the same for programs: a JSON object
	To       []string        // mail addresses of those whom it concerns, beside the channel's own
	Done     []string        // of all these addresses, those that have it already, as Partly named them
}

// Type is a type of channel.
type Type = connector.Type[Channel]

// Registry opens channels from their rows.
type Registry = connector.Registry[Channel]

// NewRegistry returns a registry of channels of the types, which connect by
// dial.
func NewRegistry(types []Type, dial func(ctx context.Context, network, address string) (net.Conn, error)) *Registry {
	return connector.NewRegistry("channel", types, connector.Env{Dial: dial})
}

// Declare returns the type of the channels that open returns.
func Declare[C any](name, does string, open func(C, connector.Env) (Channel, error)) Type {
	return connector.Declare(name, does, []string{}, open, nil)
}

// Later is the error of a receiver that says how long not to send to it. It is
// an error like its cause otherwise, and is not final.
type Later struct {
	After time.Duration
	Err   error
}

func (l *Later) Error() string { return l.Err.Error() }

// Unwrap returns the cause.
func (l *Later) Unwrap() error { return l.Err }

// Partly is the error of a message that some of several recipients have, and
// others have not. It is an error like its cause otherwise: one that is final says
// that the others will not get it, any other that they may, later.
type Partly struct {
	Done []string // addresses of those who have it now, and did not before
	Err  error
}

func (p *Partly) Error() string { return p.Err.Error() }

// Unwrap returns the cause.
func (p *Partly) Unwrap() error { return p.Err }

// Check refuses, for good, a message that cannot be told to anybody as it is.
func (m Message) Check() error {
	if !key.MatchString(m.Key) {
		return fault.New(fault.Invalid, "the key of the message is not 1 to 128 letters, digits, dots, dashes and underscores")
	}
	var object map[string]json.RawMessage
	if len(m.Data) > 0 && json.Unmarshal(m.Data, &object) != nil {
		return fault.New(fault.Invalid, "the data of the message are no JSON object")
	}
	return nil
}

var key = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)
