package probe

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"certctl/evidence"
	"certctl/evidence/lab"
	"certctl/server/api"
	"certctl/server/audit"
	"certctl/server/config"
	"certctl/server/defect"
	"certctl/server/schedule"
	"certctl/server/seal"
)

// leasesProbe is the experiment with holders of a loop.
var leasesProbe = Probe{
	Of: evidence.LeasesFence, Needs: []Need{Processes}, Look: lookFences, Make: own,
	Controls: []Defect{
		{
			Says:   "a pass writes, whoever has taken its lease",
			Turns:  func(api.Declared) []string { return []string{evidence.UnfencedWrites} },
			Switch: defect.UnfencedLoop,
		},
		{
			Says:     "a lease outlives its holder by more than 3 s",
			Turns:    func(api.Declared) []string { return []string{evidence.AfterDeath} },
			Settings: map[string]string{config.LeaseTTL.Name: "5s"},
		},
	},
}

// leasing are settings under which there is always a pass to come.
var leasing = map[string]string{
	config.LeaseTTL.Name:           "2s",
	config.AuditSequenceEvery.Name: "50ms",
	config.ShutdownTimeout.Name:    "5s",
}

// A pass writes so many events in a transaction, and goes on if there are more.
const (
	written = 1000
	waiting = 2*written + written/2 // so that it goes on
)

func lookFences(ctx context.Context, s *Site) (any, error) {
	// Taking costs a tenth of a second; the others cost a lease.
	plan := map[string]map[string]int{
		evidence.Directly: {evidence.ByTaking: s.times(3, 470), evidence.ByKilling: s.times(1, 10), evidence.ByFreezing: s.times(0, 10), evidence.ByStopping: s.times(0, 10)},
		evidence.Pooled:   {evidence.ByTaking: s.times(3, 470), evidence.ByKilling: s.times(0, 10), evidence.ByFreezing: s.times(1, 10), evidence.ByStopping: s.times(0, 10)},
	}
	ways := []string{evidence.Directly, evidence.Pooled}
	seen := evidence.FencesSeen{Ways: make([]evidence.FencedSeen, len(ways))}
	errs := make([]error, len(ways))
	var wg sync.WaitGroup
	for i, way := range ways {
		wg.Go(func() { seen.Ways[i], errs[i] = s.fences(ctx, way, plan[way]) })
	}
	wg.Wait()
	return seen, errors.Join(errs...)
}

// holders are three replicas on a database whose loop is taken from them.
type holders struct {
	*Site
	seen     evidence.FencedSeen
	url      string // of the database, directly
	through  string // which replicas use
	conn     *pgx.Conn
	chance   *rand.Rand
	replicas map[string]*lab.Replica
	stocked  int64 // events that there are to write
}

// fences changes the holder as planned, in an order left to chance.
func (s *Site) fences(ctx context.Context, way string, planned map[string]int) (seen evidence.FencedSeen, err error) {
	h := &holders{Site: s, chance: s.chance("leases " + way), replicas: map[string]*lab.Replica{}}
	h.seen = evidence.FencedSeen{Way: way, Planned: planned, Forced: map[string]int{}, Unfenced: []string{}}
	defer func() {
		for _, r := range h.replicas {
			err = errors.Join(err, r.Kill())
		}
	}()
	if err := h.start(ctx); err != nil {
		return h.seen, err
	}
	defer h.conn.Close(ctx)
	var changes []string
	for _, by := range evidence.ChangesOfHolder {
		changes = append(changes, slices.Repeat([]string{by}, planned[by])...)
	}
	h.chance.Shuffle(len(changes), func(i, j int) { changes[i], changes[j] = changes[j], changes[i] })
	for _, by := range changes {
		if err := h.change(ctx, by); err != nil {
			return h.seen, fmt.Errorf("%s, %s: %w", way, by, err)
		}
	}
	return h.seen, h.count(ctx)
}

func (h *holders) start(ctx context.Context) (err error) {
	if h.url, err = h.Lab.Database(ctx); err != nil {
		return err
	}
	if err := h.Lab.Migrate(ctx, h.url); err != nil {
		return err
	}
	if err := h.on(h.url).alter(ctx, h.Altered+`; create table taken (token bigint primary key, size bigint not null)`); err != nil {
		return err
	}
	h.through = h.url
	if h.seen.Way == evidence.Pooled {
		if h.through, err = h.Lab.Pooled(ctx, h.url); err != nil {
			return err
		}
	}
	if h.conn, err = pgx.Connect(ctx, h.url); err != nil {
		return err
	}
	for range threeOfThem {
		if err := h.add(ctx); err != nil {
			return errors.Join(err, h.conn.Close(ctx))
		}
	}
	return nil
}

func (h *holders) add(ctx context.Context) error {
	settings := maps.Clone(leasing)
	if h.through != h.url {
		maps.Copy(settings, lab.Direct(h.url))
	}
	maps.Copy(settings, h.With)
	r, err := h.Lab.Server(ctx, h.through, settings)
	if err != nil {
		return err
	}
	h.replicas[r.Name] = r
	h.seen.PIDs = append(h.seen.PIDs, r.Process.Pid)
	return nil
}

// stock has a pass find work for several transactions.
func (h *holders) stock(ctx context.Context) error {
	left, err := h.left(ctx)
	if err != nil || left >= waiting {
		return err
	}
	n := waiting - left
	h.stocked += n
	_, err = h.conn.Exec(ctx, `
		with e as (
			insert into audit_events (actor_kind, actor_id, actor_name, action, resource_kind, resource_id, details, request_id, replica)
			select 'server', 'laboratory', 'laboratory', $1, '', '', '{}', '', '' from generate_series(1, $2) returning id)
		insert into audit_queue select id from e`, audit.ServerStarted.Name, n)
	return err
}

// left is how many events at least wait for the log.
func (h *holders) left(ctx context.Context) (n int64, err error) {
	err = h.conn.QueryRow(ctx, `select $1 - coalesce(max(size), 0) from audit_checkpoints`, h.stocked).Scan(&n)
	return n, err
}

// by is who takes a lease by hand.
const byHand = "laboratory"

// holding waits until a replica writes under the lease.
func (h *holders) holding(ctx context.Context) (r *lab.Replica, token int64, at time.Time, err error) {
	held := func() (bool, error) {
		var name string
		err := h.conn.QueryRow(ctx, `
			select holder, token, clock_timestamp() from leases where name = $1 and expires_at > clock_timestamp()`,
			schedule.AuditSequence.Name).Scan(&name, &token, &at)
		if errors.Is(err, pgx.ErrNoRows) {
			return false, nil
		}
		r = h.replicas[name]
		return r != nil, err
	}
	err = soon(ctx, 2*time.Millisecond, "no replica holds the loop", held)
	return r, token, at, err
}

// soon asks every so often until the answer is yes, and fails if it does not come.
func soon(ctx context.Context, every time.Duration, otherwise string, ask func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*patience, errors.New(otherwise))
	defer cancel()
	for {
		if yes, err := ask(); yes || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(every):
		}
	}
}

func (h *holders) change(ctx context.Context, by string) error {
	for {
		if err := h.stock(ctx); err != nil {
			return err
		}
		r, token, at, err := h.holding(ctx)
		if err != nil {
			return err
		}
		if by == evidence.ByTaking {
			taken, err := h.take(ctx)
			if err != nil {
				return err
			}
			if !taken {
				continue // the pass was over
			}
		} else if err := h.fault(ctx, by, r, token, at); err != nil {
			return err
		}
		h.seen.Forced[by]++
		return nil
	}
}

// take takes the lease by hand, as a takeover does: for update, which waits for a
// fenced transaction. It takes none whose pass has no more to write.
func (h *holders) take(ctx context.Context) (taken bool, err error) {
	time.Sleep(time.Duration(h.chance.Int64N(int64(20 * time.Millisecond)))) // somewhere in the pass
	err = pgx.BeginFunc(ctx, h.conn, func(tx pgx.Tx) error {
		var token int64
		err := tx.QueryRow(ctx, `
			select token from leases where name = $1 and expires_at > clock_timestamp() and holder <> $2 for update`,
			schedule.AuditSequence.Name, byHand).Scan(&token)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `
			insert into taken select $1, size from (select coalesce(max(size), 0) as size from audit_checkpoints) c where $2 - size > $3`,
			token, h.stocked, written)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		taken = true
		_, err = tx.Exec(ctx, `
			update leases set token = token + 1, holder = $2, expires_at = clock_timestamp() + interval '30 milliseconds' where name = $1`,
			schedule.AuditSequence.Name, byHand)
		return err
	})
	return taken && err == nil, err
}

// fault does something to the process of the holder, and waits for another's pass.
func (h *holders) fault(ctx context.Context, by string, r *lab.Replica, token int64, at time.Time) error {
	var ended chan error
	switch by {
	case evidence.ByKilling:
		if err := r.Kill(); err != nil {
			return err
		}
	case evidence.ByFreezing:
		if err := r.Freeze(); err != nil {
			return err
		}
	case evidence.ByStopping:
		ended = make(chan error, 1)
		go func() { ended <- r.Stop() }()
	}
	var began *time.Time
	another := func() (bool, error) {
		err := h.conn.QueryRow(ctx, `
			select min(started_at) from loop_runs where loop = $1 and token > $2 and replica <> $3`,
			schedule.AuditSequence.Name, token, r.Name).Scan(&began)
		return began != nil, err
	}
	if err := soon(ctx, 20*time.Millisecond, "no other replica goes on", another); err != nil {
		return err
	}
	took := began.Sub(at).Milliseconds()
	switch by {
	case evidence.ByFreezing:
		return r.Thaw()
	case evidence.ByKilling:
		h.seen.Deaths = append(h.seen.Deaths, took)
	case evidence.ByStopping:
		h.seen.Stops = append(h.seen.Stops, took)
		if err := <-ended; err != nil {
			return err
		}
	}
	delete(h.replicas, r.Name)
	if h.Quick {
		return nil // the others are enough for the rest
	}
	return h.add(ctx)
}

// count looks at what was written, once all of it was.
func (h *holders) count(ctx context.Context) error {
	if err := soon(ctx, 20*time.Millisecond, "the queue does not drain", func() (bool, error) {
		left, err := h.left(ctx)
		return left <= 0, err
	}); err != nil {
		return err
	}
	rows, _ := h.conn.Query(ctx, `
		select format('token %s at size %s', token, size) from (
			select c.token, c.size, t.size < c.size as later, c.token < max(c.token) over (order by c.size) as older
			from audit_checkpoints c left join taken t using (token)) w
		where later or older order by size`)
	unfenced, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	h.seen.Unfenced = append(h.seen.Unfenced, unfenced...)
	if err := h.conn.QueryRow(ctx, `
		select count(*), count(distinct r.replica) from audit_checkpoints c
		join loop_runs r on r.loop = $1 and r.token = c.token`, schedule.AuditSequence.Name).Scan(&h.seen.Writes, &h.seen.Replicas); err != nil {
		return err
	}
	for _, r := range h.replicas { // what they would go on writing is no part of it
		if err := r.Kill(); err != nil {
			return err
		}
	}
	return h.verify(ctx)
}

// verify has the log recomputed.
func (h *holders) verify(ctx context.Context) error {
	pool, err := pgxpool.New(ctx, h.url)
	if err != nil {
		return err
	}
	defer pool.Close()
	box, err := seal.New(h.Lab.Secrets(h.url)[config.EncryptionKey.Name])
	if err != nil {
		return err
	}
	log, err := audit.OpenExisting(ctx, pool, box)
	if err != nil {
		return err
	}
	report, err := log.Verify(ctx, pool, audit.Options{})
	if err == nil && !report.Intact() {
		h.seen.Log = report.String()
	}
	return err
}
