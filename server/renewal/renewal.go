// Package renewal decides when a certificate is renewed, and queues the job.
package renewal

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"certctl/server/audit"
	"certctl/server/cert"
	"certctl/server/fault"
	"certctl/server/job"
	"certctl/server/pg"
	"certctl/server/store"
)

// Renewals queues renewals.
type Renewals struct {
	DB      *pgxpool.Pool
	Replica string
	Wake    func() // tells this replica that jobs were queued
}

// batch bounds the certificates that one statement locks.
const batch = 500

// Check queues a renewal for every certificate that is due.
func (r *Renewals) Check(ctx context.Context) (int, error) {
	total := 0
	for {
		n, err := store.QueueRenewals(ctx, r.DB, job.Renew.Name, job.Renew.Priority, r.Replica, batch)
		total += n
		if n > 0 {
			r.Wake()
		}
		if err != nil || n < batch {
			return total, err
		}
	}
}

// OneCertificate names a certificate.
type OneCertificate struct {
	ID string `path:"id" maxLength:"64" doc:"id of the certificate"`
}

// Queued is a job that was queued.
type Queued struct {
	JobID string `json:"job_id"`
}

// Renew queues a renewal, whether it is due or not. A certificate that could
// not be issued is tried again.
func (r *Renewals) Renew(ctx context.Context, in *OneCertificate) (Queued, error) {
	var id string
	err := pg.InTx(ctx, r.DB, func(tx pgx.Tx) (err error) {
		id, err = Queue(ctx, tx, in.ID)
		if err != nil {
			return err
		}
		return audit.Write(ctx, tx, audit.Event{
			Action: audit.RenewalQueued, ResourceKind: "certificate", ResourceID: in.ID, Details: map[string]string{"job": id},
		})
	})
	if err == nil {
		r.Wake()
	}
	return Queued{id}, err
}

// Queue queues a renewal as part of the transaction, with the attempts that the
// certificate's policy allows.
func Queue(ctx context.Context, tx pgx.Tx, id string) (string, error) {
	c, err := store.LockForRenewal(ctx, tx, id)
	if err != nil {
		return "", err
	}
	n := job.New{CertificateID: id, Attempts: c.Attempts, RetryEvery: c.RetryEvery, Timeout: c.Timeout}
	switch c.State {
	case cert.Active.Name, cert.Expired.Name:
		return job.Renew.Enqueue(ctx, tx, n, job.CertArgs{})
	case cert.Failed.Name:
		if _, err := store.TryAgain(ctx, tx, id); err != nil {
			return "", err
		}
		return job.Issue.Enqueue(ctx, tx, n, job.CertArgs{})
	case cert.Pending.Name:
		return "", fault.New(fault.Conflict, "the certificate is being issued for the first time; its job says how far it has come")
	}
	return "", fault.New(fault.Conflict, "the certificate is %s and is not renewed; ask for another one", c.State)
}
