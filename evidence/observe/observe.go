// Package observe reads a running system from outside: rows, wire and
// processes. It judges nothing.
package observe

import (
	"context"

	"github.com/jackc/pgx/v5"

	"certctl/evidence"
	"certctl/server/migrate"
	"certctl/server/schedule"
)

// Ledger reads the ledger of migrations.
func Ledger(ctx context.Context, conn *pgx.Conn) (evidence.LedgerSeen, error) {
	rows, err := migrate.Ledger(ctx, conn)
	return evidence.LedgerSeen{Rows: rows}, err
}

// Passes reads the newest passes of every loop.
func Passes(ctx context.Context, conn *pgx.Conn) (evidence.PassesSeen, error) {
	rows, _ := conn.Query(ctx, `
		select id, loop, replica, token, started_at, finished_at, acted, error
		from (select *, row_number() over (partition by loop order by id desc) as n from loop_runs) r
		where n <= 5 order by id`)
	runs, err := pgx.CollectRows(rows, pgx.RowToStructByName[schedule.Run])
	if err != nil {
		return evidence.PassesSeen{}, err
	}
	seen := evidence.PassesSeen{Runs: runs}
	return seen, conn.QueryRow(ctx, `select clock_timestamp()`).Scan(&seen.Now)
}

// Period returns the mean time between the starts of a loop's passes in
// milliseconds, and over how many it was taken.
func Period(ctx context.Context, conn *pgx.Conn, loop string) (mean int64, n int, err error) {
	err = conn.QueryRow(ctx, `
		select coalesce(extract(epoch from max(started_at) - min(started_at)) * 1000 / nullif(count(*) - 1, 0), 0)::bigint, count(*)
		from loop_runs where loop = $1`, loop).Scan(&mean, &n)
	return mean, n, err
}

// Actions counts the events of each action.
func Actions(ctx context.Context, conn *pgx.Conn) (evidence.ActionsSeen, error) {
	seen := evidence.ActionsSeen{Events: map[string]int{}, Steps: []evidence.StepSeen{}}
	rows, _ := conn.Query(ctx, `select action, count(*) from audit_events group by action`)
	var action string
	var n int
	_, err := pgx.ForEachRow(rows, []any{&action, &n}, func() error { seen.Events[action] = n; return nil })
	return seen, err
}

// Written returns the actions of the events with ids above after, in their
// order, and the highest id.
func Written(ctx context.Context, conn *pgx.Conn, after int64) (actions []string, last int64, err error) {
	rows, _ := conn.Query(ctx, `select action, id from audit_events where id > $1 and actor_kind <> 'server' order by id`, after)
	var action string
	last = after
	_, err = pgx.ForEachRow(rows, []any{&action, &last}, func() error { actions = append(actions, action); return nil })
	return actions, last, err
}

// ServerWrote reports whether there is an event of the action with an id above
// after that a server wrote of its own accord.
func ServerWrote(ctx context.Context, conn *pgx.Conn, action string, after int64) (wrote bool, err error) {
	err = conn.QueryRow(ctx, `select exists (select from audit_events where id > $1 and action = $2 and actor_kind = 'server')`, after, action).Scan(&wrote)
	return wrote, err
}

// Issued counts what a request for a certificate makes.
func Issued(ctx context.Context, conn *pgx.Conn) (seen evidence.IssuedSeen, err error) {
	err = conn.QueryRow(ctx, `
		select (select count(*) from certificates), (select count(*) from certificate_versions),
			(select count(*) from jobs), (select count(*) from profiles)`).
		Scan(&seen.Certificates, &seen.Versions, &seen.Jobs, &seen.Profiles)
	return seen, err
}
