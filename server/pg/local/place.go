package local

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// DefaultDir is where the working directory's own PostgreSQL lives: .certctl in
// it, or as root, where PostgreSQL's account may not be able to reach it, a
// directory in /var/lib/certctl that is named after it.
func DefaultDir() (string, error) {
	wd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	if os.Geteuid() != 0 {
		return filepath.Join(wd, ".certctl"), nil
	}
	if wd, err = filepath.EvalSymlinks(wd); err != nil {
		return "", err
	}
	return filepath.Join("/var/lib/certctl", shortHash(wd)), nil
}

func shortHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:4])
}

// account is who PostgreSQL, which refuses root, runs as; nil means ourselves.
func account() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is neither an account postgres nor nobody")
}

// occupy takes dir for this process alone.
func (s *Server) occupy(dir string) (err error) {
	if dir == "" {
		if dir, err = DefaultDir(); err != nil {
			return err
		}
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if err := mkdirAll(dir); err != nil {
		return err
	}
	if err := s.reachable(dir); err != nil {
		return err
	}
	lock, err := tryLock(filepath.Join(dir, "lock"))
	if err != nil {
		return err
	}
	if lock == nil {
		owner, _ := os.ReadFile(filepath.Join(dir, "lock"))
		return fmt.Errorf("process %s runs the PostgreSQL in %s: stop it, connect to it, or give this one another directory",
			owner, dir)
	}
	return s.hold(dir, lock)
}

// occupyTemporary takes a new directory.
func (s *Server) occupyTemporary(ctx context.Context, p Profile) error {
	parents := []string{os.TempDir(), "/tmp"}
	// tmpfs is memory: right for a small cluster that does not survive anyway,
	// unless it is as small as containers' often are.
	if p == Fast && memory("/dev/shm") >= 1<<30 {
		parents = append([]string{"/dev/shm"}, parents...)
	}
	dir, lock, err := s.private(ctx, parents...)
	if err != nil {
		return err
	}
	return s.hold(dir, lock)
}

func (s *Server) hold(dir string, lock *os.File) error {
	s.dir, s.held = dir, append(s.held, lock)
	if err := os.WriteFile(lock.Name(), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return err
	}
	// A default directory is inside a checkout and holds keys.
	if err := os.WriteFile(filepath.Join(dir, ".gitignore"), []byte("*\n"), 0o600); err != nil {
		return err
	}
	if err := os.Mkdir(s.StateDir(), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// placeSockets makes an empty directory for the unix socket: beside the data, or
// where that path is too long for a socket, a private one in /tmp.
func (s *Server) placeSockets(ctx context.Context) error {
	s.sockets = filepath.Join(s.dir, "socket")
	// 104 bytes with the zero at the end on the BSDs, 108 on Linux. In a
	// connection URL a comma separates hosts; in PostgreSQL's setting, directories.
	longest := filepath.Join(s.sockets, ".s.PGSQL.65535")
	if len(longest) >= 104 || strings.ContainsAny(longest, ",\"") {
		dir, lock, err := s.private(ctx, "/tmp")
		if err != nil {
			return err
		}
		s.held = append(s.held, lock)
		s.sockets = filepath.Join(dir, "socket")
	}
	if err := os.RemoveAll(s.sockets); err != nil {
		return err
	}
	return s.mkdir(s.sockets, 0o711)
}

// private makes a directory that goes with this process, in a directory of this
// user's in the first of parents that PostgreSQL's account can reach. What
// killed processes left there goes now.
func (s *Server) private(ctx context.Context, parents ...string) (string, *os.File, error) {
	var errs []error
	for _, parent := range parents {
		base := filepath.Join(parent, "certctl-"+strconv.Itoa(os.Geteuid()))
		if err := errors.Join(mkdir(base), s.reachable(base)); err != nil {
			errs = append(errs, err)
			continue
		}
		// Nobody looks at a directory between its making and its locking.
		all, err := waitLock(ctx, filepath.Join(base, "lock"))
		if err != nil {
			return "", nil, err
		}
		defer all.Close()
		if err := sweep(ctx, base); err != nil {
			return "", nil, err
		}
		// The lock stands beside the directory and goes after it: whoever holds it
		// may remove the directory, and nobody else writes to it meanwhile.
		dir := filepath.Join(base, "run-"+rand.Text()[:8])
		lock, err := tryLock(dir + ".lock")
		if err != nil {
			return "", nil, err
		}
		s.temporary = append(s.temporary, dir, lock.Name())
		return dir, lock, mkdir(dir)
	}
	return "", nil, errors.Join(errs...)
}

// sweep removes the private directories in base whose process is gone.
func sweep(ctx context.Context, base string) error {
	locks, err := filepath.Glob(filepath.Join(base, "run-*.lock"))
	if err != nil {
		return err
	}
	for _, path := range locks {
		lock, err := tryLock(path)
		if err != nil {
			return err
		}
		if lock == nil {
			continue
		}
		dir := strings.TrimSuffix(path, ".lock")
		err = errors.Join(
			end(ctx, filepath.Join(dir, "data"), syscall.SIGQUIT),
			os.RemoveAll(dir),
			os.RemoveAll(path),
			lock.Close(),
		)
		if err != nil {
			return err
		}
	}
	return nil
}

// mkdir makes dir, which others may pass through, or makes sure that it is ours:
// in a directory that all may write to, somebody else may have made it first.
func mkdir(dir string) error {
	if err := makeDir(dir, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() || int(info.Sys().(*syscall.Stat_t).Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s is not a directory that only this user can write to", dir)
	}
	return nil
}

// mkdirAll makes dir and what is missing above it; others may pass through.
func mkdirAll(dir string) error {
	err := makeDir(dir, 0o711)
	if errors.Is(err, os.ErrNotExist) {
		if err := mkdirAll(filepath.Dir(dir)); err != nil {
			return err
		}
		err = makeDir(dir, 0o711)
	}
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	return err
}

// makeDir is os.Mkdir without the umask: PostgreSQL's account has to pass
// through where root's umask lets nobody.
func makeDir(dir string, mode os.FileMode) error {
	if err := os.Mkdir(dir, mode); err != nil {
		return err
	}
	return os.Chmod(dir, mode)
}

// mkdir makes a directory that belongs to PostgreSQL's account.
func (s *Server) mkdir(dir string, mode os.FileMode) error {
	if err := makeDir(dir, mode); err != nil {
		return err
	}
	return s.give(dir)
}

// give gives a file that we made to PostgreSQL's account.
func (s *Server) give(path string) error {
	if s.as == nil {
		return nil
	}
	return os.Lchown(path, int(s.as.Uid), int(s.as.Gid))
}

// reachable says whether PostgreSQL's account can pass through dir and all above it.
func (s *Server) reachable(dir string) error {
	if s.as == nil {
		return nil
	}
	actual, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	for at := actual; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil {
			return err
		}
		stat, pass := info.Sys().(*syscall.Stat_t), os.FileMode(0o001)
		switch {
		case stat.Uid == s.as.Uid:
			pass = 0o100
		case stat.Gid == s.as.Gid:
			pass = 0o010
		}
		if info.Mode().Perm()&pass == 0 {
			return fmt.Errorf("PostgreSQL runs as uid %d, which may not enter %s: choose a directory elsewhere", s.as.Uid, at)
		}
		if at == filepath.Dir(at) {
			return nil
		}
	}
}

// tryLock locks the file at path, making it if need be, until it is closed. It
// returns nil if another process, or another server of this one, holds the lock.
func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err {
	case nil:
		return f, nil
	case syscall.EWOULDBLOCK:
		return nil, f.Close()
	default:
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
}

// waitLock is tryLock that waits for its turn.
func waitLock(ctx context.Context, path string) (*os.File, error) {
	for {
		f, err := tryLock(path)
		if f != nil || err != nil {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for %s: %w", path, context.Cause(ctx))
		case <-time.After(5 * time.Millisecond):
		}
	}
}
