package inventory_test

import (
	"testing"

	"certctl/server/audit"
	"certctl/server/fault"
	"certctl/server/inventory"
	"certctl/server/store"
)

func TestOwner(t *testing.T) {
	t.Parallel()
	ctx, all := replicas(t, 1)
	inv := all[0]
	team := must[store.Team](t)(inv.CreateTeam(ctx, newTeam("shop")))
	in := newOwner("Ada")
	in.Body.Email, in.Body.TeamID = "ada@example.com", team.ID
	owner := must[store.Owner](t)(inv.CreateOwner(ctx, in))
	if owner.Email != in.Body.Email || owner.TeamID == nil || *owner.TeamID != team.ID || owner.Revision != 1 {
		t.Errorf("it is made as %+v", owner)
	}
	if e := changes(t, inv.DB, audit.OwnerCreated); len(e) != 1 || e[0].Details["name"] != "Ada" || e[0].ResourceID != owner.ID {
		t.Errorf("the events are %+v", e)
	}
	edit := func(email, team *string) (store.Owner, error) {
		in := &inventory.OwnerChange{ByID: *one(owner.ID)}
		in.Body.Email, in.Body.TeamID = email, team
		return inv.ChangeOwner(ctx, in)
	}
	t.Run("its team has to exist", func(t *testing.T) {
		in := newOwner("Bob")
		in.Body.TeamID = "shop"
		_, err := inv.CreateOwner(ctx, in)
		refused(t, err, fault.Invalid, "body.team_id is the id of no team")
		_, err = edit(nil, new("team_none"))
		refused(t, err, fault.Invalid, "body.team_id is the id of no team")
	})
	t.Run("its address has to be one", func(t *testing.T) {
		for _, bad := range []string{
			"ada", "ada@", "@example.com", "Ada <ada@example.com>", "<ada@example.com>", "ada@example.com, bob@example.com",
			"ada@exämple.com", "ädä@example.com", "ada@example.com\r\nBcc: bob@example.com", " ada@example.com", "ada lovelace@example.com",
			`"ada"@example.com`, "ada@[192.0.2.1]",
		} {
			in := newOwner("Bob")
			in.Body.Email = bad
			_, err := inv.CreateOwner(ctx, in)
			refused(t, err, fault.Invalid, "body.email")
			_, err = edit(&bad, nil)
			refused(t, err, fault.Invalid, "body.email")
		}
	})
	t.Run("its team stays where none is given, and goes where an empty one is", func(t *testing.T) {
		if got, err := edit(new(""), nil); err != nil || got.Email != "" || got.TeamID == nil {
			t.Errorf("it is %+v (%v)", got, err)
		}
		if got, err := edit(nil, new("")); err != nil || got.TeamID != nil || got.Revision != 3 {
			t.Errorf("it is %+v (%v)", got, err)
		}
		if e := changes(t, inv.DB, audit.OwnerChanged); len(e) != 2 || e[0].Details["fields"] != "team_id" || e[1].Details["fields"] != "email" {
			t.Errorf("the events are %+v", e)
		}
		if got, err := edit(nil, new("")); err != nil || got.Revision != 3 {
			t.Errorf("again it is %+v (%v)", got, err)
		}
	})
}
