// Package job is the queue: work that is done once, on whichever of the
// replicas, and tried again when it fails.
//
// A job is a row. A replica claims it under a lease, and under a token that
// counts the claims; whoever lost the lease can write nothing any more, for
// what a job does is written in a transaction that looks at both (Task.Complete,
// Task.Save). A replica that ends, freezes or loses the database gives up its
// jobs by saying nothing: Runner.Reclaim takes them once their leases have run
// out. What a worker did outside the database by then is done a second time by
// the next attempt, unless what it left by Save keeps it from that.
package job

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/cert"
	"certctl/server/fault"
	"certctl/server/perm"
	"certctl/server/pg"
)

// A Job is what the queue knows of a piece of work.
type Job struct {
	ID                string          `json:"id"`
	Kind              string          `json:"kind"`
	State             string          `json:"state" doc:"pending, running, failed (to be tried again), done, dead (failed for good) or cancelled"`
	CertificateID     *string         `json:"certificate_id,omitempty"`
	Args              json.RawMessage `json:"args"`
	Priority          int             `json:"priority" doc:"the smallest first"`
	Attempts          int             `json:"attempts" doc:"that were begun"`
	MaxAttempts       int             `json:"max_attempts"`
	RetryEverySeconds int64           `json:"retry_every_seconds" doc:"before the second attempt; it doubles from then on"`
	TimeoutSeconds    int64           `json:"timeout_seconds" doc:"of one attempt"`
	RunAt             time.Time       `json:"run_at" doc:"when the next attempt is due, or the last one was"`
	Worker            string          `json:"worker,omitempty" doc:"the replica that claimed it last"`
	StartedAt         *time.Time      `json:"started_at,omitempty" doc:"the last attempt"`
	FinishedAt        *time.Time      `json:"finished_at,omitempty"`
	Error             string          `json:"error,omitempty" doc:"of the last attempt that failed, or why it was cancelled"`
	CreatedAt         time.Time       `json:"created_at"`
	CreatedBy         string          `json:"created_by"`
}

// New is what a job can have of its own. What is zero is that of the kind.
type New struct {
	ID            string
	CertificateID string
	Attempts      int
	RetryEvery    time.Duration
	Timeout       time.Duration
	Priority      int
	CreatedBy     string // who acts in the context, without it
}

// Enqueue queues a job as part of the transaction that q is, and returns its
// id. A certificate that is being issued or renewed is refused with
// fault.Conflict, and the transaction goes on.
func (k Kind[A]) Enqueue(ctx context.Context, q pg.Q, n New, args A) (string, error) {
	text, err := json.Marshal(args)
	if err != nil {
		return "", fmt.Errorf("arguments of the job: %w", err)
	}
	id := cmp.Or(n.ID, cert.NewID("job"))
	tag, err := q.Exec(ctx, enqueue, pgx.StrictNamedArgs{
		"id": id, "kind": k.Name, "certificate": n.CertificateID, "args": string(text),
		"priority": cmp.Or(n.Priority, k.Priority), "attempts": cmp.Or(n.Attempts, k.Attempts),
		"retry_every": cmp.Or(n.RetryEvery, k.RetryEvery), "timeout": cmp.Or(n.Timeout, k.Timeout),
		"by": cmp.Or(n.CreatedBy, perm.From(ctx).ID),
	})
	switch {
	case err != nil:
		return "", pg.Fault(err, "job")
	case tag.RowsAffected() == 0:
		return "", busy(ctx, q, n.CertificateID)
	}
	return id, nil
}

// busy says which job a certificate has already.
func busy(ctx context.Context, q pg.Q, certificateID string) error {
	rows, _ := q.Query(ctx, openIssuance, pgx.StrictNamedArgs{"certificate": certificateID, "kinds": issuance})
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	switch {
	case err != nil:
		return pg.Fault(err, "job")
	case len(ids) == 0:
		return fault.New(fault.Conflict, "the certificate was being issued or renewed; try again")
	}
	return fault.New(fault.Conflict, "the certificate is already being issued or renewed (job %s); wait for it, or cancel it", ids[0])
}

// ByID returns one job.
func ByID(ctx context.Context, q pg.Q, id string) (Job, error) {
	rows, _ := q.Query(ctx, selectJob+`where id = @id`, pgx.StrictNamedArgs{"id": id})
	j, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Job])
	return j, pg.Fault(err, "job")
}

// Lock returns one job and keeps it as it is until the transaction ends.
func Lock(ctx context.Context, q pg.Q, id string) (Job, error) {
	rows, _ := q.Query(ctx, selectJob+`where id = @id for no key update`, pgx.StrictNamedArgs{"id": id})
	j, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Job])
	return j, pg.Fault(err, "job")
}

// A Filter chooses jobs. What is empty chooses all.
type Filter struct {
	State         string
	Kind          string
	CertificateID string
	After         string // Cursor of the last job of the page before
}

// List returns up to limit jobs, newest first.
func List(ctx context.Context, q pg.Q, f Filter, limit int) ([]Job, error) {
	at, id, err := pg.Position(f.After)
	if err != nil {
		return nil, err
	}
	sql, args := listJobs, pgx.StrictNamedArgs{"kind": f.Kind, "at": at, "after": id, "limit": limit}
	switch {
	case f.CertificateID != "":
		sql, args["certificate"], args["state"] = listOfCertificate, f.CertificateID, f.State
	case f.State != "":
		sql, args["state"] = listInState, f.State
	}
	rows, _ := q.Query(ctx, sql, args)
	jobs, err := pgx.CollectRows(rows, pgx.RowToStructByName[Job])
	return jobs, pg.Fault(err, "jobs")
}

// Cursor is where j stands in a list.
func (j *Job) Cursor() string {
	return pg.Cursor(j.CreatedAt, j.ID)
}

// Cancel ends a job that has not ended. A replica that does it finds out soon,
// and can write nothing of it any more. What that means for the job's
// certificate is the caller's to write, in the same transaction.
func Cancel(ctx context.Context, q pg.Q, id string) (Job, error) {
	return change(ctx, q, id, cancel, "is %s; only one that is pending, running or failed can be cancelled")
}

// Again gives a dead job all its attempts back. It goes on with what the last
// one left.
func Again(ctx context.Context, q pg.Q, id string) (Job, error) {
	j, err := change(ctx, q, id, again, "is %s; only a dead one can be given new attempts")
	if pg.Code(err) == pg.UniqueViolation {
		err = &fault.Error{Kind: fault.Conflict, Msg: "the certificate is being issued or renewed by another job; wait for it, or cancel it", Err: err}
	}
	return j, err
}

// change runs a guarded statement on a job, or says why it did nothing.
func change(ctx context.Context, q pg.Q, id, sql, refusal string) (Job, error) {
	rows, _ := q.Query(ctx, sql, pgx.StrictNamedArgs{"id": id})
	changed, err := pgx.CollectRows(rows, pgx.RowToStructByName[Job])
	switch {
	case err != nil:
		return Job{}, pg.Fault(err, "job")
	case len(changed) == 1:
		return changed[0], nil
	}
	j, err := ByID(ctx, q, id)
	if err == nil {
		err = fault.New(fault.Conflict, "the job "+refusal, j.State)
	}
	return j, err
}

// CancelFor cancels what would issue or renew the certificates. Their jobs have
// to be locked before the certificates are (store.LockCertificates). One that was
// queued since and is being ended is left: it waits for the certificate, and is
// refused then.
func CancelFor(ctx context.Context, q pg.Q, certificateIDs []string, why string) error {
	_, err := q.Exec(ctx, cancelFor, pgx.StrictNamedArgs{"certificates": certificateIDs, "kinds": issuance, "why": why})
	return pg.Fault(err, "jobs")
}

// batch bounds the rows that one statement of a loop changes.
const batch = 1000

// Retry queues failed jobs again whose time has come. Nothing else does.
func Retry(ctx context.Context, q pg.Q) (int, error) {
	total := 0
	for {
		tag, err := q.Exec(ctx, retry, pgx.StrictNamedArgs{"limit": batch})
		n := int(tag.RowsAffected())
		total += n
		if err != nil || n < batch {
			return total, pg.Fault(err, "jobs")
		}
	}
}

// A StateCount is how many jobs are in a state.
type StateCount struct {
	State string
	Count int64
}

// Open counts the jobs that have not ended.
func Open(ctx context.Context, q pg.Q) ([]StateCount, error) {
	rows, _ := q.Query(ctx, countOpen)
	counts, err := pgx.CollectRows(rows, pgx.RowToStructByName[StateCount])
	return counts, pg.Fault(err, "jobs")
}

// QueueAge is how long the oldest job has been due that nobody has claimed.
func QueueAge(ctx context.Context, q pg.Q) (time.Duration, error) {
	var age time.Duration
	err := q.QueryRow(ctx, queueAge).Scan(&age)
	return age, pg.Fault(err, "jobs")
}

// DeleteFinished deletes jobs that ended before keep ago, with the bulk
// operations that they did.
func DeleteFinished(ctx context.Context, q pg.Q, keep time.Duration, limit int) (int64, error) {
	tag, err := q.Exec(ctx, deleteFinished, pgx.StrictNamedArgs{"keep": keep, "limit": limit})
	return tag.RowsAffected(), pg.Fault(err, "jobs")
}
