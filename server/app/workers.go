package app

import "certctl/server/job"

// Workers does every kind of job.
func (a *App) Workers() []job.Worker {
	return []job.Worker{
		job.Issue.Worker(a.issuance.First, a.issuance.FirstDied),
		job.Renew.Worker(a.issuance.Renew, a.issuance.RenewDied),
		job.Bulk.Worker(a.bulk.Work, nil),
	}
}
