package prose_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"certctl/evidence"
	"certctl/evidence/prose"
	"certctl/server/api"
	"certctl/server/audit"
	"certctl/server/config"
	"certctl/server/connector"
	"certctl/server/metric"
	"certctl/server/migrate"
	"certctl/server/perm"
)

// sources are a small module that pages can be about.
var sources = map[string]string{
	"go.mod":   "module certctl\n\nrequire (\n\tgithub.com/spf13/cobra v1.10.2\n)\n",
	"Makefile": "VERSION := 1\n.PHONY: docs\n\ndocs check: build ## both\n\tgo run .\n\nbuild:\n\tgo build\n",
	"server/scan/scan.go": `package scan

import (
	"time"

	yaml "go.yaml.in/yaml/v3"
)

type Host struct {
	Name string ` + "`json:\"host_name,omitempty\"`" + `
	*Other
}

type Other interface{ Close() error }

func (h *Host) Visit() time.Duration { return yaml.Whatever }

const each, Kind = "one-by-one", "text/plain"

const lock = "lock_of_all"

func deleteOld() {}
`,
	"server/scan/scan_test.go":   "package scan_test\n\nvar url = \"set CERTCTL_TEST_DATABASE_URL\"\n\nfunc TestHostIsSeen(t *testing.T) { t.Log(\"only-in-tests\") }\n",
	"server/scan/testdata/x.go":  "this is not Go",
	".ci/tools/go.mod":           "module tools\n",
	"tools/go.mod":               "module other\n",
	"tools/main.go":              "package foreign\n\nfunc Hidden() {}\n",
	"migrations/0001_scans.sql":  "create table scans ()",
	"docs/other.md":              "# Other page\n\n## Two words: `code`!\n\n## Again\n\n## Again\n\n<a id=\"by-hand\"></a>\n",
	"docs/reference/settings.md": "# Settings\n",
	"audit-packet/README.md":     "# Packet\n\nIt holds 3 receipts.\n",
	"audit-packet/data/x.json":   "{}",
	"audit-packet/receipts/x.md": "# X\n\nSeen in `data/x.json`.\n",
}

func inputs(t *testing.T) evidence.Inputs {
	t.Helper()
	seen, err := json.Marshal(evidence.CatalogSeen{Fresh: evidence.Catalog{
		Migrations: []evidence.CatalogMigration{{Version: "0001_scans", SHA256: "aa"}},
		Tables:     []evidence.CatalogTable{{Name: "scans", Columns: []evidence.CatalogColumn{{Name: "seen_at"}}, Indexes: []evidence.CatalogObject{{Name: "scans_by_name"}}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	catalog, err := json.Marshal(evidence.Observation{Seen: seen})
	if err != nil {
		t.Fatal(err)
	}
	return evidence.Inputs{
		Declared: api.Declared{
			Settings:    []config.Spec{{Name: "CERTCTL_LISTEN"}, {Name: "CERTCTL_TOKEN", Secret: true}},
			Permissions: []*perm.Permission{{Name: "scan.read"}},
			Roles:       []api.DeclaredRole{{Name: "night-watch"}},
			Metrics:     []*metric.Metric{{Name: "certctl_scans_total", Kind: metric.Counter}, {Name: "certctl_scan_seconds", Kind: metric.Histogram}},
			Actions:     []*audit.Action{{Name: "scan.begun"}},
			Loops:       []api.DeclaredLoop{{Name: "net-scan"}},
			Routes:      []api.DeclaredRoute{{Name: "get-scan", Method: "GET", Path: "/api/v1/scans/{id}"}, {Name: "get-health", Method: "GET", Path: "/healthz"}},
			Migrations:  []migrate.Migration{{Version: "0001_scans", SHA256: "aa"}},

			Rules:         []api.DeclaredWord{{Name: "name-long"}},
			KeyAlgorithms: []api.DeclaredWord{{Name: "rsa-one-bit"}},
			JobKinds:      []api.DeclaredJobKind{{Name: "look-again"}},
			IssuerTypes:   []api.DeclaredIssuer{{Name: "far-away", Can: []string{"sign-all"}, Settings: []connector.Field{{Name: "pass_word"}}}},
		},
		Packet:   fstest.MapFS{evidence.DataFile(evidence.CatalogMatches.ID): {Data: catalog}},
		Receipts: []evidence.Receipt{{Claim: evidence.Claim{ID: "scan/sees-hosts"}}},
	}
}

// check checks a tree in which docs/page.md holds page.
func check(t *testing.T, page string) []string {
	t.Helper()
	tree := fstest.MapFS{}
	for name, content := range sources {
		tree[name] = &fstest.MapFile{Data: []byte(content)}
	}
	tree["docs/page.md"] = &fstest.MapFile{Data: []byte(page)}
	problems, err := prose.Check(tree, inputs(t))
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, p := range problems {
		if p.Repair == "" {
			t.Errorf("no way out of %s", p)
		}
		said = append(said, fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.What))
	}
	return said
}

func TestWhatExistsIsNoProblem(t *testing.T) {
	spans := []string{
		"CERTCTL_LISTEN", "CERTCTL_LISTEN=:8443 certctl-server", "CERTCTL_TOKEN_FILE", "CERTCTL_TEST_DATABASE_URL", "CERTCTL_", "CERTCTL_TEST_",
		"certctl_scans_total", "certctl_scan_seconds_bucket", `certctl_scans_total{kind="a"}`,
		"GET /api/v1/scans/{id}", "GET /api/v1/scans/42?full=1", "/api/v1/scans/{id}", "/api/v1/", "GET /healthz", "/etc/passwd",
		"make docs", "make check build", "make docs VERSION=2 -j4",
		"scan.Host", "scan.Host.Visit", "scan.Host.Name", "scan.Host.Other", "scan.Other.Close", "Host.Visit", "scan.Kind", "*scan.Host", "scan.Host.Visit()",
		"scan.deleteOld", "time.Duration", "yaml.Whatever", "TestHostIsSeen",
		"scan.read", "scan.begun", "scan.go", "go.mod", "scans.seen_at", "db.example.com", "scan.each",
		"server/scan/scan.go", "server/scan/", "./server/...", "server/*/scan.go", "certctl/server/scan", "github.com/spf13/cobra", "github.com/spf13",
		"go.yaml.in/yaml/v3", "reference/settings.md", ".ci/tools", "scan/sees-hosts", "text/plain", "1/16",
		"net-scan", "night-watch", "get-scan", "one-by-one", "audit-packet", "name-long", "rsa-one-bit", "look-again", "far-away", "sign-all",
		"seen_at", "scans_by_name", "pass_word", "host_name", "lock_of_all", "0001_scans",
		"anything else (at all)", "word", "SCREAMING", "2s", "127.0.0.1:8443", "v1.2.3", "--flag",
	}
	page := "# Page\n\nSee `" + strings.Join(spans, "`, `") + "`.\n\n"
	page += "[a](other.md) [b](other.md#two-words-code) [c](other.md#again-1) [d](#page) [e](../server/scan/scan.go) [f](../migrations)\n" +
		"[g](https://example.com/a%20b?c#d) [h](other.md#by-hand) [i](mailto:a@example.com) <https://example.com> ![j](reference/settings.md)\n" +
		"<a href=\"other.md\">k</a> [l][ref]\n\n[ref]: other.md\n\n"
	page += "```sh\nexport CERTCTL_LISTEN=:1 && make docs # `scan.gone`, see server/gone.go\nmake -j4 check\n```\n\n    make build\n\n"
	page += "It took 3 seconds on version 2. Loops are run by 3 replicas; of one loop, 404 is said. The 5, routes. RFC 9457 says so.\n"
	if got := check(t, page); len(got) > 0 {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
}

func TestWhatDoesNotExistIsFound(t *testing.T) {
	for page, want := range map[string]string{
		"`CERTCTL_LISTN`":               "`CERTCTL_LISTN` is no setting; the nearest is `CERTCTL_LISTEN`",
		"`CERTCTL_LISTEN_FILE`":         "`CERTCTL_LISTEN_FILE` is no setting; the nearest is",
		"`CERTCTL_TEST_GONE`":           "`CERTCTL_TEST_GONE` is no setting; the nearest is `CERTCTL_TEST_DATABASE_URL`",
		"`CERTCTL_GONE_`":               "`CERTCTL_GONE_` is no setting",
		"`X=1 CERTCTL_GONE=2 cmd`":      "`CERTCTL_GONE` is no setting",
		"`certctl_scan_total`":          "`certctl_scan_total` is no metric; the nearest is `certctl_scans_total`",
		"`certctl_scans_total_bucket`":  "`certctl_scans_total_bucket` is no metric",
		"`POST /api/v1/scans/{id}`":     "`POST /api/v1/scans/{id}` is no route; the nearest is `GET /api/v1/scans/{id}`",
		"`GET /healthy`":                "`GET /healthy` is no route; the nearest is `GET /healthz`",
		"`GET /api/v1/scans/{name}`":    "`GET /api/v1/scans/{name}` is no route",
		"`/api/v2/scans`":               "`/api/v2/scans` is no route",
		"`make doc`":                    "`doc` is no target of the Makefile; the nearest is `docs`",
		"`make docs gone`":              "`gone` is no target of the Makefile",
		"`make VERSION`":                "`VERSION` is no target",
		"`scan.Hosts`":                  "`scan.Hosts` is no Go symbol; the nearest is `scan.Host`",
		"`scan.Host.Vist`":              "`scan.Host.Vist` is no Go symbol; the nearest is `scan.Host.Visit`",
		"`gone.Host`":                   "`gone.Host` is no Go symbol",
		"`time.Gone`":                   "`time.Gone` is no Go symbol",
		"`foreign.Hidden`":              "`foreign.Hidden` is no Go symbol",
		"`TestHostIsGone`":              "`TestHostIsGone` is no test; the nearest is `TestHostIsSeen`",
		"`scan.reed`":                   "`scan.reed` is no permission, audit action, file, column or Go symbol; the nearest is `scan.read`",
		"`scans.gone_at`":               "`scans.gone_at` is no permission",
		"`server/scan/scam.go`":         "`server/scan/scam.go` is no file or directory; the nearest is `server/scan/scan.go`",
		"`data/x.json`":                 "`data/x.json` is no file or directory; the nearest is `audit-packet/data/x.json`",
		"`server/*/gone.go`":            "`server/*/gone.go` is no file",
		"`scan/scan.go`":                "`scan/scan.go` is no file or directory; the nearest is `server/scan/scan.go`",
		"`net-scam`":                    "`net-scam` is no loop, role, route, rule, algorithm, ability, file or word of the code; the nearest is `net-scan`",
		"`seen_it`":                     "`seen_it` is no table, column, constraint, field of the API or word of the code; the nearest is `seen_at`",
		"`host_names`":                  "`host_names` is no table, column",
		"```sh\nmake doc\n```":          "`doc` is no target",
		"```\nCERTCTL_GONE=1 x\n```":    "`CERTCTL_GONE` is no setting",
		"    $ make gone":               "`gone` is no target",
		"| a |\n| --- |\n| `net-gon` |": "`net-gon` is no loop",
		"# `net-gon`":                   "`net-gon` is no loop",
		"[a](othr.md)":                  "the link \"othr.md\" leads to docs/othr.md, which does not exist; the nearest is `docs/other.md`",
		"![a](gone.png)":                "the link \"gone.png\" leads to docs/gone.png, which does not exist",
		"<img src=\"gone.png\">":        "the link \"gone.png\" leads to docs/gone.png, which does not exist",
		"[a][r]\n\n[r]: gone.md":        "the link \"gone.md\" leads to docs/gone.md",
		"[a](other.md#too-words-code)":  "the link \"other.md#too-words-code\" leads to #too-words-code, which docs/other.md does not have; the nearest is `two-words-code`",
		"[a](other.md#again-2)":         "the link \"other.md#again-2\" leads to #again-2",
		"[a](#gone)":                    "the link \"#gone\" leads to #gone, which docs/page.md does not have",
		"[a](../go.mod#L3)":             "the link \"../go.mod#L3\" has an anchor, and only pages have those",
		"[a](../../secret.md)":          "the link \"../../secret.md\" leaves the repository",
		"[a](/docs/other.md)":           "the link \"/docs/other.md\" is relative to a host",
		"[a](//example.com/x)":          "the link \"//example.com/x\" is relative to a host",
		"[a](https:///x)":               "the link \"https:///x\" leads nowhere",
		"[a](file:///etc/passwd)":       "the link \"file:///etc/passwd\" leads nowhere",
		"[a](ftp://example.com/x)":      "the link \"ftp://example.com/x\" leads nowhere",
		"a <a href=\"gone.md\">b</a>":   "the link \"gone.md\" leads to docs/gone.md",
		"`only-in-tests`":               "`only-in-tests` is no loop",

		"| a | b |\n| --- | --- |\n| c ` | `net-gon` |": "`net-gon` is no loop",

		"[a](%zz)":                      "the link \"%zz\" cannot be read",
		"There are 20 loops.":           `"20 loops" is a count in prose`,
		"Twelve kinds of jobs":          `"Twelve kinds" is a count in prose`,
		"Twelve\ndeclared settings":     `"Twelve declared settings" is a count in prose`,
		"It has (1,024 *routes*)":       `"1,024 routes" is a count in prose`,
		"Its 3 `good` receipts":         `"3 good receipts" is a count in prose`,
		"| a |\n| --- |\n| two tables|": `"two tables" is a count in prose`,
		"## Twenty-one metrics":         `"Twenty-one metrics" is a count in prose`,
		"<!-- certctl:end x -->":        "block x ends and did not begin",
		"<!-- certctl:begin x sha256:" + strings.Repeat("0", 64) + " -->\n<!-- certctl:end x -->": "block x is not declared for this page",
	} {
		t.Run(want, func(t *testing.T) {
			got := check(t, "\n"+page+"\n")
			if len(got) != 1 || !strings.HasPrefix(got[0], "docs/page.md:") || !strings.Contains(got[0], ": "+want) {
				t.Errorf("of %q got %q, want %q", page, got, want)
			}
		})
	}
}

func TestProblemsNameTheirLine(t *testing.T) {
	got := check(t, "# A\n\nb\n`net-a`\n\n| c | d |\n| --- | --- |\n| e | f |\n| g\\|h | `net-b` |\n\n```\nx\nmake c\n```\n\n- i\n- [j](gone.md) 3\n  loops\n")
	var lines []string
	for _, g := range got {
		lines = append(lines, strings.Split(g, ":")[1])
	}
	if want := []string{"4", "9", "13", "17", "17"}; !slices.Equal(lines, want) {
		t.Errorf("got lines %v, want %v\n%s", lines, want, strings.Join(got, "\n"))
	}
}

func TestGeneratedBlocksMayCount(t *testing.T) {
	files := map[string]string{}
	maps.Copy(files, sources)
	files["docs/reference/settings.md"] = "# Settings\n\n<!-- certctl:begin settings sha256:" + strings.Repeat("0", 64) +
		" -->\nThere are 20 loops, and a `net-gone`.\n<!-- certctl:end settings -->\n\nThere are 3 loops.\n"
	tree := fstest.MapFS{}
	for name, content := range files {
		tree[name] = &fstest.MapFile{Data: []byte(content)}
	}
	problems, err := prose.Check(tree, inputs(t))
	if err != nil || len(problems) != 2 || problems[0].Line != 4 || problems[1].Line != 7 {
		t.Errorf("got %v, %v; want the name in the block and the count behind it", problems, err)
	}
}

func TestSourceThatCannotBeReadIsNoProblemButAnError(t *testing.T) {
	for name, tree := range map[string]fstest.MapFS{
		"no module":   {"README.md": {Data: []byte("# A\n")}},
		"no Go":       {"go.mod": {Data: []byte("module a\n")}, "a.go": {Data: []byte("pack age")}},
		"bad catalog": {"go.mod": {Data: []byte("module a\n")}},
	} {
		in := inputs(t)
		if name == "bad catalog" {
			in.Packet = fstest.MapFS{evidence.DataFile(evidence.CatalogMatches.ID): {Data: []byte("{")}}
		}
		if problems, err := prose.Check(tree, in); err == nil {
			t.Errorf("%s: got %v and no error", name, problems)
		}
	}
}
