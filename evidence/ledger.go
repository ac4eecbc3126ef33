package evidence

import (
	"slices"

	"certctl/server/api"
	"certctl/server/limit"
	"certctl/server/schedule"
	"certctl/server/table"
)

// notBuilt is why what the first round asked about has no receipt yet.
var notBuilt = Deferral{Reason: "the server does not do that yet, and so it has no receipt", Until: "2027-03-31"}

// unmeasured is why no load has a receipt yet.
var unmeasured = Deferral{Reason: "no load receipt is made yet", Until: "2027-03-31"}

// Severities are what a finding can be, the worst first.
var Severities = []string{"high", "medium", "low"}

// findings are those of the first round, in the order of the packet.
var findings = func() *table.Table[*Finding] {
	t := table.By(func(f *Finding) string { return f.ID })
	for _, f := range []*Finding{
		{
			ID: "HIGH-1", Severity: "high",
			Question: "Is it tracked which migrations of the schema were applied?",
			Before:   "Migrations were files that were run at every start, and nothing said which had been.",
			After:    "A ledger has a row for each file, with the hash of what was applied; a database that does not fit the files is refused.",
			Claims:   []*Statement{LedgerMatches, CatalogMatches, MigrationsRefuse, MigrationsRace},
		},
		{
			ID: "D4", Severity: "high",
			Question: "What happens when several replicas start together on a database that is behind?",
			Before:   "Each of them ran the migrations, at the same time.",
			After:    "One migrates under a lock of the database while the others wait, and then find nothing to do.",
			Claims:   []*Statement{MigrationsRace, LedgerMatches},
		},
		{
			ID: "finding-4", Severity: "medium",
			Question: "What does a process leave that is killed while it migrates?",
			Before:   "Unknown: a file could be applied in part.",
			After:    "Each file and its row in the ledger commit together.",
			Claims:   []*Statement{MigrationsRace, CatalogMatches},
		},
		{
			ID: "D8", Severity: "high",
			Question: "Who owns each loop of the scheduler when there are several replicas?",
			Before:   "Every replica ran every loop; five of them repeated what they do outside.",
			After:    "Each loop has a class that says how replicas keep from doing its work twice, and what is sent is counted by sinks.",
			Claims:   append(loopStatements(), LoopsPass, SentOnce, LeaseFences),
			Contract: loopsOfTheFirstRound, Deferred: notBuilt,
		},
		{
			ID: "MED-1", Severity: "medium",
			Question: "Is the scope of each rate limit a process or the cluster?",
			Before:   "Each process counted for itself: N replicas admitted N times the cap.",
			After:    "The replicas share their buckets; a setting has each count for itself, and the page says what that comes to.",
			Claims:   []*Statement{CapIsTheClusters, CapIsEachReplicas, LimitsAreApart},
			Contract: limitsOfTheFirstRound, Deferred: notBuilt,
		},
		{
			ID: "MED-2", Severity: "medium",
			Question: "Do rate limits survive a restart, and can a caller get another bucket?",
			Before:   "A restart forgot everything, and a header that the caller set chose the bucket.",
			After:    "Buckets are rows of the database, for what the server knows of the caller.",
			Claims:   []*Statement{CapIsTheClusters, KeysAreKnown, WaitIsTold},
			Contract: limitsOfTheFirstRound, Deferred: notBuilt,
		},
		{
			ID: "T9", Severity: "medium",
			Question: "What was load tested, and on what?",
			Before:   "One tier had figures; of the others it was said that a capture was pending.",
			After:    "Nothing is claimed of load.",
			Contract: loadOfTheFirstRound, Deferred: unmeasured,
		},
		{
			ID: "LOW-7", Severity: "low",
			Question: "What was not load tested?",
			Before:   "The page did not say.",
			After:    "Nothing is claimed of load.",
			Contract: loadOfTheFirstRound, Deferred: unmeasured,
		},
		{
			ID: "finding-7", Severity: "low",
			Question: "Can the figures of the load test be made again?",
			Before:   "They could not: the page had numbers without the command, the machine and the histogram.",
			After:    "Nothing is claimed of load.",
			Contract: loadOfTheFirstRound, Deferred: unmeasured,
		},
	} {
		t.Add(f)
	}
	return t
}()

// unbuilt are rows that nothing is declared for. A name that is declared one day
// has to go: the names of what is declared stand in no text here.
func unbuilt(names ...string) []ContractRow {
	var rows []ContractRow
	for _, n := range names {
		rows = append(rows, ContractRow{Name: n})
	}
	return rows
}

func loopsOfTheFirstRound(d api.Declared) []ContractRow {
	var rows []ContractRow
	for _, l := range []*schedule.Loop{
		schedule.RenewalCheck, schedule.JobProcessor, schedule.JobRetry, schedule.JobTimeout, schedule.NotificationProcess,
		schedule.NotificationRetry, schedule.ShortLivedExpiryCheck, schedule.Digest, schedule.CRLGeneration, schedule.RateLimitGC,
		schedule.AuditChainVerify,
	} {
		built := slices.ContainsFunc(d.Loops, func(row api.DeclaredLoop) bool { return row.Name == l.Name })
		rows = append(rows, ContractRow{l.Name, built})
	}
	return append(rows, unbuilt("agent-health-check", "network-scan", "health-check", "cloud-discovery", "acme-gc", "session-gc", "user-retention")...)
}

func limitsOfTheFirstRound(d api.Declared) []ContractRow {
	var rows []ContractRow
	for _, l := range []*limit.Limit{limit.HTTPAddress, limit.HTTPActor, limit.CertExport} {
		built := slices.ContainsFunc(d.Limits, func(row api.DeclaredLimit) bool { return row.Name == l.Name })
		rows = append(rows, ContractRow{l.Name, built})
	}
	return append(rows, unbuilt("OCSP of an address", "EST of a principal", "EST credentials of an address", "SCEP challenges of a device")...)
}

func loadOfTheFirstRound(api.Declared) []ContractRow {
	return unbuilt("API", "issuer connector", "scheduler throughput", "agent fleet", "database p99")
}
