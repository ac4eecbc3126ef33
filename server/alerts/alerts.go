// Package alerts says what people and programs are told: of certificates that
// come near their end, of what becomes of them, and by a digest of all.
package alerts

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"certctl/server/audit"
	"certctl/server/notify"
	"certctl/server/outbox"
	"certctl/server/pg"
	"certctl/server/store"
)

// Alerts tells channels of certificates.
type Alerts struct {
	DB       *pgxpool.Pool
	Channels *notify.Registry
	Every    time.Duration // the period of a digest
	Told     func()        // tells this replica that notifications were queued
}

// Expiring queues what there is to tell of certificates that come near their end.
func (a *Alerts) Expiring(ctx context.Context) (int, error) {
	n, err := outbox.TellExpiring(ctx, a.DB)
	if n > 0 {
		a.Told()
	}
	return n, err
}

// Rows are how many rows of a list a digest has.
const Rows = 50

// Digest queues the digest of the period that it is now, for every channel that
// lacks it. inTx runs what is written.
func (a *Alerts) Digest(ctx context.Context, inTx func(context.Context, func(pgx.Tx) error) error) (int, error) {
	n := 0
	err := inTx(ctx, func(tx pgx.Tx) error {
		n = 0
		periods, err := outbox.DigestPeriods(ctx, tx, a.Every)
		for _, p := range periods {
			d, err := store.ReadDigest(ctx, tx, p.Since, p.Now, Rows)
			if err != nil {
				return err
			}
			d.First = p.First
			data, err := json.Marshal(d)
			if err != nil {
				return err
			}
			queued, err := outbox.TellDigest(ctx, tx, p, data)
			if err != nil {
				return err
			}
			n += queued
		}
		return err
	})
	if err == nil && n > 0 {
		a.Told()
	}
	return n, err
}

// Send sends a notification through its channel. What it says is made of what
// the row tells, so that a repetition says the same but for the time that is left.
func (a *Alerts) Send(ctx context.Context, d *outbox.Delivery) (reply outbox.Reply, err error) {
	channel, err := a.Channels.Open(d.ChannelID, d.ChannelType, d.ChannelRevision, d.ChannelSettings)
	if err != nil {
		return reply, err
	}
	w, err := Compose(d.Event, d.Severity, d.At, d.Now, d.Data)
	if err != nil {
		return reply, err
	}
	err = channel.Send(ctx, notify.Message{
		Key: d.ID, Event: d.Event, Severity: d.Severity, At: d.At, Subject: w.Subject, Text: w.Text, HTML: w.HTML,
		Data: d.Data, To: d.Recipients, Done: d.Delivered,
	})
	if later, ok := errors.AsType[*notify.Later](err); ok {
		reply.Wait = later.After
	}
	if partly, ok := errors.AsType[*notify.Partly](err); ok {
		reply.Done, reply.Partly = partly.Done, true
	}
	return reply, err
}

// Buried writes down which notifications were given up.
func (a *Alerts) Buried(ctx context.Context, tx pgx.Tx, dead []outbox.Dead) error {
	var events []audit.Event
	for _, d := range dead {
		events = append(events, audit.Event{
			Action: audit.NotificationDead, ResourceKind: "notification", ResourceID: d.ID,
			Details: map[string]string{"event": d.Event, "channel": d.ChannelID, "error": d.Error},
		})
	}
	return audit.WriteAll(ctx, tx, events)
}

// Query asks for a page of notifications.
type Query struct {
	State         string `query:"state" maxLength:"20" doc:"only those in this state"`
	ChannelID     string `query:"channel_id" maxLength:"64" doc:"only those to this channel"`
	CertificateID string `query:"certificate_id" maxLength:"64" doc:"only those of this certificate"`
	Event         string `query:"event" maxLength:"40" doc:"only those of this event"`
	After         string `query:"after" maxLength:"200" doc:"next of the page before"`
	Limit         int    `query:"limit" minimum:"1" maximum:"500" default:"100"`
}

// A Notification is a row with the words that it is told in.
type Notification struct {
	outbox.Notification
	Subject string `json:"subject"`
	Text    string `json:"text,omitempty" doc:"absent in a list"`
}

// Page is a page of notifications, newest first.
type Page struct {
	Items []Notification `json:"items" nullable:"false"`
	Next  string         `json:"next,omitempty" doc:"give it as after for the next page; absent on the last"`
}

// List lists notifications.
func (a *Alerts) List(ctx context.Context, in *Query) (Page, error) {
	f := outbox.Filter{State: in.State, ChannelID: in.ChannelID, CertificateID: in.CertificateID, Event: in.Event, After: in.After}
	all, err := outbox.List(ctx, a.DB, f, in.Limit+1)
	page := Page{Items: []Notification{}}
	if len(all) > in.Limit {
		all = all[:in.Limit]
		page.Next = all[in.Limit-1].Cursor()
	}
	for _, n := range all {
		page.Items = append(page.Items, Notification{n, subject(n), ""})
	}
	return page, err
}

// worded adds the words to a row. Of an event that another version has written
// it has none.
func worded(n outbox.Notification) Notification {
	w, err := Compose(n.Event, n.Severity, n.CreatedAt, toldAt(n), n.Data)
	if err != nil {
		w.Subject = n.Event
	}
	return Notification{n, w.Subject, w.Text}
}

func subject(n outbox.Notification) string {
	s, err := Subject(n.Event, n.Severity, n.CreatedAt, toldAt(n), n.Data)
	if err != nil {
		return n.Event
	}
	return s
}

// toldAt is when a notification was told, or is to be.
func toldAt(n outbox.Notification) time.Time {
	if n.FinishedAt != nil {
		return *n.FinishedAt
	}
	return n.DueAt
}

// One names a notification.
type One struct {
	ID string `path:"id" maxLength:"64" doc:"id of the notification"`
}

// Get returns one notification.
func (a *Alerts) Get(ctx context.Context, in *One) (Notification, error) {
	n, err := outbox.ByID(ctx, a.DB, in.ID)
	if err != nil {
		return Notification{}, err
	}
	return worded(n), nil
}

// Requeue has a notification sent again that was given up.
func (a *Alerts) Requeue(ctx context.Context, in *One) (Notification, error) {
	var n outbox.Notification
	err := pg.InTx(ctx, a.DB, func(tx pgx.Tx) (err error) {
		if n, err = outbox.Requeue(ctx, tx, in.ID); err != nil {
			return err
		}
		return audit.Write(ctx, tx, audit.Event{
			Action: audit.NotificationRequeued, ResourceKind: "notification", ResourceID: in.ID,
			Details: map[string]string{"event": n.Event, "channel": n.ChannelID},
		})
	})
	if err != nil {
		return Notification{}, err
	}
	a.Told()
	return worded(n), nil
}
