package config

import (
	"errors"
	"net"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"time"

	"certctl/server/seal"
)

var replicaName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,63}$`)

// The scopes of rate limits.
const (
	ScopeCluster = "cluster"
	ScopeMemory  = "memory"
)

// The settings.
var (
	DatabaseURL = secret("CERTCTL_DATABASE_URL", "a postgres:// URL",
		"The PostgreSQL database that all replicas share.",
		"the sessions that the named database shows", databaseURL)
	MigrateDatabaseURL = secret("CERTCTL_MIGRATE_DATABASE_URL", "a postgres:// URL",
		"Where migrations run instead: a direct connection where CERTCTL_DATABASE_URL leads through a pooler, or the role that owns the schema.",
		"the session that holds the migration lock", databaseURL)
	DatabaseMaxConnections = integer("CERTCTL_DATABASE_MAX_CONNECTIONS", 16, 4, 1000,
		"How many connections one replica may hold open.",
		"the sessions that the database shows under load")

	Listen = text("CERTCTL_LISTEN", "127.0.0.1:8443", "host:port",
		"The address that HTTPS is served on.",
		"the listening sockets of the process", hostPort)
	TLSCertFile = text("CERTCTL_TLS_CERT_FILE", "", "a readable file",
		"Certificate chain in PEM that HTTPS presents, reloaded when it changes. Without one the server issues itself a certificate.",
		"the certificate in a handshake", readable)
	TLSKeyFile = text("CERTCTL_TLS_KEY_FILE", "", "a readable file",
		"Private key in PEM of the certificate in CERTCTL_TLS_CERT_FILE.",
		"the certificate in a handshake", readable)
	MaxBodyBytes = integer("CERTCTL_MAX_BODY_BYTES", 1<<20, 1<<10, 1<<30,
		"The largest request body that is read, in bytes.",
		"the refusal of a larger body")
	ShutdownTimeout = duration("CERTCTL_SHUTDOWN_TIMEOUT", 30*time.Second, time.Second, 10*time.Minute,
		"How long requests and passes may take to finish after a signal to stop.",
		"the time from the signal to the exit while a request hangs")

	ShutdownDelay = duration("CERTCTL_SHUTDOWN_DELAY", 0, 0, 5*time.Minute,
		"How long a replica that was told to stop goes on answering while it says that it is not ready, so that load balancers take it out.",
		"the time from the signal to the first refused connection")

	EncryptionKey = secret("CERTCTL_ENCRYPTION_KEY", "32 bytes in base64",
		"The key that secrets in the database are sealed under, the same on every replica. Required with a database of your own; the embedded one keeps a generated key beside its data.",
		"the refusal to start under another key", func(s string) error { _, err := seal.New(s); return err })
	BootstrapToken = secret("CERTCTL_BOOTSTRAP_TOKEN", "at least 32 characters",
		"The token that creates the first API key, once in the life of a database.",
		"the answer of the bootstrap route", func(s string) error {
			if len(s) < 32 {
				return errors.New("is shorter than 32 characters; make one with `openssl rand -hex 32`")
			}
			return nil
		})

	Replica = text("CERTCTL_REPLICA", "", "at most 63 letters, digits, dots, dashes and underscores",
		"The name of this process in leases, passes, logs and the audit trail; host name and process id without it.",
		"the name in the rows that a replica writes", func(s string) error {
			if !replicaName.MatchString(s) {
				return errors.New("leave it unset to use the host's name and the process id")
			}
			return nil
		})
	LogLevel = oneOf("CERTCTL_LOG_LEVEL", "info",
		"The least severe entries that are logged.",
		"the entries on standard error", "debug", "info", "warn", "error")

	LeaseTTL = duration("CERTCTL_LEASE_TTL", 2*time.Second, 200*time.Millisecond, 5*time.Minute,
		"How long a replica that stopped answering keeps a loop from the others.",
		"the time from the death of a holder to the next pass")
	AuditSequenceEvery = duration("CERTCTL_AUDIT_SEQUENCE_EVERY", time.Second, 10*time.Millisecond, time.Hour,
		"How often committed audit events are appended to the signed log.",
		"the time between passes in the ledger of passes")
	AuditChainVerifyEvery = duration("CERTCTL_AUDIT_CHAIN_VERIFY_EVERY", 6*time.Hour, 10*time.Millisecond, 30*24*time.Hour,
		"How often the whole audit log is recomputed and compared with its checkpoints.",
		"the time between passes in the ledger of passes")
	RetentionEvery = duration("CERTCTL_RETENTION_EVERY", time.Hour, 10*time.Millisecond, 30*24*time.Hour,
		"How often rows past their retention are deleted.",
		"the time between passes in the ledger of passes")
	RenewalCheckEvery = duration("CERTCTL_RENEWAL_CHECK_EVERY", time.Minute, 10*time.Millisecond, 24*time.Hour,
		"How often certificates that are due are looked for.",
		"the time between passes in the ledger of passes")
	JobProcessorEvery = duration("CERTCTL_JOB_PROCESSOR_EVERY", 5*time.Second, 10*time.Millisecond, time.Hour,
		"How often a replica looks for jobs that another one queued; those of its own it does at once.",
		"the time between passes in the ledger of passes")
	JobRetryEvery = duration("CERTCTL_JOB_RETRY_EVERY", 5*time.Second, 10*time.Millisecond, time.Hour,
		"How often failed jobs whose time has come are queued again.",
		"the time between passes in the ledger of passes")
	JobTimeoutEvery = duration("CERTCTL_JOB_TIMEOUT_EVERY", 5*time.Second, 10*time.Millisecond, time.Hour,
		"How often jobs are taken from replicas that stopped answering.",
		"the time between passes in the ledger of passes")
	JobLease = duration("CERTCTL_JOB_LEASE", 10*time.Second, 200*time.Millisecond, 10*time.Minute,
		"How long a replica that stopped answering keeps its jobs from the others.",
		"the time from the death of a replica to the next attempt of its jobs")
	JobConcurrency = integer("CERTCTL_JOB_CONCURRENCY", 8, 1, 1000,
		"How many jobs a replica does at once.",
		"the jobs that one replica runs, in the table of jobs")
	ShortLivedExpiryCheckEvery = duration("CERTCTL_SHORT_LIVED_EXPIRY_CHECK_EVERY", 30*time.Second, 10*time.Millisecond, time.Hour,
		"How often certificates that have ended are marked so.",
		"the time between passes in the ledger of passes")
	CRLGenerationEvery = duration("CERTCTL_CRL_GENERATION_EVERY", 5*time.Second, 10*time.Millisecond, time.Hour,
		"How soon a revocation shows in the issuer's list.",
		"the time from a revocation to the list that has it")
	CRLValidity = duration("CERTCTL_CRL_VALIDITY", 24*time.Hour, time.Minute, 30*24*time.Hour,
		"How long a revocation list is valid. A new one is signed at half of that, and at every revocation.",
		"nextUpdate of a served list")
	PKIURL = text("CERTCTL_PKI_URL", "", "an http:// or https:// URL",
		"Where relying parties reach this server's public routes: revocation lists and issuers' certificates. It stands in the certificates that are issued; they point nowhere without it.",
		"the extensions of an issued certificate", httpURL)

	TrustedProxies = cidrs("CERTCTL_TRUSTED_PROXIES",
		"The proxies in front of the server: what they write into X-Forwarded-For counts as where a request comes from. Nobody else's does.",
		"whose requests a limit counts together")
	RateLimitScope = oneOf("CERTCTL_RATE_LIMIT_SCOPE", ScopeCluster,
		"Who shares what rate limits admit: all replicas, or each has its own.",
		"what several replicas admit together", ScopeCluster, ScopeMemory)
	HTTPAddressBurst = integer("CERTCTL_HTTP_ADDRESS_BURST", 100, 1, 1_000_000,
		"How many requests one address may send at once.",
		"the refusal of the next")
	HTTPAddressRate = number("CERTCTL_HTTP_ADDRESS_RATE", 50, 0.001, 100_000,
		"How many requests a second one address may send for long.",
		"the time that a refused request is told to wait")
	HTTPActorBurst = integer("CERTCTL_HTTP_ACTOR_BURST", 100, 1, 1_000_000,
		"How many requests may be sent with one API key at once.",
		"the refusal of the next")
	HTTPActorRate = number("CERTCTL_HTTP_ACTOR_RATE", 50, 0.001, 100_000,
		"How many requests a second may be sent with one API key for long.",
		"the time that a refused request is told to wait")
	BootstrapPerHour = integer("CERTCTL_BOOTSTRAP_PER_HOUR", 10, 1, 1_000_000,
		"How many attempts to use the bootstrap token one address has in an hour.",
		"the refusal of the next")
	ExportsPerHour = integer("CERTCTL_EXPORTS_PER_HOUR", 50, 1, 1_000_000,
		"How many certificates or keys may be exported with one API key in an hour.",
		"the refusal of the next")
	RateLimitGCEvery = duration("CERTCTL_RATE_LIMIT_GC_EVERY", time.Minute, 10*time.Millisecond, time.Hour,
		"How often buckets of rate limits that say nothing any more are deleted.",
		"the time between passes in the ledger of passes")
	OutboundAllow = cidrs("CERTCTL_OUTBOUND_ALLOW",
		"Which addresses the server may connect to for its connectors, beside those that are public: private, loopback and link-local ones are refused without it.",
		"the connections that a connector with such an address makes")
	NotificationProcessEvery = duration("CERTCTL_NOTIFICATION_PROCESS_EVERY", 5*time.Second, 10*time.Millisecond, time.Hour,
		"How often a replica looks for notifications that another one queued, or that failed renewals and bulk revocations queued; others of its own it sends at once.",
		"the time between passes in the ledger of passes")
	NotificationRetryEvery = duration("CERTCTL_NOTIFICATION_RETRY_EVERY", 5*time.Second, 10*time.Millisecond, time.Hour,
		"How often failed notifications whose time has come are queued again, and others taken from replicas that stopped answering.",
		"the time between passes in the ledger of passes")
	NotificationLease = duration("CERTCTL_NOTIFICATION_LEASE", time.Minute, 200*time.Millisecond, 10*time.Minute,
		"How long a replica that stopped answering keeps its notifications from the others. A send may take three quarters of it.",
		"the time from the death of a replica to the next attempt of what it was sending")
	NotificationConcurrency = integer("CERTCTL_NOTIFICATION_CONCURRENCY", 16, 1, 1000,
		"How many notifications a replica sends at once.",
		"the sends under way on one replica, in the table of notifications")
	NotificationsPerChannel = integer("CERTCTL_NOTIFICATIONS_PER_CHANNEL", 4, 1, 1000,
		"How many notifications a replica sends at once through one channel, so that a slow one leaves room for the others.",
		"the sends through one channel under way on one replica, in the table of notifications")
	NotificationAttempts = integer("CERTCTL_NOTIFICATION_ATTEMPTS", 10, 1, 100,
		"How often a notification is tried before it is given up: after about two days, with the attempts and the waits that are the default.",
		"the attempts of a notification that was given up")
	NotificationRetryAfter = duration("CERTCTL_NOTIFICATION_RETRY_AFTER", 30*time.Second, 10*time.Millisecond, time.Hour,
		"How long a notification waits after its first attempt has failed. The wait grows fourfold with each attempt, to half a day.",
		"the time between the attempts of a notification")
	DigestEvery = duration("CERTCTL_DIGEST_EVERY", 24*time.Hour, time.Second, 30*24*time.Hour,
		"How long a period is of which a digest is sent. Periods follow each other without a gap, from midnight (UTC) if they are a day.",
		"the time between two digests")
	DigestCheckEvery = duration("CERTCTL_DIGEST_CHECK_EVERY", time.Minute, 10*time.Millisecond, time.Hour,
		"How often it is looked whether a digest is due.",
		"the time between passes in the ledger of passes")

	JobsKeep = duration("CERTCTL_JOBS_KEEP", 30*24*time.Hour, time.Hour, 10*365*24*time.Hour,
		"How long a finished job is kept.",
		"the age of the oldest finished job after a retention pass")
	IdempotencyKeep = duration("CERTCTL_IDEMPOTENCY_KEEP", 24*time.Hour, time.Minute, 30*24*time.Hour,
		"How long the answer to a create that named an idempotency key is kept.",
		"the answer to the same create after a retention pass")
	NotificationsKeep = duration("CERTCTL_NOTIFICATIONS_KEEP", 30*24*time.Hour, time.Hour, 10*365*24*time.Hour,
		"How long a notification is kept that was sent, given up or withdrawn.",
		"the age of the oldest such notification after a retention pass")
	LoopRunsKeep = duration("CERTCTL_LOOP_RUNS_KEEP", 48*time.Hour, time.Hour, 10*365*24*time.Hour,
		"How long the ledger of passes remembers a finished pass.",
		"the age of the oldest pass after a retention pass")
)

func databaseURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
		// url.Error repeats the URL, which may hold a password.
		return errors.New("want postgres://user:password@host:5432/database")
	}
	return nil
}

func httpURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("want http://host or https://host, with a port or a path if need be")
	}
	return nil
}

func hostPort(s string) error {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return err
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return errors.New("the port is not a number from 0 to 65535")
	}
	return nil
}

func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}
