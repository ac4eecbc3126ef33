package outbox

const (
	// facts are what is told of the certificate c, of its owner o, its issuer i,
	// its policy p and its team t.
	facts = `jsonb_build_object(
		'certificate', jsonb_build_object(
			'id', c.id, 'name', c.name, 'common_name', c.common_name, 'sans', to_jsonb(c.sans[1:20]), 'environment', c.environment,
			'version', c.version, 'serial', c.serial, 'not_before', c.not_before, 'not_after', c.not_after,
			'renew_at', c.renew_at),
		'owner', o.name, 'team', coalesce(t.name, ''), 'issuer', i.name, 'policy', p.name)`

	around = `
		join owners o on o.id = c.owner_id
		join issuers i on i.id = c.issuer_id
		join renewal_policies p on p.id = c.policy_id
		left join teams t on t.id = c.team_id`

	// newID is made by the database: one statement makes many rows.
	newID = `'ntf_' || replace(gen_random_uuid()::text, '-', '')`

	recipients = `case when o.email = '' then '{}'::text[] else array[o.email] end`

	// tell goes through what happened to certificates, and to every channel of
	// their policies that is told of events as bad as that.
	tell = `
		with happened as (
			select * from json_to_recordset(@occasions::text::json) h (
				certificate_id text, version integer, severity text, once text, details jsonb)
		)
		insert into notifications (id, once, event, severity, channel_id, certificate_id, version, data, recipients)
		select ` + newID + `, concat_ws('/', @event::text, c.id, coalesce(nullif(h.version, 0), c.version), nullif(h.once, ''), ch.id), @event,
			h.severity, ch.id, c.id, coalesce(nullif(h.version, 0), c.version), ` + facts + ` || h.details, ` + recipients + `
		from happened h
		join certificates c on c.id = h.certificate_id` + around + `
		join policy_channels pc on pc.policy_id = c.policy_id and severity_rank(pc.from_severity) <= severity_rank(h.severity)
		join channels ch on ch.id = pc.channel_id and ch.enabled
		on conflict (once) do nothing`

	// untrue is the condition of an alert n that the certificate c has overtaken.
	untrue = `n.days is not null and c.id = n.certificate_id and (c.version > n.version or c.state in ('revoked', 'archived'))`

	withdraw = `
		update notifications n set state = 'withdrawn', finished_at = clock_timestamp()
		from certificates c
		where c.id = any(@certificates) and n.state in ('pending', 'failed') and ` + untrue

	// expiring looks for the most urgent threshold that a certificate has come
	// within: of each policy, a threshold is that from its own number of days to
	// the next smaller one. What was told of a version before, or of something
	// more urgent, is not told again; what ended a month ago is no news. A
	// certificate that somebody is changing is left for the next time: it may be
	// renewed by then. What is told of it is as it was when it was locked.
	expiring = `
		with clock as materialized (
			select clock_timestamp() as now
		), thresholds as materialized (
			select p.id as policy_id, a.days, a.severity, lag(a.days) over (partition by p.id order by a.days) as nearer
			from renewal_policies p cross join lateral jsonb_to_recordset(p.alerts) a (days integer, severity text)
		), told as materialized (
			select a.policy_id, a.days, a.severity, a.nearer, ch.id as channel_id
			from thresholds a
			join policy_channels pc on pc.policy_id = a.policy_id and severity_rank(pc.from_severity) <= severity_rank(a.severity)
			join channels ch on ch.id = pc.channel_id and ch.enabled
		), near as (
			select c.id, c.name, c.common_name, c.sans, c.environment, c.version, c.serial, c.not_before, c.not_after, c.renew_at,
				c.owner_id, c.issuer_id, c.policy_id, c.team_id, a.days, a.severity, a.channel_id
			from clock cross join told a
			join certificates c on c.policy_id = a.policy_id and c.state in ('active', 'expired')
				and c.not_after <= clock.now + a.days * interval '1 day'
				and c.not_after > clock.now + coalesce(a.nearer * interval '1 day', interval '-30 days')
				and (a.days = 0 or c.not_after > clock.now)
				and a.days * interval '1 day' <= (c.not_after - c.not_before) / 2
			where not exists (
				select from notifications n
				where n.certificate_id = c.id and n.version = c.version and n.channel_id = a.channel_id and n.days <= a.days)
			order by c.not_after limit @limit
			for no key update of c skip locked
		)
		insert into notifications (id, once, event, severity, channel_id, certificate_id, version, days, data, recipients)
		select ` + newID + `, concat_ws('/', e.event, c.id, c.version, c.days, c.channel_id), e.event, c.severity, c.channel_id,
			c.id, c.version, c.days,
			` + facts + ` || jsonb_build_object('days', c.days, 'auto_renew', p.auto_renew, 'last_error', coalesce((
				select case when j.state in ('failed', 'dead') then j.error end
				from jobs j where j.certificate_id = c.id order by j.created_at desc, j.id desc limit 1), '')),
			` + recipients + `
		from near c
		cross join lateral (select case c.days when 0 then @expired::text else @expiring end as event) e
		` + around + `
		on conflict (once) do nothing`

	// periods are what digests would cover now, and for which channels: each goes on
	// where its last one ended.
	periods = `
		with clock as materialized (
			select clock_timestamp() as now
		), period as materialized (
			select date_bin(@every::interval, now, timestamptz '2000-01-01 00:00:00Z') as start, now from clock
		)
		select p.start, p.now, coalesce(d.until, p.now - @every::interval) as since, d.until is null as first, array_agg(ch.id order by ch.id) as channels
		from period p
		join channels ch on ch.digest and ch.enabled
		cross join lateral (select max(until) as until, max(period_start) as newest from digests where channel_id = ch.id) d
		where d.newest is distinct from p.start
		group by p.start, p.now, d.until`

	digest = `
		with old as (
			delete from digests where period_start < @start::timestamptz - interval '1 year'
		), new as (
			insert into digests (period_start, channel_id, notification_id, until)
			select @start::timestamptz, ch.id, ` + newID + `, @until::timestamptz from channels ch where ch.id = any(@channels) and ch.digest and ch.enabled
			on conflict do nothing
			returning period_start, channel_id, notification_id
		)
		insert into notifications (id, once, event, severity, channel_id, data, recipients)
		select notification_id, concat_ws('/', @event::text, extract(epoch from period_start)::bigint, channel_id), @event, @severity,
			channel_id, @data::text::jsonb, '{}'
		from new`

	columns = `
		n.id, n.event, n.severity, n.channel_id, coalesce(ch.name, '') as channel, n.certificate_id, n.version, n.data, n.recipients,
		n.state, n.attempts, n.due_at, n.holder, n.error, n.created_at, n.finished_at `

	selectNotification = `select` + columns + `from notifications n left join channels ch on ch.id = n.channel_id `

	// A statement for each index that a list can go along.
	list              = selectNotification + `where true` + listPage
	listOfEvent       = selectNotification + `where n.event = @event` + listPage
	listInState       = selectNotification + `where n.state = @state and (@event = '' or n.event = @event)` + listPage
	listOfChannel     = selectNotification + `where n.channel_id = @channel and (@state = '' or n.state = @state) and (@event = '' or n.event = @event)` + listPage
	listOfCertificate = selectNotification + `
		where n.certificate_id = @certificate and (@channel = '' or n.channel_id = @channel)
		  and (@state = '' or n.state = @state) and (@event = '' or n.event = @event)` + listPage

	listPage = `
		  and (n.created_at, n.id) < (@at::timestamptz, @after)
		order by n.created_at desc, n.id desc limit @limit`

	openFor = `
		select (select count(*) from notifications where channel_id = @channel and state = 'pending')
			+ (select count(*) from notifications where channel_id = @channel and state in ('sending', 'failed'))`

	// requeue leaves the token, which counts all claims there ever were.
	requeue = `
		update notifications set state = 'pending', finished_at = null, attempts = 0, due_at = clock_timestamp()
		where id = @id and state = 'dead' and channel_id in (select id from channels)`

	// claim takes what is due, of each channel as many as have a place there. A
	// claim that asks for more rows than it takes locks them until it ends, which
	// is at once. What this build cannot send is left to those that can. An alert
	// that was on its way while its certificate was renewed ends here.
	claim = `
		with due as (
			select n.id from channels ch
			left join unnest(@busy::text[], @sends::integer[]) b (channel_id, sends) on b.channel_id = ch.id
			cross join lateral (
				select id, due_at from notifications
				where channel_id = ch.id and state = 'pending' and due_at <= (select clock_timestamp()) and event = any(@events)
				order by due_at, id limit greatest(@per_channel::integer - coalesce(b.sends, 0), 0)
				for no key update skip locked) n
			where ch.enabled and ch.type = any(@types)
			order by n.due_at, n.id limit @limit
		), withdrawn as (
			update notifications n set state = 'withdrawn', finished_at = clock_timestamp()
			from due, certificates c
			where n.id = due.id and ` + untrue + `
			returning n.id
		)
		update notifications n
		set state = 'sending', attempts = n.attempts + 1, token = n.token + 1, holder = @replica,
			leased_until = clock_timestamp() + @lease::interval
		from due, channels ch
		where n.id = due.id and ch.id = n.channel_id and n.id not in (select id from withdrawn)
		returning n.id, n.token, n.attempts as attempt, n.event, n.severity, n.created_at as at, n.data, n.recipients, n.delivered, clock_timestamp() as now,
			n.channel_id, ch.type as channel_type, ch.revision as channel_revision, ch.settings as channel_settings`

	// held is the condition of a row that this claim still has.
	held = `id = @id and token = @token and state = 'sending' and leased_until > clock_timestamp()`

	// said is what an attempt leaves beside its state.
	said = `leased_until = null, error = @error, delivered = delivered || @done::text[]`

	sent = `
		update notifications set state = 'sent', finished_at = clock_timestamp(), ` + said + `
		where ` + held

	// fail waits four times as long after every attempt, up to half a day, spread
	// by a fifth to either side; and as long as the receiver asks for, up to a day.
	fail = `
		update notifications
		set state = 'failed', ` + said + `,
			due_at = clock_timestamp() + greatest(
				least(@retry_after::interval * power(4, least(attempts, 10) - 1), interval '12 hours') * (0.8 + 0.4 * random()),
				least(@wait::interval, interval '1 day'))
		where ` + held

	die = `
		update notifications set state = 'dead', finished_at = clock_timestamp(), ` + said + `
		where ` + held

	// giveBack does not count the attempt.
	giveBack = `
		update notifications set state = 'pending', attempts = attempts - 1, ` + said + `
		where ` + held

	retry = `
		with due as (
			select id from notifications
			where state = 'failed' and due_at <= (select clock_timestamp())
			order by due_at limit @limit
			for no key update skip locked
		)
		update notifications n set state = 'pending' from due where n.id = due.id`

	// reclaim takes what nobody answers for. What is still on its way may arrive.
	reclaim = `
		with over as (
			select id from notifications
			where state = 'sending' and leased_until <= (select clock_timestamp())
			order by leased_until limit @limit
			for no key update skip locked
		)
		update notifications n
		set state = case when attempts < @attempts then 'pending' else 'dead' end,
			finished_at = case when attempts < @attempts then null else clock_timestamp() end,
			leased_until = null, error = 'the replica that sent it stopped answering'
		from over where n.id = over.id
		returning ` + buried

	// orphaned are those whose channel was deleted.
	orphaned = `
		with lost as (
			select id from notifications n
			where state in ('pending', 'failed') and not exists (select from channels where id = n.channel_id)
			limit @limit
			for no key update skip locked
		)
		update notifications n
		set state = 'dead', finished_at = clock_timestamp(), error = 'the channel was deleted'
		from lost where n.id = lost.id
		returning ` + buried

	buried = `n.id, n.event, n.channel_id, n.error, n.state = 'dead' as is_dead,
		coalesce((select type from channels where id = n.channel_id), '') as channel_type`

	// queueAge counts what failed and should be queued again by now, and leaves
	// out what waits for its channel to be enabled.
	queueAge = `
		select coalesce(greatest(clock_timestamp() - (
			select min(due_at) from (
				select min(n.due_at) as due_at from channels ch cross join lateral (
					select due_at from notifications where channel_id = ch.id and state = 'pending' order by due_at limit 1) n
				where ch.enabled
				union all select min(due_at) from notifications where state = 'failed') d), interval '0'), interval '0')`

	// An alert is kept as long as it says that its version was told of.
	deleteFinished = `
		with old as (
			select n.id from notifications n
			where n.finished_at < (select clock_timestamp()) - @keep::interval
			  and not exists (
				select from certificates c
				where n.days is not null and c.id = n.certificate_id and c.version = n.version and c.state in ('active', 'held', 'expired')
				  and c.not_after > (select clock_timestamp()) - interval '31 days')
			order by n.finished_at limit @limit
			for update of n skip locked
		)
		delete from notifications n using old where n.id = old.id`
)
