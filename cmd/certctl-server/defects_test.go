package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"certctl/server/defect"
)

// A server that is not of the laboratory has no switch of a defect.
func TestServerHoldsNoDefect(t *testing.T) {
	for name, tt := range map[string]struct {
		flags []string
		holds bool
	}{"a server": {nil, false}, "one of the laboratory": {[]string{"-tags", "defects"}, true}} {
		t.Run(name, func(t *testing.T) {
			binary := filepath.Join(t.TempDir(), "certctl-server")
			out, err := exec.CommandContext(t.Context(), "go", append(append([]string{"build"}, tt.flags...), "-o", binary, ".")...).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			program, err := os.ReadFile(binary)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(program, []byte(defect.ClockOffset)) != tt.holds {
				t.Errorf("it holds %s: %v", defect.ClockOffset, !tt.holds)
			}
		})
	}
}
