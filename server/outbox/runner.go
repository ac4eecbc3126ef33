package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"certctl/server/fault"
	"certctl/server/metric"
	"certctl/server/pg"
)

// A Delivery is one attempt to send a notification.
type Delivery struct {
	ID         string
	Token      int64
	Attempt    int // from 1
	Event      string
	Severity   string
	At         time.Time // when it happened
	Now        time.Time // when this attempt was claimed, by the database's clock
	Data       json.RawMessage
	Recipients []string
	Delivered  []string // addresses of those who have it already, as the replies before said

	ChannelID       string
	ChannelType     string
	ChannelRevision int64
	ChannelSettings []byte // sealed

	left func() time.Duration // of the lease
}

// A Reply is what there is to know of an attempt beside its error.
type Reply struct {
	Wait   time.Duration // how long the receiver asks to be left alone after an error that is not final
	Done   []string      // of several recipients, addresses of those who have it now
	Partly bool          // the error is of some of several recipients, and all others have it
}

// Dead is a notification that was given up.
type Dead struct {
	ID        string
	Event     string
	ChannelID string
	Error     string // of the last attempt, for callers
}

// A Runner sends notifications on one replica.
type Runner struct {
	DB      *pgxpool.Pool
	Replica string

	// Send sends one. An error whose fault says that the same call cannot succeed
	// later has it given up, unless it is of some recipients only.
	Send func(ctx context.Context, d *Delivery) (Reply, error)

	// Buried runs in the transaction that has given notifications up.
	Buried func(ctx context.Context, tx pgx.Tx, dead []Dead) error

	Concurrency int           // how many sends at once
	PerChannel  int           // how many of them through one channel
	Every       time.Duration // how often a pass that is busy looks for what others queued
	Lease       time.Duration // a send may take three quarters of it
	Attempts    int           // how often one is tried
	RetryAfter  time.Duration // the first attempt; the wait grows fourfold from then on
	Types       []string      // of channels that Send knows; no other is sent through
	Metrics     *metric.Set
	Log         *zap.Logger

	once sync.Once
	wake chan struct{}
}

// The outcomes of an attempt.
const (
	outcomeSent   = "sent"
	outcomeFailed = "failed"
	outcomeDead   = "dead"
	outcomeLost   = "lost"  // its lease ran out
	outcomeLater  = "later" // not counted: its replica stops
)

// Outcomes are the values of the outcome label of an attempt.
var Outcomes = []string{outcomeSent, outcomeFailed, outcomeDead, outcomeLost, outcomeLater}

func (r *Runner) begin() {
	r.once.Do(func() {
		r.wake = make(chan struct{}, 1)
		for _, t := range r.Types {
			for _, e := range Events() {
				for _, o := range Outcomes {
					r.Metrics.Init(metric.NotificationsEnded, t, e.Name, o)
				}
			}
			r.Metrics.Init(metric.NotificationSeconds, t)
		}
	})
}

// Wake says that this process has queued notifications, once they are
// committed. A pass looks for them at once; if there is none, what Woken returns
// gives something.
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

// claimFor is how long a pass claims, which leaves it time to end its sends.
const claimFor = 15 * time.Minute

// Pass sends what is due until there is nothing, or until stopping is closed,
// and ends when the sends that it has begun have ended. It claims no more than it
// sends at once. It returns how many attempts it has made.
func (r *Runner) Pass(ctx context.Context, stopping <-chan struct{}) (int, error) {
	r.begin()
	busy := map[string]int{} // sends by channel
	ended := make(chan string, r.Concurrency)
	over := time.After(claimFor)
	tick := time.NewTicker(r.Every)
	defer tick.Stop()
	look, claiming, under, acted := true, true, 0, 0
	var failed error
	for {
		if free := r.Concurrency - under; look && free > 0 && claiming && ctx.Err() == nil && !closed(stopping) {
			var all []*Delivery
			all, failed = r.claim(ctx, free, busy)
			look = false
			under += len(all)
			for _, d := range all {
				busy[d.ChannelID]++
				go func() {
					defer func() { ended <- d.ChannelID }()
					r.attempt(ctx, d)
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
		case channel := <-ended:
			under, acted, look = under-1, acted+1, true
			busy[channel]--
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

// claim takes what is due, at most that many. It is not cut off by the end of
// ctx: what it had claimed then would be nobody's.
func (r *Runner) claim(ctx context.Context, most int, busy map[string]int) ([]*Delivery, error) {
	channels, sends := []string{}, []int32{}
	for channel, n := range busy {
		channels, sends = append(channels, channel), append(sends, int32(n))
	}
	own, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.Lease)
	defer cancel()
	var known []string
	for _, e := range Events() {
		known = append(known, e.Name)
	}
	left := hold(r.Lease)
	rows, _ := r.DB.Query(own, claim, pgx.StrictNamedArgs{
		"types": r.Types, "events": known,
		"busy": channels, "sends": sends, "per_channel": r.PerChannel, "limit": most, "replica": r.Replica, "lease": r.Lease,
	})
	all, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByName[Delivery])
	for _, d := range all {
		d.left = left
	}
	return all, pg.Fault(err, "notifications") // the leases of what was claimed run out
}

// attempt sends a notification and writes down what became of it.
func (r *Runner) attempt(ctx context.Context, d *Delivery) {
	outcome := r.finish(ctx, d)
	r.Metrics.Add(metric.NotificationsEnded, 1, d.ChannelType, d.Event, outcome)
}

// errLate says that the lease ran out before the send began.
var errLate = errors.New("the lease ran out")

// send sends within three quarters of the lease, so that the result can be
// written in what is left. It begins nothing that another replica may have taken
// by now: this one may have been frozen since it claimed.
func (r *Runner) send(ctx context.Context, d *Delivery) (reply Reply, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
			r.Log.Error("channel panicked", append(d.fields(), zap.Any("panic", v), zap.Stack("stack"))...)
		}
	}()
	patience := d.left() - r.Lease/4
	if patience <= 0 {
		return reply, errLate
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	begun := time.Now()
	defer func() { r.Metrics.Observe(metric.NotificationSeconds, time.Since(begun).Seconds(), d.ChannelType) }()
	reply, err = r.Send(ctx, d)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) && fault.Of(err).Retry {
		err = &fault.Error{Kind: fault.Timeout, Msg: "the receiver did not answer in time", Err: err}
	}
	return reply, err
}

// finish sends, and writes down how that ended in a time of its own.
func (r *Runner) finish(ctx context.Context, d *Delivery) (outcome string) {
	reply, err := r.send(ctx, d)
	if errors.Is(err, errLate) {
		r.Log.Warn("notification lost before it was sent", d.fields()...)
		return outcomeLost
	}
	own, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	args := pgx.StrictNamedArgs{"id": d.ID, "token": d.Token, "done": reply.Done, "error": ""}
	if err != nil {
		args["error"] = shown(err)
	}
	landed := false
	var recorded error
	switch {
	case err != nil && !fault.Of(err).Retry && reply.Partly:
		r.Log.Warn("notification refused by some", append(d.fields(), zap.Error(err))...)
		fallthrough
	case err == nil:
		outcome = outcomeSent
		landed, recorded = r.move(own, r.DB, sent, args)
	case fault.Of(err).Retry && ctx.Err() != nil: // the replica stops
		outcome = outcomeLater
		landed, recorded = r.move(own, r.DB, giveBack, args)
	case fault.Of(err).Retry && d.Attempt < r.Attempts:
		outcome = outcomeFailed
		r.Log.Warn("notification failed", append(d.fields(), zap.Error(err))...)
		args["wait"], args["retry_after"] = reply.Wait, r.RetryAfter
		landed, recorded = r.move(own, r.DB, fail, args)
	default:
		outcome = outcomeDead
		r.Log.Warn("notification given up", append(d.fields(), zap.Error(err))...)
		recorded = pg.InTx(own, r.DB, func(tx pgx.Tx) (err2 error) {
			landed, err2 = r.move(own, tx, die, args)
			if err2 != nil || !landed {
				return err2
			}
			return r.Buried(own, tx, []Dead{{d.ID, d.Event, d.ChannelID, shown(err)}})
		})
	}
	switch {
	case recorded != nil: // its lease runs out
		r.Log.Error("end of a notification not recorded", append(d.fields(), zap.Error(recorded))...)
		return outcomeLost
	case !landed:
		r.Log.Warn("notification lost", append(d.fields(), zap.String("outcome", outcome))...)
		return outcomeLost
	}
	return outcome
}

// move runs a statement that is guarded by the claim, and reports whether the
// claim was good.
func (r *Runner) move(ctx context.Context, q pg.Q, sql string, args pgx.StrictNamedArgs) (bool, error) {
	tag, err := q.Exec(ctx, sql, args)
	return tag.RowsAffected() == 1, pg.Fault(err, "notification")
}

// shown is what callers may read of err, as a column can hold it.
func shown(err error) string {
	s := fault.Shown(err)
	return strings.ToValidUTF8(strings.ReplaceAll(s[:min(len(s), 4<<10)], "\x00", ""), "")
}

func (d *Delivery) fields() []zap.Field {
	return []zap.Field{
		zap.String("notification", d.ID), zap.String("event", d.Event), zap.String("channel", d.ChannelID), zap.Int("attempt", d.Attempt),
	}
}

// Reclaim takes notifications from replicas that stopped answering, and gives up
// those whose channel is gone. Nothing else does.
func (r *Runner) Reclaim(ctx context.Context) (int, error) {
	r.begin()
	total := 0
	for _, sql := range []string{reclaim, orphaned} {
		for {
			n, err := r.takeAway(ctx, sql)
			total += n
			if err != nil {
				return total, err
			}
			if n < batch {
				break
			}
		}
	}
	return total, nil
}

func (r *Runner) takeAway(ctx context.Context, sql string) (int, error) {
	type row struct {
		Dead
		ChannelType string
		IsDead      bool
	}
	args := pgx.StrictNamedArgs{"limit": batch}
	if sql == reclaim {
		args["attempts"] = r.Attempts
	}
	var taken []row
	err := pg.InTx(ctx, r.DB, func(tx pgx.Tx) (err error) {
		rows, _ := tx.Query(ctx, sql, args)
		if taken, err = pgx.CollectRows(rows, pgx.RowToStructByName[row]); err != nil {
			return pg.Fault(err, "notifications")
		}
		var dead []Dead
		for _, n := range taken {
			if n.IsDead {
				dead = append(dead, n.Dead)
			}
		}
		if len(dead) == 0 {
			return nil
		}
		return r.Buried(ctx, tx, dead)
	})
	if err != nil {
		return 0, err
	}
	for _, n := range taken {
		if n.IsDead && n.ChannelType != "" {
			r.Metrics.Add(metric.NotificationsEnded, 1, n.ChannelType, n.Event, outcomeDead)
		}
	}
	return len(taken), nil
}
