package schedule

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/config"
	"certctl/server/pg"
)

// Declare gives every one-replica loop of this server its lease.
func Declare(ctx context.Context, q pg.Q) error {
	var names []string
	for _, l := range All() {
		if l.HA == OneReplica {
			names = append(names, l.Name)
		}
	}
	_, err := q.Exec(ctx, declareLeases, pgx.StrictNamedArgs{"names": names})
	return pg.Fault(err, "leases")
}

// A Lease is what the database knows of a one-replica loop.
type Lease struct {
	Name      string    `json:"name"`
	Holder    string    `json:"holder"` // the last one, if it is not held
	Token     int64     `json:"token"`
	ExpiresAt time.Time `json:"expires_at"`
	DueAt     time.Time `json:"due_at"`
	Held      bool      `json:"held"`
}

// Leases returns every lease, by name.
func Leases(ctx context.Context, q pg.Q) ([]Lease, error) {
	rows, _ := q.Query(ctx, listLeases)
	l, err := pgx.CollectRows(rows, pgx.RowToStructByName[Lease])
	return l, pg.Fault(err, "leases")
}

// A Run is a row of the ledger of passes.
type Run struct {
	ID         int64      `json:"id"`
	Loop       string     `json:"loop"`
	Replica    string     `json:"replica"`
	Token      *int64     `json:"token,omitempty"` // of one-replica loops
	StartedAt  time.Time  `json:"started_at"`
	FinishedAt *time.Time `json:"finished_at,omitempty"`
	Acted      int64      `json:"acted"`
	Error      string     `json:"error,omitempty"`
}

// LastRuns returns the newest pass of each loop, by loop.
func LastRuns(ctx context.Context, q pg.Q) ([]Run, error) {
	rows, _ := q.Query(ctx, lastRuns)
	l, err := pgx.CollectRows(rows, pgx.RowToStructByName[Run])
	return l, pg.Fault(err, "passes")
}

// A Retained is a table whose rows are deleted once they are old.
type Retained struct {
	Table string
	Keep  *config.Key[time.Duration]
	Does  string

	// Delete deletes up to limit rows older than keep, and says how many.
	Delete func(ctx context.Context, q pg.Q, keep time.Duration, limit int) (int64, error)
}

// Prune returns the pass of the retention loop.
func Prune(retentions []Retained, settings config.Values) func(context.Context, *Pass) (int, error) {
	const batch = 5000
	return func(ctx context.Context, p *Pass) (acted int, err error) {
		for _, r := range retentions {
			for {
				n, err := r.Delete(ctx, p.db, r.Keep.In(settings), batch)
				acted += int(n)
				if err != nil {
					return acted, fmt.Errorf("%s: %w", r.Table, err)
				}
				if n < batch {
					break
				}
			}
		}
		return acted, nil
	}
}

// DeleteRuns deletes passes that began before keep ago, but for those that
// still hold a lease.
func DeleteRuns(ctx context.Context, q pg.Q, keep time.Duration, limit int) (int64, error) {
	tag, err := q.Exec(ctx, deleteRuns, pgx.StrictNamedArgs{"keep": keep, "limit": limit})
	return tag.RowsAffected(), pg.Fault(err, "passes")
}
