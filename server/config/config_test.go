package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"certctl/server/config"
)

func lookup(env map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { s, ok := env[name]; return s, ok }
}

func TestLoadReportsEveryBadValueAtOnce(t *testing.T) {
	_, err := config.Load(lookup(map[string]string{
		"CERTCTL_DATABASE_URL":         "mysql://canary@db",
		"CERTCTL_LISTEN":               "8443",
		"CERTCTL_LEASE_TTL":            "1h",
		"CERTCTL_MAX_BODY_BYTES":       "lots",
		"CERTCTL_LOG_LEVEL":            "loud",
		"CERTCTL_ENCRYPTION_KEY":       "canary",
		"CERTCTL_BOOTSTRAP_TOKEN":      "canary",
		"CERTCTL_TLS_CERT_FILE":        "/nowhere/cert.pem",
		"CERTCTL_REPLICA":              "a b",
		"CERTCTL_AUDIT_SEQUENCE_EVERY": "soon",
		"CERTCTL_OUTBOUND_ALLOW":       "10.0.0.0/8, 10.0.0.1, fe80::1, 10.1.2.3/8,,a, ::ffff:10.0.0.0/104,fe80::1%a",
	}))
	if err == nil {
		t.Fatal("bad settings were taken")
	}
	for _, want := range []string{
		"CERTCTL_DATABASE_URL: want postgres://",
		`CERTCTL_LISTEN: "8443" is not host:port`,
		`CERTCTL_LEASE_TTL: "1h" is not a duration from 200ms to 5m0s`,
		`CERTCTL_MAX_BODY_BYTES: "lots" is not a whole number`,
		`CERTCTL_LOG_LEVEL: "loud" is not one of debug, info, warn, error`,
		"CERTCTL_ENCRYPTION_KEY: want 32 bytes",
		"CERTCTL_BOOTSTRAP_TOKEN: is shorter than 32",
		`CERTCTL_OUTBOUND_ALLOW: "10.0.0.1" is one address; write 10.0.0.1/32`, `"fe80::1" is one address; write fe80::1/128`,
		`"10.1.2.3/8" has bits behind its length; write 10.0.0.0/8`, `"" is no CIDR`, `"a" is no CIDR`,
		`"::ffff:10.0.0.0/104" is of IPv4`, `"fe80::1%a" is no CIDR`,
		"CERTCTL_TLS_CERT_FILE", "CERTCTL_REPLICA", "CERTCTL_AUDIT_SEQUENCE_EVERY",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "canary") {
		t.Errorf("the error repeats a secret:\n%v", err)
	}
}

func TestRangesOfAddresses(t *testing.T) {
	for given, want := range map[string]string{
		"": "", " ": "", "10.0.0.0/8": "10.0.0.0/8", " 10.0.0.0/8 , FD00::/8,0.0.0.0/0": "10.0.0.0/8,fd00::/8,0.0.0.0/0",
	} {
		v, err := config.Load(lookup(map[string]string{config.OutboundAllow.Name: given}))
		if got := config.OutboundAllow.In(v).String(); err != nil || got != want {
			t.Errorf("%q: got %q, %v; want %q", given, got, err, want)
		}
	}
	if d := config.OutboundAllow.Spec.Default; d != "" || len(config.OutboundAllow.In(nil)) != 0 {
		t.Errorf("the default is %q", d)
	}
}

func TestSecretFromFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	token := strings.Repeat("t", 32)
	if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{config.BootstrapToken.Name + config.FileSuffix: path}
	v, err := config.Load(lookup(env))
	if got := config.BootstrapToken.In(v); err != nil || got != token {
		t.Errorf("got %q, %v; want the file's line", got, err)
	}
	env[config.BootstrapToken.Name] = token
	if _, err := config.Load(lookup(env)); err == nil || !strings.Contains(err.Error(), "unset one") {
		t.Errorf("both given: got %v", err)
	}
}

func TestUnknownNamesTheNearest(t *testing.T) {
	got := config.Unknown([]string{
		"PATH=/bin", "CERTCTL_LISTEN=x", "CERTCTL_TEST_POSTGRES=local", "CERTCTL_DATABASE_URL_FILE=x",
		"CERTCTL_LEASE_TTLS=1s",
	})
	if want := "CERTCTL_LEASE_TTLS is no setting; the nearest is CERTCTL_LEASE_TTL"; len(got) != 1 || got[0] != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestShowWithholdsSecrets(t *testing.T) {
	v := config.Values{config.BootstrapToken.Name: "canary", config.LeaseTTL.Name: time.Second}
	for _, s := range config.Show(v) {
		switch {
		case s.Value == "canary":
			t.Errorf("%s shows its secret", s.Name)
		case s.Name == config.BootstrapToken.Name && (s.Value != config.Withheld || !s.Set):
			t.Errorf("a secret that is set shows as %+v", s)
		case s.Name == config.LeaseTTL.Name && (s.Value != "1s" || !s.Set):
			t.Errorf("a setting shows as %+v", s)
		}
	}
}
