package evidence

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"certctl/server/api"
	"certctl/server/schedule"
	"certctl/server/table"
)

// A LoopClaim is what three replicas are claimed to do with a loop's work.
type LoopClaim struct {
	*Statement

	Loop *schedule.Loop
}

// LoopClaims returns the claim of every loop, in the order of the loops.
func LoopClaims() []*LoopClaim { return loopClaims.Rows() }

var loopClaims = func() *table.Table[*LoopClaim] {
	t := table.By(func(c *LoopClaim) string { return c.Loop.Name })
	for _, c := range []struct {
		loop *schedule.Loop
		says string
	}{
		{schedule.AuditSequence, "each committed event comes into the log"},
		{schedule.AuditChainVerify, "each pass that ends leaves one event that says what it found, and no two passes have the same token"},
		{schedule.RenewalCheck, "each certificate that is due gets one renewal"},
		{schedule.JobProcessor, "each job that is due issues one version"},
		{schedule.JobRetry, "each failed job whose time has come is queued again once"},
		{schedule.JobTimeout, "each job of a replica that stopped answering is taken from it once"},
		{schedule.NotificationProcess, "each notification that is due is written down as sent once"},
		{schedule.NotificationRetry, "each failed notification whose time has come is queued again once"},
		{schedule.Digest, "each channel that gets a digest gets one of the period"},
		{schedule.ShortLivedExpiryCheck, "each certificate that has ended is marked once"},
		{schedule.CRLGeneration, "each issuer's list that is asked for is signed once"},
		{schedule.RateLimitGC, "each bucket of a limit that says nothing any more is deleted, and none of it that says something"},
		{schedule.Retention, "each row of a table it prunes that is past its age is deleted, and no younger one"},
	} {
		t.Add(&LoopClaim{statement("loops/"+c.loop.Name,
			"On three replicas, of which the one that is in the middle of it is killed, or in a full run frozen or cut off: "+c.says+".",
			judgeLoop, "schedule."+variable(c.loop.Name), "app.App.Loops"), c.loop})
	}
	return t
}()

// loopStatements are the claims of all loops.
func loopStatements() (all []*Statement) {
	for _, c := range loopClaims.Rows() {
		all = append(all, c.Statement)
	}
	return all
}

// variable is the name that the code has for what is named.
func variable(name string) string {
	var b strings.Builder
	for word := range strings.SplitSeq(name, "-") {
		switch word {
		case "crl", "gc":
			b.WriteString(strings.ToUpper(word))
		default:
			b.WriteString(strings.ToUpper(word[:1]) + word[1:])
		}
	}
	return b.String()
}

// LoopSeen is what three replicas did with a loop's work.
type LoopSeen struct {
	Loop   string          `json:"loop"`
	PIDs   []int           `json:"pids"` // of the replicas, those that took a killed one's place among them
	Rounds []LoopRoundSeen `json:"rounds"`
}

// A LoopRoundSeen is one time that there was work, and what was done to the
// replica that was in the middle of it.
type LoopRoundSeen struct {
	Fault  string `json:"fault"`
	Victim string `json:"victim"` // the replica; the database, if all were cut off
	Due    int    `json:"due"`    // things to do
	Never  int    `json:"never"`  // of them, not done
	Twice  int    `json:"twice"`  // of them, done more than once
	Beside int    `json:"beside"` // things done that were not due
	Took   int64  `json:"took_ms"`
	By     int    `json:"by"` // replicas that passed since
}

// The faults of a round.
const (
	Killed = "killed"
	Frozen = "frozen"
	CutOff = "cut off by a restart of PostgreSQL"
)

// The checks of a loop.
const (
	NeverDone  = "things that were never done"
	DoneTwice  = "things that were done more than once"
	DoneBeside = "things that were done and not due"
	TakenOver  = "all is done after the replica that was doing it was killed"
)

// takeover bounds the time until the work of a killed replica is done by others,
// and resumed that of one that was frozen or cut off in a transaction.
const (
	takeover = 3500 * time.Millisecond
	resumed  = 15 * time.Second
)

func judgeLoop(_ api.Declared, seen json.RawMessage) ([]Check, error) {
	return decide(seen, func(s LoopSeen) []Check {
		var never, twice, beside, due int
		var faults []string
		slowest := map[bool]time.Duration{}
		alone := false
		for _, r := range s.Rounds {
			never, twice, beside, due = never+r.Never, twice+r.Twice, beside+r.Beside, due+r.Due
			if !slices.Contains(faults, r.Fault) {
				faults = append(faults, r.Fault)
			}
			slowest[r.Fault == Killed] = max(slowest[r.Fault == Killed], time.Duration(r.Took)*time.Millisecond)
			alone = alone || r.By < 2
		}
		checks := []Check{
			atLeast("replicas", 3, len(slices.Compact(slices.Sorted(slices.Values(s.PIDs))))),
			atLeast("things to do", 1, due),
			check("a replica was killed in the middle of it", "yes", yes(slices.Contains(faults, Killed))),
			check(NeverDone, "0", strconv.Itoa(never)),
			check(DoneTwice, "0", strconv.Itoa(twice)),
			check(DoneBeside, "0", strconv.Itoa(beside)),
			within(TakenOver, takeover, slowest[true]),
			check("other replicas went on", "yes", yes(!alone)),
		}
		if len(faults) > 1 {
			checks = append(checks, within("all is done after it was "+strings.Join(slices.DeleteFunc(faults, func(f string) bool { return f == Killed }), ", or "), resumed, slowest[false]))
		}
		return checks
	})
}
