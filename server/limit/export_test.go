package limit

import "certctl/server/config"

// Step has a bucket in memory decide at a time.
func Step(t Terms, was []int64, asked, now int64) []int64 { return t.step(was, asked, now) }

// Small returns a limiter with room for so many keys.
func Small(v config.Values, keys int) *Limiter {
	return &Limiter{Settings: v, memory: memory{keys: keys}}
}

// Waiting is how many wait for the next statement of a key, or negative if none
// is under way.
func Waiting[K comparable, R any](m *Merger[K, R], key K) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.next[key]; c != nil {
		return c.asked
	}
	return -1
}
