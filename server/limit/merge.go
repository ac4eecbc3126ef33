package limit

import (
	"context"
	"fmt"
	"sync"
)

// A Merger has what callers ask of the same key done together: one statement is
// under way for each key, and those who come meanwhile share the next.
type Merger[K comparable, R any] struct {
	mu   sync.Mutex
	next map[K]*crowd[R] // of each key that a statement is under way for
}

// A crowd are callers who wait for the same statement.
type crowd[R any] struct {
	asked  int64
	done   chan struct{}
	result R
	err    error
}

// Do runs do for the caller, together with others who ask for the same key, and
// returns what it did for all of them, and the caller's place among them, from 0.
func (m *Merger[K, R]) Do(ctx context.Context, key K, do func(ctx context.Context, asked int64) (R, error)) (R, int64, error) {
	m.mu.Lock()
	if m.next == nil {
		m.next = map[K]*crowd[R]{}
	}
	if c, busy := m.next[key]; busy {
		place := c.asked
		c.asked++
		m.mu.Unlock()
		select {
		case <-c.done:
			return c.result, place, c.err
		case <-ctx.Done():
			var none R
			return none, 0, context.Cause(ctx)
		}
	}
	m.next[key] = &crowd[R]{done: make(chan struct{})}
	m.mu.Unlock()

	defer func() {
		if c := m.take(key); c != nil {
			// A caller who goes away takes nobody along.
			go m.follow(context.WithoutCancel(ctx), key, c, do)
		}
	}()
	result, err := do(ctx, 1)
	return result, 0, err
}

// take returns those who came while a statement was under way, or null, after
// which none is.
func (m *Merger[K, R]) take(key K) *crowd[R] {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.next[key]
	if c.asked == 0 {
		delete(m.next, key)
		return nil
	}
	m.next[key] = &crowd[R]{done: make(chan struct{})}
	return c
}

// follow serves a crowd, and those that come meanwhile, until nobody does.
func (m *Merger[K, R]) follow(ctx context.Context, key K, c *crowd[R], do func(ctx context.Context, asked int64) (R, error)) {
	for ; c != nil; c = m.take(key) {
		m.serve(ctx, c, do)
	}
}

func (m *Merger[K, R]) serve(ctx context.Context, c *crowd[R], do func(ctx context.Context, asked int64) (R, error)) {
	defer close(c.done)
	defer func() {
		if p := recover(); p != nil {
			c.err = fmt.Errorf("a decision that several wait for: %v", p)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c.result, c.err = do(ctx, c.asked)
}
