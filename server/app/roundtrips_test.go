package app_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"certctl/server/api"
	"certctl/server/client"
	"certctl/server/config"
	"certctl/server/pg/pgtest"
)

// counting is a way to a database that counts how often somebody waits for it:
// the times that a client speaks after the database did.
type counting struct {
	url   string
	trips atomic.Int64
}

func countTrips(t *testing.T, database string) *counting {
	t.Helper()
	cfg, err := pgx.ParseConfig(database)
	if err != nil {
		t.Fatal(err)
	}
	network, address := pgconn.NetworkAddress(cfg.Host, cfg.Port)
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	c := &counting{}
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(cfg.User, cfg.Password), Host: l.Addr().String(),
		Path: "/" + cfg.Database, RawQuery: "sslmode=disable",
	}
	c.url = u.String()
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := new(net.Dialer).DialContext(context.Background(), network, address)
			if err != nil {
				in.Close()
				return
			}
			go c.pass(in, out)
		}
	}()
	return c
}

func (c *counting) pass(in, out net.Conn) {
	var answered atomic.Bool
	answered.Store(true)
	go func() {
		defer out.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := in.Read(buf)
			if n > 0 {
				if answered.Swap(false) {
					c.trips.Add(1)
				}
				if _, err := out.Write(buf[:n]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	defer in.Close()
	_, _ = io.Copy(in, &noticing{out, &answered}) // one side went away
}

type noticing struct {
	io.Reader
	answered *atomic.Bool
}

func (n *noticing) Read(b []byte) (int, error) {
	k, err := n.Reader.Read(b)
	n.answered.Store(true)
	return k, err
}

// quietly are settings under which a server's loops leave the database alone.
func quietly() config.Values {
	v := config.Values{}
	for _, k := range []*config.Key[time.Duration]{
		config.AuditSequenceEvery, config.AuditChainVerifyEvery, config.RetentionEvery, config.RenewalCheckEvery,
		config.JobProcessorEvery, config.JobRetryEvery, config.JobTimeoutEvery, config.ShortLivedExpiryCheckEvery,
		config.CRLGenerationEvery, config.NotificationProcessEvery, config.NotificationRetryEvery, config.DigestCheckEvery,
	} {
		v[k.Name] = time.Hour
	}
	return v
}

// A request waits for the database no more often than this.
func TestRoundTrips(t *testing.T) {
	c := countTrips(t, pgtest.URL(t))
	r := runOn(t, c.url, quietly())
	request := estate(t, r)
	n := 0
	for _, tt := range []struct {
		name string
		most int64
		do   func() error
	}{
		{"listing certificates", 2, func() error {
			_, err := client.Do(t.Context(), r.Client, api.ListCertificates, &api.CertificateQuery{Limit: 50})
			return err
		}},
		{"creating a certificate", 3, func() error {
			n++
			in := &api.NewCertificate{Body: request}
			in.Body.Name, in.Body.SANs = fmt.Sprintf("trip %d", n), []string{"a.example.com"}
			_, err := client.Do(t.Context(), r.Client, api.IssueCertificate, in)
			return err
		}},
		{"creating a hundred", 3, func() error {
			in := &api.NewCertificates{}
			for range 100 {
				n++
				one := request
				one.Name, one.SANs = fmt.Sprintf("trip %d", n), []string{"a.example.com"}
				in.Body.Requests = append(in.Body.Requests, one)
			}
			_, err := client.Do(t.Context(), r.Client, api.IssueCertificates, in)
			return err
		}},
		{"counting", 2, func() error {
			_, err := client.Do(t.Context(), r.Client, api.GetStats, &api.StatsQuery{Days: 30})
			return err
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// The first times prepare statements, and planning changes its mind at the sixth.
			fewest := int64(1 << 30)
			for range 12 {
				before := c.trips.Load()
				if err := tt.do(); err != nil {
					t.Fatal(err)
				}
				fewest = min(fewest, c.trips.Load()-before)
			}
			if fewest > tt.most || fewest == 0 {
				t.Errorf("waits for the database %d times, want at most %d", fewest, tt.most)
			}
			t.Logf("%d round trips", fewest)
		})
	}
}
