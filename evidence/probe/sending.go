package probe

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/evidence"
	"certctl/evidence/lab"
	"certctl/server/api"
	"certctl/server/client"
	"certctl/server/config"
	"certctl/server/notify/email"
	"certctl/server/notify/notifytest"
	"certctl/server/notify/webhook"
	"certctl/server/outbox"
)

// sendingProbe is the experiment with what is sent.
var sendingProbe = Probe{
	Of: evidence.SentOnce, Needs: []Need{Processes}, Look: lookSending, Make: own,
	Controls: []Defect{
		{
			Says:  "the lease of what is sent the first time is over at once",
			Turns: func(api.Declared) []string { return []string{evidence.BeyondUnderWay} },
			SQL: always(`
				create function lapse() returns trigger language plpgsql as $$
				begin
					new.leased_until := clock_timestamp() + interval '1 millisecond';
					return new;
				end $$;
				create trigger a_lapse before update on notifications for each row when (new.state = 'sending' and new.attempts = 1) execute function lapse()`),
		},
		{
			Says:  "the database forgets which digests it has queued",
			Turns: func(api.Declared) []string { return []string{evidence.DigestsArrived} },
			SQL: always(`
				create function forget() returns trigger language plpgsql as $$
				begin
					delete from digests;
					update notifications set once = id where event = '` + outbox.Digest.Name + `';
					return null;
				end $$;
				create trigger forget after insert on digests for each statement execute function forget()`),
		},
	},
}

// sending are settings under which everything is soon sent, and a killed replica's
// sends are soon the others'.
var sending = map[string]string{
	config.OutboundAllow.Name:            "127.0.0.0/8",
	config.RenewalCheckEvery.Name:        "100ms",
	config.NotificationProcessEvery.Name: "50ms",
	config.NotificationRetryEvery.Name:   "50ms",
	config.NotificationLease.Name:        "2s",
	config.DigestCheckEvery.Name:         "100ms",
	config.DigestEvery.Name:              "720h",
}

// certificates is how many have come near their end; each is told through two
// channels.
const certificates = 100

// a slow sink has sends be under way when a replica is killed.
const slowly = 50 * time.Millisecond

func lookSending(ctx context.Context, s *Site) (any, error) {
	hook, err := notifytest.NewHookSink()
	if err != nil {
		return nil, err
	}
	defer func() { _ = hook.Close() }() // nobody listens any more
	mail, err := notifytest.NewMailSink(notifytest.MailOptions{})
	if err != nil {
		return nil, err
	}
	defer func() { _ = mail.Close() }()
	hook.Slow(slowly)
	mail.Slow(slowly)
	url, replicas, err := s.senders(ctx, hook, mail)
	defer func() {
		for _, r := range replicas {
			_ = r.Kill() // it may have been killed
		}
	}()
	if err != nil {
		return nil, err
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	seen := evidence.SendingSeen{Alerts: 2 * certificates, Faults: map[string]string{}}
	for _, r := range replicas {
		seen.PIDs = append(seen.PIDs, r.Process.Pid)
	}
	arrived := func() int { return len(hook.Deliveries()) + len(mail.Deliveries()) }
	if _, err := conn.Exec(ctx, `
		update certificates set renew_at = null, not_before = now() - interval '90 days', not_after = now() + interval '10 hours'`); err != nil {
		return nil, err
	}
	for _, fault := range []struct {
		at   int
		does string
		do   func() error
		of   *lab.Replica
	}{
		{certificates / 4, "frozen", replicas[0].Freeze, replicas[0]},
		{certificates / 2, "killed", replicas[1].Kill, replicas[1]},
	} {
		if _, err := eventually(3*patience, func() (bool, error) { return arrived() >= fault.at, nil }); err != nil {
			return nil, err
		}
		if err := fault.do(); err != nil {
			return nil, err
		}
		under := 0
		if err := conn.QueryRow(ctx, `select count(*) from notifications where state = 'sending' and holder = $1`, fault.of.Name).Scan(&under); err != nil {
			return nil, err
		}
		seen.UnderWay += under
		seen.Faults[fault.of.Name] = fault.does
	}
	settled := func() (bool, error) {
		err := conn.QueryRow(ctx, `select count(*) from notifications where state <> 'sent'`).Scan(&seen.Unsettled)
		return seen.Unsettled == 0, err
	}
	if _, err := eventually(4*patience, settled); err != nil {
		return nil, err
	}
	if err := replicas[0].Thaw(); err != nil {
		return nil, err
	}
	// What a thawed replica would send again, it sends at once; and a digest that
	// is due again is due every time it is looked.
	time.Sleep(20 * slowly)
	seen.Refused = hook.Refused()
	seen.Log = logOf(map[string][]notifytest.Delivery{webhook.Type.Name: hook.Deliveries(), email.Type.Name: mail.Deliveries()})
	return seen, nil
}

// senders makes a database whose certificates are told of through the sinks, and
// three replicas on it.
func (s *Site) senders(ctx context.Context, hook *notifytest.HookSink, mail *notifytest.MailSink) (url string, replicas []*lab.Replica, err error) {
	if url, err = s.Lab.Database(ctx); err != nil {
		return "", nil, err
	}
	if err := s.Lab.Migrate(ctx, url); err != nil {
		return "", nil, err
	}
	if err := s.on(url).alter(ctx, s.Altered); err != nil {
		return "", nil, err
	}
	for range threeOfThem {
		r, err := s.Lab.Server(ctx, url, sending)
		if err != nil {
			return url, replicas, err
		}
		replicas = append(replicas, r)
	}
	c, err := replicas[2].Client("")
	if err != nil {
		return url, replicas, err
	}
	first := &api.NewBootstrap{}
	first.Body.Name, first.Body.Token = "administrator", s.Lab.BootstrapToken()
	admin, err := client.Do(ctx, c, api.Bootstrap, first)
	if err != nil {
		return url, replicas, err
	}
	return url, replicas, tellSinks(ctx, c.With(admin.Secret), hook, mail)
}

// tellSinks makes certificates that the sinks are told of.
func tellSinks(ctx context.Context, c *client.Client, hook *notifytest.HookSink, mail *notifytest.MailSink) error {
	request, err := lab.Estate(ctx, c, "told", nil)
	if err != nil {
		return err
	}
	toHook, toMail := &api.NewChannel{}, &api.NewChannel{}
	toHook.Body.Name, toHook.Body.Type, toHook.Body.Settings = "hook", webhook.Type.Name, hook.Settings()
	toMail.Body.Name, toMail.Body.Type, toMail.Body.Settings, toMail.Body.Digest = "mail", email.Type.Name, mail.Settings("operators@example.com"), true
	change := &api.PolicyChange{}
	change.Body.Channels = &[]api.PolicyChannel{}
	for _, in := range []*api.NewChannel{toHook, toMail} {
		made, err := client.Do(ctx, c, api.CreateChannel, in)
		if err != nil {
			return err
		}
		*change.Body.Channels = append(*change.Body.Channels, api.PolicyChannel{ChannelID: made.ID, From: outbox.Informational.Name})
	}
	in := &api.NewCertificates{}
	for i := range certificates {
		one := request
		one.Name, one.SANs = fmt.Sprintf("told %d", i), []string{inside}
		in.Body.Requests = append(in.Body.Requests, one)
	}
	made, err := client.Do(ctx, c, api.IssueCertificates, in)
	if err != nil {
		return err
	}
	if made.Issued != certificates {
		return errors.New("not every certificate was issued")
	}
	change.ID = made.Items[0].Created.Certificate.PolicyID
	_, err = client.Do(ctx, c, api.UpdatePolicy, change)
	return err
}

// logOf is what sinks took, in the order it came.
func logOf(sinks map[string][]notifytest.Delivery) (log []evidence.DeliverySeen) {
	type line struct {
		channel string
		d       notifytest.Delivery
	}
	var all []line
	for channel, deliveries := range sinks {
		for _, d := range deliveries {
			all = append(all, line{channel, d})
		}
	}
	slices.SortFunc(all, func(a, b line) int {
		if c := a.d.At.Compare(b.d.At); c != 0 {
			return c
		}
		return strings.Compare(a.d.Key, b.d.Key)
	})
	for _, l := range all {
		log = append(log, evidence.DeliverySeen{
			Channel: l.channel, At: l.d.At.Sub(all[0].d.At).Round(time.Millisecond).String(), Key: l.d.Key, Event: l.d.Event,
		})
	}
	return log
}
