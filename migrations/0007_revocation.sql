-- readable-from: 0003
-- What is revoked. entry is the row of a revocation list in DER (RFC 5280
-- §5.1.2.6), made once: a list is the concatenation in the order of the key.
create table revocations (
    issuer_id      text not null,
    serial         text not null,
    certificate_id text not null,
    number         integer not null,
    reason         smallint not null, -- RFC 5280 §5.3.1
    revoked_at     timestamptz not null,
    invalidity_at  timestamptz,
    not_after      timestamptz not null,
    listed         boolean not null, -- false for short-lived certificates (RFC 9608)
    entry          bytea not null,
    primary key (issuer_id, serial),
    foreign key (issuer_id, serial) references certificate_versions (issuer_id, serial),
    foreign key (certificate_id, number) references certificate_versions (certificate_id, number),
    constraint revocations_reason_is_declared check (reason in (0, 1, 2, 3, 4, 5, 6, 9, 10))
);
create index revocations_by_certificate on revocations (certificate_id, number);

-- Only a hold can be changed or taken back.
create function revocation_guard() returns trigger language plpgsql as $$
begin
    if old.reason <> 6 then
        raise exception 'a revocation is for good' using errcode = 'CC409';
    end if;
    return coalesce(new, old);
end
$$;
create trigger revocations_guard before update or delete on revocations for each row
    execute function revocation_guard();

-- The newest revocation list of each issuer that signs them.
create table crls (
    issuer_id   text primary key references issuers (id),
    number      bigint not null default 0, -- RFC 5280 §5.2.3; 0 before the first
    der         bytea not null default '',
    entries     bigint not null default 0,
    this_update timestamptz,
    next_update timestamptz,
    due_at      timestamptz not null default 'epoch',
    signed_by   text not null default '', -- replica
    took        interval,
    error       text not null default '' -- of the newest attempt
);

-- A signature does not compress, and entries hardly do.
alter table crls alter der set storage external;

-- Asks for a new list, without a lock that another revocation needs: the list
-- takes the rows that it has seen with it.
create table crl_requests (
    id        bigint generated always as identity primary key,
    issuer_id text not null references crls (issuer_id)
);
create index crl_requests_by_issuer on crl_requests (issuer_id);

create function crl_guard() returns trigger language plpgsql as $$
begin
    if new.number <= old.number then
        raise exception 'the number of a revocation list never goes back' using errcode = 'CC409';
    end if;
    return new;
end
$$;
create trigger crls_guard before update on crls for each row
    when (old.number is distinct from new.number or old.der is distinct from new.der)
    execute function crl_guard();
