package alerts

import (
	"encoding/json"
	"fmt"
	"time"

	"certctl/server/cert"
	"certctl/server/store"
)

// digest writes the letter of a digest.
func digest(data json.RawMessage, l *letter) error {
	var d store.Digest
	if err := json.Unmarshal(data, &d); err != nil {
		return fmt.Errorf("data of the digest: %w", err)
	}
	l.Subject = fmt.Sprintf("Certificates on %s: %s, %s", day(d.Until),
		count(d.EndingTotal, "ends", "end")+fmt.Sprintf(" within %d days", store.EndingWithin), count(d.FailedTotal, "renewal failed", "renewals failed"))
	l.Title = "Certificates on " + day(d.Until)
	since := "since the digest before"
	if d.First {
		since = "before that"
	}
	l.Says = []string{fmt.Sprintf("What there is of certificates on %s, and what has become of them in the %s %s.",
		moment(d.Until), span(d.Until.Sub(d.Since)), since)}
	l.add("renewed", count(d.Renewed, "version", "versions"))
	l.add("renewals failed", fmt.Sprint(d.FailedTotal))
	l.add("revoked", count(d.RevokedTotal, "version", "versions"))
	l.add("not delivered", count(d.DeadTotal, "notification", "notifications"))
	l.Foot = "certctl sends this digest because the channel asks for it; clear the channel's digest to have no more."

	states := section{Heading: "Certificates by state", Head: []string{"state", "certificates", ""}}
	for _, s := range cert.States() {
		if n := d.States[s.Name]; n > 0 {
			states.Rows = append(states.Rows, []string{s.Name, fmt.Sprint(n), s.Does})
		}
	}
	if states.Rows == nil {
		states.Note = "There is none."
	}

	ending := section{
		Heading: fmt.Sprintf("Ending within %d days", store.EndingWithin), Head: []string{"certificate", "ends", "left", "renewed by itself", "owner"},
		Note: rest(d.EndingTotal, len(d.Ending)),
	}
	for _, c := range d.Ending {
		by := "no"
		if c.AutoRenew {
			by = "yes"
		}
		ending.Rows = append(ending.Rows, []string{c.Name, day(c.NotAfter), left(c.NotAfter, d.Until), by, c.Owner})
	}
	failed := section{Heading: "Renewals that failed", Head: []string{"certificate", "error"}, Note: rest(d.FailedTotal, len(d.Failed))}
	for _, f := range d.Failed {
		failed.Rows = append(failed.Rows, []string{f.Name, f.Error})
	}
	revoked := section{Heading: "Revoked", Head: []string{"certificate", "reason"}}
	if len(d.Revoked) == Rows {
		revoked.Note = fmt.Sprintf("The newest %d; %s in all.", Rows, count(d.RevokedTotal, "version", "versions"))
	}
	for _, r := range d.Revoked {
		name := fmt.Sprint(r.Reason)
		if reason, ok := cert.ReasonOf(r.Reason); ok {
			name = reason.Name
		}
		revoked.Rows = append(revoked.Rows, []string{r.Name, name})
	}
	dead := section{Heading: "Not delivered", Head: []string{"channel", "notifications", "the last error"}}
	for _, u := range d.Dead {
		dead.Rows = append(dead.Rows, []string{u.Channel, fmt.Sprint(u.Count), u.Error})
	}
	l.Sections = append(l.Sections, ending)
	for _, s := range []section{failed, revoked, dead} {
		if len(s.Rows) > 0 {
			l.Sections = append(l.Sections, s)
		}
	}
	if len(ending.Rows) == 0 {
		l.Sections[0].Note = "None does."
	}
	l.Sections = append(l.Sections, states)
	return nil
}

func left(end, at time.Time) string {
	if d := end.Sub(at); d > 0 {
		return span(d)
	}
	return "none"
}

// rest says how many rows are not shown.
func rest(total int64, shown int) string {
	if more := total - int64(shown); more > 0 {
		return fmt.Sprintf("and %d more", more)
	}
	return ""
}
