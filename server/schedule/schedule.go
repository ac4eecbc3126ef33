// Package schedule runs the server's periodic work, on any number of replicas.
package schedule

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"certctl/server/config"
	"certctl/server/defect"
	"certctl/server/metric"
	"certctl/server/pg"
	"certctl/server/table"
)

// A Loop is one kind of periodic work. Its fields are the whole contract: the
// runner, the documentation and the receipts read nothing else.
type Loop struct {
	Name    string
	Does    string
	Every   *config.Key[time.Duration]
	Timeout time.Duration // of one pass
	HA      HA
	Why     string // of the class
	Effects string // what a pass can change, in words
}

// HA is a class of loops: how a loop keeps several replicas from doing its
// work twice.
type HA string

// The classes. None lets replicas repeat effects.
const (
	OneReplica HA = "one-replica" // a lease with a fencing token
	Claimed    HA = "claimed"     // rows are taken with a lock, or a lease, that others skip
	Atomic     HA = "atomic"      // one guarded statement
)

var loops = table.By(func(l *Loop) string { return l.Name })

// All returns every loop, in declaration order.
func All() []*Loop { return loops.Rows() }

// A Binding gives a loop the function that does one pass and reports how many
// things it acted on.
type Binding struct {
	Loop *Loop
	Run  func(context.Context, *Pass) (int, error)

	wake <-chan struct{}
}

// Do binds run to l.
func (l *Loop) Do(run func(context.Context, *Pass) (int, error)) Binding {
	return Binding{Loop: l, Run: run}
}

// WokenBy returns a binding whose next pass begins as soon as c gives
// something. A one-replica loop takes no notice: it is due when its lease says.
func (b Binding) WokenBy(c <-chan struct{}) Binding {
	b.wake = c
	return b
}

// A Pass is one run of a loop.
type Pass struct {
	Token int64 // the fencing token; 0 for a loop that runs on every replica

	db       *pgxpool.Pool
	loop     string
	ttl      time.Duration
	stopping <-chan struct{}
}

// Stopping is closed once the runner was told to stop: a pass that has more to
// do ends soon after, and leaves the rest. Its context ends later, if it does not.
func (p *Pass) Stopping() <-chan struct{} { return p.stopping }

// ErrLost says that another replica may hold the loop by now. Nothing that the
// pass tried to write after losing it has landed.
var ErrLost = errors.New("the lease was lost to another replica")

// InTx runs f in a transaction that commits only while the pass still holds
// its loop: it keeps the lease's row from being taken until it ends.
func (p *Pass) InTx(ctx context.Context, f func(pgx.Tx) error) error {
	return pg.InTx(ctx, p.db, func(tx pgx.Tx) error {
		if p.Token != 0 {
			// A process that freezes in here would keep the row for ever; its
			// idle session ends after one lease instead.
			var held bool
			err := tx.QueryRow(ctx, fence, pgx.StrictNamedArgs{
				"name": p.loop, "token": p.Token, "idle": milliseconds(p.ttl),
			}).Scan(&held)
			switch {
			case errors.Is(err, pgx.ErrNoRows) && defect.On && defect.Is(defect.UnfencedLoop):
			case errors.Is(err, pgx.ErrNoRows):
				return ErrLost
			case err != nil:
				return fmt.Errorf("check the lease: %w", err)
			}
		}
		return f(tx)
	})
}

// A Runner runs loops until its context ends.
type Runner struct {
	DB       *pgxpool.Pool
	Replica  string
	Settings config.Values
	Metrics  *metric.Set
	Log      *zap.Logger
	Bindings []Binding
}

// Run returns once ctx has ended and every loop has finished its pass, or
// once the passes' own context hard has ended too.
func (r *Runner) Run(ctx, hard context.Context) {
	for _, b := range r.Bindings {
		for _, o := range Outcomes {
			r.Metrics.Init(metric.LoopPasses, b.Loop.Name, o)
		}
		r.Metrics.Init(metric.LoopActed, b.Loop.Name)
		r.Metrics.Init(metric.LoopSeconds, b.Loop.Name)
	}
	var wg sync.WaitGroup
	for _, b := range r.Bindings {
		wg.Go(func() { r.repeat(ctx, hard, b) })
	}
	wg.Wait()
}

// The outcomes of a pass.
const (
	outcomeOK   = "ok"
	outcomeFail = "failed"
	outcomeLost = "lost"
)

// Outcomes are the values of the outcome label of a pass.
var Outcomes = []string{outcomeOK, outcomeFail, outcomeLost}

// repeat runs passes one after another, so a loop cannot overlap itself and a
// slow pass only delays its own next one.
func (r *Runner) repeat(ctx, hard context.Context, b Binding) {
	every := b.Loop.Every.In(r.Settings)
	wake := b.wake
	if b.Loop.HA == OneReplica {
		wake = nil
	}
	wait := time.Duration(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-time.After(wait):
		}
		if ctx.Err() != nil {
			return // both were ready
		}
		if b.Loop.HA == OneReplica {
			wait = r.take(ctx, hard, b, every)
		} else {
			r.everywhere(ctx, hard, b)
			wait = jitter(every)
		}
	}
}

// take runs a pass if the loop is due and no replica holds it. It returns how
// long to wait before trying again.
func (r *Runner) take(ctx, hard context.Context, b Binding, every time.Duration) time.Duration {
	ttl := config.LeaseTTL.In(r.Settings)
	pass, lose := context.WithCancelCause(hard)
	defer lose(nil)
	trust := time.AfterFunc(ttl, func() { lose(ErrLost) })
	defer func() { trust.Stop() }()
	var token *int64
	var wait time.Duration
	var held bool
	// Not under ctx: a lease that was granted as ctx ended would be nobody's.
	err := r.DB.QueryRow(pass, acquire, pgx.StrictNamedArgs{
		"name": b.Loop.Name, "replica": r.Replica, "ttl": ttl,
	}).Scan(&token, &wait, &held)
	switch {
	case err != nil && ctx.Err() != nil:
		return 0
	case err != nil:
		r.Log.Error("lease not taken", zap.String("loop", b.Loop.Name), zap.Error(err))
		return jitter(ttl)
	case token == nil:
		if held {
			wait = min(wait, soon) // it can be given back at any time
		}
		return jitter(min(max(wait, ttl/20), longestSleep))
	}
	p := &Pass{Token: *token, db: r.DB, loop: b.Loop.Name, ttl: ttl, stopping: ctx.Done()}
	stop := r.keep(pass, lose, p, trust)
	acted, took, err := r.pass(pass, b, p)
	stop()
	r.finish(hard, p, release, pgx.StrictNamedArgs{
		"name": b.Loop.Name, "token": p.Token, "every": jitter(every), "acted": acted, "error": message(err),
	})
	r.report(b, acted, took, err)
	return 0
}

// longestSleep is how late a replica may notice that a due time was moved, and soon
// how late that a holder has given its loop back long before its lease is over.
const (
	longestSleep = 30 * time.Second
	soon         = 100 * time.Millisecond
)

// keep renews the lease until the returned function is called. It cancels the
// pass when the lease is gone, or when trust, which began before the lease was
// asked for, ends without a renewal.
func (r *Runner) keep(ctx context.Context, lose context.CancelCauseFunc, p *Pass, trust *time.Timer) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { trust.Stop() }()
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(p.ttl / 4):
			}
			// The lease runs from when the database gets the statement: trust
			// that begins before it is sent ends before the lease does.
			next := time.AfterFunc(p.ttl, func() { lose(ErrLost) })
			tag, err := p.db.Exec(ctx, renew, pgx.StrictNamedArgs{"name": p.loop, "token": p.Token, "ttl": p.ttl})
			switch {
			case err == nil && tag.RowsAffected() == 0:
				next.Stop()
				lose(ErrLost)
				return
			case err == nil:
				trust.Stop()
				trust = next
			default:
				next.Stop()
			}
		}
	}()
	return func() { cancel(); <-done }
}

// everywhere runs a pass of a loop that may run on several replicas at once.
func (r *Runner) everywhere(ctx, hard context.Context, b Binding) {
	var id int64
	err := r.DB.QueryRow(ctx, start, pgx.StrictNamedArgs{"name": b.Loop.Name, "replica": r.Replica}).Scan(&id)
	if err != nil {
		if ctx.Err() == nil {
			r.Log.Error("pass not begun", zap.String("loop", b.Loop.Name), zap.Error(err))
		}
		return
	}
	p := &Pass{db: r.DB, loop: b.Loop.Name, stopping: ctx.Done()}
	acted, took, err := r.pass(hard, b, p)
	r.finish(hard, p, end, pgx.StrictNamedArgs{"id": id, "acted": acted, "error": message(err)})
	r.report(b, acted, took, err)
}

func (r *Runner) pass(ctx context.Context, b Binding, p *Pass) (acted int, took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.Loop.Timeout)
	defer cancel()
	begin := time.Now()
	defer func() {
		took = time.Since(begin)
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
			r.Log.Error("pass panicked", zap.String("loop", b.Loop.Name), zap.Any("panic", v), zap.Stack("stack"))
		}
		if err != nil && errors.Is(context.Cause(ctx), ErrLost) {
			err = ErrLost
		}
	}()
	acted, err = b.Run(ctx, p)
	return acted, took, err
}

// finish writes the end of a pass. It has its own time, for a pass may have
// used up all of its own.
func (r *Runner) finish(hard context.Context, p *Pass, sql string, args pgx.StrictNamedArgs) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(hard), 5*time.Second)
	defer cancel()
	if _, err := r.DB.Exec(ctx, sql, args); err != nil {
		r.Log.Error("end of pass not recorded", zap.String("loop", p.loop), zap.Error(err))
	}
}

func (r *Runner) report(b Binding, acted int, took time.Duration, err error) {
	outcome := outcomeOK
	switch {
	case errors.Is(err, ErrLost):
		outcome = outcomeLost
		r.Log.Warn("pass given up", zap.String("loop", b.Loop.Name), zap.Error(err))
	case err != nil:
		outcome = outcomeFail
		r.Log.Error("pass failed", zap.String("loop", b.Loop.Name), zap.Error(err))
	}
	r.Metrics.Add(metric.LoopPasses, 1, b.Loop.Name, outcome)
	r.Metrics.Add(metric.LoopActed, float64(acted), b.Loop.Name)
	r.Metrics.Observe(metric.LoopSeconds, took.Seconds(), b.Loop.Name)
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%dms", d.Milliseconds()) }

// jitter spreads loops that share a period over a tenth of it.
func jitter(d time.Duration) time.Duration {
	return d + time.Duration((rand.Float64()-0.5)*0.1*float64(d))
}
