package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/pg"
)

// BulkCriteria choose certificates: those that meet all that are given.
// Archived ones are never among them.
type BulkCriteria struct {
	IDs           []string          `json:"ids,omitempty" maxItems:"10000" nullable:"false" doc:"ids of certificates"`
	States        []string          `json:"states,omitempty" maxItems:"10" nullable:"false"`
	IssuerID      string            `json:"issuer_id,omitempty" maxLength:"64"`
	ProfileID     string            `json:"profile_id,omitempty" maxLength:"64"`
	PolicyID      string            `json:"policy_id,omitempty" maxLength:"64"`
	OwnerID       string            `json:"owner_id,omitempty" maxLength:"64"`
	TeamID        string            `json:"team_id,omitempty" maxLength:"64"`
	Environment   string            `json:"environment,omitempty" maxLength:"100"`
	Tags          map[string]string `json:"tags,omitempty" nullable:"false" doc:"all of them"`
	ExpiresBefore *time.Time        `json:"expires_before,omitempty" doc:"whose current version ends before"`
	All           bool              `json:"all,omitempty" doc:"every certificate; has to be said where nothing else is"`
}

const bulkMatches = `
	c.state <> 'archived'
	and (@ids::text[] is null or c.id = any(@ids)) and (@states::text[] is null or c.state = any(@states))
	and (@issuer = '' or c.issuer_id = @issuer) and (@profile = '' or c.profile_id = @profile)
	and (@policy = '' or c.policy_id = @policy) and (@owner = '' or c.owner_id = @owner)
	and (@team = '' or c.team_id = @team) and (@environment = '' or c.environment = @environment)
	and (@tags::text::jsonb = '{}' or c.tags @> @tags::text::jsonb)
	and (@before::timestamptz is null or c.not_after < @before)`

func (c BulkCriteria) args() (pgx.StrictNamedArgs, error) {
	tags, err := json.Marshal(c.Tags)
	if c.Tags == nil {
		tags = []byte(`{}`)
	}
	return pgx.StrictNamedArgs{
		"ids": c.IDs, "states": c.States, "issuer": c.IssuerID, "profile": c.ProfileID, "policy": c.PolicyID,
		"owner": c.OwnerID, "team": c.TeamID, "environment": c.Environment, "tags": string(tags), "before": c.ExpiresBefore,
	}, err
}

// A BulkMatch counts certificates that criteria choose.
type BulkMatch struct {
	State string `json:"state"`
	Busy  bool   `json:"busy" doc:"whether a job is issuing or renewing them"`
	Count int    `json:"count"`
}

// BulkMatches counts what the criteria choose now.
func BulkMatches(ctx context.Context, q pg.Q, c BulkCriteria) ([]BulkMatch, error) {
	args, err := c.args()
	if err != nil {
		return nil, err
	}
	rows, _ := q.Query(ctx, `
		select c.state, j.certificate_id is not null as busy, count(*) as count
		from certificates c
		left join jobs j on j.certificate_id = c.id and j.kind in ('issue', 'renew') and j.state in ('pending', 'running', 'failed')
		where `+bulkMatches+` group by 1, 2 order by 1, 2`, args)
	m, err := pgx.CollectRows(rows, pgx.RowToStructByName[BulkMatch])
	return m, pg.Fault(err, "certificates")
}

// A BulkOperation is one action on many certificates.
type BulkOperation struct {
	ID         string          `json:"id"`
	Action     string          `json:"action"`
	Args       json.RawMessage `json:"args" doc:"of the action; ids of certificates that it names are left out, as its items have them"`
	JobID      string          `json:"job_id" doc:"of the job that does it"`
	JobState   string          `json:"job_state"`
	Total      int             `json:"total" doc:"certificates that were chosen when it was asked for"`
	Open       int             `json:"open" doc:"not tried yet"`
	Done       int             `json:"done"`
	Skipped    int             `json:"skipped"`
	Failed     int             `json:"failed"`
	CreatedAt  time.Time       `json:"created_at"`
	CreatedBy  string          `json:"created_by"`
	FinishedAt *time.Time      `json:"finished_at,omitempty"`
}

// InsertBulk records an operation on what the criteria choose now, and returns
// it with how many certificates that are.
func InsertBulk(ctx context.Context, q pg.Q, o BulkOperation, c BulkCriteria) (BulkOperation, error) {
	args, err := c.args()
	if err != nil {
		return o, err
	}
	_, err = q.Exec(ctx, `
		insert into bulk_operations (id, action, args, job_id, created_by)
		values (@id, @action, @args::text::jsonb, @job, @by)`,
		pgx.StrictNamedArgs{"id": o.ID, "action": o.Action, "args": string(o.Args), "job": o.JobID, "by": o.CreatedBy})
	if err != nil {
		return o, pg.Fault(err, "bulk operation")
	}
	args["operation"] = o.ID
	_, err = q.Exec(ctx, `
		with chosen as (
			insert into bulk_items (operation_id, certificate_id)
			select @operation, c.id from certificates c where `+bulkMatches+`
			returning 1
		)
		update bulk_operations set total = (select count(*) from chosen) where id = @operation`, args)
	if err != nil {
		return o, pg.Fault(err, "bulk operation")
	}
	return BulkByID(ctx, q, o.ID)
}

const selectBulk = `
	select o.id, o.action, o.args #- '{criteria,ids}' as args, o.job_id, j.state as job_state, o.created_at, o.created_by, o.finished_at,
		o.total, o.total - o.done - o.skipped - o.failed as open, o.done, o.skipped, o.failed
	from bulk_operations o
	join jobs j on j.id = o.job_id`

// BulkByID returns one operation, with how far it has come.
func BulkByID(ctx context.Context, q pg.Q, id string) (BulkOperation, error) {
	rows, _ := q.Query(ctx, selectBulk+` where o.id = $1`, id)
	o, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[BulkOperation])
	return o, pg.Fault(err, "bulk operation")
}

// Bulks returns up to limit operations, newest first, that come after the one
// with the id after.
func Bulks(ctx context.Context, q pg.Q, after string, limit int) ([]BulkOperation, error) {
	rows, _ := q.Query(ctx, selectBulk+`
		where @after = '' or (o.created_at, o.id) < (select created_at, id from bulk_operations where id = @after)
		order by o.created_at desc, o.id desc limit @limit`, pgx.StrictNamedArgs{"after": after, "limit": limit})
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[BulkOperation])
	return all, pg.Fault(err, "bulk operations")
}

// A BulkItem is what became of one certificate.
type BulkItem struct {
	CertificateID string  `json:"certificate_id"`
	Outcome       *string `json:"outcome,omitempty" enum:"done,skipped,failed" doc:"absent until it was tried"`
	Message       string  `json:"message,omitempty" doc:"why it was skipped or failed"`
}

// BulkItems returns up to limit items, by certificate, that come after the
// certificate with the id after; only those with the outcome if there is one.
func BulkItems(ctx context.Context, q pg.Q, operation, outcome, after string, limit int) ([]BulkItem, error) {
	rows, _ := q.Query(ctx, `
		select certificate_id, outcome, message from bulk_items
		where operation_id = @operation and certificate_id > @after
		  and (@outcome = '' or outcome = @outcome or (@outcome = 'open' and outcome is null))
		order by certificate_id limit @limit`,
		pgx.StrictNamedArgs{"operation": operation, "outcome": outcome, "after": after, "limit": limit})
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[BulkItem])
	return all, pg.Fault(err, "bulk operation")
}

// OpenBulkItems returns certificates of an operation that were not tried yet.
func OpenBulkItems(ctx context.Context, q pg.Q, operation string, limit int) ([]string, error) {
	rows, _ := q.Query(ctx, `
		select certificate_id from bulk_items
		where operation_id = $1 and outcome is null order by certificate_id limit $2`, operation, limit)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return ids, pg.Fault(err, "bulk operation")
}

// An Outcome is what became of one certificate in an action on many.
type Outcome struct {
	ID      string `json:"id"`
	Outcome string `json:"outcome"` // one of the below
	Message string `json:"message"`
}

// The outcomes.
const (
	Done    = "done"
	Skipped = "skipped"
	Failed  = "failed"
)

// CloseBulkItems records outcomes.
func CloseBulkItems(ctx context.Context, q pg.Q, operation string, outcomes []Outcome) error {
	var ids, results, messages []string
	for _, o := range outcomes {
		ids, results, messages = append(ids, o.ID), append(results, o.Outcome), append(messages, o.Message)
	}
	_, err := q.Exec(ctx, `
		with closed as (
			update bulk_items i set outcome = u.outcome, message = u.message
			from unnest(@ids::text[], @outcomes::text[], @messages::text[]) u (id, outcome, message)
			where i.operation_id = @operation and i.certificate_id = u.id and i.outcome is null
			returning i.outcome
		)
		update bulk_operations set
			done = done + (select count(*) from closed where outcome = 'done'),
			skipped = skipped + (select count(*) from closed where outcome = 'skipped'),
			failed = failed + (select count(*) from closed where outcome = 'failed')
		where id = @operation`,
		pgx.StrictNamedArgs{"operation": operation, "ids": ids, "outcomes": results, "messages": messages})
	return pg.Fault(err, "bulk operation")
}

// FinishBulk records the end of an operation.
func FinishBulk(ctx context.Context, q pg.Q, id string) error {
	_, err := q.Exec(ctx, `update bulk_operations set finished_at = clock_timestamp() where id = $1`, id)
	return pg.Fault(err, "bulk operation")
}

// SetBulkJob gives an operation another job, which goes on with what is open. It
// reports false if there is nothing left to do, or if its job has not ended.
func SetBulkJob(ctx context.Context, q pg.Q, id, jobID string) (bool, error) {
	tag, err := q.Exec(ctx, `
		update bulk_operations o set job_id = @job
		from jobs j
		where o.id = @id and o.finished_at is null and j.id = o.job_id and j.state in ('dead', 'cancelled')`,
		pgx.StrictNamedArgs{"id": id, "job": jobID})
	return tag.RowsAffected() == 1, pg.Fault(err, "bulk operation")
}

// RenewMany queues a job of the kind for each of the certificates that can be
// renewed and is not being renewed, and says what became of each.
func RenewMany(ctx context.Context, q pg.Q, kind string, priority int, by string, ids []string) ([]Outcome, error) {
	rows, _ := q.Query(ctx, `
		with c as (
			select id, state, policy_id from certificates where id = any(@ids) order by id for no key update
		), queued as (
			insert into jobs (id, kind, certificate_id, args, priority, max_attempts, retry_every, timeout, created_by)
			select 'job_' || replace(gen_random_uuid()::text, '-', ''), @kind, c.id, '{}', @priority, p.max_retries + 1,
				p.retry_every_seconds * interval '1 second', p.attempt_timeout_seconds * interval '1 second', @by
			from c join renewal_policies p on p.id = c.policy_id
			where c.state in ('active', 'expired')
			on conflict do nothing
			returning certificate_id
		)
		select c.id,
			case when queued.certificate_id is not null then 'done' else 'skipped' end as outcome,
			case when queued.certificate_id is not null then ''
			     when c.state in ('active', 'expired') then 'it is being renewed already'
			     else 'it is ' || c.state end as message
		from c left join queued on queued.certificate_id = c.id`,
		pgx.StrictNamedArgs{"kind": kind, "priority": priority, "by": by, "ids": ids})
	outcomes, err := pgx.CollectRows(rows, pgx.RowToStructByName[Outcome])
	return outcomes, pg.Fault(err, "renewals")
}

// ReassignMany gives certificates to another owner and team, and says what
// became of each.
func ReassignMany(ctx context.Context, q pg.Q, owner string, team *string, ids []string) ([]Outcome, error) {
	rows, _ := q.Query(ctx, `
		with c as (
			select id, state, owner_id = @owner and team_id is not distinct from @team::text as same
			from certificates where id = any(@ids) order by id for no key update
		), given as (
			update certificates set owner_id = @owner, team_id = @team, revision = revision + 1, updated_at = clock_timestamp()
			from c where certificates.id = c.id and c.state <> 'archived' and not c.same
			returning c.id
		)
		select c.id, case when given.id is not null then 'done' else 'skipped' end as outcome,
			case when given.id is not null then '' when c.same then 'it is theirs already' else 'it is ' || c.state end as message
		from c left join given on given.id = c.id`,
		pgx.StrictNamedArgs{"owner": owner, "team": team, "ids": ids})
	outcomes, err := pgx.CollectRows(rows, pgx.RowToStructByName[Outcome])
	return outcomes, pg.Fault(err, "certificates")
}
