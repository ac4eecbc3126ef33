-- One row per loop that runs on one replica at a time. A pass takes the lease,
-- and with it a token that no earlier pass had; whatever the pass writes is
-- written in a transaction that holds the row and the token against others.
create table leases (
    name       text primary key,
    holder     text not null default '',
    token      bigint not null default 0,
    expires_at timestamptz not null default 'epoch', -- free once past
    due_at     timestamptz not null default 'epoch', -- no pass before this
    constraint leases_token_counts_up check (token >= 0)
);

-- The ledger of passes.
create table loop_runs (
    id          bigint generated always as identity primary key,
    loop        text not null,
    replica     text not null,
    token       bigint, -- of the lease; null for loops that run on every replica
    started_at  timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    acted       bigint not null default 0,
    error       text not null default '',
    constraint loop_runs_finish_after_start check (finished_at >= started_at)
);
create unique index loop_runs_one_open_pass_per_lease on loop_runs (loop) where token is not null and finished_at is null;
create unique index loop_runs_one_pass_per_token on loop_runs (loop, token);
create index loop_runs_newest on loop_runs (loop, id desc);
create index loop_runs_oldest on loop_runs (started_at);
