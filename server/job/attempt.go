package job

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"certctl/server/fault"
	"certctl/server/metric"
	"certctl/server/pg"
)

// A shift is the jobs that one pass has under way.
type shift struct {
	*Runner

	mu    sync.Mutex
	under map[*Task]bool
}

// beat extends the leases of all jobs under way, until the returned function is
// called.
func (s *shift) beat(ctx context.Context) (rest func()) {
	ctx = context.WithoutCancel(ctx) // those that are given back need it too
	resting := make(chan struct{})
	var heart sync.WaitGroup
	heart.Go(func() {
		tick := time.NewTicker(s.Lease / 4)
		defer tick.Stop()
		for {
			select {
			case <-resting:
				return
			case <-tick.C:
				s.extend(ctx)
			}
		}
	})
	return func() { close(resting); heart.Wait() }
}

func (s *shift) extend(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, s.Lease)
	defer cancel()
	var ids []string
	var tokens []int64
	trust := map[*Task]*time.Timer{}
	for _, t := range s.tasks() {
		if t.beats() {
			trust[t] = t.begin()
			ids, tokens = append(ids, t.ID), append(tokens, t.token)
		}
	}
	if len(ids) == 0 {
		return
	}
	type claim struct {
		ID    string
		Token int64
	}
	rows, _ := s.DB.Query(ctx, beat, pgx.StrictNamedArgs{"ids": ids, "tokens": tokens, "lease": s.Lease})
	lost, err := pgx.CollectRows(rows, pgx.RowToStructByPos[claim])
	if err != nil {
		s.Log.Warn("leases of jobs not extended", zap.Int("jobs", len(ids)), zap.Error(err))
	}
	for t, timer := range trust {
		if err != nil {
			timer.Stop()
		} else {
			t.beaten(timer, slices.Contains(lost, claim{t.ID, t.token}))
		}
	}
}

func (s *shift) add(t *Task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.under[t] = true
}

func (s *shift) remove(t *Task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.under, t)
}

func (s *shift) tasks() []*Task {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.under))
}

var errTooLong = errors.New("the attempt has used up its time")

// attempt does a job and writes down what became of it.
func (s *shift) attempt(t *Task) {
	defer t.end()
	defer s.remove(t)
	ctx, cancel := context.WithTimeoutCause(t.ctx, t.timeout, errTooLong)
	defer cancel()
	w := s.Workers[slices.IndexFunc(s.Workers, func(w Worker) bool { return w.Kind.Name == t.Kind })]
	begun := time.Now()
	err := s.protect(func() error { return w.do(ctx, t) }, t.fields()...)
	outcome := s.finish(ctx, w, t, err)
	s.Metrics.Add(metric.JobsEnded, 1, t.Kind, outcome)
	s.Metrics.Observe(metric.JobSeconds, time.Since(begun).Seconds(), t.Kind)
}

// finish writes down how an attempt ended, in a time of its own.
func (s *shift) finish(ctx context.Context, w Worker, t *Task, err error) (outcome string) {
	own, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	later, waits := errors.AsType[Later](err)
	switch {
	case t.done:
		if err != nil {
			s.Log.Warn("job done, and its worker failed", append(t.fields(), zap.Error(err))...)
		}
		return outcomeDone
	case err == nil:
		outcome, err = outcomeDone, t.Complete(own, nil)
	case errors.Is(err, ErrLost): // there is nothing to write
	case waits:
		outcome, err = outcomeLater, t.giveBack(own, max(later.After, time.Second))
	case fault.Of(err).Retry && errors.Is(ctx.Err(), context.Canceled): // the replica stops, or does not reach the database
		outcome, err = outcomeLater, t.giveBack(own, 0)
	default:
		outcome, err = s.fail(ctx, own, w, t, err)
	}
	switch {
	case errors.Is(err, ErrLost):
		outcome = s.ending(own, t)
		s.Log.Warn("job lost", append(t.fields(), zap.String("outcome", outcome))...)
	case err != nil: // its lease runs out
		outcome = outcomeLost
		s.Log.Error("end of a job not recorded", append(t.fields(), zap.Error(err))...)
	}
	return outcome
}

func (s *shift) fail(ctx, own context.Context, w Worker, t *Task, err error) (outcome string, _ error) {
	refused := !fault.Of(err).Retry
	if !refused && ctx.Err() != nil {
		err = &fault.Error{Kind: fault.Timeout, Msg: "the attempt took longer than its time", Err: err}
	}
	s.Log.Warn("job failed", append(t.fields(), zap.Error(err))...)
	why := shown(err)
	if !refused && t.Attempt < t.attempts {
		return outcomeFailed, t.move(own, fail, pgx.StrictNamedArgs{"id": t.ID, "token": t.token, "error": why})
	}
	return outcomeDead, t.inTx(own, func(tx pgx.Tx) error {
		return s.bury(own, tx, w, []Dead{{t.ID, t.token, t.CertificateID, t.args, why}})
	}, func(tx pgx.Tx) error {
		_, err := tx.Exec(own, die, pgx.StrictNamedArgs{"id": t.ID, "error": why})
		return pg.Fault(err, "job")
	})
}

// shown is what callers may read of err, as a column can hold it.
func shown(err error) string {
	s := fault.Shown(err)
	return strings.ToValidUTF8(strings.ReplaceAll(s[:min(len(s), 8<<10)], "\x00", ""), "")
}

// ending says what became of a job that was lost.
func (s *shift) ending(ctx context.Context, t *Task) string {
	var state string
	err := s.DB.QueryRow(ctx, ending, pgx.StrictNamedArgs{"id": t.ID, "token": t.token}).Scan(&state)
	switch {
	case err == nil && state == Cancelled.Name:
		return outcomeCancelled
	case err == nil && state == Done.Name: // the answer to the commit got lost
		return outcomeDone
	}
	return outcomeLost
}
