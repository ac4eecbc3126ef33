// Package limittest holds what limits decided against the sentences of their
// algorithms.
package limittest

import (
	"fmt"

	"certctl/server/limit"
)

// A Decision is what one statement decided, as the state of the bucket has it.
// Times are microseconds.
type Decision struct{ Admitted, Asked, Remaining, Wait, Fresh, At int64 }

// Of reads the decision from a state.
func Of(state []int64) Decision {
	return Decision{state[0], state[1], state[2], state[3], state[4], state[5]}
}

// A Model decides from the log of all that was admitted, as the sentence of the
// algorithm says it.
type Model struct {
	Terms limit.Terms

	log []Decision // that admitted something
	lag int        // the first of the log that can still matter
}

// allowed is the most that may be admitted at a time, and the least that has to
// be.
func (m *Model) allowed(at int64) (most, least int64) {
	if m.Terms.Sliding {
		window := 16 * m.Terms.Per
		most, least = m.Terms.Cap, m.Terms.Cap
		for m.lag < len(m.log) && m.log[m.lag].At <= at-window-m.Terms.Per {
			m.lag++
		}
		for _, d := range m.log[m.lag:] {
			if d.At > at-window {
				most -= d.Admitted
			}
			least -= d.Admitted // what is a slot older may count
		}
		return most, max(least, 0)
	}
	// In every interval that ends now: the burst, and a token for each whole time
	// of one.
	most, sum := m.Terms.Cap, int64(0)
	for i := len(m.log) - 1; i >= m.lag; i-- {
		sum += m.log[i].Admitted
		most = min(most, m.Terms.Cap+(at-m.log[i].At)/m.Terms.Per-sum)
	}
	return most, most
}

// Check complains of a decision that the model would not have made after those
// before.
func (m *Model) Check(d Decision) error {
	most, least := m.allowed(d.At)
	if d.Admitted > d.Asked || d.Admitted < min(d.Asked, least) || d.Admitted > max(most, 0) {
		return fmt.Errorf("of %d at %d it admitted %d, and the model from %d to %d", d.Asked, d.At, d.Admitted, least, most)
	}
	if (d.Wait > 0) != (d.Admitted < d.Asked) {
		return fmt.Errorf("%+v says to wait for %d", d, d.Wait)
	}
	if d.Admitted > 0 {
		m.log = append(m.log, d)
	}
	if !m.Terms.Sliding && d.Remaining == m.Terms.Cap-d.Admitted {
		m.lag = len(m.log) - 1 // the bucket was full: nothing before matters
		if d.Admitted == 0 {
			m.lag++
		}
	}
	return nil
}
