package audit

// Statement writes events in their order. Arguments are its arguments.
const Statement = `
	with event as (
		insert into audit_events (actor_kind, actor_id, actor_name, action, resource_kind, resource_id, details, request_id, replica)
		select @actor_kind, @actor_id, @actor_name, action, resource_kind, resource_id, details::jsonb, @request_id, @replica
		from unnest(@actions::text[], @resource_kinds::text[], @resource_ids::text[], @details::text[])
			with ordinality e (action, resource_kind, resource_id, details, place)
		order by place
		returning id
	)
	insert into audit_queue (event_id) select id from event`

const (
	// Keys, oldest first.
	readKeys = `
		select name, verifier, sealed, retired_at is null as active
		from audit_keys order by created_at, name`

	insertKey = `
		insert into audit_keys (name, verifier, sealed) values (@name, @verifier, @sealed)
		on conflict do nothing`

	// The lateral join looks each event up; a plain one may be planned as a walk
	// over all events since the first.
	readQueue = `
		select e.id, e.at, e.actor_kind, e.actor_id, e.actor_name, e.action, e.resource_kind, e.resource_id,
			e.details, e.request_id, e.replica
		from audit_queue q
		cross join lateral (select * from audit_events where id = q.event_id limit 1) e
		order by q.event_id limit $1`

	readHead = `
		select coalesce((select max(seq) + 1 from audit_log), 0) as size,
			coalesce((select note from audit_checkpoints order by size desc limit 1), '') as note,
			clock_timestamp() as now`

	readHashes = `select hash from audit_hashes where idx = any($1) order by idx`

	// In the order asked for, null where there is none.
	placedHashes = `
		select h.hash from unnest($1::bigint[]) with ordinality as u (idx, place)
		left join audit_hashes h using (idx) order by u.place`

	insertLog = `
		insert into audit_log (seq, event_id)
		select $1 + place - 1, id from unnest($2::bigint[]) with ordinality as u (id, place)`

	insertHashes = `
		insert into audit_hashes (idx, hash)
		select $1 + place - 1, hash from unnest($2::bytea[]) with ordinality as u (hash, place)`

	insertCheckpoint = `
		insert into audit_checkpoints (size, root, note, token, at) values ($1, $2, $3, $4, $5)`

	deleteQueue = `delete from audit_queue where event_id = any($1)`

	readSizes = `
		select coalesce((select max(seq) + 1 from audit_log), 0) as logged,
			(select count(*) from audit_queue) as queued`

	newestCheckpoint = `select note from audit_checkpoints order by size desc limit 1`

	list = `
		select l.seq, e.id, e.at, e.actor_kind, e.actor_id, e.actor_name, e.action, e.resource_kind, e.resource_id,
			e.details, e.request_id, e.replica
		from audit_events e left join audit_log l on l.event_id = e.id
		where (@category::text = '' or e.action = any(@named::text[]))
			and (@action::text = '' or e.action = @action)
			and (@actor::text = '' or e.actor_id = @actor)
			and (@resource_kind::text = '' or e.resource_kind = @resource_kind)
			and (@resource_id::text = '' or e.resource_id = @resource_id)
			and (@since::timestamptz is null or e.at >= @since)
			and (@until::timestamptz is null or e.at < @until)
			and (@before::bigint = 0 or e.id < @before)
		order by e.id desc limit @limit`

	eventAt = `
		select e.id, e.at, e.actor_kind, e.actor_id, e.actor_name, e.action, e.resource_kind, e.resource_id,
			e.details, e.request_id, e.replica
		from audit_log l join audit_events e on e.id = l.event_id
		where l.seq = $1`

	// How far the log goes by its entries, and by its hashes: both can be cut.
	readExtent = `
		select coalesce((select max(seq) + 1 from audit_log), 0) as entries,
			coalesce((select max(idx) from audit_hashes), -1) as last_hash,
			(select count(*) from audit_queue) as queued`

	// Entries of a range of seq, with the event of each; an event that is gone
	// leaves its columns empty.
	entries = `
		select l.seq, l.event_id, e.id is not null as found,
			coalesce((@category::text = '' or e.action = any(@named::text[]))
				and (@action::text = '' or e.action = @action)
				and (@actor::text = '' or e.actor_id = @actor)
				and (@resource_kind::text = '' or e.resource_kind = @resource_kind)
				and (@resource_id::text = '' or e.resource_id = @resource_id)
				and (@since::timestamptz is null or e.at >= @since)
				and (@until::timestamptz is null or e.at < @until), true) as shown,
			coalesce(e.id, 0) as id, e.at,
			coalesce(e.actor_kind, '') as actor_kind, coalesce(e.actor_id, '') as actor_id,
			coalesce(e.actor_name, '') as actor_name, coalesce(e.action, '') as action,
			coalesce(e.resource_kind, '') as resource_kind, coalesce(e.resource_id, '') as resource_id,
			e.details, coalesce(e.request_id, '') as request_id, coalesce(e.replica, '') as replica
		from audit_log l
		left join lateral (select * from audit_events where id = l.event_id limit 1) e on true
		where l.seq >= @first and l.seq < @end
		order by l.seq`

	readNext = `
		select coalesce((select min(seq) from audit_log where seq >= $1), 9223372036854775807),
			coalesce((select min(idx) from audit_hashes where idx >= $2), 9223372036854775807)`

	hashes = `select idx, hash from audit_hashes where idx >= $1 and idx < $2 order by idx`

	checkpoints = `
		select size, root, note, token, at from audit_checkpoints
		where size > $1 and size <= $2 order by size`

	// One snapshot has each event either in the queue or in the log.
	unlogged = `
		select e.id from audit_events e
		where not exists (select from audit_log l where l.event_id = e.id)
			and not exists (select from audit_queue q where q.event_id = e.id)
		order by e.id limit $1`

	lostFromQueue = `
		select q.event_id from audit_queue q
		where not exists (select from audit_events e where e.id = q.event_id)
		order by q.event_id limit $1`
)
