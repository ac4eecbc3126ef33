package app_test

import (
	"strings"
	"testing"

	"go.uber.org/zap"

	"certctl/server/api"
	"certctl/server/app"
	"certctl/server/client"
	"certctl/server/fault"
	"certctl/server/pg/pgtest"
)

func TestRowsDoNotChangeWhatADefaultRoleMayDo(t *testing.T) {
	t.Parallel()
	r := run(t, nil)
	auditor := create(t, r.Client, "auditor", "auditor")
	if _, err := pgtest.Pool(t, r.url).Exec(t.Context(), `insert into role_permissions values ('auditor', 'key.read')`); err != nil {
		t.Fatal(err)
	}
	_, err := client.Do(t.Context(), r.With(auditor.Secret), api.ListKeys, &api.KeyQuery{Limit: 1})
	is(t, err, fault.Forbidden, "needs the permission key.read")
}

func TestCustomRoleWithTheNameOfADefaultOneStopsTheStart(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	if _, err := pgtest.Pool(t, url).Exec(t.Context(), `insert into roles (name, does, declared) values ('viewer', 'sees', false)`); err != nil {
		t.Fatal(err)
	}
	err := app.New(settings(url), app.Build{Version: "test"}, zap.NewNop()).Run(t.Context(), app.Options{})
	if err == nil || !strings.Contains(err.Error(), "the custom role viewer has the name of a default role of this version") {
		t.Errorf("got %v, want a refusal that names the role", err)
	}
}
