package probe

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"strconv"

	"certctl/evidence"
	"certctl/evidence/lab"
	"certctl/server/api"
	"certctl/server/client"
	"certctl/server/job"
	"certctl/server/metric"
)

// taker is who takes a job, by hand.
const taker = "another"

// lookLease takes a job from a replica that is held up in the middle of it, and
// waits until the replica says what became of its attempt.
func lookLease(ctx context.Context, s *Site) (any, error) {
	request, err := lab.Estate(ctx, s.Admin, unique("leased"), nil)
	if err != nil {
		return nil, err
	}
	in := &api.NewCertificate{Body: request}
	in.Body.Name, in.Body.SANs = unique("leased"), []string{inside}
	issued, err := client.Do(ctx, s.Admin, api.IssueCertificate, in)
	if err != nil {
		return nil, err
	}
	before, err := s.outcomes(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	// An attempt reads its certificate's profile, and a call that queues it does
	// not.
	hold, err := conn.Begin(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = hold.Rollback(ctx) }() // it may have been committed
	if _, err := hold.Exec(ctx, `lock table profiles in access exclusive mode`); err != nil {
		return nil, err
	}
	queued, err := client.Do(ctx, s.Admin, api.RenewCertificate, &api.OneToRenew{ID: issued.Certificate.ID})
	if err != nil {
		return nil, err
	}
	if err := s.awaitJobs(ctx, []string{queued.JobID}, job.Running); err != nil {
		return nil, err
	}
	j, err := client.Do(ctx, s.Admin, api.GetJob, &api.OneJob{ID: queued.JobID})
	if err != nil {
		return nil, err
	}
	seen := evidence.LeaseSeen{Began: j.Worker, Taker: taker, Outcomes: map[string]int{}}
	if _, err := hold.Exec(ctx, `
		update jobs set token = token + 1, worker = $2, leased_until = clock_timestamp() + interval '1 hour' where id = $1`,
		queued.JobID, taker); err != nil {
		return nil, err
	}
	if err := hold.Commit(ctx); err != nil {
		return nil, err
	}
	ended, err := eventually(2*patience, func() (bool, error) {
		now, err := s.outcomes(ctx)
		for o, n := range now {
			if n > before[o] {
				seen.Outcomes[o] = n - before[o]
			}
		}
		return len(seen.Outcomes) > 0, err
	})
	if err == nil && !ended {
		err = fmt.Errorf("the replica %s did not end its attempt", seen.Began)
	}
	if err != nil {
		return nil, err
	}
	if j, err = client.Do(ctx, s.Admin, api.GetJob, &api.OneJob{ID: queued.JobID}); err != nil {
		return nil, err
	}
	versions, err := client.Do(ctx, s.Admin, api.ListVersions, &api.OneCertificate{ID: issued.Certificate.ID})
	if err != nil {
		return nil, err
	}
	seen.State, seen.Worker, seen.Versions = j.State, j.Worker, len(versions.Items)
	if j.State == job.Running.Name { // a copy of the database would go on with it
		_, err = client.Do(ctx, s.Admin, api.CancelJob, &api.OneJob{ID: queued.JobID})
	}
	return seen, err
}

var ended = regexp.MustCompile(`(?m)^` + metric.JobsEnded.Name + `\{kind="` + job.Renew.Name + `",outcome="([a-z]+)"\} ([0-9]+)$`)

// outcomes are what the replica says became of its attempts to renew.
func (s *Site) outcomes(ctx context.Context) (map[string]int, error) {
	body, err := s.Admin.Get(ctx, api.Metrics)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	text, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	found := map[string]int{}
	for _, m := range ended.FindAllStringSubmatch(string(text), -1) {
		if found[m[1]], err = strconv.Atoi(m[2]); err != nil {
			return nil, err
		}
	}
	return found, nil
}

const untakeable = `
	create function keep() returns trigger language plpgsql as $$
	begin
		return old;
	end $$;
	create trigger keep before update on jobs for each row when (new.worker = '` + taker + `') execute function keep()`
