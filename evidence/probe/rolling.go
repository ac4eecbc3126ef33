package probe

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/evidence"
	"certctl/evidence/lab"
	"certctl/server/api"
	"certctl/server/client"
	"certctl/server/config"
)

// rollingProbe is the experiment with replicas that are restarted under load.
var rollingProbe = Probe{
	Of: evidence.RestartsUnseen, Needs: []Need{Processes}, Look: lookRolling, Make: own,
	Controls: []Defect{{
		Says:     "a replica that was told to stop refuses connections before the proxy can know",
		Turns:    func(api.Declared) []string { return []string{evidence.FailedRequests} },
		Settings: map[string]string{config.ShutdownDelay.Name: "0s"},
	}},
}

// rolling are the settings of replicas that are restarted: a delay of several
// times that in which the proxy asks.
var rolling = map[string]string{
	config.ShutdownDelay.Name:   (4 * asking).String(),
	config.ShutdownTimeout.Name: "10s",
}

// asking is how often the proxy asks which replicas are ready.
const asking = 150 * time.Millisecond

// The load: so many clients that keep their connection and as many that make a new
// one for each request, each of which sends a request every so often.
const (
	loading = 2
	pause   = 20 * time.Millisecond
)

// a roll is replicas behind a proxy.
type roll struct {
	*Site
	url   string
	proxy *lab.Proxy
	key   string

	mu       sync.Mutex
	replicas []*lab.Replica
	seen     evidence.RollingSeen
	acked    []string // names of what was made

	asked chan int // after each round of asking, how many are ready
}

func lookRolling(ctx context.Context, s *Site) (_ any, err error) {
	r := &roll{Site: s, asked: make(chan int), seen: evidence.RollingSeen{Planned: s.times(1, 2*threeOfThem), Errors: []string{}}}
	defer func() {
		for _, one := range r.replicas {
			err = errors.Join(err, one.Kill())
		}
	}()
	if err := r.start(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.proxy.Close()) }()
	work, stop := context.WithCancel(ctx)
	var workers sync.WaitGroup
	defer workers.Wait()
	defer stop()
	workers.Go(func() { r.balance(work) })
	if err := r.ready(ctx); err != nil {
		return nil, err
	}
	load, enough := context.WithCancel(ctx)
	var loaded sync.WaitGroup
	for i := range 2 * loading {
		c, err := r.client(i%2 == 0)
		if err != nil {
			enough()
			return nil, err
		}
		loaded.Go(func() { r.load(ctx, load, c, i) })
	}
	for i := range r.seen.Planned {
		if err = r.restart(ctx, i%threeOfThem); err != nil {
			break
		}
	}
	if err == nil {
		_, err = eventually(5*patience, r.loaded)
	}
	enough()
	loaded.Wait()
	if err != nil {
		return nil, err
	}
	return r.seen, r.lost(ctx)
}

func (r *roll) start(ctx context.Context) (err error) {
	if r.url, err = r.Lab.Database(ctx); err != nil {
		return err
	}
	if err := r.Lab.Migrate(ctx, r.url); err != nil {
		return err
	}
	if err := r.on(r.url).alter(ctx, r.Altered); err != nil {
		return err
	}
	for range threeOfThem {
		one, err := r.server(ctx)
		if err != nil {
			return err
		}
		r.replicas = append(r.replicas, one)
	}
	c, err := r.replicas[0].Client("")
	if err != nil {
		return err
	}
	first := &api.NewBootstrap{}
	first.Body.Name, first.Body.Token = "administrator", r.Lab.BootstrapToken()
	admin, err := client.Do(ctx, c, api.Bootstrap, first)
	if err != nil {
		return err
	}
	c.HTTP.CloseIdleConnections()
	r.key = admin.Secret
	r.proxy, err = lab.NewProxy(ctx)
	return err
}

func (r *roll) server(ctx context.Context) (*lab.Replica, error) {
	settings := maps.Clone(rolling)
	maps.Copy(settings, r.With)
	one, err := r.Lab.Server(ctx, r.url, settings)
	if err == nil {
		r.seen.PIDs = append(r.seen.PIDs, one.Process.Pid)
	}
	return one, err
}

// client is a client behind the proxy, that keeps its connection or makes a new one
// for each request. What is refused is not tried again.
func (r *roll) client(keeps bool) (*client.Client, error) {
	c, err := r.Lab.Client(r.proxy.Address(), r.key)
	if err != nil {
		return nil, err
	}
	c.Patience = 0
	c.HTTP.Transport.(*http.Transport).DisableKeepAlives = !keeps //nolint:forcetypeassert // client.New makes one
	return c, nil
}

// balance has the proxy use the replicas that say that they are ready.
func (r *roll) balance(ctx context.Context) {
	for {
		r.mu.Lock()
		all := slices.Clone(r.replicas)
		r.mu.Unlock()
		var ready []string
		for _, one := range all {
			if r.answers(ctx, one) {
				ready = append(ready, one.Address())
			}
		}
		r.proxy.Use(ready...)
		select {
		case r.asked <- len(ready):
		default:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(asking):
		}
	}
}

func (r *roll) answers(ctx context.Context, one *lab.Replica) bool {
	ctx, cancel := context.WithTimeout(ctx, asking)
	defer cancel()
	c, err := one.Client("")
	if err != nil {
		return false
	}
	defer c.HTTP.CloseIdleConnections()
	c.Patience = 0
	_, err = client.Do(ctx, c, api.Readyz, &api.Empty{})
	return err == nil
}

// ready waits until the proxy uses all replicas, which it has just asked.
func (r *roll) ready(ctx context.Context) error {
	for end := time.After(10 * patience); ; {
		select {
		case n := <-r.asked:
			if n == threeOfThem {
				return nil
			}
		case <-end:
			return errors.New("not every replica is ready")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// restart stops a replica, and starts another in its place.
func (r *roll) restart(ctx context.Context, i int) error {
	if err := r.ready(ctx); err != nil {
		return err
	}
	if err := r.replicas[i].Stop(); err != nil {
		return err
	}
	one, err := r.server(ctx)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.replicas[i] = one
	r.mu.Unlock()
	if err := r.ready(ctx); err != nil {
		return err
	}
	r.seen.Restarts++
	return nil
}

// loaded reports whether there was a load to speak of.
func (r *roll) loaded() (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen.Reads >= evidence.LeastReads && r.seen.Writes >= evidence.LeastWrites, nil
}

// load sends requests until it is enough; the last one is waited for.
func (r *roll) load(ctx, enough context.Context, c *client.Client, nth int) {
	defer c.HTTP.CloseIdleConnections()
	for i := 0; ; i++ {
		select {
		case <-enough.Done():
			return
		case <-time.After(pause):
		}
		var err error
		if i%3 > 0 {
			_, err = client.Do(ctx, c, api.ListTeams, &api.ByName{Limit: 10})
			r.note(err, "")
			continue
		}
		in := &api.NewTeam{}
		in.Body.Name = fmt.Sprintf("team %d of client %d", i, nth)
		_, err = client.Do(ctx, c, api.CreateTeam, in)
		r.note(err, in.Body.Name)
	}
}

// note counts a request, of which something was made if it has a name.
func (r *roll) note(err error, made string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err != nil:
		r.seen.Failed++
		if len(r.seen.Errors) < 5 {
			r.seen.Errors = append(r.seen.Errors, err.Error())
		}
	case made != "":
		r.seen.Writes++
		r.acked = append(r.acked, made)
	default:
		r.seen.Reads++
	}
}

// lost counts acknowledged writes that are not there.
func (r *roll) lost(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, r.url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return conn.QueryRow(ctx, `
		select count(*) from unnest($1::text[]) made (name) where not exists (select from teams where teams.name = made.name)`, r.acked).Scan(&r.seen.Lost)
}
