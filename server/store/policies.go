package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/pg"
)

// A Policy says when certificates are renewed, how often that is tried, and
// when to warn.
type Policy struct {
	ID                    string          `json:"id"`
	Name                  string          `json:"name"`
	Description           string          `json:"description"`
	AutoRenew             bool            `json:"auto_renew" doc:"whether certificates are renewed by themselves"`
	RenewBeforeSeconds    int64           `json:"renew_before_seconds" doc:"how long before its end a certificate is renewed, at the earliest after the first third of its life; spread by up to a tenth"`
	MaxRetries            int             `json:"max_retries" doc:"attempts after the first one"`
	RetryEverySeconds     int64           `json:"retry_every_seconds" doc:"the wait before the second attempt; it doubles from then on"`
	AttemptTimeoutSeconds int64           `json:"attempt_timeout_seconds"`
	StartOverAfterSeconds int64           `json:"start_over_after_seconds" doc:"the wait after the last attempt has failed"`
	Alerts                []Alert         `json:"alerts" nullable:"false" doc:"when to warn of the end of a certificate, the most days first"`
	Channels              []PolicyChannel `json:"channels" nullable:"false" doc:"who is told of the certificates"`
	Revision              int64           `json:"revision" doc:"counts changes"`
	CreatedAt             time.Time       `json:"created_at"`
	UpdatedAt             time.Time       `json:"updated_at"`
}

// An Alert says how many days before the end of a certificate to warn of it. A
// threshold counts in the second half of a certificate's life.
type Alert struct {
	Days     int32  `json:"days" minimum:"0" maximum:"365" doc:"before the end; 0 is the end itself"`
	Severity string `json:"severity" minLength:"1" maxLength:"20" doc:"how bad that is"`
}

// A PolicyChannel is a channel that is told of the certificates of a policy.
type PolicyChannel struct {
	ChannelID string `json:"channel_id" minLength:"1" maxLength:"255" doc:"id of the channel; a request may give its name"`
	From      string `json:"from" minLength:"1" maxLength:"20" doc:"the least severe events that it is told of"`
}

const policyColumns = `
	id, name, description, auto_renew, renew_before_seconds, max_retries, retry_every_seconds, attempt_timeout_seconds,
	start_over_after_seconds, alerts, revision, created_at, updated_at,
	(select coalesce(jsonb_agg(jsonb_build_object('channel_id', channel_id, 'from', from_severity) order by channel_id), '[]')
	 from policy_channels where policy_id = renewal_policies.id) as channels`

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

// InsertPolicy adds a renewal policy with its channels.
func InsertPolicy(ctx context.Context, q pg.Q, p Policy) (Policy, error) {
	args, err := policyArgs(p)
	if err == nil {
		_, err = q.Exec(ctx, `
			insert into renewal_policies (
				id, name, description, auto_renew, renew_before_seconds, max_retries, retry_every_seconds,
				attempt_timeout_seconds, start_over_after_seconds, alerts)
			values (
				@id, @name, @description, @auto_renew, @renew_before, @max_retries, @retry_every, @attempt_timeout,
				@start_over_after, @alerts::text::jsonb)`, args)
	}
	if err != nil {
		return p, pg.Fault(err, "renewal policy")
	}
	return setChannels(ctx, q, p)
}

// ChangePolicy sets what callers may change of a renewal policy.
func ChangePolicy(ctx context.Context, q pg.Q, p Policy) (Policy, error) {
	if err := changePolicy(ctx, q, p); err != nil {
		return p, err
	}
	return setChannels(ctx, q, p)
}

func changePolicy(ctx context.Context, q pg.Q, p Policy) error {
	args, err := policyArgs(p)
	if err == nil {
		_, err = q.Exec(ctx, `
			update renewal_policies
			set name = @name, description = @description, auto_renew = @auto_renew, renew_before_seconds = @renew_before,
			    max_retries = @max_retries, retry_every_seconds = @retry_every, attempt_timeout_seconds = @attempt_timeout,
			    start_over_after_seconds = @start_over_after, alerts = @alerts::text::jsonb,
			    revision = revision + 1, updated_at = clock_timestamp()
			where id = @id`, args)
	}
	return pg.Fault(err, "renewal policy")
}

// setChannels makes the channels of a policy those that p has, and returns the
// policy as it is then.
func setChannels(ctx context.Context, q pg.Q, p Policy) (Policy, error) {
	var ids, from []string
	for _, c := range p.Channels {
		ids, from = append(ids, c.ChannelID), append(from, c.From)
	}
	_, err := q.Exec(ctx, `
		with new as (
			select channel_id, from_severity from unnest(@channels::text[], @from::text[]) n (channel_id, from_severity)
		), gone as (
			delete from policy_channels where policy_id = @id and channel_id not in (select channel_id from new)
		)
		insert into policy_channels (policy_id, channel_id, from_severity)
		select @id, channel_id, from_severity from new
		on conflict (policy_id, channel_id) do update set from_severity = excluded.from_severity`,
		pgx.StrictNamedArgs{"id": p.ID, "channels": ids, "from": from})
	if err != nil {
		return p, pg.Fault(err, "renewal policy")
	}
	return PolicyByID(ctx, q, p.ID)
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
	if err := changePolicy(ctx, q, p); err != nil {
		return p, err
	}
	if err := moveRenewals(ctx, q, p); err != nil {
		return p, err
	}
	return setChannels(ctx, q, p)
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

func policyArgs(p Policy) (pgx.StrictNamedArgs, error) {
	alerts, err := json.Marshal(p.Alerts)
	return pgx.StrictNamedArgs{
		"id": p.ID, "name": p.Name, "description": p.Description, "auto_renew": p.AutoRenew,
		"renew_before": p.RenewBeforeSeconds, "max_retries": p.MaxRetries, "retry_every": p.RetryEverySeconds,
		"attempt_timeout": p.AttemptTimeoutSeconds, "start_over_after": p.StartOverAfterSeconds, "alerts": string(alerts),
	}, err
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
