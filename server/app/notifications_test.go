package app_test

import (
	"context"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"certctl/server/api"
	"certctl/server/app"
	"certctl/server/audit"
	"certctl/server/client"
	"certctl/server/config"
	"certctl/server/connector"
	"certctl/server/fault"
	"certctl/server/metric"
	"certctl/server/notify"
	"certctl/server/outbox"
	"certctl/server/pg/pgtest"
)

func TestMain(m *testing.M) {
	app.AddChannelType(ledger)
	os.Exit(m.Run())
}

// A book is what a ledger channel writes into, by the name in its settings.
type book struct {
	name   string
	refuse bool
}

var (
	booksMu sync.Mutex
	books   = map[string][]notify.Message{}
)

// ledger is a type of channel that writes down what it is to send, for tests.
var ledger = notify.Declare("ledger", "Writes down what it is to send.", func(s struct {
	Book   string `json:"book" doc:"into which book"`
	Refuse bool   `json:"refuse" doc:"refuse everything for good"`
	Token  string `json:"token" doc:"opens it" secret:"true"`
}, _ connector.Env,
) (notify.Channel, error) {
	return &book{s.Book, s.Refuse}, nil
})

func (b *book) Send(_ context.Context, m notify.Message) error {
	if b.refuse {
		return fault.New(fault.Invalid, "the book is closed")
	}
	booksMu.Lock()
	defer booksMu.Unlock()
	books[b.name] = append(books[b.name], m)
	return nil
}

func (*book) Test(context.Context) error { return nil }

// written is what a book has, as event, severity and subject.
func written(name string) []string {
	booksMu.Lock()
	defer booksMu.Unlock()
	var all []string
	for _, m := range books[name] {
		all = append(all, m.Event+" "+m.Severity+" "+m.Subject)
	}
	return all
}

func newChannel(t *testing.T, r *running, name, settings string, digest bool) api.Channel {
	t.Helper()
	in := &api.NewChannel{}
	in.Body.Name, in.Body.Type, in.Body.Digest, in.Body.Settings = name, "ledger", digest, json.RawMessage(settings)
	c, err := client.Do(t.Context(), r.Client, api.CreateChannel, in)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// What happens to a certificate is told once, by whichever of three replicas.
func TestCertificateIsToldOf(t *testing.T) {
	t.Parallel()
	soon := config.Values{
		config.NotificationProcessEvery.Name: 50 * time.Millisecond, config.NotificationRetryEvery.Name: 50 * time.Millisecond,
		config.DigestCheckEvery.Name: 50 * time.Millisecond, config.RenewalCheckEvery.Name: 50 * time.Millisecond,
		config.ShortLivedExpiryCheckEvery.Name: 50 * time.Millisecond, config.JobProcessorEvery.Name: 50 * time.Millisecond,
	}
	r := run(t, soon)
	serve(t, r.url, soon)
	serve(t, r.url, soon)
	request := estate(t, r)
	all, alarm, shut := t.Name()+" all", t.Name()+" alarm", t.Name()+" shut"
	newChannel(t, r, all, `{"book": "`+all+`", "token": "s3cr3t"}`, false)
	newChannel(t, r, alarm, `{"book": "`+alarm+`"}`, true)
	newChannel(t, r, shut, `{"refuse": true}`, false)
	policy, err := client.Do(t.Context(), r.Client, api.ListPolicies, &api.ByName{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	change := &api.PolicyChange{}
	change.ID = policy.Items[0].ID
	change.Body.Channels = &[]api.PolicyChannel{{ChannelID: all, From: "informational"}, {ChannelID: alarm, From: "critical"}, {ChannelID: shut, From: "critical"}}
	if _, err := client.Do(t.Context(), r.Client, api.UpdatePolicy, change); err != nil {
		t.Fatal(err)
	}
	issue := func(name string) string {
		t.Helper()
		in := &api.NewCertificate{Body: request}
		in.Body.Name, in.Body.SANs = name, []string{"a.example.com"}
		c, err := client.Do(t.Context(), r.Client, api.IssueCertificate, in)
		if err != nil {
			t.Fatal(err)
		}
		return c.Certificate.ID
	}
	db := pgtest.Pool(t, r.url)
	shows := func(name string, want ...string) {
		t.Helper()
		pgtest.Eventually(t, name+" has "+strings.Join(want, " | "), func() bool {
			got := written(name)
			return slices.EqualFunc(got, want, strings.HasPrefix)
		})
	}

	shows(alarm, "digest informational Certificates on ")
	renewedID := issue("renewed")
	if _, err := client.Do(t.Context(), r.Client, api.RenewCertificate, &api.OneToRenew{ID: renewedID}); err != nil {
		t.Fatal(err)
	}
	shows(all, "renewal.succeeded informational Certificate renewed was renewed until ")
	revocation := &api.NewRevocation{OneCertificate: api.OneToRelease{ID: renewedID}, Body: &api.Why{Reason: "keyCompromise"}}
	if _, err := client.Do(t.Context(), r.Client, api.RevokeCertificate, revocation); err != nil {
		t.Fatal(err)
	}
	first := []string{"renewal.succeeded", "cert.revoked critical Certificate renewed was revoked (keyCompromise)"}
	shows(all, first...)
	shows(alarm, "digest", "cert.revoked")

	// A renewal that no attempt can do: its issuer is not enabled.
	failing := issue("failing")
	if _, err := db.Exec(t.Context(), `update renewal_policies set max_retries = 0; update issuers set enabled = false`); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Do(t.Context(), r.Client, api.RenewCertificate, &api.OneToRenew{ID: failing}); err != nil {
		t.Fatal(err)
	}
	first = append(first, "renewal.failed critical Certificate failing could not be renewed")
	shows(all, first...)

	// One that has come within a day of its end, and then is over.
	if _, err := db.Exec(t.Context(), `
		update certificates set renew_at = null, not_before = now() - interval '90 days', not_after = now() + interval '10 hours' where id = $1`, failing); err != nil {
		t.Fatal(err)
	}
	first = append(first, "cert.expiring critical Certificate failing ends in 9 hours")
	shows(all, first...)
	if _, err := db.Exec(t.Context(), `update certificates set not_after = now() where id = $1`, failing); err != nil {
		t.Fatal(err)
	}
	first = append(first, "cert.expired critical Certificate failing has ended")
	shows(all, first...)
	shows(alarm, "digest", "cert.revoked", "renewal.failed", "cert.expiring", "cert.expired")

	t.Run("what is refused for good is given up, and on record", func(t *testing.T) {
		pgtest.Eventually(t, "it is given up", func() bool {
			page, err := client.Do(t.Context(), r.Client, api.ListNotifications, &api.NotificationQuery{State: outbox.GivenUp.Name, Limit: 100})
			return err == nil && len(page.Items) == 4 && page.Items[0].Error == "the book is closed"
		})
		page, err := client.Do(t.Context(), r.Client, api.ListNotifications, &api.NotificationQuery{State: outbox.GivenUp.Name, Limit: 1})
		if err != nil || page.Next == "" {
			t.Fatalf("the page is %+v (%v)", page, err)
		}
		id := page.Items[0].ID
		events, err := client.Do(t.Context(), r.Client, api.ListEvents, &api.EventQuery{Limit: 10, EventFilter: api.EventFilter{Action: audit.NotificationDead.Name, ResourceID: id}})
		if err != nil || len(events.Items) != 1 || events.Items[0].Details["error"] != "the book is closed" {
			t.Errorf("the events are %+v (%v)", events.Items, err)
		}
		if n, err := client.Do(t.Context(), r.Client, api.RequeueNotification, &api.OneNotification{ID: id}); err != nil || n.State != outbox.Pending.Name {
			t.Errorf("queued again it is %+v (%v)", n, err)
		}
		pgtest.Eventually(t, "it is given up again", func() bool {
			n, err := client.Do(t.Context(), r.Client, api.GetNotification, &api.OneNotification{ID: id})
			return err == nil && n.State == outbox.GivenUp.Name && n.Text != ""
		})
	})
	t.Run("each has a key of its own, and no secret is told", func(t *testing.T) {
		keys := map[string]bool{}
		booksMu.Lock()
		defer booksMu.Unlock()
		for _, m := range slices.Concat(books[all], books[alarm]) {
			raw, err := json.Marshal(m)
			if err != nil || keys[m.Key] || strings.Contains(string(raw), "s3cr3t") {
				t.Errorf("sent is %s", raw)
			}
			keys[m.Key] = true
		}
	})
	t.Run("nothing is told a second time", func(t *testing.T) {
		if all := written(all); len(all) != len(first) {
			t.Errorf("it has %q", all)
		}
	})
	t.Run("the metric counts them", func(t *testing.T) {
		pgtest.Eventually(t, "it counts", func() bool {
			return slices.ContainsFunc(r.scrape(t), func(line string) bool { return strings.HasPrefix(line, metric.NotificationsEnded.Name) })
		})
	})
}
