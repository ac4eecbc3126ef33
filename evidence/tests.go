package evidence

import (
	"fmt"
	"strings"
)

// A Test is a Go test that a claim cites.
type Test struct {
	Package string `json:"package"` // its folder, from the root of the module
	Name    string `json:"name"`
}

func (t Test) String() string { return t.Package + "." + t.Name }

// An Outcome is what became of a cited test.
type Outcome string

// The outcomes, in go's words as far as it has them.
const (
	TestPassed  Outcome = "pass"
	TestFailed  Outcome = "fail"
	TestSkipped Outcome = "skip" // it did so itself, or all of its subtests did
	TestNotRun  Outcome = "not run"
)

// A TestRecord is what `go test -json` said of a cited test, and what its source
// says. It is never edited.
type TestRecord struct {
	Test
	Outcome Outcome `json:"outcome"`
	Asserts bool    `json:"asserts"` // something in it can fail
	Code    string  `json:"code"`    // hash of the code that it ran for
	Why     string  `json:"why,omitempty"`
}

// A Cited is a test that a claim cites, and what its record is worth.
type Cited struct {
	TestRecord
	Verdict Verdict `json:"verdict"`
	Reason  string  `json:"reason,omitempty"` // of a verdict other than true
}

// citing names the Go tests that the claim cites, as package.TestName.
func (s *Statement) citing(tests ...string) *Statement {
	for _, t := range tests {
		at := strings.LastIndexByte(t, '.')
		s.Tests = append(s.Tests, Test{Package: t[:at], Name: t[at+1:]})
	}
	return s
}

// cite judges the records of the tests that a claim cites. Only a test that ran
// for this code, was not skipped, passed and could have failed is worth anything.
func cite(tests []Test, code string, records []TestRecord) (all []Cited) {
	for _, t := range tests {
		c := Cited{TestRecord: TestRecord{Test: t, Outcome: TestNotRun, Why: "it has no record"}}
		for _, r := range records {
			if r.Test == t {
				c.TestRecord = r
			}
		}
		c.Verdict, c.Reason = c.judge(code)
		all = append(all, c)
	}
	return all
}

func (r TestRecord) judge(code string) (Verdict, string) {
	why := ""
	if r.Why != "" {
		why = ": " + r.Why
	}
	switch {
	case r.Outcome == TestNotRun:
		return Vacuous, fmt.Sprintf("the cited test %s was not run%s", r.Test, why)
	case r.Code != code:
		return Stale, fmt.Sprintf("the cited test %s ran for other code", r.Test)
	case r.Outcome == TestFailed:
		return False, fmt.Sprintf("the cited test %s failed%s", r.Test, why)
	case r.Outcome != TestPassed:
		return Vacuous, fmt.Sprintf("the cited test %s was skipped%s", r.Test, why)
	case !r.Asserts:
		return Vacuous, fmt.Sprintf("the cited test %s cannot fail%s", r.Test, why)
	}
	return True, ""
}

// with is a verdict and the tests that are cited for the claim: one that failed
// makes any claim false, and without all of them none is true.
func with(tests []Cited, v Verdict, reason string) (Verdict, string) {
	for _, worse := range []Verdict{False, Vacuous, Stale} {
		for _, t := range tests {
			if t.Verdict == worse && (v == True || worse == False && v != False) {
				return worse, t.Reason
			}
		}
	}
	return v, reason
}

// hold reports whether every cited test is worth something.
func hold(tests []Cited) bool {
	v, _ := with(tests, True, "")
	return v == True
}

// tests are the cited tests of a claim, with their outcome.
func (p *page) tests(tests []Cited) {
	var rows [][]string
	for _, t := range tests {
		rows = append(rows, []string{code(t.String()), string(t.Outcome), yes(t.Asserts), text(t.Reason), code("go test -count=1 -run '^" + t.Name + "$' ./" + t.Package)})
	}
	p.grid([]string{"test", "outcome", "can fail", "why it is worth nothing", "run it again"}, rows)
}
