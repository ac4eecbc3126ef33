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

	"certctl/server/defect"
	"certctl/server/pg"
)

// ErrLost says that the job is no longer this attempt's: its lease ran out, or
// somebody cancelled it. Nothing that the attempt tried to write after that has
// landed.
var ErrLost = errors.New("the job is no longer this attempt's")

// Later is the error of a worker whose job waits for something outside. The job
// is done again after that time, a second at least, and the attempt is not
// counted.
type Later struct{ After time.Duration }

func (l Later) Error() string { return fmt.Sprintf("to go on in %s", l.After) }

// A Task is one attempt of a job. Its methods are for one goroutine.
type Task struct {
	ID            string
	Kind          string
	CertificateID string          // empty if the job is for none
	Attempt       int             // from 1
	Progress      json.RawMessage // what the attempt before left

	args     json.RawMessage
	attempts int // that it has
	token    int64
	timeout  time.Duration

	db    *pgxpool.Pool
	lease time.Duration
	ctx   context.Context // of the attempt
	lose  context.CancelCauseFunc
	done  bool // Complete has committed

	mu     sync.Mutex
	trust  *time.Timer // expires when the lease may be over
	fenced bool        // its row is locked: nobody can take it, whatever becomes of the lease
}

// Complete runs f, which may be nil, in a transaction that ends the job, if it
// is still this attempt's; else it returns ErrLost and nothing is written.
func (t *Task) Complete(ctx context.Context, f func(pgx.Tx) error) error {
	err := t.inTx(ctx, f, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, complete, pgx.StrictNamedArgs{"id": t.ID})
		return pg.Fault(err, "job")
	})
	if err != nil {
		t.open()
	}
	t.done = t.done || err == nil
	return err
}

// Save runs f, which may be nil, in a transaction that commits if the job is
// still this attempt's, and leaves progress for the next attempt. What was left
// before stays if progress is nil. Else it returns ErrLost and nothing is
// written.
func (t *Task) Save(ctx context.Context, progress any, f func(pgx.Tx) error) error {
	var text *string
	if progress != nil {
		raw, err := json.Marshal(progress)
		if err != nil {
			return fmt.Errorf("progress of the job: %w", err)
		}
		s := string(raw)
		text = &s
	}
	err := t.inTx(ctx, f, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, save, pgx.StrictNamedArgs{"id": t.ID, "progress": text, "lease": t.lease})
		return pg.Fault(err, "job")
	})
	t.open()
	if err == nil && text != nil {
		t.Progress = json.RawMessage(*text)
	}
	return err
}

// inTx runs f and then last behind the fence. The job changes last: whoever has
// locked the certificate and looks whether it has an open job waits for nothing
// then, or the two would wait for each other.
func (t *Task) inTx(ctx context.Context, f, last func(pgx.Tx) error) error {
	err := pg.InTx(ctx, t.db, func(tx pgx.Tx) error {
		var held bool
		err := tx.QueryRow(ctx, fence, pgx.StrictNamedArgs{"id": t.ID, "token": t.token}).Scan(&held)
		switch {
		case errors.Is(err, pgx.ErrNoRows) && defect.On && defect.Is(defect.UnfencedJob):
		case errors.Is(err, pgx.ErrNoRows):
			return ErrLost
		case err != nil:
			return pg.Fault(err, "job")
		}
		t.close()
		if f != nil {
			if err := f(tx); err != nil {
				return err
			}
		}
		return last(tx)
	})
	if err != nil && errors.Is(context.Cause(ctx), ErrLost) {
		err = ErrLost
	}
	return err
}

// giveBack makes the job pending again.
func (t *Task) giveBack(ctx context.Context, after time.Duration) error {
	return t.move(ctx, giveBack, pgx.StrictNamedArgs{"id": t.ID, "token": t.token, "after": after})
}

// move runs a statement that is guarded by itself.
func (t *Task) move(ctx context.Context, sql string, args pgx.StrictNamedArgs) error {
	tag, err := t.db.Exec(ctx, sql, args)
	if err == nil && tag.RowsAffected() == 0 {
		return ErrLost
	}
	return pg.Fault(err, "job")
}

func (t *Task) fields() []zap.Field {
	return []zap.Field{
		zap.String("job", t.ID), zap.String("kind", t.Kind), zap.String("certificate", t.CertificateID), zap.Int("attempt", t.Attempt),
	}
}

// begin trusts a lease. Trust that begins before the statement is sent that
// grants or extends the lease ends before the lease does.
func (t *Task) begin() *time.Timer { return time.AfterFunc(t.lease, t.expire) }

// expire loses the job, unless its row is locked.
func (t *Task) expire() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.fenced {
		t.lose(ErrLost)
	}
}

func (t *Task) renew(trust *time.Timer) {
	t.trust.Stop()
	t.trust = trust
}

func (t *Task) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fenced = true
}

// open ends what close began. Trust goes on: if the lease ran out meanwhile,
// the next heartbeat says so.
func (t *Task) open() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fenced = false
	t.renew(t.begin())
}

// beaten takes the news of a heartbeat: the lease was extended, or is lost. A
// heartbeat leaves a locked row alone.
func (t *Task) beaten(trust *time.Timer, lost bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.fenced:
		trust.Stop()
	case lost:
		trust.Stop()
		t.lose(ErrLost)
	default:
		t.renew(trust)
	}
}

// beats reports whether a heartbeat is to extend the lease. Of a locked row it
// would say what is no longer so when the lock is gone.
func (t *Task) beats() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.fenced
}

// end stops everything about the task.
func (t *Task) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.trust.Stop()
	t.lose(nil)
}
