-- What happened, one row per event, written in the transaction that did it.
create table audit_events (
    id            bigint generated always as identity primary key,
    at            timestamptz not null default clock_timestamp(),
    actor_kind    text not null,
    actor_id      text not null,
    actor_name    text not null,
    action        text not null,
    resource_kind text not null,
    resource_id   text not null,
    details       jsonb not null, -- a flat map of strings
    request_id    text not null,
    replica       text not null,
    constraint audit_events_details_is_a_map check (jsonb_typeof(details) = 'object')
);
create index audit_events_by_resource on audit_events (resource_kind, resource_id, id desc);
create index audit_events_by_actor on audit_events (actor_id, id desc);
create index audit_events_by_action on audit_events (action, id desc);
-- Events are almost in the order of their time, so a few bytes per range of
-- pages are enough and cost a writer nothing.
create index audit_events_by_time on audit_events using brin (at);

-- Events that are committed and not yet in the log. A row comes with its event
-- and goes with its entry in audit_log, so every snapshot has each event in
-- exactly one of the two. Transaction ids would not do instead: they start over
-- when a dump is restored into another cluster.
create table audit_queue (
    event_id bigint primary key
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_insert_threshold = -1);

-- The log: a Merkle tree (RFC 6962) over the events, in the order of seq.
create table audit_log (
    seq      bigint primary key,
    event_id bigint not null,
    constraint audit_log_counts_from_zero check (seq >= 0),
    constraint audit_log_one_entry_per_event unique (event_id)
);

-- The hashes of the tree's complete subtrees, leaves included, in the order in
-- which they become complete.
create table audit_hashes (
    idx  bigint primary key,
    hash bytea not null,
    constraint audit_hashes_is_sha256 check (idx >= 0 and length(hash) = 32)
);

-- Signed statements of how long the log was and what its root hash was then.
-- note is what is signed; the other columns repeat what stands in it.
create table audit_checkpoints (
    size  bigint primary key,
    root  bytea not null,
    note  text not null,
    token bigint not null, -- of the lease that the sequencing replica held
    at    timestamptz not null,
    constraint audit_checkpoints_sign_something check (size > 0 and length(root) = 32)
);

-- The keys that sign checkpoints. name is the log's origin while the key is
-- active. The private half is sealed under the server's encryption key.
create table audit_keys (
    name       text primary key,
    verifier   text not null,
    sealed     bytea not null,
    created_at timestamptz not null default clock_timestamp(),
    retired_at timestamptz
);
create unique index audit_keys_one_active_key on audit_keys ((true)) where retired_at is null;

create function audit_refuse() returns trigger language plpgsql as $$
begin
    raise exception '% on % refused: the audit trail is append-only', lower(tg_op), tg_table_name
        using errcode = 'insufficient_privilege';
end
$$;

create trigger audit_events_append_only before update or delete or truncate on audit_events
    for each statement execute function audit_refuse();
create trigger audit_log_append_only before update or delete or truncate on audit_log
    for each statement execute function audit_refuse();
create trigger audit_hashes_append_only before update or delete or truncate on audit_hashes
    for each statement execute function audit_refuse();
create trigger audit_checkpoints_append_only before update or delete or truncate on audit_checkpoints
    for each statement execute function audit_refuse();
-- A key can be retired, nothing else.
create trigger audit_keys_append_only before update of name, verifier, sealed, created_at or delete or truncate on audit_keys
    for each statement execute function audit_refuse();

-- Lets a role that does not own the tables run the server on them, with all that
-- the server needs and no means to change or remove what is written:
--     select audit_grant('certctl_server');
create function audit_grant(grantee regrole) returns void language plpgsql as $$
begin
    execute format('revoke all on audit_events, audit_log, audit_hashes, audit_checkpoints, audit_keys, audit_queue from %s', grantee);
    execute format('grant select, insert on audit_events, audit_log, audit_hashes, audit_checkpoints, audit_keys to %s', grantee);
    execute format('grant select, insert, delete on audit_queue to %s', grantee);
end
$$;
revoke execute on function audit_grant(regrole) from public;
