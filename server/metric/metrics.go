package metric

// The metrics.
var (
	BuildInfo = declare(Gauge, "certctl_build_info", "1, with the version in force as a label.", "version")

	HTTPRequests = declare(Counter, "certctl_http_requests_total", "Requests answered, by route and class of status.", "route", "class")
	HTTPSeconds  = seconds(declare(Histogram, "certctl_http_request_seconds", "Time from the end of a request's header to the end of its answer.", "route"))

	LimitDecisions = declare(Counter, "certctl_rate_limit_decisions_total", "Requests that this replica had a limit decide, by limit and outcome.", "limit", "outcome")

	LoopPasses  = declare(Counter, "certctl_loop_passes_total", "Passes this replica finished, by loop and outcome.", "loop", "outcome")
	LoopActed   = declare(Counter, "certctl_loop_acted_total", "Things that passes of this replica acted on.", "loop")
	LoopSeconds = seconds(declare(Histogram, "certctl_loop_pass_seconds", "Duration of this replica's passes.", "loop"))

	AuditLogSize    = declare(Gauge, "certctl_audit_log_size", "Events in the signed log, as the database has it.")
	AuditQueueSize  = declare(Gauge, "certctl_audit_queue_size", "Events committed and not yet in the signed log.")
	AuditVerifiedAt = declare(Gauge, "certctl_audit_verified_timestamp_seconds", "When the newest verification of the audit log by any replica ended, as Unix time, NaN before the first.")
	AuditIntact     = declare(Gauge, "certctl_audit_intact", "1 if the newest verification by any replica found the audit log intact, 0 if it was altered or could not be verified, NaN before the first.")

	CertsIssued  = declare(Counter, "certctl_certificates_issued_total", "Versions of certificates that this replica signed and recorded, by issuer and whether the first or a renewal.", "issuer", "kind")
	CertsRefused = declare(Counter, "certctl_certificates_refused_total", "Issuances that this replica refused or that failed, by issuer and kind of fault.", "issuer", "fault")
	SignSeconds  = seconds(declare(Histogram, "certctl_issuer_sign_seconds", "Time an issuer took to sign, lints included, by issuer.", "issuer"))
	CertsByState = declare(Gauge, "certctl_certificates", "Certificates by state, as the database has them.", "state")
	CertsEnding  = declare(Gauge, "certctl_certificates_ending", "Active certificates that end within so many days, as the database has them.", "days")
	CertsRevoked = declare(Counter, "certctl_certificates_revoked_total", "Versions of certificates that this replica revoked, by reason.", "reason")

	JobsEnded   = declare(Counter, "certctl_jobs_total", "Attempts that ended on this replica, by kind of job and outcome.", "kind", "outcome")
	JobSeconds  = seconds(declare(Histogram, "certctl_job_seconds", "Duration of this replica's attempts, by kind of job.", "kind"))
	JobsByState = declare(Gauge, "certctl_jobs", "Jobs that have not ended, by state, as the database has them.", "state")
	JobQueueAge = declare(Gauge, "certctl_job_queue_age_seconds", "How long the oldest job has been due that nobody has claimed, zero if there is none.")

	NotificationsEnded   = declare(Counter, "certctl_notifications_total", "Attempts to send a notification that ended on this replica, by type of channel, event and outcome.", "type", "event", "outcome")
	NotificationSeconds  = seconds(declare(Histogram, "certctl_notification_send_seconds", "Duration of this replica's attempts to send, by type of channel.", "type"))
	NotificationQueueAge = declare(Gauge, "certctl_notification_queue_age_seconds", "How long the oldest notification has been due that nobody has claimed, zero if there is none.")

	CRLAge     = declare(Gauge, "certctl_crl_age_seconds", "Time since the newest revocation list was signed, by issuer.", "issuer")
	CRLEntries = declare(Gauge, "certctl_crl_entries", "Entries of the newest revocation list, by issuer.", "issuer")
	CRLNumber  = declare(Gauge, "certctl_crl_number", "Number of the newest revocation list, by issuer.", "issuer")
	CRLSeconds = seconds(declare(Histogram, "certctl_crl_sign_seconds", "Time this replica took to build and sign a revocation list."))

	DatabaseConnections    = declare(Gauge, "certctl_database_connections", "Connections of this replica's pool, by state.", "state")
	DatabaseConnectionsMax = declare(Gauge, "certctl_database_connections_max", "How many connections this replica's pool may have.")
)
