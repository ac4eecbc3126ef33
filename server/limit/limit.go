// Package limit bounds how often something may be asked for: rows that say what
// is limited, and a limiter that decides by them, in the database for all
// replicas together or in the memory of each.
package limit

import (
	"fmt"
	"math"
	"time"

	"certctl/server/config"
	"certctl/server/table"
)

// An Algorithm decides what a bucket admits.
type Algorithm struct {
	Name string `json:"name"`
	Does string `json:"does"`

	sliding bool
}

var algorithms = table.By(func(a *Algorithm) string { return a.Name })

// Algorithms returns every algorithm.
func Algorithms() []*Algorithm { return algorithms.Rows() }

// slots are what a window is counted in. The one under way counts besides.
const slots = 16

// The algorithms.
var (
	TokenBucket = algorithms.Add(&Algorithm{
		Name: "token bucket",
		Does: "Never more than the burst and the rate times t in any time t.",
	})
	SlidingWindow = algorithms.Add(&Algorithm{
		Name: "sliding window",
		Does: fmt.Sprintf("Never more than the cap in any time as long as the window. It counts in %dths of a window, so a request can count for up to a %dth longer.", slots, slots),

		sliding: true,
	})
)

// A Scope is who shares the buckets of a limit.
type Scope struct {
	Name string `json:"name"`
	Does string `json:"does"`

	Factor  string `json:"factor"`  // what N replicas admit together, as a multiple of the cap
	Restart string `json:"restart"` // what a restart of a replica forgets
	Crash   string `json:"crash"`   // what a crash of PostgreSQL forgets of limits that are not durable
	Durable string `json:"durable"` // and of those that are
	Bound   string `json:"bound"`   // what bounds the memory
}

var scopes = table.By(func(s *Scope) string { return s.Name })

// Scopes returns every scope.
func Scopes() []*Scope { return scopes.Rows() }

// MemoryKeys bounds the buckets that a replica keeps of one limit in its memory.
const MemoryKeys = 100_000

// The scopes.
var (
	Cluster = scopes.Add(&Scope{
		Name:    config.ScopeCluster,
		Does:    "All replicas share the buckets, which are rows of the database. Decisions are made by its clock, one after another for each bucket.",
		Factor:  "1",
		Restart: "nothing",
		Crash:   "at most the decisions of the last three delays of PostgreSQL's WAL writer, which are 0.6 s as it comes",
		Durable: "nothing: a decision is on disk before it is answered",
		Bound:   "a row for each bucket that is in use; `rate-limit-gc` deletes those that say nothing any more",
	})
	Memory = scopes.Add(&Scope{
		Name:    config.ScopeMemory,
		Does:    "Each replica has buckets of its own, in its memory.",
		Factor:  "N",
		Restart: "everything that the replica had admitted",
		Crash:   "nothing",
		Durable: "nothing",
		Bound:   fmt.Sprintf("%d buckets of each limit. Only those that say nothing any more make room; while there are none, new keys share one bucket, so that no key which is used up is forgotten", MemoryKeys),
	})
)

// A Key is what one bucket is for: what the server knows, and not what a caller
// claims.
type Key struct {
	Name string `json:"name"`
	Does string `json:"does"`
}

var keyTable = table.By(func(k *Key) string { return k.Name })

// Keys returns what buckets can be for.
func Keys() []*Key { return keyTable.Rows() }

// The keys.
var (
	Address = keyTable.Add(&Key{"address", "The address of the peer, or the one that proxies name whom `" + config.TrustedProxies.Name + "` trusts; of IPv6 its /64. The port does not count, and a header that nobody trusted wrote does not."})
	Actor   = keyTable.Add(&Key{"actor", "The id of the API key, whatever its secret, and wherever it is used from."})
)

// A Limit bounds how often a key may ask for something. Each limit has buckets
// of its own: using one up changes the answer of no other.
type Limit struct {
	Name      string
	Does      string // what it protects, and from what
	Key       *Key
	Algorithm *Algorithm
	Cap       *config.Key[int]     // burst of a token bucket, or what a window admits
	Rate      *config.Key[float64] // tokens per second; null for a window
	Window    time.Duration        // null for a token bucket
	Durable   bool                 // whether it guards a secret: no crash forgets a decision
	Failure   string               // what becomes of a request while the database does not answer
}

var limits = table.By(func(l *Limit) string { return l.Name })

// All returns every limit, in declaration order.
func All() []*Limit { return limits.Rows() }

// A Terms are a limit as the settings have it.
type Terms struct {
	Name    string
	Cap     int64
	Per     int64 // microseconds of one token, or of one slot of a window
	Sliding bool
	Durable bool
}

// In returns the limit's terms under the settings.
func (l *Limit) In(v config.Values) Terms {
	t := Terms{Name: l.Name, Cap: int64(l.Cap.In(v)), Sliding: l.Algorithm.sliding, Durable: l.Durable}
	if t.Sliding {
		t.Per = l.Window.Microseconds() / slots
	} else {
		t.Per = int64(math.Ceil(float64(time.Second.Microseconds()) / l.Rate.In(v))) // never faster than the rate
	}
	return t
}

// Window is how long a used up bucket takes to be as good as new.
func (t Terms) Window() time.Duration {
	n := t.Cap
	if t.Sliding {
		n = slots
	}
	return time.Duration(n*t.Per) * time.Microsecond
}

// A Decision is what a limit says to one request.
type Decision struct {
	Terms     Terms
	Admitted  bool
	Remaining int64         // what the bucket would admit now
	Wait      time.Duration // until it admits one more; zero unless refused
	Reset     time.Duration // until it would admit more than that; zero if it never will
}

// Of returns what a state, as the functions of the database return it, says to
// the request that came at the place among those that were asked for together.
func (t Terms) Of(state []int64, place int64) Decision {
	admitted, left, wait := state[0], state[2], state[3]
	d := Decision{Terms: t, Admitted: place < admitted, Remaining: left, Reset: time.Duration(t.more(state)) * time.Microsecond}
	if d.Admitted {
		d.Remaining += admitted - 1 - place
	} else {
		d.Wait = time.Duration(wait) * time.Microsecond
	}
	return d
}

// more is how many microseconds it takes until a bucket admits more than it did
// when it was decided.
func (t Terms) more(state []int64) int64 {
	now := state[5]
	if !t.Sliding {
		missing := max(state[7]-now, 0)
		return missing - (max(missing, 1)-1)/t.Per*t.Per
	}
	slot, counts := state[7], state[9:]
	for i := int64(1); i <= int64(len(counts)); i++ { // the oldest first
		if counts[(slot+i)%int64(len(counts))] > 0 {
			return max((slot+i)*t.Per-now, 0)
		}
	}
	return 0
}
