-- readable-from: 0003
-- A name that the server keeps a certificate for. version and what follows it
-- repeat the current row of certificate_versions, so that a list reads one table.
create table certificates (
    id               text primary key,
    name             text not null,
    state            text not null default 'pending',
    common_name      text not null,
    sans             text[] not null,
    environment      text not null,
    tags             jsonb not null,
    owner_id         text not null references owners (id),
    team_id          text references teams (id),
    issuer_id        text not null references issuers (id),
    profile_id       text not null references profiles (id),
    policy_id        text not null references renewal_policies (id),
    csr              bytea, -- signed again by a renewal; null if the server makes the keys
    key_algorithm    text not null,
    validity_seconds bigint not null, -- what was asked for
    version          integer,
    serial           text,
    fingerprint      bytea,
    not_before       timestamptz,
    not_after        timestamptz,
    renew_at         timestamptz, -- no renewal by itself if null
    revision         bigint not null default 1,
    created_at       timestamptz not null default clock_timestamp(),
    created_by       text not null,
    updated_at       timestamptz not null default clock_timestamp(),
    archived_at      timestamptz,
    constraint certificates_state_is_declared check (
        state in ('pending', 'failed', 'active', 'expired', 'held', 'revoked', 'archived')),
    constraint certificates_version_is_whole check (
        num_nulls(version, serial, fingerprint, not_before, not_after) in (0, 5) and version > 0),
    constraint certificates_issued_in_its_state check (
        case state when 'pending' then version is null when 'failed' then version is null
                   when 'archived' then true else version is not null end),
    constraint certificates_archived_at_agrees check ((state = 'archived') = (archived_at is not null)),
    constraint certificates_tags_is_a_map check (jsonb_typeof(tags) = 'object')
);
create unique index certificates_name_is_taken on certificates (name) where state <> 'archived';
create index certificates_by_created_at on certificates (created_at, id);
create index certificates_by_updated_at on certificates (updated_at, id);
create index certificates_by_not_after on certificates ((coalesce(not_after, 'infinity'::timestamptz)), id);
create index certificates_by_name on certificates (name collate "C", id);
create index certificates_by_common_name on certificates (common_name collate "C", id);
create index certificates_by_state on certificates (state, created_at, id);
create index certificates_by_environment on certificates (environment, created_at, id);
create index certificates_by_owner on certificates (owner_id, created_at, id);
create index certificates_by_team on certificates (team_id, created_at, id);
create index certificates_by_issuer on certificates (issuer_id, created_at, id);
create index certificates_by_profile on certificates (profile_id, created_at, id);
create index certificates_by_policy on certificates (policy_id, created_at, id);
create index certificates_by_tags on certificates using gin (tags jsonb_path_ops);
create index certificates_by_sans on certificates using gin (sans);
create index certificates_due on certificates (renew_at) where state in ('active', 'expired') and renew_at is not null;
create index certificates_ending on certificates (not_after) where state = 'active';

-- Certificates that lead from a leaf to the root, which is left out.
create table chains (
    id   bytea primary key, -- SHA-256 of the concatenation
    ders bytea[] not null
);

create table certificate_versions (
    certificate_id text not null references certificates (id),
    number         integer not null,
    issuer_id      text not null references issuers (id),
    serial         text not null,
    fingerprint    bytea not null, -- SHA-256 of der
    not_before     timestamptz not null,
    not_after      timestamptz not null,
    key_algorithm  text not null,
    der            bytea not null,
    chain_id       bytea not null references chains (id),
    job_id         text, -- that issued it; null if a request did
    created_at     timestamptz not null default clock_timestamp(),
    primary key (certificate_id, number),
    constraint certificate_versions_serial_is_used_once unique (serial, issuer_id),
    constraint certificate_versions_serial_form check (serial ~ '^(0[1-9a-f]|[1-9a-f][0-9a-f])([0-9a-f]{2}){0,19}$'),
    constraint certificate_versions_counts_from_one check (number > 0),
    constraint certificate_versions_fingerprint_is_sha256 check (length(fingerprint) = 32)
);
create index certificate_versions_by_fingerprint on certificate_versions (fingerprint);
create index certificate_versions_by_created_at on certificate_versions (created_at);
create unique index certificate_versions_one_per_job on certificate_versions (job_id) where job_id is not null;

alter table certificates add constraint certificates_version_exists
    foreign key (id, version) references certificate_versions (certificate_id, number) deferrable initially deferred;

-- A key that the server made, sealed, until it is downloaded.
create table certificate_keys (
    certificate_id text not null,
    number         integer not null,
    sealed         bytea not null,
    not_after      timestamptz not null, -- of the version
    primary key (certificate_id, number),
    foreign key (certificate_id, number) references certificate_versions (certificate_id, number) deferrable initially deferred
);
create index certificate_keys_ending on certificate_keys (not_after);

-- The moves that cert.States declares.
create function certificate_may_move(a text, b text) returns boolean language sql immutable as $$
    select a = b or (a, b) in (
        ('pending', 'active'), ('pending', 'failed'), ('pending', 'archived'),
        ('failed', 'pending'), ('failed', 'archived'),
        ('active', 'expired'), ('active', 'held'), ('active', 'revoked'), ('active', 'archived'),
        ('expired', 'active'), ('expired', 'archived'),
        ('held', 'active'), ('held', 'expired'), ('held', 'revoked'),
        ('revoked', 'archived'))
$$;

create function certificate_guard() returns trigger language plpgsql as $$
begin
    if not certificate_may_move(old.state, new.state) then
        raise exception 'a certificate cannot go from % to %', old.state, new.state using errcode = 'CC409';
    end if;
    if new.version is distinct from old.version and new.version is distinct from coalesce(old.version, 0) + 1 then
        raise exception 'version % of a certificate cannot follow version %', new.version, old.version using errcode = 'CC409';
    end if;
    return new;
end
$$;
create trigger certificates_guard before update on certificates for each row
    when (old.state is distinct from new.state or old.version is distinct from new.version)
    execute function certificate_guard();

-- What is held, revoked or archived is not issued again, whoever tries: the row
-- is kept from becoming so until the version is there.
create function certificate_version_guard() returns trigger language plpgsql as $$
declare
    now_in text;
begin
    select state into now_in from certificates where id = new.certificate_id for no key update;
    if now_in in ('held', 'revoked', 'archived') then
        raise exception 'a certificate that is % is not issued again', now_in using errcode = 'CC409';
    end if;
    return new;
end
$$;
create trigger certificate_versions_guard before insert on certificate_versions for each row
    execute function certificate_version_guard();

create function certificate_version_keep() returns trigger language plpgsql as $$
begin
    raise exception '% on % refused: what was issued stays on record', lower(tg_op), tg_table_name
        using errcode = 'insufficient_privilege';
end
$$;
create trigger certificate_versions_keep before update or delete or truncate on certificate_versions
    for each statement execute function certificate_version_keep();

-- When a certificate is due: renew_before its end, but not in the first third
-- of its life, and earlier by up to a tenth of that, so that those which were
-- issued together are not renewed together.
create function renewal_time(id text, not_before timestamptz, not_after timestamptz, renew_before_seconds bigint)
    returns timestamptz language sql immutable as $$
    select not_after - interval '1 second'
        * least(renew_before_seconds, extract(epoch from not_after - not_before)::float8 * 0.6)
        * (1 + 0.1 * (hashtext(id) & 1023) / 1024)
$$;
