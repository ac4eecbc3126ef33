package outbox

import "certctl/server/table"

// A Severity is how bad an event is.
type Severity struct {
	Name string `json:"name"`
	Does string `json:"does"` // what it asks of whoever reads it
}

var severities = table.By(func(s *Severity) string { return s.Name })

// Severities returns every severity, the least severe first.
func Severities() []*Severity { return severities.Rows() }

// SeverityNamed returns the severity with the given name.
func SeverityNamed(name string) (*Severity, bool) { return severities.Row(name) }

// The severities, by how bad they are; the database's function severity_rank
// has them in the same order.
var (
	Informational = severity("informational", "It is good to know, and asks for nothing.")
	Warning       = severity("warning", "It asks for something before long.")
	Critical      = severity("critical", "Something does not work, or is about to stop working.")
)

func severity(name, does string) *Severity { return severities.Add(&Severity{name, does}) }

// An Event is a kind of thing that there is to tell.
type Event struct {
	Name     string `json:"name"`
	Does     string `json:"does"`     // what has happened
	Severity string `json:"severity"` // how bad it is, in words
}

var events = table.By(func(e *Event) string { return e.Name })

// Events returns every event, in declaration order.
func Events() []*Event { return events.Rows() }

// The events.
var (
	CertExpiring = event("cert.expiring", "An active certificate has come within a number of days of its end that its policy warns of.",
		"that which the policy gives the number of days")
	CertExpired = event("cert.expired", "A certificate has ended and was not renewed: the warning of 0 days.",
		"that which the policy gives to 0 days")
	RenewalSucceeded = event("renewal.succeeded", "A certificate was renewed.", Informational.Name)
	RenewalFailed    = event("renewal.failed", "A certificate could not be renewed, and no attempt is left for now. Attempts that are followed by another are not told.",
		Critical.Name)
	CertRevoked = event("cert.revoked", "Versions of a certificate were revoked, for good or for the time being.",
		Critical.Name+" for a reason that says that a key is in other hands, "+Warning.Name+" for any other")
	Digest = event("digest", "What there is of certificates, and what has become of them since the digest before.", Informational.Name)
)

func event(name, does, severity string) *Event { return events.Add(&Event{name, does, severity}) }

// A State is where a notification is in its life.
type State struct {
	Name  string   `json:"name"`
	Does  string   `json:"does"`  // what is so in this state
	Moves []string `json:"moves"` // names of the states that may follow; the database refuses others
}

var states = table.By(func(s *State) string { return s.Name })

// States returns every state, in the order of a life.
func States() []*State { return states.Rows() }

// The states.
var (
	Pending = state("pending", "It waits for a replica to send it, or for its channel to be enabled.",
		"sending", "dead", "withdrawn")
	Sending = state("sending", "A replica sends it, under a lease. Where the lease runs out, nobody knows whether it arrived, and it is sent again under the same key.",
		"sent", "failed", "dead", "pending")
	Failed = state("failed", "Its last attempt failed; it is queued again at its time.",
		"pending", "dead", "withdrawn")
	Sent    = state("sent", "Its receiver has taken it.")
	GivenUp = state("dead", "It is not sent any more: its last attempt failed, its receiver refused it for good, or its channel is gone. A caller can queue it again.",
		"pending")
	Withdrawn = state("withdrawn", "It warns of the end of a version, and that is no longer so: the certificate was renewed, revoked or archived before it was sent.")
)

func state(name, does string, moves ...string) *State { return states.Add(&State{name, does, moves}) }
