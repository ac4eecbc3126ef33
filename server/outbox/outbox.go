// Package outbox has people and programs outside told of what happens: once for
// each thing and channel, by whichever replica, and again only where nobody
// knows whether it arrived.
//
// What there is to tell is a row, written in the transaction of what it tells of
// (Tell). A replica claims it under a lease and a token that counts the claims,
// looks at its clock once more, and sends it; whoever lost the lease starts no
// send and can write no result (Runner). A replica that ends or freezes in the
// middle of a send gives the row up by saying nothing, and it is sent again under
// the same key, by which a receiver knows the repetition.
//
// Not every row is an event of the audit trail, where it would stand beside what
// it tells of; those that are given up are, in the transaction that ends them
// (Runner.Buried).
package outbox

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/fault"
	"certctl/server/pg"
)

// An Occasion is what happened to a certificate.
type Occasion struct {
	CertificateID string         `json:"certificate_id"`
	Version       int            `json:"version"`  // the current one if 0
	Severity      string         `json:"severity"` // name of a Severity
	Once          string         `json:"once"`     // tells it from others of the event, certificate and version
	Details       map[string]any `json:"details"`  // beside what there is to say of every certificate; never a secret
}

// Tell queues, as part of the transaction that q is, what the channels of the
// certificates' policies are to be told of. It returns how many rows that were:
// none where no policy has a channel for it.
func Tell(ctx context.Context, q pg.Q, e *Event, all []Occasion) (int, error) {
	if len(all) == 0 {
		return 0, nil
	}
	for i := range all {
		if all[i].Details == nil {
			all[i].Details = map[string]any{}
		}
	}
	text, err := json.Marshal(all)
	if err != nil {
		return 0, fmt.Errorf("what happened: %w", err)
	}
	// What a column cannot hold must not keep from telling the rest.
	clean := strings.ReplaceAll(string(text), `\u0000`, `\ufffd`)
	tag, err := q.Exec(ctx, tell, pgx.StrictNamedArgs{"event": e.Name, "occasions": clean})
	if err != nil {
		return 0, pg.Fault(err, "notifications")
	}
	if e == RenewalSucceeded || e == CertRevoked {
		var ids []string
		for _, o := range all {
			ids = append(ids, o.CertificateID)
		}
		err = Withdraw(ctx, q, ids)
	}
	return int(tag.RowsAffected()), err
}

// Withdraw ends, as part of the transaction that q is, what was to warn of the
// end of certificates' versions if these are not current any more, or are revoked
// or archived. What is being sent at the time is not called back; it is not sent
// again.
func Withdraw(ctx context.Context, q pg.Q, certificateIDs []string) error {
	_, err := q.Exec(ctx, withdraw, pgx.StrictNamedArgs{"certificates": certificateIDs})
	return pg.Fault(err, "notifications")
}

// batch bounds the rows that one statement of a loop writes.
const batch = 1000

// TellExpiring queues what channels are to be told of certificates that come
// near their end: of each version the most urgent threshold that it has come
// within, once, and late rather than never.
func TellExpiring(ctx context.Context, q pg.Q) (int, error) {
	total := 0
	for {
		tag, err := q.Exec(ctx, expiring, pgx.StrictNamedArgs{"expired": CertExpired.Name, "expiring": CertExpiring.Name, "limit": batch})
		n := int(tag.RowsAffected())
		total += n
		if err != nil || n < batch {
			return total, pg.Fault(err, "notifications")
		}
	}
}

// A Period is what a digest covers.
type Period struct {
	Start    time.Time // of the period that the digest is of, by the database's clock
	Since    time.Time // until when the channels' digest before covers
	First    bool      // there is none before, and Since is a period ago
	Now      time.Time
	Channels []string // ids of those that lack it
}

// DigestPeriods returns what digests would cover now, if there is one every so
// often: one period for the channels that have had the same one last.
func DigestPeriods(ctx context.Context, q pg.Q, every time.Duration) ([]Period, error) {
	rows, _ := q.Query(ctx, periods, pgx.StrictNamedArgs{"every": every})
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[Period])
	return all, pg.Fault(err, "digests")
}

// TellDigest queues a digest for every channel of a period that has none yet.
func TellDigest(ctx context.Context, q pg.Q, p Period, data json.RawMessage) (int, error) {
	tag, err := q.Exec(ctx, digest, pgx.StrictNamedArgs{
		"start": p.Start, "until": p.Now, "channels": p.Channels, "event": Digest.Name, "severity": Informational.Name, "data": string(data),
	})
	return int(tag.RowsAffected()), pg.Fault(err, "digests")
}

// A Notification is one thing that one channel is told.
type Notification struct {
	ID            string          `json:"id" doc:"the key by which a receiver knows a repetition"`
	Event         string          `json:"event"`
	Severity      string          `json:"severity"`
	ChannelID     string          `json:"channel_id"`
	Channel       string          `json:"channel,omitempty" doc:"name of the channel; absent if it was deleted"`
	CertificateID *string         `json:"certificate_id,omitempty"`
	Version       *int            `json:"version,omitempty" doc:"of the certificate"`
	Data          json.RawMessage `json:"data" doc:"what there is to tell, for programs"`
	Recipients    []string        `json:"recipients" nullable:"false" doc:"addresses of those whom it concerns, beside the channel's own"`
	State         string          `json:"state" doc:"pending, sending, failed (to be tried again), sent, dead (given up) or withdrawn (no longer so)"`
	Attempts      int             `json:"attempts" doc:"that were begun"`
	DueAt         time.Time       `json:"due_at" doc:"when the next attempt is due, or the last one was"`
	Holder        string          `json:"holder,omitempty" doc:"the replica that claimed it last"`
	Error         string          `json:"error,omitempty" doc:"of the last attempt that failed"`
	CreatedAt     time.Time       `json:"created_at"`
	FinishedAt    *time.Time      `json:"finished_at,omitempty" doc:"when it was sent, given up or withdrawn"`
}

// ByID returns one notification.
func ByID(ctx context.Context, q pg.Q, id string) (Notification, error) {
	rows, _ := q.Query(ctx, selectNotification+`where n.id = @id`, pgx.StrictNamedArgs{"id": id})
	n, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Notification])
	return n, pg.Fault(err, "notification")
}

// A Filter chooses notifications. What is empty chooses all.
type Filter struct {
	State         string
	ChannelID     string
	CertificateID string
	Event         string
	After         string // Cursor of the last notification of the page before
}

// List returns up to limit notifications, newest first.
func List(ctx context.Context, q pg.Q, f Filter, limit int) ([]Notification, error) {
	at, id, err := pg.Position(f.After)
	if err != nil {
		return nil, err
	}
	sql, args := list, pgx.StrictNamedArgs{"at": at, "after": id, "limit": limit}
	if f.CertificateID+f.ChannelID+f.State+f.Event != "" {
		sql, args["event"] = listOfEvent, f.Event
	}
	switch {
	case f.CertificateID != "":
		sql, args["certificate"], args["channel"], args["state"] = listOfCertificate, f.CertificateID, f.ChannelID, f.State
	case f.ChannelID != "":
		sql, args["channel"], args["state"] = listOfChannel, f.ChannelID, f.State
	case f.State != "":
		sql, args["state"] = listInState, f.State
	}
	rows, _ := q.Query(ctx, sql, args)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[Notification])
	return all, pg.Fault(err, "notifications")
}

// Cursor is where n stands in a list.
func (n *Notification) Cursor() string {
	return pg.Cursor(n.CreatedAt, n.ID)
}

// OpenFor counts the notifications that are to be sent through a channel.
func OpenFor(ctx context.Context, q pg.Q, channelID string) (n int, err error) {
	err = q.QueryRow(ctx, openFor, pgx.StrictNamedArgs{"channel": channelID}).Scan(&n)
	return n, pg.Fault(err, "notifications")
}

// Requeue gives a dead notification all its attempts back. It keeps its key.
func Requeue(ctx context.Context, q pg.Q, id string) (Notification, error) {
	tag, err := q.Exec(ctx, requeue, pgx.StrictNamedArgs{"id": id})
	if err != nil {
		return Notification{}, pg.Fault(err, "notification")
	}
	n, err := ByID(ctx, q, id)
	switch {
	case err != nil:
		return n, err
	case tag.RowsAffected() == 0 && n.State == GivenUp.Name:
		return n, fault.New(fault.Conflict, "the channel of the notification was deleted; nobody can be told any more")
	case tag.RowsAffected() == 0:
		return n, fault.New(fault.Conflict, "the notification is %s; only a dead one can be queued again", n.State)
	}
	return n, nil
}

// Retry queues failed notifications again whose time has come. Nothing else does.
func Retry(ctx context.Context, q pg.Q) (int, error) {
	total := 0
	for {
		tag, err := q.Exec(ctx, retry, pgx.StrictNamedArgs{"limit": batch})
		n := int(tag.RowsAffected())
		total += n
		if err != nil || n < batch {
			return total, pg.Fault(err, "notifications")
		}
	}
}

// QueueAge is how long the oldest notification has been due that nobody has
// claimed.
func QueueAge(ctx context.Context, q pg.Q) (time.Duration, error) {
	var age time.Duration
	err := q.QueryRow(ctx, queueAge).Scan(&age)
	return age, pg.Fault(err, "notifications")
}

// DeleteFinished deletes notifications that were sent, given up or withdrawn
// before keep ago, but for alerts that must not be repeated.
func DeleteFinished(ctx context.Context, q pg.Q, keep time.Duration, limit int) (int64, error) {
	tag, err := q.Exec(ctx, deleteFinished, pgx.StrictNamedArgs{"keep": keep, "limit": limit})
	return tag.RowsAffected(), pg.Fault(err, "notifications")
}
