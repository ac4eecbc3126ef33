package app_test

import (
	"strings"
	"testing"

	"certctl/server/api"
	"certctl/server/audit"
	"certctl/server/client"
	"certctl/server/pg/pgtest"
	"certctl/server/schedule"
)

// Behind a pooler that hands each transaction to another session, pgx may
// prepare nothing: the setting that its documentation names for that has it
// learn every type from Go's.
func TestWorksWithoutPreparedStatements(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	sep := "?"
	if strings.Contains(url, "?") {
		sep = "&"
	}
	r := serve(t, url+sep+"default_query_exec_mode=exec", nil)
	in := &api.NewBootstrap{}
	in.Body.Name, in.Body.Token = "administrator", bootstrapToken
	key, err := client.Do(t.Context(), r.Client, api.Bootstrap, in)
	if err != nil {
		t.Fatal(err)
	}
	c := r.With(key.Secret)
	k := create(t, c, "a key", "viewer")
	if _, err := client.Do(t.Context(), c, api.RotateKey, rotation(k.ID, 60)); err != nil {
		t.Error(err)
	}
	if _, err := client.Do(t.Context(), c, api.ListKeys, &api.KeyQuery{Limit: 5}); err != nil {
		t.Error(err)
	}
	events, err := client.Do(t.Context(), c, api.ListEvents, &api.EventQuery{Limit: 10, EventFilter: api.EventFilter{Category: audit.Access}})
	if err != nil || len(events.Items) != 3 {
		t.Errorf("the events are %+v (%v)", events.Items, err)
	}
	pool := pgtest.Pool(t, url)
	pgtest.Eventually(t, "every loop passes", func() bool {
		var bad, loops int
		err := pool.QueryRow(t.Context(), `
			select count(*) filter (where error <> ''), count(distinct loop) filter (where finished_at is not null) from loop_runs`).Scan(&bad, &loops)
		return err == nil && bad == 0 && loops == len(schedule.All())
	})
	pgtest.Eventually(t, "the events are in the log", func() bool {
		s, err := audit.Size(t.Context(), pool)
		return err == nil && s.Queued == 0 && s.Logged >= 4
	})
	report, err := client.Do(t.Context(), c, api.VerifyLog, &api.Verification{})
	if err != nil || !report.Intact {
		t.Errorf("%s (%v)", report.Says, err)
	}
	if _, err := client.Do(t.Context(), c, api.ProveInclusion, &api.InclusionQuery{Seq: 0, Size: 2}); err != nil {
		t.Error(err)
	}
}
