package evidence

import (
	"encoding/json"
	"strconv"

	"certctl/server/api"
)

// JobsOnce is the claim about jobs.
var JobsOnce = statement("jobs/exactly-once",
	"Certificates that are due all at once are renewed by three replicas whose statements that queue them overlap, of which one after the other is killed "+
		"and from which jobs are taken while they do them: each certificate is renewed exactly once, by one job, and no result is written under a claim that was taken.",
	judgeJobs, "job.Task.Complete", "job.Runner.Reclaim", "store.QueueRenewals", "schedule.RenewalCheck", "schedule.JobProcessor", "schedule.JobTimeout", "schedule.JobRetry")

// JobsSeen is what became of certificates that were due.
type JobsSeen struct {
	PIDs    []int `json:"pids"` // of all replicas that there were
	Due     int   `json:"due"`  // certificates
	Overlap int   `json:"overlap"`
	Planned int   `json:"planned"` // kills
	Kills   int   `json:"kills"`
	Taken   int   `json:"taken"` // jobs, from replicas that did them
	Takings int   `json:"takings"`

	Jobs     int `json:"jobs"`     // renewals that were queued
	Done     int `json:"done"`     // certificates with one renewal that is done
	Renewed  int `json:"renewed"`  // certificates with a second version, and no third
	Further  int `json:"further"`  // versions after the second
	Jobless  int `json:"jobless"`  // versions that no job was done for
	Unfenced int `json:"unfenced"` // jobs that are done under the claim of who took them and did nothing
	Open     int `json:"open"`     // jobs that have not ended
}

// The checks that a defect turns red.
const (
	QueuedOnce    = "renewals that were queued"
	DoneOnce      = "certificates with one renewal that is done"
	RenewedOnce   = "certificates that were renewed once"
	RenewedMore   = "further renewals"
	UnfencedByJob = "results that were written under a claim that was taken"
)

func judgeJobs(_ api.Declared, seen json.RawMessage) ([]Check, error) {
	return decide(seen, func(s JobsSeen) []Check {
		due := strconv.Itoa(s.Due)
		return []Check{
			atLeast("certificates that were due at once", 50, s.Due),
			check("statements that queue and overlap", "3", strconv.Itoa(s.Overlap)),
			check("kills", strconv.Itoa(max(1, s.Planned)), strconv.Itoa(s.Kills)),
			check("replicas", strconv.Itoa(3+s.Kills), strconv.Itoa(len(s.PIDs))),
			atLeast("jobs that were taken", s.Takings, s.Taken),
			check(QueuedOnce, due, strconv.Itoa(s.Jobs)),
			check(DoneOnce, due, strconv.Itoa(s.Done)),
			check(RenewedOnce, due, strconv.Itoa(s.Renewed)),
			check(RenewedMore, "0", strconv.Itoa(s.Further)),
			check("versions that no job was done for", "0", strconv.Itoa(s.Jobless)),
			check(UnfencedByJob, "0", strconv.Itoa(s.Unfenced)),
			check("jobs that have not ended", "0", strconv.Itoa(s.Open)),
		}
	})
}
