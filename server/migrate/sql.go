package migrate

const (
	createLedger = `
		create table if not exists schema_migrations (
			version       text primary key, -- the file's name without .sql
			applied_at    timestamptz not null default now(),
			sha256        text not null,
			readable_from text not null,
			took          interval not null,
			server        text not null,
			replica       text not null
		)`

	noticeDeath = `set client_connection_check_interval = '1s'`

	// noticeFreeze has the database end a session, and free the lock, whose
	// process holds it and says nothing.
	noticeFreeze = `set idle_in_transaction_session_timeout = '1min'; set idle_session_timeout = '1min'`

	thisSession = `select pg_backend_pid()`

	// lockHolder names who holds an advisory lock of one int64.
	lockHolder = `
		select a.application_name from pg_locks l join pg_stat_activity a on a.pid = l.pid
		where l.locktype = 'advisory' and l.objsubid = 1 and l.granted
		  and (l.classid::bigint << 32) | l.objid::bigint = $1`

	tryLock  = `select pg_try_advisory_lock($1)`
	waitLock = `select pg_advisory_lock($1)`

	thisTransaction = `select pg_current_xact_id()::text`

	record = `
		insert into schema_migrations (version, sha256, readable_from, took, server, replica)
		select @version, @sha256, @readable_from, @took, @server, @replica
		where pg_current_xact_id()::text = @xid
		on conflict do nothing`

	ledger = `
		select version, applied_at, sha256, readable_from, took, server, replica
		from schema_migrations order by version`
)
