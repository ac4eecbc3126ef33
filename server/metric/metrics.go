package metric

// The metrics.
var (
	BuildInfo = declare(Gauge, "certctl_build_info", "1, with the version in force as a label.", "version")

	HTTPRequests = declare(Counter, "certctl_http_requests_total", "Requests answered, by route and class of status.", "route", "class")
	HTTPSeconds  = seconds(declare(Histogram, "certctl_http_request_seconds", "Time from the end of a request's header to the end of its answer.", "route"))

	LoopPasses  = declare(Counter, "certctl_loop_passes_total", "Passes this replica finished, by loop and outcome.", "loop", "outcome")
	LoopActed   = declare(Counter, "certctl_loop_acted_total", "Things that passes of this replica acted on.", "loop")
	LoopSeconds = seconds(declare(Histogram, "certctl_loop_pass_seconds", "Duration of this replica's passes.", "loop"))

	AuditLogSize    = declare(Gauge, "certctl_audit_log_size", "Events in the signed log, as the database has it.")
	AuditQueueSize  = declare(Gauge, "certctl_audit_queue_size", "Events committed and not yet in the signed log.")
	AuditVerifiedAt = declare(Gauge, "certctl_audit_verified_timestamp_seconds", "When the newest verification of the audit log by any replica ended, as Unix time, NaN before the first.")
	AuditIntact     = declare(Gauge, "certctl_audit_intact", "1 if the newest verification by any replica found the audit log intact, 0 if it was altered or could not be verified, NaN before the first.")

	DatabaseConnections    = declare(Gauge, "certctl_database_connections", "Connections of this replica's pool, by state.", "state")
	DatabaseConnectionsMax = declare(Gauge, "certctl_database_connections_max", "How many connections this replica's pool may have.")
)
