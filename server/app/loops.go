package app

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"certctl/server/audit"
	"certctl/server/config"
	"certctl/server/metric"
	"certctl/server/schedule"
)

// Loops binds every loop to the function that does one pass.
func (a *App) Loops() []schedule.Binding {
	return []schedule.Binding{
		schedule.AuditSequence.Do(func(ctx context.Context, p *schedule.Pass) (int, error) {
			return a.trail.Sequence(ctx, p.Token, func(ctx context.Context, f func(pgx.Tx) error) error { return p.InTx(ctx, f) })
		}),
		schedule.AuditChainVerify.Do(a.verifyChain),
		schedule.Retention.Do(schedule.Prune(retentions, a.settings)),
	}
}

// retentions are the tables that the retention loop prunes.
var retentions = []schedule.Retained{
	{
		Table: "loop_runs", Keep: config.LoopRunsKeep, Delete: schedule.DeleteRuns,
		Does: "passes that have ended, counted from their start",
	},
}

// verifyChain fails a pass that finds the log altered, so that the ledger of
// passes says what was found.
func (a *App) verifyChain(ctx context.Context, _ *schedule.Pass) (int, error) {
	report, err := a.trail.Verify(ctx, a.db, audit.Options{})
	if err != nil {
		return 0, err
	}
	intact := 0.0
	if report.Intact() {
		intact = 1
	} else {
		err = errors.New(report.String())
	}
	a.metrics.Set(metric.AuditIntact, intact)
	return int(report.Events), err
}
