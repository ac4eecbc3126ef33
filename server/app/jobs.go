package app

import (
	"context"

	"github.com/jackc/pgx/v5"

	"certctl/server/api"
	"certctl/server/audit"
	"certctl/server/fault"
	"certctl/server/job"
	"certctl/server/pg"
	"certctl/server/store"
)

func (a *App) listJobs(ctx context.Context, in *api.JobQuery) (api.JobPage, error) {
	all, err := job.List(ctx, a.db, job.Filter{State: in.State, Kind: in.Kind, CertificateID: in.CertificateID, After: in.After}, in.Limit+1)
	page := api.JobPage{Items: all}
	if len(all) > in.Limit {
		page.Items = all[:in.Limit]
		page.Next = page.Items[in.Limit-1].Cursor()
	}
	return page, err
}

func (a *App) getJob(ctx context.Context, in *api.OneJob) (api.Job, error) {
	return job.ByID(ctx, a.db, in.ID)
}

// cancelJob cancels a job. What was waiting for it does not wait for ever: a
// certificate that was to be issued has failed, and one that was to be renewed is
// due again when its policy starts over.
func (a *App) cancelJob(ctx context.Context, in *api.OneJob) (api.Job, error) {
	return a.changeJob(ctx, in.ID, audit.JobCancelled, job.Cancel, func(ctx context.Context, tx pgx.Tx, j job.Job) (err error) {
		switch j.Kind {
		case job.Issue.Name:
			_, err = store.FailPending(ctx, tx, []string{*j.CertificateID})
		case job.Renew.Name:
			_, err = store.PostponeRenewal(ctx, tx, []string{*j.CertificateID})
		}
		return err
	})
}

// retryJob gives a job new attempts.
func (a *App) retryJob(ctx context.Context, in *api.OneJob) (api.Job, error) {
	j, err := a.changeJob(ctx, in.ID, audit.JobRetried, job.Again, func(ctx context.Context, tx pgx.Tx, j job.Job) error {
		if j.Kind == job.Bulk.Name {
			return fault.New(fault.Conflict, "an action on many certificates is resumed by %s", api.ResumeBulk.Path)
		}
		if j.FinishedAt != nil {
			since, err := store.IssuedSince(ctx, tx, *j.CertificateID, *j.FinishedAt)
			if err != nil {
				return err
			}
			if since {
				return fault.New(fault.Conflict, "the certificate was issued since the job ended; have it renewed instead")
			}
		}
		if j.Kind == job.Issue.Name {
			_, err := store.TryAgain(ctx, tx, *j.CertificateID)
			return err
		}
		return nil
	})
	if err == nil {
		a.jobs.Wake()
	}
	return j, err
}

func (a *App) changeJob(ctx context.Context, id string, action *audit.Action, change func(context.Context, pg.Q, string) (job.Job, error), also func(context.Context, pgx.Tx, job.Job) error) (api.Job, error) {
	var j job.Job
	err := pg.InTx(ctx, a.db, func(tx pgx.Tx) (err error) {
		// The order of locks is that of an attempt: the job, the policy, the
		// certificate. The job changes last: whoever has the certificate and looks
		// for an open job waits for a change that is under way.
		if j, err = job.Lock(ctx, tx, id); err != nil {
			return err
		}
		if j.CertificateID != nil {
			if err := store.KeepPolicies(ctx, tx, []string{*j.CertificateID}); err != nil {
				return err
			}
			if err := store.LockCertificates(ctx, tx, []string{*j.CertificateID}); err != nil {
				return err
			}
		}
		if err := also(ctx, tx, j); err != nil {
			return err
		}
		if j, err = change(ctx, tx, id); err != nil {
			return err
		}
		return audit.Write(ctx, tx, audit.Event{
			Action: action, ResourceKind: "job", ResourceID: id, Details: map[string]string{"kind": j.Kind},
		})
	})
	return j, err
}
