package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"certctl/server/api"
	"certctl/server/client"
	"certctl/server/config"
	"certctl/server/pg/pgtest"
	"certctl/server/web"
)

// BenchmarkStart measures a process from its execution to its first answer
// that it is ready, on a migrated database, and its resident memory a while
// after.
func BenchmarkStart(b *testing.B) {
	binary := filepath.Join(b.TempDir(), "certctl-server")
	if out, err := exec.CommandContext(b.Context(), "go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	dir, url := b.TempDir(), pgtest.URL(b)
	certPEM, keyPEM, err := web.SelfIssue("127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	more := map[string]string{
		config.TLSCertFile.Name: filepath.Join(dir, "cert.pem"), config.TLSKeyFile.Name: filepath.Join(dir, "key.pem"),
	}
	for file, text := range map[string][]byte{more[config.TLSCertFile.Name]: certPEM, more[config.TLSKeyFile.Name]: keyPEM} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	var resident int
	for b.Loop() {
		s := beginBinary(b, binary, url, more)
		c, err := client.New("https://"+s.address, "", certPEM)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := client.Do(b.Context(), c, api.Readyz, &api.Empty{}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		c.HTTP.CloseIdleConnections()
		<-time.After(2 * time.Second) // idle, but for its loops
		resident = max(resident, residentKiB(b, s.cmd.Process.Pid))
		_ = s.cmd.Process.Kill()
		<-s.drained
		b.StartTimer()
	}
	b.ReportMetric(float64(resident)/1024, "MiB-resident")
}

func residentKiB(b *testing.B, pid int) int {
	b.Helper()
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		b.Skip("there is no /proc to read the memory from")
	}
	for line := range strings.Lines(string(status)) {
		if kib, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.Atoi(strings.Fields(kib)[0])
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatal("no resident size")
	return 0
}
