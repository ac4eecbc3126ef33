package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"certctl/migrations"
	"certctl/server/migrate"
)

// Each is made once, by the first test that needs it, and its error reaches
// every test that does. Nothing ends them: the process takes them along.
var (
	cluster  = sync.OnceValues(open)
	template = sync.OnceValues(migrated)
	shared   = sync.OnceValues(sharedPool)
)

// postgres is the server that this process tests with.
type postgres struct {
	base  *url.URL
	admin *pgxpool.Pool
	// run begins the names of the databases of this process. The session of
	// keeper is called that, so that another process on the same server can tell
	// what is left over.
	run    string
	keeper *pgx.Conn
	count  atomic.Int64
}

const prefix = "certctl_test_"

func open() (*postgres, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	address, err := start(ctx)
	if err != nil {
		return nil, fmt.Errorf("no PostgreSQL to test with: %w", err)
	}
	base, err := url.Parse(address)
	if err != nil || base.Scheme != "postgres" && base.Scheme != "postgresql" {
		return nil, errors.New("CERTCTL_TEST_DATABASE_URL is not postgres://user:password@host:port/database")
	}
	c := &postgres{base: base, run: prefix + strings.ToLower(rand.Text()[:12])}
	if c.admin, err = connect(address, 4); err != nil {
		return nil, err
	}
	cfg, err := pgx.ParseConfig(address)
	if err != nil {
		return nil, err
	}
	cfg.RuntimeParams["application_name"] = c.run
	if c.keeper, err = pgx.ConnectConfig(ctx, cfg); err != nil {
		return nil, fmt.Errorf("the PostgreSQL to test with does not answer: %w", err)
	}
	if err := c.sweep(ctx); err != nil {
		return nil, fmt.Errorf("drop what ended test processes left: %w", err)
	}
	return c, nil
}

// sweep drops the databases of processes that are gone.
func (c *postgres) sweep(ctx context.Context) error {
	rows, _ := c.keeper.Query(ctx, `
		select datname::text from pg_database
		where starts_with(datname, $1)
		and left(datname, $2) not in (select application_name from pg_stat_activity)`, prefix, len(c.run))
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := c.drop(name); err != nil {
			return err
		}
	}
	return nil
}

func (c *postgres) name() string { return fmt.Sprintf("%s_%d", c.run, c.count.Add(1)) }

func (c *postgres) url(database string) string {
	u := *c.base
	u.Path = "/" + database
	return u.String()
}

func (c *postgres) create(name, from string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// Copying files is faster than logging them, and these are few.
	_, err := c.admin.Exec(ctx, fmt.Sprintf("create database %s template %s strategy file_copy", name, from))
	return err
}

func (c *postgres) drop(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := c.admin.Exec(ctx, "drop database if exists "+name+" with (force)")
	return err
}

// migrated makes the database that the others are copied from.
func migrated() (string, error) {
	c, err := cluster()
	if err != nil {
		return "", err
	}
	name := c.run + "_template"
	if err := c.create(name, "template1"); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := migrate.Up(ctx, c.url(name), migrate.Options{Files: migrations.Files}); err != nil {
		return "", fmt.Errorf("migrate the test database: %w", err)
	}
	// A session on it would keep others from copying it.
	_, err = c.admin.Exec(ctx, fmt.Sprintf("alter database %s allow_connections false", name))
	return name, err
}

// sharedPool is for Tx. It is as large as the tests that run at once.
func sharedPool() (*pgxpool.Pool, error) {
	from, err := template()
	if err != nil {
		return nil, err
	}
	c, err := cluster()
	if err != nil {
		return nil, err
	}
	name := c.run + "_shared"
	if err := c.create(name, from); err != nil {
		return nil, err
	}
	return connect(c.url(name), 100)
}

// start returns the URL of a database on a server.
func start(ctx context.Context) (string, error) {
	switch how := os.Getenv("CERTCTL_TEST_POSTGRES"); how {
	case "":
		if address := os.Getenv("CERTCTL_TEST_DATABASE_URL"); address != "" {
			return address, nil
		}
		return installedOrContainer(ctx)
	case "local":
		return startLocal(ctx, "")
	case "container":
		return startContainer(ctx)
	case "download":
		return startDownloaded(ctx)
	default:
		return "", fmt.Errorf("CERTCTL_TEST_POSTGRES is %q; want local, container or download", how)
	}
}
