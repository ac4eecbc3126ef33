package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/pg"
)

// A Policy says when certificates are renewed, how often that is tried, and
// when to warn.
type Policy struct {
	ID                    string    `json:"id"`
	Name                  string    `json:"name"`
	Description           string    `json:"description"`
	AutoRenew             bool      `json:"auto_renew" doc:"whether certificates are renewed by themselves"`
	RenewBeforeSeconds    int64     `json:"renew_before_seconds" doc:"how long before its end a certificate is renewed, at the earliest after the first third of its life; spread by up to a tenth"`
	MaxRetries            int       `json:"max_retries" doc:"attempts after the first one"`
	RetryEverySeconds     int64     `json:"retry_every_seconds" doc:"the wait before the second attempt; it doubles from then on"`
	AttemptTimeoutSeconds int64     `json:"attempt_timeout_seconds"`
	StartOverAfterSeconds int64     `json:"start_over_after_seconds" doc:"the wait after the last attempt has failed"`
	AlertDays             []int32   `json:"alert_days" nullable:"false" doc:"how many days before its end to warn of a certificate, the most first"`
	Revision              int64     `json:"revision" doc:"counts changes"`
	CreatedAt             time.Time `json:"created_at"`
	UpdatedAt             time.Time `json:"updated_at"`
}

const policyColumns = `
	id, name, description, auto_renew, renew_before_seconds, max_retries, retry_every_seconds, attempt_timeout_seconds,
	start_over_after_seconds, alert_days, revision, created_at, updated_at`

// Policies returns up to limit renewal policies by name, from the first whose
// name comes after the given one.
func Policies(ctx context.Context, q pg.Q, after string, limit int) ([]Policy, error) {
	rows, _ := q.Query(ctx, `select `+policyColumns+` from renewal_policies where name > @after order by name limit @limit`,
		pgx.StrictNamedArgs{"after": after, "limit": limit})
	policies, err := pgx.CollectRows(rows, pgx.RowToStructByName[Policy])
	return policies, pg.Fault(err, "renewal policies")
}

// PolicyByID returns one renewal policy.
func PolicyByID(ctx context.Context, q pg.Q, id string) (Policy, error) {
	rows, _ := q.Query(ctx, `select `+policyColumns+` from renewal_policies where id = $1`, id)
	return policy(rows)
}

// LockPolicyForChange returns a renewal policy and keeps others from changing
// it, and certificates from changing to it, until the transaction ends.
func LockPolicyForChange(ctx context.Context, q pg.Q, id string) (Policy, error) {
	rows, _ := q.Query(ctx, `select `+policyColumns+` from renewal_policies where id = $1 for no key update`, id)
	return policy(rows)
}

// InsertPolicy adds a renewal policy.
func InsertPolicy(ctx context.Context, q pg.Q, p Policy) (Policy, error) {
	rows, _ := q.Query(ctx, `
		insert into renewal_policies (
			id, name, description, auto_renew, renew_before_seconds, max_retries, retry_every_seconds,
			attempt_timeout_seconds, start_over_after_seconds, alert_days)
		values (
			@id, @name, @description, @auto_renew, @renew_before, @max_retries, @retry_every, @attempt_timeout,
			@start_over_after, @alert_days)
		returning `+policyColumns, policyArgs(p))
	return policy(rows)
}

// ChangePolicy sets what callers may change of a renewal policy.
func ChangePolicy(ctx context.Context, q pg.Q, p Policy) (Policy, error) {
	rows, _ := q.Query(ctx, `
		update renewal_policies
		set name = @name, description = @description, auto_renew = @auto_renew, renew_before_seconds = @renew_before,
		    max_retries = @max_retries, retry_every_seconds = @retry_every, attempt_timeout_seconds = @attempt_timeout,
		    start_over_after_seconds = @start_over_after, alert_days = @alert_days,
		    revision = revision + 1, updated_at = clock_timestamp()
		where id = @id
		returning `+policyColumns, policyArgs(p))
	return policy(rows)
}

// ChangePolicyTimes does as ChangePolicy, and has the certificates of the policy
// renewed when it says now, also those whose renewal was postponed.
//
// Whoever issues one of them, or postpones its renewal, keeps the policy as it is
// until that is committed, and is waited for (KeepPolicies).
func ChangePolicyTimes(ctx context.Context, q pg.Q, p Policy) (Policy, error) {
	// Taken before the row changes, or who refers to it would not wait for that.
	if _, err := q.Exec(ctx, `select from renewal_policies where id = $1 for update`, p.ID); err != nil {
		return p, pg.Fault(err, "renewal policy")
	}
	p, err := ChangePolicy(ctx, q, p)
	if err != nil {
		return p, err
	}
	return p, moveRenewals(ctx, q, p)
}

func moveRenewals(ctx context.Context, q pg.Q, p Policy) error {
	_, err := q.Exec(ctx, `
		update certificates
		set renew_at = case when @auto_renew then renewal_time(id, not_before, not_after, @renew_before) end,
		    updated_at = clock_timestamp()
		where policy_id = @id and version is not null and state in ('active', 'expired', 'held')
		  and renew_at is distinct from case when @auto_renew then renewal_time(id, not_before, not_after, @renew_before) end`,
		pgx.StrictNamedArgs{"id": p.ID, "auto_renew": p.AutoRenew, "renew_before": p.RenewBeforeSeconds})
	return pg.Fault(err, "certificates")
}

func policyArgs(p Policy) pgx.StrictNamedArgs {
	return pgx.StrictNamedArgs{
		"id": p.ID, "name": p.Name, "description": p.Description, "auto_renew": p.AutoRenew,
		"renew_before": p.RenewBeforeSeconds, "max_retries": p.MaxRetries, "retry_every": p.RetryEverySeconds,
		"attempt_timeout": p.AttemptTimeoutSeconds, "start_over_after": p.StartOverAfterSeconds, "alert_days": p.AlertDays,
	}
}

func policy(rows pgx.Rows) (Policy, error) {
	p, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Policy])
	return p, pg.Fault(err, "renewal policy")
}

// DeletePolicy deletes a renewal policy that nothing refers to.
func DeletePolicy(ctx context.Context, q pg.Q, id string) error {
	_, err := q.Exec(ctx, `delete from renewal_policies where id = $1`, id)
	return pg.Fault(err, "renewal policy")
}
