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
		Does:    "queues a renewal for every certificate that is due",
		Every:   config.RenewalCheckEvery,
		Timeout: 5 * time.Minute,
		HA:      Atomic,
		Why:     "one statement locks the certificates that are due, looks at them again, and queues at most one open renewal for each, which a constraint keeps; a second replica skips what the first has locked",
		Effects: "jobs queued",
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
