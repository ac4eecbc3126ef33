// Package lab starts real server processes on a real PostgreSQL, for
// experiments that look at them from outside.
package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/client"
	"certctl/server/config"
	"certctl/server/defect"
	"certctl/server/limit"
	"certctl/server/pg/local"
	"certctl/server/seal"
	"certctl/server/web"
)

// A Lab is a PostgreSQL of its own, and the secrets that its servers share.
type Lab struct {
	Binary    string // certctl-server
	Defective string // the same, built with the tag defects; empty if there is none

	database     *local.Server
	pooler       *pooler
	dir          string
	roots        []byte
	key, token   string
	mu           sync.Mutex
	replicas     []*Replica
	databases    int
	replicaCount int
}

// Start starts a PostgreSQL that loses nothing in a crash, for servers of the
// binary.
func Start(ctx context.Context, binary string) (*Lab, error) {
	return start(ctx, binary, local.Options{Temporary: true})
}

// Hasty starts a PostgreSQL whose commits survive the death of all its processes,
// and not that of the machine: it starts from a copy and waits for no disk, and is
// for experiments that are done in a hurry.
func Hasty(ctx context.Context, binary string) (*Lab, error) {
	return start(ctx, binary, local.Options{
		Temporary: true, Profile: local.Fast, Settings: []string{"synchronous_commit=on", "full_page_writes=on", "autovacuum=off"},
	})
}

// Apart is another, hasty laboratory with the same binaries, for what would harm
// whoever else works on this one's PostgreSQL.
func (l *Lab) Apart(ctx context.Context) (*Lab, error) {
	other, err := Hasty(ctx, l.Binary)
	if err == nil {
		other.Defective = l.Defective
	}
	return other, err
}

func start(ctx context.Context, binary string, o local.Options) (*Lab, error) {
	if _, err := os.Stat(binary); err != nil {
		return nil, fmt.Errorf("the server to look at: %w; `make build` makes it", err)
	}
	dir, err := os.MkdirTemp("", "certctl-lab-")
	if err != nil {
		return nil, err
	}
	l := &Lab{Binary: binary, dir: dir, key: seal.NewKey(), token: seal.NewKey()}
	certPEM, keyPEM, err := web.SelfIssue("127.0.0.1:0")
	if err == nil {
		l.roots = certPEM
		err = errors.Join(os.WriteFile(l.certFile(), certPEM, 0o600), os.WriteFile(l.keyFile(), keyPEM, 0o600))
	}
	if err == nil {
		l.database, err = local.Start(ctx, o)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return l, nil
}

// Stop ends everything that the laboratory started.
func (l *Lab) Stop() error {
	var errs []error
	for _, r := range l.replicas {
		errs = append(errs, r.Kill())
	}
	if l.pooler != nil {
		errs = append(errs, l.pooler.kill())
	}
	return errors.Join(append(errs, l.database.Stop(), os.RemoveAll(l.dir))...)
}

func (l *Lab) certFile() string { return filepath.Join(l.dir, "tls.pem") }
func (l *Lab) keyFile() string  { return filepath.Join(l.dir, "tls.key") }

// BootstrapToken is what makes the first key of a database.
func (l *Lab) BootstrapToken() string { return l.token }

// Secrets are the values of secret settings that servers on the database at
// url are given, by the name of the setting.
func (l *Lab) Secrets(url string) map[string]string {
	return map[string]string{
		config.DatabaseURL.Name: url, config.EncryptionKey.Name: l.key, config.BootstrapToken.Name: l.token,
	}
}

// Database returns the URL of a new, empty database.
func (l *Lab) Database(ctx context.Context) (string, error) { return l.create(ctx, "template1") }

// Clone returns the URL of a copy of the database at url, which nobody may be
// connected to meanwhile.
func (l *Lab) Clone(ctx context.Context, url string) (string, error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return "", err
	}
	return l.create(ctx, cfg.Database)
}

func (l *Lab) create(ctx context.Context, template string) (string, error) {
	l.mu.Lock()
	l.databases++
	name := "lab" + strconv.Itoa(l.databases)
	l.mu.Unlock()
	conn, err := pgx.Connect(ctx, l.database.URL("postgres"))
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "create database "+name+" template "+pgx.Identifier{template}.Sanitize()+" strategy file_copy")
	return l.database.URL(name), err
}

// What servers are given that were built with the tag defects: ClockOffset sets
// the clock forward, or back, and DefectSwitch has the server run with a defect.
const (
	ClockOffset  = defect.ClockOffset
	DefectSwitch = defect.Switch
)

// binary is the server that takes what it is given.
func (l *Lab) binary(settings map[string]string) string {
	if l.Defective != "" && (settings[ClockOffset] != "" || settings[DefectSwitch] != "") {
		return l.Defective
	}
	return l.Binary
}

// A Replica is a server process.
type Replica struct {
	Name    string
	URL     string // https://host:port
	Process *os.Process

	lab  *Lab
	log  *tail
	done chan struct{}
	err  error // of the process; read after done is closed
}

// Server starts a process on the database at url and returns when it serves.
// settings are given to it beside what every process of the laboratory gets.
func (l *Lab) Server(ctx context.Context, url string, settings map[string]string) (*Replica, error) {
	l.mu.Lock()
	l.replicaCount++
	r := &Replica{Name: "lab-" + strconv.Itoa(l.replicaCount), lab: l, log: &tail{address: make(chan string, 1)}, done: make(chan struct{})}
	l.replicas = append(l.replicas, r)
	l.mu.Unlock()

	cmd := exec.Command(l.binary(settings), "serve") //nolint:noctx // it outlives the call; Stop and Kill end it
	// Nothing of this process's own environment decides what the server does.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	for name, value := range l.Settings(r.Name, url, settings) {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.Stderr = r.log
	cmd.SysProcAttr = attributes()
	if err := launch(cmd); err != nil {
		return nil, err
	}
	r.Process = cmd.Process
	go func() {
		r.err = cmd.Wait()
		close(r.done)
	}()
	select {
	case address := <-r.log.address:
		r.URL = "https://" + address
		return r, nil
	case <-r.done:
		return nil, fmt.Errorf("the server ended as it started: %w\n%s", r.err, r.log)
	case <-time.After(30 * time.Second):
		return nil, errors.Join(fmt.Errorf("the server did not start in 30 s\n%s", r.log), r.Kill())
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), r.Kill())
	}
}

// Migrate brings the database at url up to date, in a process of its own.
func (l *Lab) Migrate(ctx context.Context, url string) error {
	out, err := l.Migration(ctx, url, nil).CombinedOutput()
	if err != nil {
		return fmt.Errorf("migrate: %w\n%s", err, out)
	}
	return nil
}

// Migration is a process that brings the database at url up to date, and is not
// started yet.
func (l *Lab) Migration(ctx context.Context, url string, settings map[string]string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, l.binary(settings), "migrate")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), config.DatabaseURL.Name + "=" + url}
	for name, value := range settings {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	return cmd
}

// Settings are all that a process on the database at url is given.
func (l *Lab) Settings(replica, url string, settings map[string]string) map[string]string {
	all := l.Secrets(url)
	all[config.Listen.Name] = "127.0.0.1:0"
	all[config.TLSCertFile.Name] = l.certFile()
	all[config.TLSKeyFile.Name] = l.keyFile()
	all[config.Replica.Name] = replica
	all[config.DatabaseMaxConnections.Name] = "8" // there are many replicas on one PostgreSQL
	for _, l := range limit.All() {               // experiments with a limit set its own
		all[l.Cap.Name] = "1000000"
		if l.Rate != nil {
			all[l.Rate.Name] = "100000"
		}
	}
	for name, value := range settings {
		all[name] = value
	}
	return all
}

// Client returns a client of the replica.
func (r *Replica) Client(key string) (*client.Client, error) {
	return client.New(r.URL, key, r.lab.roots)
}

// Client returns a client of whatever server of the laboratory is behind the address,
// which is host:port.
func (l *Lab) Client(address, key string) (*client.Client, error) {
	return client.New("https://"+address, key, l.roots)
}

// Address is where the replica listens, as host:port.
func (r *Replica) Address() string { return strings.TrimPrefix(r.URL, "https://") }

// Log is the end of what the process wrote to its log.
func (r *Replica) Log() string { return r.log.String() }

// Stop asks the process to stop, and waits.
func (r *Replica) Stop() error {
	if err := r.signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-r.done:
		return r.err
	case <-time.After(40 * time.Second):
		return errors.Join(errors.New("the server did not stop"), r.Kill())
	}
}

// Kill ends the process at once, and waits. A process that has ended is no
// error.
func (r *Replica) Kill() error {
	if r.Process == nil {
		return nil
	}
	err := r.signal(syscall.SIGKILL)
	<-r.done
	return err
}

// Freeze stops the process from running until Thaw.
func (r *Replica) Freeze() error { return r.signal(syscall.SIGSTOP) }

// Thaw lets a frozen process go on.
func (r *Replica) Thaw() error { return r.signal(syscall.SIGCONT) }

func (r *Replica) signal(s syscall.Signal) error {
	err := r.Process.Signal(s)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// tail keeps the end of a log, and finds the address in it that is served.
type tail struct {
	mu      sync.Mutex
	lines   []string
	rest    []byte
	address chan string
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rest = append(t.rest, b...)
	for {
		line, rest, ok := bytes.Cut(t.rest, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		t.rest = rest
		t.lines = append(t.lines, string(line))
		if len(t.lines) > 200 {
			t.lines = t.lines[1:]
		}
		var entry struct{ Msg, Address string }
		if json.Unmarshal(line, &entry) == nil && entry.Msg == "serving" {
			select {
			case t.address <- entry.Address:
			default:
			}
		}
	}
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, "\n")
}
