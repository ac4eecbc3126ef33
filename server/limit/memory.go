package limit

import (
	"math"
	"math/bits"
	"sync"
	"time"

	"certctl/server/defect"
)

// memory holds the buckets of one replica. They decide as those of the database
// do, and TestMemoryDecidesAsTheDatabase keeps them alike.
type memory struct {
	mu      sync.Mutex
	buckets map[string]map[string][]int64 // by limit and key
	swept   map[string]int64              // when, by limit
	keys    int                           // MemoryKeys unless set
}

// shared is the key of those for whom there was no room.
const shared = ""

func (m *memory) take(t Terms, key string, asked int64) []int64 {
	now := defect.Now().UnixMicro()
	m.mu.Lock()
	defer m.mu.Unlock()
	of := m.buckets[t.Name]
	if of == nil {
		if m.buckets == nil {
			m.buckets, m.swept = map[string]map[string][]int64{}, map[string]int64{}
		}
		of = map[string][]int64{}
		m.buckets[t.Name] = of
	}
	if _, known := of[key]; !known && len(of) >= m.most() && !m.sweep(t.Name, now) {
		key = shared
	}
	state := t.step(of[key], asked, now)
	of[key] = state
	return state
}

func (m *memory) most() int {
	if m.keys > 0 {
		return m.keys
	}
	return MemoryKeys
}

// sweep deletes buckets that say nothing any more, at most once a second, and
// reports whether there is room.
func (m *memory) sweep(name string, now int64) bool {
	if now-m.swept[name] < time.Second.Microseconds() {
		return false
	}
	m.swept[name] = now
	of := m.buckets[name]
	for key, state := range of {
		if state[4] <= now {
			delete(of, key)
		}
	}
	return len(of) < m.most()
}

// step returns the state after a decision.
func (t Terms) step(was []int64, asked, now int64) []int64 {
	if t.Sliding {
		return t.window(was, asked, now)
	}
	return t.bucket(was, asked, now)
}

// bucket is rate_limit_bucket.
func (t Terms) bucket(was []int64, asked, now int64) []int64 {
	missing := int64(0)
	if was != nil {
		missing = max(was[7]-now, 0)
		if was[6] != t.Per {
			missing = scale(missing, t.Per, was[6])
		}
	}
	full := now + min(missing, t.Cap*t.Per)
	room := (now + t.Cap*t.Per - full) / t.Per
	admitted := min(asked, room)
	full += admitted * t.Per
	wait := int64(0)
	if admitted < asked {
		wait = full + t.Per - t.Cap*t.Per - now
	}
	return []int64{admitted, asked, room - admitted, wait, full, now, t.Per, full}
}

// scale is n * by / of, rounded up.
func scale(n, by, of int64) int64 {
	high, low := bits.Mul64(uint64(n), uint64(by))
	if high >= uint64(of) {
		return math.MaxInt64
	}
	quotient, rest := bits.Div64(high, low, uint64(of))
	if rest > 0 {
		quotient++
	}
	return int64(min(quotient, math.MaxInt64))
}

// window is rate_limit_window.
func (t Terms) window(was []int64, asked, now int64) []int64 {
	const ring, head = slots + 1, 9
	slot, total := now/t.Per, int64(0)
	next := make([]int64, head+ring)
	counts := next[head:]
	switch {
	case was == nil:
	case was[6] != t.Per || was[7] > slot+slots:
		total = min(was[8], t.Cap)
		counts[slot%ring] = total
	default:
		slot = max(slot, was[7])
		if slot-was[7] <= slots {
			copy(counts, was[head:])
			total = was[8]
			for s := was[7] + 1; s <= slot; s++ {
				total -= counts[s%ring]
				counts[s%ring] = 0
			}
		}
	}
	room := max(t.Cap-total, 0)
	admitted := min(asked, room)
	counts[slot%ring] += admitted
	total += admitted
	wait := int64(0)
	if admitted < asked {
		kept := total
		for s := slot - slots; s <= slot; s++ {
			kept -= counts[s%ring]
			wait = (s+ring)*t.Per - now
			if kept < t.Cap {
				break
			}
		}
	}
	copy(next, []int64{admitted, asked, room - admitted, wait, (slot + ring) * t.Per, now, t.Per, slot, total})
	return next
}
