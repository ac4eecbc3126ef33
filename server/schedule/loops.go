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
