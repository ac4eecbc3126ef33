package evidence

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"certctl/server/api"
)

// A Finding is a question that an audit asked, and what answers it.
type Finding struct {
	ID       string
	Severity string
	Question string
	Before   string // what the audit found
	After    string // what is so now

	// Claims are those whose receipts have to hold.
	Claims []*Statement

	// Contract is what the first round asked about, by its names there. A row that
	// is not declared here is not built.
	Contract func(api.Declared) []ContractRow

	// Wrong says why the audit was wrong, if it was. Claims show it.
	Wrong string

	// Deferred says why what is not built keeps the finding open, and until when
	// that may be so.
	Deferred Deferral
}

// A Deferral has a reason and an end.
type Deferral struct {
	Reason string
	Until  string // a date, as in 2006-01-02
}

// A ContractRow is one thing that the first round asked about.
type ContractRow struct {
	Name  string `json:"name"`
	Built bool   `json:"built"`
}

// Findings returns every finding, in the order of the packet.
func Findings() []*Finding { return findings.Rows() }

// A FindingState is what has become of a finding.
type FindingState string

// The states. A finding is computed to be in one of them; nobody sets it.
const (
	FindingOpen      FindingState = "open"           // a receipt does not hold, and never all did, or one proves nothing
	FindingClosed    FindingState = "closed"         // every receipt holds
	FindingDeferred  FindingState = "deferred"       // every receipt holds, and a row of the contract is not built
	FindingFalsified FindingState = "falsified"      // it was closed, deferred or wrong, and a receipt turned false
	FindingWrong     FindingState = "verified-false" // the audit was wrong, for the reason that the row has
	FindingUnknown   FindingState = "unknown"        // a receipt says nothing
)

// FindingsFile is where the packet has the history of findings.
const FindingsFile = "data/findings.json"

// History is what packets said of findings, the oldest first: an entry whenever a
// state changed.
type History []Turn

// A Turn is a change of a finding's state.
type Turn struct {
	Finding string       `json:"finding"`
	State   FindingState `json:"state"`
	Commit  string       `json:"commit"`
	At      time.Time    `json:"at"`
	Why     string       `json:"why"`
}

// last returns the newest state that a finding had.
func (h History) last(id string) FindingState {
	for _, t := range slices.Backward(h) {
		if t.Finding == id {
			return t.State
		}
	}
	return ""
}

// held reports whether a finding ever was closed, deferred or wrong.
func (h History) held(id string) bool {
	return slices.ContainsFunc(h, func(t Turn) bool {
		return t.Finding == id && (t.State == FindingClosed || t.State == FindingDeferred || t.State == FindingWrong)
	})
}

// Note returns the history with the states that the receipts give.
func (h History) Note(about About, d api.Declared, receipts []Receipt) History {
	h = slices.Clone(h)
	for _, f := range findings.Rows() {
		a := f.answer(h, about.BuiltAt, d, receipts)
		if h.last(f.ID) != a.State {
			h = append(h, Turn{f.ID, a.State, about.Commit, about.BuiltAt, a.Why})
		}
	}
	return h
}

// An Answer is a finding with its state.
type Answer struct {
	*Finding
	State    FindingState
	Why      string
	Receipts []Receipt
	Missing  []string // rows of the contract that are not built
	Rows     []ContractRow
}

// answer computes the state of a finding.
func (f *Finding) answer(h History, now time.Time, d api.Declared, receipts []Receipt) Answer {
	a := Answer{Finding: f}
	var untrue, hollow, unsure []string
	for _, s := range f.Claims {
		at := slices.IndexFunc(receipts, func(r Receipt) bool { return r.Claim.ID == s.ID })
		if at < 0 {
			unsure = append(unsure, s.ID+" has no receipt")
			continue
		}
		r := receipts[at]
		a.Receipts = append(a.Receipts, r)
		switch r.Verdict {
		case True:
		case False:
			untrue = append(untrue, s.ID+" is false: "+r.Reason)
		case Vacuous:
			hollow = append(hollow, s.ID+" is vacuous: "+r.Reason)
		case Unknown, Skipped, Stale:
			unsure = append(unsure, s.ID+" is "+string(r.Verdict)+": "+r.Reason)
		}
	}
	if f.Contract != nil {
		a.Rows = f.Contract(d)
		for _, row := range a.Rows {
			if !row.Built {
				a.Missing = append(a.Missing, row.Name)
			}
		}
	}
	late := f.Deferred.Until != "" && now.UTC().Format(time.DateOnly) > f.Deferred.Until
	switch {
	case len(untrue) > 0 && h.held(f.ID):
		a.State, a.Why = FindingFalsified, strings.Join(untrue, "; ")
	case len(untrue) > 0:
		a.State, a.Why = FindingOpen, strings.Join(untrue, "; ")
	case len(hollow) > 0:
		a.State, a.Why = FindingOpen, strings.Join(hollow, "; ")
	case len(unsure) > 0:
		a.State, a.Why = FindingUnknown, strings.Join(unsure, "; ")
	case f.Wrong != "":
		a.State, a.Why = FindingWrong, f.Wrong
	case len(a.Missing) > 0 && (f.Deferred.Until == "" || late):
		a.State, a.Why = FindingOpen, "not built: "+strings.Join(a.Missing, ", ")
		if late {
			a.Why += "; it was deferred until " + f.Deferred.Until
		}
	case len(a.Missing) > 0:
		a.State = FindingDeferred
		a.Why = fmt.Sprintf("not built: %s; %s, until %s", strings.Join(a.Missing, ", "), f.Deferred.Reason, f.Deferred.Until)
	default:
		a.State = FindingClosed
	}
	return a
}

// Answers computes the state of every finding from what a packet has.
func Answers(packet fs.FS, receipts []Receipt) ([]Answer, error) {
	declared, err := load[api.Declared](packet, DeclaredFile)
	if err != nil {
		return nil, err
	}
	about, err := load[About](packet, AboutFile)
	if err != nil {
		return nil, err
	}
	history, err := ReadHistory(packet)
	if err != nil {
		return nil, err
	}
	var answers []Answer
	for _, f := range findings.Rows() {
		answers = append(answers, f.answer(history, about.BuiltAt, declared, receipts))
	}
	return answers, nil
}

// ReadHistory reads what a packet has of earlier packets; nothing if it has none.
func ReadHistory(packet fs.FS) (History, error) {
	h, err := load[History](packet, FindingsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return h, err
}

// findingPage is the closure record of a finding.
func findingPage(a Answer, h History) []byte {
	p := &page{}
	p.title(a.ID + ": " + text(a.Question))
	state := "**" + string(a.State) + "**"
	if a.Why != "" {
		state += " (" + text(a.Why) + ")"
	}
	p.list([]string{"state: " + state, "severity: " + a.Severity})
	if broken := a.broken(); len(broken) > 0 {
		p.heading("What broke it")
		p.grid([]string{"claim", "check", "declared", "seen"}, broken)
	}
	p.heading("Before and after")
	p.list([]string{"What the audit found: " + text(a.Before), "What is so now: " + text(a.After)})
	if len(a.Receipts) > 0 {
		p.heading("Receipts")
		var rows [][]string
		var symbols []string
		for _, r := range a.Receipts {
			rows = append(rows, []string{
				link(text(r.Claim.Says), "../"+r.File()), string(r.Verdict), fmt.Sprintf("%d of %d", red(r.Controls), len(r.Controls)),
				code("bin/audit-packet replay " + r.Claim.ID),
			})
			symbols = append(symbols, r.Claim.Symbols...)
		}
		p.grid([]string{"claim", "verdict", "controls red", "look again"}, rows)
		slices.Sort(symbols)
		p.paragraph("Code: " + codes(slices.Compact(symbols), none) + ".")
	}
	if cited := a.tests(); len(cited) > 0 {
		p.heading("Tests")
		p.paragraph("A test counts if it ran for the code of this packet, was not skipped, passed, and holds something that can fail.")
		p.tests(cited)
	}
	if len(a.Rows) > 0 {
		p.heading("What was asked about")
		var rows [][]string
		for _, r := range a.Rows {
			state := "built"
			if !r.Built {
				state = "skipped: not built"
			}
			rows = append(rows, []string{text(r.Name), state})
		}
		p.grid([]string{"in the first round", "here"}, rows)
	}
	p.heading("History")
	var rows [][]string
	for _, t := range h {
		if t.Finding == a.ID {
			rows = append(rows, []string{t.At.UTC().Format(time.RFC3339), string(t.State), text(t.Why), code(t.Commit)})
		}
	}
	p.grid([]string{"at", "state", "why", "commit"}, rows)
	if a.State == FindingClosed {
		p.printf("```\nAudit-Closes: %s\n```\n", a.ID)
	}
	return []byte(strings.TrimRight(p.String(), "\n") + "\n")
}

// broken are the checks and the cited tests that make a receipt false.
func (a Answer) broken() (rows [][]string) {
	for _, r := range a.Receipts {
		if r.Verdict != False {
			continue
		}
		claim := link(code(r.Claim.ID), "../"+r.File())
		for _, c := range r.Checks {
			if !c.Holds() {
				rows = append(rows, []string{claim, text(c.What), text(c.Want), text(c.Got)})
			}
		}
		for _, t := range r.Tests {
			if t.Verdict == False {
				rows = append(rows, []string{claim, code(t.String()), string(TestPassed), string(t.Outcome)})
			}
		}
	}
	return rows
}

// tests are those that the receipts of a finding cite, each once.
func (a Answer) tests() (all []Cited) {
	for _, r := range a.Receipts {
		for _, t := range r.Tests {
			if !slices.Contains(all, t) {
				all = append(all, t)
			}
		}
	}
	return all
}

// red counts the controls that turned red for their reason.
func red(controls []Control) (n int) {
	for _, c := range controls {
		if c.Holds() {
			n++
		}
	}
	return n
}

// File is where the packet has the closure record of a finding.
func (f *Finding) File() string { return "findings/" + slug(f.ID) + ".md" }

// findings are the findings on the first page.
func (p *page) findings(answers []Answer) {
	p.heading("Findings")
	p.paragraph("What the first audit asked. A state is computed from the receipts; a finding whose receipt turns false is falsified by itself.")
	var rows [][]string
	for _, a := range answers {
		rows = append(rows, []string{link(a.ID, a.File()), a.Severity, text(a.Question), string(a.State), text(a.Why)})
	}
	p.grid([]string{"finding", "severity", "question", "state", "why"}, rows)
}
