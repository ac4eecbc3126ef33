package probe

import (
	"context"
	"errors"
	"fmt"
	"strconv"
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
	config.MaxBodyBytes.Name:       "2000",
}

// Base starts a server on a database of its own, works with it until every
// audit action was written, and learns a checkpoint. Its end stops the server
// and keeps the database.
func Base(ctx context.Context, l *lab.Lab, d api.Declared) (*Site, func() error, error) {
	url, err := l.Database(ctx)
	if err != nil {
		return nil, nil, err
	}
	s := &Site{Lab: l, Declared: d, Database: url}
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

// work does everything that an audit action is written for, and notes what
// each step wrote.
func (s *Site) work(ctx context.Context) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, last, err := observe.Written(ctx, conn, 0)
	if err != nil {
		return err
	}
	role := &api.NewRole{}
	role.Body.Name, role.Body.Does, role.Body.Permissions = "scraper", "Scrapes the metrics.", []string{perm.MetricRead.Name}
	grant := &api.Grant{Role: role.Body.Name}
	rotation := &api.Rotation{}
	steps := []struct {
		route  *web.Route
		writes *audit.Action
		do     func() error
	}{
		{api.Bootstrap.Route, audit.BootstrapUsed, func() error {
			in := &api.NewBootstrap{}
			in.Body.Name, in.Body.Token = "administrator", s.Lab.BootstrapToken()
			first, err := client.Do(ctx, s.Admin, api.Bootstrap, in)
			s.Admin = s.Admin.With(first.Secret)
			return err
		}},
		{api.CreateRole.Route, audit.RoleCreated, func() error {
			_, err := client.Do(ctx, s.Admin, api.CreateRole, role)
			return err
		}},
		{api.CreateKey.Route, audit.KeyCreated, func() error {
			key, err := createKey(ctx, s.Admin, "worked with", perm.Viewer.Name)
			grant.ID, rotation.ID = key.ID, key.ID
			return err
		}},
		{api.GrantRole.Route, audit.RoleGranted, func() error { _, err := client.Do(ctx, s.Admin, api.GrantRole, grant); return err }},
		{api.WithdrawRole.Route, audit.RoleWithdrawn, func() error { _, err := client.Do(ctx, s.Admin, api.WithdrawRole, grant); return err }},
		{api.DeleteRole.Route, audit.RoleDeleted, func() error {
			_, err := client.Do(ctx, s.Admin, api.DeleteRole, &api.OneRole{Name: role.Body.Name})
			return err
		}},
		{api.RotateKey.Route, audit.KeyRotated, func() error { _, err := client.Do(ctx, s.Admin, api.RotateKey, rotation); return err }},
		{api.RevokeKey.Route, audit.KeyRevoked, func() error { _, err := client.Do(ctx, s.Admin, api.RevokeKey, &rotation.OneKey); return err }},
		{api.ExportEvents.Route, audit.Exported, func() error {
			body, err := client.Stream(ctx, s.Admin, api.ExportEvents, &api.EventFilter{})
			if err != nil {
				return err
			}
			return body.Close()
		}},
	}
	for _, step := range steps {
		if step.writes == audit.BootstrapUsed && s.Admin.Key != "" {
			continue // the token has done its work on this database
		}
		if err := step.do(); err != nil {
			return err
		}
		seen := evidence.StepSeen{Step: "call of " + step.route.Name, Names: step.writes.Name}
		if seen.Wrote, last, err = observe.Written(ctx, conn, last); err != nil {
			return err
		}
		s.Steps = append(s.Steps, seen)
	}
	return s.fill(ctx)
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

func createKey(ctx context.Context, c *client.Client, name, role string) (api.KeySecret, error) {
	in := &api.NewKey{}
	in.Body.Name, in.Body.Roles = name, []string{role}
	return client.Do(ctx, c, api.CreateKey, in)
}

// learn waits until the log holds what was done, and keeps its checkpoint.
func (s *Site) learn(ctx context.Context) (err error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for end := time.After(2 * patience); ; {
		sizes, err := audit.Size(ctx, conn)
		if err != nil {
			return err
		}
		if sizes.Queued == 0 && sizes.Logged > spare {
			break
		}
		select {
		case <-end:
			return fmt.Errorf("%d events wait for the log", sizes.Queued)
		case <-time.After(20 * time.Millisecond):
		}
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
	conn, err := copied.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, alter)
	return &copied, err
}

func nothing() error { return nil }

// altered is a defect of the rows or the catalog of the database.
func altered(sql func(api.Declared) string) func(context.Context, *Site) (*Site, func() error, error) {
	return func(ctx context.Context, base *Site) (*Site, func() error, error) {
		s, err := base.clone(ctx, sql(base.Declared))
		return s, nothing, err
	}
}

// served is a server, with other settings, on a database that was altered.
func served(settings map[string]string, sql func(api.Declared) string) func(context.Context, *Site) (*Site, func() error, error) {
	return func(ctx context.Context, base *Site) (*Site, func() error, error) {
		s, err := base.clone(ctx, sql(base.Declared))
		if err != nil {
			return nil, nil, err
		}
		with := map[string]string{}
		for _, m := range []map[string]string{given, settings} {
			for k, v := range m {
				with[k] = v
			}
		}
		s.Given = s.Lab.Settings("", s.Database, given)
		end, err := s.serve(ctx, with)
		return s, end, err
	}
}

// servedAndWorked writes more events than the altered database lacks.
func servedAndWorked(sql func(api.Declared) string) func(context.Context, *Site) (*Site, func() error, error) {
	return func(ctx context.Context, base *Site) (*Site, func() error, error) {
		s, end, err := served(nil, sql)(ctx, base)
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
}

// workedOn is a server on a database of its own whose schema was altered
// before the work.
func workedOn(sql string) func(context.Context, *Site) (*Site, func() error, error) {
	return func(ctx context.Context, base *Site) (*Site, func() error, error) {
		s := &Site{Lab: base.Lab, Declared: base.Declared}
		var err error
		if s.Database, err = base.Lab.Database(ctx); err != nil {
			return nil, nil, err
		}
		if err := base.Lab.Migrate(ctx, s.Database); err != nil {
			return nil, nil, err
		}
		conn, err := s.connect(ctx)
		if err != nil {
			return nil, nil, err
		}
		_, err = conn.Exec(ctx, sql)
		conn.Close(ctx)
		if err != nil {
			return nil, nil, err
		}
		end, err := s.serve(ctx, given)
		if err != nil {
			return nil, nil, err
		}
		if err := s.work(ctx); err != nil {
			return nil, nil, errors.Join(err, end())
		}
		return s, end, nil
	}
}

// idle is a server on an empty database that nobody calls.
func idle(ctx context.Context, base *Site) (*Site, func() error, error) {
	s := &Site{Lab: base.Lab, Declared: base.Declared}
	var err error
	if s.Database, err = base.Lab.Database(ctx); err != nil {
		return nil, nil, err
	}
	end, err := s.serve(ctx, given)
	return s, end, err
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
