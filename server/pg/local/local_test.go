package local_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/pg/local"
)

func connect(url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

func TestServer(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)

	t.Run("keeps its data between runs", func(t *testing.T) {
		s := start(t, local.Options{Dir: dir})
		query(t, s, `create table kept as select 1 as n`)
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := s.Err(); err != nil {
			t.Errorf("it was stopped, and says %v", err)
		}
		s = start(t, local.Options{Dir: dir})
		if got := query(t, s, `select n::text from kept`); got != "1" {
			t.Errorf("kept %q", got)
		}
	})

	s := start(t, local.Options{Dir: dir})

	t.Run("is durable unless told otherwise", func(t *testing.T) {
		got := query(t, s, `select concat_ws(' ', current_setting('fsync'), current_setting('synchronous_commit'),
			current_setting('full_page_writes'), current_setting('server_encoding'), current_setting('timezone'))`)
		if got != "on on on UTF8 UTC" {
			t.Error(got)
		}
	})

	t.Run("has one owner", func(t *testing.T) {
		began := time.Now()
		_, err := local.Start(t.Context(), local.Options{Dir: dir})
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d runs", os.Getpid())) {
			t.Errorf("the second owner got %v", err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("the second owner waited %v", took)
		}
		query(t, s, `select 'still there'`)
	})

	t.Run("asks for the password on socket and TCP", func(t *testing.T) {
		for _, host := range hosts(t, s) {
			if err := connect(at(t, s, host, "")); err != nil {
				t.Errorf("%s with the password: %v", host, err)
			}
			err := connect(at(t, s, host, "wrong"))
			if err == nil || !strings.Contains(err.Error(), "28P01") {
				t.Errorf("%s with another password: %v", host, err)
			}
		}
	})

	t.Run("lets nobody read its files", func(t *testing.T) {
		for _, name := range []string{"data", "state", "password", "lock", "postgres.log"} {
			info, err := os.Stat(filepath.Join(s.Dir(), name))
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s has mode %v", name, info.Mode())
			}
		}
	})

	t.Run("says why it ended by itself", func(t *testing.T) {
		syscall.Kill(s.PID(), syscall.SIGINT)
		select {
		case <-s.Done():
		case <-t.Context().Done():
			t.Fatal("not done")
		}
		if err := s.Err(); err == nil || !strings.Contains(err.Error(), "received fast shutdown request") {
			t.Errorf("it says %v", err)
		}
	})
}

func TestTemporary(t *testing.T) {
	t.Parallel()
	for _, profile := range []local.Profile{local.Durable, local.Fast} {
		s := start(t, local.Options{Temporary: true, Profile: profile})
		want := map[local.Profile]string{local.Durable: "on", local.Fast: "off"}[profile]
		if got := query(t, s, `show fsync`); got != want {
			t.Errorf("fsync is %s, want %s", got, want)
		}
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		left, _ := filepath.Glob(s.Dir() + "*")
		if len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
}

func TestStart(t *testing.T) {
	t.Parallel()

	t.Run("reports why PostgreSQL does not start", func(t *testing.T) {
		t.Parallel()
		dir := shortDir(t)
		_, err := local.Start(t.Context(), local.Options{Dir: dir, Profile: local.Fast, Settings: []string{"no_such_setting=1"}})
		if err == nil || !strings.Contains(err.Error(), `unrecognized configuration parameter "no_such_setting"`) {
			t.Errorf("got %v", err)
		}
		start(t, local.Options{Dir: dir, Profile: local.Fast}) // and lets go of the directory
	})

	t.Run("ends with its context", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		began := time.Now()
		_, err := local.Start(ctx, local.Options{Dir: shortDir(t)})
		if err == nil || ctx.Err() == nil {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("took %v", took)
		}
	})

	t.Run("puts the socket elsewhere if the path is too long", func(t *testing.T) {
		t.Parallel()
		dir := filepath.Join(shortDir(t), strings.Repeat("long", 25), "with space")
		s := start(t, local.Options{Dir: dir, Profile: local.Fast})
		socket := hosts(t, s)[0]
		if err := connect(at(t, s, socket, "")); err != nil {
			t.Error(err)
		}
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		left, _ := filepath.Glob(filepath.Dir(socket) + "*")
		if len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})

	t.Run("names the directory that PostgreSQL's account may not enter", func(t *testing.T) {
		t.Parallel()
		asRoot(t)
		shut := filepath.Join(shortDir(t), "shut")
		if err := os.Mkdir(shut, 0o700); err != nil {
			t.Fatal(err)
		}
		_, err := local.Start(t.Context(), local.Options{Dir: filepath.Join(shut, "in")})
		if err == nil || !strings.Contains(err.Error(), "may not enter "+shut+":") {
			t.Errorf("got %v", err)
		}
	})
}

func TestFind(t *testing.T) {
	bin, version, err := local.Find()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(filepath.Join(bin, "postgres"), "--version").Output()
	if err != nil || !strings.Contains(string(out), " "+version) {
		t.Errorf("found version %s in %s, which says %q, %v", version, bin, out, err)
	}

	t.Run("finds nothing: the error says what to install", func(t *testing.T) {
		before := *local.Places
		defer func() { *local.Places = before }()
		*local.Places = nil
		t.Setenv("PATH", t.TempDir())
		_, _, err := local.Find()
		if !errors.Is(err, local.ErrNotInstalled) || !strings.Contains(err.Error(), local.HowToInstall()) {
			t.Errorf("got %v", err)
		}
		_, err = local.Start(t.Context(), local.Options{Dir: shortDir(t)})
		if !errors.Is(err, local.ErrNotInstalled) {
			t.Errorf("Start: %v", err)
		}
	})

	t.Run("takes the newest that is new enough", func(t *testing.T) {
		before := *local.Places
		defer func() { *local.Places = before }()
		dir := t.TempDir()
		t.Setenv("PATH", dir)
		*local.Places = []string{filepath.Join(dir, "*")}
		for _, v := range []string{"14.20", "16.9", "16.10", "9.6.24"} {
			bin := filepath.Join(dir, v)
			if err := os.Mkdir(bin, 0o700); err != nil {
				t.Fatal(err)
			}
			script := "#!/bin/sh\necho 'postgres (PostgreSQL) " + v + " (Debian)'\n"
			for _, name := range []string{"postgres", "initdb"} {
				if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o700); err != nil {
					t.Fatal(err)
				}
			}
		}
		_, version, err := local.Find()
		if err != nil || version != "16.10" {
			t.Errorf("found %q, %v", version, err)
		}
		os.RemoveAll(filepath.Join(dir, "16.9"))
		os.RemoveAll(filepath.Join(dir, "16.10"))
		if _, version, err := local.Find(); !errors.Is(err, local.ErrNotInstalled) {
			t.Errorf("of the old ones it found %q, %v", version, err)
		}
	})
}

func TestDefaultDir(t *testing.T) {
	closed := filepath.Join(t.TempDir(), "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(closed)

	t.Run("works in a checkout that only root may enter", func(t *testing.T) {
		asRoot(t)
		dir, err := local.DefaultDir()
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Dir(dir) != "/var/lib/certctl" {
			t.Errorf("it is %s", dir)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		s := start(t, local.Options{})
		if s.Dir() != dir {
			t.Errorf("started in %s, want %s", s.Dir(), dir)
		}
	})
}

func start(t *testing.T, o local.Options) *local.Server {
	t.Helper()
	s, err := local.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// query runs a statement and returns the text it gives, if any.
func query(t *testing.T, s *local.Server, sql string) string {
	t.Helper()
	return queryURL(t, s.URL("postgres"), sql)
}

func queryURL(t *testing.T, url, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	rows, _ := conn.Query(t.Context(), sql)
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(got, "\n")
}

// hosts are the places at which a server listens: its socket, then its address.
func hosts(t *testing.T, s *local.Server) []string {
	t.Helper()
	u, err := url.Parse(s.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(u.Query().Get("host"), ",")
}

// at is the URL of the server at one of its hosts, with another password if any.
func at(t *testing.T, s *local.Server, host, password string) string {
	t.Helper()
	u, err := url.Parse(s.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	port, _, _ := strings.Cut(q.Get("port"), ",")
	q.Set("host", host)
	q.Set("port", port)
	u.RawQuery = q.Encode()
	if password != "" {
		u.User = url.UserPassword(u.User.Username(), password)
	}
	return u.String()
}

// shortDir is a directory that PostgreSQL's account may enter, unlike t.TempDir.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "local-test-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func asRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
}
