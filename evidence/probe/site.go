package probe

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"certctl/evidence"
	"certctl/evidence/lab"
	"certctl/evidence/observe"
	"certctl/server/api"
	"certctl/server/audit"
	"certctl/server/client"
	"certctl/server/config"
	"certctl/server/perm"
	"certctl/server/web"
)

// given are the settings that the laboratory's servers get beside what every
// one of them needs: short periods, so that a probe sees several passes.
var given = map[string]string{
	config.AuditSequenceEvery.Name: "100ms",
	config.LeaseTTL.Name:           "500ms",
	config.ShutdownTimeout.Name:    "5s",
	config.MaxBodyBytes.Name:       "100000",

	config.RenewalCheckEvery.Name:          "200ms",
	config.JobProcessorEvery.Name:          "200ms",
	config.JobRetryEvery.Name:              "200ms",
	config.JobTimeoutEvery.Name:            "200ms",
	config.ShortLivedExpiryCheckEvery.Name: "100ms",
	config.CRLGenerationEvery.Name:         "100ms",
	config.NotificationProcessEvery.Name:   "200ms",
	config.NotificationRetryEvery.Name:     "200ms",
	config.DigestCheckEvery.Name:           "200ms",
	config.RateLimitGCEvery.Name:           "200ms",
}

// Base starts a server on a database of its own, works with it until every
// audit action was written, and learns a checkpoint. Its end stops the server
// and keeps the database.
func Base(ctx context.Context, l *lab.Lab, d api.Declared, quick bool, seed uint64) (*Site, func() error, error) {
	url, err := l.Database(ctx)
	if err != nil {
		return nil, nil, err
	}
	s := &Site{Lab: l, Declared: d, Database: url, Quick: quick, Seed: seed, once: &once{}}
	end, err := s.serve(ctx, given)
	if err != nil {
		return nil, nil, err
	}
	err = s.work(ctx)
	if err == nil {
		err = s.learn(ctx)
	}
	if err != nil {
		return nil, nil, errors.Join(err, end())
	}
	return s, end, nil
}

// serve starts a server on the site's database.
func (s *Site) serve(ctx context.Context, settings map[string]string) (end func() error, err error) {
	r, err := s.Lab.Server(ctx, s.Database, settings)
	if err != nil {
		return nil, err
	}
	key := ""
	if s.Admin != nil {
		key = s.Admin.Key
	}
	if s.Admin, err = r.Client(key); err != nil {
		return nil, errors.Join(err, r.Kill())
	}
	if s.Given == nil {
		s.Given = s.Lab.Settings(r.Name, s.Database, settings)
	} else {
		s.Given[config.Replica.Name] = r.Name
		s.Given[config.DatabaseURL.Name] = s.Database
	}
	http := s.Admin.HTTP
	return func() error {
		http.CloseIdleConnections() // a server that stops gives them a second
		return r.Stop()
	}, nil
}

// A step is one call, or one change by hand, and what it has written.
type step struct {
	what   string
	writes *audit.Action // by whoever calls; nil if nothing
	later  *audit.Action // by the server, soon after; nil if nothing
	do     func() error
}

// call is a step that calls an endpoint; then takes what it answers, unless it
// is nil.
func call[I, O any](ctx context.Context, s *Site, e web.Endpoint[I, O], in *I, writes *audit.Action, then func(O)) step {
	return step{what: "call of " + e.Name, writes: writes, do: func() error {
		out, err := client.Do(ctx, s.Admin, e, in)
		if err == nil && then != nil {
			then(out)
		}
		return err
	}}
}

// so tells a step from others that call the same route.
func (p step) so(how string) step {
	p.what += ", " + how
	return p
}

// and is the step with what the server writes soon after.
func (p step) and(later *audit.Action) step {
	p.later = later
	return p
}

// work does everything that an audit action is written for, and notes what
// each step wrote.
func (s *Site) work(ctx context.Context) error {
	if err := s.take(ctx, s.access(ctx)); err != nil {
		return err
	}
	if err := s.take(ctx, s.around(ctx)); err != nil {
		return err
	}
	life, err := s.life(ctx)
	if err == nil {
		err = s.take(ctx, life)
	}
	if err == nil {
		err = s.fill(ctx)
	}
	return err
}

// take takes steps one after the other.
func (s *Site) take(ctx context.Context, steps []step) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, last, err := observe.Written(ctx, conn, 0)
	if err != nil {
		return err
	}
	for _, p := range steps {
		if err := p.do(); err != nil {
			return fmt.Errorf("%s: %w", p.what, err)
		}
		var names []string
		for _, a := range []*audit.Action{p.writes, p.later} {
			if a != nil {
				names = append(names, a.Name)
			}
		}
		seen := evidence.StepSeen{Step: p.what, Names: strings.Join(names, ", ")}
		before := last
		if seen.Wrote, last, err = observe.Written(ctx, conn, last); err != nil {
			return err
		}
		if p.later != nil {
			wrote := func() (bool, error) { return observe.ServerWrote(ctx, conn, p.later.Name, before) }
			done, err := eventually(5*patience, wrote)
			if err != nil {
				return err
			}
			if done {
				seen.Wrote = append(seen.Wrote, p.later.Name)
			}
		}
		s.Steps = append(s.Steps, seen)
	}
	return nil
}

// eventually asks until the answer is yes, or for as long as it is patient.
func eventually(patience time.Duration, ask func() (bool, error)) (bool, error) {
	for end := time.After(patience); ; {
		if yes, err := ask(); yes || err != nil {
			return yes, err
		}
		select {
		case <-end:
			return false, nil
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// access are the steps with keys and roles, and with the trail. The bootstrap
// token does its work once on a database.
func (s *Site) access(ctx context.Context) []step {
	first := &api.NewBootstrap{}
	first.Body.Name, first.Body.Token = "administrator", s.Lab.BootstrapToken()
	role := &api.NewRole{}
	role.Body.Name, role.Body.Does, role.Body.Permissions = "scraper", "Scrapes the metrics.", []string{perm.MetricRead.Name}
	key, grant, rotation := newKey("worked with", perm.Viewer.Name), &api.Grant{Role: role.Body.Name}, &api.Rotation{}
	steps := []step{
		call(ctx, s, api.CreateRole, role, audit.RoleCreated, nil),
		call(ctx, s, api.CreateKey, key, audit.KeyCreated, func(k api.KeySecret) { grant.ID, rotation.ID = k.ID, k.ID }),
		call(ctx, s, api.GrantRole, grant, audit.RoleGranted, nil),
		call(ctx, s, api.WithdrawRole, grant, audit.RoleWithdrawn, nil),
		call(ctx, s, api.DeleteRole, &api.OneRole{Name: role.Body.Name}, audit.RoleDeleted, nil),
		call(ctx, s, api.RotateKey, rotation, audit.KeyRotated, nil),
		call(ctx, s, api.RevokeKey, &rotation.OneKey, audit.KeyRevoked, nil),
		{what: "call of " + api.ExportEvents.Name, writes: audit.Exported, do: func() error {
			body, err := client.Stream(ctx, s.Admin, api.ExportEvents, &api.EventFilter{})
			if err != nil {
				return err
			}
			return body.Close()
		}},
	}
	if s.Admin.Key != "" {
		return steps
	}
	bootstrap := call(ctx, s, api.Bootstrap, first, audit.BootstrapUsed, func(k api.KeySecret) { s.Admin = s.Admin.With(k.Secret) })
	return slices.Insert(steps, 0, bootstrap)
}

// fill writes enough events to cut some off and still have a log.
func (s *Site) fill(ctx context.Context) error {
	for range spare {
		if _, err := createKey(ctx, s.Admin, unique("spare"), perm.Viewer.Name); err != nil {
			return err
		}
	}
	return nil
}

// spare is how many events are written beyond those that are needed.
const spare = 10

var names atomic.Int64

func unique(name string) string { return name + " " + strconv.FormatInt(names.Add(1), 10) }

func newKey(name, role string) *api.NewKey {
	in := &api.NewKey{}
	in.Body.Name, in.Body.Roles = name, []string{role}
	return in
}

func createKey(ctx context.Context, c *client.Client, name, role string) (api.KeySecret, error) {
	return client.Do(ctx, c, api.CreateKey, newKey(name, role))
}

// learn waits until the log holds what was done, and keeps its checkpoint.
func (s *Site) learn(ctx context.Context) (err error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	done, err := eventually(2*patience, func() (bool, error) {
		sizes, err := audit.Size(ctx, conn)
		return sizes.Queued == 0 && sizes.Logged > spare, err
	})
	if err == nil && !done {
		err = errors.New("events wait for the log")
	}
	if err != nil {
		return err
	}
	s.Checkpoint, err = client.Do(ctx, s.Admin, api.GetCheckpoint, &api.Empty{})
	return err
}

// clone returns the site on a copy of its database that alter has changed,
// without a server.
func (s *Site) clone(ctx context.Context, alter string) (*Site, error) {
	copied := *s
	var err error
	if copied.Database, err = s.Lab.Clone(ctx, s.Database); err != nil {
		return nil, err
	}
	return &copied, copied.alter(ctx, alter)
}

func nothing() error { return nil }

// copied is a copy of the database, without a server.
func copied(ctx context.Context, base *Site, d Defect) (*Site, func() error, error) {
	s, err := base.clone(ctx, d.sql(base.Declared))
	return s, nothing, err
}

// served is a server on a copy of the database. It is said to have been given
// what it would have been without the defect.
func served(ctx context.Context, base *Site, d Defect) (*Site, func() error, error) {
	s, err := base.clone(ctx, d.sql(base.Declared))
	if err != nil {
		return nil, nil, err
	}
	with := maps.Clone(given)
	maps.Copy(with, d.settings())
	s.Given = s.Lab.Settings("", s.Database, given)
	end, err := s.serve(ctx, with)
	return s, end, err
}

// servedAndWorked writes more events than the altered database lacks.
func servedAndWorked(ctx context.Context, base *Site, d Defect) (*Site, func() error, error) {
	s, end, err := served(ctx, base, d)
	if err != nil {
		return nil, nil, err
	}
	kept := s.Checkpoint
	err = s.work(ctx)
	if err == nil {
		err = s.fill(ctx)
	}
	if err == nil {
		err = s.learn(ctx)
	}
	s.Checkpoint = kept
	if err != nil {
		return nil, nil, errors.Join(err, end())
	}
	return s, end, nil
}

// fresh is a server that nobody has called, on a database of its own whose
// schema was altered before.
func fresh(ctx context.Context, base *Site, sql string) (*Site, func() error, error) {
	s := &Site{Lab: base.Lab, Declared: base.Declared, Quick: base.Quick, Seed: base.Seed, once: base.once}
	var err error
	if s.Database, err = base.Lab.Database(ctx); err != nil {
		return nil, nil, err
	}
	if sql != "" {
		if err := base.Lab.Migrate(ctx, s.Database); err != nil {
			return nil, nil, err
		}
		if err := s.alter(ctx, sql); err != nil {
			return nil, nil, err
		}
	}
	end, err := s.serve(ctx, given)
	return s, end, err
}

// alter changes the database by hand.
func (s *Site) alter(ctx context.Context, sql string) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	return err
}

// workedOn is a fresh server that was worked with.
func workedOn(ctx context.Context, base *Site, d Defect) (*Site, func() error, error) {
	s, end, err := fresh(ctx, base, d.sql(base.Declared))
	if err != nil {
		return nil, nil, err
	}
	if err := s.work(ctx); err != nil {
		return nil, nil, errors.Join(err, end())
	}
	return s, end, nil
}

// idle is a fresh server that nobody calls.
func idle(ctx context.Context, base *Site, _ Defect) (*Site, func() error, error) {
	return fresh(ctx, base, "")
}

// outside is the check that a checkpoint which was kept agrees with the log.
const outside audit.Kind = "checkpoint kept outside"

func turns(kinds ...audit.Kind) func(api.Declared) []string {
	return func(api.Declared) (names []string) {
		for _, k := range kinds {
			names = append(names, string(k))
		}
		return names
	}
}

// tamper alters the audit tables as somebody could who owns the database.
func tamper(sql string) func(api.Declared) string {
	return func(api.Declared) string {
		return `set session_replication_role = replica; ` + sql
	}
}

const (
	editEvent = `
		update audit_events set details = details || '{"name": "somebody else"}'
		where id = (select event_id from audit_log where seq = 2)`
	deleteEvent = `
		delete from audit_events where id = (select event_id from audit_log where seq = 2)`
	swapEntries = `
		update audit_log a set event_id = -b.event_id from audit_log b where a.seq in (2, 4) and b.seq = 6 - a.seq;
		update audit_log set event_id = -event_id where event_id < 0`
)

// truncateLog removes the newest entries as if they had never been: it cuts at
// the newest checkpoint that leaves most of the events out.
const truncateLog = `
	create temp table cut as select max(size) as n from audit_checkpoints where size <= 8;
	delete from audit_events where id not in (select event_id from audit_log, cut where seq < n);
	delete from audit_log using cut where seq >= n;
	delete from audit_checkpoints using cut where size > n;
	delete from audit_hashes using cut where idx >= 2 * n - length(replace(n::bit(64)::text, '0', ''));
	delete from audit_queue`
