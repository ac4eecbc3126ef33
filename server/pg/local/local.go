// Package local starts a PostgreSQL of our own from binaries that are installed
// on this machine, for one machine: `serve --embedded` and the tests.
//
// Nothing outlives its owner. A guard process and, on Linux, the kernel end the
// server when the process that started it ends, however that ends.
package local

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A Profile says what a crash may cost.
type Profile int

const (
	// Durable loses nothing that was committed.
	Durable Profile = iota
	// Fast does not wait for the disk. For tests only: a crash of the machine
	// can destroy the cluster.
	Fast
)

// superuser of a cluster that this package made.
const superuser = "certctl"

// Options say what to start. The zero value is the durable server of DefaultDir.
type Options struct {
	Dir     string  // holds the cluster and its state; DefaultDir if empty
	Profile Profile // Durable if unset
	Bin     string  // folder of the binaries; if empty the newest installed that can read the data

	// Temporary starts a new cluster in a private directory, which goes with the
	// server. Dir must be empty.
	Temporary bool

	// Settings are further "name=value" settings of PostgreSQL.
	Settings []string
}

// Server is a running PostgreSQL.
type Server struct {
	dir, sockets, password string
	bin                    string
	port                   int
	as                     *syscall.Credential // nil: ourselves
	held                   []*os.File          // locks on the directories in use
	temporary              []string            // paths that go with the server
	first                  syscall.Signal      // that Stop sends: a checkpoint of what is thrown away helps nobody
	guard                  *guard
	log                    *os.File

	process  *os.Process
	done     chan struct{}
	err      error // why it ended by itself; read after done is closed
	stopping atomic.Bool

	stop    sync.Once
	stopErr error
}

// Start starts a server and returns when it takes connections. Unless ctx has a
// deadline it gives up after 30 seconds. As root the server runs under the
// account postgres, or nobody if there is none.
func Start(ctx context.Context, o Options) (_ *Server, err error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
	}
	if o.Temporary && o.Dir != "" {
		return nil, errors.New("a temporary PostgreSQL takes no directory")
	}
	as, err := account()
	if err != nil {
		return nil, err
	}
	s := &Server{as: as, first: syscall.SIGINT}
	if o.Temporary {
		s.first = syscall.SIGQUIT
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("start PostgreSQL: %w", errors.Join(err, s.Stop()))
		}
	}()

	if o.Temporary {
		err = s.occupyTemporary(ctx, o.Profile)
	} else {
		err = s.occupy(o.Dir)
	}
	if err != nil {
		return nil, err
	}
	bin := o.Bin
	if bin == "" {
		if bin, err = binariesFor(s.data()); err != nil {
			return nil, err
		}
	}
	s.bin = bin
	if err := s.placeSockets(ctx); err != nil {
		return nil, err
	}
	if s.guard, err = startGuard(s.data(), o.Profile.ending(), s.temporary); err != nil {
		return nil, err
	}
	if o.Temporary && o.Profile == Fast {
		err = s.copyTemplate(ctx, bin)
	} else if _, missing := os.Stat(s.data()); missing != nil {
		var extra []string
		if o.Profile == Fast {
			extra = []string{"--no-sync"}
		}
		err = s.initialise(ctx, s.dir, bin, extra...)
	}
	if err != nil {
		return nil, err
	}
	password, err := os.ReadFile(filepath.Join(s.dir, "password"))
	if err != nil {
		return nil, err
	}
	s.password = string(password)

	if err := s.endLeftover(ctx); err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		if err := s.launch(ctx, bin, o); err == nil {
			return s, nil
		} else if try == 5 || !s.portTaken() {
			return nil, err
		}
	}
}

// settings are what every cluster runs with. They stand on the command line, so
// an upgrade of certctl changes them for existing data too.
func (s *Server) settings(o Options) []string {
	set := []string{
		"listen_addresses=127.0.0.1",
		"unix_socket_directories=" + s.sockets,
		"unix_socket_permissions=0777", // the password guards it, not the file mode
		"max_connections=200",
		"timezone=UTC",
		"log_timezone=UTC",
		"lc_messages=C",
		"jit=off", // compiling costs more than our statements
		// Errors reach the client; what is logged is why the server starts and ends.
		"logging_collector=off",
		"log_min_messages=log",
		"log_checkpoints=off",
	}
	if o.Profile == Fast {
		set = append(set,
			"fsync=off",
			"synchronous_commit=off",
			"full_page_writes=off",
			"wal_level=minimal",
			"max_wal_senders=0",
			// In the data directory, so that nothing is left outside of it.
			"dynamic_shared_memory_type=mmap",
		)
	}
	return append(set, o.Settings...)
}

// ending is the signal that makes a server of this profile go: an orderly shutdown
// if its data is worth one.
func (p Profile) ending() syscall.Signal {
	if p == Fast {
		return syscall.SIGQUIT
	}
	return syscall.SIGINT
}

// URL is the connection URL of a database of the server, for any process on this
// machine: the unix socket first, TCP for who may not reach it. A new server has
// the database "postgres".
func (s *Server) URL(database string) string {
	u := url.URL{
		Scheme: "postgres",
		User:   url.UserPassword(superuser, s.password),
		Path:   "/" + database,
		RawQuery: url.Values{
			"host":    {s.sockets + ",127.0.0.1"},
			"port":    {fmt.Sprintf("%d,%[1]d", s.port)},
			"sslmode": {"disable"},
		}.Encode(),
	}
	return u.String()
}

// Dir is the directory that holds the data, the state, the password and the log.
func (s *Server) Dir() string { return s.dir }

// StateDir is a private directory beside the data for what belongs to it: keys,
// certificates. Where root runs this, PostgreSQL cannot read it.
func (s *Server) StateDir() string { return filepath.Join(s.dir, "state") }

// Bin is the folder of the binaries that it was started from.
func (s *Server) Bin() string { return s.bin }

// Account is who it runs as; nil means ourselves.
func (s *Server) Account() *syscall.Credential { return s.as }

// PID is the process id of the postmaster.
func (s *Server) PID() int { return s.process.Pid }

// Done is closed when PostgreSQL has ended, by Stop or by itself.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err says why PostgreSQL ended by itself. It is nil before Done and after Stop.
func (s *Server) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// Stop ends PostgreSQL, disconnecting its clients, and removes what was
// temporary. It returns when nothing of it is left.
func (s *Server) Stop() error {
	s.stop.Do(func() { s.stopErr = s.halt() })
	return s.stopErr
}

func (s *Server) halt() error {
	var errs []error
	s.stopping.Store(true)
	if s.process != nil {
		_ = s.process.Signal(s.first) // it may have ended
		select {
		case <-s.done:
		case <-time.After(10 * time.Second):
			errs = append(errs, end(context.Background(), s.data(), syscall.SIGQUIT))
			select {
			case <-s.done:
			case <-time.After(5 * time.Second):
				errs = append(errs, fmt.Errorf("PostgreSQL (pid %d) does not end", s.PID()))
			}
		}
	}
	for _, dir := range s.temporary {
		errs = append(errs, os.RemoveAll(dir))
	}
	if s.guard != nil {
		s.guard.dismiss()
	}
	if s.log != nil {
		s.log.Close()
	}
	for _, lock := range s.held {
		lock.Close()
	}
	return errors.Join(errs...)
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// initialise makes a cluster in dir.
func (s *Server) initialise(ctx context.Context, dir, bin string, extra ...string) error {
	// Under another name until it is whole: a crash half way leaves no cluster.
	data := filepath.Join(dir, "data.new")
	if err := os.RemoveAll(data); err != nil {
		return err
	}
	if err := s.mkdir(data, 0o700); err != nil {
		return err
	}
	password := rand.Text()
	if err := writeSecret(filepath.Join(dir, "password"), password); err != nil {
		return err
	}
	// initdb reads it as the account, which may not read ours.
	hand := filepath.Join(dir, "password.initdb")
	defer os.Remove(hand)
	if err := writeSecret(hand, password); err != nil {
		return err
	}
	if err := s.give(hand); err != nil {
		return err
	}
	initdb := func(locale string) error {
		args := append([]string{
			"-D", data, "-U", superuser, "--pwfile", hand,
			"-A", "scram-sha-256", "-E", "UTF8", "--locale", locale, "--no-instructions",
		}, extra...)
		return s.run(ctx, filepath.Join(bin, "initdb"), args...)
	}
	err := initdb("C.UTF-8")
	if err != nil && ctx.Err() == nil && initdb("C") == nil { // not every system has C.UTF-8
		err = nil
	}
	if err != nil {
		return err
	}
	if err := os.Rename(data, filepath.Join(dir, "data")); err != nil {
		return err
	}
	return syncDir(dir)
}

// writeSecret writes a file that is on the disk before the cluster that needs it.
func writeSecret(path, text string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		return err
	}
	return f.Sync()
}

// syncDir makes a rename inside dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// copyTemplate copies the cluster from a cached one, which it makes first if
// this version of PostgreSQL has none yet.
func (s *Server) copyTemplate(ctx context.Context, bin string) error {
	version, err := versionOf(bin)
	if err != nil {
		return err
	}
	options := []string{"--no-sync", "--wal-segsize=1"} // small, and quick to copy
	base := filepath.Dir(s.dir)
	template := filepath.Join(base, "template-"+shortHash(fmt.Sprint(version, options, s.as)))
	err = func() error {
		lock, err := waitLock(ctx, filepath.Join(base, "template.lock"))
		if err != nil {
			return err
		}
		defer lock.Close()
		if _, err := os.Stat(template); err == nil {
			return nil
		}
		making := filepath.Join(s.dir, "template")
		if err := mkdir(making); err != nil {
			return err
		}
		if err := s.initialise(ctx, making, bin, options...); err != nil {
			return err
		}
		return os.Rename(making, template)
	}()
	if err != nil {
		return err
	}
	if err := s.mkdir(s.data(), 0o700); err != nil {
		return err
	}
	// Under the account, so that nothing in the copy is ours that should not be.
	if err := s.run(ctx, "cp", "-R", "-p", filepath.Join(template, "data")+"/.", s.data()); err != nil {
		return err
	}
	password, err := os.ReadFile(filepath.Join(template, "password"))
	if err != nil {
		return err
	}
	return writeSecret(filepath.Join(s.dir, "password"), string(password))
}

// endLeftover ends the PostgreSQL that a killed owner may have left on the data,
// and makes its pid file harmless.
func (s *Server) endLeftover(ctx context.Context) error {
	pidFile := filepath.Join(s.data(), "postmaster.pid")
	if _, err := os.Stat(pidFile); err != nil {
		return nil
	}
	if err := end(ctx, s.data(), syscall.SIGINT); err != nil {
		return err
	}
	old, err := os.ReadFile(pidFile)
	if err != nil {
		return nil // it ended in good order
	}
	// The pid may belong to some other process by now, which PostgreSQL would take
	// for its predecessor. It ignores its parent's, and so still looks whether
	// a process of the predecessor uses the shared memory named in the file.
	_, rest, _ := bytes.Cut(old, []byte("\n"))
	if err := os.Remove(pidFile); err != nil {
		return err
	}
	f, err := os.OpenFile(pidFile, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if s.as != nil {
		if err := f.Chown(int(s.as.Uid), int(s.as.Gid)); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(f, "%d\n%s", os.Getpid(), rest)
	return err
}

// launch runs postgres on a free port until it takes connections.
func (s *Server) launch(ctx context.Context, bin string, o Options) error {
	var err error
	if s.port, err = freePort(); err != nil {
		return err
	}
	if s.log == nil {
		if s.log, err = openLog(filepath.Join(s.dir, "postgres.log")); err != nil {
			return err
		}
	}
	from, err := s.log.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	// The data directory comes first and the guard knows the process by it.
	args := []string{"-D", s.data(), "-p", strconv.Itoa(s.port)}
	for _, setting := range s.settings(o) {
		args = append(args, "-c", setting)
	}
	cmd := s.command(context.Background(), o.Profile.ending(), filepath.Join(bin, "postgres"), args...)
	cmd.Stdout, cmd.Stderr = s.log, s.log

	started, done := make(chan error), make(chan struct{})
	go func() {
		// The parent whose death the kernel reports is this thread. It is never
		// unlocked, so it lives for as long as postgres does.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait() // the state of the process says how it ended
		if !s.stopping.Load() {
			s.err = fmt.Errorf("PostgreSQL ended by itself (%v): %s", cmd.ProcessState, tail(s.log, from))
		}
		close(done)
	}()
	if err := <-started; err != nil {
		return err
	}
	s.process, s.done = cmd.Process, done

	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return s.err
		case <-ctx.Done():
			return fmt.Errorf("not ready in time: %w: %s", context.Cause(ctx), tail(s.log, from))
		case <-tick.C:
			if s.ready() {
				return nil
			}
		}
	}
}
