package schedule

const (
	// acquire takes the lease of a loop that is due and free, closes the pass
	// of a holder that never finished, even if somebody has moved the token
	// since, and opens a pass: all or nothing. A row
	// that somebody is writing under is left alone. Without a lease it says
	// how long at least to wait, and whether somebody holds it. Locking for update is what a fence stops.
	acquire = `
		with free as (
			select name, token from leases
			where name = @name and expires_at <= clock_timestamp() and due_at <= clock_timestamp()
			for update skip locked
		), abandoned as (
			update loop_runs r
			set finished_at = clock_timestamp(), error = 'abandoned: its lease ran out'
			from free
			where r.loop = free.name and r.token <= free.token and r.finished_at is null
			returning r.id
		), taken as (
			update leases l
			set holder = @replica, token = l.token + 1, expires_at = clock_timestamp() + @ttl::interval
			from free left join (select count(*) from abandoned) a on true
			where l.name = free.name
			returning l.name, l.token
		), opened as (
			insert into loop_runs (loop, replica, token)
			select name, @replica, token from taken
			returning token
		)
		select (select token from opened),
		       coalesce(greatest(expires_at, due_at) - clock_timestamp(), interval '0'),
		       expires_at > clock_timestamp()
		from leases where name = @name`

	// renew takes no new lease: a holder that let its own run out has lost it.
	renew = `
		update leases set expires_at = clock_timestamp() + @ttl::interval
		where name = @name and token = @token and expires_at > clock_timestamp()`

	// release ends a pass that still holds its lease. It does not wait for
	// the disk: a lost release is a pass that is due again, or one that the
	// next holder closes.
	release = `
		with quick as (
			select set_config('synchronous_commit', 'off', true)
		), freed as (
			update leases
			set expires_at = clock_timestamp(), due_at = clock_timestamp() + @every::interval
			from quick
			where name = @name and token = @token and expires_at > clock_timestamp()
			returning name, token
		)
		update loop_runs r
		set finished_at = clock_timestamp(), acted = @acted, error = @error
		from freed
		where r.loop = freed.name and r.token = freed.token and r.finished_at is null`

	// fence answers only while the pass holds its lease, and then keeps others
	// from taking it until the transaction ends. Its lock lets renew go on: a
	// transaction may take longer than a lease.
	fence = `
		select true
		from (select set_config('idle_in_transaction_session_timeout', @idle, true)) s, leases
		where name = @name and token = @token and expires_at > clock_timestamp()
		for key share of leases`

	start = `insert into loop_runs (loop, replica) values (@name, @replica) returning id`

	end = `
		update loop_runs set finished_at = clock_timestamp(), acted = @acted, error = @error
		where id = @id and finished_at is null`

	declareLeases = `
		insert into leases (name) select unnest(@names::text[])
		on conflict do nothing`

	listLeases = `select name, holder, token, expires_at, due_at, expires_at > clock_timestamp() as held from leases order by name`

	lastRuns = `
		select distinct on (loop) id, loop, replica, token, started_at, finished_at, acted, error
		from loop_runs order by loop, id desc`

	deleteRuns = `
		delete from loop_runs where id in (
			select id from loop_runs
			where started_at < clock_timestamp() - @keep::interval
			  and (finished_at is not null or token is null)
			order by started_at limit @limit
			for update skip locked
		)`
)
