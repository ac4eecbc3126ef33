package app_test

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"certctl/server/api"
	"certctl/server/client"
	"certctl/server/config"
	"certctl/server/metric"
	"certctl/server/pg/pgtest"
)

// scrape returns the lines of the server's metrics that are no comments.
func (r *running) scrape(t *testing.T) []string {
	t.Helper()
	body, err := r.Get(t.Context(), api.Metrics)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	text, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(strings.Split(string(text), "\n"), func(line string) bool { return line == "" || line[0] == '#' })
}

func TestScrapeHasTheDeclaredNamesAlone(t *testing.T) {
	t.Parallel()
	r := run(t, config.Values{config.CRLGenerationEvery.Name: 50 * time.Millisecond})
	// What has a label of an issuer shows once there is one that did something.
	in := &api.NewCertificate{Body: estate(t, r)}
	for _, san := range []string{"a.example.com", "not a name"} {
		in.Body.Name, in.Body.SANs = san, []string{san}
		_, _ = client.Do(t.Context(), r.Client, api.IssueCertificate, in) // the second is refused
	}
	pgtest.Eventually(t, "a revocation list is signed", func() bool {
		return slices.ContainsFunc(r.scrape(t), func(line string) bool { return strings.HasPrefix(line, metric.CRLNumber.Name) })
	})
	families := map[string]bool{}
	for _, m := range metric.All() {
		families[m.Name] = false
	}
	for _, line := range r.scrape(t) {
		name, _, _ := strings.Cut(strings.FieldsFunc(line, func(c rune) bool { return c == '{' || c == ' ' })[0], " ")
		if !strings.HasPrefix(name, "certctl_") {
			continue // the runtime's and the process's own
		}
		for _, suffix := range []string{"", "_bucket", "_sum", "_count"} {
			if _, ok := families[strings.TrimSuffix(name, suffix)]; ok {
				name = strings.TrimSuffix(name, suffix)
				break
			}
		}
		if _, ok := families[name]; !ok {
			t.Errorf("the scrape has %s, which is not declared", name)
		}
		families[name] = true
	}
	for name, seen := range families {
		if !seen {
			t.Errorf("the scrape lacks %s", name)
		}
	}
}

func TestAlteredLogShowsInTheMetricWhateverItHolds(t *testing.T) {
	t.Parallel()
	r := run(t, config.Values{config.AuditChainVerifyEvery.Name: 50 * time.Millisecond})
	shows := func(value string) func() bool {
		return func() bool { return slices.Contains(r.scrape(t), metric.AuditIntact.Name+" "+value) }
	}
	pgtest.Eventually(t, "the metric says that the log is intact", shows("1"))
	// The report tells of this checkpoint at its length.
	_, err := pgtest.Pool(t, r.url).Exec(t.Context(), `
		insert into audit_checkpoints (size, root, note, token, at) values (999999, sha256('x'), $1, 1, now())`,
		strings.Repeat("x", 90000)+"\n999999\n"+strings.Repeat("A", 43)+"=\nprevious 0\ntoken 1\nat 2026-01-02T03:04:05.000006Z\n\n— a b\n")
	if err != nil {
		t.Fatal(err)
	}
	pgtest.Eventually(t, "the metric says that the log was altered", shows("0"))
}

func TestHead(t *testing.T) {
	t.Parallel()
	r := run(t, nil)
	if a := r.raw(t, http.MethodHead, api.Healthz.Path, "", ""); a.status != http.StatusOK || a.body != "" {
		t.Errorf("HEAD of a route that takes GET: %d %q", a.status, a.body)
	}
	if a := r.raw(t, http.MethodHead, api.ExportEvents.Path, "", ""); a.status != http.StatusMethodNotAllowed {
		t.Errorf("HEAD of a stream: %d, want that it is not made for nothing", a.status)
	}
}
