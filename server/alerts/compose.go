package alerts

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"certctl/server/cert"
	"certctl/server/outbox"
)

// told is what a row tells of a certificate.
type told struct {
	Certificate struct {
		ID          string     `json:"id"`
		Name        string     `json:"name"`
		SANs        []string   `json:"sans"`
		Environment string     `json:"environment"`
		Version     int        `json:"version"`
		Serial      string     `json:"serial"`
		NotAfter    time.Time  `json:"not_after"`
		RenewAt     *time.Time `json:"renew_at"`
	} `json:"certificate"`
	Owner  string `json:"owner"`
	Team   string `json:"team"`
	Issuer string `json:"issuer"`
	Policy string `json:"policy"`

	// Of one that comes near its end.
	AutoRenew bool   `json:"auto_renew"`
	LastError string `json:"last_error"`
	// Of a renewal that failed.
	Job   string `json:"job"`
	Error string `json:"error"`
	// Of a revocation.
	Reason  string   `json:"reason"`
	Held    bool     `json:"held"`
	Serials []string `json:"serials"`

	at  time.Time // when it happened
	now time.Time
}

// writers write the letter of an event of a certificate.
var writers = map[*outbox.Event]func(told, *letter){
	outbox.CertExpiring:     expiring,
	outbox.CertExpired:      expired,
	outbox.RenewalSucceeded: renewed,
	outbox.RenewalFailed:    notRenewed,
	outbox.CertRevoked:      revoked,
}

// Compose returns what is said now of an event that happened at a time, to whose
// row data belong.
func Compose(event, severity string, at, now time.Time, data json.RawMessage) (Words, error) {
	l, err := compose(event, severity, at, now, data)
	if err != nil {
		return Words{}, err
	}
	return l.words()
}

// Subject is the subject that Compose gives.
func Subject(event, severity string, at, now time.Time, data json.RawMessage) (string, error) {
	l, err := compose(event, severity, at, now, data)
	if err != nil {
		return "", err
	}
	return l.subject(), nil
}

func compose(event, severity string, at, now time.Time, data json.RawMessage) (*letter, error) {
	l := &letter{Severity: severity}
	if event == outbox.Digest.Name {
		return l, digest(data, l)
	}
	for e, write := range writers {
		if e.Name != event {
			continue
		}
		t := told{at: at, now: now}
		if err := json.Unmarshal(data, &t); err != nil {
			return nil, fmt.Errorf("data of the notification: %w", err)
		}
		l.Foot = fmt.Sprintf("certctl tells you of this because the renewal policy %s names this channel.", t.Policy)
		write(t, l)
		t.facts(l)
		return l, nil
	}
	return nil, fmt.Errorf("the event %s is not known to this version", event)
}

func (t told) facts(l *letter) {
	c := t.Certificate
	l.add("certificate", c.Name)
	var names []string
	for _, n := range c.SANs {
		names = append(names, strings.TrimPrefix(n, "dns:"))
	}
	l.add("names", strings.Join(names, ", "))
	l.add("ends", moment(c.NotAfter))
	l.add("version", strconv.Itoa(c.Version))
	l.add("serial number", c.Serial)
	l.add("issuer", t.Issuer)
	l.add("owner", t.Owner)
	l.add("team", t.Team)
	l.add("environment", c.Environment)
	l.add("id", c.ID)
}

func expiring(t told, l *letter) {
	c := t.Certificate
	if !c.NotAfter.After(t.now) { // it was sent late
		expired(t, l)
		return
	}
	left := span(c.NotAfter.Sub(t.now))
	l.Subject = fmt.Sprintf("Certificate %s ends in %s, on %s", c.Name, left, day(c.NotAfter))
	l.Says = append(l.Says, fmt.Sprintf("The certificate %s ends in %s, on %s, and has not been renewed.", c.Name, left, moment(c.NotAfter)))
	switch {
	case !t.AutoRenew:
		l.Says = append(l.Says, fmt.Sprintf("Nothing renews it by itself: its renewal policy %s says so.", t.Policy))
		l.Do = "renew it before it ends, or archive it if it is no longer needed."
	case t.LastError != "":
		l.Says = append(l.Says, "Its last job failed: "+sentence(t.LastError))
		l.Do = "remove what the job failed of, and renew the certificate before it ends."
	case c.RenewAt != nil && c.RenewAt.After(t.now):
		l.Says = append(l.Says, fmt.Sprintf("It is to be renewed by itself on %s.", moment(*c.RenewAt)))
		l.Do = "nothing, unless that fails."
	default:
		l.Says = append(l.Says, "Its renewal is due and has not succeeded yet.")
		l.Do = "look at the jobs of the certificate: they say what the renewal waits for."
	}
}

func expired(t told, l *letter) {
	c := t.Certificate
	l.Subject = fmt.Sprintf("Certificate %s has ended, on %s", c.Name, day(c.NotAfter))
	l.Says = append(l.Says, fmt.Sprintf("The certificate %s ended on %s and was not renewed. Whoever checks it refuses it now.", c.Name, moment(c.NotAfter)))
	if t.LastError != "" {
		l.Says = append(l.Says, "Its last job failed: "+sentence(t.LastError))
	}
	l.Do = "renew it and put the new version in place, or archive it if it is no longer needed."
}

func renewed(t told, l *letter) {
	c := t.Certificate
	l.Subject = fmt.Sprintf("Certificate %s was renewed until %s", c.Name, day(c.NotAfter))
	l.Says = append(l.Says, fmt.Sprintf("The certificate %s was renewed: version %d is valid until %s.", c.Name, c.Version, moment(c.NotAfter)))
	l.Do = "put the new version in place, where nothing does so by itself, before the one before it ends."
}

func notRenewed(t told, l *letter) {
	c := t.Certificate
	l.Subject = fmt.Sprintf("Certificate %s could not be renewed", c.Name)
	l.Says = append(l.Says, fmt.Sprintf("The certificate %s could not be renewed, and no attempt is left. The last one failed: %s", c.Name, sentence(t.Error)))
	if left := c.NotAfter.Sub(t.now); left > 0 {
		l.Says = append(l.Says, fmt.Sprintf("It ends in %s, on %s.", span(left), moment(c.NotAfter)))
	} else {
		l.Says = append(l.Says, fmt.Sprintf("It ended on %s. Whoever checks it refuses it.", moment(c.NotAfter)))
	}
	l.Do = "remove the cause, and renew the certificate."
	if c.RenewAt != nil {
		l.Do = fmt.Sprintf("remove the cause. It is tried again from %s on; renew the certificate to have it tried at once.", moment(*c.RenewAt))
	}
	l.add("job", t.Job)
}

func revoked(t told, l *letter) {
	c := t.Certificate
	what := "revoked"
	if t.Held {
		what = "put on hold"
	}
	l.Subject = fmt.Sprintf("Certificate %s was %s (%s)", c.Name, what, t.Reason)
	switch {
	case len(t.Serials) != 1:
		l.Says = append(l.Says, fmt.Sprintf("%d versions of the certificate %s were %s on %s. Whoever checks revocation refuses them.", len(t.Serials), c.Name, what, moment(t.at)))
	case t.Serials[0] == c.Serial:
		l.Says = append(l.Says, fmt.Sprintf("The certificate %s was %s on %s. Whoever checks revocation refuses it.", c.Name, what, moment(t.at)))
	default:
		l.Says = append(l.Says, fmt.Sprintf("A version of the certificate %s that is not the current one was %s on %s. Whoever checks revocation refuses it.", c.Name, what, moment(t.at)))
	}
	if r, ok := cert.ReasonNamed(t.Reason); ok {
		l.Says = append(l.Says, fmt.Sprintf("The reason is %s. %s", r.Name, r.Does))
	}
	switch {
	case t.Held:
		l.Do = "find out whether it can be trusted; then release it, or revoke it for good."
	case t.Reason == cert.KeyCompromise.Name:
		l.Do = "stop using its key wherever it is in use, and ask for a certificate with a new one."
	default:
		l.Do = "put another certificate in its place wherever it is still in use."
	}
	l.add("revoked", strings.Join(t.Serials, ", "))
}

// sentence ends a text with a full stop.
func sentence(s string) string {
	s = strings.TrimSpace(s)
	if s == "" || strings.ContainsAny(s[len(s)-1:], ".!?") {
		return s
	}
	return s + "."
}
