package inventory

import (
	"context"

	"certctl/server/store"
)

// StatsQuery asks for counts.
type StatsQuery struct {
	Days int `query:"days" minimum:"1" maximum:"365" default:"30" doc:"how many days to count what was issued on"`
}

// Stats counts certificates and jobs.
func (i *Inventory) Stats(ctx context.Context, in *StatsQuery) (store.Stats, error) {
	return store.ReadStats(ctx, i.DB, in.Days)
}
