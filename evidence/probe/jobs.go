package probe

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/evidence"
	"certctl/evidence/lab"
	"certctl/server/api"
	"certctl/server/client"
	"certctl/server/config"
	"certctl/server/defect"
	"certctl/server/job"
)

// jobsProbe is the experiment with many certificates that are due at once.
var jobsProbe = Probe{
	Of: evidence.JobsOnce, Needs: []Need{Processes}, Look: lookJobs, Make: own,
	Controls: []Defect{
		{
			Says: "nothing keeps a certificate from having two open renewals",
			Turns: func(api.Declared) []string {
				return []string{evidence.QueuedOnce, evidence.DoneOnce, evidence.RenewedOnce, evidence.RenewedMore}
			},
			SQL: always(`drop index jobs_one_open_issuance_per_certificate`),
		},
		{
			Says:   "the result of a job is written, whoever has claimed it since",
			Turns:  func(api.Declared) []string { return []string{evidence.UnfencedByJob} },
			Switch: defect.UnfencedJob,
		},
	},
}

// renewing are settings under which replicas look for work all the time, and a
// killed one's jobs are soon the others'.
var renewing = map[string]string{
	config.RenewalCheckEvery.Name: "100ms",
	config.JobProcessorEvery.Name: "200ms",
	config.JobRetryEvery.Name:     "200ms",
	config.JobTimeoutEvery.Name:   "200ms",
	config.JobLease.Name:          "1s",
}

// renewers are replicas that renew certificates.
type renewers struct {
	*Site
	url      string
	conn     *pgx.Conn
	replicas []*lab.Replica
	seen     evidence.JobsSeen
}

func lookJobs(ctx context.Context, s *Site) (_ any, err error) {
	r := &renewers{Site: s, seen: evidence.JobsSeen{Due: s.times(onStage, 10_000), Planned: s.times(1, 50)}}
	defer func() {
		for _, one := range r.replicas {
			err = errors.Join(err, one.Kill())
		}
	}()
	if err := r.start(ctx); err != nil {
		return nil, err
	}
	defer r.conn.Close(ctx)
	if err := r.queue(ctx); err != nil {
		return nil, err
	}
	chance := s.chance("jobs")
	for i := range r.seen.Planned {
		if err := r.kill(ctx, i, chance); err != nil {
			return nil, err
		}
		if i%5 == 4 {
			if err := r.take(ctx); err != nil {
				return nil, err
			}
		}
	}
	settled := func() (bool, error) {
		err := r.conn.QueryRow(ctx, `
			select (select count(*) from jobs where state = any($1)) + (select count(*) from certificates where renew_at <= clock_timestamp())`,
			open()).Scan(&r.seen.Open)
		return r.seen.Open == 0, err
	}
	if _, err := eventually(time.Duration(s.times(20, 300))*time.Second, settled); err != nil {
		return nil, err
	}
	return r.seen, r.count(ctx)
}

// open are the states of jobs that have not ended.
func open() (names []string) {
	for _, s := range job.States() {
		if !slices.Contains([]*job.State{job.Done, job.GivenUp, job.Cancelled}, s) {
			names = append(names, s.Name)
		}
	}
	return names
}

// queueing is the lock that a statement waits for that queues jobs, after it has
// seen which certificates are due.
const queueing = 4711

func (r *renewers) start(ctx context.Context) (err error) {
	if r.url, err = r.database(ctx); err != nil {
		return err
	}
	park := fmt.Sprintf(`
		create function park() returns trigger language plpgsql as $$
		begin
			perform pg_advisory_xact_lock(%d);
			return null;
		end $$;
		create trigger park before insert on jobs for each statement execute function park();`, queueing)
	if err := r.on(r.url).alter(ctx, park+r.Altered); err != nil {
		return err
	}
	for range threeOfThem {
		if err := r.add(ctx); err != nil {
			return err
		}
	}
	if !r.Quick {
		if err := r.issue(ctx); err != nil {
			return err
		}
	}
	r.conn, err = pgx.Connect(ctx, r.url)
	return err
}

// database is an empty one, or one with certificates where those that there are
// will do.
func (r *renewers) database(ctx context.Context) (string, error) {
	if r.Quick {
		staged, err := r.staged(ctx)
		if err != nil {
			return "", err
		}
		return r.Lab.Clone(ctx, staged.Database)
	}
	url, err := r.Lab.Database(ctx)
	if err == nil {
		err = r.Lab.Migrate(ctx, url)
	}
	return url, err
}

func (r *renewers) add(ctx context.Context) error {
	settings := maps.Clone(renewing)
	maps.Copy(settings, r.With)
	one, err := r.Lab.Server(ctx, r.url, settings)
	if err != nil {
		return err
	}
	r.replicas = append(r.replicas, one)
	r.seen.PIDs = append(r.seen.PIDs, one.Process.Pid)
	return nil
}

// issue has the certificates issued, in batches.
func (r *renewers) issue(ctx context.Context) error {
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
	c = c.With(admin.Secret)
	request, err := lab.Estate(ctx, c, "due", nil)
	if err != nil {
		return err
	}
	const batch = 250
	for from := 0; from < r.seen.Due; from += batch {
		in := &api.NewCertificates{}
		for i := from; i < min(from+batch, r.seen.Due); i++ {
			request.Name, request.SANs = fmt.Sprintf("due %d", i), []string{inside}
			in.Body.Requests = append(in.Body.Requests, request)
		}
		made, err := client.Do(ctx, c, api.IssueCertificates, in)
		if err == nil && made.Issued != len(in.Body.Requests) {
			err = errors.New("not every certificate was issued")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// queue makes the certificates due, has the statement of each replica that queues
// them see that none has a job, and lets these go on one after the other. Jobs are
// taken meanwhile from those that do the first ones.
func (r *renewers) queue(ctx context.Context) error {
	early, err := pgx.Connect(ctx, r.url)
	if err != nil {
		return err
	}
	defer early.Close(ctx)
	late, err := pgx.Connect(ctx, r.url)
	if err != nil {
		return err
	}
	defer late.Close(ctx)
	if _, err := early.Exec(ctx, `select pg_advisory_lock($1)`, queueing); err != nil {
		return err
	}
	if err := r.queueUp(ctx, threeOfThem); err != nil {
		return err
	}
	// Those have seen that nothing is due. Who waits behind them lets the next ones
	// wait, which see what is.
	if _, err := r.conn.Exec(ctx, `update certificates set renew_at = clock_timestamp()`); err != nil {
		return err
	}
	locked := make(chan error, 1)
	go func() {
		_, err := late.Exec(ctx, `select pg_advisory_lock($1)`, queueing)
		locked <- err
	}()
	if err := r.queueUp(ctx, threeOfThem+1); err != nil {
		return errors.Join(err, early.Close(ctx), <-locked)
	}
	if err := early.Close(ctx); err != nil {
		return err
	}
	if err := <-locked; err != nil {
		return err
	}
	if err := r.queueUp(ctx, threeOfThem); err != nil {
		return err
	}
	return r.taking(ctx, func() error { return late.Close(ctx) })
}

// queueUp waits until so many wait for the lock.
func (r *renewers) queueUp(ctx context.Context, n int) error {
	return soon(ctx, 5*time.Millisecond, "not every replica queues", func() (bool, error) {
		err := r.conn.QueryRow(ctx, `
			select count(*) from pg_locks l join pg_database d on d.oid = l.database
			where d.datname = current_database() and l.locktype = 'advisory' and l.objid = $1 and not l.granted`, queueing).Scan(&r.seen.Overlap)
		return r.seen.Overlap == n, err
	})
}

// take takes jobs from replicas that do them.
func (r *renewers) take(ctx context.Context) error { return r.taking(ctx, nothing) }

// taking holds attempts up, does something, and takes those jobs that are held up.
func (r *renewers) taking(ctx context.Context, meanwhile func() error) error {
	r.seen.Takings++
	return pgx.BeginFunc(ctx, r.conn, func(tx pgx.Tx) error {
		// An attempt reads its certificate's profile before it writes anything.
		if _, err := tx.Exec(ctx, `lock table profiles in access exclusive mode`); err != nil {
			return err
		}
		if err := meanwhile(); err != nil {
			return err
		}
		taken := func() (bool, error) {
			tag, err := tx.Exec(ctx, `
				with running as (
					select id from jobs where state = $1 and leased_until > clock_timestamp() and worker <> $2
					for no key update skip locked
				)
				update jobs set token = token + 1, worker = $2, leased_until = clock_timestamp() + interval '1 second'
				from running where jobs.id = running.id`, job.Running.Name, taker)
			r.seen.Taken += int(tag.RowsAffected())
			return tag.RowsAffected() > 0, err
		}
		return soon(ctx, 20*time.Millisecond, "no job is done", taken)
	})
}

// kill ends a replica once so many certificates were renewed, and starts another.
func (r *renewers) kill(ctx context.Context, nth int, chance *rand.Rand) error {
	share := r.seen.Due / (r.seen.Planned + 1)
	at := nth*share + chance.IntN(share)
	renewed := func() (bool, error) {
		var n int
		err := r.conn.QueryRow(ctx, `select count(*) from certificate_versions where number > 1`).Scan(&n)
		return n >= at, err
	}
	if err := soon(ctx, 10*time.Millisecond, "renewals do not go on", renewed); err != nil {
		return err
	}
	i := chance.IntN(len(r.replicas))
	if err := r.replicas[i].Kill(); err != nil {
		return err
	}
	r.replicas = slices.Delete(r.replicas, i, i+1)
	r.seen.Kills++
	return r.add(ctx)
}

func (r *renewers) count(ctx context.Context) error {
	return r.conn.QueryRow(ctx, `
		with renewals as (select * from jobs where kind = $1),
		done as (select certificate_id, count(*) from renewals where state = $2 group by certificate_id),
		later as (select certificate_id, max(number) as newest, count(*) from certificate_versions where number > 1 group by certificate_id)
		select (select count(*) from renewals),
			(select count(*) from done where count = 1),
			(select count(*) from later where newest = 2),
			(select coalesce(sum(count - 1), 0) from later),
			(select count(*) from later where not exists (select from done where done.certificate_id = later.certificate_id)),
			(select count(*) from renewals where state = $2 and worker = $3)`,
		job.Renew.Name, job.Done.Name, taker).
		Scan(&r.seen.Jobs, &r.seen.Done, &r.seen.Renewed, &r.seen.Further, &r.seen.Jobless, &r.seen.Unfenced)
}
