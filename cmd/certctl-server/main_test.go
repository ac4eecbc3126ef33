package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"certctl/migrations"
	"certctl/server/audit"
	"certctl/server/config"
	"certctl/server/migrate"
	"certctl/server/pg/pgtest"
	"certctl/server/seal"
)

// The test binary is also the server.
const asServer = "CERTCTL_TEST_AS_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(asServer) == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

var encryptionKey = seal.NewKey()

// command is the server with the settings that it needs on the database at
// url, and more.
func command(t testing.TB, url string, more map[string]string, args ...string) (cmd *exec.Cmd, stdout, stderr *bytes.Buffer) {
	t.Helper()
	stdout, stderr = &bytes.Buffer{}, &bytes.Buffer{}
	cmd = exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), asServer+"=1", config.Listen.Name+"=127.0.0.1:0",
		config.DatabaseURL.Name+"="+url, config.EncryptionKey.Name+"="+encryptionKey)
	for k, v := range more {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	return cmd, stdout, stderr
}

// serving is a server process that has said where it serves.
type serving struct {
	cmd     *exec.Cmd
	address string
	mu      sync.Mutex
	log     bytes.Buffer
	drained chan struct{}
}

func (s *serving) Log() string { s.mu.Lock(); defer s.mu.Unlock(); return s.log.String() }

func begin(t *testing.T, url string, more map[string]string) *serving {
	t.Helper()
	return beginBinary(t, os.Args[0], url, more)
}

func beginBinary(t testing.TB, binary, url string, more map[string]string) *serving {
	t.Helper()
	cmd, _, _ := command(t, url, more, "serve")
	cmd.Path, cmd.Args[0] = binary, binary
	cmd.Stderr = nil
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &serving{cmd: cmd, drained: make(chan struct{})}
	ready := make(chan struct{})
	go s.read(out, ready)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-s.drained
		_ = cmd.Wait()
	})
	select {
	case <-ready:
	case <-s.drained:
		t.Fatalf("the server ended as it started:\n%s", s.Log())
	case <-time.After(60 * time.Second):
		t.Fatalf("the server did not start:\n%s", s.Log())
	}
	return s
}

func (s *serving) read(out io.Reader, ready chan struct{}) {
	defer close(s.drained)
	lines := bufio.NewScanner(out)
	once := sync.OnceFunc(func() { close(ready) })
	for lines.Scan() {
		s.mu.Lock()
		s.log.WriteString(lines.Text() + "\n")
		var e struct{ Msg, Address string }
		if json.Unmarshal(lines.Bytes(), &e) == nil && e.Msg == "serving" {
			s.address = e.Address
			once()
		}
		s.mu.Unlock()
	}
}

func TestEightServersStartOnAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	url := pgtest.EmptyURL(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { begin(t, url, nil) })
	}
	wg.Wait()
	pool := pgtest.Pool(t, url)
	files, err := migrate.Read(migrations.Files)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := migrate.Ledger(t.Context(), pool)
	if err != nil || len(rows) != len(files) {
		t.Errorf("the ledger has %d rows (%v), want %d", len(rows), err, len(files))
	}
	if n := count(t, pool, `select count(*) from audit_keys`); n != 1 {
		t.Errorf("%d signing keys were made, want 1", n)
	}
	if n := count(t, pool, `select count(distinct replica) from audit_events where action = $1`, audit.ServerStarted.Name); n != 8 {
		t.Errorf("%d replicas say that they started, want 8", n)
	}
}

func count(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) (n int) {
	t.Helper()
	rows, _ := pool.Query(t.Context(), sql, args...)
	n, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[int])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestStopsOnASignal(t *testing.T) {
	t.Parallel()
	s := begin(t, pgtest.URL(t), nil)
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-s.drained
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("it ended with %v\n%s", err, s.Log())
	}
}

func TestSaysThatItIsNotReadyBeforeItStopsAnswering(t *testing.T) {
	t.Parallel()
	s := begin(t, pgtest.URL(t), map[string]string{config.ShutdownDelay.Name: "2s"})
	status := func() int {
		t.Helper()
		// The server's certificate is its own.
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+s.address+"/readyz", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := c.Do(req)
		if err != nil {
			return 0
		}
		res.Body.Close()
		return res.StatusCode
	}
	if got := status(); got != http.StatusOK {
		t.Errorf("before the signal: %d", got)
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for end := time.After(10 * time.Second); status() != http.StatusServiceUnavailable; {
		select {
		case <-s.drained:
			t.Fatal("it stopped answering before it said that it is not ready")
		case <-end:
			t.Fatal("it never said that it is not ready")
		case <-time.After(20 * time.Millisecond):
		}
	}
	<-s.drained
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("it ended with %v\n%s", err, s.Log())
	}
}

func TestMigrateAndItsStatus(t *testing.T) {
	t.Parallel()
	url := pgtest.EmptyURL(t)
	status := func(want int, args ...string) migrate.Status {
		t.Helper()
		cmd, stdout, stderr := command(t, url, nil, append([]string{"migrate", "--json"}, args...)...)
		_ = cmd.Run() // the exit code says it
		if cmd.ProcessState.ExitCode() != want {
			t.Fatalf("%v ended with %d, want %d: %s", args, cmd.ProcessState.ExitCode(), want, stderr)
		}
		var s migrate.Status
		if err := json.Unmarshal(stdout.Bytes(), &s); err != nil {
			t.Fatalf("%v\n%s", err, stdout)
		}
		return s
	}
	files, err := migrate.Read(migrations.Files)
	if err != nil {
		t.Fatal(err)
	}
	if s := status(exitFailed, "--status"); s.Count(migrate.Pending) != len(files) {
		t.Errorf("of an empty database: %+v", s)
	}
	if s := status(0); s.Count(migrate.Applied) != len(files) {
		t.Errorf("after migrating: %+v", s)
	}
	if s := status(0, "--status"); s.Count(migrate.Applied) != len(files) {
		t.Errorf("afterwards: %+v", s)
	}
}

func TestRefusesToStart(t *testing.T) {
	t.Parallel()
	migrated, empty := pgtest.URL(t), pgtest.EmptyURL(t)
	begin(t, migrated, nil) // makes the signing key
	tests := []struct {
		name, url string
		settings  map[string]string
		args      []string
		code      int
		want      []string
	}{
		{"on a schema that is not current", empty, nil, []string{"serve", "--no-migrate"}, exitFailed, []string{"is pending; run `certctl-server migrate`"}},
		{"without a database", "", map[string]string{config.DatabaseURL.Name: ""}, []string{"serve"}, exitFailed, []string{config.DatabaseURL.Name}},
		{
			"with every bad setting at once", migrated,
			map[string]string{config.LeaseTTL.Name: "soon", config.LogLevel.Name: "loud"},
			[]string{"serve"},
			exitFailed,
			[]string{config.LeaseTTL.Name, config.LogLevel.Name},
		},
		{
			"under another encryption key", migrated,
			map[string]string{config.EncryptionKey.Name: seal.NewKey()},
			[]string{"serve"},
			exitFailed,
			[]string{config.EncryptionKey.Name, "sealed under another key"},
		},
		{
			"with a certificate and no key", migrated,
			map[string]string{config.TLSCertFile.Name: os.Args[0]},
			[]string{"serve"},
			exitFailed,
			[]string{config.TLSKeyFile.Name, "set both"},
		},
		{"embedded beside another database", migrated, nil, []string{"serve", "--embedded"}, exitFailed, []string{"choose one"}},
		{"an unknown flag", migrated, nil, []string{"serve", "--nonsense"}, exitUsage, []string{"--help"}},
		{"an unknown command", migrated, nil, []string{"nonsense"}, exitUsage, []string{"--help"}},
		{"an argument too many", migrated, nil, []string{"migrate", "now"}, exitUsage, []string{"--help"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cmd, _, stderr := command(t, tt.url, tt.settings, tt.args...)
			_ = cmd.Run() // the exit code says it
			if got := cmd.ProcessState.ExitCode(); got != tt.code {
				t.Errorf("ended with %d, want %d", got, tt.code)
			}
			for _, want := range tt.want {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("the error does not say %q:\n%s", want, stderr)
				}
			}
			if strings.Contains(stderr.String(), "goroutine ") {
				t.Errorf("it panicked:\n%s", stderr)
			}
		})
	}
}

func TestVerifiesAnExportWithoutADatabase(t *testing.T) {
	t.Parallel()
	cmd, _, stderr := command(t, "", map[string]string{config.DatabaseURL.Name: "postgres://nowhere.invalid/none"}, "verify", "-")
	cmd.Stdin = strings.NewReader("{}\n")
	_ = cmd.Run() // the exit code says it
	if got := cmd.ProcessState.ExitCode(); got != exitUsage {
		t.Errorf("nonsense ended with %d: %s", got, stderr)
	}
	cmd, _, stderr = command(t, "postgres://nowhere.invalid/none", nil, "verify", "no such file")
	_ = cmd.Run() // the exit code says it
	if got := cmd.ProcessState.ExitCode(); got != exitUsage {
		t.Errorf("a file that is not there ended with %d: %s", got, stderr)
	}
}
