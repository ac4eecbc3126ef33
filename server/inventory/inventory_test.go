package inventory_test

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"certctl/server/audit"
	"certctl/server/fault"
	"certctl/server/inventory"
	"certctl/server/issuer"
	"certctl/server/issuer/issuertest"
	"certctl/server/issuer/local"
	"certctl/server/notify"
	"certctl/server/perm"
	"certctl/server/pg/pgtest"
	"certctl/server/seal"
	"certctl/server/store"
)

// actor is who acts in these tests.
var actor = perm.Actor{Kind: perm.ByKey, ID: "key_1", Name: "tester"}

// replicas returns the inventories of n replicas with nothing in their database,
// and a context in which a key acts.
func replicas(t *testing.T, n int, parameters ...string) (context.Context, []*inventory.Inventory) {
	t.Helper()
	url := pgtest.URL(t)
	for _, p := range parameters {
		sep := "?"
		if strings.Contains(url, "?") {
			sep = "&"
		}
		url += sep + p
	}
	box, err := seal.New(seal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	types := []issuer.Type{local.Type, issuertest.Remote}
	var all []*inventory.Inventory
	for range n {
		inv := &inventory.Inventory{
			DB: pgtest.Pool(t, url), Issuers: issuer.NewRegistry(types, ""), Channels: notify.NewRegistry([]notify.Type{bell}, nil),
		}
		inv.Issuers.Box, inv.Channels.Box = box, box
		all = append(all, inv)
	}
	return perm.With(t.Context(), actor), all
}

func newTeam(name string) *inventory.NewTeam {
	in := &inventory.NewTeam{}
	in.Body.Name = name
	return in
}

func newOwner(name string) *inventory.NewOwner {
	in := &inventory.NewOwner{}
	in.Body.Name = name
	return in
}

func newPolicy(name string) *inventory.NewPolicy {
	in := &inventory.NewPolicy{}
	in.Body.Name = name
	return in
}

func newProfile(name string) *inventory.NewProfile {
	in := &inventory.NewProfile{}
	in.Body.Name = name
	return in
}

// must fails the test on an error.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestCreateIsDoneOnceUnderItsKey(t *testing.T) {
	t.Parallel()
	ctx, all := replicas(t, 3)
	in := newTeam("shop")
	in.Key = "k"
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := map[store.Team]int{}
	for _, inv := range all {
		for range 4 {
			wg.Go(func() {
				team, err := inv.CreateTeam(ctx, in)
				if err != nil {
					t.Error(err)
				}
				team.CreatedAt, team.UpdatedAt = team.CreatedAt.UTC(), team.UpdatedAt.UTC()
				mu.Lock()
				got[team]++
				mu.Unlock()
			})
		}
	}
	wg.Wait()
	if events := changes(t, all[0].DB, audit.TeamCreated); len(got) != 1 || len(events) != 1 {
		t.Errorf("twelve calls got %v, with %d events", got, len(events))
	}
	other := newTeam("other")
	other.Key = "k"
	_, err := all[1].CreateTeam(ctx, other)
	refused(t, err, fault.Conflict, "header.Idempotency-Key was used for another request")
	// Another route has no part of it.
	owner := newOwner("shop")
	owner.Key = "k"
	_, err = all[1].CreateOwner(ctx, owner)
	refused(t, err, fault.Conflict, "header.Idempotency-Key was used for another request")
	_, err = all[2].CreateTeam(ctx, newTeam("shop"))
	refused(t, err, fault.Conflict, "body.name is the name of another team")
}

func TestListIsInTheOrderOfNames(t *testing.T) {
	t.Parallel()
	ctx, all := replicas(t, 1)
	inv := all[0]
	var want []string
	for _, name := range []string{"a", "a a", "a-a", "aa", "A", "Ä", "ä", "z", "shop", "shop ", "shop 1", "shop 10", "shop 2", "sho", "日本"} {
		name = strings.TrimSpace(name)
		if _, err := inv.CreateTeam(ctx, newTeam(name)); err == nil {
			want = append(want, name)
		}
	}
	if len(want) != 14 {
		t.Fatalf("only %q were made", want)
	}
	whole := must[inventory.Page[store.Team]](t)(inv.Teams(ctx, &inventory.ListByName{Limit: 100}))
	for limit := 1; limit <= len(want)+1; limit++ {
		var names []string
		in := &inventory.ListByName{Limit: limit}
		for pages := 0; ; pages++ {
			page := must[inventory.Page[store.Team]](t)(inv.Teams(ctx, in))
			for _, team := range page.Items {
				names = append(names, team.Name)
			}
			if len(page.Items) > limit || pages > len(want) {
				t.Fatalf("pages of %d: one has %d", limit, len(page.Items))
			}
			if in.After = page.Next; in.After == "" {
				break
			}
		}
		for n, team := range whole.Items {
			if n >= len(names) || names[n] != team.Name {
				t.Fatalf("pages of %d hold %q", limit, names)
			}
		}
		slices.Sort(names)
		slices.Sort(want)
		if !slices.Equal(names, want) {
			t.Errorf("pages of %d hold %q", limit, names)
		}
	}
	for _, bad := range []string{"!", "c2hvcA==", "\x00"} {
		_, err := inv.Teams(ctx, &inventory.ListByName{Limit: 1, After: bad})
		refused(t, err, fault.Invalid, "query.after")
	}
	_, err := inv.Teams(ctx, &inventory.ListByName{Limit: 1, After: "AP8"}) // a zero byte and no UTF-8
	refused(t, err, fault.Invalid, "cannot be stored")
	empty := must[inventory.Page[store.Owner]](t)(inv.Owners(ctx, &inventory.ListByName{Limit: 1}))
	if empty.Items == nil || len(empty.Items) != 0 {
		t.Errorf("no owners are listed as %v", empty.Items)
	}
}

func TestChange(t *testing.T) {
	t.Parallel()
	ctx, all := replicas(t, 1)
	inv := all[0]
	in := newTeam("shop")
	in.Body.Description = "sells"
	team := must[store.Team](t)(inv.CreateTeam(ctx, in))
	must[store.Team](t)(inv.CreateTeam(ctx, newTeam("other")))
	edit := func(edit func(*inventory.TeamChange)) (store.Team, error) {
		in := &inventory.TeamChange{ByID: *one(team.ID)}
		edit(in)
		return inv.ChangeTeam(ctx, in)
	}
	events := func() []audit.Entry { return changes(t, inv.DB, audit.TeamChanged) }

	t.Run("what is not given stays", func(t *testing.T) {
		got := must[store.Team](t)(edit(func(in *inventory.TeamChange) { in.Body.Name, in.Body.Revision = new("store"), new(int64(1)) }))
		if got.Name != "store" || got.Description != "sells" || got.Revision != 2 || !got.UpdatedAt.After(team.UpdatedAt) {
			t.Errorf("it is %+v", got)
		}
		if again := must[store.Team](t)(inv.Team(ctx, one(team.ID))); !reflect.DeepEqual(again, got) {
			t.Errorf("it reads as %+v", again)
		}
		e := events()
		if len(e) != 1 || e[0].Details["fields"] != "name" || e[0].Details["name"] != "store" || e[0].ResourceID != team.ID || e[0].ActorID != "key_1" {
			t.Errorf("the events are %+v", e)
		}
	})
	t.Run("what is given and empty is emptied", func(t *testing.T) {
		got := must[store.Team](t)(edit(func(in *inventory.TeamChange) { in.Body.Description, in.Body.Name = new(""), new("shop") }))
		if got.Description != "" || got.Revision != 3 || events()[0].Details["fields"] != "name description" {
			t.Errorf("it is %+v, and the event %v", got, events()[0].Details)
		}
	})
	t.Run("nothing is written where nothing differs", func(t *testing.T) {
		for _, f := range []func(*inventory.TeamChange){
			func(*inventory.TeamChange) {},
			func(in *inventory.TeamChange) { in.Body.Name, in.Body.Description = new("shop"), new("") },
		} {
			if got := must[store.Team](t)(edit(f)); got.Revision != 3 || len(events()) != 2 {
				t.Errorf("it is %+v with %d events", got, len(events()))
			}
		}
	})
	t.Run("refusals", func(t *testing.T) {
		_, err := edit(func(in *inventory.TeamChange) { in.Body.Name, in.Body.Revision = new("x"), new(int64(2)) })
		refused(t, err, fault.Conflict, "body.revision is not that of the team")
		_, err = edit(func(in *inventory.TeamChange) { in.Body.Name = new("other") })
		refused(t, err, fault.Conflict, "body.name is the name of another team")
		_, err = edit(func(in *inventory.TeamChange) { in.Body.Name = new("team_1") })
		refused(t, err, fault.Invalid, "body.name begins with team_")
		_, err = inv.ChangeTeam(ctx, &inventory.TeamChange{ByID: *one("team_none")})
		refused(t, err, fault.NotFound, "team not found")
		_, err = inv.Team(ctx, one("team_none"))
		refused(t, err, fault.NotFound, "team not found")
	})
}

// Each replica changes one field, again and again, as the others change theirs.
func TestChangesAtOnceDoNotLoseEachOther(t *testing.T) {
	t.Parallel()
	ctx, all := replicas(t, 3)
	p := must[store.Policy](t)(all[0].CreatePolicy(ctx, newPolicy("p")))
	const rounds = 10
	var wg sync.WaitGroup
	for n, inv := range all {
		wg.Go(func() {
			for round := range rounds {
				in := &inventory.PolicyChange{ByID: *one(p.ID)}
				switch n {
				case 0:
					in.Body.Name = new(fmt.Sprint("name ", round))
				case 1:
					in.Body.MaxRetries = new(round + 10)
				case 2:
					in.Body.Alerts = &[]store.Alert{{Days: int32(round), Severity: "warning"}}
				}
				if _, err := inv.ChangePolicy(ctx, in); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got := must[store.Policy](t)(all[0].Policy(ctx, one(p.ID)))
	if got.Name != "name 9" || got.MaxRetries != 19 || !slices.Equal(got.Alerts, []store.Alert{{Days: 9, Severity: "warning"}}) || got.Revision != 1+3*rounds {
		t.Errorf("it is %+v", got)
	}
	if events := changes(t, all[0].DB, audit.PolicyChanged); len(events) != 3*rounds {
		t.Errorf("%d events tell of it", len(events))
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	ctx, all := replicas(t, 1)
	for _, name := range []string{" a", "a\u00a0", "a\tb", "a\u200bb", "a\u202eb"} {
		_, err := all[0].CreateOwner(ctx, newOwner(name))
		refused(t, err, fault.Invalid, "body.name has spaces around it, or a character that cannot be seen")
	}
	_, err := all[0].CreateOwner(ctx, newOwner("own_1"))
	refused(t, err, fault.Invalid, "body.name begins with own_")
	for _, name := range []string{"own", "O'Brien, team 2 (Zürich)", "team_1", "日本"} {
		must[store.Owner](t)(all[0].CreateOwner(ctx, newOwner(name)))
	}
}

func TestDelete(t *testing.T) {
	t.Parallel()
	ctx, inv := keeping(t) // certificates refer to one of each
	of := map[string]func(string) error{
		"team_1": func(id string) error { _, err := inv.DeleteTeam(ctx, one(id)); return err },
		"own_1":  func(id string) error { _, err := inv.DeleteOwner(ctx, one(id)); return err },
		"pol_1":  func(id string) error { _, err := inv.DeletePolicy(ctx, one(id)); return err },
		"pro_1":  func(id string) error { _, err := inv.DeleteProfile(ctx, one(id)); return err },
		"iss_1":  func(id string) error { _, err := inv.DeleteIssuer(ctx, one(id)); return err },
	}
	for id, f := range of {
		refused(t, f(id), fault.Conflict, "certificates")
		refused(t, f("none"), fault.NotFound, "not found")
	}
	if _, err := inv.DB.Exec(ctx, `update certificates set team_id = null; insert into owners (id, name, team_id) values ('own_3', 'c', 'team_1')`); err != nil {
		t.Fatal(err)
	}
	refused(t, of["team_1"]("team_1"), fault.Conflict, "owners belong to the team")
	must[store.Owner](t)(inv.ChangeOwner(ctx, func() *inventory.OwnerChange {
		in := &inventory.OwnerChange{ByID: *one("own_3")}
		in.Body.TeamID = new("")
		return in
	}()))
	if _, err := inv.DB.Exec(ctx, `
		insert into profiles select (jsonb_populate_record(p, '{"id": "pro_2", "name": "b"}')).* from profiles p;
		insert into issuers (id, name, type, enabled, settings, shown) values ('iss_2', 'b', 'local', true, '', '{}');
		insert into crls (issuer_id) values ('iss_2'); insert into crl_requests (issuer_id) values ('iss_2')`); err != nil {
		t.Fatal(err)
	}
	for id, unused := range map[string]string{"team_1": "team_1", "own_1": "own_2", "pol_1": "pol_2", "pro_1": "pro_2", "iss_1": "iss_2"} {
		if err := of[id](unused); err != nil {
			t.Error(err)
		}
		refused(t, of[id](unused), fault.NotFound, "not found")
	}
	for _, a := range []*audit.Action{audit.TeamDeleted, audit.OwnerDeleted, audit.PolicyDeleted, audit.ProfileDeleted, audit.IssuerDeleted} {
		if events := changes(t, inv.DB, a); len(events) != 1 || events[0].Details["name"] == "" {
			t.Errorf("%s: the events are %+v", a.Name, events)
		}
	}
}

// Behind a pooler in transaction mode nothing is prepared.
func TestWorksWithoutPreparedStatements(t *testing.T) {
	t.Parallel()
	ctx, all := replicas(t, 1, "default_query_exec_mode=exec")
	inv := all[0]
	key := inventory.Idempotency{Key: "k"}
	team := must[store.Team](t)(inv.CreateTeam(ctx, newTeam("a")))
	owner := newOwner("a")
	owner.Body.TeamID, owner.Idempotency = team.ID, key
	for range 2 {
		o := must[store.Owner](t)(inv.CreateOwner(ctx, owner))
		in := &inventory.OwnerChange{ByID: *one(o.ID)}
		in.Body.Name = new("b")
		must[store.Owner](t)(inv.ChangeOwner(ctx, in))
	}
	p := must[store.Policy](t)(inv.CreatePolicy(ctx, newPolicy("a")))
	change := &inventory.PolicyChange{ByID: *one(p.ID)}
	change.Body.AutoRenew, change.Body.Alerts = new(false), &[]store.Alert{}
	must[store.Policy](t)(inv.ChangePolicy(ctx, change))
	profile, err := inv.CreateProfile(ctx, newProfile("a"))
	if err != nil {
		t.Fatal(err)
	}
	edit := &inventory.ProfileChange{ByID: *one(profile.ID)}
	edit.Body.MaxSANs = new(3)
	if _, err := inv.ChangeProfile(ctx, edit); err != nil {
		t.Error(err)
	}
	x := must[store.Issuer](t)(inv.CreateIssuer(ctx, newLocal("a")))
	for _, f := range []func(*inventory.IssuerChange){
		func(in *inventory.IssuerChange) { in.Body.Name = new("b") },
		func(in *inventory.IssuerChange) { in.Body.Enabled = new(false) },
	} {
		in := &inventory.IssuerChange{ByID: *one(x.ID)}
		f(in)
		must[store.Issuer](t)(inv.ChangeIssuer(ctx, in))
	}
	if got := must[inventory.Tested](t)(inv.TestIssuer(ctx, one(x.ID))); !got.OK {
		t.Errorf("the test found %+v", got)
	}
	for range 2 {
		if page, err := inv.ListIssuers(ctx, &inventory.ListByName{Limit: 10}); err != nil || len(page.Items) != 1 {
			t.Errorf("the issuers are %+v (%v)", page, err)
		}
	}
	if _, err := store.DeleteIdempotencyKeys(ctx, inv.DB, 0, 10); err != nil {
		t.Error(err)
	}
	if _, err := inv.DeleteIssuer(ctx, one(x.ID)); err != nil {
		t.Error(err)
	}
}
