package job

const (
	// enqueue leaves the transaction whole where the certificate has an open job.
	enqueue = `
		insert into jobs (id, kind, certificate_id, args, priority, max_attempts, retry_every, timeout, created_by)
		values (@id, @kind, nullif(@certificate, ''), @args::text::jsonb, @priority, @attempts, @retry_every::interval, @timeout::interval, @by)
		on conflict (certificate_id) where kind in ('issue', 'renew') and state in ('pending', 'running', 'failed') do nothing`

	openIssuance = `
		select id from jobs
		where certificate_id = @certificate and kind = any(@kinds::text[]) and state in ('pending', 'running', 'failed')`

	columns = `
		id, kind, state, certificate_id, args, priority, attempts, max_attempts,
		extract(epoch from retry_every)::bigint as retry_every_seconds, extract(epoch from timeout)::bigint as timeout_seconds,
		run_at, worker, started_at, finished_at, error, created_at, created_by `

	selectJob = `select` + columns + `from jobs `

	// A statement for each index that a list can go along.
	listJobs = selectJob + `
		where (@kind = '' or kind = @kind)` + listPage
	listInState = selectJob + `
		where state = @state and (@kind = '' or kind = @kind)` + listPage
	listOfCertificate = selectJob + `
		where certificate_id = @certificate and (@state = '' or state = @state) and (@kind = '' or kind = @kind)` + listPage

	listPage = `
		  and (created_at, id) < (@at::timestamptz, @after)
		order by created_at desc, id desc limit @limit`

	cancel = `
		update jobs set state = 'cancelled', finished_at = clock_timestamp(), leased_until = null, error = 'it was cancelled'
		where id = @id and state in ('pending', 'running', 'failed')
		returning` + columns

	// again leaves the token, which counts all claims there ever were.
	again = `
		update jobs set state = 'pending', finished_at = null, attempts = 0, run_at = clock_timestamp()
		where id = @id and state = 'dead'
		returning` + columns

	cancelFor = `
		with open as (
			select id from jobs
			where certificate_id = any(@certificates::text[]) and kind = any(@kinds::text[]) and state in ('pending', 'running', 'failed')
			order by id for no key update skip locked
		)
		update jobs j set state = 'cancelled', finished_at = clock_timestamp(), leased_until = null, error = @why
		from open where j.id = open.id`

	retry = `
		with due as (
			select id from jobs
			where state = 'failed' and run_at <= (select clock_timestamp())
			order by run_at limit @limit
			for no key update skip locked
		)
		update jobs j set state = 'pending' from due where j.id = due.id`

	claim = `
		with due as (
			select id from jobs
			where state = 'pending' and run_at <= (select clock_timestamp()) and kind = any(@kinds::text[])
			order by priority, run_at, id limit @limit
			for no key update skip locked
		)
		update jobs j
		set state = 'running', attempts = j.attempts + 1, token = j.token + 1, worker = @replica,
			started_at = clock_timestamp(), leased_until = clock_timestamp() + @lease::interval
		from due where j.id = due.id
		returning j.id, j.kind, coalesce(j.certificate_id, '') as certificate_id, j.args, j.progress,
			j.attempts as attempt, j.max_attempts as attempts, j.token, j.timeout`

	// held is the condition of a row whose job this claim still has.
	held = `id = @id and token = @token and state = 'running' and leased_until > clock_timestamp()`

	// fence answers only while the claim is good, and keeps the row from
	// everybody until the transaction ends, however long after the lease.
	fence = `select true from jobs where ` + held + ` for no key update`

	// Both are guarded by the fence of their transaction.
	complete = `
		update jobs set state = 'done', finished_at = clock_timestamp(), leased_until = null, error = ''
		where id = @id`
	save = `
		update jobs set progress = coalesce(@progress::text::jsonb, progress), leased_until = clock_timestamp() + @lease::interval
		where id = @id`
	die = `
		update jobs set state = 'dead', finished_at = clock_timestamp(), leased_until = null, error = @error
		where id = @id`

	fail = `
		update jobs set state = 'failed', run_at = ` + nextAttempt + `, leased_until = null, error = @error
		where ` + held

	// giveBack does not count the attempt.
	giveBack = `
		update jobs set state = 'pending', run_at = clock_timestamp() + @after::interval, attempts = attempts - 1, leased_until = null
		where ` + held

	// nextAttempt is spread by a fifth to either side, so that what failed
	// together is not tried again together, and is a day away at most. The
	// exponent is bounded by what an interval can hold.
	nextAttempt = `clock_timestamp()
		+ least(retry_every * power(2, least(greatest(attempts, 1) - 1, 20)), interval '20 hours') * (0.8 + 0.4 * random())`

	// ending tells what became of a job that a claim no longer has.
	ending = `select state from jobs where id = @id and token = @token`

	// beat extends the leases of claims, and returns those that are no more. A
	// row that somebody has locked is left for the next time: waiting for it
	// would cost the leases of all others.
	beat = `
		with mine as (
			select id, token from unnest(@ids::text[], @tokens::bigint[]) m (id, token)
		), free as (
			select j.id from jobs j join mine on mine.id = j.id and mine.token = j.token
			where j.state = 'running' and j.leased_until > clock_timestamp()
			for no key update of j skip locked
		), extended as (
			update jobs j set leased_until = clock_timestamp() + @lease::interval
			from free where j.id = free.id
		)
		select mine.id, mine.token from mine
		left join jobs j on j.id = mine.id and j.token = mine.token and j.state = 'running' and j.leased_until > clock_timestamp()
		where j.id is null`

	// overdue locks running jobs that nobody answers for, or that have not
	// ended by themselves a lease after their time was over.
	overdue = `
		select id, token, coalesce(certificate_id, '') as certificate_id, args, attempts >= max_attempts as last,
			case when leased_until <= clock_timestamp() then 'the replica that did it stopped answering'
			     else 'the attempt took longer than its time' end as error
		from jobs
		where state = 'running' and kind = @kind
		  and (leased_until <= clock_timestamp() or started_at + timeout + @lease::interval <= clock_timestamp())
		limit @limit
		for no key update skip locked`

	takeAway = `
		update jobs
		set state = case when attempts < max_attempts then 'failed' else 'dead' end,
			run_at = case when attempts < max_attempts then ` + nextAttempt + ` else run_at end,
			finished_at = case when attempts < max_attempts then null else clock_timestamp() end,
			leased_until = null, error = m.error
		from unnest(@ids::text[], @errors::text[]) m (job, error)
		where id = m.job`

	countOpen = `
		select 'pending' as state, (select count(*) from jobs where state = 'pending') as count
		union all select 'running', (select count(*) from jobs where state = 'running')
		union all select 'failed', (select count(*) from jobs where state = 'failed')`

	// queueAge counts what failed and should be queued again by now.
	queueAge = `
		select coalesce(greatest(clock_timestamp() - least(
			(select min(run_at) from jobs where state = 'pending'),
			(select min(run_at) from jobs where state = 'failed')), interval '0'), interval '0')`

	deleteFinished = `
		with old as (
			select id from jobs
			where finished_at < (select clock_timestamp()) - @keep::interval
			order by finished_at limit @limit
			for update skip locked
		), operations as (
			delete from bulk_operations o using old where o.job_id = old.id
		)
		delete from jobs j using old where j.id = old.id`
)
