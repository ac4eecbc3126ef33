package outbox

import "context"

// Claim and Attempt are the two halves of a pass, between which a process can
// freeze.
func (r *Runner) Claim(ctx context.Context, most int) ([]*Delivery, error) {
	r.begin()
	return r.claim(ctx, most, nil)
}

// Attempt is what a pass does with each that it has claimed.
func (r *Runner) Attempt(ctx context.Context, d *Delivery) { r.attempt(ctx, d) }
