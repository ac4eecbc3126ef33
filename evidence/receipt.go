// Package evidence says what the server claims of itself and what was seen of
// it. It names no setting, loop, route or permission of its own: every name on
// a page comes from the server's tables.
package evidence

import (
	"slices"
	"strconv"
	"time"
)

// A Verdict is what an observation says of a claim.
type Verdict string

// The verdicts.
const (
	True    Verdict = "true"
	False   Verdict = "false"
	Unknown Verdict = "unknown" // could not look
	Skipped Verdict = "skipped" // with the reason
	Vacuous Verdict = "vacuous" // nothing could have failed
	Stale   Verdict = "stale"   // what it depends on has moved on
)

// A Claim is one sentence that can be false.
type Claim struct {
	ID      string   `json:"id"` // area/what
	Says    string   `json:"says"`
	Symbols []string `json:"symbols"` // the code it is about, as package.Name
	Tests   []Test   `json:"tests,omitempty"`
}

// A Check sets what was declared beside what was seen.
type Check struct {
	What string `json:"what"`
	Want string `json:"want"` // from a declaration
	Got  string `json:"got"`  // from the running system

	// Measured is the figure that Got says keeps to a bound. It differs from run to
	// run; pages show it in cells marked measured, and nothing is judged by it.
	Measured string `json:"measured,omitempty"`
}

// check sets what was declared beside what was seen.
func check(what, want, got string) Check { return Check{What: what, Want: want, Got: got} }

// within sets a measured duration beside its bound.
func within(what string, bound, measured time.Duration) Check {
	c := Check{What: what, Want: "at most " + short(bound.String()), Measured: measured.Round(time.Millisecond).String()}
	c.Got = c.Want
	if measured > bound {
		c.Got = "more"
	}
	return c
}

// atLeast sets a count beside what it must reach.
func atLeast(what string, least, counted int) Check {
	c := Check{What: what, Want: "at least " + strconv.Itoa(least), Measured: strconv.Itoa(counted)}
	c.Got = c.Want
	if counted < least {
		c.Got = "fewer"
	}
	return c
}

// Holds reports whether what was seen is what was declared.
func (c Check) Holds() bool { return c.Want == c.Got }

// A Control is the same experiment on a system with a known defect.
type Control struct {
	Defect string   `json:"defect"` // what was broken, in words
	Turns  []string `json:"turns"`  // the checks that the defect must turn red
	Red    []string `json:"red"`    // the checks that it did
	Failed string   `json:"failed,omitempty"`

	Counts []Check `json:"counts"` // the red checks, as they came out
}

// Holds reports whether the control came out red, for its reason alone.
func (c Control) Holds() bool {
	return len(c.Turns) > 0 && slices.Equal(c.Turns, c.Red)
}

// A Receipt is a claim with what was seen, its control and its verdict.
type Receipt struct {
	Claim    Claim     `json:"claim"`
	Verdict  Verdict   `json:"verdict"`
	Reason   string    `json:"reason,omitempty"` // of a verdict other than true
	SeenAt   time.Time `json:"seen_at"`
	Data     string    `json:"data"` // file of the packet that holds the observation
	Checks   []Check   `json:"checks"`
	Controls []Control `json:"controls"`
	Tests    []Cited   `json:"tests,omitempty"`
}

// TestsHold reports whether every cited test ran, passed and could have failed.
func (r Receipt) TestsHold() bool { return hold(r.Tests) }

// File is where the packet has the receipt.
func (r Receipt) File() string { return "receipts/" + slug(r.Claim.ID) + ".md" }
