package limit

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"certctl/server/config"
	"certctl/server/pg"
)

// A Limiter decides by the limits.
type Limiter struct {
	DB       *pgxpool.Pool
	Settings config.Values

	memory   memory
	merged   Merger[bucket, []int64]
	refusals refusals
}

type bucket struct{ name, key string }

// Terms returns the limit's terms.
func (l *Limiter) Terms(of *Limit) Terms { return of.In(l.Settings) }

// Shared reports whether the replicas share their buckets.
func (l *Limiter) Shared() bool { return config.RateLimitScope.In(l.Settings) == Cluster.Name }

// Take asks for one request in the bucket of a key.
func (l *Limiter) Take(ctx context.Context, of *Limit, key string) (Decision, error) {
	t := l.Terms(of)
	if !l.Shared() {
		return l.TakeOwn(t, key), nil
	}
	if d, ok := l.Refused(t, key); ok {
		return d, nil
	}
	state, place, err := l.merged.Do(ctx, bucket{t.Name, key}, func(ctx context.Context, asked int64) ([]int64, error) {
		return Take(ctx, l.DB, t, key, asked)
	})
	if err != nil {
		return Decision{Terms: t}, err
	}
	d := t.Of(state, place)
	l.Remember(d, key)
	return d, nil
}

// TakeOwn asks for one request in a bucket of this replica.
func (l *Limiter) TakeOwn(t Terms, key string) Decision {
	return t.Of(l.memory.take(t, key, 1), 0)
}

// Take asks for some requests in a bucket that the replicas share, and returns
// its state.
func Take(ctx context.Context, q pg.Q, t Terms, key string, asked int64) ([]int64, error) {
	// Arguments by position, and no rows to collect: it is a third of what this
	// costs here.
	var state []int64
	err := q.QueryRow(ctx, `select rate_limit_take($1, $2, $3, $4, $5, $6, $7)`,
		t.Name, key, asked, t.Cap, t.Per, t.Sliding, t.Durable).Scan(&state)
	return state, pg.Fault(err, "rate limit")
}

// Collect deletes buckets that say nothing any more, and returns how many.
func Collect(ctx context.Context, q pg.Q) (int, error) {
	const batch = 10_000
	total := 0
	for {
		n, err := deleteSpent(ctx, q, batch)
		total += n
		if err != nil || n < batch {
			return total, err
		}
	}
}

func deleteSpent(ctx context.Context, q pg.Q, most int) (int, error) {
	tag, err := q.Exec(ctx, `
		delete from rate_limits r using (
			select name, key from rate_limits
			where state[5] <= extract(epoch from clock_timestamp()) * 1000000
			limit @most
			for update skip locked
		) spent
		where r.name = spent.name and r.key = spent.key`, pgx.StrictNamedArgs{"most": most})
	return int(tag.RowsAffected()), pg.Fault(err, "rate limits")
}

// patience bounds a decision that several requests wait for.
const patience = 10 * time.Second
