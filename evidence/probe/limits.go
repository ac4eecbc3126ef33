package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"certctl/evidence"
	"certctl/evidence/lab"
	"certctl/server/api"
	"certctl/server/client"
	"certctl/server/config"
	"certctl/server/limit"
	"certctl/server/perm"
	"certctl/server/web"
)

// Each limit is tried with a cap that is soon used up and hardly comes back.
const (
	hardlyEver  = "0.001" // a second
	sometime    = "0.5"   // a second
	few         = 5
	atOnce      = 8 // connections to a replica, for each caller
	threeOfThem = 3
)

// limitProbes are the experiments with limits.
var limitProbes = []Probe{
	{
		Of: evidence.CapIsTheClusters, Needs: []Need{Processes}, Look: lookCaps(limit.Cluster), Make: own,
		Controls: []Defect{
			{
				Says:     "each replica has buckets of its own in its memory",
				Turns:    each(evidence.AtThree, evidence.Restarted),
				Settings: map[string]string{config.RateLimitScope.Name: limit.Memory.Name},
			},
			{
				Says:  "the database admits one more than the cap",
				Turns: each(evidence.AtOne, evidence.AtThree),
				SQL:   always(took(`bucket`, `cap + 1`, ``)),
			},
		},
	},
	{
		Of: evidence.CapIsEachReplicas, Needs: []Need{Processes}, Look: lookCaps(limit.Memory), Make: own,
		Controls: []Defect{{
			Says:     "the replicas share the buckets",
			Turns:    each(evidence.AtThree, evidence.Restarted),
			Settings: map[string]string{config.RateLimitScope.Name: limit.Cluster.Name},
		}},
	},
	{
		Of: evidence.KeysAreKnown, Needs: []Need{Processes}, Look: lookKeys, Make: own,
		Controls: []Defect{
			{
				Says:     "the server trusts whoever writes a header",
				Turns:    turned(limit.Address, evidence.ByHeader),
				Settings: map[string]string{config.TrustedProxies.Name: "127.0.0.0/8"},
			},
			{
				Says: "the database puts all keys into one bucket",
				Turns: func(d api.Declared) []string {
					return append(turned(limit.Address, evidence.ByAddress)(d), turned(limit.Actor, evidence.ByKey)(d)...)
				},
				SQL: always(took(`'everybody'`, `cap`, ``)),
			},
		},
	},
	{
		Of: evidence.LimitsAreApart, Needs: []Need{Processes}, Look: lookIsolation, Make: own,
		Controls: []Defect{{
			Says: "a decision of one limit uses up the buckets that others have for the same key",
			Turns: func(d api.Declared) []string {
				names := []string{evidence.Apart(limit.CertExport.Name, limit.HTTPActor.Name)}
				for _, l := range d.Limits { // the way to each of them leads past the address
					if l.Name != limit.BootstrapAttempts.Name {
						names = append(names, evidence.Apart(limit.BootstrapAttempts.Name, l.Name))
					}
				}
				return names
			},
			SQL: always(took(`bucket`, `cap`, `
				update rate_limits r set state[8] = r.state[8] * 2
				where r.key = bucket and r.name in ('`+limit.HTTPAddress.Name+`', '`+limit.HTTPActor.Name+`') and r.name <> limit_name;`)),
		}},
	},
	{
		Of: evidence.WaitIsTold, Needs: []Need{Processes}, Look: lookWaits, Make: own,
		Controls: []Defect{{
			Says:  "half of the time is told",
			Turns: each(evidence.InTime),
			SQL:   always(took(`bucket`, `cap`, `state[4] := state[4] / 2;`)),
		}},
	},
}

// own is a site whose servers the probe starts, on databases that it alters. Each
// experiment is done once there: one fault shows what is wrong.
func own(_ context.Context, base *Site, d Defect) (*Site, func() error, error) {
	s := *base
	s.With, s.Altered, s.Quick = d.settings(), d.sql(base.Declared), true
	return &s, nothing, nil
}

// each are the checks of every limit.
func each(checks ...func(string) string) func(api.Declared) []string {
	return func(d api.Declared) (names []string) {
		for _, l := range d.Limits {
			for _, c := range checks {
				names = append(names, c(l.Name))
			}
		}
		return names
	}
}

func turned(k *limit.Key, differs string) func(api.Declared) []string {
	return func(d api.Declared) (names []string) {
		for _, l := range d.Limits {
			if l.Key == k.Name {
				names = append(names, evidence.Turned(l.Name, differs))
			}
		}
		return names
	}
}

// took alters what a decision comes to: for whom it is, by what cap, and what is
// done with it.
func took(bucket, most, then string) string {
	const parameters = `limit_name text, bucket text, asked bigint, cap bigint, per bigint, sliding boolean, durable boolean`
	return `
		alter function rate_limit_take rename to took;
		create function rate_limit_take(` + parameters + `) returns bigint[] language plpgsql as $$
		declare
			state bigint[] := took(limit_name, ` + bucket + `, asked, ` + most + `, per, sliding, durable);
		begin
			` + then + `
			return state;
		end $$`
}

// A trial is a cluster whose limits are tried.
type trial struct {
	lab      *lab.Lab
	url      string
	with     map[string]string
	apart    time.Duration
	replicas []*lab.Replica

	keys        []api.KeySecret
	rotated     map[string]api.KeySecret // by the secret that the key had before, and still has
	certificate string
	subjects    int
}

// a subject is whom buckets are for.
type subject struct {
	address string
	key     api.KeySecret
}

// trial makes a database with keys, and a certificate to export.
func (s *Site) trial(ctx context.Context, keys int) (t *trial, err error) {
	t = &trial{lab: s.Lab, with: s.With, apart: s.Apart, rotated: map[string]api.KeySecret{}}
	if t.url, err = s.Lab.Database(ctx); err != nil {
		return nil, err
	}
	if err := s.Lab.Migrate(ctx, t.url); err != nil {
		return nil, err
	}
	r, err := s.Lab.Server(ctx, t.url, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Kill()) }()
	c, err := r.Client("")
	if err != nil {
		return nil, err
	}
	first := &api.NewBootstrap{}
	first.Body.Name, first.Body.Token = "administrator", s.Lab.BootstrapToken()
	admin, err := client.Do(ctx, c, api.Bootstrap, first)
	if err != nil {
		return nil, err
	}
	c = c.With(admin.Secret)
	request, err := lab.Estate(ctx, c, "exported", nil)
	if err != nil {
		return nil, err
	}
	in := &api.NewCertificate{Body: request}
	in.Body.Name, in.Body.SANs = "exported", []string{inside}
	made, err := client.Do(ctx, c, api.IssueCertificate, in)
	if err != nil {
		return nil, err
	}
	t.certificate = made.Certificate.ID
	for range keys {
		k, err := createKey(ctx, c, unique("limited"), perm.Viewer.Name)
		if err != nil {
			return nil, err
		}
		in := &api.Rotation{Body: &api.Grace{GraceSeconds: 3600}}
		in.ID = k.ID
		if t.rotated[k.Secret], err = client.Do(ctx, c, api.RotateKey, in); err != nil {
			return nil, err
		}
		t.keys = append(t.keys, k)
	}
	return t, s.on(t.url).alter(ctx, `delete from rate_limits; `+s.Altered)
}

// on is the site with another database.
func (s *Site) on(url string) *Site {
	other := *s
	other.Database = url
	return &other
}

// subject returns one whose buckets nobody has used.
func (t *trial) subject() subject {
	t.subjects++
	return subject{fmt.Sprintf("127.0.%d.%d", t.subjects/200, 2+t.subjects%200), t.keys[t.subjects%len(t.keys)]}
}

// start starts replicas that have one limit, and hardly another.
func (t *trial) start(ctx context.Context, n int, scope *limit.Scope, l *limit.Limit, most int, rate string) error {
	settings := map[string]string{config.RateLimitScope.Name: scope.Name, l.Cap.Name: strconv.Itoa(most)}
	for _, other := range limit.All() { // whose cap is far off
		if other.Rate != nil {
			settings[other.Rate.Name] = rate
		}
	}
	for name, value := range t.with {
		settings[name] = value
	}
	t.replicas = make([]*lab.Replica, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		own := maps.Clone(settings)
		if t.apart > 0 {
			own[lab.ClockOffset] = (time.Duration(i-1) * t.apart).String()
		}
		wg.Go(func() { t.replicas[i], errs[i] = t.lab.Server(ctx, t.url, own) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (t *trial) kill() error {
	var errs []error
	for _, r := range t.replicas {
		if r != nil {
			errs = append(errs, r.Kill())
		}
	}
	return errors.Join(errs...)
}

// An answer is what a limit says to a request.
type answer struct {
	admitted bool
	told     float64 // seconds to wait
	header   int
}

// a caller sends requests of one subject to the replicas.
type caller struct {
	t       *trial
	of      subject
	clients []*client.Client
}

func (t *trial) caller(of subject) (*caller, error) {
	c := &caller{t: t, of: of}
	for _, r := range t.replicas {
		one, err := r.Client("")
		if err != nil {
			return nil, err
		}
		tr := one.HTTP.Transport.(*http.Transport) //nolint:forcetypeassert // client.New makes one
		tr.DialContext = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(of.address)}}).DialContext
		tr.MaxConnsPerHost, tr.MaxIdleConnsPerHost = atOnce, atOnce
		// Many connections, as many callers have them.
		tr.ForceAttemptHTTP2, tr.TLSClientConfig.NextProtos = false, []string{"http/1.1"}
		c.clients = append(c.clients, one)
	}
	return c, nil
}

func (c *caller) close() {
	for _, one := range c.clients {
		one.HTTP.CloseIdleConnections()
	}
}

// request is one that passes the limit.
func (c *caller) request(ctx context.Context, at int, l *limit.Limit) (*http.Request, error) {
	var route *web.Route
	body := ""
	switch l {
	case limit.HTTPAddress:
		route = api.OpenAPI.Route
	case limit.HTTPActor:
		route = api.ListTeams.Route
	case limit.BootstrapAttempts:
		route, body = api.Bootstrap.Route, `{"name":"somebody","token":"guessed"}`
	case limit.CertExport:
		route = api.ExportPEM.Route
	default:
		return nil, fmt.Errorf("no request is known that passes %s", l.Name)
	}
	path := strings.ReplaceAll(route.Path, "{id}", url.PathEscape(c.t.certificate))
	r, err := http.NewRequestWithContext(ctx, route.Method, c.clients[at].URL+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if route.Needs != nil {
		r.Header.Set("Authorization", "Bearer "+c.of.key.Secret)
	}
	return r, nil
}

// ask sends one request to a replica.
func (c *caller) ask(ctx context.Context, at int, l *limit.Limit, change func(*http.Request)) (a answer, err error) {
	r, err := c.request(ctx, at, l)
	if err != nil {
		return a, err
	}
	if change != nil {
		change(r)
	}
	res, err := c.clients[at].HTTP.Do(r)
	if err != nil {
		return a, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return a, err
	}
	if res.StatusCode == http.StatusTooManyRequests {
		var p web.Problem
		if err := json.Unmarshal(text, &p); err != nil {
			return a, err
		}
		a.told = p.RetryAfter
		a.header, err = strconv.Atoi(res.Header.Get("Retry-After"))
		return a, err
	}
	if res.StatusCode >= http.StatusInternalServerError {
		return a, fmt.Errorf("%s: %s", l.Name, res.Status)
	}
	a.admitted = true
	return a, nil
}

// flood sends many requests at once to the first replicas, in turn, and returns
// how many were admitted.
func (c *caller) flood(ctx context.Context, asked, replicas int, l *limit.Limit) (int, error) {
	var admitted atomic.Int64
	errs := make([]error, asked)
	var wg sync.WaitGroup
	for i := range asked {
		wg.Go(func() {
			a, err := c.ask(ctx, i%replicas, l, nil)
			if errs[i] = err; a.admitted {
				admitted.Add(1)
			}
		})
	}
	wg.Wait()
	return int(admitted.Load()), errors.Join(errs...)
}

// exhaust asks the first replica until it refuses.
func (c *caller) exhaust(ctx context.Context, l *limit.Limit) (answer, error) {
	for range 2 * few {
		if a, err := c.ask(ctx, 0, l, nil); err != nil || !a.admitted {
			return a, err
		}
	}
	return answer{}, fmt.Errorf("%s does not refuse", l.Name)
}

// lookCaps floods each limit at one replica and at three, and after a restart.
func lookCaps(scope *limit.Scope) func(context.Context, *Site) (any, error) {
	return func(ctx context.Context, s *Site) (any, error) {
		t, err := s.trial(ctx, 2*len(limit.All()))
		if err != nil {
			return nil, err
		}
		seen := evidence.CapsSeen{Scope: scope.Name, Cap: s.times(10, 50), Asked: s.times(40, 500)}
		for _, l := range limit.All() {
			c, err := t.caps(ctx, scope, l, seen.Cap, seen.Asked)
			if err != nil {
				return nil, err
			}
			seen.Limits = append(seen.Limits, c)
		}
		return seen, nil
	}
}

func (t *trial) caps(ctx context.Context, scope *limit.Scope, l *limit.Limit, tried, asked int) (seen evidence.CapSeen, err error) {
	seen.Limit = l.Name
	defer func() { err = errors.Join(err, t.kill()) }()
	if err := t.start(ctx, threeOfThem, scope, l, tried, hardlyEver); err != nil {
		return seen, err
	}
	for _, r := range t.replicas {
		seen.PIDs = append(seen.PIDs, r.Process.Pid)
	}
	one, err := t.caller(t.subject())
	if err != nil {
		return seen, err
	}
	defer one.close()
	if seen.One, err = one.flood(ctx, asked, 1, l); err != nil {
		return seen, err
	}
	together := t.subject()
	all, err := t.caller(together)
	if err != nil {
		return seen, err
	}
	defer all.close()
	if seen.Together, err = all.flood(ctx, asked, threeOfThem, l); err != nil {
		return seen, err
	}
	if err := t.kill(); err != nil {
		return seen, err
	}
	if err := t.start(ctx, 1, scope, l, tried, hardlyEver); err != nil {
		return seen, err
	}
	again, err := t.caller(together)
	if err != nil {
		return seen, err
	}
	defer again.close()
	seen.Restart, err = again.flood(ctx, asked, 1, l)
	return seen, err
}

// using has a subject use up its bucket of each limit, at one replica, and then
// goes on.
func (s *Site) using(ctx context.Context, rate string, then func(*trial, *limit.Limit, *caller, answer) error) error {
	t, err := s.trial(ctx, 4*len(limit.All()))
	if err != nil {
		return err
	}
	one := func(l *limit.Limit) (err error) {
		defer func() { err = errors.Join(err, t.kill()) }()
		if err := t.start(ctx, 1, limit.Cluster, l, few, rate); err != nil {
			return err
		}
		c, err := t.caller(t.subject())
		if err != nil {
			return err
		}
		defer c.close()
		refused, err := c.exhaust(ctx, l)
		if err != nil {
			return err
		}
		return then(t, l, c, refused)
	}
	for _, l := range limit.All() {
		if err := one(l); err != nil {
			return err
		}
	}
	return nil
}

// as asks once for another subject.
func (t *trial) as(ctx context.Context, of subject, l *limit.Limit) (answer, error) {
	c, err := t.caller(of)
	if err != nil {
		return answer{}, err
	}
	defer c.close()
	return c.ask(ctx, 0, l, nil)
}

func lookKeys(ctx context.Context, s *Site) (any, error) {
	var seen evidence.LimitKeysSeen
	err := s.using(ctx, hardlyEver, func(t *trial, l *limit.Limit, c *caller, _ answer) error {
		for _, differs := range evidence.Differences {
			a, err := t.turn(ctx, l, c, differs)
			if err != nil {
				return err
			}
			seen.Turns = append(seen.Turns, evidence.TurnSeen{Limit: l.Name, Differs: differs, Admitted: a.admitted})
		}
		return nil
	})
	return seen, err
}

// turn asks for a request that differs in one thing from those that used the
// bucket up.
func (t *trial) turn(ctx context.Context, l *limit.Limit, c *caller, differs string) (answer, error) {
	other, another := c.of, t.subject()
	switch differs {
	case evidence.ByPort: // a new connection, as another caller has it
	case evidence.ByHeader:
		return c.ask(ctx, 0, l, func(r *http.Request) {
			for _, header := range []string{"X-Forwarded-For", "X-Real-Ip", "True-Client-Ip", "X-Client-Ip"} {
				r.Header.Set(header, "203.0.113.7")
			}
			r.Header.Set("Forwarded", "for=203.0.113.7")
		})
	case evidence.BySecret:
		other.key = t.rotated[c.of.key.Secret]
	case evidence.ByAddress:
		other.address = another.address
	case evidence.ByKey:
		other.key = another.key
	default:
		return c.ask(ctx, 0, l, nil)
	}
	return t.as(ctx, other, l)
}

func lookIsolation(ctx context.Context, s *Site) (any, error) {
	var seen evidence.IsolationSeen
	err := s.using(ctx, hardlyEver, func(t *trial, used *limit.Limit, c *caller, _ answer) error {
		for _, l := range limit.All() {
			if l == used {
				continue
			}
			of, another := c.of, t.subject()
			// Who passes the used up limit on the way is another subject of it.
			if used == limit.HTTPAddress || used.Key == limit.Actor {
				of.address = another.address
			}
			if used == limit.HTTPActor {
				of.key = another.key
			}
			a, err := t.as(ctx, of, l)
			if err != nil {
				return err
			}
			seen.Pairs = append(seen.Pairs, evidence.PairSeen{Used: used.Name, Asked: l.Name, Admitted: a.admitted})
		}
		return nil
	})
	return seen, err
}

// lookWaits moves what the database remembers into the past, instead of waiting.
func lookWaits(ctx context.Context, s *Site) (any, error) {
	var seen evidence.WaitsSeen
	err := s.using(ctx, sometime, func(t *trial, l *limit.Limit, c *caller, refused answer) error {
		w := evidence.WaitSeen{Limit: l.Name, Told: refused.told, Header: refused.header}
		early, rest := refused.told*0.6, refused.told*0.4
		if l.Window > 0 { // it moves by whole slots
			slot := float64(l.In(nil).Per) / 1e6
			early, rest = slot*float64(int(refused.told/slot)), slot
		}
		for _, step := range []struct {
			seconds  float64
			admitted *bool
		}{{early, &w.Early}, {rest, &w.Late}} {
			if err := s.on(t.url).alter(ctx, past(l, step.seconds)); err != nil {
				return err
			}
			time.Sleep(limit.RefusalKept) // a replica remembers the last one as long
			a, err := c.ask(ctx, 0, l, nil)
			if err != nil {
				return err
			}
			*step.admitted = a.admitted
		}
		seen.Waits = append(seen.Waits, w)
		return nil
	})
	return seen, err
}

// past is what makes the buckets of a limit so many seconds older.
func past(l *limit.Limit, seconds float64) string {
	if l.Window == 0 {
		return fmt.Sprintf(`update rate_limits set state[8] = state[8] - %d where name = '%s'`, int64(seconds*1e6), l.Name)
	}
	return fmt.Sprintf(`
		update rate_limits set state = state[1:7] || (state[8] - %[1]d) || state[9] ||
			array(select state[10 + (slot + %[1]d) %% 17] from generate_series(0, 16) slot order by slot)
		where name = '%[2]s'`, int64(seconds*1e6)/l.In(nil).Per, l.Name)
}
