package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"certctl/server/fault"
	"certctl/server/metric"
	"certctl/server/outbox"
	"certctl/server/pg"
	"certctl/server/pg/pgtest"
)

// queue adds notifications to a channel.
func queue(t testing.TB, q pg.Q, prefix, channel string, n int) {
	t.Helper()
	exec(t, q, `
		insert into notifications (id, once, event, severity, channel_id, data, recipients)
		select $1 || lpad(n::text, 4, '0'), $1 || n, 'digest', 'warning', $2, '{"a": 1}', '{a@example.com}' from generate_series(1, $3::int) n`,
		prefix, channel, n)
}

// sink counts what is sent, as a receiver would by its key.
type sink struct {
	mu   sync.Mutex
	sent map[string]int
	do   func(context.Context, *outbox.Delivery) (time.Duration, error)
}

func (s *sink) Send(ctx context.Context, d *outbox.Delivery) (outbox.Reply, error) {
	s.mu.Lock()
	if s.sent == nil {
		s.sent = map[string]int{}
	}
	s.sent[d.ID]++
	s.mu.Unlock()
	if s.do == nil {
		return outbox.Reply{}, nil
	}
	wait, err := s.do(ctx, d)
	return outbox.Reply{Wait: wait}, err
}

// first is how often the first one was sent.
func (s *sink) first() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent["n0001"]
}

const lease = 4 * time.Second

func newRunner(db *pgxpool.Pool, replica string, s *sink) *outbox.Runner {
	return &outbox.Runner{
		DB: db, Replica: replica, Send: s.Send, Concurrency: 8, PerChannel: 4, Every: time.Hour, Lease: lease, Attempts: 3,
		RetryAfter: time.Minute, Types: []string{"fake"}, Metrics: metric.New(), Log: zap.NewNop(),
		Buried: func(ctx context.Context, tx pgx.Tx, dead []outbox.Dead) error {
			for _, d := range dead {
				if _, err := tx.Exec(ctx, `insert into graves values ($1, $2)`, d.ID, d.Error); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// prepared is an estate with a table of what was given up.
func prepared(t testing.TB) *pgxpool.Pool {
	t.Helper()
	db := estate(t)
	exec(t, db, `create table graves (id text, error text)`)
	return db
}

func pass(t testing.TB, r *outbox.Runner) {
	t.Helper()
	if _, err := r.Pass(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// outcomes are the attempts that r has counted, by outcome.
func outcomes(t testing.TB, r *outbox.Runner) string {
	t.Helper()
	w := httptest.NewRecorder()
	r.Metrics.Handler(func(*http.Request) {}).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody))
	var counts []string
	for line := range strings.Lines(w.Body.String()) {
		if rest, ok := strings.CutPrefix(line, `certctl_notifications_total{event="digest",outcome="`); ok {
			outcome, n, _ := strings.Cut(strings.TrimSpace(rest), `",type="fake"} `)
			if n != "0" {
				counts = append(counts, outcome+" "+n)
			}
		}
	}
	return strings.Join(counts, ", ")
}

func TestEachIsSentOnce(t *testing.T) {
	t.Parallel()
	const n = 600
	db := prepared(t)
	for _, c := range []string{"a", "b", "c"} {
		queue(t, db, c, "chn_"+c, n/3)
	}
	url := db.Config().ConnString()
	sep := "?"
	if strings.Contains(url, "?") {
		sep = "&"
	}
	s := &sink{}
	var replicas sync.WaitGroup
	for name, url := range map[string]string{"one": url, "two": url, "behind a pooler": url + sep + "default_query_exec_mode=exec"} {
		r := newRunner(pgtest.Pool(t, url), name, s)
		replicas.Go(func() {
			for one[int](t, db, `select count(*) from notifications where state <> 'sent'`) > 0 && t.Context().Err() == nil {
				_, err := r.Pass(t.Context(), nil)
				_, retried := outbox.Retry(t.Context(), r.DB)
				_, taken := r.Reclaim(t.Context())
				if err := errors.Join(err, retried, taken); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	replicas.Wait()
	for id, times := range s.sent {
		if times != 1 {
			t.Errorf("%s was sent %d times", id, times)
		}
	}
	if len(s.sent) != n {
		t.Errorf("%d were sent", len(s.sent))
	}
	if took := one[int](t, db, `select count(distinct holder) from notifications where attempts = 1 and token = 1`); took != 3 {
		t.Errorf("%d replicas took part", took)
	}
}

func TestAttemptEnds(t *testing.T) {
	t.Parallel()
	const minute = time.Minute
	for _, tt := range []struct {
		name     string
		do       func(context.Context, *outbox.Delivery) (time.Duration, error)
		attempts int // before
		state    string
		outcome  string
		error    string
		low      time.Duration // until it is due
		high     time.Duration
	}{
		{name: "sent", do: nil, state: "sent", outcome: "sent 1"},
		{
			name: "failed the first time", do: fails(fault.New(fault.Unavailable, "the receiver is down")),
			state: "failed", outcome: "failed 1", error: "the receiver is down", low: 8 * minute / 10, high: 12 * minute / 10,
		},
		{
			name: "failed the second time", do: fails(fault.New(fault.Unavailable, "the receiver is down")), attempts: 1,
			state: "failed", outcome: "failed 1", error: "the receiver is down", low: 4 * 8 * minute / 10, high: 4 * 12 * minute / 10,
		},
		{
			name: "failed the last time", do: fails(fault.New(fault.Unavailable, "the receiver is down")), attempts: 2,
			state: "dead", outcome: "dead 1", error: "the receiver is down",
		},
		{
			name: "refused for good", do: fails(fault.New(fault.Invalid, "nobody has this address")),
			state: "dead", outcome: "dead 1", error: "nobody has this address",
		},
		{
			name: "failed of what callers are not told", do: fails(errors.New("the password is s3cr3t")),
			state: "failed", outcome: "failed 1", error: "internal error", low: 8 * minute / 10, high: 12 * minute / 10,
		},
		{
			name: "panicked", do: func(context.Context, *outbox.Delivery) (time.Duration, error) { panic("boom") },
			state: "failed", outcome: "failed 1", error: "internal error", low: 8 * minute / 10, high: 12 * minute / 10,
		},
		{
			name: "told to wait", do: func(context.Context, *outbox.Delivery) (time.Duration, error) {
				return time.Hour, fault.New(fault.Unavailable, "too many at once")
			},
			state: "failed", outcome: "failed 1", error: "too many at once", low: 59 * minute, high: 61 * minute,
		},
		{
			name: "told to wait for ever", do: func(context.Context, *outbox.Delivery) (time.Duration, error) {
				return 1 << 62, fault.New(fault.Unavailable, "come back never")
			},
			state: "failed", outcome: "failed 1", error: "come back never", low: 23 * time.Hour, high: 25 * time.Hour,
		},
		{
			name: "too slow", do: func(ctx context.Context, _ *outbox.Delivery) (time.Duration, error) {
				<-ctx.Done()
				return 0, ctx.Err()
			},
			state: "failed", outcome: "failed 1", error: "the receiver did not answer in time", low: 8 * minute / 10, high: 12 * minute / 10,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			db := prepared(t)
			queue(t, db, "n", "chn_a", 1)
			exec(t, db, `update notifications set attempts = $1, token = 7`, tt.attempts)
			s := &sink{do: tt.do}
			r := newRunner(db, "one", s)
			pass(t, r)
			n, err := outbox.ByID(t.Context(), db, "n0001")
			if err != nil {
				t.Fatal(err)
			}
			if n.State != tt.state || n.Error != tt.error || n.Attempts != tt.attempts+1 || n.Holder != "one" || outcomes(t, r) != tt.outcome {
				t.Errorf("it is %+v, counted as %q", n, outcomes(t, r))
			}
			if due := one[time.Duration](t, db, `select due_at - clock_timestamp() from notifications`); tt.high > 0 && (due < tt.low-5*time.Second || due > tt.high) {
				t.Errorf("it is due in %s", due)
			}
			graves := all[string](t, db, `select error from graves`)
			if dead := tt.state == "dead"; dead != (len(graves) == 1) || dead && graves[0] != tt.error {
				t.Errorf("of those that were given up there are %q", graves)
			}
		})
	}
}

func fails(err error) func(context.Context, *outbox.Delivery) (time.Duration, error) {
	return func(context.Context, *outbox.Delivery) (time.Duration, error) { return 0, err }
}

func TestRetry(t *testing.T) {
	t.Parallel()
	db := prepared(t)
	queue(t, db, "n", "chn_a", 2)
	s := &sink{do: fails(fault.New(fault.Unavailable, "down"))}
	r := newRunner(db, "one", s)
	states := func() string {
		return strings.Join(all[string](t, db, `select state || ' ' || attempts from notifications order by id`), ", ")
	}
	pass(t, r)
	if n, err := outbox.Retry(t.Context(), db); n != 0 || err != nil || states() != "failed 1, failed 1" {
		t.Errorf("%d are queued before their time (%v): %s", n, err, states())
	}
	exec(t, db, `update notifications set due_at = now() where id = 'n0001'`)
	pass(t, r) // does not take what failed
	if s.first() != 1 {
		t.Error("what failed was sent before it was queued again")
	}
	if n, err := outbox.Retry(t.Context(), db); n != 1 || err != nil || states() != "pending 1, failed 1" {
		t.Errorf("%d are queued at their time (%v): %s", n, err, states())
	}
	for range 2 {
		exec(t, db, `update notifications set due_at = now() where id = 'n0001'`)
		pass(t, r)
		if _, err := outbox.Retry(t.Context(), db); err != nil {
			t.Fatal(err)
		}
	}
	exec(t, db, `update notifications set due_at = now() where id = 'n0001' and state = 'failed'`)
	if _, err := outbox.Retry(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	pass(t, r)
	if states() != "dead 3, failed 1" || s.first() != 3 {
		t.Errorf("after its last attempt: %s, sent %d times", states(), s.first())
	}
	t.Run("a dead one can be queued again, under its key", func(t *testing.T) {
		n, err := outbox.Requeue(t.Context(), db, "n0001")
		if err != nil || n.State != "pending" || n.Attempts != 0 || n.FinishedAt != nil {
			t.Errorf("it is %+v (%v)", n, err)
		}
		s.do = nil
		pass(t, r)
		if states() != "sent 1, failed 1" || s.first() != 4 {
			t.Errorf("%s, sent %d times", states(), s.first())
		}
	})
	t.Run("no other one can", func(t *testing.T) {
		_, err := outbox.Requeue(t.Context(), db, "n0001")
		if fault.Of(err) != fault.Conflict || !strings.Contains(err.Error(), "is sent; only a dead one") {
			t.Error(err)
		}
		if _, err = outbox.Requeue(t.Context(), db, "none"); fault.Of(err) != fault.NotFound {
			t.Error(err)
		}
	})
}

// A replica that is killed between its claim and its result says nothing more.
func TestKilledInTheMiddle(t *testing.T) {
	t.Parallel()
	db := prepared(t)
	queue(t, db, "n", "chn_a", 1)
	begun, killed := make(chan struct{}), make(chan struct{})
	s := &sink{do: func(context.Context, *outbox.Delivery) (time.Duration, error) {
		close(begun)
		<-killed
		return 0, nil
	}}
	first := newRunner(db, "first", s)
	over := make(chan struct{})
	go func() { defer close(over); pass(t, first) }()
	<-begun
	t.Run("keeps it from the others until its lease runs out", func(t *testing.T) {
		second := newRunner(db, "second", &sink{})
		pass(t, second)
		if n, err := second.Reclaim(t.Context()); n != 0 || err != nil {
			t.Errorf("%d were taken (%v)", n, err)
		}
	})
	exec(t, db, `update notifications set leased_until = clock_timestamp() - interval '1 ms'`)
	other := &sink{}
	t.Run("and then it is sent again under the same key", func(t *testing.T) {
		second := newRunner(db, "second", other)
		pass(t, second)
		if other.first() != 0 {
			t.Error("it was taken before it was queued again")
		}
		if n, err := second.Reclaim(t.Context()); n != 1 || err != nil {
			t.Errorf("%d were taken (%v)", n, err)
		}
		pass(t, second)
		if other.first() != 1 || s.first() != 1 {
			t.Error("it was not sent again")
		}
	})
	close(killed)
	<-over
	t.Run("what the first one says after that does not land", func(t *testing.T) {
		if n, err := outbox.ByID(t.Context(), db, "n0001"); err != nil || n.Holder != "second" || n.State != "sent" || n.Attempts != 2 {
			t.Errorf("it is %+v (%v)", n, err)
		}
		if outcomes(t, first) != "lost 1" {
			t.Errorf("it counts %s", outcomes(t, first))
		}
	})
}

func TestLeaseThatRanOut(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		err  error
	}{
		{"keeps success from being written", nil},
		{"keeps failure from being written", fault.New(fault.Unavailable, "down")},
		{"keeps a refusal from being written", fault.New(fault.Invalid, "no")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			db := prepared(t)
			queue(t, db, "n", "chn_a", 1)
			s := &sink{do: func(ctx context.Context, _ *outbox.Delivery) (time.Duration, error) {
				_, err := db.Exec(ctx, `update notifications set leased_until = clock_timestamp() - interval '1 ms'`)
				return 0, errors.Join(err, tt.err)
			}}
			r := newRunner(db, "one", s)
			pass(t, r)
			if got := one[string](t, db, `select state from notifications`); got != "sending" || outcomes(t, r) != "lost 1" || len(all[string](t, db, `select id from graves`)) != 0 {
				t.Errorf("it is %s, counted as %s", got, outcomes(t, r))
			}
		})
	}
	t.Run("keeps a send from being begun by a process that was frozen", func(t *testing.T) {
		t.Parallel()
		db := prepared(t)
		queue(t, db, "n", "chn_a", 3)
		s := &sink{}
		r := newRunner(db, "one", s)
		r.Lease = 400 * time.Millisecond
		claimed, err := r.Claim(t.Context(), 3)
		if err != nil || len(claimed) != 3 {
			t.Fatalf("%d are claimed (%v)", len(claimed), err)
		}
		r.Attempt(t.Context(), claimed[0])
		<-time.After(r.Lease) // frozen
		r.Attempt(t.Context(), claimed[1])
		r.Attempt(t.Context(), claimed[2])
		if len(s.sent) != 1 || outcomes(t, r) != "lost 2, sent 1" {
			t.Errorf("sent are %v, counted as %s", s.sent, outcomes(t, r))
		}
	})
	t.Run("gives up what has no attempt left", func(t *testing.T) {
		t.Parallel()
		db := prepared(t)
		queue(t, db, "n", "chn_a", 2)
		exec(t, db, `update notifications set token = 9, attempts = case id when 'n0001' then 2 else 3 end, state = 'sending', leased_until = clock_timestamp()`)
		r := newRunner(db, "one", &sink{})
		if n, err := r.Reclaim(t.Context()); n != 2 || err != nil {
			t.Errorf("%d were taken (%v)", n, err)
		}
		got := all[string](t, db, `select state from notifications order by id`)
		if graves := all[string](t, db, `select id || ': ' || error from graves`); !slices.Equal(got, []string{"pending", "dead"}) ||
			!slices.Equal(graves, []string{"n0002: the replica that sent it stopped answering"}) || outcomes(t, r) != "dead 1" {
			t.Errorf("they are %q, given up are %q, counted as %s", got, graves, outcomes(t, r))
		}
	})
}

func TestSlowChannelLeavesRoomForTheOthers(t *testing.T) {
	t.Parallel()
	db := prepared(t)
	queue(t, db, "slow", "chn_a", 20)
	queue(t, db, "quick", "chn_b", 20)
	exec(t, db, `update notifications set due_at = due_at - interval '1 hour' where channel_id = 'chn_a'`)
	release := make(chan struct{})
	var at, most atomic.Int64
	s := &sink{do: func(_ context.Context, d *outbox.Delivery) (time.Duration, error) {
		if d.ChannelID == "chn_a" {
			most.Store(max(most.Load(), at.Add(1)))
			<-release
			at.Add(-1)
		}
		return 0, nil
	}}
	r := newRunner(db, "one", s)
	over := make(chan struct{})
	go func() { defer close(over); pass(t, r) }()
	pgtest.Eventually(t, "the quick channel is done", func() bool {
		return one[int](t, db, `select count(*) from notifications where channel_id = 'chn_b' and state = 'sent'`) == 20
	})
	if n := one[int](t, db, `select count(*) from notifications where channel_id = 'chn_a' and state = 'sending'`); n != r.PerChannel {
		t.Errorf("%d are claimed for the slow one", n)
	}
	close(release)
	<-over
	if n := one[int](t, db, `select count(*) from notifications where state = 'sent'`); n != 40 || most.Load() != int64(r.PerChannel) {
		t.Errorf("%d are sent, at most %d at once through one channel", n, most.Load())
	}
}

func TestPassClaimsNoMoreThanItSends(t *testing.T) {
	t.Parallel()
	db := prepared(t)
	for _, c := range []string{"a", "b", "c"} {
		queue(t, db, c, "chn_"+c, 10)
	}
	var at, most atomic.Int64
	gate := make(chan struct{})
	s := &sink{do: func(context.Context, *outbox.Delivery) (time.Duration, error) {
		most.Store(max(most.Load(), at.Add(1)))
		<-gate
		at.Add(-1)
		return 0, nil
	}}
	r := newRunner(db, "one", s)
	r.Concurrency = 6
	over := make(chan struct{})
	go func() { defer close(over); pass(t, r) }()
	pgtest.Eventually(t, "all places are taken", func() bool { return at.Load() == 6 })
	if n := one[int](t, db, `select count(*) from notifications where state = 'sending'`); n != 6 {
		t.Errorf("%d are claimed", n)
	}
	close(gate)
	<-over
	if most.Load() > 6 {
		t.Errorf("%d were sent at once", most.Load())
	}
}

func TestChannelThatIsGoneOrNotEnabled(t *testing.T) {
	t.Parallel()
	db := prepared(t)
	queue(t, db, "gone", "chn_none", 1)
	queue(t, db, "off", "chn_b", 1)
	exec(t, db, `update channels set enabled = false where id = 'chn_b'`)
	s := &sink{}
	r := newRunner(db, "one", s)
	age, err := outbox.QueueAge(t.Context(), db)
	if err != nil || age != 0 {
		t.Errorf("the queue is %s old (%v)", age, err)
	}
	pass(t, r)
	if n, err := r.Reclaim(t.Context()); n != 1 || err != nil {
		t.Errorf("%d were taken (%v)", n, err)
	}
	got := all[string](t, db, `select state || ' ' || error from notifications order by id`)
	if !slices.Equal(got, []string{"dead the channel was deleted", "pending "}) || len(s.sent) != 0 {
		t.Errorf("they are %q, sent are %v", got, s.sent)
	}
	if graves := all[string](t, db, `select id from graves`); !slices.Equal(graves, []string{"gone0001"}) {
		t.Errorf("given up are %q", graves)
	}
	_, err = outbox.Requeue(t.Context(), db, "gone0001")
	if fault.Of(err) != fault.Conflict || !strings.Contains(err.Error(), "channel of the notification was deleted") {
		t.Error(err)
	}
	exec(t, db, `update channels set enabled = true, revision = 5, settings = '\x07' where id = 'chn_b'; update notifications set due_at = now() - interval '1 hour' where state = 'pending'`)
	if age, err := outbox.QueueAge(t.Context(), db); err != nil || age < time.Hour {
		t.Errorf("the queue is %s old (%v)", age, err)
	}
	s.do = func(_ context.Context, d *outbox.Delivery) (time.Duration, error) {
		if d.ChannelRevision != 5 || d.ChannelType != "fake" || string(d.ChannelSettings) != "\x07" || string(d.Data) != `{"a": 1}` || !slices.Equal(d.Recipients, []string{"a@example.com"}) {
			return 0, fmt.Errorf("it is %+v", d)
		}
		return 0, nil
	}
	pass(t, r)
	if got := one[string](t, db, `select state from notifications where channel_id = 'chn_b'`); got != "sent" {
		t.Errorf("once the channel is enabled it is %s", got)
	}
}

func TestStop(t *testing.T) {
	t.Parallel()
	t.Run("lets what is under way end, and begins nothing", func(t *testing.T) {
		t.Parallel()
		db := prepared(t)
		queue(t, db, "n", "chn_a", 9)
		stopping := make(chan struct{})
		var once sync.Once
		s := &sink{do: func(context.Context, *outbox.Delivery) (time.Duration, error) {
			once.Do(func() { close(stopping) })
			<-stopping
			return 0, nil
		}}
		r := newRunner(db, "one", s)
		n, err := r.Pass(t.Context(), stopping)
		if err != nil || n != r.PerChannel || outcomes(t, r) != "sent 4" {
			t.Errorf("%d were sent (%v), counted as %s", n, err, outcomes(t, r))
		}
	})
	t.Run("gives back what is cut off, and does not count the attempt", func(t *testing.T) {
		t.Parallel()
		db := prepared(t)
		queue(t, db, "n", "chn_a", 1)
		ctx, cut := context.WithCancel(t.Context())
		s := &sink{do: func(ctx context.Context, _ *outbox.Delivery) (time.Duration, error) {
			cut()
			<-ctx.Done()
			return 0, ctx.Err()
		}}
		r := newRunner(db, "one", s)
		if _, err := r.Pass(ctx, nil); err != nil {
			t.Error(err)
		}
		if n, err := outbox.ByID(t.Context(), db, "n0001"); err != nil || n.State != "pending" || n.Attempts != 0 || outcomes(t, r) != "later 1" {
			t.Errorf("it is %+v (%v), counted as %s", n, err, outcomes(t, r))
		}
	})
}

func TestWake(t *testing.T) {
	t.Parallel()
	db := prepared(t)
	r := newRunner(db, "one", &sink{})
	select {
	case <-r.Woken():
		t.Error("it is woken by nothing")
	default:
	}
	r.Wake()
	r.Wake()
	<-r.Woken()
	// A pass that is busy looks at once.
	queue(t, db, "first", "chn_a", 1)
	r.Send = func(_ context.Context, d *outbox.Delivery) (outbox.Reply, error) {
		if d.ID == "first0001" {
			queue(t, db, "second", "chn_b", 1)
			r.Wake()
			pgtest.Eventually(t, "the second is sent", func() bool {
				return one[int](t, db, `select count(*) from notifications where state = 'sent'`) == 1
			})
		}
		return outbox.Reply{}, nil
	}
	pass(t, r)
}

// Some of several recipients can have it where others have not.
func TestPartlyDelivered(t *testing.T) {
	t.Parallel()
	db := prepared(t)
	queue(t, db, "n", "chn_a", 1)
	var had [][]string
	for _, step := range []struct {
		reply outbox.Reply
		err   error
		want  string // state, error, who has it
	}{
		{outbox.Reply{Done: []string{"a@x"}, Partly: true}, fault.New(fault.Unavailable, "b is full"), "failed, b is full, a@x"},
		{outbox.Reply{}, fault.New(fault.Unavailable, "down"), "failed, down, a@x"},
		{outbox.Reply{Done: []string{"b@x"}, Partly: true}, fault.New(fault.Conflict, "c is nobody"), "sent, c is nobody, a@x b@x"},
	} {
		r := newRunner(db, "one", &sink{})
		r.Send = func(_ context.Context, d *outbox.Delivery) (outbox.Reply, error) {
			had = append(had, d.Delivered)
			return step.reply, step.err
		}
		exec(t, db, `update notifications set due_at = now() - interval '1 second'`)
		if _, err := outbox.Retry(t.Context(), db); err != nil {
			t.Fatal(err)
		}
		pass(t, r)
		if got := one[string](t, db, `select concat_ws(', ', state, error, array_to_string(delivered, ' ')) from notifications`); got != step.want {
			t.Errorf("it is %q, want %q", got, step.want)
		}
	}
	if got := fmt.Sprint(had); got != "[[] [a@x] [a@x]]" {
		t.Errorf("those who had it before each attempt were %s", got)
	}
	if graves := all[string](t, db, `select error from graves`); len(graves) != 0 {
		t.Errorf("of those that were given up there are %q", graves)
	}
}

// Another build may know what this one does not.
func TestWhatThisBuildCannotSendIsLeftAlone(t *testing.T) {
	t.Parallel()
	db := prepared(t)
	queue(t, db, "type", "chn_a", 1)
	queue(t, db, "event", "chn_b", 1)
	queue(t, db, "known", "chn_b", 1)
	exec(t, db, `
		update channels set type = 'of another build' where id = 'chn_a';
		update notifications set event = 'of another build', due_at = now() - interval '1 hour' where id like 'event%'`)
	s := &sink{}
	pass(t, newRunner(db, "one", s))
	if got := all[string](t, db, `select id || ' ' || state || ' ' || token from notifications order by id`); !slices.Equal(got, []string{"event0001 pending 0", "known0001 sent 1", "type0001 pending 0"}) || len(s.sent) != 1 {
		t.Errorf("they are %q, sent are %v", got, s.sent)
	}
}
