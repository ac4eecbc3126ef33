package store

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"certctl/server/fault"
	"certctl/server/pg"
)

// An OnceKey is under what key an actor asks a route for something that is to
// be done once. What is asked for is set by Ask.
type OnceKey struct {
	Actor, Key, Route string

	request []byte
}

// Ask sets what is asked for. A secret in it is not for this: its hash is kept.
func (o *OnceKey) Ask(in any) error {
	raw, err := json.Marshal(in)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(append([]byte(o.Route+"\n"), raw...))
	o.request = sum[:]
	return nil
}

// Once runs do in a transaction and returns what it answers. With a key it
// does so once: the answer is kept with what do writes, and a call that asks
// the same under the same key gets it again. One that comes while the first is
// under way waits for it. What do refuses is not kept.
func Once[O any](ctx context.Context, db *pgxpool.Pool, actor, key, route string, in any, do func(pgx.Tx) (O, error)) (O, error) {
	var answer O
	once := OnceKey{Actor: actor, Key: key, Route: route}
	if key != "" {
		if err := once.Ask(in); err != nil {
			return answer, err
		}
	}
	err := pg.InTx(ctx, db, func(tx pgx.Tx) (err error) {
		if key == "" {
			answer, err = do(tx)
			return err
		}
		first, err := once.claim(ctx, tx)
		if err != nil {
			return err
		}
		if !first {
			found, err := Answered(ctx, tx, once, &answer)
			if err == nil && !found {
				err = fault.New(fault.Unavailable, "header.Idempotency-Key was past its retention just now; try again")
			}
			return err
		}
		if answer, err = do(tx); err != nil {
			return err
		}
		return once.keep(ctx, tx, answer)
	})
	return answer, err
}

const insertOnce = `
	insert into idempotency_keys (actor_id, key, route, request, response)
	values (@actor, @key, @route, @request, @response)`

func (o *OnceKey) args(response string) pgx.StrictNamedArgs {
	return pgx.StrictNamedArgs{"actor": o.Actor, "key": o.Key, "route": o.Route, "request": o.request, "response": response}
}

// claim takes the key for the transaction. It waits for another transaction
// that has it, and reports false if that one commits.
func (o *OnceKey) claim(ctx context.Context, q pg.Q) (bool, error) {
	tag, err := q.Exec(ctx, insertOnce+` on conflict do nothing`, o.args(""))
	return tag.RowsAffected() == 1, pg.Fault(err, "header.Idempotency-Key")
}

func (o *OnceKey) keep(ctx context.Context, q pg.Q, answer any) error {
	raw, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	_, err = q.Exec(ctx, `update idempotency_keys set response = @response where actor_id = @actor and key = @key`,
		pgx.StrictNamedArgs{"actor": o.Actor, "key": o.Key, "response": string(raw)})
	return pg.Fault(err, "header.Idempotency-Key")
}

// Queue puts the keeping of an answer into a batch of statements, which fails
// if the key is in use (idempotency_keys_pkey). Without a key it does nothing.
func (o *OnceKey) Queue(b *pgx.Batch, answer any) error {
	if o.Key == "" {
		return nil
	}
	raw, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	b.Queue(insertOnce, o.args(string(raw)))
	return nil
}

// Answered reads the answer that was kept under the key into out, and reports
// false if there is none. It refuses a key that was used for something else.
func Answered(ctx context.Context, q pg.Q, o OnceKey, out any) (bool, error) {
	rows, _ := q.Query(ctx, `
		select response, request = @request as same from idempotency_keys where actor_id = @actor and key = @key`,
		pgx.StrictNamedArgs{"actor": o.Actor, "key": o.Key, "request": o.request})
	kept, err := pgx.CollectRows(rows, pgx.RowToStructByName[struct {
		Response string
		Same     bool
	}])
	switch {
	case err != nil:
		return false, pg.Fault(err, "header.Idempotency-Key")
	case len(kept) == 0:
		return false, nil
	case !kept[0].Same:
		return false, fault.New(fault.Conflict, "header.Idempotency-Key was used for another request; take a new one for each")
	}
	return true, json.Unmarshal([]byte(kept[0].Response), out)
}

// DeleteIdempotencyKeys deletes up to limit answers that were kept for longer
// than keep, and returns how many.
func DeleteIdempotencyKeys(ctx context.Context, q pg.Q, keep time.Duration, limit int) (int64, error) {
	tag, err := q.Exec(ctx, `
		delete from idempotency_keys d
		using (
			select actor_id, key from idempotency_keys
			where created_at < (select clock_timestamp()) - @keep::interval
			order by created_at limit @limit
			for update skip locked
		) old
		where d.actor_id = old.actor_id and d.key = old.key`,
		pgx.StrictNamedArgs{"keep": keep, "limit": limit})
	return tag.RowsAffected(), pg.Fault(err, "idempotency keys")
}
