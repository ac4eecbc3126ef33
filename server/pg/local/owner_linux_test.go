package local_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/pg/local"
)

// helper, in the environment, makes the test binary a process that does what the
// variable names instead of running tests.
const helper = "CERTCTL_LOCAL_HELPER"

func TestMain(m *testing.M) {
	switch os.Getenv(helper) {
	case "":
		os.Exit(m.Run())
	case "own":
		exit(own())
	case "connect":
		exit(connect(os.Getenv("DATABASE_URL")))
	}
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// owned is what an owner tells about its server.
type owned struct {
	PID       int
	Dir, URL  string
	StateMode os.FileMode
}

// own starts a server, tells about it, and keeps it until standard input ends.
func own() error {
	signal.Ignore(syscall.SIGINT)
	var o local.Options
	if err := json.Unmarshal([]byte(os.Getenv("OPTIONS")), &o); err != nil {
		return err
	}
	s, err := local.Start(context.Background(), o)
	if err != nil {
		return err
	}
	if err := connect(s.URL("postgres")); err != nil {
		return err
	}
	info, err := os.Stat(s.StateDir())
	if err != nil {
		return err
	}
	err = json.NewEncoder(os.Stdout).Encode(owned{s.PID(), s.Dir(), s.URL("postgres"), info.Mode().Perm()})
	if err != nil {
		return err
	}
	os.Stdin.Read(make([]byte, 1))
	return s.Stop()
}

func command(as *syscall.Credential, what string, env ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe") // by that name another user may run it too
	cmd.Env = append(os.Environ(), helper+"="+what)
	cmd.Env = append(cmd.Env, env...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as, Setpgid: true}
	return cmd
}

// owner starts a process that owns a server.
func owner(t *testing.T, as *syscall.Credential, wd string, o local.Options) (*os.Process, owned, func()) {
	t.Helper()
	options, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := command(as, "own", "OPTIONS="+string(options))
	cmd.Dir = wd
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var ended bool
	stop := func() {
		if !ended {
			ended = true
			stdin.Close()
			cmd.Wait()
		}
	}
	t.Cleanup(stop)
	var s owned
	if err := json.NewDecoder(stdout).Decode(&s); err != nil {
		t.Fatal(err)
	}
	return cmd.Process, s, stop
}

func TestOwnerKilled(t *testing.T) {
	t.Parallel()
	durable := func(t *testing.T) local.Options { return local.Options{Dir: filepath.Join(shortDir(t), "pg")} }
	temporary := func(*testing.T) local.Options { return local.Options{Temporary: true, Profile: local.Fast} }

	for _, c := range []struct {
		name    string
		options func(*testing.T) local.Options
		before  func(*testing.T, owned) // is done before the owner is killed
		unclean bool                    // the directory may stay, for the next start to remove
	}{
		{name: "leaves nothing of a durable server but its data", options: durable},
		{name: "leaves nothing of a temporary server", options: temporary},
		{name: "with its guard still takes a durable server along", options: durable, before: killGuard},
		{name: "with its guard still takes a temporary server along", options: temporary, before: killGuard, unclean: true},
		{name: "takes a frozen backend along", options: durable, before: freezeBackend},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o := c.options(t)
			first, s, stop := owner(t, nil, "", o)
			queryURL(t, s.URL, `create table kept as select 1 as n`)
			if len(processesOf(s.Dir)) < 3 {
				t.Fatalf("the process table shows only %v", processesOf(s.Dir))
			}
			if c.before != nil {
				c.before(t, s)
			}
			first.Kill()
			killed := time.Now()
			stop()

			for len(processesOf(s.Dir)) > 0 {
				if time.Since(killed) > 5*time.Second {
					t.Fatalf("after 5 s: %v", processesOf(s.Dir))
				}
				time.Sleep(20 * time.Millisecond)
			}
			if !o.Temporary {
				if got := query(t, start(t, o), `select n::text from kept`); got != "1" {
					t.Errorf("kept %q", got)
				}
				return
			}
			if c.unclean {
				start(t, o)
			}
			if left, _ := filepath.Glob(s.Dir + "*"); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// killGuard kills what would clean up behind the owner.
func killGuard(t *testing.T, s owned) {
	for _, p := range processesOf(s.Dir) {
		if strings.Contains(p.command, "certctl-guard") {
			syscall.Kill(p.pid, syscall.SIGKILL)
			return
		}
	}
	t.Fatal("no guard")
}

// freezeBackend freezes a process that the postmaster waits for before it ends.
func freezeBackend(t *testing.T, s owned) {
	conn, err := pgx.Connect(t.Context(), s.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	syscall.Kill(int(conn.PgConn().PID()), syscall.SIGSTOP)
}

func TestRestartAfterKill(t *testing.T) {
	t.Parallel()
	o := local.Options{Dir: filepath.Join(shortDir(t), "pg"), Profile: local.Fast}

	t.Run("need not wait for the last server to end", func(t *testing.T) {
		first, s, stop := owner(t, nil, "", o)
		killGuard(t, s)
		freezeBackend(t, s) // so that it certainly is there
		first.Kill()
		stop()
		if got := query(t, start(t, o), `select 'new'`); got != "new" {
			t.Error(got)
		}
		if left := processesOf(o.Dir); slices.ContainsFunc(left, func(p process) bool { return p.pid == s.PID }) {
			t.Errorf("left: %v", left)
		}
	})

	t.Run("is not stopped by a pid file whose pid went to another process", func(t *testing.T) {
		s := start(t, o)
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
		stranger := exec.Command("sleep", "60")
		stranger.Dir = filepath.Join(o.Dir, "data")
		stranger.SysProcAttr = &syscall.SysProcAttr{}
		if os.Geteuid() == 0 { // PostgreSQL minds only processes of its own account
			info, err := os.Stat(stranger.Dir)
			if err != nil {
				t.Fatal(err)
			}
			data := info.Sys().(*syscall.Stat_t)
			stranger.SysProcAttr.Credential = &syscall.Credential{Uid: data.Uid, Gid: data.Gid}
		}
		if err := stranger.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- stranger.Wait() }()
		defer func() { stranger.Process.Kill(); <-ended }()
		stale := fmt.Sprintf("%d\n%s\n1\n5432\n\n\n\n", stranger.Process.Pid, stranger.Dir)
		if err := os.WriteFile(filepath.Join(stranger.Dir, "postmaster.pid"), []byte(stale), 0o600); err != nil {
			t.Fatal(err)
		}
		start(t, o)
		select {
		case err := <-ended:
			ended <- err
			t.Errorf("the other process was ended: %v", err)
		default:
		}
	})
}

func TestStopWithoutGuard(t *testing.T) {
	t.Parallel()
	s := start(t, local.Options{Temporary: true, Profile: local.Fast})
	killGuard(t, owned{Dir: s.Dir()})
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(s.Dir() + "*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestTerminalInterruptReachesOnlyTheOwner(t *testing.T) {
	t.Parallel()
	process, s, _ := owner(t, nil, "", local.Options{Temporary: true, Profile: local.Fast})
	// The owner, which ignores it here, leads a process group as under a shell.
	if err := syscall.Kill(-process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if got := queryURL(t, s.URL, `select 'here'`); got != "here" {
		t.Error(got)
	}
	for _, p := range processesOf(s.Dir) {
		if group, err := syscall.Getpgid(p.pid); err == nil && group == process.Pid {
			t.Errorf("%v is in the owner's process group", p)
		}
	}
}

func TestOrdinaryUser(t *testing.T) {
	t.Parallel()
	asRoot(t)
	nobody := &syscall.Credential{Uid: 65534, Gid: 65534}

	t.Run("runs a server in the working directory", func(t *testing.T) {
		t.Parallel()
		home := shortDir(t)
		if err := errors.Join(os.Chown(home, 65534, 65534), os.Chmod(home, 0o700)); err != nil {
			t.Fatal(err)
		}
		for _, o := range []local.Options{{}, {Temporary: true, Profile: local.Fast}} {
			_, s, stop := owner(t, nobody, home, o)
			if want := filepath.Join(home, ".certctl"); !o.Temporary && s.Dir != want {
				t.Errorf("it is in %s, want %s", s.Dir, want)
			}
			if s.StateMode != 0o700 {
				t.Errorf("the state has mode %v", s.StateMode)
			}
			if uid := uidOf(t, s.PID); uid != nobody.Uid {
				t.Errorf("it runs as %d", uid)
			}
			stop()
		}
	})

	t.Run("connects to a server of root", func(t *testing.T) {
		t.Parallel()
		s := start(t, local.Options{Temporary: true, Profile: local.Fast})
		if uidOf(t, s.PID()) == 0 {
			t.Error("it runs as root")
		}
		for _, host := range hosts(t, s) {
			if err := command(nobody, "connect", "DATABASE_URL="+at(t, s, host, "")).Run(); err != nil {
				t.Errorf("by %s: %v", host, err)
			}
		}
	})
}

func TestDirectoryOfAnotherUserIsNotUsed(t *testing.T) {
	asRoot(t)
	tmp := shortDir(t)
	t.Setenv("TMPDIR", tmp)
	trap := filepath.Join(tmp, "certctl-0")
	if err := errors.Join(os.Mkdir(trap, 0o777), os.Chown(trap, 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	s := start(t, local.Options{Temporary: true})
	if strings.HasPrefix(s.Dir(), trap) {
		t.Errorf("it is in %s", s.Dir())
	}
}

type process struct {
	pid     int
	command string
}

// processesOf lists the processes of the server in dir: those that name dir, and
// those that work in its data, as backends do.
func processesOf(dir string) []process {
	var found []process
	entries, _ := filepath.Glob("/proc/[0-9]*")
	for _, entry := range entries {
		pid, _ := strconv.Atoi(filepath.Base(entry))
		line, _ := os.ReadFile(filepath.Join(entry, "cmdline"))
		command := string(bytes.ReplaceAll(line, []byte{0}, []byte{' '}))
		wd, _ := os.Readlink(filepath.Join(entry, "cwd"))
		if strings.Contains(command, dir) || strings.HasPrefix(wd, filepath.Join(dir, "data")) {
			found = append(found, process{pid, command[max(0, len(command)-200):]})
		}
	}
	return found
}

func uidOf(t *testing.T, pid int) uint32 {
	t.Helper()
	info, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Uid
}
