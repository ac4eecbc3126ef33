package pgtest

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/moby/moby/api/types/container"
	"github.com/testcontainers/testcontainers-go"

	"certctl/server/pg/download"
	"certctl/server/pg/local"
)

func installedOrContainer(ctx context.Context) (string, error) {
	address, err := startLocal(ctx, "")
	if !errors.Is(err, local.ErrNotInstalled) {
		return address, err
	}
	address, containerErr := startContainer(ctx)
	if containerErr != nil {
		return "", fmt.Errorf("%w; or set CERTCTL_TEST_DATABASE_URL, or start Docker (%w)", err, containerErr)
	}
	return address, nil
}

func startLocal(ctx context.Context, bin string) (string, error) {
	s, err := local.Start(ctx, local.Options{Profile: local.Fast, Temporary: true, Bin: bin})
	if err != nil {
		return "", err
	}
	return s.URL("postgres"), nil // its guard ends it when this process ends
}

func startDownloaded(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	cache = filepath.Join(cache, "certctl-postgres-"+strconv.Itoa(os.Geteuid()))
	bin, err := download.Binaries(ctx, cache, os.Getenv("CERTCTL_TEST_POSTGRES_MIRROR"))
	if err != nil {
		return "", err
	}
	return startLocal(ctx, bin)
}

func startContainer(ctx context.Context) (_ string, err error) {
	defer func() {
		// That is how testcontainers says that there is no Docker.
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
		if err != nil {
			err = fmt.Errorf("start a container: %w", err)
		}
	}()
	password := rand.Text()
	c, err := testcontainers.Run(ctx, cmp.Or(os.Getenv("CERTCTL_TEST_POSTGRES_IMAGE"), "postgres:17"),
		testcontainers.WithExposedPorts("5432/tcp"),
		testcontainers.WithEnv(map[string]string{"POSTGRES_PASSWORD": password}),
		testcontainers.WithCmd("postgres", "-c", "fsync=off", "-c", "synchronous_commit=off",
			"-c", "full_page_writes=off", "-c", "max_connections=200", "-c", "timezone=UTC", "-c", "jit=off"),
		testcontainers.WithHostConfigModifier(func(c *container.HostConfig) { c.AutoRemove = true }),
	)
	if c != nil && testcontainers.ReadConfig().RyukDisabled {
		err = errors.Join(err, removeAfterUs(c.GetContainerID()))
	}
	if err != nil {
		return "", err
	}
	at, err := c.PortEndpoint(ctx, "5432/tcp", "")
	if err != nil {
		return "", err
	}
	u := url.URL{Scheme: "postgres", User: url.UserPassword("postgres", password), Host: at, Path: "/postgres", RawQuery: "sslmode=disable"}
	// Docker accepts connections before PostgreSQL does, so only an answer counts.
	for {
		conn, err := pgx.Connect(ctx, u.String())
		if err == nil {
			return u.String(), conn.Close(ctx)
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("it does not answer: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// alive close when this process ends, which their readers wait for.
var alive []*os.File

// removeAfterUs removes a container when this process ends, for when nobody runs
// the container that testcontainers has for this.
func removeAfterUs(id string) error {
	stdin, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer stdin.Close()
	alive = append(alive, w)
	cmd := exec.Command("sh", "-c", `trap '' HUP INT TERM; read -r _; docker rm -f -v "$1"`, "sh", id) //nolint:noctx // it outlives every context
	cmd.Stdin = stdin
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd.Start()
}
