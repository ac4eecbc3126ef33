package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/evidence"
	"certctl/evidence/lab"
	"certctl/server/api"
	"certctl/server/audit"
	"certctl/server/client"
	"certctl/server/config"
	"certctl/server/job"
	"certctl/server/notify/notifytest"
	"certctl/server/notify/webhook"
	"certctl/server/outbox"
	"certctl/server/schedule"
)

// A chore is the work of a loop, in terms of the database: what there is to do,
// and by which change of which row it is done.
type chore struct {
	on      string // "update on jobs"
	when    string // condition of the change
	key     string // what was done, of new or old
	parks   string // condition of the change that a replica is held up in, if it is another
	due     string // statement that makes n things to do and returns their keys
	after   string // instead of due: the keys of what ought to have been done
	open    bool   // other things may be done too
	lease   string // setting of the lease that others wait for
	channel string // that it needs

	settings map[string]string
	controls []Defect
}

// busy are the settings of replicas that pass all the time, and soon take over.
func busy(l *schedule.Loop) map[string]string {
	all := map[string]string{
		config.LeaseTTL.Name: "500ms", config.JobLease.Name: "500ms", config.NotificationLease.Name: "500ms",
		config.OutboundAllow.Name: "127.0.0.0/8", config.DatabaseMaxConnections.Name: "16",
	}
	for _, other := range schedule.All() {
		all[other.Every.Name] = "1h" // the first pass comes at start
	}
	all[l.Every.Name] = "100ms"
	return all
}

const (
	// dueCertificates are some that nothing is done with.
	dueCertificates = `
		select id, row_number() over (order by id) as n from certificates c
		where state = 'active' and not_after > now() and renew_at > now()
		  and not exists (select from jobs where certificate_id = c.id and state in ('pending', 'running', 'failed'))`

	newJobs = `
		insert into jobs (id, kind, certificate_id, args, priority, max_attempts, retry_every, timeout, created_by, state, worker, attempts, token, leased_until)
		select 'job_lab_' || gen_random_uuid(), '%s', c.id, '{}', 5, 20, '100 milliseconds', '1 minute', 'laboratory', %s
		from (` + dueCertificates + `) c where n <= $1
		returning id`

	newNotifications = `
		insert into notifications (id, once, event, severity, channel_id, certificate_id, version, data, recipients, state, attempts, token, due_at)
		select 'ntf_lab_' || gen_random_uuid(), gen_random_uuid()::text, '%s', '%s', ch.id, c.id, c.version,
			jsonb_build_object('certificate', jsonb_build_object('id', c.id, 'name', c.name, 'sans', to_jsonb(c.sans), 'version', c.version,
				'serial', c.serial, 'not_after', c.not_after), 'owner', 'o', 'issuer', 'i', 'policy', 'p', 'serials', '[]'::jsonb),
			'{}', %s, now() - interval '1 second'
		from (select *, row_number() over (order by id) as n from certificates) c, channels ch where n <= $1 and ch.name = '%s'
		returning id`
)

// The channels of the chores: one takes what is sent, the other is off.
const taking, deafened = "taking", "off"

// chores are the work of every loop.
var chores = map[*schedule.Loop]chore{
	schedule.AuditSequence: {
		on: "insert on audit_log", key: "new.event_id::text",
		due: `
			with e as (
				insert into audit_events (actor_kind, actor_id, actor_name, action, resource_kind, resource_id, details, request_id, replica)
				select 'server', 'laboratory', 'laboratory', '` + audit.ServerStarted.Name + `', '', '', '{}', '', '' from generate_series(1, $1) returning id)
			insert into audit_queue select id from e returning event_id::text`,
		open:  true,
		lease: config.LeaseTTL.Name,
	},
	schedule.AuditChainVerify: {
		on: "insert on audit_events", when: "new.action = '" + audit.Verified.Name + "'",
		key:   "(select token::text from leases where name = '" + schedule.AuditChainVerify.Name + "')",
		after: `select token::text as key from loop_runs where loop = '` + schedule.AuditChainVerify.Name + `' and finished_at is not null and error = '' and started_at > (select max(at) from lab_since)`,
		open:  true, // a pass can be abandoned after it was written down
		lease: config.LeaseTTL.Name,
		controls: []Defect{{
			Says:  "the database writes the event of a pass twice",
			Turns: checks(evidence.DoneTwice),
			SQL: always(`
				create function twice() returns trigger language plpgsql as $$
				begin
					if pg_trigger_depth() < 2 then
						with e as (
							insert into audit_events (actor_kind, actor_id, actor_name, action, resource_kind, resource_id, details, request_id, replica)
							values (new.actor_kind, new.actor_id, new.actor_name, new.action, new.resource_kind, new.resource_id, new.details, '', '')
							returning id)
						insert into audit_queue select id from e;
					end if;
					return null;
				end $$;
				create trigger twice after insert on audit_events for each row
					when (new.action = '` + audit.Verified.Name + `') execute function twice()`),
		}},
	},
	schedule.RenewalCheck: {
		on: "insert on jobs", key: "new.certificate_id",
		due: `update certificates c set renew_at = now() from (` + dueCertificates + `) d where c.id = d.id and d.n <= $1 returning c.id`,
		controls: []Defect{{
			Says:  "the database forgets the first renewal of each",
			Turns: checks(evidence.DoneTwice),
			SQL: always(`
				create table forgotten (id text primary key);
				create function forget() returns trigger language plpgsql as $$
				begin
					insert into forgotten values (new.certificate_id) on conflict do nothing;
					if found then
						delete from jobs where id = new.id;
					end if;
					return null;
				end $$;
				create trigger forget after insert on jobs for each row execute function forget()`),
		}},
	},
	schedule.JobProcessor: {
		on: "insert on certificate_versions", key: "new.job_id",
		due:      fmt.Sprintf(newJobs, job.Renew.Name, `'pending', '', 0, 0, null`),
		lease:    config.JobLease.Name,
		settings: map[string]string{config.JobTimeoutEvery.Name: "100ms", config.JobRetryEvery.Name: "100ms"},
	},
	schedule.JobRetry: {
		on: "update on jobs", when: "old.state = 'failed' and new.state = 'pending' and old.token = 1", key: "new.id", // and not what failed since
		due: fmt.Sprintf(newJobs, job.Renew.Name, `'failed', '', 1, 1, null`),
	},
	schedule.JobTimeout: {
		on: "update on jobs", when: "old.state = 'running' and new.state = 'failed' and old.worker = 'absent'", key: "new.id",
		due: fmt.Sprintf(newJobs, job.Renew.Name, `'running', 'absent', 1, 1, now()`),
	},
	schedule.NotificationProcess: {
		on: "update on notifications", when: "old.state = 'sending' and new.state = 'sent'", key: "new.id", parks: "new.state = 'sending'",
		due:      fmt.Sprintf(newNotifications, outbox.CertRevoked.Name, outbox.Informational.Name, `'pending', 0, 0`, taking),
		lease:    config.NotificationLease.Name,
		channel:  taking,
		settings: map[string]string{config.NotificationRetryEvery.Name: "100ms"},
	},
	schedule.NotificationRetry: {
		on: "update on notifications", when: "old.state = 'failed' and new.state = 'pending'", key: "new.id",
		due:     fmt.Sprintf(newNotifications, outbox.CertRevoked.Name, outbox.Informational.Name, `'failed', 1, 1`, deafened),
		channel: deafened,
	},
	schedule.Digest: {
		on: "insert on digests", key: "new.channel_id",
		due: `
			insert into channels (id, name, type, enabled, digest, settings, shown)
			select 'cha_lab_' || gen_random_uuid(), gen_random_uuid()::text, '` + webhook.Type.Name + `', true, true, '', '{}' from generate_series(1, $1)
			returning id`,
		lease:    config.LeaseTTL.Name,
		settings: map[string]string{config.DigestEvery.Name: "720h"},
	},
	schedule.ShortLivedExpiryCheck: {
		on: "update on certificates", when: "old.state = 'active' and new.state = 'expired'", key: "new.id",
		due: `
			update certificates c set not_after = clock_timestamp(), renew_at = null from (` + dueCertificates + `) d
			where c.id = d.id and d.n <= $1 returning c.id`,
		controls: []Defect{{
			Says:  "the database takes the first mark of each back",
			Turns: checks(evidence.DoneTwice),
			SQL: always(`
				create table taken_back (id text primary key);
				create function back() returns trigger language plpgsql as $$
				begin
					insert into taken_back values (new.id) on conflict do nothing;
					if found then
						update certificates set state = 'active' where id = new.id;
					end if;
					return null;
				end $$;
				create trigger back after update on certificates for each row
					when (old.state = 'active' and new.state = 'expired') execute function back()`),
		}},
	},
	schedule.CRLGeneration: {
		on: "update on crls", when: "new.number > old.number", key: "new.issuer_id",
		due: `
			insert into crl_requests (issuer_id) select issuer_id from crls limit $1 returning issuer_id`,
	},
	schedule.RateLimitGC: {
		on: "delete on rate_limits", when: "old.name = 'lab'", key: "old.key",
		due: `
			with used as (
				insert into rate_limits (name, key, state)
				select 'lab', 'used ' || gen_random_uuid(), array[1, 1, 1, 0, 9e15, 0, 1, 9e15]::bigint[] from generate_series(1, $1))
			insert into rate_limits (name, key, state)
			select 'lab', 'unused ' || gen_random_uuid(), array[1, 1, 1, 0, 1, 0, 1, 1]::bigint[] from generate_series(1, $1)
			returning key`,
		controls: []Defect{along("rate_limits", "used")},
	},
	schedule.Retention: {
		on: "delete on idempotency_keys", key: "old.key",
		due: `
			with young as (
				insert into idempotency_keys (actor_id, key, route, request, response)
				select 'lab', 'young ' || gen_random_uuid(), '', '', '' from generate_series(1, $1))
			insert into idempotency_keys (actor_id, key, route, request, response, created_at)
			select 'lab', 'old ' || gen_random_uuid(), '', '', '', now() - interval '100 days' from generate_series(1, $1)
			returning key`,
		controls: []Defect{along("idempotency_keys", "young")},
	},
}

// along is a defect that has a deletion take along what is still needed.
func along(table, needed string) Defect {
	return Defect{
		Says:  "what is deleted takes along what is still needed",
		Turns: checks(evidence.DoneBeside),
		SQL: always(fmt.Sprintf(`
			create function along() returns trigger language plpgsql as $$
			begin
				if pg_trigger_depth() < 2 then
					delete from %[1]s where key like '%[2]s %%';
				end if;
				return null;
			end $$;
			create trigger along after delete on %[1]s for each statement execute function along()`, table, needed)),
	}
}

// less is a defect that keeps one thing from being done.
func (c chore) less() Defect {
	return Defect{
		Says:  "the database keeps one of them from being done",
		Turns: checks(evidence.NeverDone),
		SQL: always(`
			create function keep() returns trigger language plpgsql as $$
			begin
				return case when ` + c.key + ` is distinct from (select min(key) from lab_due) or not (` + cmp.Or(c.when, "true") + `) then coalesce(new, old) end;
			end $$;
			create trigger keep before ` + c.on + ` for each row execute function keep()`),
	}
}

// tooLong is a lease that nobody takes over in time.
const tooLong = 5 * time.Second

// loopProbes are the experiments with each loop.
func loopProbes() (all []Probe) {
	for _, claim := range evidence.LoopClaims() {
		c, ok := chores[claim.Loop]
		if !ok {
			panic("nothing is known of the work of the loop " + claim.Loop.Name)
		}
		controls := c.controls
		if len(controls) == 0 {
			controls = []Defect{c.less()}
		}
		if c.lease != "" {
			controls = append(controls, Defect{
				Says: "the lease is longer than others may wait", Turns: checks(evidence.TakenOver), Settings: map[string]string{c.lease: tooLong.String()},
			})
		}
		all = append(all, Probe{
			Of: claim.Statement, Needs: []Need{Processes}, Make: own, Controls: controls,
			Look: func(ctx context.Context, s *Site) (any, error) { return s.lookLoop(ctx, claim.Loop, c) },
		})
	}
	return all
}

// staged is a site with certificates, and nothing to do, of which copies are made.
func (s *Site) staged(ctx context.Context) (*Site, error) {
	s.once.mu.Lock()
	defer s.once.mu.Unlock()
	if s.once.staged != nil {
		return s.once.staged, nil
	}
	stage, end, err := fresh(ctx, s, "")
	if err != nil {
		return nil, err
	}
	if err := errors.Join(stage.stage(ctx), end()); err != nil {
		return nil, err
	}
	s.once.staged = stage
	return stage, nil
}

// onStage is how many certificates there are, of several issuers.
const (
	onStage      = 60
	stageIssuers = 3
)

func (s *Site) stage(ctx context.Context) error {
	first := &api.NewBootstrap{}
	first.Body.Name, first.Body.Token = "administrator", s.Lab.BootstrapToken()
	key, err := client.Do(ctx, s.Admin, api.Bootstrap, first)
	if err != nil {
		return err
	}
	s.Admin = s.Admin.With(key.Secret)
	for i := range stageIssuers {
		request, err := lab.Estate(ctx, s.Admin, "stage "+strconv.Itoa(i), nil)
		if err != nil {
			return err
		}
		in := &api.NewCertificates{}
		for j := range onStage / stageIssuers {
			one := request
			one.Name, one.SANs = fmt.Sprintf("stage %d %d", i, j), []string{inside}
			in.Body.Requests = append(in.Body.Requests, one)
		}
		if made, err := client.Do(ctx, s.Admin, api.IssueCertificates, in); err != nil || made.Issued != len(in.Body.Requests) {
			return cmp.Or(err, errNotIssued)
		}
	}
	return s.learn(ctx) // no event waits for the log
}

var errNotIssued = errors.New("not every certificate was issued")

// A watch is a database in which every change that a chore is done by is written
// down with it, and can be held up.
type watch struct {
	chore

	site     *Site
	loop     *schedule.Loop
	conn     *pgx.Conn
	replicas []*lab.Replica
	settings map[string]string
	seen     *evidence.LoopSeen
	chance   *rand.Rand
}

// parking is the advisory lock that holds changes up.
const parking = 5150

func (s *Site) lookLoop(ctx context.Context, l *schedule.Loop, c chore) (_ any, err error) {
	faults := []string{evidence.Killed}
	if !s.Quick {
		faults = slices.Repeat([]string{evidence.Killed, evidence.Frozen, evidence.CutOff}, 3)
		apart := *s
		if apart.Lab, err = s.Lab.Apart(ctx); err != nil {
			return nil, err
		}
		apart.once = &once{}
		defer func() { err = errors.Join(err, apart.Lab.Stop()) }()
		s = &apart
	}
	staged, err := s.staged(ctx)
	if err != nil {
		return nil, err
	}
	url, err := s.Lab.Clone(ctx, staged.Database)
	if err != nil {
		return nil, err
	}
	w := &watch{chore: c, site: s, loop: l, seen: &evidence.LoopSeen{Loop: l.Name}, settings: busy(l), chance: s.chance(l.Name)}
	maps.Copy(w.settings, c.settings)
	maps.Copy(w.settings, s.With)
	if w.conn, err = pgx.Connect(ctx, url); err != nil {
		return nil, err
	}
	defer func() { _ = w.conn.Close(ctx) }() // a crash may have ended it
	if err := w.prepare(ctx); err != nil {
		return nil, err
	}
	defer func() {
		for _, r := range w.replicas {
			err = errors.Join(err, r.Kill())
		}
	}()
	if err := w.start(ctx, url, threeOfThem); err != nil {
		return nil, err
	}
	if c.channel != "" {
		sink, err := w.connect(ctx, staged.Admin.Key)
		if err != nil {
			return nil, err
		}
		defer func() { _ = sink.Close() }() // nobody listens any more
	}
	for _, f := range faults {
		if err := w.round(ctx, url, f); err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
	}
	return w.seen, nil
}

// prepare has the database write down what is done, and alters it.
func (w *watch) prepare(ctx context.Context) error {
	when := cmp.Or(w.when, "true")
	_, err := w.conn.Exec(ctx, `
		update leases set due_at = 'epoch';
		create table lab_done (key text, replica text, at timestamptz default clock_timestamp());
		create table lab_due (key text);
		create table lab_since (at timestamptz);
		create function lab_park() returns trigger language plpgsql as $$
		begin
			if current_setting('application_name') like 'certctl %' then
				perform pg_advisory_xact_lock_shared(`+strconv.Itoa(parking)+`);
			end if;
			return coalesce(new, old);
		end $$;
		create function lab_note() returns trigger language plpgsql as $$
		begin
			if current_setting('application_name') like 'certctl %' then
				insert into lab_done (key, replica) values (`+w.key+`, substr(current_setting('application_name'), 9));
			end if;
			return null;
		end $$;
		create trigger a_lab_park before `+w.on+` for each row when (`+cmp.Or(w.parks, when)+`) execute function lab_park();
		create trigger lab_note after `+w.on+` for each row when (`+when+`) execute function lab_note();
		`+w.site.Altered)
	return err
}

// start starts replicas.
func (w *watch) start(ctx context.Context, url string, n int) error {
	fresh := make([]*lab.Replica, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { fresh[i], errs[i] = w.site.Lab.Server(ctx, url, w.settings) })
	}
	wg.Wait()
	for _, r := range fresh {
		if r != nil {
			w.replicas = append(w.replicas, r)
			w.seen.PIDs = append(w.seen.PIDs, r.Process.Pid)
		}
	}
	return errors.Join(errs...)
}

// connect makes the channel that the chore needs.
func (w *watch) connect(ctx context.Context, key string) (*notifytest.HookSink, error) {
	sink, err := notifytest.NewHookSink()
	if err != nil {
		return nil, err
	}
	c, err := w.replicas[0].Client(key)
	if err != nil {
		return nil, err
	}
	in := &api.NewChannel{}
	in.Body.Name, in.Body.Type, in.Body.Settings = w.channel, webhook.Type.Name, sink.Settings()
	made, err := client.Do(ctx, c, api.CreateChannel, in)
	if err == nil && w.channel == deafened {
		off := false
		change := &api.ChannelChange{}
		change.ID, change.Body.Enabled = made.ID, &off
		_, err = client.Do(ctx, c, api.UpdateChannel, change)
	}
	return sink, err
}

// round makes work, waits until a replica is in the middle of it, and does
// something to that one.
func (w *watch) round(ctx context.Context, url, fault string) error {
	const n = 6
	if _, err := w.conn.Exec(ctx, `truncate lab_done, lab_due`); err != nil {
		return err
	}
	if _, err := w.conn.Exec(ctx, `select pg_advisory_lock($1)`, parking); err != nil {
		return err
	}
	if err := w.make(ctx, n); err != nil {
		return err
	}
	victim, err := w.parked(ctx)
	if err != nil {
		return err
	}
	// Whatever began before is not counted; others wait for the same lock.
	if _, err := w.conn.Exec(ctx, `insert into lab_since select clock_timestamp()`); err != nil {
		return err
	}
	begun := time.Now()
	r := evidence.LoopRoundSeen{Fault: fault, Victim: victim.Name}
	switch fault {
	case evidence.Killed:
		err = victim.Kill()
	case evidence.Frozen:
		err = victim.Freeze()
	case evidence.CutOff:
		r.Victim = "all"
		err = w.crash(ctx, url)
	}
	if err != nil {
		return err
	}
	var since time.Time
	if err := w.conn.QueryRow(ctx, `select clock_timestamp() from (select pg_advisory_unlock_all()) u`).Scan(&since); err != nil {
		return err
	}
	if err := w.settle(ctx, &r, begun, since, r.Victim); err != nil {
		return err
	}
	switch fault {
	case evidence.Frozen:
		if err := w.thaw(ctx, victim); err != nil {
			return err
		}
	case evidence.Killed:
		w.replicas = slices.DeleteFunc(w.replicas, func(o *lab.Replica) bool { return o == victim })
		if !w.site.Quick {
			if err := w.start(ctx, url, 1); err != nil {
				return err
			}
		}
	}
	if err := w.count(ctx, &r); err != nil {
		return err
	}
	w.seen.Rounds = append(w.seen.Rounds, r)
	return nil
}

// crash has PostgreSQL start again, which ends every session.
func (w *watch) crash(ctx context.Context, url string) error {
	if err := w.site.Lab.Crash(ctx); err != nil {
		return err
	}
	again, err := pgx.Connect(ctx, url)
	if err == nil {
		w.conn = again
	}
	return err
}

// make makes things to do, and writes down which, at once.
func (w *watch) make(ctx context.Context, n int) error {
	if w.due == "" {
		return nil
	}
	return pgx.BeginFunc(ctx, w.conn, func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, w.due, n)
		keys, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `insert into lab_due select unnest($1::text[])`, keys)
		return err
	})
}

// parked waits for a replica that is held up in the middle of a change.
func (w *watch) parked(ctx context.Context) (*lab.Replica, error) {
	var victim *lab.Replica
	found, err := eventually(5*patience, func() (bool, error) {
		rows, _ := w.conn.Query(ctx, `
			select substr(application_name, 9) from pg_stat_activity
			where datname = current_database() and wait_event_type = 'Lock' and wait_event = 'advisory' and application_name like 'certctl %'
			order by 1`)
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || len(names) == 0 {
			return false, err
		}
		name := names[w.chance.IntN(len(names))]
		for _, r := range w.replicas {
			if r.Name == name {
				victim = r
			}
		}
		return victim != nil, nil
	})
	if err == nil && !found {
		err = errors.New("no replica began to do what was due")
	}
	return victim, err
}

// settle waits until all is done, or until the other replicas have passed again
// and left something.
func (w *watch) settle(ctx context.Context, r *evidence.LoopRoundSeen, begun, since time.Time, victim string) error {
	enough := -1 // passes after which what is done again would have been
	_, err := eventually(20*time.Second, func() (bool, error) {
		if err := w.count(ctx, r); err != nil {
			return false, err
		}
		var passes int
		if err := w.conn.QueryRow(ctx, `
			select count(*), count(distinct replica) from loop_runs
			where loop = $1 and replica <> $2 and started_at > $3 and finished_at is not null`, w.loop.Name, victim, since).Scan(&passes, &r.By); err != nil {
			return false, err
		}
		if w.after != "" && passes < 4 {
			return false, nil // there is something to count once others have passed
		}
		switch {
		case r.Never > 0:
			return passes >= 8 && time.Since(begun) > w.longEnough() && r.By > 1, nil
		case enough < 0:
			r.Took, enough = time.Since(begun).Milliseconds(), passes+3
		}
		return passes >= enough && r.By > 1, nil
	})
	if err == nil && enough < 0 && r.Never == 0 {
		err = errors.New("the other replicas do not pass again")
	}
	return err
}

// longEnough is when what is not done by others will not be.
func (w *watch) longEnough() time.Duration {
	switch {
	case w.lease == "":
		return 2 * time.Second
	case w.settings[w.lease] == tooLong.String():
		return 2 * tooLong
	}
	return tooLong // an attempt may have to be made again
}

// count compares what was due with what was done.
func (w *watch) count(ctx context.Context, r *evidence.LoopRoundSeen) error {
	due := `select key from lab_due`
	if w.after != "" {
		due = w.after
	}
	return w.conn.QueryRow(ctx, `
		with due as (`+due+`), done as (select key, count(*) as n from lab_done group by key)
		select (select count(*) from due),
			(select count(*) from due where key not in (select key from done)),
			(select count(*) from done where n > 1),
			(select count(*) from done where not $1 and key not in (select key from due))`, w.open).
		Scan(&r.Due, &r.Never, &r.Twice, &r.Beside)
}

// thaw lets a frozen replica go on, and waits until it passes again: what it would
// do on top of the others, it has done by then.
func (w *watch) thaw(ctx context.Context, victim *lab.Replica) error {
	var since time.Time
	if err := w.conn.QueryRow(ctx, `select clock_timestamp()`).Scan(&since); err != nil {
		return err
	}
	if err := victim.Thaw(); err != nil {
		return err
	}
	again, err := eventually(5*patience, func() (again bool, err error) {
		err = w.conn.QueryRow(ctx, `
			select exists (select from loop_runs where loop = $1 and replica = $2 and started_at > $3 and finished_at is not null)`,
			w.loop.Name, victim.Name, since).Scan(&again)
		return again, err
	})
	if err == nil && !again {
		err = errors.New("the replica does not pass again after it was frozen")
	}
	return err
}
