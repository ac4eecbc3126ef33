package evidence

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"certctl/server/api"
)

// An Observation is what a probe stored: what it saw of the system, and of the
// same system with known defects. It is never edited.
type Observation struct {
	Claim    string               `json:"claim"`
	SeenAt   time.Time            `json:"seen_at"`
	Skipped  string               `json:"skipped,omitempty"` // why nothing was looked at
	Failed   string               `json:"failed,omitempty"`  // why it could not be looked at
	Seen     json.RawMessage      `json:"seen,omitempty"`
	Controls []ControlObservation `json:"controls"`
	Tests    []TestRecord         `json:"tests,omitempty"` // those that the claim cites
}

// A ControlObservation is what a probe saw of a system with a known defect.
type ControlObservation struct {
	Defect string          `json:"defect"`
	Turns  []string        `json:"turns"`           // the checks that must turn red
	Again  bool            `json:"again,omitempty"` // it was done a second time, by itself: the first time it did not turn them
	Failed string          `json:"failed,omitempty"`
	Seen   json.RawMessage `json:"seen,omitempty"`
}

// About says which build was looked at, where and when.
type About struct {
	Commit          string    `json:"commit"`
	Version         string    `json:"version"`
	Code            string    `json:"code"` // hash of the source tree; empty if there was none
	BuiltAt         time.Time `json:"built_at"`
	Seed            uint64    `json:"seed"`
	Quick           bool      `json:"quick"` // each experiment once, with one fault
	DurationSeconds float64   `json:"duration_seconds"`
	Go              string    `json:"go"`
	Platform        string    `json:"platform"`
	CPUs            int       `json:"cpus"`
	Database        string    `json:"database"`
}

// The files of the packet that are not one per claim.
const (
	AboutFile    = "data/about.json"
	DeclaredFile = "data/declared.json"
	SummaryFile  = "summary.json"
	CoverFile    = "README.md"
	MatrixFile   = "kill-matrix.md"
)

// DataFile is where the packet has the observation of a claim.
func DataFile(claim string) string { return "data/" + slug(claim) + ".json" }

// Encode is the one form in which the packet stores v.
func Encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(v)
	return b.Bytes(), err
}

func load[T any](packet fs.FS, name string) (v T, err error) {
	raw, err := fs.ReadFile(packet, name)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return v, fmt.Errorf("%s: %w", name, err)
	}
	return v, nil
}

// Receipts judges every claim by the packet's observations: the same
// observations give the same receipts, on any machine.
func Receipts(packet fs.FS) ([]Receipt, error) {
	declared, err := load[api.Declared](packet, DeclaredFile)
	if err != nil {
		return nil, err
	}
	about, err := load[About](packet, AboutFile)
	if err != nil {
		return nil, err
	}
	var receipts []Receipt
	for _, s := range Statements() {
		o, err := load[Observation](packet, DataFile(s.ID))
		if errors.Is(err, fs.ErrNotExist) {
			o, err = Observation{Claim: s.ID, Failed: "the packet holds no observation of it"}, nil
		}
		if err != nil {
			return nil, err
		}
		receipts = append(receipts, s.Receipt(declared, about.Code, o))
	}
	return receipts, nil
}

// Receipt judges one observation of the claim, under the declarations of the build
// that was looked at, and the hash of its code.
func (s *Statement) Receipt(d api.Declared, code string, o Observation) Receipt {
	r := s.seen(d, o)
	r.Tests = cite(s.Tests, code, o.Tests)
	r.Verdict, r.Reason = with(r.Tests, r.Verdict, r.Reason)
	return r
}

// seen judges what was seen.
func (s *Statement) seen(d api.Declared, o Observation) Receipt {
	r := Receipt{Claim: s.Claim, SeenAt: o.SeenAt, Data: DataFile(s.ID)}
	switch {
	case o.Skipped != "":
		r.Verdict, r.Reason = Skipped, o.Skipped
		return r
	case o.Failed != "":
		r.Verdict, r.Reason = Unknown, o.Failed
		return r
	}
	var err error
	if r.Checks, err = s.Judge(d, o.Seen); err != nil {
		r.Verdict, r.Reason = Unknown, err.Error()
		return r
	}
	for _, c := range o.Controls {
		r.Controls = append(r.Controls, s.control(d, c))
	}
	r.Verdict, r.Reason = verdict(r.Checks, r.Controls)
	return r
}

// control judges a system with a defect exactly as the system without it.
func (s *Statement) control(d api.Declared, o ControlObservation) Control {
	c := Control{Defect: o.Defect, Turns: slices.Sorted(slices.Values(o.Turns)), Failed: o.Failed}
	if o.Failed != "" {
		return c
	}
	checks, err := s.Judge(d, o.Seen)
	if err != nil {
		c.Failed = err.Error()
		return c
	}
	for _, k := range checks {
		if !k.Holds() {
			c.Red = append(c.Red, k.What)
			c.Counts = append(c.Counts, k)
		}
	}
	slices.Sort(c.Red)
	return c
}

func verdict(checks []Check, controls []Control) (Verdict, string) {
	var differ []string
	for _, c := range checks {
		if !c.Holds() {
			differ = append(differ, c.What)
		}
	}
	switch {
	case len(differ) > 0:
		return False, "not as declared: " + strings.Join(differ, ", ")
	case len(checks) == 0:
		return Vacuous, "nothing was compared"
	case len(controls) == 0:
		return Vacuous, "no control shows that the probe can fail"
	}
	for _, c := range controls {
		if !c.Holds() {
			return Vacuous, "the control did not turn red for its reason: " + c.Defect
		}
	}
	return True, ""
}

// A Summary is the packet in figures.
type Summary struct {
	About
	Claims      map[Verdict]int `json:"claims"`
	Probes      int             `json:"probes"`
	Controls    int             `json:"controls"`
	ControlsRed int             `json:"controls_red"`

	Findings map[string]FindingState `json:"findings"`
}

// Summarise counts receipts, and says what has become of findings.
func Summarise(a About, receipts []Receipt, answers []Answer) Summary {
	s := Summary{About: a, Claims: map[Verdict]int{}, Findings: map[string]FindingState{}}
	for _, f := range answers {
		s.Findings[f.ID] = f.State
	}
	for _, r := range receipts {
		s.Claims[r.Verdict]++
		if len(r.Checks) > 0 {
			s.Probes++
		}
		for _, c := range r.Controls {
			s.Controls++
			if c.Holds() {
				s.ControlsRed++
			}
		}
	}
	return s
}

// RenderPacket renders every file of a packet that is a function of its data,
// by name.
func RenderPacket(packet fs.FS) (map[string][]byte, error) {
	about, err := load[About](packet, AboutFile)
	if err != nil {
		return nil, err
	}
	receipts, err := Receipts(packet)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, r := range receipts {
		files[r.File()] = receiptPage(r)
	}
	answers, err := Answers(packet, receipts)
	if err != nil {
		return nil, err
	}
	history, err := ReadHistory(packet)
	if err != nil {
		return nil, err
	}
	for _, a := range answers {
		files[a.File()] = findingPage(a, history)
	}
	summary := Summarise(about, receipts, answers)
	if files[SummaryFile], err = Encode(summary); err != nil {
		return nil, err
	}
	files[CoverFile] = coverPage(summary, receipts, answers)
	files[MatrixFile] = matrixPage(receipts)
	return files, nil
}

func receiptPage(r Receipt) []byte {
	p := &page{}
	p.title(text(r.Claim.Says))
	state := "**" + string(r.Verdict) + "**"
	if r.Reason != "" {
		state += " (" + text(r.Reason) + ")"
	}
	if !r.SeenAt.IsZero() {
		state += ", seen at " + r.SeenAt.UTC().Format(time.RFC3339)
	}
	p.list([]string{
		"claim: " + code(r.Claim.ID),
		"verdict: " + state,
		"observation: " + link(code(r.Data), "../"+r.Data),
		"code: " + codes(r.Claim.Symbols, none),
	})
	if len(r.Checks) > 0 {
		p.heading("Declared and seen")
		var rows [][]string
		for _, c := range r.Checks {
			mark := ""
			if !c.Holds() {
				mark = "**differs**"
			}
			rows = append(rows, []string{text(c.What), text(c.Want), text(c.Got), text(c.Measured), mark})
		}
		p.grid([]string{"what", "declared", "seen", "measured", "differs"}, rows)
	}
	if len(r.Controls) > 0 {
		p.heading("Controls")
		p.paragraph("The same experiment on a system with a known defect, which must turn exactly these checks red.")
		var rows [][]string
		for _, c := range r.Controls {
			mark := "red, for its reason"
			if !c.Holds() {
				mark = "**not red for its reason**"
			}
			if c.Failed != "" {
				mark += ": " + text(c.Failed)
			}
			rows = append(rows, []string{text(c.Defect), text(other(slices.Clone(c.Turns))), text(other(slices.Clone(c.Red))), mark})
		}
		p.grid([]string{"defect", "must turn red", "turned red", "so the control is"}, rows)
	}
	if len(r.Tests) > 0 {
		p.heading("Cited tests")
		p.paragraph("A test counts if it ran for this code, was not skipped, passed, and holds something that can fail.")
		p.tests(r.Tests)
	}
	return []byte(strings.TrimRight(p.String(), "\n") + "\n")
}

// matrixPage is what each defect did to the experiment that must notice it.
func matrixPage(receipts []Receipt) []byte {
	p := &page{}
	p.title("Kill matrix")
	p.paragraph("Each experiment, with each defect that it was shown: the checks that the defect must turn red, and how they came out. " +
		"An experiment that does not notice its defect proves nothing, and a defect that turns another check red was not understood.")
	for _, r := range receipts {
		if len(r.Controls) == 0 {
			continue
		}
		p.printf("## %s\n\n", link(code(r.Claim.ID), r.File()))
		var rows [][]string
		for _, c := range r.Controls {
			mark := "killed"
			if !c.Holds() {
				mark = "**not for its reason**"
			}
			counts := []string{}
			for _, k := range c.Counts[:min(len(c.Counts), 4)] {
				counts = append(counts, text(k.What)+": declared "+text(k.Want)+", seen "+text(k.Got))
			}
			if more := len(c.Counts) - len(counts); more > 0 {
				counts = append(counts, fmt.Sprintf("and %d more", more))
			}
			rows = append(rows, []string{text(c.Defect), fmt.Sprintf("%d of %d", len(c.Red), len(c.Turns)), strings.Join(counts, "; "), mark})
		}
		p.grid([]string{"defect", "checks red", "measured: how they came out", "so it is"}, rows)
	}
	return []byte(strings.TrimRight(p.String(), "\n") + "\n")
}

func coverPage(s Summary, receipts []Receipt, answers []Answer) []byte {
	p := &page{}
	p.title("Audit packet")
	p.paragraph("Sentences about certctl that could be false, and what was seen when it ran. Each leads to a receipt: what was declared " +
		"beside what was seen, the observation it was judged by, and controls, which are the same experiment on a system with a known defect.")
	p.paragraph("Check that no file was changed, and that the observations give these verdicts, without any network. The tool is built from the " +
		"code that the packet is about, with `make build`:")
	p.printf("```sh\nbin/audit-packet verify audit-packet\n```\n\n")
	p.findings(answers)
	p.heading("Claims")
	var rows [][]string
	for _, r := range receipts {
		rows = append(rows, []string{link(text(r.Claim.Says), r.File()), string(r.Verdict), text(r.Reason)})
	}
	p.grid([]string{"claim", "verdict", "why"}, rows)
	p.heading("What a verdict says")
	p.grid([]string{"verdict", "says"}, [][]string{
		{string(True), "everything seen is as declared, and each control turned exactly the checks red that its defect must"},
		{string(False), "something seen is not as declared"},
		{string(Unknown), "it could not be looked at, for the reason given"},
		{string(Skipped), "nothing was looked at, for the reason given"},
		{string(Vacuous), "nothing could have failed, or a control did not turn red for its reason"},
		{string(Stale), "what it depends on has moved on since"},
	})
	p.heading("What was looked at")
	p.grid([]string{"what", "value"}, [][]string{
		{"commit", code(s.Commit)},
		{"version", text(s.Version)},
		{"hash of the code", code(cmp.Or(s.Code, "no source tree was at hand"))},
		{"built at", s.BuiltAt.UTC().Format(time.RFC3339)},
		{"experiments", map[bool]string{true: "quick: each once, with one fault", false: "full"}[s.Quick]},
		{"seed", strconv.FormatUint(s.Seed, 10)},
		{"platform", text(fmt.Sprintf("%s, %s, %d CPUs, PostgreSQL %s", s.Platform, s.Go, s.CPUs, s.Database))},
		{"controls that turned red for their reason", fmt.Sprintf("%d of %d", s.ControlsRed, s.Controls)},
	})
	p.heading("What is not proven")
	p.list([]string{
		"The packet is not signed: its manifest shows damage, and does not show who made it.",
		"A verdict holds for the commit above, on the platform above. A commit that ends in dirty names no tree: files had been changed.",
		"A certificate that has expired is one whose row was moved into the past by hand: its leaf has not ended, and openssl is asked about that.",
		"A quick packet has each experiment once, with one fault; what its claims say of other faults, a full one has looked at.",
		"The tool that verifies comes from the code under audit.",
		"That there is nothing undeclared beside what is declared (loops, tables, actions, secrets in an answer) is checked, and no control shows that check red.",
	})
	return []byte(strings.TrimRight(p.String(), "\n") + "\n")
}

// SameDeclarations reports whether the packet was built of the declarations
// that are rendered now.
func SameDeclarations(in Inputs) bool {
	now, err := Encode(in.Declared)
	if err != nil {
		return false
	}
	then, err := fs.ReadFile(in.Packet, DeclaredFile)
	return errors.Is(err, fs.ErrNotExist) || (err == nil && bytes.Equal(now, then))
}
