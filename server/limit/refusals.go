package limit

import (
	"sync"
	"time"
)

// RefusalKept is how long a replica remembers that a shared bucket refused, at
// most: until then it asks the database no more, whatever a flood sends. No
// bucket admits sooner than it said.
const RefusalKept = 200 * time.Millisecond

// refusalsKept bounds how many it remembers.
const refusalsKept = 10_000

// refusals are what shared buckets refused just now, by this replica's monotonic
// clock.
type refusals struct {
	mu sync.Mutex
	of map[bucket]refusal
}

type refusal struct{ forget, admits time.Time }

// Refused returns the refusal of a bucket that is remembered.
func (l *Limiter) Refused(t Terms, key string) (Decision, bool) {
	l.refusals.mu.Lock()
	defer l.refusals.mu.Unlock()
	r, ok := l.refusals.of[bucket{t.Name, key}]
	if !ok || time.Until(r.forget) <= 0 {
		return Decision{}, false
	}
	wait := time.Until(r.admits)
	return Decision{Terms: t, Wait: wait, Reset: wait}, true
}

// Remember keeps a decision if it is a refusal.
func (l *Limiter) Remember(d Decision, key string) {
	if d.Admitted {
		return
	}
	now := time.Now()
	r := refusal{now.Add(min(d.Wait, RefusalKept)), now.Add(d.Wait)}
	l.refusals.mu.Lock()
	defer l.refusals.mu.Unlock()
	if l.refusals.of == nil {
		l.refusals.of = map[bucket]refusal{}
	}
	if len(l.refusals.of) >= refusalsKept {
		for b, old := range l.refusals.of {
			if now.After(old.forget) {
				delete(l.refusals.of, b)
			}
		}
		if len(l.refusals.of) >= refusalsKept {
			return
		}
	}
	l.refusals.of[bucket{d.Terms.Name, key}] = r
}
