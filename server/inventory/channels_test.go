package inventory_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"certctl/server/audit"
	"certctl/server/config"
	"certctl/server/connector"
	"certctl/server/fault"
	"certctl/server/inventory"
	"certctl/server/notify"
	"certctl/server/store"
)

// bell is a type of channel that reaches nobody.
var bell = notify.Declare("bell", "Rings.", func(s struct {
	Rope  string `json:"rope" doc:"what to pull" default:"short"`
	Token string `json:"token" doc:"opens the tower" secret:"true"`
}, env connector.Env,
) (notify.Channel, error) {
	if s.Rope == "torn" || env.ID == "" {
		return nil, fault.New(fault.Invalid, "body.settings.rope is torn; take another")
	}
	return tower(s.Rope), nil
})

type tower string

func (tower) Send(context.Context, notify.Message) error {
	return errors.New("nobody is to be told here")
}

func (t tower) Test(context.Context) error {
	if t == "tangled" {
		return fault.New(fault.Unavailable, "the rope is tangled")
	}
	return nil
}

func newChannel(name, settings string) *inventory.NewChannel {
	in := &inventory.NewChannel{}
	in.Body.Name, in.Body.Type, in.Body.Settings = name, "bell", json.RawMessage(settings)
	return in
}

func TestChannel(t *testing.T) {
	t.Parallel()
	ctx, all := replicas(t, 2, "default_query_exec_mode=exec")
	inv := all[0]
	const canary = "c4n4ry"
	in := newChannel("tower", `{"token": "`+canary+`"}`)
	in.Key = "k"
	x := must[store.Channel](t)(inv.CreateChannel(ctx, in))
	if again := must[store.Channel](t)(all[1].CreateChannel(ctx, in)); again.ID != x.ID || !strings.HasPrefix(x.ID, "chn_") || !x.Enabled || x.Digest {
		t.Errorf("it is made as %+v, then as %+v", x, again)
	}
	edit := func(f func(*inventory.ChannelChange)) (store.Channel, error) {
		in := &inventory.ChannelChange{ByID: *one(x.ID)}
		f(in)
		return all[1].ChangeChannel(ctx, in)
	}

	t.Run("its secrets are nowhere but sealed", func(t *testing.T) {
		page := must[inventory.Page[store.Channel]](t)(inv.ListChannels(ctx, &inventory.ListByName{Limit: 10}))
		read := must[store.Channel](t)(inv.Channel(ctx, one(x.ID)))
		answers := string(must[[]byte](t)(json.Marshal([]any{x, page, read})))
		if strings.Contains(answers, canary) || strings.Count(answers, config.Withheld) != 3 {
			t.Errorf("the answers are %s", answers)
		}
		if n := count(t, inv, `
			select count(*) from (
				select c::text || encode(settings, 'escape') from channels c
				union all select k::text from idempotency_keys k union all select e::text from audit_events e
			) rows (text) where text like '%' || $1 || '%'`, canary); n != 0 {
			t.Errorf("%d rows have it", n)
		}
		s := must[store.Sealed](t)(store.SealedChannel(ctx, inv.DB, x.ID))
		if settings := string(must[json.RawMessage](t)(inv.Channels.Settings(x.ID, s.Settings))); !strings.Contains(settings, canary) {
			t.Errorf("sealed are %s", settings)
		}
		if _, err := inv.Issuers.Settings(x.ID, s.Settings); err == nil {
			t.Error("what was sealed for a channel opens for an issuer")
		}
	})
	t.Run("a change names its fields, and settings that differ have it tested anew", func(t *testing.T) {
		if got := must[inventory.Tested](t)(inv.TestChannel(ctx, one(x.ID))); !got.OK {
			t.Errorf("the test found %+v", got)
		}
		got := must[store.Channel](t)(edit(func(in *inventory.ChannelChange) {
			in.Body.Digest, in.Body.Settings = new(true), json.RawMessage(`{"token": "`+config.Withheld+`"}`)
		}))
		if !got.Digest || got.TestedAt == nil || got.Revision != 2 {
			t.Errorf("it is %+v", got)
		}
		got = must[store.Channel](t)(edit(func(in *inventory.ChannelChange) { in.Body.Settings = json.RawMessage(`{"rope": "tangled"}`) }))
		if got.TestedAt != nil || !strings.Contains(string(got.Settings), "tangled") {
			t.Errorf("it is %+v, with %s", got, got.Settings)
		}
		var fields []string
		for _, e := range changes(t, inv.DB, audit.ChannelChanged) {
			fields = append(fields, e.Details["fields"])
		}
		if !slices.Equal(fields, []string{"settings.rope", "digest"}) {
			t.Errorf("the events name %q", fields)
		}
		if got := must[inventory.Tested](t)(inv.TestChannel(ctx, one(x.ID))); got.OK || got.Error != "the rope is tangled" {
			t.Errorf("the test found %+v", got)
		}
		if e := changes(t, inv.DB, audit.ChannelTested); len(e) != 2 || e[0].Details["outcome"] != "failed" {
			t.Errorf("the events are %+v", e)
		}
	})
	t.Run("refusals name the field", func(t *testing.T) {
		_, err := edit(func(in *inventory.ChannelChange) { in.Body.Settings = json.RawMessage(`{"rope": "torn"}`) })
		refused(t, err, fault.Invalid, "body.settings.rope is torn")
		_, err = inv.CreateChannel(ctx, newChannel("other", `{"rope": "torn"}`))
		refused(t, err, fault.Invalid, "body.settings.rope is torn")
		in := newChannel("other", ``)
		in.Body.Type = "drum"
		_, err = inv.CreateChannel(ctx, in)
		refused(t, err, fault.Invalid, "body.type is no type of channel; the types are bell")
		_, err = inv.CreateChannel(ctx, newChannel("tower", ``))
		refused(t, err, fault.Conflict, "body.name is the name of another channel")
	})
	t.Run("one that policies have stays", func(t *testing.T) {
		in := newPolicy("p")
		in.Body.Channels = &[]store.PolicyChannel{{ChannelID: "tower", From: "warning"}}
		p := must[store.Policy](t)(inv.CreatePolicy(ctx, in))
		if !slices.Equal(p.Channels, []store.PolicyChannel{{ChannelID: x.ID, From: "warning"}}) {
			t.Errorf("the policy has %+v", p.Channels)
		}
		_, err := inv.DeleteChannel(ctx, one(x.ID))
		refused(t, err, fault.Conflict, "renewal policies have the channel")
		change := func(channels ...store.PolicyChannel) (store.Policy, error) {
			in := &inventory.PolicyChange{ByID: *one(p.ID)}
			in.Body.Channels = &channels
			return inv.ChangePolicy(ctx, in)
		}
		_, err = change(store.PolicyChannel{ChannelID: "nowhere", From: "warning"})
		refused(t, err, fault.Invalid, "body.channels names a channel that does not exist")
		_, err = change(store.PolicyChannel{ChannelID: x.ID, From: "dire"})
		refused(t, err, fault.Invalid, "body.channels.from is no severity; give one of informational, warning, critical")
		_, err = change(store.PolicyChannel{ChannelID: x.ID, From: "warning"}, store.PolicyChannel{ChannelID: "tower", From: "critical"})
		refused(t, err, fault.Invalid, "body.channels names a channel twice")
		p = must[store.Policy](t)(change(store.PolicyChannel{ChannelID: "tower", From: "critical"}))
		same := must[store.Policy](t)(change(store.PolicyChannel{ChannelID: x.ID, From: "critical"}))
		if p.Revision != 2 || same.Revision != 2 || p.Channels[0].From != "critical" {
			t.Errorf("the policy is %+v, then %+v", p, same)
		}
		if p = must[store.Policy](t)(change()); len(p.Channels) != 0 || p.Channels == nil {
			t.Errorf("the policy has %+v", p.Channels)
		}
	})
	t.Run("one that something is on its way through stays while it is enabled", func(t *testing.T) {
		if _, err := inv.DB.Exec(ctx, `
			insert into notifications (id, once, event, severity, channel_id, data, recipients)
			values ('ntf_1', 'a', 'digest', 'warning', $1, '{}', '{}')`, x.ID); err != nil {
			t.Fatal(err)
		}
		_, err := inv.DeleteChannel(ctx, one(x.ID))
		refused(t, err, fault.Conflict, "1 notifications wait to be sent through the channel")
		must[store.Channel](t)(edit(func(in *inventory.ChannelChange) { in.Body.Enabled = new(false) }))
		if _, err := inv.DeleteChannel(ctx, one(x.ID)); err != nil {
			t.Error(err)
		}
		_, err = inv.Channel(ctx, one(x.ID))
		refused(t, err, fault.NotFound, "channel not found")
		if len(changes(t, inv.DB, audit.ChannelDeleted)) != 1 || len(changes(t, inv.DB, audit.ChannelCreated)) != 1 {
			t.Error("the events do not tell of it")
		}
	})
}
