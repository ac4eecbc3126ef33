package evidence_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"certctl/server/api"
	"certctl/server/audit"
	"certctl/server/bulk"
	"certctl/server/cert"
	"certctl/server/config"
	"certctl/server/issuer/local"
	"certctl/server/job"
	"certctl/server/metric"
	"certctl/server/outbox"
	"certctl/server/perm"
	"certctl/server/schedule"
)

// declared are the names of the server's tables. part are those that no other
// word contains, so that they are found inside a longer text too.
func declared() (whole, part map[string]bool) {
	whole, part = map[string]bool{}, map[string]bool{}
	for _, k := range config.Keys() {
		part[k.Name] = true
	}
	for _, m := range metric.All() {
		part[m.Name] = true
	}
	for _, l := range schedule.All() {
		whole[l.Name] = true
	}
	for _, p := range perm.All() {
		whole[p.Name] = true
	}
	for _, a := range audit.Actions() {
		whole[a.Name] = true
	}
	for _, s := range cert.States() {
		whole[s.Name] = true
	}
	for _, s := range job.States() {
		whole[s.Name] = true
	}
	for _, k := range job.Kinds() {
		whole[k.Name] = true
	}
	for _, a := range bulk.Actions() {
		whole[a.Name] = true
	}
	for _, s := range outbox.Severities() {
		whole[s.Name] = true
	}
	for _, e := range outbox.Events() {
		whole[e.Name] = true
	}
	for _, s := range outbox.States() {
		whole[s.Name] = true
	}
	for _, r := range cert.Rules() {
		whole[r.Name] = true
	}
	for _, r := range cert.Reasons() {
		whole[r.Name] = true
	}
	for _, k := range cert.KeyAlgorithms() {
		whole[k.Name] = true
	}
	for _, u := range cert.ExtKeyUsages() {
		whole[u.Name] = true
	}
	for _, k := range cert.SANKinds() {
		whole[k.Name] = true
	}
	whole[local.Type.Name] = true
	for _, r := range api.Routes() {
		whole[r.Name], whole[r.Path], whole[r.Method+" "+r.Path] = true, true, true
	}
	return whole, part
}

var longName = regexp.MustCompile(`\w+`)

// spelled returns the declared names that the literals of a Go file spell out.
func spelled(t *testing.T, name string, src any) (found []string) {
	t.Helper()
	whole, part := declared()
	f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		lit, ok := n.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return true
		}
		s, err := strconv.Unquote(lit.Value)
		if err != nil {
			t.Fatal(err)
		}
		if whole[s] {
			found = append(found, s)
		}
		for _, word := range longName.FindAllString(s, -1) {
			if part[word] {
				found = append(found, word)
			}
		}
		return true
	})
	return found
}

// Evidence must learn every name from the server: a literal here would be a
// second place to edit, and would agree with itself.
func TestEvidenceSpellsOutNoDeclaredName(t *testing.T) {
	read := 0
	for _, dir := range []string{".", "../cmd/audit-packet"} {
		err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") {
				return err
			}
			read++
			for _, s := range spelled(t, name, nil) {
				t.Errorf("%s spells out %q; name its variable", name, s)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if read == 0 {
		t.Error("no file was read")
	}
}

func TestASpelledOutNameIsFound(t *testing.T) {
	for _, name := range []string{
		config.Listen.Name, metric.BuildInfo.Name, schedule.Retention.Name, perm.AuditRead.Name, audit.KeyCreated.Name,
		cert.Held.Name, job.GivenUp.Name, job.Renew.Name, bulk.Revoke.Name, cert.RuleWildcard.Name, cert.KeyCompromise.Name, cert.Ed25519.Name,
		outbox.Warning.Name, outbox.CertExpiring.Name, outbox.Sending.Name, cert.ServerAuth.Name, cert.URI.Name, local.Type.Name,
		api.GetKey.Name, api.GetKey.Path, api.GetKey.Method + " " + api.GetKey.Path,
	} {
		if got := spelled(t, "x.go", "package x\nvar s = "+strconv.Quote(name)); len(got) != 1 || got[0] != name {
			t.Errorf("of %q got %q", name, got)
		}
	}
	inside := "package x\nvar s = " + strconv.Quote("set "+config.Listen.Name+"=:1 first")
	if got := spelled(t, "x.go", inside); len(got) != 1 {
		t.Errorf("inside a text, got %q", got)
	}
}
