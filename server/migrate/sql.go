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
