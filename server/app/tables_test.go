package app_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"
	"go.uber.org/zap"

	"certctl/server/api"
	"certctl/server/app"
	"certctl/server/audit"
	"certctl/server/config"
	"certctl/server/metric"
	"certctl/server/perm"
	"certctl/server/schedule"
)

// unwired is the server as the renderer of pages makes it: no settings, no
// database.
func unwired() *app.App { return app.New(config.Values{}, app.Build{Version: "test"}, zap.NewNop()) }

func TestEveryLoopIsBoundOnce(t *testing.T) {
	bound := map[*schedule.Loop]int{}
	for _, b := range unwired().Loops() {
		bound[b.Loop]++
	}
	for _, l := range schedule.All() {
		if bound[l] != 1 {
			t.Errorf("the loop %s is bound %d times", l.Name, bound[l])
		}
		delete(bound, l)
	}
	for l := range bound {
		t.Errorf("the loop %s is bound and not declared", l.Name)
	}
}

func TestServedRoutesAreTheTable(t *testing.T) {
	var want, got []string
	for _, r := range api.Routes() {
		want = append(want, r.Method+" "+r.Path)
	}
	err := chi.Walk(unwired().Web.Router(), func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		got = append(got, method+" "+route)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("served %v\ndeclared %v", got, want)
	}
}

func TestDocumentHasEveryRoute(t *testing.T) {
	raw, err := unwired().Web.OpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			OperationID string
			Summary     string
			Security    []map[string][]string
			Responses   map[string]any
		}
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.OpenAPI != "3.1.0" {
		t.Errorf("the document is OpenAPI %s", doc.OpenAPI)
	}
	for _, r := range api.Routes() {
		op := doc.Paths[r.Path][strings.ToLower(r.Method)]
		if op.OperationID != r.Name || op.Summary != r.Does || (len(op.Security) > 0) != (r.Needs != nil) || len(op.Responses) == 0 {
			t.Errorf("%s stands in the document as %+v", r.Name, op)
		}
	}
}

func TestEveryPermissionGuardsARoute(t *testing.T) {
	guards := map[*perm.Permission]bool{}
	for _, r := range api.Routes() {
		guards[r.Needs] = true
	}
	for _, p := range perm.All() {
		if !guards[p] {
			t.Errorf("no route needs %s", p.Name)
		}
		if !slices.Contains(perm.Admin.Can, p) {
			t.Errorf("the admin role lacks %s", p.Name)
		}
	}
	want := []*perm.Permission{perm.AuditRead, perm.AuditExport, perm.IntrospectionRead}
	if !slices.Equal(perm.Auditor.Can, want) {
		t.Errorf("the auditor role holds %v", perm.Names(perm.Auditor.Can))
	}
}

// TestEveryRowIsUsed finds keys that nothing reads and metrics that nothing
// moves: a row that only its declaration and the tests mention decides nothing.
func TestEveryRowIsUsed(t *testing.T) {
	for pkg, rows := range map[string]struct {
		file string
		rows int
	}{
		"config": {"server/config/keys.go", len(config.Keys())},
		"metric": {"server/metric/metrics.go", len(metric.All())},
		"audit":  {"server/audit/actions.go", len(audit.Actions())},
	} {
		used := map[string]bool{}
		eachFile(t, func(path string, file *ast.File) {
			if path == rows.file {
				return
			}
			own := strings.HasPrefix(path, "server/"+pkg+"/")
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.SelectorExpr:
					if x, ok := n.X.(*ast.Ident); ok && x.Name == pkg {
						used[n.Sel.Name] = true
					}
				case *ast.Ident:
					used[n.Name] = used[n.Name] || own
				}
				return true
			})
		})
		file, err := parser.ParseFile(token.NewFileSet(), root+rows.file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		declared := 0
		for _, d := range file.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.VAR {
				continue
			}
			for _, s := range g.Specs {
				for _, name := range s.(*ast.ValueSpec).Names {
					if !name.IsExported() {
						continue
					}
					declared++
					if !used[name.Name] {
						t.Errorf("nothing uses %s.%s", pkg, name.Name)
					}
				}
			}
		}
		if declared != rows.rows {
			t.Errorf("%d variables in %s and %d rows: is one declared elsewhere?", declared, rows.file, rows.rows)
		}
	}
}

// root is the module's folder, from this one.
const root = "../../"

// eachFile calls f for every Go file of the server and its commands that is no
// test.
func eachFile(t *testing.T, f func(path string, file *ast.File)) {
	t.Helper()
	n := 0
	for _, top := range []string{"server", "cmd/certctl-server"} {
		err := filepath.WalkDir(root+top, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err == nil {
				n++
				f(strings.TrimPrefix(path, root), file)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if n < 20 {
		t.Fatalf("only %d files were read", n)
	}
}

// What several replicas must agree on is decided by the database's clock. The
// process's own is for measuring how long something took.
func TestDecisionsDoNotReadTheProcessClock(t *testing.T) {
	decides := []string{"server/schedule/", "server/store/", "server/audit/", "server/job/", "server/outbox/"}
	allowed := map[string]string{
		"server/schedule/schedule.go": "pass",    // measures a pass
		"server/job/attempt.go":       "attempt", // measures an attempt
		"server/outbox/runner.go":     "send",    // measures a send
		"server/outbox/lease.go":      "hold",    // measures what is left of a lease
	}
	eachFile(t, func(path string, file *ast.File) {
		if !slices.ContainsFunc(decides, func(dir string) bool { return strings.HasPrefix(path, dir) }) {
			return
		}
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || allowed[path] == f.Name.Name {
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				s, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				if x, ok := s.X.(*ast.Ident); ok && x.Name == "time" && (s.Sel.Name == "Now" || s.Sel.Name == "Since" || s.Sel.Name == "Until") {
					t.Errorf("%s: %s reads the process's clock", path, f.Name.Name)
				}
				return true
			})
		}
	})
}

// Each tier may import the tiers above it in this list. A package may import
// its parent.
var tiers = [][]string{
	{"server/table", "server/fault", "server/seal", "server/defect", "migrations"},
	{"server/config", "server/perm", "server/metric", "server/cert", "server/pg", "server/outbound"},
	{"server/migrate", "server/schedule", "server/job", "server/audit", "server/store", "server/connector", "server/limit", "server/outbox"},
	{"server/web", "server/issuer", "server/notify"},
	{"server/auth", "server/inventory", "server/issuance", "server/renewal", "server/revocation", "server/bulk", "server/alerts"},
	{"server/api", "server/client"},
	{"server/app", "evidence"},
	{"cmd"},
}

// besides are the imports within a tier.
var besides = map[string][]string{
	"server/fault":       {"server/table"},
	"server/store":       {"server/limit"},    // one statement admits a request: its limits, and its key
	"server/pg/download": {"server/pg/local"}, // says what to install, as the launcher does

	"server/notify/notifytest": {"server/notify/webhook", "server/notify/email"}, // reads what they send, as receivers do
}

func TestImportsPointDown(t *testing.T) {
	const module = "certctl/"
	tierOf := func(pkg string) int {
		return slices.IndexFunc(tiers, func(tier []string) bool {
			return slices.ContainsFunc(tier, func(root string) bool { return pkg == root || strings.HasPrefix(pkg, root+"/") })
		})
	}
	out, err := exec.CommandContext(t.Context(), "go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(string(out)) {
		pkgs := strings.Fields(line)
		from := strings.TrimPrefix(pkgs[0], module)
		seen++
		if strings.HasSuffix(from, "/pgtest") {
			continue // it makes a database for tests, migrations included
		}
		if tierOf(from) < 0 {
			t.Errorf("%s is in no tier", from)
		}
		for _, to := range pkgs[1:] {
			to, ours := strings.CutPrefix(to, module)
			switch {
			case !ours:
			case strings.HasPrefix(from, "evidence") && (strings.HasPrefix(to, "evidence") || to == "server/pg/local"):
				if strings.HasPrefix(from, to+"/") || from == "evidence/probe" || to == "server/pg/local" || from == "evidence/prose" {
					continue
				}
				if strings.HasPrefix(to, from+"/") || !strings.HasPrefix(from, to) {
					t.Errorf("%s imports %s", from, to)
				}
			case strings.HasPrefix(from, "evidence") && tierOf(to) == tierOf("server/auth"):
				t.Errorf("%s imports the feature %s; it may know the types of server/api", from, to)
			case tierOf(to) >= tierOf(from) && !strings.HasPrefix(from, to+"/") && !slices.Contains(besides[from], to):
				t.Errorf("%s imports %s, which is not above it", from, to)
			}
		}
	}
	if seen < len(slices.Concat(tiers...))-2 {
		t.Errorf("only %d packages were listed", seen)
	}
}

func TestServerHoldsNoTestingAndNoEvidence(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "certctl/cmd/certctl-server").Output()
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range strings.Lines(string(out)) {
		pkg = strings.TrimSpace(pkg)
		if strings.Contains(pkg, "testcontainers") || strings.HasPrefix(pkg, "certctl/evidence") || strings.HasSuffix(pkg, "/pgtest") {
			t.Errorf("the server links %s", pkg)
		}
	}
}
