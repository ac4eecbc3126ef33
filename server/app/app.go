// Package app puts the server together. It is the only package that imports
// them all, and its tables are the server's table of contents.
package app

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"certctl/migrations"
	"certctl/server/alerts"
	"certctl/server/audit"
	"certctl/server/auth"
	"certctl/server/bulk"
	"certctl/server/config"
	"certctl/server/inventory"
	"certctl/server/issuance"
	"certctl/server/issuer"
	"certctl/server/job"
	"certctl/server/limit"
	"certctl/server/metric"
	"certctl/server/migrate"
	"certctl/server/notify"
	"certctl/server/outbound"
	"certctl/server/outbox"
	"certctl/server/perm"
	"certctl/server/pg"
	"certctl/server/renewal"
	"certctl/server/revocation"
	"certctl/server/schedule"
	"certctl/server/seal"
	"certctl/server/store"
	"certctl/server/web"
)

// App is one configured server.
type App struct {
	Web *web.Server

	settings config.Values
	build    Build
	replica  string
	started  time.Time
	log      *zap.Logger
	metrics  *metric.Set
	access   *auth.Access
	limits   *limit.Limiter

	// The features. What they share are the registries of what is outside, the
	// queue and the outbox.
	inventory  *inventory.Inventory
	issuance   *issuance.Issuance
	renewals   *renewal.Renewals
	revocation *revocation.Revocations
	bulk       *bulk.Bulk
	alerts     *alerts.Alerts
	issuers    *issuer.Registry
	channels   *notify.Registry
	jobs       *job.Runner
	outbox     *outbox.Runner

	db       *pgxpool.Pool
	trail    *audit.Log
	database string // version of the database server
	serving  atomic.Bool
	pings    limit.Merger[struct{}, struct{}]
}

// Build says what was compiled.
type Build struct{ Version, Commit, Go string }

// New wires the server and does no I/O: the documentation renderer calls it
// with no settings and no database.
func New(settings config.Values, build Build, log *zap.Logger) *App {
	a := &App{
		settings: settings,
		build:    build,
		replica:  config.Replica.In(settings),
		started:  time.Now(),
		log:      log,
		metrics:  metric.New(),
		limits:   &limit.Limiter{Settings: settings},
	}
	if a.replica == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "replica"
		}
		a.replica = fmt.Sprintf("%.48s-%d", host, os.Getpid())
	}
	a.access = &auth.Access{BootstrapToken: config.BootstrapToken.In(settings), Limiter: a.limits}
	a.metrics.Set(metric.BuildInfo, 1, build.Version)
	a.wire()
	a.Web = web.New(web.Options{
		Version: build.Version,
		MaxBody: config.MaxBodyBytes.In(settings),
		Metrics: a.metrics,
		Log:     log,
		Admit:   a.access.Admit,
		Take:    a.limits.Take,
		Proxies: config.TrustedProxies.In(settings),
		Tag: func(ctx context.Context, id string) context.Context {
			return audit.WithReplica(audit.WithRequest(ctx, id), a.replica)
		},
	}, a.routes())
	return a
}

// wire makes the features, which get their database and their key in Run.
func (a *App) wire() {
	a.issuers = issuer.NewRegistry(issuerTypes, config.PKIURL.In(a.settings))
	guard := outbound.Guard{Allow: config.OutboundAllow.In(a.settings), Setting: config.OutboundAllow.Name}
	a.channels = notify.NewRegistry(channelTypes, guard.Dial)
	a.jobs = &job.Runner{
		Replica: a.replica, Concurrency: config.JobConcurrency.In(a.settings), Lease: config.JobLease.In(a.settings),
		Every: config.JobProcessorEvery.In(a.settings), Metrics: a.metrics, Log: a.log,
	}
	a.outbox = &outbox.Runner{
		Replica: a.replica, Concurrency: config.NotificationConcurrency.In(a.settings),
		PerChannel: config.NotificationsPerChannel.In(a.settings), Every: config.NotificationProcessEvery.In(a.settings),
		Lease: config.NotificationLease.In(a.settings), Attempts: config.NotificationAttempts.In(a.settings),
		RetryAfter: config.NotificationRetryAfter.In(a.settings), Metrics: a.metrics, Log: a.log,
	}
	for _, t := range channelTypes {
		a.outbox.Types = append(a.outbox.Types, t.Name)
	}
	a.alerts = &alerts.Alerts{Channels: a.channels, Every: config.DigestEvery.In(a.settings), Told: a.outbox.Wake}
	a.outbox.Send, a.outbox.Buried = a.alerts.Send, a.alerts.Buried
	a.inventory = &inventory.Inventory{Issuers: a.issuers, Channels: a.channels}
	a.issuance = &issuance.Issuance{Issuers: a.issuers, Metrics: a.metrics, Log: a.log, Wake: a.jobs.Wake, Told: a.outbox.Wake}
	a.renewals = &renewal.Renewals{Replica: a.replica, Wake: a.jobs.Wake}
	a.revocation = &revocation.Revocations{
		Open: a.openIssuer, Metrics: a.metrics, Replica: a.replica, Validity: config.CRLValidity.In(a.settings),
		Log: a.log, Told: a.outbox.Wake,
	}
	a.bulk = &bulk.Bulk{Wake: a.jobs.Wake, Revoke: a.revocation.RevokeMany}
	a.jobs.Workers = a.Workers()
}

// connect gives the features what wire could not.
func (a *App) connect(db *pgxpool.Pool, box *seal.Box) {
	a.db, a.access.DB, a.limits.DB = db, db, db
	a.issuers.Box, a.channels.Box = box, box
	a.jobs.DB, a.outbox.DB = db, db
	a.inventory.DB, a.alerts.DB = db, db
	a.issuance.DB, a.issuance.Box = db, box
	a.renewals.DB, a.revocation.DB, a.bulk.DB = db, db, db
	a.revocation.Init()
}

// openIssuer opens the issuer with the id.
func (a *App) openIssuer(ctx context.Context, q pg.Q, id string) (issuer.Issuer, error) {
	s, err := store.SealedIssuer(ctx, q, id)
	if err != nil {
		return nil, err
	}
	return a.issuers.Open(s.ID, s.Type, s.Revision, s.Settings)
}

// Options are choices of one start, beside the settings.
type Options struct {
	NoMigrate bool                 // check the ledger and apply nothing
	Ready     func(address string) // called once requests are answered
}

// Run serves until ctx ends, and returns once requests and passes under way
// have finished, or their time is up.
func (a *App) Run(ctx context.Context, o Options) error {
	url := config.DatabaseURL.In(a.settings)
	if url == "" {
		return fmt.Errorf("%s is not set: give the database that all replicas share, or start with --embedded for one machine", config.DatabaseURL.Name)
	}
	key := config.EncryptionKey.In(a.settings)
	if key == "" {
		return fmt.Errorf("%s is not set: make one key with `openssl rand -base64 %d` and give it to every replica", config.EncryptionKey.Name, seal.KeySize)
	}
	box, err := seal.New(key)
	if err != nil {
		return fmt.Errorf("%s: %w", config.EncryptionKey.Name, err)
	}
	certificate, err := a.certificate()
	if err != nil {
		return err
	}
	db, err := pg.Pool(url, a.replica, config.DatabaseMaxConnections.In(a.settings))
	if err != nil {
		return err
	}
	defer db.Close()
	a.connect(db, box)
	if err := a.prepare(ctx, box, o); err != nil {
		return err
	}

	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", config.Listen.In(a.settings))
	if err != nil {
		return fmt.Errorf("%s: %w", config.Listen.Name, err)
	}
	hard, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	a.serving.Store(true)
	// A server that cannot answer any more must not go on with its loops.
	told, stop := context.WithCancel(ctx)
	defer stop()
	answer, refuse := context.WithCancel(context.WithoutCancel(ctx))
	defer refuse()
	context.AfterFunc(told, func() {
		a.serving.Store(false)
		delay, timeout := config.ShutdownDelay.In(a.settings), config.ShutdownTimeout.In(a.settings)
		a.log.Info("stopping", zap.Duration("after", delay), zap.Duration("at_most", timeout))
		time.AfterFunc(delay, refuse)
		time.AfterFunc(delay+timeout, cut)
	})

	a.log.Info("serving", zap.String("address", listener.Addr().String()), zap.String("version", a.build.Version),
		zap.Duration("after", time.Since(a.started)))
	if o.Ready != nil {
		o.Ready("https://" + listener.Addr().String())
	}
	served := make(chan error, 1)
	go func() {
		defer stop()
		served <- a.Web.Serve(answer, hard, listener, certificate)
	}()
	loops := &schedule.Runner{
		DB: a.db, Replica: a.replica, Settings: a.settings, Metrics: a.metrics, Log: a.log, Bindings: a.Loops(),
	}
	loops.Run(audit.WithReplica(told, a.replica), audit.WithReplica(hard, a.replica))
	return <-served
}

// prepare brings the database to where this server can run on it.
func (a *App) prepare(ctx context.Context, box *seal.Box, o Options) error {
	if !o.NoMigrate {
		if err := Migrate(ctx, a.settings, a.replica, a.build, a.log); err != nil {
			return err
		}
	}
	if err := migrate.Check(ctx, a.db, migrations.Files); err != nil {
		return err
	}
	var err error
	if err := a.db.QueryRow(ctx, `select current_setting('server_version')`).Scan(&a.database); err != nil {
		return err
	}
	if err := store.SyncRoles(ctx, a.db, perm.All(), perm.Roles()); err != nil {
		return err
	}
	if err := schedule.Declare(ctx, a.db); err != nil {
		return err
	}
	a.trail, err = audit.Open(ctx, a.db, box)
	if err != nil {
		return err
	}
	return audit.Write(a.itself(ctx), a.db, audit.Event{
		Action: audit.ServerStarted, Details: map[string]string{"version": a.build.Version, "commit": a.build.Commit},
	})
}

// itself returns a context in which this replica acts of its own accord.
func (a *App) itself(ctx context.Context) context.Context {
	return perm.With(audit.WithReplica(ctx, a.replica), perm.Actor{Kind: perm.ByServer, ID: a.replica, Name: a.replica})
}

// Migrate applies what is pending.
func Migrate(ctx context.Context, settings config.Values, replica string, build Build, log *zap.Logger) error {
	url := config.MigrateDatabaseURL.In(settings)
	if url == "" {
		url = config.DatabaseURL.In(settings)
	}
	return migrate.Up(ctx, url, migrate.Options{Files: migrations.Files, Replica: replica, Server: build.Version, Log: log})
}

// certificate returns what HTTPS presents: the files that are set, or one
// that this process issued itself.
func (a *App) certificate() (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	certFile, keyFile := config.TLSCertFile.In(a.settings), config.TLSKeyFile.In(a.settings)
	if (certFile == "") != (keyFile == "") {
		return nil, fmt.Errorf("%s and %s: set both, or neither", config.TLSCertFile.Name, config.TLSKeyFile.Name)
	}
	if certFile != "" {
		c, err := web.LoadCertificate(certFile, keyFile, a.log)
		if err != nil {
			return nil, err
		}
		return c.Get, nil
	}
	certPEM, keyPEM, err := web.SelfIssue(config.Listen.In(a.settings))
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	a.log.Warn("presenting a certificate that this process issued itself; set "+config.TLSCertFile.Name+" for one that clients trust",
		zap.String("sha256", web.Fingerprint(&pair)))
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &pair, nil }, nil
}
