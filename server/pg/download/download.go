// Package download fetches the binaries of PostgreSQL for a machine that has
// none, to be run by pg/local.
package download

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	embedded "github.com/fergusstrange/embedded-postgres"

	"certctl/server/pg/local"
)

// version is what is downloaded.
const version = embedded.V17

// Binaries returns the folder of PostgreSQL's binaries in cacheDir, and fetches
// them first if they are not there yet. An empty repositoryURL means the public
// repository. Root is refused, as PostgreSQL refuses root.
func Binaries(ctx context.Context, cacheDir, repositoryURL string) (binDir string, err error) {
	if os.Geteuid() == 0 {
		return "", fmt.Errorf("PostgreSQL is not downloaded as root; %s", local.HowToInstall())
	}
	if cacheDir, err = filepath.Abs(cacheDir); err != nil {
		return "", err
	}
	binaries := filepath.Join(cacheDir, "postgres-"+string(version))
	done := make(chan error, 1)
	// The library knows no context: it goes on by itself after ctx has ended.
	go func() { done <- install(ctx, cacheDir, binaries, repositoryURL) }()
	select {
	case err = <-done:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		return "", fmt.Errorf("download PostgreSQL %s: %w; or %s", version, err, local.HowToInstall())
	}
	return filepath.Join(binaries, "bin"), nil
}

func install(ctx context.Context, cacheDir, binaries, repositoryURL string) error {
	if err := os.MkdirAll(cacheDir, 0o700); err != nil {
		return err
	}
	unlock, err := lock(ctx, filepath.Join(cacheDir, "lock"))
	if err != nil {
		return err
	}
	defer func() { _ = unlock() }() // the end of the process does it too
	if _, err := os.Stat(binaries); err == nil {
		return nil
	}
	scratch := filepath.Join(cacheDir, "scratch") // only the holder of the lock uses it
	if err := os.RemoveAll(scratch); err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	port, err := freePort(ctx)
	if err != nil {
		return err
	}
	config := embedded.DefaultConfig().
		Version(version).
		CachePath(filepath.Join(scratch, "archive")).
		BinariesPath(filepath.Join(scratch, "binaries")).
		RuntimePath(filepath.Join(scratch, "run")).
		Port(port).
		Password(rand.Text()).
		Locale("C").
		Encoding("UTF8").
		StartParameters(map[string]string{"unix_socket_directories": ""}).
		Logger(io.Discard)
	if repositoryURL != "" {
		config = config.BinaryRepositoryURL(repositoryURL)
	}
	// The library has no way to fetch without starting. A start also shows that
	// these binaries run on this machine before anything relies on them.
	try := embedded.NewDatabase(config)
	if err := try.Start(); err != nil {
		return err
	}
	if err := try.Stop(); err != nil {
		return err
	}
	return os.Rename(filepath.Join(scratch, "binaries"), binaries)
}

func freePort(ctx context.Context) (uint32, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return uint32(l.Addr().(*net.TCPAddr).Port), nil
}

// lock waits until no other process downloads to the same cache.
func lock(ctx context.Context, path string) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f.Close, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.Join(err, f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), f.Close())
		case <-time.After(50 * time.Millisecond):
		}
	}
}
