package inventory_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"certctl/server/audit"
	"certctl/server/cert"
	"certctl/server/config"
	"certctl/server/connector"
	"certctl/server/fault"
	"certctl/server/inventory"
	"certctl/server/issuer"
	"certctl/server/issuer/issuertest"
	"certctl/server/seal"
	"certctl/server/store"
)

func newLocal(name string) *inventory.NewIssuer {
	in := &inventory.NewIssuer{}
	in.Body.Name, in.Body.Type, in.Body.Settings = name, "local", json.RawMessage(`{"common_name": "Root of the tests"}`)
	return in
}

func newRemote(name string, settings json.RawMessage) *inventory.NewIssuer {
	in := &inventory.NewIssuer{}
	in.Body.Name, in.Body.Type, in.Body.Settings = name, "remote", settings
	return in
}

// count is what a query of one number finds.
func count(t *testing.T, inv *inventory.Inventory, sql string, args ...any) (n int) {
	t.Helper()
	if err := inv.DB.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// opened returns the settings of an issuer as they are sealed.
func opened(t *testing.T, inv *inventory.Inventory, id string) string {
	t.Helper()
	s := must[store.Sealed](t)(store.SealedIssuer(t.Context(), inv.DB, id))
	return string(must[json.RawMessage](t)(inv.Issuers.Settings(id, s.Settings)))
}

func TestIssuerOfAnAuthorityInside(t *testing.T) {
	t.Parallel()
	ctx, all := replicas(t, 2)
	inv := all[0]
	in := newLocal("root")
	in.Key = "k"
	x := must[store.Issuer](t)(inv.CreateIssuer(ctx, in))
	again := must[store.Issuer](t)(all[1].CreateIssuer(ctx, in))
	if again.ID != x.ID || !x.Enabled || !slices.Contains(x.Can, "sign-crls") || !slices.Equal(x.Can, again.Can) {
		t.Errorf("it is made as %+v, then as %+v", x, again)
	}
	t.Run("its key is nowhere but sealed", func(t *testing.T) {
		settings := opened(t, inv, x.ID)
		if !strings.Contains(settings, "PRIVATE KEY") {
			t.Fatal("no key was made")
		}
		var made struct {
			Key string `json:"key_pem"`
		}
		if err := json.Unmarshal([]byte(settings), &made); err != nil {
			t.Fatal(err)
		}
		secret := strings.Split(made.Key, "\n")[1] // a line of the key
		page := must[inventory.Page[store.Issuer]](t)(inv.ListIssuers(ctx, &inventory.ListByName{Limit: 10}))
		read := must[store.Issuer](t)(inv.Issuer(ctx, one(x.ID)))
		answers := must[[]byte](t)(json.Marshal([]any{x, again, page, read}))
		if strings.Contains(string(answers), secret) || strings.Contains(string(answers), "PRIVATE KEY") || !strings.Contains(string(answers), config.Withheld) {
			t.Errorf("the answers are %s", answers)
		}
		if n := count(t, inv, `
			select count(*) from (
				select i::text || encode(settings, 'escape') from issuers i
				union all select k::text from idempotency_keys k union all select e::text from audit_events e
			) rows (text) where text like '%' || $1 || '%' or text like '%PRIVATE KEY%'`, secret); n != 0 {
			t.Errorf("%d rows have it", n)
		}
	})
	t.Run("it can sign, and its revocation list is kept", func(t *testing.T) {
		if got := must[inventory.Tested](t)(all[1].TestIssuer(ctx, one(x.ID))); !got.OK || got.Error != "" {
			t.Errorf("the test found %+v", got)
		}
		if n := count(t, inv, `select count(*) from crls where issuer_id = $1`, x.ID); n != 1 {
			t.Errorf("it has %d revocation lists", n)
		}
	})
	t.Run("what was generated cannot be changed", func(t *testing.T) {
		in := &inventory.IssuerChange{ByID: *one(x.ID)}
		in.Body.Settings = json.RawMessage(`{"key_algorithm": "rsa-4096"}`)
		_, err := inv.ChangeIssuer(ctx, in)
		refused(t, err, fault.Invalid, "body.settings.key_algorithm")
	})
	t.Run("another name leaves the settings as they are", func(t *testing.T) {
		before := opened(t, inv, x.ID)
		in := &inventory.IssuerChange{ByID: *one(x.ID)}
		in.Body.Name, in.Body.Enabled, in.Body.Settings = new("other"), new(false), json.RawMessage(`{"key_pem": "`+config.Withheld+`"}`)
		got := must[store.Issuer](t)(inv.ChangeIssuer(ctx, in))
		if got.Name != "other" || got.Enabled || got.Revision != 2 || got.TestedAt == nil || opened(t, inv, x.ID) != before || string(got.Settings) != string(x.Settings) {
			t.Errorf("it is %+v", got)
		}
		if e := changes(t, inv.DB, audit.IssuerChanged); len(e) != 1 || e[0].Details["fields"] != "name enabled" {
			t.Errorf("the events are %+v", e)
		}
	})
	t.Run("it goes with its keys and its list", func(t *testing.T) {
		if _, err := inv.DeleteIssuer(ctx, one(x.ID)); err != nil {
			t.Fatal(err)
		}
		if n := count(t, inv, `select (select count(*) from issuers) + (select count(*) from crls)`); n != 0 {
			t.Errorf("%d rows are left", n)
		}
	})
}

func TestIssuerOfAnAuthorityOutside(t *testing.T) {
	t.Parallel()
	ctx, all := replicas(t, 1)
	inv := all[0]
	far := issuertest.NewAuthority(t)
	x := must[store.Issuer](t)(inv.CreateIssuer(ctx, newRemote("far", far.Settings())))
	if n := count(t, inv, `select count(*) from crls`); n != 0 || slices.Contains(x.Can, "sign-crls") || !slices.Contains(x.Can, "revoke") {
		t.Errorf("it can %v, and %d revocation lists are kept", x.Can, n)
	}
	edit := func(settings string) (store.Issuer, error) {
		in := &inventory.IssuerChange{ByID: *one(x.ID)}
		in.Body.Settings = json.RawMessage(settings)
		return inv.ChangeIssuer(ctx, in)
	}
	try := func() inventory.Tested {
		t.Helper()
		return must[inventory.Tested](t)(inv.TestIssuer(ctx, one(x.ID)))
	}
	t.Run("a test tells what it found, and it is kept", func(t *testing.T) {
		far.Fail(true)
		if got := try(); got.OK || got.Error != "the authority is out of order; try again" {
			t.Errorf("it found %+v", got)
		}
		far.Fail(false)
		if got := must[store.Issuer](t)(inv.Issuer(ctx, one(x.ID))); got.TestError == "" || got.TestedAt == nil || got.Revision != 1 {
			t.Errorf("it is %+v", got)
		}
		if got := try(); !got.OK {
			t.Errorf("it found %+v", got)
		}
		if got := must[store.Issuer](t)(inv.Issuer(ctx, one(x.ID))); got.TestError != "" || got.TestedAt == nil {
			t.Errorf("it is %+v", got)
		}
		e := changes(t, inv.DB, audit.IssuerTested)
		if len(e) != 2 || e[0].Details["outcome"] != "passed" || e[1].Details["outcome"] != "failed" || e[1].Details["name"] != "far" {
			t.Errorf("the events are %+v", e)
		}
	})
	t.Run("a secret is replaced", func(t *testing.T) {
		got := must[store.Issuer](t)(edit(`{"token": "s3cr3t"}`))
		if got.TestedAt != nil || got.TestError != "" || strings.Contains(string(got.Settings), "s3cr3t") || !strings.Contains(opened(t, inv, x.ID), "s3cr3t") {
			t.Errorf("it is %+v", got)
		}
		e := changes(t, inv.DB, audit.IssuerChanged)
		if len(e) != 1 || e[0].Details["fields"] != "settings.token" {
			t.Errorf("the events are %+v", e)
		}
		if got := try(); got.OK || !strings.Contains(got.Error, "does not take the token") {
			t.Errorf("with a wrong one the test found %+v", got)
		}
		must[store.Issuer](t)(edit(string(far.Settings())))
		if got := try(); !got.OK {
			t.Errorf("with the right one the test found %+v", got)
		}
	})
	t.Run("what is shown can be sent back", func(t *testing.T) {
		before := must[store.Issuer](t)(inv.Issuer(ctx, one(x.ID)))
		got := must[store.Issuer](t)(edit(string(before.Settings)))
		if got.Revision != before.Revision || !try().OK {
			t.Errorf("it is %+v", got)
		}
	})
	t.Run("settings that make no sense are refused", func(t *testing.T) {
		_, err := edit(`{"url": "nowhere"}`)
		refused(t, err, fault.Invalid, "body.settings.url")
		_, err = edit(`{"urls": "https://a.example"}`)
		refused(t, err, fault.Invalid, "body.settings.url")
		_, err = inv.CreateIssuer(ctx, newRemote("bad", json.RawMessage(`{"url": "nowhere"}`)))
		refused(t, err, fault.Invalid, "body.settings.url")
		in := newRemote("bad", nil)
		in.Body.Type = "Local"
		_, err = inv.CreateIssuer(ctx, in)
		refused(t, err, fault.Invalid, "the types are local, remote")
		if n := count(t, inv, `select count(*) from issuers`); n != 1 {
			t.Errorf("%d issuers are there", n)
		}
	})
}

// Of a create that is sent again only what is no secret is compared: a hash
// of the rest would be something to guess it by.
func TestSecretIsNoPartOfWhatIsKeptUnderAnIdempotencyKey(t *testing.T) {
	t.Parallel()
	ctx, all := replicas(t, 1)
	create := func(settings string) (store.Issuer, error) {
		in := newRemote("far", json.RawMessage(settings))
		in.Key = "k"
		return all[0].CreateIssuer(ctx, in)
	}
	first := must[store.Issuer](t)(create(`{"url": "https://a.example", "token": "one"}`))
	again := must[store.Issuer](t)(create(`{"url": "https://a.example", "token": "two"}`))
	if first.ID != again.ID {
		t.Error("another secret makes another issuer")
	}
	_, err := create(`{"url": "https://b.example", "token": "one"}`)
	refused(t, err, fault.Conflict, "header.Idempotency-Key")
}

// A hooked issuer does what a test says when it is tested.
type hooked struct{ test func(context.Context) error }

func (*hooked) Issue(context.Context, cert.Order) (issuer.Issued, error) {
	return issuer.Issued{}, errors.New("it signs nothing")
}

func (h *hooked) Test(ctx context.Context) error { return h.test(ctx) }

func TestTestOfAnIssuer(t *testing.T) {
	t.Parallel()
	ctx, all := replicas(t, 1)
	inv := all[0]
	h := &hooked{}
	inv.Issuers.Types = []issuer.Type{issuer.Declare("hooked", "Does what a test says.",
		func(struct{}, connector.Env) (*hooked, error) { return h, nil }, nil)}
	in := newRemote("x", nil)
	in.Body.Type = "hooked"
	x := must[store.Issuer](t)(inv.CreateIssuer(ctx, in))

	t.Run("is of no use where the issuer is changed meanwhile", func(t *testing.T) {
		h.test = func(context.Context) error {
			in := &inventory.IssuerChange{ByID: *one(x.ID)}
			in.Body.Name = new("y")
			_, err := inv.ChangeIssuer(ctx, in)
			return err
		}
		_, err := inv.TestIssuer(ctx, one(x.ID))
		refused(t, err, fault.Conflict, "changed while it was tested")
		if n := count(t, inv, `select count(*) from issuers where tested_at is not null`); n != 0 || len(changes(t, inv.DB, audit.IssuerTested)) != 0 {
			t.Error("its outcome is kept")
		}
	})
	t.Run("ends in time", func(t *testing.T) {
		h.test = func(ctx context.Context) error {
			end, ok := ctx.Deadline()
			if left := time.Until(end); !ok || left > 10*time.Second || left < 5*time.Second {
				t.Errorf("it may take until %v", end)
			}
			return nil
		}
		must[inventory.Tested](t)(inv.TestIssuer(ctx, one(x.ID)))
	})
	t.Run("tells callers nothing of a failure inside", func(t *testing.T) {
		h.test = func(context.Context) error { return errors.New("s3cr3t") }
		got, err := inv.TestIssuer(ctx, one(x.ID))
		if fault.Of(err) != fault.Internal || got.OK || got.Error != "internal error" {
			t.Errorf("it found %+v (%v)", got, err)
		}
		if read := must[store.Issuer](t)(inv.Issuer(ctx, one(x.ID))); read.TestError != "internal error" {
			t.Errorf("it is %+v", read)
		}
	})
	t.Run("is not kept where the caller went away", func(t *testing.T) {
		gone, leave := context.WithCancel(ctx)
		h.test = func(ctx context.Context) error { leave(); return ctx.Err() }
		events := len(changes(t, inv.DB, audit.IssuerTested))
		if _, err := inv.TestIssuer(gone, one(x.ID)); !errors.Is(err, context.Canceled) || len(changes(t, inv.DB, audit.IssuerTested)) != events {
			t.Errorf("%v", err)
		}
	})
	t.Run("finds settings that another key sealed", func(t *testing.T) {
		inv.Issuers = issuer.NewRegistry(inv.Issuers.Types, "")
		inv.Issuers.Box = must[*seal.Box](t)(seal.New(seal.NewKey()))
		_, err := inv.TestIssuer(ctx, one(x.ID))
		if !errors.Is(err, seal.ErrOpen) {
			t.Errorf("%v", err)
		}
	})
	t.Run("an issuer of a type that this build does not have is listed", func(t *testing.T) {
		inv.Issuers.Types = nil
		page := must[inventory.Page[store.Issuer]](t)(inv.ListIssuers(ctx, &inventory.ListByName{Limit: 10}))
		if len(page.Items) != 1 || page.Items[0].Can == nil || len(page.Items[0].Can) != 0 {
			t.Errorf("the list is %+v", page.Items)
		}
		in := &inventory.IssuerChange{ByID: *one(x.ID)}
		in.Body.Settings = json.RawMessage(`{}`)
		_, err := inv.ChangeIssuer(ctx, in)
		refused(t, err, fault.Conflict, "of a type that this version does not have")
	})
}
