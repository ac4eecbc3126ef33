package inventory

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"certctl/server/audit"
	"certctl/server/connector"
	"certctl/server/fault"
	"certctl/server/notify"
	"certctl/server/outbox"
	"certctl/server/pg"
	"certctl/server/store"
	"certctl/server/web"
)

var channels = &systems[store.Channel, notify.Channel]{
	kind: &kind[store.Channel]{
		what: "channel", noun: "channel", prefix: "chn",
		created: audit.ChannelCreated, changed: audit.ChannelChanged, deleted: audit.ChannelDeleted,
		key:  func(x *store.Channel) key { return key{x.ID, x.Name, x.Revision} },
		list: store.Channels, byID: store.ChannelByID, lock: store.LockChannel, drop: store.DeleteChannel,
		inUse: map[string]string{
			"policy_channels_channel_id_fkey": "renewal policies have the channel; take it from their channels first",
		},
	},
	tests:    audit.ChannelTested,
	system:   func(x *store.Channel) *store.System { return &x.System },
	registry: func(i *Inventory) *connector.Registry[notify.Channel] { return i.Channels },
	sealed:   store.SealedChannel, insert: store.InsertChannel, update: store.ChangeChannel, found: store.ChannelTested,
}

// NewChannel asks for a channel.
type NewChannel struct {
	Idempotency
	Body struct {
		Name     string          `json:"name" minLength:"1" maxLength:"255" doc:"no two channels share a name"`
		Type     string          `json:"type" minLength:"1" maxLength:"63" doc:"name of a type of channel"`
		Enabled  *bool           `json:"enabled,omitempty" nullable:"false" doc:"nothing is sent through a channel that is not, and what is queued waits; true by default"`
		Digest   bool            `json:"digest,omitempty" doc:"whether it gets the digest"`
		Settings json.RawMessage `json:"settings,omitempty" doc:"an object with settings of the type"`
	}
}

// CreateChannel makes a channel.
func (i *Inventory) CreateChannel(ctx context.Context, in *NewChannel) (store.Channel, error) {
	b := in.Body
	b.Settings = nil
	return createSystem(ctx, i, channels, in.Idempotency, b, store.Channel{
		System: store.System{ID: channels.newID(), Name: b.Name, Type: b.Type, Enabled: or(b.Enabled, true)}, Digest: b.Digest,
	}, in.Body.Settings)
}

// ListChannels lists channels by name, without their secrets.
func (i *Inventory) ListChannels(ctx context.Context, in *ListByName) (Page[store.Channel], error) {
	return list(ctx, i, channels.kind, in)
}

// Channel returns one channel without its secrets.
func (i *Inventory) Channel(ctx context.Context, in *ByID) (store.Channel, error) {
	return channels.byID(ctx, i.DB, in.ID)
}

// ChannelChange changes those fields of a channel, and those of its settings,
// that it gives.
type ChannelChange struct {
	ByID
	Body struct {
		Revision *int64          `json:"revision,omitempty" nullable:"false" doc:"refuses the change if the channel has another one by now"`
		Name     *string         `json:"name,omitempty" minLength:"1" maxLength:"255" nullable:"false"`
		Enabled  *bool           `json:"enabled,omitempty" nullable:"false"`
		Digest   *bool           `json:"digest,omitempty" nullable:"false"`
		Settings json.RawMessage `json:"settings,omitempty" doc:"an object with those settings that change; null stands for the default, and the word that stands for a secret for the secret there is"`
	}
}

// ChangeChannel changes a channel. Secrets stay that are not given.
func (i *Inventory) ChangeChannel(ctx context.Context, in *ChannelChange) (store.Channel, error) {
	b := &in.Body
	return changeSystem(ctx, i, channels, in.ID, b.Revision, b.Settings, func(e *edits, x *store.Channel) {
		set(e, "name", &x.Name, b.Name)
		set(e, "enabled", &x.Enabled, b.Enabled)
		set(e, "digest", &x.Digest, b.Digest)
	})
}

// DeleteChannel deletes a channel that no policy has and through which nothing
// is on its way. What is queued for one that is not enabled is given up.
func (i *Inventory) DeleteChannel(ctx context.Context, in *ByID) (web.Nothing, error) {
	k := *channels.kind
	k.lock = func(ctx context.Context, q pg.Q, id string) (store.Channel, error) {
		x, err := store.LockChannel(ctx, q, id)
		if err != nil || !x.Enabled {
			return x, err
		}
		n, err := outbox.OpenFor(ctx, q, id)
		if err == nil && n > 0 {
			err = fault.New(fault.Conflict, "%d notifications wait to be sent through the channel; wait until they are, or disable the channel first to have them given up", n)
		}
		return x, err
	}
	return remove(ctx, i, &k, in)
}

// TestChannel tries whether a channel would deliver, and keeps what it found. It
// sends nothing.
func (i *Inventory) TestChannel(ctx context.Context, in *ByID) (Tested, error) {
	return testSystem(ctx, i, channels, in.ID)
}

// toChannels returns what a policy asks for with the ids of its channels.
func toChannels(ctx context.Context, q pg.Q, asked []store.PolicyChannel) ([]store.PolicyChannel, error) {
	var keys []string
	for _, c := range asked {
		keys = append(keys, c.ChannelID)
	}
	ids, err := store.ChannelIDs(ctx, q, keys)
	if err != nil {
		return nil, err
	}
	named := []store.PolicyChannel{}
	for _, c := range asked {
		id, ok := ids[c.ChannelID]
		if !ok {
			return nil, fault.New(fault.Invalid, "body.channels names a channel that does not exist; GET /api/v1/channels lists them")
		}
		if slices.ContainsFunc(named, func(n store.PolicyChannel) bool { return n.ChannelID == id }) {
			return nil, fault.New(fault.Invalid, "body.channels names a channel twice; name it once, with the least severity that it is told of")
		}
		named = append(named, store.PolicyChannel{ChannelID: id, From: c.From})
	}
	slices.SortFunc(named, func(a, b store.PolicyChannel) int { return strings.Compare(a.ChannelID, b.ChannelID) })
	return named, nil
}
