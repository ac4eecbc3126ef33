package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"certctl/evidence"
	"certctl/evidence/packet"
	"certctl/server/api"
	"certctl/server/config"
	"certctl/server/migrate"
)

// known are facts about a product with one setting and one migration.
func known() facts {
	return facts{
		declared: func() api.Declared {
			return api.Declared{
				Settings:   []config.Spec{{Name: "CERTCTL_LISTEN", Type: "text", Default: ":8443", Does: "The address."}},
				Migrations: []migrate.Migration{{Version: "0001_scans", SHA256: "aa"}},
			}
		},
		receipts: func(fs.FS) ([]evidence.Receipt, error) { return nil, nil },
		render: func(fs.FS) (map[string][]byte, error) {
			return map[string][]byte{"README.md": []byte("# Packet\n"), "receipts/a.md": []byte("# A\n")}, nil
		},
	}
}

// clean returns a source tree in which everything is so.
func clean(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write := writer(t, dir)
	write("go.mod", "module certctl\n")
	write("Makefile", "docs audit-packet:\n\ttrue\n")
	write("README.md", "# Read `CERTCTL_LISTEN` in [settings](docs/reference/settings.md#settings)\n")
	write("migrations/0001_scans.sql", "create table scans ()")
	write(filepath.Join(evidence.PacketDir, evidence.DataFile(evidence.CatalogMatches.ID)),
		`{"seen": {"fresh": {"migrations": [{"version": "0001_scans", "sha256": "aa"}]}}}`)
	write("audit-packet/README.md", "# Packet\n")
	write("audit-packet/receipts/a.md", "# A\n")
	for _, p := range evidence.Pages {
		if filepath.Ext(p.From) == ".go" {
			write(p.From, "package x\n")
		}
	}
	if code, _, stderr := audit(t, known(), "docs", "--root", dir); code != exitTrue {
		t.Fatalf("docs: exit %d, %s", code, stderr)
	}
	return dir
}

func writer(t *testing.T, dir string) func(name, content string) {
	return func(name, content string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// audit runs the program.
func audit(t *testing.T, f facts, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err strings.Builder
	code = run(t.Context(), f, args, &out, &err)
	return code, out.String(), err.String()
}

const settingsPage = "docs/reference/settings.md"

// swap changes a file of a tree.
func swap(name, from, to string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(raw), from) {
			t.Fatalf("%s has no %q", name, from)
		}
		writer(t, dir)(name, strings.Replace(string(raw), from, to, 1))
	}
}

func file(name, content string) func(*testing.T, string) {
	return func(t *testing.T, dir string) { t.Helper(); writer(t, dir)(name, content) }
}

func TestCheckFindsWhatIsNotSo(t *testing.T) {
	changed := known()
	changed.declared = func() api.Declared {
		d := known().declared()
		d.Settings[0].Does = "Another sentence."
		return d
	}
	migrated := known()
	migrated.declared = func() api.Declared {
		d := known().declared()
		d.Migrations[0].SHA256 = "bb"
		return d
	}
	for _, tt := range []struct {
		name   string
		facts  facts
		change func(*testing.T, string)
		want   []string // of each problem, what it says
	}{
		{"nothing", known(), func(*testing.T, string) {}, nil},
		{"prose by hand", known(), file("docs/architecture.md", "# Architecture\n\nLook at `docs/reference`.\n"), nil},
		{"a declaration that changed", changed, func(*testing.T, string) {}, []string{settingsPage + ": is not what is rendered\n    --- " + settingsPage}},
		{"a page that is missing", known(), func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "docs/reference/audit.md")); err != nil {
				t.Fatal(err)
			}
		}, []string{"docs/reference/audit.md: is missing\n    repair: make docs"}},
		{"a hand edit", known(), swap(settingsPage, "The address.", "An address."), []string{settingsPage + ":9: block settings was edited by hand"}},
		{"a marker", known(), swap(settingsPage, "certctl:end settings", "certctl:end sittings"), []string{
			settingsPage + ":14: block sittings ends inside block settings", settingsPage + ":18: block secrets begins inside block settings",
			settingsPage + ":22: block secrets ends inside block settings", settingsPage + ":9: block settings begins and does not end",
		}},
		{"migrations that were not observed", migrated, func(*testing.T, string) {}, []string{
			"docs/reference/schema.md: is not what is rendered", "docs/reference/schema.md: block catalog is stale",
		}},
		{"a receipt", known(), file("audit-packet/receipts/a.md", "# B\n"), []string{"audit-packet/receipts/a.md: is not what is rendered\n    --- audit-packet/receipts/a.md\n"}},
		{"a receipt that is missing", known(), func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "audit-packet/receipts/a.md")); err != nil {
				t.Fatal(err)
			}
		}, []string{"audit-packet/receipts/a.md: is missing\n    repair: make audit-packet"}},
		{"a receipt of nothing", known(), file("audit-packet/receipts/b.md", "# B\n"), []string{"audit-packet/receipts/b.md: nothing in the packet renders to this page"}},
		{"a name", known(), swap("README.md", "CERTCTL_LISTEN", "CERTCTL_LISTN"), []string{"README.md:1: `CERTCTL_LISTN` is no setting; the nearest is `CERTCTL_LISTEN`"}},
		{"a link", known(), swap("README.md", "#settings", "#sittings"), []string{"README.md:1: the link"}},
		{"a count", known(), file("docs/more.md", "It has 20 loops.\n"), []string{`docs/more.md:1: "20 loops" is a count in prose`}},
		{"all at once", known(), func(t *testing.T, dir string) {
			swap(settingsPage, "The address.", "An address.")(t, dir)
			file("audit-packet/receipts/a.md", "# B\n")(t, dir)
			file("docs/more.md", "It has 20 loops.\n")(t, dir)
		}, []string{settingsPage + ":9: block", "audit-packet/receipts/a.md: is not", "docs/more.md:1: "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := clean(t)
			tt.change(t, dir)
			code, stdout, stderr := audit(t, tt.facts, "check", "--root", dir)
			wantCode := exitTrue
			if len(tt.want) > 0 {
				wantCode = exitFalse
			}
			if code != wantCode || stderr != "" {
				t.Errorf("exit %d, want %d; stderr %q", code, wantCode, stderr)
			}
			problems := 0
			for l := range strings.Lines(stdout) {
				if len(tt.want) > 0 && !strings.HasPrefix(l, " ") {
					problems++
				}
			}
			if problems != len(tt.want) {
				t.Errorf("%d problems, want %d:\n%s", problems, len(tt.want), stdout)
			}
			for _, want := range tt.want {
				if !strings.Contains(stdout, want) {
					t.Errorf("no problem says %q:\n%s", want, stdout)
				}
			}
		})
	}
}

func TestCheckWithoutAPacket(t *testing.T) {
	dir := clean(t)
	if err := os.RemoveAll(filepath.Join(dir, evidence.PacketDir)); err != nil {
		t.Fatal(err)
	}
	code, stdout, _ := audit(t, known(), "check", "--root", dir)
	if code != exitFalse || !strings.Contains(stdout, "audit-packet: there is no packet\n    repair: make audit-packet\n") {
		t.Errorf("exit %d:\n%s", code, stdout)
	}
}

func TestCheckSaysWhatItCouldNotLookAt(t *testing.T) {
	dir := clean(t)
	f := known()
	f.render = func(fs.FS) (map[string][]byte, error) { return nil, errors.New("data is torn") }
	code, _, stderr := audit(t, f, "check", "--root", dir)
	if code != exitUnknown || !strings.Contains(stderr, "data is torn") {
		t.Errorf("exit %d, stderr %q", code, stderr)
	}
	file("docs/more.md", "It has 20 loops.\n")(t, dir)
	code, stdout, stderr := audit(t, f, "check", "--root", dir)
	if code != exitFalse || !strings.Contains(stderr, "data is torn") || !strings.Contains(stdout, "20 loops") {
		t.Errorf("exit %d, stderr %q:\n%s", code, stderr, stdout)
	}
	f = known()
	f.receipts = func(fs.FS) ([]evidence.Receipt, error) { return nil, errors.New("a receipt is torn") }
	if code, _, stderr := audit(t, f, "check", "--root", dir); code != exitUnknown || !strings.Contains(stderr, "a receipt is torn") {
		t.Errorf("exit %d, stderr %q", code, stderr)
	}
}

func TestJSONHasEveryProblem(t *testing.T) {
	dir := clean(t)
	file("docs/more.md", "It has 20 loops.\n")(t, dir)
	for _, tt := range []struct {
		args []string
		code int
		want []string
	}{
		{[]string{"check", "--json", "--root", dir}, exitFalse, []string{"docs/more.md"}},
		{[]string{"docs", "--check", "--json", "--root", dir}, exitTrue, []string{}},
	} {
		code, stdout, _ := audit(t, known(), tt.args...)
		var got struct{ Problems []evidence.Problem }
		if err := json.Unmarshal([]byte(stdout), &got); err != nil || got.Problems == nil {
			t.Fatalf("%v: %v in %q", tt.args, err, stdout)
		}
		if code != tt.code || len(got.Problems) != len(tt.want) {
			t.Errorf("%v: exit %d, %v", tt.args, code, got.Problems)
		}
	}
}

func TestDocsWritesWhatChanged(t *testing.T) {
	dir := clean(t)
	f := known()
	f.declared = func() api.Declared {
		d := known().declared()
		d.Settings[0].Does = "Another sentence."
		return d
	}
	code, stdout, _ := audit(t, f, "docs", "--check", "--root", dir)
	for _, want := range []string{settingsPage, "-| `CERTCTL_LISTEN`", "+| `CERTCTL_LISTEN`", "repair: make docs"} {
		if code != exitFalse || !strings.Contains(stdout, want) {
			t.Errorf("exit %d, no %q in\n%s", code, want, stdout)
		}
	}
	if code, stdout, _ = audit(t, f, "docs", "--root", dir); code != exitTrue || stdout != settingsPage+"\n" {
		t.Errorf("exit %d, wrote %q", code, stdout)
	}
	if code, stdout, _ = audit(t, f, "docs", "--root", dir, "--json"); code != exitTrue || stdout != `{"written":[],"stale":[]}`+"\n" {
		t.Errorf("exit %d, said %q", code, stdout)
	}
	if code, stdout, _ = audit(t, f, "docs", "--check", "--root", dir); code != exitTrue {
		t.Errorf("exit %d after docs:\n%s", code, stdout)
	}
}

func TestDocsRefusesAHandEditAndWritesNothing(t *testing.T) {
	dir := clean(t)
	swap(settingsPage, "The address.", "An address.")(t, dir)
	if err := os.Remove(filepath.Join(dir, "docs/reference/audit.md")); err != nil {
		t.Fatal(err)
	}
	code, stdout, _ := audit(t, known(), "docs", "--root", dir)
	if code != exitFalse || !strings.Contains(stdout, "+| `CERTCTL_LISTEN` | text | `:8443` |  | An address. |") || !strings.Contains(stdout, "make docs DISCARD=1") {
		t.Errorf("exit %d:\n%s", code, stdout)
	}
	if raw, err := os.ReadFile(filepath.Join(dir, settingsPage)); err != nil || !strings.Contains(string(raw), "An address.") {
		t.Errorf("the edit is gone: %v\n%s", err, raw)
	}
	if _, err := os.Stat(filepath.Join(dir, "docs/reference/audit.md")); err == nil {
		t.Error("another page was written")
	}
	if code, stdout, _ := audit(t, known(), "docs", "--root", dir, "--discard-edits"); code != exitTrue {
		t.Errorf("exit %d:\n%s", code, stdout)
	}
	if code, stdout, _ := audit(t, known(), "check", "--root", dir); code != exitTrue {
		t.Errorf("exit %d after discarding the edit:\n%s", code, stdout)
	}
}

func TestVerify(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "packet")
	if _, _, err := store(dir, evidence.About{}, api.Declared{}, nil); err != nil {
		t.Fatal(err)
	}
	dir += failedSuffix // for it shows nothing to be true
	if code, stdout, _ := audit(t, known(), "verify", dir); code != exitTrue || stdout == "" {
		t.Errorf("exit %d, said %q", code, stdout)
	}
	cover, err := os.ReadFile(filepath.Join(dir, evidence.CoverFile))
	if err != nil {
		t.Fatal(err)
	}
	writer(t, dir)(evidence.CoverFile, strings.Replace(string(cover), "packet", "packed", 1))
	if code, stdout, _ := audit(t, known(), "verify", dir); code != exitFalse || !strings.HasPrefix(stdout, "README.md: has the SHA-256 ") {
		t.Errorf("exit %d, said %q", code, stdout)
	}
	code, stdout, _ := audit(t, known(), "verify", "--json", dir)
	var got struct{ Problems []packet.Problem }
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != exitFalse || len(got.Problems) != 1 || got.Problems[0].File != "README.md" {
		t.Errorf("exit %d, %v, said %q", code, err, stdout)
	}
	// A manifest that was made to fit does not help an altered receipt.
	if err := packet.Write(dir); err != nil {
		t.Fatal(err)
	}
	if code, stdout, _ := audit(t, known(), "verify", dir); code != exitFalse || !strings.HasPrefix(stdout, "README.md: is not what the observations give") {
		t.Errorf("exit %d, said %q", code, stdout)
	}
	if code, _, stderr := audit(t, known(), "verify", filepath.Join(dir, "gone")); code != exitUnknown || stderr == "" {
		t.Errorf("exit %d, said %q", code, stderr)
	}
}

func TestWrongCalls(t *testing.T) {
	for _, args := range [][]string{
		{"prove"},
		{"check", "me"},
		{"verify"},
		{"verify", "a", "b"},
		{"docs", "--chek"},
		{"docs", "--check", "--discard-edits"},
		{"check", "--root", filepath.Join(t.TempDir(), "gone")},
	} {
		code, stdout, stderr := audit(t, known(), args...)
		if code != exitUnknown || stdout != "" || !strings.HasPrefix(stderr, "audit-packet: ") || !strings.HasPrefix(stderr, "audit-packet: ") {
			t.Errorf("%v: exit %d, stdout %q, stderr %q", args, code, stdout, stderr)
		}
	}
}

func TestReplayAsksBeforeItLeavesSomethingOnAServer(t *testing.T) {
	args := []string{"replay", evidence.RolesGuard.ID, "--url", "https://127.0.0.1:1"}
	code, _, stderr := audit(t, known(), args...)
	if code != exitUnknown || !strings.Contains(stderr, "--disruptive allows it") {
		t.Errorf("exit %d: %s", code, stderr)
	}
	code, _, stderr = audit(t, known(), append(args, "--disruptive")...)
	if code != exitUnknown || strings.Contains(stderr, "--disruptive") { // there is no server, or none to compare with
		t.Errorf("exit %d although it is allowed: %s", code, stderr)
	}
}

func TestRootIsTheModuleAroundTheWorkingDirectory(t *testing.T) {
	dir := clean(t)
	t.Chdir(filepath.Join(dir, "docs", "reference"))
	if code, stdout, stderr := audit(t, known(), "check"); code != exitTrue {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	t.Chdir(t.TempDir())
	if code, _, stderr := audit(t, known(), "check"); code != exitUnknown || !strings.Contains(stderr, "--root") {
		t.Errorf("exit %d, said %q", code, stderr)
	}
}

func TestEveryCommandTeaches(t *testing.T) {
	for _, args := range [][]string{{}, {"docs"}, {"check"}, {"verify"}} {
		code, stdout, _ := audit(t, known(), append(args, "--help")...)
		if code != exitTrue || !strings.Contains(stdout, "Examples:\n  audit-packet ") {
			t.Errorf("%v: exit %d, no example in\n%s", args, code, stdout)
		}
	}
	if code, stdout, _ := audit(t, known(), "completion", "bash"); code != exitTrue || !strings.Contains(stdout, "audit-packet") {
		t.Errorf("completion: exit %d", code)
	}
}
