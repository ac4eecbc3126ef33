-- readable-from: 0003
-- One action on many certificates. Which ones is decided when it is asked for;
-- a job then does them in batches.
create table bulk_operations (
    id          text primary key,
    action      text not null,
    args        jsonb not null, -- of the action, with its criteria
    total       integer not null default 0, -- certificates that were chosen
    done        integer not null default 0,
    skipped     integer not null default 0,
    failed      integer not null default 0,
    job_id      text not null references jobs (id) deferrable initially deferred,
    created_at  timestamptz not null default clock_timestamp(),
    created_by  text not null,
    finished_at timestamptz,
    constraint bulk_operations_count check (done + skipped + failed <= total)
);
create index bulk_operations_newest on bulk_operations (created_at desc, id desc);
create index bulk_operations_by_job on bulk_operations (job_id);

create table bulk_items (
    operation_id   text not null references bulk_operations (id) on delete cascade,
    certificate_id text not null references certificates (id),
    outcome        text, -- null until it was tried
    message        text not null default '',
    primary key (operation_id, certificate_id),
    constraint bulk_items_outcome check (outcome in ('done', 'skipped', 'failed'))
);
create index bulk_items_open on bulk_items (operation_id, certificate_id) where outcome is null;
