package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/pg"
)

// An Owner is who answers for certificates.
type Owner struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Email     string    `json:"email"`
	TeamID    *string   `json:"team_id,omitempty"`
	Revision  int64     `json:"revision" doc:"counts changes"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

const ownerColumns = `id, name, email, team_id, revision, created_at, updated_at`

// Owners returns up to limit owners by name, from the first whose name comes
// after the given one.
func Owners(ctx context.Context, q pg.Q, after string, limit int) ([]Owner, error) {
	rows, _ := q.Query(ctx, `select `+ownerColumns+` from owners where name > @after order by name limit @limit`,
		pgx.StrictNamedArgs{"after": after, "limit": limit})
	owners, err := pgx.CollectRows(rows, pgx.RowToStructByName[Owner])
	return owners, pg.Fault(err, "owners")
}

// OwnerByID returns one owner.
func OwnerByID(ctx context.Context, q pg.Q, id string) (Owner, error) {
	rows, _ := q.Query(ctx, `select `+ownerColumns+` from owners where id = $1`, id)
	return owner(rows)
}

// LockOwner returns an owner and keeps others from changing it until the
// transaction ends.
func LockOwner(ctx context.Context, q pg.Q, id string) (Owner, error) {
	rows, _ := q.Query(ctx, `select `+ownerColumns+` from owners where id = $1 for no key update`, id)
	return owner(rows)
}

// InsertOwner adds an owner.
func InsertOwner(ctx context.Context, q pg.Q, o Owner) (Owner, error) {
	rows, _ := q.Query(ctx, `
		insert into owners (id, name, email, team_id) values (@id, @name, @email, @team_id) returning `+ownerColumns,
		pgx.StrictNamedArgs{"id": o.ID, "name": o.Name, "email": o.Email, "team_id": o.TeamID})
	return owner(rows)
}

// ChangeOwner sets what callers may change of an owner.
func ChangeOwner(ctx context.Context, q pg.Q, o Owner) (Owner, error) {
	rows, _ := q.Query(ctx, `
		update owners
		set name = @name, email = @email, team_id = @team_id, revision = revision + 1, updated_at = clock_timestamp()
		where id = @id
		returning `+ownerColumns,
		pgx.StrictNamedArgs{"id": o.ID, "name": o.Name, "email": o.Email, "team_id": o.TeamID})
	return owner(rows)
}

func owner(rows pgx.Rows) (Owner, error) {
	o, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Owner])
	return o, pg.Fault(err, "owner")
}

// DeleteOwner deletes an owner that nothing refers to.
func DeleteOwner(ctx context.Context, q pg.Q, id string) error {
	_, err := q.Exec(ctx, `delete from owners where id = $1`, id)
	return pg.Fault(err, "owner")
}
