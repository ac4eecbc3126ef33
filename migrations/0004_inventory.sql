-- readable-from: 0003
create table teams (
    id          text primary key,
    name        text not null,
    description text not null default '',
    revision    bigint not null default 1, -- counts changes
    created_at  timestamptz not null default clock_timestamp(),
    updated_at  timestamptz not null default clock_timestamp(),
    constraint teams_name_is_taken unique (name)
);

create table owners (
    id         text primary key,
    name       text not null,
    email      text not null default '',
    team_id    text references teams (id),
    revision   bigint not null default 1,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    constraint owners_name_is_taken unique (name)
);
create index owners_by_team on owners (team_id);

-- When certificates are renewed, how often that is tried, and when to warn.
create table renewal_policies (
    id                       text primary key,
    name                     text not null,
    description              text not null default '',
    auto_renew               boolean not null,
    renew_before_seconds     bigint not null, -- the end of a certificate
    max_retries              integer not null,
    retry_every_seconds      bigint not null, -- the first time; it doubles from then on
    attempt_timeout_seconds  bigint not null,
    start_over_after_seconds bigint not null, -- a renewal that failed for good
    alerts                   jsonb not null, -- days before the end of a certificate, each with how bad that is
    revision                 bigint not null default 1,
    created_at               timestamptz not null default clock_timestamp(),
    updated_at               timestamptz not null default clock_timestamp(),
    constraint renewal_policies_name_is_taken unique (name),
    constraint renewal_policies_bounds check (
        renew_before_seconds between 60 and 400 * 86400
        and max_retries between 0 and 20
        and retry_every_seconds between 1 and 86400
        and attempt_timeout_seconds between 1 and 86400
        and start_over_after_seconds between 60 and 30 * 86400)
);

-- What a certificate may look like.
create table profiles (
    id                       text primary key,
    name                     text not null,
    description              text not null default '',
    enabled                  boolean not null,
    key_algorithms           text[] not null,
    default_validity_seconds bigint not null,
    max_validity_seconds     bigint not null,
    ext_key_usages           text[] not null,
    san_kinds                text[] not null,
    dns_patterns             text[] not null, -- any name if empty
    ip_ranges                text[] not null, -- any address if empty
    uri_prefixes             text[] not null, -- any URI if empty
    email_domains            text[] not null, -- any domain if empty
    max_sans                 integer not null,
    wildcards                boolean not null,
    must_staple              boolean not null,
    short_lived              boolean not null, -- never in a revocation list (RFC 9608)
    cab_lints                boolean not null,
    revision                 bigint not null default 1,
    created_at               timestamptz not null default clock_timestamp(),
    updated_at               timestamptz not null default clock_timestamp(),
    constraint profiles_name_is_taken unique (name),
    constraint profiles_validity check (
        default_validity_seconds >= 60 and default_validity_seconds <= max_validity_seconds
        and max_validity_seconds <= 4000 * 86400::bigint),
    constraint profiles_short_lived_ends_soon check (not short_lived or max_validity_seconds <= 7 * 86400)
);

-- settings are sealed under the server's encryption key; shown is the same
-- without its secrets.
create table issuers (
    id         text primary key,
    name       text not null,
    type       text not null,
    enabled    boolean not null,
    settings   bytea not null,
    shown      jsonb not null,
    tested_at  timestamptz,
    test_error text not null default '', -- of the newest test; empty if it passed
    revision   bigint not null default 1,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    constraint issuers_name_is_taken unique (name)
);

-- Answers to creates that named an idempotency key.
create table idempotency_keys (
    actor_id   text not null,
    key        text not null,
    route      text not null,
    request    bytea not null, -- SHA-256 of what was asked for
    response   text not null,  -- JSON
    created_at timestamptz not null default clock_timestamp(),
    primary key (actor_id, key)
);
create index idempotency_keys_oldest on idempotency_keys (created_at);

-- Raises unless what a statement was guarded by holds: statements that go to
-- the database together fail together.
create function certctl_require(holds boolean, what text) returns void language plpgsql as $$
begin
    if holds is not true then
        raise exception '%', what using errcode = 'CC409';
    end if;
end
$$;
