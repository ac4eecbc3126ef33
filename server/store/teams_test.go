package store_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"certctl/server/pg"
	"certctl/server/pg/pgtest"
	"certctl/server/store"
)

func locked[T any](lock func(context.Context, pg.Q, string) (T, error)) func(context.Context, pg.Q, string) error {
	return func(ctx context.Context, q pg.Q, id string) error {
		_, err := lock(ctx, q, id)
		return err
	}
}

// While one transaction has read a row to change it, another cannot do so.
func TestLocksKeepOthersFromChanging(t *testing.T) {
	t.Parallel()
	db := pgtest.DB(t)
	if _, err := db.Exec(t.Context(), around); err != nil {
		t.Fatal(err)
	}
	for name, lock := range map[string]struct {
		id string
		f  func(context.Context, pg.Q, string) error
	}{
		"teams":            {"tm_1", locked(store.LockTeam)},
		"owners":           {"own_1", locked(store.LockOwner)},
		"renewal_policies": {"pol_1", locked(store.LockPolicyForChange)},
		"profiles":         {"pro_1", locked(store.LockProfile)},
		"issuers":          {"iss_1", locked(store.LockIssuer)},
	} {
		err := pg.InTx(t.Context(), db, func(tx pgx.Tx) error {
			if err := lock.f(t.Context(), tx, lock.id); err != nil {
				return err
			}
			_, err := db.Exec(t.Context(), `select from `+name+` where id = $1 for no key update nowait`, lock.id)
			if pg.Code(err) != "55P03" {
				t.Errorf("%s: another session is told %v", name, err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}
