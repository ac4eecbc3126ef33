package store

import (
	"context"

	"github.com/jackc/pgx/v5"

	"certctl/server/pg"
)

// A Channel is where people or programs are told of what happens. Nothing is
// sent through one that is not enabled.
type Channel struct {
	System
	Digest bool `json:"digest" doc:"whether it gets the digest"`
}

const channelColumns = systemColumns + `, digest`

// Channels returns up to limit channels by name, from the first whose name comes
// after the given one.
func Channels(ctx context.Context, q pg.Q, after string, limit int) ([]Channel, error) {
	rows, _ := q.Query(ctx, `select `+channelColumns+` from channels where name > @after order by name limit @limit`,
		pgx.StrictNamedArgs{"after": after, "limit": limit})
	channels, err := pgx.CollectRows(rows, pgx.RowToStructByName[Channel])
	return channels, pg.Fault(err, "channels")
}

// ChannelByID returns one channel.
func ChannelByID(ctx context.Context, q pg.Q, id string) (Channel, error) {
	rows, _ := q.Query(ctx, `select `+channelColumns+` from channels where id = $1`, id)
	return channel(rows)
}

// LockChannel returns a channel and keeps others from changing it until the
// transaction ends.
func LockChannel(ctx context.Context, q pg.Q, id string) (Channel, error) {
	rows, _ := q.Query(ctx, `select `+channelColumns+` from channels where id = $1 for no key update`, id)
	return channel(rows)
}

// SealedChannel returns one channel with the settings that only the server can
// read.
func SealedChannel(ctx context.Context, q pg.Q, id string) (Sealed, error) {
	rows, _ := q.Query(ctx, `select `+sealedColumns+` from channels where id = $1`, id)
	s, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Sealed])
	return s, pg.Fault(err, "channel")
}

// ChannelIDs returns the ids of the channels that keys name, by the key: an id
// or a name. What names none is left out.
func ChannelIDs(ctx context.Context, q pg.Q, keys []string) (map[string]string, error) {
	rows, _ := q.Query(ctx, `select id, name from channels`+namedOrKeyed, keys)
	refs, err := pgx.CollectRows(rows, pgx.RowToStructByName[ref])
	ids := map[string]string{}
	for _, r := range refs {
		ids[r.ID], ids[r.Name] = r.ID, r.ID
	}
	return ids, pg.Fault(err, "channels")
}

// InsertChannel adds a channel, whose sealed settings are x.Settings with their
// secrets.
func InsertChannel(ctx context.Context, q pg.Q, x Channel, sealed []byte) (Channel, error) {
	rows, _ := q.Query(ctx, `
		insert into channels (id, name, type, enabled, digest, settings, shown)
		values (@id, @name, @type, @enabled, @digest, @sealed, @shown::text::jsonb)
		returning `+channelColumns,
		pgx.StrictNamedArgs{
			"id": x.ID, "name": x.Name, "type": x.Type, "enabled": x.Enabled, "digest": x.Digest, "sealed": sealed,
			"shown": string(x.Settings),
		})
	return channel(rows)
}

// ChangeChannel sets what callers may change of a channel: the settings if
// sealed has them, with which what a test has found of the old ones goes.
func ChangeChannel(ctx context.Context, q pg.Q, x Channel, sealed []byte) (Channel, error) {
	rows, _ := q.Query(ctx, `
		update channels
		set name = @name, enabled = @enabled, digest = @digest, settings = coalesce(@sealed::bytea, settings),
		    shown = @shown::text::jsonb,
		    tested_at = case when @sealed::bytea is null then tested_at end,
		    test_error = case when @sealed::bytea is null then test_error else '' end,
		    revision = revision + 1, updated_at = clock_timestamp()
		where id = @id
		returning `+channelColumns,
		pgx.StrictNamedArgs{
			"id": x.ID, "name": x.Name, "enabled": x.Enabled, "digest": x.Digest, "sealed": sealed, "shown": string(x.Settings),
		})
	return channel(rows)
}

// ChannelTested keeps what a test of a channel has found, unless the channel has
// another revision by now, of which it reports false.
func ChannelTested(ctx context.Context, q pg.Q, id string, revision int64, found string) (bool, error) {
	tag, err := q.Exec(ctx, `
		update channels set tested_at = clock_timestamp(), test_error = @found where id = @id and revision = @revision`,
		pgx.StrictNamedArgs{"id": id, "revision": revision, "found": found})
	return tag.RowsAffected() == 1, pg.Fault(err, "channel")
}

func channel(rows pgx.Rows) (Channel, error) {
	x, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Channel])
	return x, pg.Fault(err, "channel")
}

// DeleteChannel deletes a channel that no policy has.
func DeleteChannel(ctx context.Context, q pg.Q, id string) error {
	_, err := q.Exec(ctx, `delete from channels where id = $1`, id)
	return pg.Fault(err, "channel")
}
