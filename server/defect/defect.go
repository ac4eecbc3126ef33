// Package defect has the switches of builds for the laboratory, which are made
// with -tags defects to see whether an experiment notices what it is about. In
// every other build they are constant, and the compiler leaves out what they
// guard.
package defect

import "time"

// ClockOffset is the variable that says how far the replica's clock is from the
// machine's, as a duration.
const ClockOffset = "CERTCTL_TEST_CLOCK_OFFSET"

// Now is the replica's clock.
func Now() time.Time { return time.Now().Add(clockOffset()) }

// Switch is the variable that has the replica run with a defect, by its name.
const Switch = "CERTCTL_TEST_DEFECT"

// A Name names a defect.
type Name string

// The defects.
const (
	UnfencedLoop    Name = "unfenced-loop"    // a pass of a loop writes, whoever has taken its lease
	UncheckedLedger Name = "unchecked-ledger" // a database is taken that does not fit the migrations
	UnfencedJob     Name = "unfenced-job"     // the result of a job is written, whoever has claimed it since
)
