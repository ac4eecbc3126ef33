-- readable-from: 0003
-- What limits have admitted. A row is one bucket; the replicas share it. Its
-- state is as the function of its algorithm returned it:
--   1 admitted, 2 asked, 3 left after that, 4 microseconds until one more is
--   admitted (of a decision that refused some), 5 when the row says nothing any
--   more, 6 when it was decided, 7 the time of one token or slot that it was
--   decided by, and what the algorithm remembers.
-- Times are microseconds since 1970 by the database's clock.
create table rate_limits (
    name  text not null,
    key   text not null,
    state bigint[] not null,
    primary key (name, key)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- A token bucket, as the time at which it is full again (GCRA): never more than
-- cap + t / per are admitted in any time t. per is the time of one token.
create function rate_limit_bucket(was bigint[], asked bigint, cap bigint, per bigint, now bigint) returns bigint[]
language plpgsql immutable as $$
declare
    missing  bigint := greatest(was[8] - now, 0); -- the time until it is full
    full_at  bigint;
    room     bigint;
    admitted bigint;
begin
    if was[7] <> per then -- the rate was set anew: as many tokens are missing
        missing := ceil(missing::numeric * per / was[7]);
    end if;
    -- It never lacks more than it holds: a clock that was set back does not close it.
    full_at := now + least(missing, cap * per);
    room := (now + cap * per - full_at) / per;
    admitted := least(asked, room);
    full_at := full_at + admitted * per;
    return array[
        admitted, asked, room - admitted,
        case when admitted < asked then full_at + per - cap * per - now else 0 end,
        full_at, now, per, full_at];
end $$;

-- A sliding window: never more than cap are admitted in any time of 16 * per. It
-- counts in slots of per, the one under way and the 16 before, so that what was
-- admitted counts for up to one slot longer than the window.
create function rate_limit_window(was bigint[], asked bigint, cap bigint, per bigint, now bigint) returns bigint[]
language plpgsql immutable as $$
declare
    state    bigint[] := coalesce(was, array_fill(0::bigint, array[26])); -- 8 slot, 9 total, 10 to 26 counts
    slot     bigint := now / per;
    total    bigint := state[9];
    room     bigint;
    admitted bigint;
    kept     bigint;
    wait     bigint := 0;
begin
    if was[7] <> per or was[8] > slot + 16 then
        -- The window is another, or the clock was set back by more than one: what was
        -- admitted counts as of now.
        total := least(total, cap);
        state := array_fill(0::bigint, array[26]);
        state[slot % 17 + 10] := total;
    else
        slot := greatest(was[8], slot); -- a clock that was set back by less stands still
        if slot - state[8] > 16 then
            total := 0;
            state := array_fill(0::bigint, array[26]);
        else
            for i in 1 .. slot - state[8] loop
                total := total - state[(state[8] + i) % 17 + 10];
                state[(state[8] + i) % 17 + 10] := 0;
            end loop;
        end if;
    end if;
    room := greatest(cap - total, 0);
    admitted := least(asked, room);
    total := total + admitted;
    state[slot % 17 + 10] := state[slot % 17 + 10] + admitted;
    if admitted < asked then
        kept := total;
        for i in 1 .. 17 loop -- the oldest slot first
            kept := kept - state[(slot + i) % 17 + 10];
            wait := (slot + i) * per - now;
            exit when kept < cap;
        end loop;
    end if;
    state[1] := admitted;
    state[2] := asked;
    state[3] := room - admitted;
    state[4] := wait;
    state[5] := (slot + 17) * per;
    state[6] := now;
    state[7] := per;
    state[8] := slot;
    state[9] := total;
    return state;
end $$;

-- The planner puts it into the statements that call it.
create function rate_limit_step(was bigint[], asked bigint, cap bigint, per bigint, sliding boolean) returns bigint[]
language sql volatile as $$
    select case when sliding
        then rate_limit_window(was, asked, cap, per, (date_part('epoch', clock_timestamp()) * 1000000)::bigint)
        else rate_limit_bucket(was, asked, cap, per, (date_part('epoch', clock_timestamp()) * 1000000)::bigint)
    end
$$;

-- Admits up to asked requests to a bucket and returns its state. Whoever comes
-- while another decides waits, and decides on what that one left. Decisions that
-- are not durable do not wait for the disk: a crash of the database forgets those
-- of the last moments.
create function rate_limit_take(
    limit_name text, bucket text, asked bigint, cap bigint, per bigint, sliding boolean, durable boolean
) returns bigint[]
language plpgsql volatile as $$
declare
    found_state bigint[];
begin
    if not durable then
        perform set_config('synchronous_commit', 'off', true);
    end if;
    update rate_limits r set state = rate_limit_step(r.state, asked, cap, per, sliding)
    where r.name = limit_name and r.key = bucket
    returning r.state into found_state;
    if not found then
        insert into rate_limits as r (name, key, state)
        values (limit_name, bucket, rate_limit_step(null, asked, cap, per, sliding))
        on conflict (name, key) do update set state = rate_limit_step(r.state, asked, cap, per, sliding)
        returning r.state into found_state;
    end if;
    return found_state;
end $$;
