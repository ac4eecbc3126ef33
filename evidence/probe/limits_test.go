package probe_test

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"certctl/evidence"
	"certctl/evidence/lab"
	"certctl/evidence/probe"
	"certctl/server/app"
)

// The clocks of replicas have no part in what they admit together.
func TestCapsHoldWithClocksApart(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "certctl-server")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-tags", "defects", "-o", binary, "certctl/cmd/certctl-server").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	l, err := lab.Start(t.Context(), binary)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Stop(); err != nil {
			t.Error(err)
		}
	})
	for _, p := range probe.Probes() {
		if p.Of != evidence.CapIsTheClusters {
			continue
		}
		seen, err := p.Look(t.Context(), &probe.Site{Lab: l, Declared: app.Declared(), Apart: 5 * time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(seen)
		if err != nil {
			t.Fatal(err)
		}
		checks, err := p.Of.Judge(app.Declared(), raw)
		if err != nil || len(checks) == 0 {
			t.Fatalf("%d checks (%v)", len(checks), err)
		}
		for _, c := range checks {
			if c.Want != c.Got {
				t.Errorf("%s: %s, want %s", c.What, c.Got, c.Want)
			}
		}
	}
}
