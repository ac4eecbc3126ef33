package pgtest

import (
	"testing"
	"time"
)

// Eventually waits for what another session or process does, and fails the
// test if it does not happen in 20 seconds.
func Eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for !done() {
		select {
		case <-deadline:
			t.Fatalf("did not happen: %s", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
