package download_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/pg/download"
	"certctl/server/pg/local"
)

// cache, in the environment, makes the test binary a process that downloads to
// that directory from the mirror in its first argument and runs what it got, for
// no longer than the second says.
const cache = "CERTCTL_DOWNLOAD_HELPER"

func TestMain(m *testing.M) {
	dir := os.Getenv(cache)
	if dir == "" {
		os.Exit(m.Run())
	}
	patience, err := time.ParseDuration(os.Args[2])
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	version, err := fetchAndRun(ctx, dir, os.Args[1])
	if err != nil {
		fmt.Print(err)
		os.Exit(1)
	}
	fmt.Print(version)
}

func fetchAndRun(ctx context.Context, dir, mirror string) (version string, err error) {
	bin, err := download.Binaries(ctx, dir, mirror)
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(bin, dir) {
		return "", fmt.Errorf("the binaries are in %s", bin)
	}
	s, err := local.Start(ctx, local.Options{Bin: bin, Temporary: true, Profile: local.Fast})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	err = conn.QueryRow(ctx, "show server_version").Scan(&version)
	return version, err
}

func TestBinaries(t *testing.T) {
	t.Parallel()
	jar := archive(t)
	sum := fmt.Sprintf("%x", sha256.Sum256(jar))

	t.Run("are fetched once, and run", func(t *testing.T) {
		t.Parallel()
		dir, mirror := cacheDir(t), serve(t, jar, sum)
		_, want, err := local.Find()
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			got, err := asUser(dir, mirror.URL, time.Minute)
			if err != nil || !strings.HasPrefix(got, want) {
				t.Errorf("runs %q, %v; want %s", got, err, want)
			}
		}
		if n := mirror.archives.Load(); n != 1 {
			t.Errorf("fetched %d times", n)
		}
		if left := names(t, dir); !slices.ContainsFunc(left, isBinaries) || slices.Contains(left, "scratch") {
			t.Errorf("the cache holds %v", left)
		}
	})

	t.Run("are refused if they are not what the repository announces", func(t *testing.T) {
		t.Parallel()
		dir, mirror := cacheDir(t), serve(t, jar, strings.Repeat("0", 64))
		got, err := asUser(dir, mirror.URL, time.Minute)
		if err == nil || !strings.Contains(got, "checksums do not match") || !strings.Contains(got, local.HowToInstall()) {
			t.Errorf("got %q, %v", got, err)
		}
		if left := names(t, dir); slices.ContainsFunc(left, isBinaries) {
			t.Errorf("the cache holds %v", left)
		}
	})

	t.Run("are not waited for longer than the context allows", func(t *testing.T) {
		t.Parallel()
		silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
		t.Cleanup(silent.Close)
		got, err := asUser(cacheDir(t), silent.URL, 200*time.Millisecond)
		if err == nil || !strings.Contains(got, context.DeadlineExceeded.Error()) {
			t.Errorf("got %q, %v", got, err)
		}
	})

	t.Run("are not fetched as root", func(t *testing.T) {
		t.Parallel()
		if os.Geteuid() != 0 {
			t.Skip("only root can show it")
		}
		mirror := serve(t, jar, sum)
		_, err := download.Binaries(t.Context(), cacheDir(t), mirror.URL)
		if err == nil || !strings.Contains(err.Error(), local.HowToInstall()) {
			t.Errorf("got %v", err)
		}
		if n := mirror.archives.Load(); n != 0 {
			t.Errorf("fetched %d times", n)
		}
	})
}

// asUser runs the helper as an ordinary user and returns what it prints.
func asUser(dir, mirror string, patience time.Duration) (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	if os.Geteuid() == 0 {
		exe = "/proc/self/exe" // by that name another user may run it too
	}
	cmd := exec.Command(exe, mirror, patience.String())
	cmd.Env = append(os.Environ(), cache+"="+dir, "TMPDIR="+dir)
	cmd.Dir = dir
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

const nobody = 65534

type mirror struct {
	*httptest.Server
	archives atomic.Int64
}

// serve is a repository that has only this archive, under every name.
func serve(t *testing.T, jar []byte, sum string) *mirror {
	t.Helper()
	m := &mirror{}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, ".jar"):
			m.archives.Add(1)
			w.Write(jar)
		case strings.HasSuffix(r.URL.Path, ".jar.sha256"):
			fmt.Fprint(w, sum)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(m.Close)
	return m
}

// archive packs the installed binaries as the public repository packs its own.
func archive(t *testing.T) []byte {
	t.Helper()
	bin, _, err := local.Find()
	if err != nil {
		t.Fatal(err)
	}
	pack := exec.Command("tar", "-C", filepath.Dir(bin), "-cJf", "-",
		"--exclude=bitcode", "--exclude=llvmjit*", "bin/postgres", "bin/initdb", "bin/pg_ctl", "lib")
	pack.Env = append(os.Environ(), "XZ_OPT=-0")
	var said bytes.Buffer
	pack.Stderr = &said
	txz, err := pack.Output()
	if err != nil {
		t.Fatalf("tar with xz: %v: %s", err, &said)
	}
	var jar bytes.Buffer
	z := zip.NewWriter(&jar)
	w, err := z.Create("postgres.txz")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(txz); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return jar.Bytes()
}

// cacheDir is a directory that the ordinary user owns and can reach.
func cacheDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "download-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if os.Geteuid() == 0 {
		if err := os.Chown(dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func isBinaries(name string) bool { return strings.HasPrefix(name, "postgres-") }
