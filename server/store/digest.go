package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/pg"
)

// A Digest is what there is of certificates, and what has become of them since
// some time. Of each list it has the first rows.
type Digest struct {
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
	First bool      `json:"first,omitempty" db:"-"` // there is no digest before

	States       map[string]int64 `json:"states"` // certificates in each state
	Renewed      int64            `json:"renewed"`
	EndingTotal  int64            `json:"ending_total"` // active ones, within EndingWithin days
	Ending       []DigestEnding   `json:"ending"`
	FailedTotal  int64            `json:"failed_total"` // renewals without an attempt left
	Failed       []DigestFailed   `json:"failed"`
	RevokedTotal int64            `json:"revoked_total"` // versions
	Revoked      []DigestRevoked  `json:"revoked"`
	DeadTotal    int64            `json:"dead_total"` // notifications that were given up
	Dead         []DigestUntold   `json:"dead"`
}

// A DigestEnding is a certificate that ends soon.
type DigestEnding struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Owner     string    `json:"owner"`
	NotAfter  time.Time `json:"not_after"`
	AutoRenew bool      `json:"auto_renew"`
}

// A DigestFailed is a renewal that failed for good.
type DigestFailed struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Error string `json:"error"`
}

// A DigestRevoked is a certificate of which versions were revoked.
type DigestRevoked struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Reason int    `json:"reason"` // code of a cert.Reason
}

// DigestUntold counts what was not delivered through a channel.
type DigestUntold struct {
	Channel string `json:"channel"`
	Count   int64  `json:"count"`
	Error   string `json:"error"` // of the newest
}

// EndingWithin is how many days ahead a digest looks.
const EndingWithin = 30

// ReadDigest reads what a digest says, in one round trip, with up to limit rows
// of each list.
func ReadDigest(ctx context.Context, q pg.Q, since, until time.Time, limit int) (Digest, error) {
	rows, _ := q.Query(ctx, `
		with span as materialized (
			select @since::timestamptz as since, @until::timestamptz as until, @until::timestamptz + @days::integer * interval '1 day' as ahead
		), ending as materialized (
			select c.id, c.name, c.owner_id, c.policy_id, c.not_after from span join certificates c on c.state = 'active' and c.not_after < span.ahead
		), failed as materialized (
			select j.certificate_id, j.error, j.finished_at, j.id from span join jobs j
			on j.state = 'dead' and j.kind = 'renew' and j.finished_at >= span.since and j.finished_at < span.until
		), revoked as materialized (
			select r.certificate_id, r.reason, r.revoked_at from span join revocations r
			on r.revoked_at >= span.since and r.revoked_at < span.until
		), dead as materialized (
			select n.channel_id, n.error, n.finished_at from span join notifications n
			on n.state = 'dead' and n.finished_at >= span.since and n.finished_at < span.until
		)
		select span.since, span.until,
			(select coalesce(jsonb_object_agg(key, n), '{}') from (`+countByState+`) c) as states,
			(select count(*) from certificate_versions v where v.number > 1 and v.created_at >= span.since and v.created_at < span.until) as renewed,
			(select count(*) from ending) as ending_total,
			(select coalesce(jsonb_agg(to_jsonb(e) order by e.not_after, e.id), '[]') from (
				select e.id, e.name, o.name as owner, e.not_after, p.auto_renew
				from ending e join owners o on o.id = e.owner_id join renewal_policies p on p.id = e.policy_id
				order by e.not_after, e.id limit @limit) e) as ending,
			(select count(*) from failed) as failed_total,
			(select coalesce(jsonb_agg(to_jsonb(f) - 'at' order by f.at desc, f.id), '[]') from (
				select c.id, c.name, f.error, f.finished_at as at from failed f join certificates c on c.id = f.certificate_id
				order by f.finished_at desc, f.id limit @limit) f) as failed,
			(select count(*) from revoked) as revoked_total,
			(select coalesce(jsonb_agg(to_jsonb(r) - 'at' order by r.at desc, r.id), '[]') from (
				select c.id, c.name, r.reason, max(r.revoked_at) as at from revoked r join certificates c on c.id = r.certificate_id
				group by c.id, c.name, r.reason order by 4 desc, c.id limit @limit) r) as revoked,
			(select count(*) from dead) as dead_total,
			(select coalesce(jsonb_agg(to_jsonb(d) order by d.count desc, d.channel), '[]') from (
				select coalesce(ch.name, d.channel_id) as channel, count(*) as count,
					(array_agg(d.error order by d.finished_at desc))[1] as error
				from dead d left join channels ch on ch.id = d.channel_id
				group by 1 order by 2 desc, 1 limit @limit) d) as dead
		from span`,
		pgx.StrictNamedArgs{"since": since, "until": until, "days": EndingWithin, "limit": limit})
	d, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Digest])
	d.States = everyState(d.States)
	return d, pg.Fault(err, "digest")
}
