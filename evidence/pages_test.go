package evidence_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"certctl/evidence"
	"certctl/server/api"
	"certctl/server/audit"
	"certctl/server/cert"
	"certctl/server/config"
	"certctl/server/connector"
	"certctl/server/fault"
	"certctl/server/limit"
	"certctl/server/metric"
	"certctl/server/migrate"
	"certctl/server/outbox"
	"certctl/server/perm"
	"certctl/server/schedule"
)

var update = flag.Bool("update", false, "rewrite testdata")

// inputs are small, and hold what Markdown would take for markup.
func inputs(t *testing.T) evidence.Inputs {
	t.Helper()
	return evidence.Inputs{
		Declared: api.Declared{
			Settings: []config.Spec{
				{Name: "CERTCTL_SCAN_EVERY", Type: "duration", Default: "6h0m0s", Bounds: "10ms to 1h5m0s", Does: "How often | it *scans*, as `a|b` does.", Effect: "rows"},
				{Name: "CERTCTL_NAME", Type: "text", Bounds: "a [name] <b>", Does: "Goes with CERTCTL_SCAN_EVERY; a ` alone.", Effect: "a \\ name"},
				{Name: "CERTCTL_TOKEN", Type: "secret", Bounds: "long", Does: "The token.", Effect: "an answer", Secret: true},
			},
			Permissions: []*perm.Permission{{Name: "scan.read", Does: "Read scans."}, {Name: "scan.edit", Does: "Edit scans."}},
			Roles: []api.DeclaredRole{
				{Name: "chief", Does: "Does all.", Permissions: []string{"scan.read", "scan.edit"}},
				{Name: "guest", Does: "Reads.", Permissions: []string{"scan.read"}},
				{Name: "nobody", Does: "Does nothing."},
			},
			Metrics: []*metric.Metric{
				{Name: "certctl_scans_total", Kind: metric.Counter, Help: "Scans.", Labels: []string{"kind", "outcome"}},
				{Name: "certctl_scan_seconds", Kind: metric.Histogram, Help: "Time of a scan."},
			},
			Faults:  []*fault.Kind{{Code: "busy", Status: 503, Retry: true, Does: "Come back."}, {Code: "wrong", Status: 400, Does: "Do not."}},
			Actions: []*audit.Action{{Name: "scan.begun", Category: "scans", Does: "A scan began."}},
			Loops: []api.DeclaredLoop{
				{Name: "net-scan", Does: "scans", Every: "1m0s", Setting: "CERTCTL_SCAN_EVERY", Timeout: "1h0m0s", HA: schedule.OneReplica, Why: "it is work", Effects: "rows"},
				{Name: "sweep", Does: "sweeps", Every: "30s", Setting: "CERTCTL_SCAN_EVERY", Timeout: "5s", HA: schedule.Atomic, Why: "it is one statement", Effects: "rows deleted"},
			},
			Retentions: []api.DeclaredRetention{{Table: "scans", Setting: "CERTCTL_SCAN_EVERY", Keep: "48h0m0s", Does: "old scans"}},
			Routes: []api.DeclaredRoute{
				{Name: "get-scan", Method: "GET", Path: "/api/v1/scans/{id}", Does: "answers with a scan", Permission: "scan.read", In: "scan.One", Out: "scan.Scan", Limits: []string{"all", "one"}},
				{Name: "get-life", Method: "GET", Path: "/life", Does: "says that it lives", Public: "it says nothing else", Out: "text/plain", Unlimited: "it costs *nothing*"},
				{Name: "start-scan", Method: "POST", Path: "/api/v1/scans", Does: "starts a scan", Permission: "scan.edit", Limits: []string{"all"}},
			},
			Limits: []api.DeclaredLimit{
				{Name: "all", Does: "keeps *everybody* out", Key: "address", Algorithm: "bucket", Cap: 100, CapBy: "CERTCTL_SCAN_EVERY", Rate: 0.5, RateBy: "CERTCTL_SCAN_RATE", Failure: "A request is lost."},
				{Name: "one", Does: "keeps one out", Key: "actor", Algorithm: "window", Cap: 5, CapBy: "CERTCTL_SCAN_EVERY", Window: "1h0m0s", Durable: true, Failure: "It is lost."},
			},
			LimitScopes: []*limit.Scope{
				{Name: "shared", Does: "It is shared.", Factor: "1", Restart: "nothing", Crash: "some", Durable: "none", Bound: "rows"},
				{Name: "own", Does: "It is not.", Factor: "N", Restart: "all", Crash: "nothing", Durable: "nothing", Bound: "some | keys"},
			},
			LimitKeys:       []*limit.Key{{Name: "address", Does: "Set by CERTCTL_SCAN_EVERY."}, {Name: "actor", Does: "Who asks."}},
			LimitAlgorithms: []*limit.Algorithm{{Name: "bucket", Does: "It fills."}, {Name: "window", Does: "It slides."}},
			Migrations:      []migrate.Migration{{Version: "0001_scans", SHA256: "aa"}, {Version: "0002_more", SHA256: "bb", ReadableFrom: "0001"}},

			CertStates: []api.DeclaredState{
				{Name: "asked", Does: "It was *asked* for.", Moves: []string{"good", "gone"}},
				{Name: "good", Does: "It is good.", Moves: []string{"gone"}},
				{Name: "gone", Does: "It is gone."},
			},
			Reasons:       []*cert.Reason{{Name: "lostKey", Code: 1, Does: "The key is lost."}},
			Rules:         []api.DeclaredWord{{Name: "name-long", Does: "A name | that is [long]."}},
			KeyAlgorithms: []api.DeclaredWord{{Name: "rsa-1", Does: "RSA of one bit."}},
			ExtKeyUsages:  []api.DeclaredWord{{Name: "scanning", Does: "It scans."}},
			SANKinds:      []api.DeclaredWord{{Name: "host", Does: "A host."}},
			JobStates:     []api.DeclaredState{{Name: "open", Does: "It waits.", Moves: []string{"shut"}}, {Name: "shut", Does: "It ended.", Moves: []string{"open"}}},
			JobKinds:      []api.DeclaredJobKind{{Name: "look", Does: "looks", Attempts: 3, RetryEvery: "10s", Timeout: "1m0s", Priority: 7}},
			BulkActions:   []api.DeclaredBulkAction{{Name: "scan", Does: "Scans each.", Permission: "scan.edit"}},
			IssuerTypes: []api.DeclaredIssuer{
				{Name: "here", Does: "Signs *here*.", Can: []string{"list", "poll"}, Settings: []connector.Field{
					{Name: "size", Type: "number", Default: "2", Bounds: "1 to 3 | none", Does: "how large", Fixed: true},
					{Name: "pass_word", Type: "text", Bounds: "any text", Does: "what opens it", Secret: true, Fixed: true},
				}},
				{Name: "there", Does: "Signs there."},
			},
			Severities:         []*outbox.Severity{{Name: "mild", Does: "It is *mild*."}, {Name: "bad", Does: "It is bad."}},
			Events:             []*outbox.Event{{Name: "scan.late", Does: "A scan | is late.", Severity: "bad"}},
			NotificationStates: []api.DeclaredState{{Name: "kept", Does: "It waits.", Moves: []string{"gone"}}, {Name: "gone", Does: "It went."}},
			ChannelTypes: []api.DeclaredChannel{
				{Name: "pigeon", Does: "Flies *there*.", Settings: []connector.Field{
					{Name: "loft", Type: "text", Bounds: "any text", Does: "where it lives", Secret: true},
				}},
			},
		},
		Packet: fstest.MapFS{catalogFile: {Data: observed(t, func(*evidence.Catalog) {})}},
		Receipts: []evidence.Receipt{
			{
				Claim:   evidence.Claim{ID: "schedule/passes", Says: "Every [loop] passes.", Symbols: []string{"schedule.All"}},
				Verdict: evidence.True, Checks: []evidence.Check{{What: "sweep", Want: "a", Got: "a"}, {What: "net-scan", Want: "a", Got: "a"}},
				Controls: []evidence.Control{{Defect: "it does not sweep", Turns: []string{"sweep"}, Red: []string{"sweep"}}},
				Tests:    []evidence.Cited{{TestRecord: evidence.TestRecord{Test: evidence.Test{Package: "server/scan", Name: "TestSweeps"}, Outcome: evidence.TestPassed}, Verdict: evidence.True}},
			},
			{
				Claim: evidence.CapIsTheClusters.Claim, Verdict: evidence.False,
				Checks: []evidence.Check{{What: evidence.Restarted("all"), Want: "5", Got: "5"}, {What: evidence.Restarted("one"), Want: "5", Got: "6"}},
				Controls: []evidence.Control{
					{Defect: "both", Turns: []string{evidence.Restarted("all"), evidence.Restarted("one")}, Red: []string{evidence.Restarted("all"), evidence.Restarted("one")}},
					{Defect: "the first", Turns: []string{evidence.Restarted("all")}, Red: []string{evidence.Restarted("all")}},
				},
			},
			{Claim: evidence.WaitIsTold.Claim, Verdict: evidence.Unknown},
			{Claim: evidence.Claim{ID: "schedule/net-scan", Says: "It scans once."}, Verdict: evidence.False, Reason: "it scanned 3 times"},
			{Claim: evidence.Claim{ID: "access/roles", Says: "Roles guard.", Symbols: []string{"perm.Roles"}}, Verdict: evidence.True, Checks: []evidence.Check{{What: "sweep"}}},
		},
	}
}

// observed is a catalog as a probe stores it, changed by change.
func observed(t *testing.T, change func(*evidence.Catalog)) []byte {
	t.Helper()
	c := evidence.Catalog{
		Migrations: []evidence.CatalogMigration{{Version: "0001_scans", SHA256: "aa"}, {Version: "0002_more", SHA256: "bb"}},
		Tables: []evidence.CatalogTable{
			{
				Name: "scans", Comment: "What was scanned.",
				Columns: []evidence.CatalogColumn{
					{Name: "id", Type: "bigint"},
					{Name: "at", Type: "timestamp with time zone", Nullable: true, Default: "now()"},
				},
				Constraints: []evidence.CatalogObject{{Name: "scans_pkey", Definition: "PRIMARY KEY (id)"}, {Name: "scans_id_is_odd", Definition: "CHECK (((id | 1) = id))"}},
				Indexes:     []evidence.CatalogObject{{Name: "scans_pkey", Definition: "CREATE UNIQUE INDEX scans_pkey ON public.scans USING btree (id)"}},
				Triggers:    []evidence.CatalogObject{{Name: "scans_append_only", Definition: "CREATE TRIGGER `odd`"}},
			},
			{Name: "hosts", Columns: []evidence.CatalogColumn{{Name: "name", Type: "text", Default: "'a`b'::text"}}},
		},
	}
	change(&c)
	return observation(t, evidence.CatalogSeen{Fresh: c})
}

func observation(t *testing.T, seen any) []byte {
	t.Helper()
	raw, err := json.Marshal(seen)
	if err != nil {
		t.Fatal(err)
	}
	if raw, err = json.Marshal(evidence.Observation{Seen: raw}); err != nil {
		t.Fatal(err)
	}
	return raw
}

var catalogFile = evidence.DataFile(evidence.CatalogMatches.ID)

func render(t *testing.T, tree fs.FS, in evidence.Inputs, discard bool) evidence.Rendered {
	t.Helper()
	r, err := evidence.Render(tree, in, discard)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestPages(t *testing.T) {
	r := render(t, fstest.MapFS{}, inputs(t), false)
	if len(r.Files) != len(evidence.Pages) || len(r.Refused)+len(r.Stale) > 0 {
		t.Fatalf("rendered %d pages of %d, refused %v, stale %v", len(r.Files), len(evidence.Pages), r.Refused, r.Stale)
	}
	for name, got := range r.Files {
		t.Run(path.Base(name), func(t *testing.T) {
			golden := filepath.Join("testdata", "pages", path.Base(name))
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != string(want) {
				t.Errorf("%s differs; go test ./evidence -update rewrites it\n--- got\n%s--- want\n%s", golden, got, want)
			}
		})
	}
}

// tree is a source tree that holds the rendered pages.
func tree(files map[string][]byte) fstest.MapFS {
	t := fstest.MapFS{}
	for name, content := range files {
		t[name] = &fstest.MapFile{Data: content}
	}
	return t
}

func TestRenderingAgainChangesNothing(t *testing.T) {
	first := render(t, fstest.MapFS{}, inputs(t), false)
	in := inputs(t)
	slices.Reverse(in.Receipts)
	in.Packet = fstest.MapFS{catalogFile: {Data: observed(t, func(c *evidence.Catalog) {
		slices.Reverse(c.Tables)
		for _, table := range c.Tables {
			slices.Reverse(table.Constraints)
		}
	})}}
	for name, again := range map[string]evidence.Rendered{
		"anew":               render(t, fstest.MapFS{}, in, false),
		"into what is there": render(t, tree(first.Files), in, false),
	} {
		if !maps.EqualFunc(first.Files, again.Files, func(a, b []byte) bool { return string(a) == string(b) }) {
			t.Errorf("rendered %s from the same facts in another order, the pages differ", name)
		}
	}
	drifted, err := evidence.Drift(tree(first.Files), first.Files, "make docs")
	if err != nil || len(drifted) > 0 {
		t.Errorf("pages differ from themselves: %v, %v", drifted, err)
	}
}

const errorsPage = "docs/reference/errors.md"

func TestRenderKeepsProseAndReplacesBlocks(t *testing.T) {
	in := inputs(t)
	files := render(t, fstest.MapFS{}, in, false).Files
	_, block, _ := strings.Cut(string(files[errorsPage]), "<!--")
	prose := "# By hand\n\nBefore.\n\n<!--" + block + "\nAfter.\n"
	files[errorsPage] = []byte(prose)
	in.Declared.Faults[0].Does = "Come back later."

	got := render(t, tree(files), in, false)
	page := string(got.Files[errorsPage])
	if !strings.HasPrefix(page, "# By hand\n\nBefore.\n\n<!-- certctl:begin ") || !strings.HasSuffix(page, " -->\n\nAfter.\n") {
		t.Errorf("the prose was not kept:\n%s", page)
	}
	if !strings.Contains(page, "Come back later.") || strings.Contains(page, "Come back.") {
		t.Errorf("the block was not replaced:\n%s", page)
	}
	drifted, err := evidence.Drift(tree(files), got.Files, "make docs")
	if err != nil || len(drifted) != 1 {
		t.Fatalf("got %v, %v; want one stale page", drifted, err)
	}
	for _, want := range []string{errorsPage, "-| `busy` | 503 Service Unavailable | yes | Come back. |", "+| `busy` | 503 Service Unavailable | yes | Come back later. |", "repair: make docs"} {
		if !strings.Contains(drifted[0].String(), want) {
			t.Errorf("the problem does not say %q:\n%s", want, drifted[0])
		}
	}
}

func TestRenderRefusesAHandEdit(t *testing.T) {
	in := inputs(t)
	files := render(t, fstest.MapFS{}, in, false).Files
	original := string(files[errorsPage])
	files[errorsPage] = []byte(strings.Replace(original, "Come back.", "Go away.", 1))

	got := render(t, tree(files), in, false)
	if len(got.Refused) != 1 || got.Files[errorsPage] != nil {
		t.Fatalf("a hand edit was not refused: %v\n%s", got.Refused, got.Files[errorsPage])
	}
	for _, want := range []string{
		errorsPage + ":7: block errors was edited by hand", "server/fault/fault.go",
		"-| `busy` | 503 Service Unavailable | yes | Come back. |", "+| `busy` | 503 Service Unavailable | yes | Go away. |", "make docs DISCARD=1",
	} {
		if !strings.Contains(got.Refused[0].String(), want) {
			t.Errorf("the refusal does not say %q:\n%s", want, got.Refused[0])
		}
	}
	if again := render(t, tree(files), in, true); string(again.Files[errorsPage]) != original {
		t.Errorf("the edit was not discarded:\n%s", again.Files[errorsPage])
	}
}

func TestRenderRefusesBadMarkers(t *testing.T) {
	in := inputs(t)
	original := string(render(t, fstest.MapFS{}, in, false).Files[errorsPage])
	_, block, _ := strings.Cut(original, "\n\n<!--")
	block = "<!--" + block
	begin, end := block[:strings.Index(block, "\n")+1], "<!-- certctl:end errors -->\n"
	change := func(from, to string) string { return strings.Replace(original, from, to, 1) }
	for _, tt := range []struct{ name, page, want string }{
		{"unknown", change("certctl:end", "certctl:fin"), errorsPage + ":13: this is no marker of a generated block: <!-- certctl:fin errors -->"},
		{"a checksum cut short", change("sha256:", "sha256:0"), errorsPage + ":7: this is no marker"},
		{"indented", change(end, "  "+end), errorsPage + ":13: this is no marker"},
		{"duplicate", original + "\n" + block, errorsPage + ":15: block errors is here for the second time, the first is on line 7"},
		{"unclosed", change(end, ""), errorsPage + ":7: block errors begins and does not end"},
		{"nested", change(begin, begin+begin), errorsPage + ":8: block errors begins inside block errors, which began on line 7"},
		{"crossed", change("certctl:end errors", "certctl:end more"), errorsPage + ":13: block more ends inside block errors, which began on line 7"},
		{"not begun", original + end, errorsPage + ":14: block errors ends and did not begin"},
		{"undeclared", strings.ReplaceAll(strings.ReplaceAll(original, "begin errors", "begin more"), "end errors", "end more"), errorsPage + ":7: this page has no block more; it has errors"},
		{"missing", change(block, ""), errorsPage + ": block errors is missing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := render(t, fstest.MapFS{errorsPage: {Data: []byte(tt.page)}}, in, true)
			var said []string
			for _, p := range r.Refused {
				if p.Repair == "" {
					t.Errorf("no way out of %s", p)
				}
				said = append(said, p.String())
			}
			if !slices.ContainsFunc(said, func(s string) bool { return strings.HasPrefix(s, tt.want) }) {
				t.Errorf("got %q, want %q", said, tt.want)
			}
			if r.Files[errorsPage] != nil {
				t.Error("the page was rendered all the same")
			}
		})
	}
}

func TestTheWayOutOfAMissingBlockLeadsOut(t *testing.T) {
	in := inputs(t)
	r := render(t, fstest.MapFS{errorsPage: {Data: []byte("# Errors\n")}}, in, false)
	_, lines, found := strings.Cut(r.Refused[0].Repair, "\n")
	if !found {
		t.Fatalf("no lines to paste: %s", r.Refused[0])
	}
	page := "# Errors\n\n"
	for l := range strings.Lines(lines) {
		page += strings.TrimLeft(l, " ")
	}
	r = render(t, fstest.MapFS{errorsPage: {Data: []byte(page)}}, in, false)
	if len(r.Refused) > 0 || !strings.Contains(string(r.Files[errorsPage]), "Come back.") {
		t.Errorf("the pasted markers were not taken: %v\n%s", r.Refused, r.Files[errorsPage])
	}
}

func TestCatalogOfAnotherBuildIsNotShown(t *testing.T) {
	const schemaPage = "docs/reference/schema.md"
	other := observed(t, func(c *evidence.Catalog) { c.Migrations[1].SHA256 = "cc" })
	fewer := observed(t, func(c *evidence.Catalog) { c.Migrations = c.Migrations[:1] })
	for name, tt := range map[string]struct {
		packet fs.FS
		want   string
	}{
		"no packet":       {nil, "the catalog has not been observed"},
		"no catalog":      {fstest.MapFS{}, "the catalog has not been observed"},
		"not looked at":   {fstest.MapFS{catalogFile: {Data: []byte(`{"skipped": "no time"}`)}}, "the catalog has not been observed"},
		"another file":    {fstest.MapFS{catalogFile: {Data: other}}, "the catalog was observed with other migrations"},
		"fewer migration": {fstest.MapFS{catalogFile: {Data: fewer}}, "the catalog was observed with other migrations"},
	} {
		t.Run(name, func(t *testing.T) {
			in := inputs(t)
			in.Packet = tt.packet
			r := render(t, fstest.MapFS{}, in, false)
			if len(r.Stale) != 1 || r.Stale[0].File != schemaPage || !strings.Contains(r.Stale[0].What, tt.want) || r.Stale[0].Repair != "make audit-packet docs" {
				t.Errorf("got %v, want %q of %s", r.Stale, tt.want, schemaPage)
			}
			if page := string(r.Files[schemaPage]); !strings.Contains(page, "Not shown: "+tt.want) || strings.Contains(page, "scans_pkey") {
				t.Errorf("the page does not say that it shows no catalog:\n%s", page)
			}
		})
	}
	in := inputs(t)
	for _, torn := range []string{"{", `{"seen": []}`} {
		in.Packet = fstest.MapFS{catalogFile: {Data: []byte(torn)}}
		if _, err := evidence.Render(fstest.MapFS{}, in, false); err == nil || !strings.Contains(err.Error(), catalogFile) {
			t.Errorf("of the observation %s: %v", torn, err)
		}
	}
}

func TestAClassWithoutAMeaningIsRefused(t *testing.T) {
	in := inputs(t)
	in.Declared.Loops[0].HA = "wild"
	if _, err := evidence.Render(fstest.MapFS{}, in, false); err == nil || !strings.Contains(err.Error(), `"wild"`) {
		t.Errorf("got %v", err)
	}
}

func TestProblemsAreInTheOrderOfFilesAndLines(t *testing.T) {
	problems := []evidence.Problem{{File: "b"}, {File: "a", Line: 10}, {File: "a", Line: 9}}
	evidence.Sort(problems)
	if got := fmt.Sprint(problems); got != "[a:9: \n a:10: \n b: \n]" {
		t.Errorf("got %q", got)
	}
}

// A row of a table says what the receipts about it say, and not what those say of
// other rows.
func TestARowHasItsOwnVerdict(t *testing.T) {
	in := inputs(t)
	row := func(page, name string) string {
		t.Helper()
		for l := range strings.Lines(string(render(t, fstest.MapFS{}, in, false).Files[page])) {
			if strings.HasPrefix(l, "| [`"+name+"`]") {
				cells := strings.Split(l, " | ")
				return strings.Join(cells[len(cells)-3:len(cells)-1], " | ")
			}
		}
		t.Fatalf("%s has no row of %s", page, name)
		return ""
	}
	const scheduler, limits = "docs/operator/scheduler-ha.md", "docs/operator/rate-limit-scope.md"
	for _, tt := range []struct{ page, name, want string }{
		{scheduler, "net-scan", "false | 0 of 0"},
		{scheduler, "sweep", "true | 1 of 1"},
		{limits, "all", "unknown | 2 of 2"},
		{limits, "one", "false | 1 of 1"},
	} {
		if got := row(tt.page, tt.name); got != tt.want {
			t.Errorf("the row of %s says %q, want %q", tt.name, got, tt.want)
		}
	}
	in.Receipts = slices.DeleteFunc(in.Receipts, func(r evidence.Receipt) bool { return r.Claim.ID == evidence.WaitIsTold.ID })
	if got := row(limits, "all"); got != "true | 2 of 2" {
		t.Errorf("the row of a limit that holds says %q", got)
	}
	for i := range in.Receipts {
		in.Receipts[i].Controls = nil
	}
	if got := row(limits, "all"); got != "vacuous | 0 of 0" {
		t.Errorf("without a control the row says %q", got)
	}
	in.Receipts = nil
	if got := row(limits, "all"); got != "no receipt | " {
		t.Errorf("without a receipt the row says %q", got)
	}
}
