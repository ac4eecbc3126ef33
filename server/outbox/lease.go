package outbox

import "time"

// hold returns what is left of a lease that is asked for now, by a clock that
// nobody sets and that goes on while the process is frozen, though not while its
// whole machine is suspended: after that it says too much, and what was claimed
// before can be sent twice, under the same key. But for that it never says more
// than the database does, whose lease begins later.
func hold(lease time.Duration) (left func() time.Duration) {
	begun := time.Now()
	return func() time.Duration { return lease - time.Since(begun) }
}
