package web_test

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"certctl/server/web"
)

func TestCertificateIsReloaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
		generation := 0
		write := func(certPEM, keyPEM []byte) {
			t.Helper()
			generation++
			for path, text := range map[string][]byte{cert: certPEM, key: keyPEM} {
				if err := os.WriteFile(path, text, 0o600); err != nil {
					t.Fatal(err)
				}
				// The file system's clock is not the test's.
				stamp := time.Now().Add(time.Duration(generation) * time.Hour)
				if err := os.Chtimes(path, stamp, stamp); err != nil {
					t.Fatal(err)
				}
			}
		}
		issue := func() (certPEM, keyPEM []byte) {
			t.Helper()
			certPEM, keyPEM, err := web.SelfIssue("127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			return certPEM, keyPEM
		}
		write(issue())
		core, logs := observer.New(zap.InfoLevel)
		c, err := web.LoadCertificate(cert, key, zap.New(core))
		if err != nil {
			t.Fatal(err)
		}
		presents := func() string {
			t.Helper()
			p, err := c.Get(nil)
			if err != nil {
				t.Fatal(err)
			}
			return web.Fingerprint(p)
		}
		first := presents()

		certPEM, keyPEM := issue()
		write(certPEM, keyPEM)
		if got := presents(); got != first {
			t.Error("the files were looked at again within a second")
		}
		time.Sleep(2 * time.Second)
		second := presents()
		if second == first {
			t.Error("the new certificate is not presented")
		}

		// The key of another certificate: half of a replacement.
		_, other := issue()
		write(certPEM, other)
		time.Sleep(2 * time.Second)
		if got := presents(); got != second {
			t.Error("a pair that does not match replaced the one in force")
		}
		if last := logs.All()[logs.Len()-1]; !strings.Contains(last.Message, "not reloaded") {
			t.Errorf("the log says %q", last.Message)
		}
	})
}

func TestSelfIssuedCertificateIsOfThisMachine(t *testing.T) {
	certPEM, keyPEM, err := web.SelfIssue("127.0.0.1:8443")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"localhost", "127.0.0.1", "::1"} {
		if err := pair.Leaf.VerifyHostname(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
