package alerts_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"certctl/server/alerts"
	"certctl/server/cert"
	"certctl/server/outbox"
	"certctl/server/store"
)

var update = flag.Bool("update", false, "rewrite testdata")

// at is when everything in these letters happened.
var at = time.Date(2026, 3, 1, 9, 30, 0, 0, time.UTC)

// row is what a row tells of a certificate that ends after left, with more.
func row(left time.Duration, more map[string]any) json.RawMessage {
	data := map[string]any{
		"certificate": map[string]any{
			"id": "crt_1", "name": "shop <b>", "sans": []string{"dns:shop.example.com", "dns:www.shop.example.com"}, "environment": "production",
			"version": 3, "serial": "5b1c", "not_before": at.Add(-60 * 24 * time.Hour), "not_after": at.Add(left), "renew_at": at.Add(-time.Hour),
		},
		"owner": "Ada", "team": "Payments", "issuer": "root", "policy": "monthly",
	}
	for name, v := range more {
		if name == "renew_at" {
			data["certificate"].(map[string]any)[name] = v
			continue
		}
		data[name] = v
	}
	raw, err := json.Marshal(data)
	if err != nil {
		panic(err)
	}
	return raw
}

const day = 24 * time.Hour

// digestRow is a digest with as many rows as it shows, and more.
func digestRow(total int) json.RawMessage {
	d := store.Digest{
		Since: at.Add(-day), Until: at, Renewed: 41, EndingTotal: int64(total), FailedTotal: 2, RevokedTotal: 1, DeadTotal: 3,
		States: map[string]int64{cert.Active.Name: 1204, cert.Expired.Name: 3, cert.Revoked.Name: 17, cert.Pending.Name: 0},
		Failed: []store.DigestFailed{
			{ID: "crt_7", Name: "mail.example.com", Error: "the authority did not answer in time"},
			{ID: "crt_8", Name: "vpn.example.com", Error: "san-dns: the name vpn.example.com is not among those that the profile allows"},
		},
		Revoked: []store.DigestRevoked{{ID: "crt_9", Name: "old.example.com", Reason: cert.KeyCompromise.Code}},
		Dead:    []store.DigestUntold{{Channel: "pager", Count: 3, Error: "the receiver answered 404"}},
	}
	for n := range min(total, alerts.Rows) {
		d.Ending = append(d.Ending, store.DigestEnding{
			ID: fmt.Sprintf("crt_%d", n), Name: fmt.Sprintf("host-%02d.example.com", n+1), Owner: "Ada", NotAfter: at.Add(time.Duration(n*11) * time.Hour), AutoRenew: n%5 != 0,
		})
	}
	raw, err := json.Marshal(d)
	if err != nil {
		panic(err)
	}
	return raw
}

func TestLetters(t *testing.T) {
	for name, c := range map[string]struct {
		event    *outbox.Event
		severity *outbox.Severity
		data     json.RawMessage
	}{
		"expiring, renewed by hand":   {outbox.CertExpiring, outbox.Warning, row(6*day+time.Hour, map[string]any{"auto_renew": false})},
		"expiring, renewal failed":    {outbox.CertExpiring, outbox.Critical, row(23*time.Hour, map[string]any{"auto_renew": true, "last_error": "the authority refused the order"})},
		"expiring, renewal planned":   {outbox.CertExpiring, outbox.Informational, row(29*day, map[string]any{"auto_renew": true, "renew_at": at.Add(8 * day)})},
		"expiring, renewal due":       {outbox.CertExpiring, outbox.Informational, row(90*time.Minute, map[string]any{"auto_renew": true})},
		"expired":                     {outbox.CertExpired, outbox.Critical, row(-time.Minute, map[string]any{"auto_renew": true})},
		"renewed":                     {outbox.RenewalSucceeded, outbox.Informational, row(90*day, nil)},
		"renewal failed":              {outbox.RenewalFailed, outbox.Critical, row(12*day, map[string]any{"job": "job_1", "error": "the issuer is not enabled", "renew_at": at.Add(day)})},
		"renewal failed for good":     {outbox.RenewalFailed, outbox.Critical, row(-day, map[string]any{"job": "job_1", "error": "the issuer is not enabled.", "renew_at": nil})},
		"revoked":                     {outbox.CertRevoked, outbox.Critical, row(12*day, map[string]any{"reason": "keyCompromise", "serials": []string{"5b1c", "5b1b"}})},
		"revoked, an earlier version": {outbox.CertRevoked, outbox.Warning, row(12*day, map[string]any{"reason": "superseded", "serials": []string{"5b1b"}})},
		"held":                        {outbox.CertRevoked, outbox.Warning, row(12*day, map[string]any{"reason": "certificateHold", "held": true, "serials": []string{"5b1c"}})},
		"digest":                      {outbox.Digest, outbox.Informational, digestRow(67)},
		"digest of nothing":           {outbox.Digest, outbox.Informational, json.RawMessage(`{"since": "2026-02-28T09:30:00Z", "until": "2026-03-01T09:30:00Z", "first": true}`)},
	} {
		t.Run(name, func(t *testing.T) {
			w, err := alerts.Compose(c.event.Name, c.severity.Name, at, at, c.data)
			if err != nil {
				t.Fatal(err)
			}
			if subject, err := alerts.Subject(c.event.Name, c.severity.Name, at, at, c.data); subject != w.Subject || err != nil {
				t.Errorf("the subject alone is %q (%v)", subject, err)
			}
			if strings.ContainsAny(w.Subject, "\r\n") || len(w.Subject) > 300 {
				t.Errorf("the subject is %q", w.Subject)
			}
			for what, bad := range map[string]string{
				"a script": `(?i)<script|javascript:|\son[a-z]+=`, "something from elsewhere": `(?i)<(img|link|iframe)|url\(|https?://`, "a name as markup": `<b>`,
				"a colour that was refused": `ZgotmplZ`,
			} {
				if found := regexp.MustCompile(bad).FindString(w.HTML); found != "" {
					t.Errorf("the letter has %s: %q", what, found)
				}
			}
			base := filepath.Join("testdata", strings.NewReplacer(" ", "-", ",", "").Replace(name))
			golden(t, base+".txt", "Subject: "+w.Subject+"\n\n"+w.Text)
			golden(t, base+".html", w.HTML)
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what is composed, which is\n%s", name, got)
	}
}

func TestComposeRefusesWhatItDoesNotKnow(t *testing.T) {
	for event, data := range map[string]string{"cert.lost": `{}`, outbox.CertExpired.Name: `[]`, outbox.Digest.Name: `7`} {
		if _, err := alerts.Compose(event, outbox.Warning.Name, at, at, json.RawMessage(data)); err == nil {
			t.Errorf("%s of %s is composed", event, data)
		}
	}
}

func TestEveryEventHasALetter(t *testing.T) {
	for _, e := range outbox.Events() {
		if w, err := alerts.Compose(e.Name, outbox.Warning.Name, at, at, row(day, nil)); err != nil || w.Subject == "" {
			t.Errorf("%s: %v", e.Name, err)
		}
	}
}

// The lists are as long as the digest says, and the rest is counted.
func TestDigestCountsWhatItDoesNotShow(t *testing.T) {
	for total, want := range map[int]string{49: "", 50: "", 51: "and 1 more", 67: "and 17 more"} {
		w, err := alerts.Compose(outbox.Digest.Name, outbox.Informational.Name, at, at, digestRow(total))
		if err != nil {
			t.Fatal(err)
		}
		if got := regexp.MustCompile(`and \d+ more`).FindString(w.Text); got != want || strings.Count(w.Text, "host-") != min(total, alerts.Rows) {
			t.Errorf("of %d it shows %d, %q", total, strings.Count(w.Text, "host-"), got)
		}
	}
}

// What is sent late says how much time there is then.
func TestTheTimeThatIsLeftIsCountedFromTheSending(t *testing.T) {
	for late, want := range map[time.Duration]string{
		0: "Certificate shop <b> ends in 7 days, on ", 2 * day: "Certificate shop <b> ends in 5 days, on ", 8 * day: "Certificate shop <b> has ended, on ",
	} {
		w, err := alerts.Compose(outbox.CertExpiring.Name, outbox.Warning.Name, at, at.Add(late), row(7*day, map[string]any{"auto_renew": true}))
		if err != nil || !strings.HasPrefix(w.Subject, want) || strings.Contains(w.Text, "0 minutes") {
			t.Errorf("%s late it is %q (%v)", late, w.Subject, err)
		}
	}
	w, err := alerts.Compose(outbox.CertRevoked.Name, outbox.Warning.Name, at, at.Add(day), row(7*day, map[string]any{"reason": "superseded", "serials": []string{"5b1c"}}))
	if err != nil || !strings.Contains(w.Text, "revoked on 1 March 2026 at 09:30 UTC") {
		t.Errorf("what happened before it was sent is told as %q (%v)", w.Text, err)
	}
}

// A list has many subjects and no letters.
func TestASubjectCostsLessThanALetter(t *testing.T) {
	data := digestRow(50)
	letter := testing.AllocsPerRun(5, func() { _, _ = alerts.Compose(outbox.Digest.Name, "warning", at, at, data) })
	subject := testing.AllocsPerRun(5, func() { _, _ = alerts.Subject(outbox.Digest.Name, "warning", at, at, data) })
	if subject > letter/3 {
		t.Errorf("a subject takes %v allocations and a letter %v", subject, letter)
	}
}
