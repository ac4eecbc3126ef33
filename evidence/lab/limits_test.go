package lab_test

import (
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/evidence/lab"
	"certctl/server/api"
	"certctl/server/client"
	"certctl/server/config"
	"certctl/server/limit"
	"certctl/server/limit/limittest"
)

// ClocksApart is how far the clocks of three replicas are from each other.
const clocksApart = 5 * time.Minute

// decisions is how many requests the replicas decide on.
func decisions(t *testing.T) int64 {
	t.Helper()
	n, err := strconv.ParseInt(os.Getenv("CERTCTL_TEST_LIMIT_DECISIONS"), 10, 64)
	if err != nil {
		return 10_000
	}
	return n
}

// What three processes decide, whose clocks are apart, is what the algorithm
// would have decided: on record is each decision as the database committed it.
func TestDecisionsOfReplicasAreTheAlgorithms(t *testing.T) {
	r := laboratoryOf(t, "-tags", "defects")
	for _, tt := range []struct {
		name  string
		alter string
		right bool
	}{
		{"by the database's clock", ``, true},
		// The control: each replica has the database decide by its own clock.
		{"by the clocks of the replicas", `
			create table clocks (name text, ahead interval);
			create or replace function rate_limit_step(was bigint[], asked bigint, cap bigint, per bigint, sliding boolean) returns bigint[]
			language plpgsql volatile as $$
			declare
				now bigint := date_part('epoch', clock_timestamp() + coalesce(
					(select ahead from clocks where 'certctl ' || name = current_setting('application_name')), '0')) * 1000000;
			begin
				if sliding then
					return rate_limit_window(was, asked, cap, per, now);
				end if;
				return rate_limit_bucket(was, asked, cap, per, now);
			end $$`, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := r.on(t)
			if err := r.Migrate(t.Context(), r.url); err != nil {
				t.Fatal(err)
			}
			r.exec(`create table history (n bigint generated always as identity, state bigint[] not null, at timestamptz not null default clock_timestamp())`)
			r.exec(`create function record() returns trigger language plpgsql as $$ begin
				insert into history (state) values (new.state); return null; end $$`)
			r.exec(`create trigger record after insert or update on rate_limits for each row when (new.name = '` + limit.HTTPActor.Name + `') execute function record()`)
			r.exec(tt.alter + ` `)
			total := decisions(t)
			if !tt.right {
				total = 2000
			}
			settings := map[string]string{limit.HTTPActor.Cap.Name: "50", limit.HTTPActor.Rate.Name: "400"}
			callers := r.apart(3, settings, !tt.right)
			var sent, admitted atomic.Int64
			var wg sync.WaitGroup
			for i := range 48 {
				wg.Go(func() {
					for sent.Add(1) <= total && t.Context().Err() == nil {
						res, err := callers[i%3].Send(t.Context(), http.MethodGet, api.ListTeams.Path, nil)
						if err == nil {
							admitted.Add(1)
							_ = res.Body.Close()
						}
					}
				})
			}
			wg.Wait()
			rows, _ := r.pool.Query(t.Context(), `select state, (date_part('epoch', at) * 1000000)::bigint as at from history order by n`)
			history, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
				State []int64
				At    int64
			}])
			if err != nil || len(history) == 0 {
				t.Fatalf("%d decisions (%v)", len(history), err)
			}
			m := &limittest.Model{Terms: limit.HTTPActor.In(config.Values{limit.HTTPActor.Cap.Name: 50, limit.HTTPActor.Rate.Name: 400.0})}
			var asked, by, wrong int64
			for _, d := range history {
				if off := d.At - d.State[5]; off < 0 || off > clocksApart.Microseconds()/2 {
					wrong++
				} else if err := m.Check(limittest.Of(d.State)); err != nil && tt.right {
					t.Fatal(err)
				}
				asked, by = asked+d.State[1], by+d.State[0]
			}
			t.Logf("%d decisions in %d statements, %d admitted, %d statements by another clock", asked, len(history), by, wrong)
			if !tt.right {
				if wrong == 0 {
					t.Error("it does not show whose clock decides")
				}
				return
			}
			if asked < total || by != admitted.Load() || wrong > 0 {
				t.Errorf("%d were decided of %d, and %d admitted of %d", asked, total, by, admitted.Load())
			}
			if span := history[len(history)-1].At - history[0].At; span < 5*m.Terms.Window().Microseconds() {
				t.Errorf("it took %d µs, which is not many windows", span)
			}
		})
	}
}

// apart starts replicas whose clocks are apart, and returns a client of each with
// one key. The database learns the clocks if it is to.
func (r *replicas) apart(n int, settings map[string]string, tell bool) []*client.Client {
	r.t.Helper()
	var all []*lab.Replica
	for i := range n {
		ahead := time.Duration(i-1) * clocksApart
		with := map[string]string{lab.ClockOffset: ahead.String()}
		for name, value := range settings {
			with[name] = value
		}
		all = append(all, r.run(with))
		if tell {
			r.exec(`insert into clocks values ($1, make_interval(secs => $2))`, all[i].Name, ahead.Seconds())
		}
	}
	admin := r.admin()
	var clients []*client.Client
	for _, one := range all {
		c, err := one.Client(admin.Key)
		if err != nil {
			r.t.Fatal(err)
		}
		c.Patience = 0
		tr := c.HTTP.Transport.(*http.Transport)
		tr.MaxIdleConnsPerHost = 16
		clients = append(clients, c)
	}
	return clients
}
