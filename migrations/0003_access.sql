create table permissions (
    name text primary key,
    does text not null
);

-- The default roles are synced from the declared rows at start; the others
-- belong to the operator.
create table roles (
    name       text primary key,
    does       text not null,
    declared   boolean not null,
    created_at timestamptz not null default now(),
    constraint roles_name_form check (name ~ '^[a-z][a-z0-9-]{0,62}$')
);

create table role_permissions (
    role       text not null references roles (name) on delete cascade,
    permission text not null references permissions (name),
    primary key (role, permission)
);

create table api_keys (
    id                  text primary key,
    name                text not null,
    hash                bytea not null, -- SHA-256 of the secret
    previous_hash       bytea,          -- of the secret before the last rotation
    previous_expires_at timestamptz,
    created_at          timestamptz not null default now(),
    created_by          text not null,
    expires_at          timestamptz,
    rotated_at          timestamptz,
    revoked_at          timestamptz,
    last_used_at        timestamptz,    -- to the minute
    constraint api_keys_hash_is_sha256 check (length(hash) = 32 and length(previous_hash) = 32),
    constraint api_keys_previous_secret_ends check ((previous_hash is null) = (previous_expires_at is null))
);
create unique index api_keys_one_live_key_per_name on api_keys (name) where revoked_at is null;
create index api_keys_newest on api_keys (created_at desc, id desc);

create table key_roles (
    key_id     text not null references api_keys (id),
    role       text not null references roles (name),
    granted_at timestamptz not null default now(),
    granted_by text not null,
    primary key (key_id, role)
);
create index key_roles_by_role on key_roles (role);

-- The bootstrap token works once in the life of a database: at most one row.
create table bootstrap (
    done    boolean primary key default true,
    key_id  text not null references api_keys (id) deferrable initially deferred, -- made after it
    used_at timestamptz not null default now(),
    constraint bootstrap_once check (done)
);
