-- readable-from: 0003
-- Queued work. token counts the claims: whoever claimed before the last one
-- cannot write any more.
create table jobs (
    id             text primary key,
    kind           text not null,
    state          text not null default 'pending',
    certificate_id text references certificates (id),
    args           jsonb not null,
    progress       jsonb not null default '{}', -- what an attempt left for the next one
    priority       smallint not null,           -- the smallest first
    attempts       integer not null default 0,
    max_attempts   integer not null,
    retry_every    interval not null, -- before the second attempt; it doubles from then on
    timeout        interval not null, -- of one attempt
    run_at         timestamptz not null default clock_timestamp(),
    worker         text not null default '', -- the replica that claimed it last
    token          bigint not null default 0,
    leased_until   timestamptz,
    started_at     timestamptz, -- the last attempt
    finished_at    timestamptz,
    error          text not null default '', -- of the last attempt
    created_at     timestamptz not null default clock_timestamp(),
    created_by     text not null,
    constraint jobs_state_is_declared check (state in ('pending', 'running', 'failed', 'done', 'dead', 'cancelled')),
    constraint jobs_lease_while_running check ((state = 'running') = (leased_until is not null)),
    constraint jobs_finished_at_agrees check ((state in ('done', 'dead', 'cancelled')) = (finished_at is not null)),
    constraint jobs_attempts_counts_up check (attempts between 0 and max_attempts and max_attempts > 0 and token >= attempts)
);
create index jobs_due on jobs (priority, run_at, id) where state = 'pending';
create index jobs_to_retry on jobs (run_at) where state = 'failed';
create index jobs_leased on jobs (leased_until) where state = 'running';
create index jobs_newest on jobs (created_at desc, id desc);
create index jobs_by_state on jobs (state, created_at desc, id desc);
create index jobs_by_certificate on jobs (certificate_id, created_at desc, id desc);
create index jobs_finished on jobs (finished_at) where finished_at is not null;
-- A certificate is issued or renewed by one job at a time.
create unique index jobs_one_open_issuance_per_certificate on jobs (certificate_id)
    where kind in ('issue', 'renew') and state in ('pending', 'running', 'failed');

-- The moves that job.States declares.
create function job_may_move(a text, b text) returns boolean language sql immutable as $$
    select a = b or (a, b) in (
        ('pending', 'running'), ('pending', 'cancelled'),
        ('running', 'pending'), ('running', 'done'), ('running', 'failed'), ('running', 'dead'), ('running', 'cancelled'),
        ('failed', 'pending'), ('failed', 'cancelled'),
        ('dead', 'pending'))
$$;

create function job_guard() returns trigger language plpgsql as $$
begin
    if not job_may_move(old.state, new.state) then
        raise exception 'a job cannot go from % to %', old.state, new.state using errcode = 'CC409';
    end if;
    if new.token < old.token then
        raise exception 'the token of a job counts up' using errcode = 'CC409';
    end if;
    return new;
end
$$;
create trigger jobs_guard before update on jobs for each row
    when (old.state is distinct from new.state or old.token is distinct from new.token)
    execute function job_guard();
