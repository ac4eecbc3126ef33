// Package tested runs the Go tests that claims cite, and records of each that it
// ran, how it ended, and whether anything in it can fail. It judges nothing.
package tested

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"

	"certctl/evidence"
)

// Run runs the cited tests of the source tree in dir, all by one command. What
// could not be run has a record too, which says why. The error says that nothing
// could be recorded.
func Run(ctx context.Context, dir string, cited []evidence.Test) ([]evidence.TestRecord, error) {
	tree := os.DirFS(dir)
	code, err := Code(tree)
	if err != nil {
		return nil, err
	}
	records, there, err := read(dir, cited)
	if err != nil {
		return nil, err
	}
	var found []*evidence.TestRecord
	for i := range records {
		records[i].Code = code
		if there[i] {
			found = append(found, &records[i])
		}
	}
	if err := run(ctx, dir, found); err != nil {
		return nil, err
	}
	after, err := Code(tree)
	if err == nil && after != code {
		err = errors.New("the code was changed while its tests ran")
	}
	return records, err
}

// run has go run tests, and writes into their records what became of them.
func run(ctx context.Context, dir string, tests []*evidence.TestRecord) error {
	if len(tests) == 0 {
		return nil
	}
	var names, packages []string
	for _, r := range tests {
		names, packages = append(names, r.Name), append(packages, "./"+r.Package)
	}
	module, err := modulePath(dir)
	if err != nil {
		return err
	}
	program, err := exec.LookPath("go")
	if err != nil {
		for _, r := range tests {
			r.Why = "there is no go command to run it with"
		}
		return nil
	}
	slices.Sort(names)
	slices.Sort(packages)
	args := append([]string{"test", "-json", "-count=1", "-vet=off", "-run", "^(" + strings.Join(slices.Compact(names), "|") + ")$"}, slices.Compact(packages)...)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	w := watch{module: module, tests: map[evidence.Test]*state{}, packages: map[string]string{}, broken: map[string]string{}}
	err = w.read(out)
	_, _ = io.Copy(io.Discard, out) // what cannot be read must not block it
	_ = cmd.Wait()                  // a test that failed makes it fail; the events say which
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("the events of go test: %w", err)
	}
	if len(w.packages) == 0 {
		first, _, _ := strings.Cut(strings.TrimSpace(strings.ReplaceAll(complaint.String(), dir, ".")), "\n")
		return fmt.Errorf("go test reports on no package: %s", first)
	}
	for _, r := range tests {
		w.conclude(r)
	}
	return nil
}

// An event is one line of `go test -json`.
type event struct {
	Action      string
	Package     string
	Test        string
	Output      string
	ImportPath  string // of what is built
	FailedBuild string // what had to be built for the package, and was not
}

// A watch is what the events said.
type watch struct {
	module   string
	tests    map[evidence.Test]*state // with subtests
	packages map[string]string        // how each ended
	broken   map[string]string        // what was said first of what does not build, by what it is
}

type state struct{ ended string }

func (w *watch) read(from io.Reader) error {
	d := json.NewDecoder(from)
	for {
		var e event
		if err := d.Decode(&e); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		pkg := strings.TrimPrefix(strings.TrimPrefix(e.Package, w.module), "/")
		ended := e.Action == "pass" || e.Action == "fail" || e.Action == "skip"
		switch {
		case e.Action == "build-output":
			if line := strings.TrimSpace(e.Output); w.broken[e.ImportPath] == "" && line != "" && !strings.HasPrefix(line, "#") {
				w.broken[e.ImportPath] = line
			}
		case e.Test == "" && ended:
			w.packages[pkg] = e.Action
			if e.FailedBuild != "" {
				w.packages[pkg] = "does not build: " + w.broken[e.FailedBuild]
			}
		case e.Test != "" && e.Action == "run":
			w.tests[evidence.Test{Package: pkg, Name: e.Test}] = &state{}
		case e.Test != "" && ended:
			if s := w.tests[evidence.Test{Package: pkg, Name: e.Test}]; s != nil {
				s.ended = e.Action
			}
		}
	}
}

// conclude writes into the record what became of its test.
func (w *watch) conclude(r *evidence.TestRecord) {
	unfailing := r.Why // of a test that passes whatever is so
	set := func(o evidence.Outcome, why string) { r.Outcome, r.Why = o, why }
	s := w.tests[r.Test]
	switch {
	case s != nil && s.ended == "pass" && w.onlySkipped(r.Test):
		set(evidence.TestSkipped, "every subtest of it was")
	case s != nil && s.ended == "pass":
		set(evidence.TestPassed, unfailing)
	case s != nil && s.ended == "skip":
		set(evidence.TestSkipped, "it says so itself")
	case s != nil && s.ended == "fail":
		set(evidence.TestFailed, "")
	case s != nil:
		set(evidence.TestFailed, "it began and did not end")
	case strings.HasPrefix(w.packages[r.Package], "does not build"):
		set(evidence.TestNotRun, "its package "+w.packages[r.Package])
	case w.packages[r.Package] == "fail":
		set(evidence.TestNotRun, "its package failed before it began")
	default:
		set(evidence.TestNotRun, "-run selected no test of that name, though its source is there")
	}
}

// onlySkipped reports whether a test has subtests, and all of those that have
// none themselves were skipped.
func (w *watch) onlySkipped(t evidence.Test) bool {
	skipped := false
	for sub, s := range w.tests {
		if sub.Package != t.Package || !strings.HasPrefix(sub.Name, t.Name+"/") {
			continue
		}
		leaf := true
		for other := range w.tests {
			leaf = leaf && (other.Package != sub.Package || !strings.HasPrefix(other.Name, sub.Name+"/"))
		}
		if leaf && s.ended != "skip" {
			return false
		}
		skipped = true
	}
	return skipped
}

// modulePath is the path of the module whose root is dir.
func modulePath(dir string) (string, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return "", err
	}
	if p := modfile.ModulePath(raw); p != "" {
		return p, nil
	}
	return "", errors.New("go.mod names no module")
}
