package inventory

import (
	"context"
	"slices"

	"certctl/server/audit"
	"certctl/server/fault"
	"certctl/server/pg"
	"certctl/server/store"
	"certctl/server/web"
)

var policies = &kind[store.Policy]{
	what: "renewal policy", noun: "policy", prefix: "pol",
	created: audit.PolicyCreated, changed: audit.PolicyChanged, deleted: audit.PolicyDeleted,
	key:  func(p *store.Policy) key { return key{p.ID, p.Name, p.Revision} },
	list: store.Policies, byID: store.PolicyByID, lock: store.LockPolicyForChange,
	insert: store.InsertPolicy, drop: store.DeletePolicy,
	inUse: map[string]string{
		"certificates_policy_id_fkey": "certificates have the renewal policy, archived ones too; give them another first",
	},
}

// What a policy says that does not say it.
const (
	day = 24 * 60 * 60

	defaultRenewBefore    = 30 * day
	defaultMaxRetries     = 3
	defaultRetryEvery     = 5 * 60
	defaultAttemptTimeout = 60
	defaultStartOverAfter = day
)

func defaultAlertDays() []int32 { return []int32{30, 14, 7, 1} }

// PolicyBody are the fields of a renewal policy that callers set.
type PolicyBody struct {
	Description           *string  `json:"description,omitempty" maxLength:"2000" nullable:"false"`
	AutoRenew             *bool    `json:"auto_renew,omitempty" nullable:"false" doc:"whether certificates are renewed by themselves; true by default"`
	RenewBeforeSeconds    *int64   `json:"renew_before_seconds,omitempty" minimum:"60" maximum:"34560000" nullable:"false" doc:"how long before its end a certificate is renewed; 30 days by default"`
	MaxRetries            *int     `json:"max_retries,omitempty" minimum:"0" maximum:"20" nullable:"false" doc:"attempts after the first one; 3 by default"`
	RetryEverySeconds     *int64   `json:"retry_every_seconds,omitempty" minimum:"1" maximum:"86400" nullable:"false" doc:"the wait before the second attempt, which doubles from then on; 5 minutes by default"`
	AttemptTimeoutSeconds *int64   `json:"attempt_timeout_seconds,omitempty" minimum:"1" maximum:"86400" nullable:"false" doc:"a minute by default"`
	StartOverAfterSeconds *int64   `json:"start_over_after_seconds,omitempty" minimum:"60" maximum:"2592000" nullable:"false" doc:"the wait after the last attempt has failed; a day by default"`
	AlertDays             *[]int32 `json:"alert_days,omitempty" maxItems:"10" uniqueItems:"true" nullable:"false" doc:"how many days before its end to warn of a certificate, each from 0 to 365; 30, 14, 7 and 1 by default"`
}

// check refuses what the schema of the body cannot: it bounds no items.
func (b *PolicyBody) check() error {
	if b.AlertDays == nil {
		return nil
	}
	slices.SortFunc(*b.AlertDays, func(x, y int32) int { return int(y - x) })
	for n, d := range *b.AlertDays {
		if d < 0 || d > 365 || (n > 0 && (*b.AlertDays)[n-1] == d) {
			return fault.New(fault.Invalid, "body.alert_days has a number that is not from 0 to 365, or one twice")
		}
	}
	return nil
}

// NewPolicy asks for a renewal policy.
type NewPolicy struct {
	Idempotency
	Body struct {
		Name string `json:"name" minLength:"1" maxLength:"255" doc:"no two renewal policies share a name"`
		PolicyBody
	}
}

// CreatePolicy makes a renewal policy.
func (i *Inventory) CreatePolicy(ctx context.Context, in *NewPolicy) (store.Policy, error) {
	b := &in.Body
	if err := b.check(); err != nil {
		return store.Policy{}, err
	}
	return create(ctx, i, policies, in.Idempotency, in.Body, store.Policy{
		ID: policies.newID(), Name: b.Name, Description: or(b.Description, ""), AutoRenew: or(b.AutoRenew, true),
		RenewBeforeSeconds:    or(b.RenewBeforeSeconds, defaultRenewBefore),
		MaxRetries:            or(b.MaxRetries, defaultMaxRetries),
		RetryEverySeconds:     or(b.RetryEverySeconds, defaultRetryEvery),
		AttemptTimeoutSeconds: or(b.AttemptTimeoutSeconds, defaultAttemptTimeout),
		StartOverAfterSeconds: or(b.StartOverAfterSeconds, defaultStartOverAfter),
		AlertDays:             or(b.AlertDays, defaultAlertDays()),
	})
}

// Policies lists renewal policies by name.
func (i *Inventory) Policies(ctx context.Context, in *ListByName) (Page[store.Policy], error) {
	return list(ctx, i, policies, in)
}

// Policy returns one renewal policy.
func (i *Inventory) Policy(ctx context.Context, in *ByID) (store.Policy, error) {
	return policies.byID(ctx, i.DB, in.ID)
}

// PolicyChange changes those fields of a renewal policy that it gives.
type PolicyChange struct {
	ByID
	Body struct {
		Revision *int64  `json:"revision,omitempty" nullable:"false" doc:"refuses the change if the renewal policy has another one by now"`
		Name     *string `json:"name,omitempty" minLength:"1" maxLength:"255" nullable:"false"`
		PolicyBody
	}
}

// ChangePolicy changes a renewal policy, and with it when the certificates that
// have it are renewed.
func (i *Inventory) ChangePolicy(ctx context.Context, in *PolicyChange) (store.Policy, error) {
	b := &in.Body
	if err := b.check(); err != nil {
		return store.Policy{}, err
	}
	moves := false
	k := *policies
	k.update = func(ctx context.Context, q pg.Q, p store.Policy) (store.Policy, error) {
		if moves {
			return store.ChangePolicyTimes(ctx, q, p)
		}
		return store.ChangePolicy(ctx, q, p)
	}
	return change(ctx, i, &k, in.ID, b.Revision, func(p *store.Policy) (e edits, _ error) {
		set(&e, "name", &p.Name, b.Name)
		set(&e, "description", &p.Description, b.Description)
		set(&e, "auto_renew", &p.AutoRenew, b.AutoRenew)
		set(&e, "renew_before_seconds", &p.RenewBeforeSeconds, b.RenewBeforeSeconds)
		moves = slices.Contains(e, "auto_renew") || slices.Contains(e, "renew_before_seconds")
		set(&e, "max_retries", &p.MaxRetries, b.MaxRetries)
		set(&e, "retry_every_seconds", &p.RetryEverySeconds, b.RetryEverySeconds)
		set(&e, "attempt_timeout_seconds", &p.AttemptTimeoutSeconds, b.AttemptTimeoutSeconds)
		set(&e, "start_over_after_seconds", &p.StartOverAfterSeconds, b.StartOverAfterSeconds)
		set(&e, "alert_days", &p.AlertDays, b.AlertDays)
		return e, nil
	})
}

// DeletePolicy deletes a renewal policy that no certificate has.
func (i *Inventory) DeletePolicy(ctx context.Context, in *ByID) (web.Nothing, error) {
	return remove(ctx, i, policies, in)
}
