package inventory

import (
	"context"
	"slices"
	"strings"

	"certctl/server/audit"
	"certctl/server/fault"
	"certctl/server/outbox"
	"certctl/server/pg"
	"certctl/server/store"
	"certctl/server/web"
)

var policies = &kind[store.Policy]{
	what: "renewal policy", noun: "policy", prefix: "pol",
	created: audit.PolicyCreated, changed: audit.PolicyChanged, deleted: audit.PolicyDeleted,
	key:  func(p *store.Policy) key { return key{p.ID, p.Name, p.Revision} },
	list: store.Policies, byID: store.PolicyByID, lock: store.LockPolicyForChange,
	drop: store.DeletePolicy,
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

func defaultAlerts() []store.Alert {
	return []store.Alert{
		{Days: 30, Severity: outbox.Informational.Name},
		{Days: 14, Severity: outbox.Warning.Name},
		{Days: 7, Severity: outbox.Warning.Name},
		{Days: 1, Severity: outbox.Critical.Name},
		{Days: 0, Severity: outbox.Critical.Name},
	}
}

// PolicyBody are the fields of a renewal policy that callers set.
type PolicyBody struct {
	Description           *string                `json:"description,omitempty" maxLength:"2000" nullable:"false"`
	AutoRenew             *bool                  `json:"auto_renew,omitempty" nullable:"false" doc:"whether certificates are renewed by themselves; true by default"`
	RenewBeforeSeconds    *int64                 `json:"renew_before_seconds,omitempty" minimum:"60" maximum:"34560000" nullable:"false" doc:"how long before its end a certificate is renewed; 30 days by default"`
	MaxRetries            *int                   `json:"max_retries,omitempty" minimum:"0" maximum:"20" nullable:"false" doc:"attempts after the first one; 3 by default"`
	RetryEverySeconds     *int64                 `json:"retry_every_seconds,omitempty" minimum:"1" maximum:"86400" nullable:"false" doc:"the wait before the second attempt, which doubles from then on; 5 minutes by default"`
	AttemptTimeoutSeconds *int64                 `json:"attempt_timeout_seconds,omitempty" minimum:"1" maximum:"86400" nullable:"false" doc:"a minute by default"`
	StartOverAfterSeconds *int64                 `json:"start_over_after_seconds,omitempty" minimum:"60" maximum:"2592000" nullable:"false" doc:"the wait after the last attempt has failed; a day by default"`
	Alerts                *[]store.Alert         `json:"alerts,omitempty" maxItems:"10" nullable:"false" doc:"when to warn of the end of a certificate, each number of days once; 30 days before (informational), 14 and 7 (warning), 1 and 0 (critical) by default"`
	Channels              *[]store.PolicyChannel `json:"channels,omitempty" maxItems:"20" nullable:"false" doc:"who is told of the certificates; nobody by default"`
}

// check refuses what the schema of the body cannot.
func (b *PolicyBody) check() error {
	if b.Alerts != nil {
		slices.SortFunc(*b.Alerts, func(x, y store.Alert) int { return int(y.Days - x.Days) })
		for n, a := range *b.Alerts {
			if a.Days < 0 || a.Days > 365 || (n > 0 && (*b.Alerts)[n-1].Days == a.Days) {
				return fault.New(fault.Invalid, "body.alerts has a number of days that is not from 0 to 365, or one twice")
			}
			if err := checkSeverity("body.alerts.severity", a.Severity); err != nil {
				return err
			}
		}
	}
	if b.Channels != nil {
		for _, c := range *b.Channels {
			if err := checkSeverity("body.channels.from", c.From); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkSeverity(field, name string) error {
	if _, ok := outbox.SeverityNamed(name); ok {
		return nil
	}
	var names []string
	for _, s := range outbox.Severities() {
		names = append(names, s.Name)
	}
	return fault.New(fault.Invalid, "%s is no severity; give one of %s", field, strings.Join(names, ", "))
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
	k := *policies
	k.insert = func(ctx context.Context, q pg.Q, p store.Policy) (_ store.Policy, err error) {
		if p.Channels, err = toChannels(ctx, q, or(b.Channels, nil)); err != nil {
			return p, err
		}
		return store.InsertPolicy(ctx, q, p)
	}
	return create(ctx, i, &k, in.Idempotency, in.Body, store.Policy{
		ID: policies.newID(), Name: b.Name, Description: or(b.Description, ""), AutoRenew: or(b.AutoRenew, true),
		RenewBeforeSeconds:    or(b.RenewBeforeSeconds, defaultRenewBefore),
		MaxRetries:            or(b.MaxRetries, defaultMaxRetries),
		RetryEverySeconds:     or(b.RetryEverySeconds, defaultRetryEvery),
		AttemptTimeoutSeconds: or(b.AttemptTimeoutSeconds, defaultAttemptTimeout),
		StartOverAfterSeconds: or(b.StartOverAfterSeconds, defaultStartOverAfter),
		Alerts:                or(b.Alerts, defaultAlerts()),
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
	var named []store.PolicyChannel
	k := *policies
	k.update = func(ctx context.Context, q pg.Q, p store.Policy) (store.Policy, error) {
		if moves {
			return store.ChangePolicyTimes(ctx, q, p)
		}
		return store.ChangePolicy(ctx, q, p)
	}
	k.lock = func(ctx context.Context, q pg.Q, id string) (p store.Policy, err error) {
		if p, err = store.LockPolicyForChange(ctx, q, id); err == nil && b.Channels != nil {
			named, err = toChannels(ctx, q, *b.Channels)
		}
		return p, err
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
		set(&e, "alerts", &p.Alerts, b.Alerts)
		if b.Channels != nil {
			set(&e, "channels", &p.Channels, &named)
		}
		return e, nil
	})
}

// DeletePolicy deletes a renewal policy that no certificate has.
func (i *Inventory) DeletePolicy(ctx context.Context, in *ByID) (web.Nothing, error) {
	return remove(ctx, i, policies, in)
}
