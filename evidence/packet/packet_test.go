package packet_test

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"certctl/evidence/packet"
)

// sealed returns a packet with a manifest.
func sealed(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"README.md": "# Packet\n", "data/seen.json": "{}\n", "data/<a>.json": "[]\n"} {
		write(t, filepath.Join(dir, name), content)
	}
	if err := packet.Write(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// edit replaces text in the manifest.
func edit(from, to string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		path := filepath.Join(dir, packet.ManifestName)
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(raw, []byte(from)) {
			t.Fatalf("the manifest has no %q:\n%s", from, raw)
		}
		write(t, path, strings.Replace(string(raw), from, to, 1))
	}
}

func TestVerifyFindsWhatChanged(t *testing.T) {
	link := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name   string
		change func(t *testing.T, dir string)
		want   []string // beginnings of the problems, in order
	}{
		{"nothing", func(*testing.T, string) {}, nil},
		{"an empty directory is no file", func(t *testing.T, dir string) { link(t, os.Mkdir(filepath.Join(dir, "new"), 0o755)) }, nil},
		{"a byte", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "data/seen.json"), "[]\n") }, []string{"data/seen.json: has the SHA-256 "}},
		{"a length", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "data/seen.json"), "{} \n") }, []string{"data/seen.json: has 4 bytes, the manifest says 3"}},
		{"a file removed", func(t *testing.T, dir string) { link(t, os.Remove(filepath.Join(dir, "README.md"))) }, []string{"README.md: is in the manifest and not in the packet"}},
		{"a file added", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "data/more.json"), "{}") }, []string{"data/more.json: is in the packet and not in the manifest"}},
		{"a second manifest below", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "data", packet.ManifestName), "{}") }, []string{"data/manifest.json: is in the packet and not in the manifest"}},
		{"a link in the place of a file", func(t *testing.T, dir string) {
			link(t, os.Rename(filepath.Join(dir, "README.md"), filepath.Join(t.TempDir(), "elsewhere")))
			link(t, os.Symlink("data/seen.json", filepath.Join(dir, "README.md")))
		}, []string{"README.md: is no regular file (L---------)"}},
		{"a link to a directory", func(t *testing.T, dir string) { link(t, os.Symlink("data", filepath.Join(dir, "more"))) }, []string{"more: is no regular file"}},
		{"a directory in the place of a file", func(t *testing.T, dir string) {
			link(t, os.Remove(filepath.Join(dir, "README.md")))
			link(t, os.Mkdir(filepath.Join(dir, "README.md"), 0o755))
		}, []string{"README.md: is in the manifest and is a directory"}},
		{"no manifest", func(t *testing.T, dir string) { link(t, os.Remove(filepath.Join(dir, packet.ManifestName))) }, []string{"manifest.json: is missing"}},
		{"a manifest that is a link", func(t *testing.T, dir string) {
			link(t, os.Remove(filepath.Join(dir, packet.ManifestName)))
			link(t, os.Symlink("data/seen.json", filepath.Join(dir, packet.ManifestName)))
		}, []string{"manifest.json: is no regular file"}},
		{"a manifest that is no JSON", edit("{", "{{"), []string{"manifest.json: cannot be read"}},
		{"an unknown member", edit(`"files"`, `"more": 1, "files"`), []string{"manifest.json: cannot be read"}},
		{"a space", edit(`"files": `, `"files":  `), []string{"manifest.json: is not in the form"}},
		{"something after it", edit("]\n}\n", "]\n}\n{}\n"), []string{"manifest.json: is not in the form"}},
		{"a way out of the packet", edit(`"README.md"`, `"../README.md"`), []string{
			"README.md: is in the packet and not in the manifest",
			`manifest.json: names "../README.md", which is no path`,
		}},
		{"an absolute path", edit(`"README.md"`, `"/etc/passwd"`), []string{
			"README.md: is in the packet and not in the manifest",
			`manifest.json: names "/etc/passwd", which is no path`,
		}},
		{"a path given twice", edit(`"data/seen.json"`, `"README.md"`), []string{
			"data/seen.json: is in the packet and not in the manifest",
			"manifest.json: is not in the form",
			`manifest.json: names "README.md" twice`,
		}},
		{"a hash in the manifest", edit(`"sha256": "`, `"sha256": "0`), []string{"README.md: has the SHA-256 "}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := sealed(t)
			tt.change(t, dir)
			got, err := packet.Verify(dir)
			if err != nil {
				t.Fatal(err)
			}
			ok := slices.EqualFunc(got, tt.want, func(p packet.Problem, want string) bool { return strings.HasPrefix(p.String(), want) })
			if !ok {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestVerifyCannotLookAtNothing(t *testing.T) {
	if _, err := packet.Verify(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a packet that does not exist was verified")
	}
}

func TestVerifyRunsMoreChecksOnWhatTheManifestVouchesFor(t *testing.T) {
	dir := sealed(t)
	more := func(files fs.FS) []packet.Problem {
		raw, err := fs.ReadFile(files, "data/seen.json")
		if err != nil {
			t.Error(err)
		}
		return []packet.Problem{{File: "data/seen.json", What: "says " + string(raw)}}
	}
	got, err := packet.Verify(dir, more)
	if err != nil || len(got) != 1 || got[0].What != "says {}\n" {
		t.Errorf("got %v, %v; want the problem of the further check", got, err)
	}
	write(t, filepath.Join(dir, "data/seen.json"), "[]\n")
	got, err = packet.Verify(dir, more)
	if err != nil || len(got) != 1 || strings.HasPrefix(got[0].What, "says") {
		t.Errorf("got %v, %v; want only that the file was altered", got, err)
	}
}

func TestWriteIsDeterministicAndReplaces(t *testing.T) {
	dir := sealed(t)
	first, err := os.ReadFile(filepath.Join(dir, packet.ManifestName))
	if err != nil {
		t.Fatal(err)
	}
	if err := packet.Write(dir); err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(filepath.Join(dir, packet.ManifestName))
	if err != nil || !bytes.Equal(first, second) {
		t.Errorf("a second manifest differs: %v\n%s%s", err, first, second)
	}
	if err := os.Symlink("README.md", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := packet.Write(dir); err == nil || !strings.Contains(err.Error(), "link: is no regular file") {
		t.Errorf("a link was sealed: %v", err)
	}
}

// A reviewer verifies without a network: what is not linked cannot dial.
func TestVerifyLinksNothingThatDials(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "certctl/evidence/packet").Output()
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range strings.FieldsSeq(string(out)) {
		if pkg == "net" || strings.HasPrefix(pkg, "net/") {
			t.Errorf("evidence/packet needs %s", pkg)
		}
	}
}
