package schedule

import (
	"time"

	"certctl/server/config"
)

// The loops.
var (
	AuditSequence = loops.Add(&Loop{
		Name:    "audit-sequence",
		Does:    "appends committed audit events to the signed log, in batches",
		Every:   config.AuditSequenceEvery,
		Timeout: time.Minute,
		HA:      OneReplica,
		Why:     "the log has one order, so one replica at a time may append to it",
		Effects: "rows of the log, its hashes and its checkpoints, each written under the fencing token of the pass",
	})
	AuditChainVerify = loops.Add(&Loop{
		Name:    "audit-chain-verify",
		Does:    "recomputes the audit log and compares it with the hashes and checkpoints that were stored",
		Every:   config.AuditChainVerifyEvery,
		Timeout: time.Hour,
		HA:      OneReplica,
		Why:     "it reads the whole log, which is work that need not be done twice",
		Effects: "an audit event that says what was found, which a metric repeats, and an error in the ledger of passes if the log was altered",
	})
	RenewalCheck = loops.Add(&Loop{
		Name:    "renewal-check",
		Does:    "queues a renewal for every certificate that is due, and a notification for every one that has come within a number of days of its end that its policy warns of",
		Every:   config.RenewalCheckEvery,
		Timeout: 5 * time.Minute,
		HA:      Atomic,
		Why:     "one statement locks the certificates that are due, looks at them again, and queues at most one open renewal for each, which a constraint keeps; a second replica skips what the first has locked. Warnings are queued here because both are what the passing of time asks for, by the same clock and in this order; they are one statement too, of which a constraint lets each through once for a version, a number of days and a channel",
		Effects: "jobs and notifications queued",
	})
	JobProcessor = loops.Add(&Loop{
		Name:    "job-processor",
		Does:    "claims jobs that are due and does them",
		Every:   config.JobProcessorEvery,
		Timeout: time.Hour,
		HA:      Claimed,
		Why:     "a job is claimed by one replica at a time, under a lease and a token that grows with each claim; whoever lost the lease cannot write the result",
		Effects: "what the kind of job does, written in the transaction that ends the job",
	})
	JobRetry = loops.Add(&Loop{
		Name:    "job-retry",
		Does:    "queues failed jobs again once their time has come",
		Every:   config.JobRetryEvery,
		Timeout: time.Minute,
		HA:      Atomic,
		Why:     "one guarded statement moves a job from failed to pending; nothing else does",
		Effects: "jobs queued again",
	})
	JobTimeout = loops.Add(&Loop{
		Name:    "job-timeout",
		Does:    "takes jobs from replicas that stopped answering or took too long",
		Every:   config.JobTimeoutEvery,
		Timeout: time.Minute,
		HA:      Atomic,
		Why:     "one guarded statement moves a job whose lease has run out, by the database's clock; nothing else does",
		Effects: "jobs failed, to be tried again; or ended where no attempt is left, with what that means for their certificates",
	})
	NotificationProcess = loops.Add(&Loop{
		Name:    "notification-process",
		Does:    "claims notifications that are due and sends them",
		Every:   config.NotificationProcessEvery,
		Timeout: 30 * time.Minute,
		HA:      Claimed,
		Why:     "a notification is claimed by one replica at a time, under a lease and a token that grows with each claim; a replica looks at its clock before each send and begins none after its lease, unless its machine was suspended, which stops that clock; whoever lost the lease cannot write the result",
		Effects: "messages sent, each again under the same key where a replica ended, froze or lost the database before it could write that one had arrived; warnings withdrawn that are no longer so; audit events of those that are given up",
	})
	NotificationRetry = loops.Add(&Loop{
		Name:    "notification-retry",
		Does:    "queues failed notifications again once their time has come, takes others from replicas that stopped answering, and gives up those that have no attempt or no channel left",
		Every:   config.NotificationRetryEvery,
		Timeout: time.Minute,
		HA:      Atomic,
		Why:     "guarded statements move what is due or whose lease has run out, by the database's clock; nothing else does",
		Effects: "notifications queued again or given up, with an audit event",
	})
	Digest = loops.Add(&Loop{
		Name:    "digest",
		Does:    "queues the digest of a period for every channel that gets one",
		Every:   config.DigestCheckEvery,
		Timeout: time.Minute,
		HA:      OneReplica,
		Why:     "it counts over all certificates, which is work that need not be done twice; a constraint keeps it to one digest for each period, which the database's clock decides, and channel, whoever asks",
		Effects: "notifications queued",
	})
	ShortLivedExpiryCheck = loops.Add(&Loop{
		Name:    "short-lived-expiry-check",
		Does:    "marks certificates that have ended",
		Every:   config.ShortLivedExpiryCheckEvery,
		Timeout: time.Minute,
		HA:      Atomic,
		Why:     "one guarded statement moves a certificate to expired, with its audit event; a second replica finds none left",
		Effects: "certificates expired, keys erased that the server had made for them, audit events",
	})
	CRLGeneration = loops.Add(&Loop{
		Name:    "crl-generation",
		Does:    "signs a new revocation list for every issuer whose list is due or that has revoked since",
		Every:   config.CRLGenerationEvery,
		Timeout: 5 * time.Minute,
		HA:      Claimed,
		Why:     "the issuer's row is locked from the reading of the revoked set to the commit of the list; other replicas skip it, and a list that is not committed was never seen",
		Effects: "a revocation list with a higher number, and its audit event",
	})
	RateLimitGC = loops.Add(&Loop{
		Name:    "rate-limit-gc",
		Does:    "deletes buckets of rate limits that are as good as new",
		Every:   config.RateLimitGCEvery,
		Timeout: 5 * time.Minute,
		HA:      Atomic,
		Why:     "each batch is one statement that looks at each bucket again under its lock; one that was used meanwhile stays",
		Effects: "rows deleted that say nothing any more",
	})
	Retention = loops.Add(&Loop{
		Name:    "retention",
		Does:    "deletes the rows that are past the retention their table declares",
		Every:   config.RetentionEvery,
		Timeout: 10 * time.Minute,
		HA:      Atomic,
		Why:     "each batch is one statement that deletes rows no other replica is deleting; a second replica finds none left",
		Effects: "rows deleted",
	})
)
