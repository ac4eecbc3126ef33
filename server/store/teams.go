package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/pg"
)

// A Team is a group of people that owners and certificates belong to.
type Team struct {
	ID          string    `json:"id"`
	Name        string    `json:"name"`
	Description string    `json:"description"`
	Revision    int64     `json:"revision" doc:"counts changes"`
	CreatedAt   time.Time `json:"created_at"`
	UpdatedAt   time.Time `json:"updated_at"`
}

const teamColumns = `id, name, description, revision, created_at, updated_at`

// Teams returns up to limit teams by name, from the first whose name comes
// after the given one.
func Teams(ctx context.Context, q pg.Q, after string, limit int) ([]Team, error) {
	rows, _ := q.Query(ctx, `select `+teamColumns+` from teams where name > @after order by name limit @limit`,
		pgx.StrictNamedArgs{"after": after, "limit": limit})
	teams, err := pgx.CollectRows(rows, pgx.RowToStructByName[Team])
	return teams, pg.Fault(err, "teams")
}

// TeamByID returns one team.
func TeamByID(ctx context.Context, q pg.Q, id string) (Team, error) {
	rows, _ := q.Query(ctx, `select `+teamColumns+` from teams where id = $1`, id)
	return team(rows)
}

// LockTeam returns a team and keeps others from changing it until the
// transaction ends.
func LockTeam(ctx context.Context, q pg.Q, id string) (Team, error) {
	rows, _ := q.Query(ctx, `select `+teamColumns+` from teams where id = $1 for no key update`, id)
	return team(rows)
}

// InsertTeam adds a team.
func InsertTeam(ctx context.Context, q pg.Q, t Team) (Team, error) {
	rows, _ := q.Query(ctx, `
		insert into teams (id, name, description) values (@id, @name, @description) returning `+teamColumns,
		pgx.StrictNamedArgs{"id": t.ID, "name": t.Name, "description": t.Description})
	return team(rows)
}

// ChangeTeam sets what callers may change of a team.
func ChangeTeam(ctx context.Context, q pg.Q, t Team) (Team, error) {
	rows, _ := q.Query(ctx, `
		update teams
		set name = @name, description = @description, revision = revision + 1, updated_at = clock_timestamp()
		where id = @id
		returning `+teamColumns,
		pgx.StrictNamedArgs{"id": t.ID, "name": t.Name, "description": t.Description})
	return team(rows)
}

func team(rows pgx.Rows) (Team, error) {
	t, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Team])
	return t, pg.Fault(err, "team")
}

// DeleteTeam deletes a team that nothing refers to.
func DeleteTeam(ctx context.Context, q pg.Q, id string) error {
	_, err := q.Exec(ctx, `delete from teams where id = $1`, id)
	return pg.Fault(err, "team")
}
