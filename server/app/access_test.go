package app_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"certctl/server/api"
	"certctl/server/client"
	"certctl/server/fault"
	"certctl/server/perm"
	"certctl/server/pg/pgtest"
	"certctl/server/store"
)

// is fails the test unless err has the kind and says what.
func is(t *testing.T, err error, kind *fault.Kind, what string) {
	t.Helper()
	if fault.Of(err) != kind || err == nil || !strings.Contains(err.Error(), what) {
		t.Errorf("got %v, want %s: %q", err, kind.Code, what)
	}
}

func newKey(name string, roles ...string) *api.NewKey {
	in := &api.NewKey{}
	in.Body.Name, in.Body.Roles = name, roles
	return in
}

// rotation asks for a new secret, without a body if there is no grace.
func rotation(id string, grace int) *api.Rotation {
	in := &api.Rotation{OneKey: api.OneKey{ID: id}}
	if grace > 0 {
		in.Body = &api.Grace{GraceSeconds: grace}
	}
	return in
}

func create(t *testing.T, c *client.Client, name string, roles ...string) api.KeySecret {
	t.Helper()
	k, err := client.Do(t.Context(), c, api.CreateKey, newKey(name, roles...))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestBootstrapWorksOnceOnAnyReplica(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	first := serve(t, url, nil)
	// The second shares the key that the first one's database is sealed under.
	in := &api.NewBootstrap{}
	in.Body.Name, in.Body.Token = "a", "not the token"
	_, err := client.Do(t.Context(), first.Client, api.Bootstrap, in)
	is(t, err, fault.Unauthenticated, "not the bootstrap token")

	in.Body.Token = bootstrapToken
	const callers = 8
	var wg sync.WaitGroup
	var mu sync.Mutex
	made, gone := 0, 0
	for range callers {
		wg.Go(func() {
			_, err := client.Do(t.Context(), first.Client, api.Bootstrap, in)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				made++
			case fault.Of(err) == fault.Gone:
				gone++
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if made != 1 || gone != callers-1 {
		t.Errorf("%d keys were made and %d callers told that it is done, want 1 and the others", made, gone)
	}
}

func TestKeyLifecycle(t *testing.T) {
	t.Parallel()
	r := run(t, nil)
	k := create(t, r.Client, "scraper", "viewer")
	with := r.With(k.Secret)
	try := func(c *client.Client) error {
		_, err := client.Do(t.Context(), c, api.ListRoles, &api.Empty{})
		return err
	}
	if err := try(with); err != nil {
		t.Fatalf("the new key: %v", err)
	}
	got, err := client.Do(t.Context(), r.Client, api.GetKey, &api.OneKey{ID: k.ID})
	if err != nil || got.LastUsedAt == nil || got.CreatedBy == "" {
		t.Errorf("the key reads as %+v (%v), want it used", got, err)
	}

	rotate := rotation(k.ID, 3600)
	fresh, err := client.Do(t.Context(), r.Client, api.RotateKey, rotate)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*client.Client{"old": with, "new": r.With(fresh.Secret)} {
		if err := try(c); err != nil {
			t.Errorf("the %s secret within the grace: %v", name, err)
		}
	}
	rotate = rotation(k.ID, 0)
	last, err := client.Do(t.Context(), r.Client, api.RotateKey, rotate)
	if err != nil {
		t.Fatal(err)
	}
	is(t, try(with), fault.Unauthenticated, "no API key has this secret")
	is(t, try(r.With(fresh.Secret)), fault.Unauthenticated, "no API key has this secret")

	if _, err := client.Do(t.Context(), r.Client, api.RevokeKey, &api.OneKey{ID: k.ID}); err != nil {
		t.Fatal(err)
	}
	is(t, try(r.With(last.Secret)), fault.Unauthenticated, "was revoked")
	_, err = client.Do(t.Context(), r.Client, api.RevokeKey, &api.OneKey{ID: k.ID})
	is(t, err, fault.Conflict, "revoked already")
	_, err = client.Do(t.Context(), r.Client, api.RotateKey, rotate)
	is(t, err, fault.Conflict, "revoked or has expired")
}

func TestKeyExpires(t *testing.T) {
	t.Parallel()
	r := run(t, nil)
	in := newKey("brief", "viewer")
	past := time.Now().Add(-time.Minute)
	in.Body.ExpiresAt = &past
	_, err := client.Do(t.Context(), r.Client, api.CreateKey, in)
	is(t, err, fault.Invalid, "body.expires_at is past")

	future := time.Now().Add(time.Hour)
	in.Body.ExpiresAt = &future
	k, err := client.Do(t.Context(), r.Client, api.CreateKey, in)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pgtest.Pool(t, r.url).Exec(t.Context(), `update api_keys set expires_at = now() where id = $1`, k.ID); err != nil {
		t.Fatal(err)
	}
	_, err = client.Do(t.Context(), r.With(k.Secret), api.ListRoles, &api.Empty{})
	is(t, err, fault.Unauthenticated, "has expired")
}

func TestNobodyGrantsMoreThanTheyHold(t *testing.T) {
	t.Parallel()
	r := run(t, nil)
	ctx := t.Context()
	admin := create(t, r.Client, "second administrator", "admin")
	cli := create(t, r.Client, "cli", "cli")
	as := r.With(cli.Secret)

	_, err := client.Do(ctx, as, api.CreateKey, newKey("mine", "admin"))
	is(t, err, fault.Forbidden, "withdraw the role admin")
	_, err = client.Do(ctx, as, api.RotateKey, rotation(admin.ID, 0))
	is(t, err, fault.Forbidden, "rotate a key with the role admin")
	_, err = client.Do(ctx, as, api.GrantRole, &api.Grant{OneKey: api.OneKey{ID: cli.ID}, Role: "admin"})
	is(t, err, fault.Forbidden, "needs the permission role.grant")
	if _, err = client.Do(ctx, as, api.CreateKey, newKey("lesser", "viewer")); err != nil {
		t.Errorf("a role whose permissions the caller holds: %v", err)
	}

	// A custom role gives what its maker holds, and no more.
	maker := &api.NewRole{}
	maker.Body.Name, maker.Body.Does, maker.Body.Permissions = "role-maker", "Makes roles.", []string{"role.edit", "role.read"}
	if _, err := client.Do(ctx, r.Client, api.CreateRole, maker); err != nil {
		t.Fatal(err)
	}
	m := create(t, r.Client, "maker", "role-maker")
	more := &api.NewRole{}
	more.Body.Name, more.Body.Does, more.Body.Permissions = "more", "Does more.", []string{"key.revoke"}
	_, err = client.Do(ctx, r.With(m.Secret), api.CreateRole, more)
	is(t, err, fault.Forbidden, "needs the permission key.revoke")

	_, err = client.Do(ctx, r.Client, api.DeleteRole, &api.OneRole{Name: "role-maker"})
	is(t, err, fault.Conflict, "keys hold the role")
	_, err = client.Do(ctx, r.Client, api.DeleteRole, &api.OneRole{Name: "viewer"})
	is(t, err, fault.Conflict, "default role")
	_, err = client.Do(ctx, r.Client, api.CreateKey, newKey("x", "nonesuch"))
	is(t, err, fault.Invalid, "does not exist")
	_, err = client.Do(ctx, r.Client, api.CreateKey, newKey("cli", "cli"))
	is(t, err, fault.Conflict, "already exists")
}

func TestNobodyTakesWhatTheyCouldNotGive(t *testing.T) {
	t.Parallel()
	r := run(t, nil)
	ctx := t.Context()
	role := &api.NewRole{}
	role.Body.Name, role.Body.Does, role.Body.Permissions = "taker", "Takes.", []string{"role.grant", "key.revoke"}
	if _, err := client.Do(ctx, r.Client, api.CreateRole, role); err != nil {
		t.Fatal(err)
	}
	taker := create(t, r.Client, "taker", "taker")
	admin := create(t, r.Client, "second administrator", "admin")
	_, err := client.Do(ctx, r.With(taker.Secret), api.WithdrawRole, &api.Grant{OneKey: api.OneKey{ID: admin.ID}, Role: "admin"})
	is(t, err, fault.Forbidden, "withdraw the role admin")
	_, err = client.Do(ctx, r.With(taker.Secret), api.RevokeKey, &api.OneKey{ID: admin.ID})
	is(t, err, fault.Forbidden, "revoke a key with the role admin")
}

func TestExpiringKeyMakesNoneThatOutlivesIt(t *testing.T) {
	t.Parallel()
	r := run(t, nil)
	soon, later := time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
	in := newKey("brief", "admin")
	in.Body.ExpiresAt = &soon
	brief, err := client.Do(t.Context(), r.Client, api.CreateKey, in)
	if err != nil {
		t.Fatal(err)
	}
	for _, end := range []*time.Time{nil, &later} {
		in := newKey("lasting", "viewer")
		in.Body.ExpiresAt = end
		_, err = client.Do(t.Context(), r.With(brief.Secret), api.CreateKey, in)
		is(t, err, fault.Forbidden, "must not end later")
	}
	lasting := create(t, r.Client, "lasting", "viewer")
	_, err = client.Do(t.Context(), r.With(brief.Secret), api.RotateKey, rotation(lasting.ID, 0))
	is(t, err, fault.Forbidden, "must not end later")
	_, err = client.Do(t.Context(), r.With(brief.Secret), api.GrantRole, &api.Grant{OneKey: api.OneKey{ID: lasting.ID}, Role: "admin"})
	is(t, err, fault.Forbidden, "must not end later")
	// Nor does it count as an administrator that stays.
	keys, err := client.Do(t.Context(), r.Client, api.ListKeys, &api.KeyQuery{Limit: 10})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Do(t.Context(), r.Client, api.RevokeKey, &api.OneKey{ID: keys.Items[len(keys.Items)-1].ID})
	is(t, err, fault.Conflict, "the last live key with the role admin that does not expire")
}

func TestBootstrapAgainAfterItsRowIsDeleted(t *testing.T) {
	t.Parallel()
	r := run(t, nil)
	in := &api.NewBootstrap{}
	in.Body.Name, in.Body.Token = "found again", bootstrapToken
	_, err := client.Do(t.Context(), r.Client, api.Bootstrap, in)
	is(t, err, fault.Gone, "deleting the row of the table bootstrap")
	if _, err := pgtest.Pool(t, r.url).Exec(t.Context(), `delete from bootstrap`); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Do(t.Context(), r.Client, api.Bootstrap, in); err != nil {
		t.Error(err)
	}
}

func TestLastAdministratorStays(t *testing.T) {
	t.Parallel()
	r := run(t, nil)
	ctx := t.Context()
	keys, err := client.Do(ctx, r.Client, api.ListKeys, &api.KeyQuery{Limit: 10})
	if err != nil || len(keys.Items) != 1 {
		t.Fatalf("the keys are %+v (%v)", keys, err)
	}
	first := keys.Items[0].ID
	_, err = client.Do(ctx, r.Client, api.RevokeKey, &api.OneKey{ID: first})
	is(t, err, fault.Conflict, "last live key with the role admin")
	_, err = client.Do(ctx, r.Client, api.WithdrawRole, &api.Grant{OneKey: api.OneKey{ID: first}, Role: "admin"})
	is(t, err, fault.Conflict, "last live key with the role admin")

	// Two administrators who revoke each other at the same moment leave one.
	second := create(t, r.Client, "second", "admin")
	pool := pgtest.Pool(t, r.url)
	tx, err := pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.LockRole(ctx, tx, perm.Admin.Name); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var errs [2]error
	for i, victim := range []string{first, second.ID} {
		c := r.Client
		if i == 0 {
			c = r.With(second.Secret)
		}
		wg.Go(func() { _, errs[i] = client.Do(ctx, c, api.RevokeKey, &api.OneKey{ID: victim}) })
	}
	pgtest.Eventually(t, "both wait for the role", func() bool {
		var n int
		err := pool.QueryRow(ctx, `
			select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`).Scan(&n)
		return err == nil && n == 2
	})
	if err := tx.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if (errs[0] == nil) == (errs[1] == nil) {
		t.Errorf("the two revocations got %v and %v, want one of them refused", errs[0], errs[1])
	}
}

func TestListsNeitherLoseNorRepeat(t *testing.T) {
	t.Parallel()
	r := run(t, nil)
	// Keys of one transaction have one time.
	_, err := pgtest.Pool(t, r.url).Exec(t.Context(), `
		insert into api_keys (id, name, hash, created_by)
		select 'k' || lpad(n::text, 3, '0'), 'key ' || n, sha256(n::text::bytea), 'test' from generate_series(1, 95) n`)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	in := &api.KeyQuery{Limit: 10}
	for {
		page, err := client.Do(t.Context(), r.Client, api.ListKeys, in)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range page.Items {
			if seen[k.ID] {
				t.Errorf("%s is listed twice", k.ID)
			}
			seen[k.ID] = true
		}
		if in.After = page.Next; in.After == "" {
			break
		}
	}
	if len(seen) != 96 {
		t.Errorf("%d keys were listed, want 96", len(seen))
	}
}

func TestGuard(t *testing.T) {
	t.Parallel()
	r := run(t, nil)
	key := r.Key
	for name, auth := range map[string]string{
		"no header": "", "another scheme": "Basic " + key, "no token": "Bearer ", "a secret that is none": "Bearer nonsense",
		"an id that is none": "Bearer ck_none_" + strings.Repeat("A", 26), "another secret": "Bearer " + key[:len(key)-1] + "_",
		"a long one": "Bearer ck_" + strings.Repeat("a", 9000) + "_x", "a zero byte in the id": "Bearer ck_\u0080_x",
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.URL+"/api/v1/keys", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", auth)
		res, err := r.HTTP.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusUnauthorized || res.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: got %d, want 401 with its challenge", name, res.StatusCode)
		}
	}
	a := r.raw(t, http.MethodGet, "/api/v1/keys", "", "")
	for _, h := range []string{"Strict-Transport-Security", "Content-Security-Policy", "X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy", "X-Request-Id"} {
		if a.header.Get(h) == "" {
			t.Errorf("an answer lacks %s", h)
		}
	}
	for _, e := range r.logs.All() {
		for _, v := range e.ContextMap() {
			if s, ok := v.(string); ok && strings.Contains(s, key) {
				t.Errorf("the log holds the key: %q", e.Message)
			}
		}
	}
}

func TestRefusalOfAnUnauthenticatedCallerComesBeforeItsBodyIsRead(t *testing.T) {
	t.Parallel()
	r := run(t, nil)
	r.Key = "none"
	if a := r.raw(t, http.MethodPost, "/api/v1/keys", "application/json", `{`); a.status != http.StatusUnauthorized {
		t.Errorf("got %d, want 401", a.status)
	}
}
