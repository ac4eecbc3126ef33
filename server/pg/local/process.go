package local

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// command is a command that runs as PostgreSQL's account and gets sig when the
// thread that starts it ends.
func (s *Server) command(ctx context.Context, sig syscall.Signal, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = "/" // the account may not be able to enter ours
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	// Not in our group: the terminal's Ctrl-C is for us, who then stop it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as, Setpgid: true}
	dieWithParent(cmd.SysProcAttr, sig)
	return cmd
}

// run runs a command to its end; the error holds what it said.
func (s *Server) run(ctx context.Context, name string, args ...string) error {
	runtime.LockOSThread() // the parent that the kernel watches is this thread
	defer runtime.UnlockOSThread()
	out, err := s.command(ctx, syscall.SIGKILL, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(name), err, bytes.TrimSpace(out))
	}
	return nil
}

// ready reads in the pid file, which PostgreSQL keeps for pg_ctl, whether our
// postgres takes connections.
func (s *Server) ready() bool {
	text, _ := os.ReadFile(filepath.Join(s.data(), "postmaster.pid"))
	lines := strings.Split(string(text), "\n")
	return len(lines) > 7 && lines[0] == strconv.Itoa(s.PID()) && strings.TrimSpace(lines[7]) == "ready"
}

func freePort() (int, error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// portTaken tells whether somebody else took the port between freePort and
// PostgreSQL's start.
func (s *Server) portTaken() bool {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)))
	if err != nil {
		return true
	}
	l.Close()
	return false
}

// openLog opens a log that starts anew once it is large; PostgreSQL writes a few
// lines a day to it.
func openLog(path string) (*os.File, error) {
	flags := os.O_CREATE | os.O_RDWR | os.O_APPEND
	if info, err := os.Stat(path); err == nil && info.Size() > 1<<20 {
		flags |= os.O_TRUNC
	}
	return os.OpenFile(path, flags, 0o600)
}

// tail returns the last lines of the log, of what was written after from.
func tail(log *os.File, from int64) string {
	info, err := log.Stat()
	if err != nil {
		return err.Error()
	}
	from = max(from, info.Size()-4096)
	text := make([]byte, info.Size()-from)
	n, _ := log.ReadAt(text, from)
	lines := strings.Split(strings.TrimSpace(string(text[:n])), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}
