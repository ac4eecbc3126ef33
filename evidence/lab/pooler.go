package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/config"
)

// A pooler is a PgBouncer in transaction mode. It listens on a socket in a private
// directory, and goes with the laboratory's PostgreSQL.
type pooler struct {
	dir     string
	process *os.Process
	done    chan struct{}
	err     error // of the process; read after done is closed
}

// poolerPort is in the name of the pooler's socket; nothing listens on a port.
const poolerPort = 6432

// Pooled returns the URL that leads to the database at url through a pooler in
// transaction mode. A session is a server's for one transaction, so it prepares no
// statement, and what needs a session of its own gets Direct.
func (l *Lab) Pooled(ctx context.Context, to string) (string, error) {
	cfg, err := pgx.ParseConfig(to)
	if err != nil {
		return "", err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pooler == nil {
		if l.pooler, err = l.startPooler(ctx, cfg); err != nil {
			return "", err
		}
	}
	u := url.URL{
		Scheme: "postgres",
		User:   url.UserPassword(cfg.User, cfg.Password),
		Path:   "/" + cfg.Database,
		RawQuery: url.Values{
			"host": {l.pooler.dir}, "port": {strconv.Itoa(poolerPort)}, "sslmode": {"disable"}, "default_query_exec_mode": {"exec"},
		}.Encode(),
	}
	return u.String(), nil
}

// Direct is the setting of a server behind a pooler that has it migrate the
// database at url without the pooler.
func Direct(url string) map[string]string {
	return map[string]string{config.MigrateDatabaseURL.Name: url}
}

// startPooler starts a pooler in front of the PostgreSQL that cfg connects to.
func (l *Lab) startPooler(ctx context.Context, cfg *pgx.ConnConfig) (*pooler, error) {
	binary, err := findPooler()
	if err != nil {
		return nil, err
	}
	// Whatever ends the PostgreSQL removes its directory with what is in it.
	p := &pooler{dir: filepath.Join(l.database.Dir(), "pooler"), done: make(chan struct{})}
	if err := os.Mkdir(p.dir, 0o700); err != nil {
		return nil, err
	}
	file := filepath.Join(p.dir, "pgbouncer.ini")
	users := filepath.Join(p.dir, "users")
	settings := fmt.Sprintf(`[databases]
* = host=%s port=%d
[pgbouncer]
listen_addr =
unix_socket_dir = %s
listen_port = %d
auth_type = scram-sha-256
auth_file = %s
pool_mode = transaction
default_pool_size = 60
max_client_conn = 1000
`, cfg.Host, cfg.Port, p.dir, poolerPort, users)
	if err := errors.Join(
		os.WriteFile(file, []byte(settings), 0o600),
		os.WriteFile(users, fmt.Appendf(nil, "%q %q\n", cfg.User, cfg.Password), 0o600),
	); err != nil {
		return nil, err
	}
	as := l.database.Account()
	cmd := exec.Command(binary, file) //nolint:noctx // it outlives the call; Stop ends it
	cmd.Dir = "/"                     // the account may not be able to enter ours
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	cmd.SysProcAttr = attributes()
	if as != nil {
		cmd.SysProcAttr.Credential = as
		for _, path := range []string{p.dir, file, users} {
			if err := os.Lchown(path, int(as.Uid), int(as.Gid)); err != nil {
				return nil, err
			}
		}
	}
	log := &tail{address: make(chan string, 1)}
	cmd.Stdout, cmd.Stderr = log, log
	if err := launch(cmd); err != nil {
		return nil, err
	}
	p.process = cmd.Process
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := p.answers(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("the pooler does not answer: %w\n%s", err, log), p.kill())
	}
	return p, nil
}

// findPooler returns the path of PgBouncer, which Debian puts where only root's
// PATH leads.
func findPooler() (string, error) {
	for _, name := range []string{"pgbouncer", "/usr/sbin/pgbouncer"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("PgBouncer is not installed; install it with: apt-get install pgbouncer")
}

// answers waits until connections are taken.
func (p *pooler) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		c, err := new(net.Dialer).DialContext(ctx, "unix", filepath.Join(p.dir, ".s.PGSQL."+strconv.Itoa(poolerPort)))
		if err == nil {
			return c.Close()
		}
		select {
		case <-p.done:
			return p.err
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// kill ends the process at once, and waits.
func (p *pooler) kill() error {
	err := p.process.Signal(syscall.SIGKILL)
	<-p.done
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}
