package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/pg"
)

// A Renewal is how a certificate is renewed.
type Renewal struct {
	State      string
	Attempts   int
	RetryEvery time.Duration
	Timeout    time.Duration
}

// LockForRenewal reads how a certificate is renewed and keeps its state from
// changing until the transaction ends.
func LockForRenewal(ctx context.Context, q pg.Q, id string) (Renewal, error) {
	rows, _ := q.Query(ctx, `
		select c.state, p.max_retries + 1 as attempts, p.retry_every_seconds * interval '1 second' as retry_every,
			p.attempt_timeout_seconds * interval '1 second' as timeout
		from certificates c join renewal_policies p on p.id = c.policy_id
		where c.id = $1
		for no key update of c`, id)
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Renewal])
	return r, pg.Fault(err, "certificate")
}

// TryAgain moves a certificate that could not be issued back to pending.
func TryAgain(ctx context.Context, q pg.Q, id string) (bool, error) {
	tag, err := q.Exec(ctx, `
		update certificates set state = 'pending', revision = revision + 1, updated_at = clock_timestamp()
		where id = $1 and state = 'failed'`, id)
	return tag.RowsAffected() == 1, pg.Fault(err, "certificate")
}

// QueueRenewals queues a job of the kind for up to limit certificates that are
// due and have none, the most urgent first, with the attempts of their policy.
// Rows that somebody is changing are left for the next time. A row that was
// renewed since this statement began is looked at as it is now, once its lock is
// had, and is no longer due: nothing is renewed twice.
func QueueRenewals(ctx context.Context, q pg.Q, kind string, priority int, by string, limit int) (int, error) {
	tag, err := q.Exec(ctx, `
		with due as (
			select c.id, c.policy_id from certificates c
			where c.renew_at <= (select clock_timestamp()) and c.state in ('active', 'expired')
			  and not exists (
				select from jobs j
				where j.certificate_id = c.id and j.kind in ('issue', 'renew') and j.state in ('pending', 'running', 'failed'))
			order by c.renew_at limit @limit
			for no key update of c skip locked
		)
		insert into jobs (id, kind, certificate_id, args, priority, max_attempts, retry_every, timeout, created_by)
		select 'job_' || replace(gen_random_uuid()::text, '-', ''), @kind, due.id, '{}', @priority, p.max_retries + 1,
			p.retry_every_seconds * interval '1 second', p.attempt_timeout_seconds * interval '1 second', @by
		from due join renewal_policies p on p.id = due.policy_id
		on conflict do nothing`,
		pgx.StrictNamedArgs{"kind": kind, "priority": priority, "by": by, "limit": limit})
	return int(tag.RowsAffected()), pg.Fault(err, "renewals")
}

// IssuedSince reports whether a certificate has a version of after at.
func IssuedSince(ctx context.Context, q pg.Q, id string, at time.Time) (since bool, err error) {
	err = q.QueryRow(ctx, `
		select exists (select from certificate_versions where certificate_id = $1 and created_at > $2)`, id, at).Scan(&since)
	return since, pg.Fault(err, "certificate")
}
