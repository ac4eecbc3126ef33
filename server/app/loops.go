package app

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/audit"
	"certctl/server/config"
	"certctl/server/job"
	"certctl/server/limit"
	"certctl/server/outbox"
	"certctl/server/schedule"
	"certctl/server/store"
)

// Loops binds every loop to the function that does one pass.
func (a *App) Loops() []schedule.Binding {
	return []schedule.Binding{
		schedule.AuditSequence.Do(func(ctx context.Context, p *schedule.Pass) (int, error) {
			return a.trail.Sequence(ctx, p.Token, func(ctx context.Context, f func(pgx.Tx) error) error { return p.InTx(ctx, f) })
		}),
		schedule.AuditChainVerify.Do(a.verifyChain),
		schedule.RenewalCheck.Do(func(ctx context.Context, _ *schedule.Pass) (int, error) {
			queued, err := a.renewals.Check(ctx)
			told, err2 := a.alerts.Expiring(ctx)
			return queued + told, errors.Join(err, err2)
		}),
		schedule.JobProcessor.Do(func(ctx context.Context, p *schedule.Pass) (int, error) {
			return a.jobs.Pass(a.itself(ctx), p.Stopping())
		}).WokenBy(a.jobs.Woken()),
		schedule.JobRetry.Do(func(ctx context.Context, _ *schedule.Pass) (int, error) {
			n, err := job.Retry(ctx, a.db)
			if n > 0 {
				a.jobs.Wake()
			}
			return n, err
		}),
		schedule.JobTimeout.Do(func(ctx context.Context, _ *schedule.Pass) (int, error) { return a.jobs.Reclaim(a.itself(ctx)) }),
		schedule.NotificationProcess.Do(func(ctx context.Context, p *schedule.Pass) (int, error) {
			return a.outbox.Pass(a.itself(ctx), p.Stopping())
		}).WokenBy(a.outbox.Woken()),
		schedule.NotificationRetry.Do(func(ctx context.Context, _ *schedule.Pass) (int, error) {
			retried, err := outbox.Retry(ctx, a.db)
			taken, err2 := a.outbox.Reclaim(a.itself(ctx))
			if retried+taken > 0 {
				a.outbox.Wake()
			}
			return retried + taken, errors.Join(err, err2)
		}),
		schedule.Digest.Do(func(ctx context.Context, p *schedule.Pass) (int, error) { return a.alerts.Digest(ctx, p.InTx) }),
		schedule.ShortLivedExpiryCheck.Do(func(ctx context.Context, p *schedule.Pass) (int, error) {
			return a.inventory.Expire(a.itself(ctx), p.InTx)
		}),
		schedule.CRLGeneration.Do(func(ctx context.Context, _ *schedule.Pass) (int, error) {
			return a.revocation.Generate(a.itself(ctx))
		}),
		schedule.RateLimitGC.Do(func(ctx context.Context, _ *schedule.Pass) (int, error) { return limit.Collect(ctx, a.db) }),
		schedule.Retention.Do(schedule.Prune(retentions, a.settings)),
	}
}

// retentions are the tables that the retention loop prunes.
var retentions = []schedule.Retained{
	{
		Table: "loop_runs", Keep: config.LoopRunsKeep, Delete: schedule.DeleteRuns,
		Does: "passes that have ended, counted from their start",
	},
	{
		Table: "jobs", Keep: config.JobsKeep, Delete: job.DeleteFinished,
		Does: "jobs that have ended, counted from their end, with the actions on many certificates that they did",
	},
	{
		Table: "notifications", Keep: config.NotificationsKeep, Delete: outbox.DeleteFinished,
		Does: "notifications that were sent, given up or withdrawn, counted from then; a warning is kept as long as its version could be warned of again",
	},
	{
		Table: "idempotency_keys", Keep: config.IdempotencyKeep, Delete: store.DeleteIdempotencyKeys,
		Does: "answers to creates that named an idempotency key, counted from the answer",
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
