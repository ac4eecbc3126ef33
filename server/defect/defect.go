// Package defect has the switches of builds for the laboratory, which are made
// with -tags defects to see whether an experiment notices what it is about. In
// every other build they are constants, and the compiler leaves out what they
// guard.
package defect

import "time"

// ClockOffset is the variable that says how far the replica's clock is from the
// machine's, as a duration.
const ClockOffset = "CERTCTL_TEST_CLOCK_OFFSET"

// Now is the replica's clock.
func Now() time.Time { return time.Now().Add(clockOffset()) }
