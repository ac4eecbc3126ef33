// Package bulk applies one action to many certificates: which ones is decided
// when it is asked for, and a job does them in batches, each with its outcomes
// and audit events in one transaction.
package bulk

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"certctl/server/audit"
	"certctl/server/cert"
	"certctl/server/fault"
	"certctl/server/job"
	"certctl/server/perm"
	"certctl/server/pg"
	"certctl/server/store"
	"certctl/server/table"
)

// Bulk acts on many certificates.
type Bulk struct {
	DB   *pgxpool.Pool
	Wake func() // tells this replica that jobs were queued

	// Revoke revokes certificates as part of a transaction, with their audit
	// events, and says what became of each.
	Revoke func(ctx context.Context, tx pgx.Tx, ids []string, reason *cert.Reason, invalidity *time.Time) ([]store.Outcome, error)
}

// An Action is what can be done to many certificates.
type Action struct {
	Name  string           `json:"name"`
	Does  string           `json:"does"`
	Needs *perm.Permission `json:"-"`

	acts     func(state string, busy bool) bool // whether it does anything to a certificate
	validate func(*Body) error
	apply    func(ctx context.Context, b *Bulk, tx pgx.Tx, by string, body Body, ids []string) ([]store.Outcome, error)
}

var actions = table.By(func(a *Action) string { return a.Name })

// Actions returns every action.
func Actions() []*Action { return actions.Rows() }

// The actions.
var (
	Renew = actions.Add(&Action{
		Name: "renew", Does: "Queues a renewal of each certificate that can be renewed and is not being renewed.", Needs: perm.CertRenew,
		acts: func(state string, busy bool) bool {
			return !busy && (state == cert.Active.Name || state == cert.Expired.Name)
		},
		validate: func(b *Body) error { return unused(b, "reason", "invalidity_date", "owner_id", "team_id") },
		apply: func(ctx context.Context, b *Bulk, tx pgx.Tx, by string, _ Body, ids []string) ([]store.Outcome, error) {
			outcomes, err := store.RenewMany(ctx, tx, job.Renew.Name, job.Renew.Priority, by, ids)
			b.Wake()
			return outcomes, err
		},
	})
	Revoke = actions.Add(&Action{
		Name: "revoke", Does: "Revokes every version of each certificate that has not ended.", Needs: perm.CertRevoke,
		acts: func(state string, _ bool) bool { return state == cert.Active.Name || state == cert.Held.Name },
		validate: func(b *Body) error {
			if b.Reason == "" {
				return fault.New(fault.Invalid, "body.reason is missing; say why so many are revoked")
			}
			return unused(b, "owner_id", "team_id")
		},
		apply: func(ctx context.Context, b *Bulk, tx pgx.Tx, _ string, body Body, ids []string) ([]store.Outcome, error) {
			reason, ok := cert.ReasonNamed(body.Reason)
			if !ok {
				return nil, fault.New(fault.Invalid, "the reason is none")
			}
			return b.Revoke(ctx, tx, ids, reason, body.InvalidityDate)
		},
	})
	Reassign = actions.Add(&Action{
		Name: "reassign", Does: "Gives each certificate to another owner and that owner's team, or another team.", Needs: perm.CertEdit,
		acts: func(string, bool) bool { return true },
		validate: func(b *Body) error {
			if b.OwnerID == "" {
				return fault.New(fault.Invalid, "body.owner_id is missing; name the new owner")
			}
			return unused(b, "reason", "invalidity_date")
		},
		apply: reassign,
	})
)

func unused(b *Body, fields ...string) error {
	given := map[string]bool{
		"reason": b.Reason != "", "invalidity_date": b.InvalidityDate != nil, "owner_id": b.OwnerID != "", "team_id": b.TeamID != "",
	}
	for _, f := range fields {
		if given[f] {
			return fault.New(fault.Invalid, "body.%s means nothing to this action; leave it out", f)
		}
	}
	return nil
}

// Body says what to do to which certificates.
type Body struct {
	Action         string             `json:"action" enum:"renew,revoke,reassign"`
	Criteria       store.BulkCriteria `json:"criteria" doc:"which certificates; those that meet all that are given"`
	Reason         string             `json:"reason,omitempty" enum:"unspecified,keyCompromise,cACompromise,affiliationChanged,superseded,cessationOfOperation,certificateHold,privilegeWithdrawn,aACompromise" doc:"of a revocation"`
	InvalidityDate *time.Time         `json:"invalidity_date,omitempty" doc:"since when a revoked key is not to be trusted"`
	OwnerID        string             `json:"owner_id,omitempty" maxLength:"255" doc:"id or name of the new owner"`
	TeamID         string             `json:"team_id,omitempty" maxLength:"255" doc:"id or name of the new team; the owner's without it"`
}

// New asks for an action.
type New struct {
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"200" doc:"a request that is sent again under the same key is answered as the first was"`
	Body           Body
}

// A Trial asks what an action would do.
type Trial struct{ Body Body }

func (b *Body) check(ctx context.Context) (*Action, error) {
	a, ok := actions.Row(b.Action)
	if !ok {
		return nil, fault.New(fault.Invalid, "body.action is none of the actions")
	}
	if !perm.From(ctx).May(a.Needs) {
		return nil, fault.New(fault.Forbidden, "the action needs the permission %s, which none of the key's roles holds", a.Needs.Name)
	}
	c := b.Criteria
	nothing := len(c.IDs)+len(c.States)+len(c.Tags) == 0 && c.ExpiresBefore == nil &&
		c.IssuerID+c.ProfileID+c.PolicyID+c.OwnerID+c.TeamID+c.Environment == ""
	switch {
	case nothing && !c.All:
		return nil, fault.New(fault.Invalid, "body.criteria is empty; give one, or say all")
	case !nothing && c.All:
		return nil, fault.New(fault.Invalid, "body.criteria.all contradicts the other criteria; leave one of them out")
	}
	for _, s := range c.States {
		if !slices.Contains(cert.StateNames(), s) {
			return nil, fault.New(fault.Invalid, "body.criteria.states has one that is none; the states are %s", strings.Join(cert.StateNames(), ", "))
		}
	}
	return a, a.validate(b)
}

// A Preview says what an action would do now.
type Preview struct {
	Matched int               `json:"matched" doc:"certificates that the criteria choose"`
	Would   int               `json:"would" doc:"certificates that the action would change"`
	Skip    int               `json:"skip" doc:"certificates that it would skip"`
	Details []store.BulkMatch `json:"details" nullable:"false"`
}

// Preview does nothing, and says what would be done.
func (b *Bulk) Preview(ctx context.Context, in *Trial) (Preview, error) {
	a, err := in.Body.check(ctx)
	if err != nil {
		return Preview{}, err
	}
	if _, _, err := b.owner(ctx, b.DB, in.Body); err != nil {
		return Preview{}, err
	}
	matches, err := store.BulkMatches(ctx, b.DB, in.Body.Criteria)
	p := Preview{Details: matches}
	for _, m := range matches {
		p.Matched += m.Count
		if a.acts(m.State, m.Busy) {
			p.Would += m.Count
		} else {
			p.Skip += m.Count
		}
	}
	return p, err
}

// Start records an action on the certificates that the criteria choose now, and
// queues the job that does it.
func (b *Bulk) Start(ctx context.Context, in *New) (store.BulkOperation, error) {
	a, err := in.Body.check(ctx)
	if err != nil {
		return store.BulkOperation{}, err
	}
	by := perm.From(ctx).ID
	args, err := json.Marshal(in.Body)
	if err != nil {
		return store.BulkOperation{}, err
	}
	o, err := store.Once(ctx, b.DB, by, in.IdempotencyKey, "start-bulk", in.Body, func(tx pgx.Tx) (store.BulkOperation, error) {
		o := store.BulkOperation{ID: cert.NewID("blk"), Action: a.Name, Args: args, CreatedBy: by}
		if _, _, err := b.owner(ctx, tx, in.Body); err != nil {
			return o, err
		}
		if o.JobID, err = job.Bulk.Enqueue(ctx, tx, job.New{CreatedBy: by}, job.BulkArgs{Operation: o.ID}); err != nil {
			return o, err
		}
		if o, err = store.InsertBulk(ctx, tx, o, in.Body.Criteria); err != nil {
			return o, err
		}
		return o, audit.Write(ctx, tx, audit.Event{
			Action: audit.BulkStarted, ResourceKind: "bulk", ResourceID: o.ID,
			Details: in.Body.details(o.Total),
		})
	})
	if err == nil {
		b.Wake()
	}
	return o, err
}

// details are what the trail keeps of an operation. The certificates that it
// named have events of their own.
func (b *Body) details(n int) map[string]string {
	short := b.Criteria
	short.IDs = nil
	criteria, err := json.Marshal(short)
	if err != nil {
		panic(err) // it was decoded from JSON
	}
	return map[string]string{
		"action": b.Action, "criteria": string(criteria), "ids": strconv.Itoa(len(b.Criteria.IDs)),
		"certificates": strconv.Itoa(n), "reason": b.Reason, "owner": b.OwnerID, "team": b.TeamID,
	}
}

// owner resolves who a reassignment is to.
func (b *Bulk) owner(ctx context.Context, q pg.Q, body Body) (string, *string, error) {
	if body.OwnerID == "" {
		return "", nil, nil
	}
	found, err := store.Refer(ctx, q, []store.Refs{{OwnerID: body.OwnerID, TeamID: body.TeamID}}, nil)
	if err != nil {
		return "", nil, err
	}
	id, team, ok := found.Owner(body.OwnerID)
	if !ok {
		return "", nil, fault.New(fault.Invalid, "body.owner_id names no owner; GET /api/v1/owners lists them")
	}
	if body.TeamID != "" {
		other, ok := found.Team(body.TeamID)
		if !ok {
			return "", nil, fault.New(fault.Invalid, "body.team_id names no team; GET /api/v1/teams lists them")
		}
		team = &other
	}
	return id, team, nil
}

func reassign(ctx context.Context, b *Bulk, tx pgx.Tx, _ string, body Body, ids []string) ([]store.Outcome, error) {
	owner, team, err := b.owner(ctx, tx, body)
	if err != nil {
		return nil, err
	}
	outcomes, err := store.ReassignMany(ctx, tx, owner, team, ids)
	if err != nil {
		return nil, err
	}
	var events []audit.Event
	for _, o := range outcomes {
		if o.Outcome == store.Done {
			events = append(events, audit.Event{
				Action: audit.CertChanged, ResourceKind: "certificate", ResourceID: o.ID,
				Details: map[string]string{"fields": "owner_id team_id", "owner_id": owner},
			})
		}
	}
	return outcomes, audit.WriteAll(ctx, tx, events)
}

// batch bounds the certificates that one transaction acts on.
const batch = 200

// Work does an operation, or what is left of it. Whichever replica goes on with
// it finds what has an outcome done.
func (b *Bulk) Work(ctx context.Context, t *job.Task, args job.BulkArgs) error {
	o, err := store.BulkByID(ctx, b.DB, args.Operation)
	if err != nil {
		return err
	}
	a, ok := actions.Row(o.Action)
	var body Body // but for the ids
	if err := json.Unmarshal(o.Args, &body); err != nil || !ok {
		return fmt.Errorf("arguments of the operation: %w", err)
	}
	if o.JobID != t.ID {
		return fault.New(fault.Conflict, "another job does the operation by now")
	}
	ctx = onBehalf(ctx, b.DB, o.CreatedBy)
	for {
		left := 0
		err := t.Save(ctx, nil, func(tx pgx.Tx) error {
			ids, err := store.OpenBulkItems(ctx, tx, o.ID, batch)
			left = len(ids)
			if err != nil || left == 0 {
				return err
			}
			outcomes, err := a.apply(ctx, b, tx, o.CreatedBy, body, ids)
			if err != nil {
				return err
			}
			return store.CloseBulkItems(ctx, tx, o.ID, complete(ids, outcomes))
		})
		if err != nil {
			return err
		}
		if left < batch {
			break
		}
	}
	return t.Complete(ctx, func(tx pgx.Tx) error {
		if err := store.FinishBulk(ctx, tx, o.ID); err != nil {
			return err
		}
		o, err := store.BulkByID(ctx, tx, o.ID)
		if err != nil {
			return err
		}
		return audit.Write(ctx, tx, audit.Event{
			Action: audit.BulkFinished, ResourceKind: "bulk", ResourceID: o.ID,
			Details: map[string]string{
				"action": o.Action, "done": strconv.Itoa(o.Done), "skipped": strconv.Itoa(o.Skipped), "failed": strconv.Itoa(o.Failed),
			},
		})
	})
}

// onBehalf returns a context in which this replica acts for the key that asked
// for an operation: the events of what is done for it name both.
func onBehalf(ctx context.Context, q pg.Q, id string) context.Context {
	actor := perm.From(ctx)
	actor.Name += " for " + id
	if k, err := store.KeyByID(ctx, q, id); err == nil {
		actor.Name += " (" + k.Name + ")"
	}
	return perm.With(ctx, actor)
}

// complete adds those that the action said nothing of.
func complete(ids []string, outcomes []store.Outcome) []store.Outcome {
	said := map[string]bool{}
	for _, o := range outcomes {
		said[o.ID] = true
	}
	for _, id := range ids {
		if !said[id] {
			outcomes = append(outcomes, store.Outcome{ID: id, Outcome: store.Skipped, Message: "it was not found"})
		}
	}
	return outcomes
}

// One names an operation.
type One struct {
	ID string `path:"id" maxLength:"64" doc:"id of the operation"`
}

// Get returns one operation, with how far it has come.
func (b *Bulk) Get(ctx context.Context, in *One) (store.BulkOperation, error) {
	return store.BulkByID(ctx, b.DB, in.ID)
}

// Query asks for a page of operations.
type Query struct {
	After string `query:"after" maxLength:"64" doc:"next of the page before"`
	Limit int    `query:"limit" minimum:"1" maximum:"500" default:"100"`
}

// Page is a page of operations, newest first.
type Page struct {
	Items []store.BulkOperation `json:"items" nullable:"false"`
	Next  string                `json:"next,omitempty" doc:"give it as after for the next page; absent on the last"`
}

// List lists operations.
func (b *Bulk) List(ctx context.Context, in *Query) (Page, error) {
	all, err := store.Bulks(ctx, b.DB, in.After, in.Limit+1)
	page := Page{Items: all}
	if len(all) > in.Limit {
		page.Items = all[:in.Limit]
		page.Next = all[in.Limit-1].ID
	}
	return page, err
}

// ItemQuery asks for what became of the certificates of an operation.
type ItemQuery struct {
	One
	Outcome string `query:"outcome" enum:"open,done,skipped,failed" doc:"only those with this outcome"`
	After   string `query:"after" maxLength:"64" doc:"next of the page before"`
	Limit   int    `query:"limit" minimum:"1" maximum:"1000" default:"500"`
}

// ItemPage is a page of outcomes, by the id of the certificate.
type ItemPage struct {
	Items []store.BulkItem `json:"items" nullable:"false"`
	Next  string           `json:"next,omitempty" doc:"give it as after for the next page; absent on the last"`
}

// Items lists what became of the certificates of an operation.
func (b *Bulk) Items(ctx context.Context, in *ItemQuery) (ItemPage, error) {
	if _, err := store.BulkByID(ctx, b.DB, in.ID); err != nil {
		return ItemPage{}, err
	}
	all, err := store.BulkItems(ctx, b.DB, in.ID, in.Outcome, in.After, in.Limit+1)
	page := ItemPage{Items: all}
	if len(all) > in.Limit {
		page.Items = all[:in.Limit]
		page.Next = all[in.Limit-1].CertificateID
	}
	return page, err
}

// Resume goes on with an operation whose job was cancelled or has no attempt
// left.
func (b *Bulk) Resume(ctx context.Context, in *One) (store.BulkOperation, error) {
	var o store.BulkOperation
	err := pg.InTx(ctx, b.DB, func(tx pgx.Tx) (err error) {
		if o, err = store.BulkByID(ctx, tx, in.ID); err != nil {
			return err
		}
		if a, ok := actions.Row(o.Action); !ok || !perm.From(ctx).May(a.Needs) {
			return fault.New(fault.Forbidden, "the action of the operation needs a permission which none of the key's roles holds")
		}
		id, err := job.Bulk.Enqueue(ctx, tx, job.New{CreatedBy: perm.From(ctx).ID}, job.BulkArgs{Operation: o.ID})
		if err != nil {
			return err
		}
		ok, err := store.SetBulkJob(ctx, tx, o.ID, id)
		if err == nil && !ok {
			err = fault.New(fault.Conflict, "the operation has come to its end, or its job has not; there is nothing to resume")
		}
		if err != nil {
			return err
		}
		if o, err = store.BulkByID(ctx, tx, o.ID); err != nil {
			return err
		}
		return audit.Write(ctx, tx, audit.Event{
			Action: audit.BulkStarted, ResourceKind: "bulk", ResourceID: o.ID,
			Details: map[string]string{"action": o.Action, "resumed": "true", "certificates": strconv.Itoa(o.Open)},
		})
	})
	if err == nil {
		b.Wake()
	}
	return o, err
}
