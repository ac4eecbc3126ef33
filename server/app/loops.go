package app

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/audit"
	"certctl/server/config"
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
func (a *App) verifyChain(ctx context.Context, p *schedule.Pass) (int, error) {
	report, err := a.trail.Verify(ctx, a.db, audit.Options{})
	if errors.Is(err, context.Canceled) {
		return 0, err // by a stop, or the loss of the lease
	}
	// The pass may have used up its time.
	recordCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	recorded := p.InTx(recordCtx, func(tx pgx.Tx) error {
		return audit.Write(a.itself(recordCtx), tx, report.Verification(err))
	})
	if err == nil && !report.Intact() {
		err = errors.New(report.String())
	}
	err = errors.Join(err, recorded)
	return int(report.Events), err
}
