package inventory

import (
	"context"

	"certctl/server/audit"
	"certctl/server/fault"
	"certctl/server/notify"
	"certctl/server/store"
	"certctl/server/web"
)

var teams = &kind[store.Team]{
	what: "team", noun: "team", prefix: "team",
	created: audit.TeamCreated, changed: audit.TeamChanged, deleted: audit.TeamDeleted,
	key:  func(t *store.Team) key { return key{t.ID, t.Name, t.Revision} },
	list: store.Teams, byID: store.TeamByID, lock: store.LockTeam,
	insert: store.InsertTeam, update: store.ChangeTeam, drop: store.DeleteTeam,
	inUse: map[string]string{
		"owners_team_id_fkey":       "owners belong to the team; give them another, or none, first",
		"certificates_team_id_fkey": "certificates belong to the team, archived ones too; give them another first",
	},
}

// NewTeam asks for a team.
type NewTeam struct {
	Idempotency
	Body struct {
		Name        string `json:"name" minLength:"1" maxLength:"255" doc:"no two teams share a name"`
		Description string `json:"description,omitempty" maxLength:"2000"`
	}
}

// CreateTeam makes a team.
func (i *Inventory) CreateTeam(ctx context.Context, in *NewTeam) (store.Team, error) {
	t := store.Team{ID: teams.newID(), Name: in.Body.Name, Description: in.Body.Description}
	return create(ctx, i, teams, in.Idempotency, in.Body, t)
}

// Teams lists teams by name.
func (i *Inventory) Teams(ctx context.Context, in *ListByName) (Page[store.Team], error) {
	return list(ctx, i, teams, in)
}

// Team returns one team.
func (i *Inventory) Team(ctx context.Context, in *ByID) (store.Team, error) {
	return teams.byID(ctx, i.DB, in.ID)
}

// TeamChange changes those fields of a team that it gives.
type TeamChange struct {
	ByID
	Body struct {
		Revision    *int64  `json:"revision,omitempty" nullable:"false" doc:"refuses the change if the team has another one by now"`
		Name        *string `json:"name,omitempty" minLength:"1" maxLength:"255" nullable:"false"`
		Description *string `json:"description,omitempty" maxLength:"2000" nullable:"false"`
	}
}

// ChangeTeam changes a team.
func (i *Inventory) ChangeTeam(ctx context.Context, in *TeamChange) (store.Team, error) {
	return change(ctx, i, teams, in.ID, in.Body.Revision, func(t *store.Team) (e edits, _ error) {
		set(&e, "name", &t.Name, in.Body.Name)
		set(&e, "description", &t.Description, in.Body.Description)
		return e, nil
	})
}

// DeleteTeam deletes a team that nothing belongs to.
func (i *Inventory) DeleteTeam(ctx context.Context, in *ByID) (web.Nothing, error) {
	return remove(ctx, i, teams, in)
}

var owners = &kind[store.Owner]{
	what: "owner", noun: "owner", prefix: "own",
	created: audit.OwnerCreated, changed: audit.OwnerChanged, deleted: audit.OwnerDeleted,
	key:  func(o *store.Owner) key { return key{o.ID, o.Name, o.Revision} },
	list: store.Owners, byID: store.OwnerByID, lock: store.LockOwner,
	insert: store.InsertOwner, update: store.ChangeOwner, drop: store.DeleteOwner,
	unknown: map[string]string{
		"owners_team_id_fkey": "body.team_id is the id of no team; GET /api/v1/teams lists them",
	},
	inUse: map[string]string{
		"certificates_owner_id_fkey": "certificates belong to the owner, archived ones too; give them another first",
	},
}

// NewOwner asks for an owner.
type NewOwner struct {
	Idempotency
	Body struct {
		Name   string `json:"name" minLength:"1" maxLength:"255" doc:"no two owners share a name"`
		Email  string `json:"email,omitempty" maxLength:"254" doc:"where the owner is told of their certificates"`
		TeamID string `json:"team_id,omitempty" maxLength:"64" doc:"id of the team that the owner is in"`
	}
}

// CreateOwner makes an owner.
func (i *Inventory) CreateOwner(ctx context.Context, in *NewOwner) (store.Owner, error) {
	if err := checkEmail(in.Body.Email); err != nil {
		return store.Owner{}, err
	}
	o := store.Owner{ID: owners.newID(), Name: in.Body.Name, Email: in.Body.Email, TeamID: orNone(in.Body.TeamID)}
	return create(ctx, i, owners, in.Idempotency, in.Body, o)
}

// Owners lists owners by name.
func (i *Inventory) Owners(ctx context.Context, in *ListByName) (Page[store.Owner], error) {
	return list(ctx, i, owners, in)
}

// Owner returns one owner.
func (i *Inventory) Owner(ctx context.Context, in *ByID) (store.Owner, error) {
	return owners.byID(ctx, i.DB, in.ID)
}

// OwnerChange changes those fields of an owner that it gives.
type OwnerChange struct {
	ByID
	Body struct {
		Revision *int64  `json:"revision,omitempty" nullable:"false" doc:"refuses the change if the owner has another one by now"`
		Name     *string `json:"name,omitempty" minLength:"1" maxLength:"255" nullable:"false"`
		Email    *string `json:"email,omitempty" maxLength:"254" nullable:"false" doc:"none if empty"`
		TeamID   *string `json:"team_id,omitempty" maxLength:"64" nullable:"false" doc:"none if empty"`
	}
}

// ChangeOwner changes an owner. Certificates stay with the team they have.
func (i *Inventory) ChangeOwner(ctx context.Context, in *OwnerChange) (store.Owner, error) {
	return change(ctx, i, owners, in.ID, in.Body.Revision, func(o *store.Owner) (e edits, err error) {
		set(&e, "name", &o.Name, in.Body.Name)
		if in.Body.Email != nil {
			err = checkEmail(*in.Body.Email)
			set(&e, "email", &o.Email, in.Body.Email)
		}
		if in.Body.TeamID != nil {
			team := orNone(*in.Body.TeamID)
			set(&e, "team_id", &o.TeamID, &team)
		}
		return e, err
	})
}

// DeleteOwner deletes an owner that no certificate belongs to.
func (i *Inventory) DeleteOwner(ctx context.Context, in *ByID) (web.Nothing, error) {
	return remove(ctx, i, owners, in)
}

func orNone(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// checkEmail refuses what is not one bare address that a channel can send to; none is fine.
func checkEmail(s string) error {
	if s == "" {
		return nil
	}
	if a, ok := notify.Address(s); !ok || a.Address != s {
		return fault.New(fault.Invalid, "body.email is not an address such as name@example.com, in ASCII")
	}
	return nil
}
