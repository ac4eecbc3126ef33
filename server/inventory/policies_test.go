package inventory_test

import (
	"errors"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"certctl/server/audit"
	"certctl/server/fault"
	"certctl/server/inventory"
	"certctl/server/pg"
	"certctl/server/pg/pgtest"
	"certctl/server/store"
)

// on are warnings so many days before the end.
func on(days ...int32) *[]store.Alert {
	var all []store.Alert
	for _, d := range days {
		all = append(all, store.Alert{Days: d, Severity: "warning"})
	}
	return &all
}

func TestPolicy(t *testing.T) {
	t.Parallel()
	ctx, all := replicas(t, 1)
	inv := all[0]
	t.Run("has defaults", func(t *testing.T) {
		p := must[store.Policy](t)(inv.CreatePolicy(ctx, newPolicy("plain")))
		want := store.Policy{
			ID: p.ID, Name: "plain", AutoRenew: true, RenewBeforeSeconds: 30 * 86400, MaxRetries: 3, RetryEverySeconds: 300,
			AttemptTimeoutSeconds: 60, StartOverAfterSeconds: 86400, Revision: 1,
			Alerts: []store.Alert{
				{Days: 30, Severity: "informational"},
				{Days: 14, Severity: "warning"},
				{Days: 7, Severity: "warning"},
				{Days: 1, Severity: "critical"},
				{Days: 0, Severity: "critical"},
			},
			Channels:  []store.PolicyChannel{},
			CreatedAt: p.CreatedAt, UpdatedAt: p.UpdatedAt,
		}
		if !reflect.DeepEqual(p, want) {
			t.Errorf("it is %+v", p)
		}
	})
	t.Run("takes what is given, zero too", func(t *testing.T) {
		in := newPolicy("given")
		in.Body.AutoRenew, in.Body.MaxRetries, in.Body.Alerts = new(false), new(0), &[]store.Alert{}
		p := must[store.Policy](t)(inv.CreatePolicy(ctx, in))
		if p.AutoRenew || p.MaxRetries != 0 || p.Alerts == nil || len(p.Alerts) != 0 {
			t.Errorf("it is %+v", p)
		}
	})
	t.Run("warns from the first day to the last", func(t *testing.T) {
		in := newPolicy("days")
		in.Body.Alerts = on(0, 365, 7)
		p := must[store.Policy](t)(inv.CreatePolicy(ctx, in))
		if !slices.Equal(p.Alerts, *on(365, 7, 0)) {
			t.Errorf("it warns on %v", p.Alerts)
		}
		for _, bad := range []*[]store.Alert{on(-1), on(366), on(7, 1, 7), {{Days: 1, Severity: "dire"}}} {
			in := newPolicy("bad")
			in.Body.Alerts = bad
			_, err := inv.CreatePolicy(ctx, in)
			refused(t, err, fault.Invalid, "body.alerts")
			edit := &inventory.PolicyChange{ByID: *one(p.ID)}
			edit.Body.Alerts = bad
			_, err = inv.ChangePolicy(ctx, edit)
			refused(t, err, fault.Invalid, "body.alerts")
		}
	})
}

// The bounds that requests are checked by are those that the table keeps.
func TestBoundsOfAPolicyAreThoseOfTheTable(t *testing.T) {
	t.Parallel()
	ctx, all := replicas(t, 1)
	body := reflect.TypeFor[inventory.PolicyBody]()
	checked := 0
	for n := range body.NumField() {
		f := body.Field(n)
		for tag, beyond := range map[string]int64{"minimum": -1, "maximum": 1} {
			text, ok := f.Tag.Lookup(tag)
			if !ok {
				continue
			}
			bound, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			checked++
			for _, v := range []int64{bound, bound + beyond} {
				in := newPolicy(f.Name + strconv.FormatInt(v, 10))
				value := reflect.New(f.Type.Elem())
				value.Elem().SetInt(v)
				reflect.ValueOf(&in.Body.PolicyBody).Elem().Field(n).Set(value)
				_, err := all[0].CreatePolicy(ctx, in)
				if taken := err == nil; taken != (v == bound) || (!taken && pg.Constraint(err) != "renewal_policies_bounds") {
					t.Errorf("%s of %d, where the %s is %d: %v", f.Name, v, tag, bound, err)
				}
			}
		}
	}
	if checked != 10 {
		t.Errorf("%d bounds were checked", checked)
	}
}

func TestChangeOfAPolicyMovesRenewals(t *testing.T) {
	t.Parallel()
	ctx, inv := keeping(t) // all certificates have the policy 1, but for one
	_, err := inv.DB.Exec(ctx, `
		update certificates set renew_at = not_after - interval '1 hour' where id in ('crt_1', 'crt_2', 'crt_3');
		update certificates set policy_id = 'pol_2' where id = 'crt_3'`)
	if err != nil {
		t.Fatal(err)
	}
	// when tells of each certificate whether it is renewed as before, or by the
	// time in seconds.
	when := func(before int64) string {
		rows, _ := inv.DB.Query(ctx, `
			select case when renew_at is null then 'never'
				when renew_at = not_after - interval '1 hour' then 'as before'
				when renew_at = renewal_time(id, not_before, not_after, $1) then 'anew' else 'wrong' end
			from certificates order by id`, before)
		all := must[[]string](t)(pgx.CollectRows(rows, pgx.RowTo[string]))
		return strings.Join(all, ", ")
	}
	edit := func(f func(*inventory.PolicyBody)) {
		t.Helper()
		in := &inventory.PolicyChange{ByID: *one("pol_1")}
		f(&in.Body.PolicyBody)
		must[store.Policy](t)(inv.ChangePolicy(ctx, in))
	}
	for _, c := range []struct {
		what string
		f    func(*inventory.PolicyBody)
		want string
	}{
		{"a description", func(b *inventory.PolicyBody) { b.Description = new("x") }, "as before, as before, as before, never, never, never"},
		{"the time", func(b *inventory.PolicyBody) { b.RenewBeforeSeconds = new(int64(5 * 86400)) }, "anew, anew, as before, never, never, never"},
		{"not by itself", func(b *inventory.PolicyBody) { b.AutoRenew = new(false) }, "never, never, as before, never, never, never"},
		{"the time, while not by itself", func(b *inventory.PolicyBody) { b.RenewBeforeSeconds = new(int64(6 * 86400)) }, "never, never, as before, never, never, never"},
		{"by itself again", func(b *inventory.PolicyBody) { b.AutoRenew = new(true) }, "anew, anew, as before, never, never, never"},
	} {
		edit(c.f)
		before := int64(5 * 86400)
		if c.what == "by itself again" {
			before = 6 * 86400
		}
		if got := when(before); got != c.want {
			t.Errorf("after a change of %s: %s", c.what, got)
		}
	}
	if events := changes(t, inv.DB, audit.PolicyChanged); len(events) != 5 || events[4].Details["fields"] != "description" {
		t.Errorf("the events are %+v", events)
	}
}

// A certificate is issued, and not yet committed, while its policy is changed.
func TestChangeOfAPolicyMovesWhatIsIssuedMeanwhile(t *testing.T) {
	t.Parallel()
	ctx, inv := keeping(t)
	done := make(chan error, 1)
	err := pg.InTx(ctx, inv.DB, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			with n as (
				insert into certificates select (jsonb_populate_record(c, '{"id": "crt_7", "name": "name 7", "serial": "17"}')).*
				from certificates c where id = 'crt_1'
			)
			insert into certificate_versions select (jsonb_populate_record(v, '{"certificate_id": "crt_7", "serial": "17"}')).*
			from certificate_versions v where certificate_id = 'crt_1'`)
		if err != nil {
			return err
		}
		go func() {
			in := &inventory.PolicyChange{ByID: *one("pol_1")}
			in.Body.RenewBeforeSeconds = new(int64(5 * 86400))
			_, err := inv.ChangePolicy(ctx, in)
			done <- err
		}()
		pgtest.Eventually(t, "the change waits", func() bool {
			return count(t, inv, `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`) > 0
		})
		return nil
	})
	if err := errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	if n := count(t, inv, `
		select count(*) from certificates where id in ('crt_1', 'crt_7')
		  and renew_at = renewal_time(id, not_before, not_after, 5 * 86400)`); n != 2 {
		t.Errorf("%d of two certificates are renewed as the policy says", n)
	}
}
