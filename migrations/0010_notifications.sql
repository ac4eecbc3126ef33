-- readable-from: 0003
-- Where people and programs are told of what happens. settings are sealed as
-- those of issuers.
create table channels (
    id         text primary key,
    name       text not null,
    type       text not null,
    enabled    boolean not null,
    digest     boolean not null, -- whether it gets the digest
    settings   bytea not null,
    shown      jsonb not null,
    tested_at  timestamptz,
    test_error text not null default '', -- of the newest test; empty if it passed
    revision   bigint not null default 1,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    constraint channels_name_is_taken unique (name)
);

-- The severities that outbox.Severities declares, by how bad they are.
create function severity_rank(severity text) returns integer language sql immutable as $$
    select array_position(array['informational', 'warning', 'critical'], severity)
$$;

-- Which channels are told of the certificates of a policy.
create table policy_channels (
    policy_id     text not null references renewal_policies (id) on delete cascade,
    channel_id    text not null references channels (id),
    from_severity text not null, -- of the least severe event that the channel is told of
    primary key (policy_id, channel_id),
    constraint policy_channels_severity_is_declared check (severity_rank(from_severity) is not null)
);
create index policy_channels_by_channel on policy_channels (channel_id);

-- What there is to tell, each row to one channel. once lets the same thing be
-- queued a single time. token counts the claims: whoever claimed before the last
-- one cannot write any more. A channel can be gone by the time that its row is
-- looked at, and the row has to stay, so that nothing refers to channels.
create table notifications (
    id             text primary key, -- the key by which a receiver knows a repetition
    once           text not null,
    event          text not null,
    severity       text not null,
    channel_id     text not null,
    certificate_id text references certificates (id),
    version        integer,
    days           integer, -- the threshold of an alert
    data           jsonb not null,
    recipients     text[] not null, -- addresses of those whom it concerns
    delivered      text[] not null default '{}', -- of all addresses, those that have it already
    state          text not null default 'pending',
    attempts       integer not null default 0,
    due_at         timestamptz not null default clock_timestamp(),
    holder         text not null default '', -- the replica that claimed it last
    token          bigint not null default 0,
    leased_until   timestamptz,
    finished_at    timestamptz,
    error          text not null default '', -- of the last attempt
    created_at     timestamptz not null default clock_timestamp(),
    constraint notifications_once unique (once),
    constraint notifications_severity_is_declared check (severity_rank(severity) is not null),
    constraint notifications_state_is_declared check (state in ('pending', 'sending', 'failed', 'sent', 'dead', 'withdrawn')),
    constraint notifications_lease_while_sending check ((state = 'sending') = (leased_until is not null)),
    constraint notifications_finished_at_agrees check ((state in ('sent', 'dead', 'withdrawn')) = (finished_at is not null)),
    constraint notifications_attempts_counts_up check (attempts >= 0 and token >= attempts)
);
create index notifications_due on notifications (channel_id, due_at, id) where state = 'pending';
create index notifications_to_retry on notifications (due_at) where state = 'failed';
create index notifications_leased on notifications (leased_until) where state = 'sending';
create index notifications_newest on notifications (created_at desc, id desc);
create index notifications_by_state on notifications (state, created_at desc, id desc);
create index notifications_by_channel on notifications (channel_id, created_at desc, id desc);
create index notifications_by_event on notifications (event, created_at desc, id desc);
create index notifications_by_certificate on notifications (certificate_id, created_at desc, id desc);
create index notifications_finished on notifications (finished_at) where finished_at is not null;
-- Which thresholds a version was told of already.
create index notifications_alerts on notifications (certificate_id, version, channel_id) where days is not null;

-- The moves that outbox.States declares.
create function notification_may_move(a text, b text) returns boolean language sql immutable as $$
    select a = b or (a, b) in (
        ('pending', 'sending'), ('pending', 'dead'), ('pending', 'withdrawn'),
        ('sending', 'sent'), ('sending', 'failed'), ('sending', 'dead'), ('sending', 'pending'),
        ('failed', 'pending'), ('failed', 'dead'), ('failed', 'withdrawn'),
        ('dead', 'pending'))
$$;

create function notification_guard() returns trigger language plpgsql as $$
begin
    if not notification_may_move(old.state, new.state) then
        raise exception 'a notification cannot go from % to %', old.state, new.state using errcode = 'CC409';
    end if;
    if new.token < old.token then
        raise exception 'the token of a notification counts up' using errcode = 'CC409';
    end if;
    return new;
end
$$;
create trigger notifications_guard before update on notifications for each row
    when (old.state is distinct from new.state or old.token is distinct from new.token)
    execute function notification_guard();

-- The digests that were queued: one for each period and channel.
create table digests (
    period_start    timestamptz not null,
    channel_id      text not null,
    notification_id text not null,
    until           timestamptz not null, -- what has happened before is in it
    constraint digests_once_each primary key (period_start, channel_id)
);

-- What was revoked since the digest before.
create index revocations_newest on revocations (revoked_at);

-- Certificates whose end comes near, by the policy that says when to warn.
create index certificates_to_alert on certificates (policy_id, not_after) where state in ('active', 'expired');
