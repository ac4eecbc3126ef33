package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"certctl/server/metric"
	"certctl/server/pg"
)

// A Worker does the jobs of a kind.
type Worker struct {
	Kind *Spec

	do   func(context.Context, *Task) error
	died func(context.Context, pgx.Tx, []Dead) error
}

// Worker returns what does jobs of the kind k with do. A job whose worker
// returns nil has been done; one that returns Later is done later; any other
// error fails the attempt, and the job for good if the fault's kind says that
// the same call cannot succeed. died, which may be nil, runs in the transaction
// in which jobs of the kind go dead, before they do.
func (k Kind[A]) Worker(do func(context.Context, *Task, A) error, died func(context.Context, pgx.Tx, []Dead) error) Worker {
	return Worker{Kind: k.Spec, died: died, do: func(ctx context.Context, t *Task) error {
		var args A
		if err := json.Unmarshal(t.args, &args); err != nil {
			return fmt.Errorf("arguments of the job: %w", err)
		}
		return do(ctx, t, args)
	}}
}

// Dead is a job that has no attempt left.
type Dead struct {
	ID            string
	Token         int64  // of its last claim: a job that dies again has another
	CertificateID string // empty if the job is for none
	Args          json.RawMessage
	Error         string // of the last attempt, for callers
}

// A Runner does jobs on one replica.
type Runner struct {
	DB          *pgxpool.Pool
	Replica     string
	Workers     []Worker
	Concurrency int           // how many jobs at once
	Every       time.Duration // how often a pass that is busy looks for what others queued
	Lease       time.Duration
	Metrics     *metric.Set
	Log         *zap.Logger

	once sync.Once
	wake chan struct{}
}

// The outcomes of an attempt.
const (
	outcomeDone      = "done"
	outcomeFailed    = "failed"
	outcomeDead      = "dead"
	outcomeCancelled = "cancelled"
	outcomeLost      = "lost"
	outcomeLater     = "later" // not counted: it waits for something, or its replica stops
)

// Outcomes are the values of the outcome label of an attempt.
var Outcomes = []string{outcomeDone, outcomeFailed, outcomeDead, outcomeCancelled, outcomeLost, outcomeLater}

func (r *Runner) begin() {
	r.once.Do(func() {
		r.wake = make(chan struct{}, 1)
		for _, w := range r.Workers {
			for _, o := range Outcomes {
				r.Metrics.Init(metric.JobsEnded, w.Kind.Name, o)
			}
			r.Metrics.Init(metric.JobSeconds, w.Kind.Name)
		}
	})
}

// Wake says that this process has queued jobs, once they are committed. A pass
// looks for them at once; if there is none, what Woken returns gives something.
func (r *Runner) Wake() {
	r.begin()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Woken is what starts the next pass.
func (r *Runner) Woken() <-chan struct{} {
	r.begin()
	return r.wake
}

// claimFor is how long a pass claims jobs, which leaves it time to end them.
const claimFor = 30 * time.Minute

// Pass does jobs that are due until there is none, or until stopping is closed,
// and ends when those that it has begun have ended. It gives back those that are
// under way when ctx is cancelled. It returns how many attempts it has made.
func (r *Runner) Pass(ctx context.Context, stopping <-chan struct{}) (int, error) {
	r.begin()
	s := &shift{Runner: r, under: map[*Task]bool{}}
	rest := s.beat(ctx)
	defer rest()
	ended := make(chan struct{}, r.Concurrency)
	over := time.After(claimFor)
	tick := time.NewTicker(r.Every)
	defer tick.Stop()
	look, claiming, under, acted := true, true, 0, 0
	var failed error
	for {
		if free := r.Concurrency - under; look && free > 0 && claiming && ctx.Err() == nil && !closed(stopping) {
			var tasks []*Task
			tasks, failed = r.claim(ctx, free)
			look = false
			under += len(tasks)
			for _, t := range tasks {
				s.add(t)
				go func() {
					defer func() { ended <- struct{}{} }()
					s.attempt(t)
				}()
			}
		}
		if under == 0 {
			if !claiming {
				r.Wake() // the next pass goes on
			}
			return acted, failed
		}
		select {
		case <-ended:
			n := 1 + len(ended)
			for range n - 1 {
				<-ended
			}
			under, acted, look = under-n, acted+n, true
		case <-r.wake:
			look = true
		case <-tick.C:
			look = true
		case <-over:
			claiming = false
		}
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// claim takes jobs that are due, at most that many. It is not cut off by the
// end of ctx: what it had claimed then would be nobody's.
func (r *Runner) claim(ctx context.Context, most int) ([]*Task, error) {
	var kinds []string
	for _, w := range r.Workers {
		kinds = append(kinds, w.Kind.Name)
	}
	tasks := make([]*Task, most)
	for i := range tasks {
		tasks[i] = r.task(ctx)
	}
	claimed := 0
	defer func() {
		for _, t := range tasks[claimed:] {
			t.end()
		}
	}()
	own, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.Lease)
	defer cancel()
	rows, _ := r.DB.Query(own, claim, pgx.StrictNamedArgs{"kinds": kinds, "limit": most, "replica": r.Replica, "lease": r.Lease})
	_, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*Task, error) {
		t := tasks[claimed]
		claimed++
		return t, row.Scan(&t.ID, &t.Kind, &t.CertificateID, &t.args, &t.Progress, &t.Attempt, &t.attempts, &t.token, &t.timeout)
	})
	if err != nil {
		claimed = 0 // their leases run out
	}
	return tasks[:claimed], pg.Fault(err, "jobs")
}

func (r *Runner) task(ctx context.Context) *Task {
	t := &Task{db: r.DB, lease: r.Lease}
	t.ctx, t.lose = context.WithCancelCause(ctx)
	t.trust = t.begin()
	return t
}

// Reclaim takes jobs from replicas that stopped answering, and from attempts
// that did not end when their time was over. Nothing else does. A kind whose
// died fails stops no other one.
func (r *Runner) Reclaim(ctx context.Context) (int, error) {
	r.begin()
	total := 0
	var failed []error
	for _, w := range r.Workers {
		for {
			n, err := r.reclaim(ctx, w)
			total += n
			if err != nil {
				failed = append(failed, fmt.Errorf("%s: %w", w.Kind.Name, err))
			}
			if err != nil || n < batch {
				break
			}
		}
	}
	return total, errors.Join(failed...)
}

// reclaim takes a batch. Jobs change last, as in Task.inTx.
func (r *Runner) reclaim(ctx context.Context, w Worker) (int, error) {
	var ids, why []string
	var dead []Dead
	err := pg.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, overdue, pgx.StrictNamedArgs{"kind": w.Kind.Name, "lease": r.Lease, "limit": batch})
		jobs, err := pgx.CollectRows(rows, pgx.RowToStructByName[struct {
			Dead
			Last bool
		}])
		if err != nil || len(jobs) == 0 {
			return pg.Fault(err, "jobs")
		}
		for _, j := range jobs {
			ids, why = append(ids, j.ID), append(why, j.Error)
			if j.Last {
				dead = append(dead, j.Dead)
			}
		}
		if err := r.bury(ctx, tx, w, dead); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, takeAway, pgx.StrictNamedArgs{"ids": ids, "errors": why})
		return pg.Fault(err, "jobs")
	})
	if err != nil {
		return 0, err
	}
	r.Metrics.Add(metric.JobsEnded, float64(len(dead)), w.Kind.Name, outcomeDead)
	r.Metrics.Add(metric.JobsEnded, float64(len(ids)-len(dead)), w.Kind.Name, outcomeFailed)
	return len(ids), nil
}

// bury does what the end of jobs means.
func (r *Runner) bury(ctx context.Context, tx pgx.Tx, w Worker, dead []Dead) error {
	if w.died == nil || len(dead) == 0 {
		return nil
	}
	return r.protect(func() error { return w.died(ctx, tx, dead) }, zap.String("kind", w.Kind.Name))
}

// protect makes a panic of f an error.
func (r *Runner) protect(f func() error, fields ...zap.Field) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
			r.Log.Error("job panicked", append(fields, zap.Any("panic", v), zap.Stack("stack"))...)
		}
	}()
	return f()
}
