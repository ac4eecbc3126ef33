package evidence

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"certctl/server/api"
)

// LeasesFence is the claim about loops that one replica at a time runs.
var LeasesFence = statement("leases/fenced",
	"A loop that one of three replicas runs is taken from it again and again while it writes, by hand, by killing it, by freezing it beyond its lease "+
		"and by stopping it, with replicas that reach the database directly and with others that reach it through a pooler in transaction mode: "+
		"nothing is written under a lease that was taken; another replica goes on within 3 s of a holder's death and, which a full run looks at, within 0.5 s of the signal to stop.",
	judgeFences, "schedule.Runner", "schedule.Pass.InTx", "schedule.OneReplica")

// FencesSeen is what became of a loop whose holder was changed by force.
type FencesSeen struct {
	Ways []FencedSeen `json:"ways"` // of reaching the database
}

// FencedSeen is the same for three replicas that reach the database in one way.
type FencedSeen struct {
	Way     string         `json:"way"`
	PIDs    []int          `json:"pids"`    // of all replicas that there were
	Planned map[string]int `json:"planned"` // changes of the holder, by what forces them
	Forced  map[string]int `json:"forced"`

	Writes   int      `json:"writes"` // that carry a token
	Unfenced []string `json:"unfenced"`
	Replicas int      `json:"replicas"` // that wrote
	Deaths   []int64  `json:"deaths"`   // milliseconds from each kill to another's pass
	Stops    []int64  `json:"stops"`    // and from each signal to stop
	Log      string   `json:"log"`      // what its verification says, if it is not intact
}

// What forces a change of the holder.
const (
	ByTaking   = "taking the lease by hand while the holder writes"
	ByKilling  = "killing the holder while it writes"
	ByFreezing = "freezing the holder beyond its lease"
	ByStopping = "stopping the holder"
)

// ChangesOfHolder are what forces a change, in the order of the checks.
var ChangesOfHolder = []string{ByTaking, ByKilling, ByFreezing, ByStopping}

// The ways to reach the database.
const (
	Directly = "directly"
	Pooled   = "through a pooler"
)

// The checks that a defect turns red.
const (
	UnfencedWrites = "writes under a lease that was taken before"
	AfterDeath     = "from a holder's death to another's pass"
	AfterStop      = "from the signal to stop to another's pass"
)

func judgeFences(_ api.Declared, seen json.RawMessage) ([]Check, error) {
	return decide(seen, func(s FencesSeen) []Check {
		var ways, unfenced, log []string
		planned, forced := map[string]int{}, map[string]int{}
		var deaths, stops []int64
		writes := 0
		for _, w := range s.Ways {
			ways = append(ways, w.Way)
			unfenced = append(unfenced, w.Unfenced...)
			deaths, stops = append(deaths, w.Deaths...), append(stops, w.Stops...)
			writes += w.Writes
			if w.Log != "" {
				log = append(log, w.Way+": "+w.Log)
			}
			for _, by := range ChangesOfHolder {
				planned[by] += w.Planned[by]
				forced[by] += w.Forced[by]
			}
		}
		checks := []Check{check("how replicas reach the database", Directly+", "+Pooled, strings.Join(ways, ", "))}
		for _, by := range ChangesOfHolder {
			if planned[by] == 0 && by == ByStopping {
				continue // its bound is too short for a machine that does other experiments
			}
			checks = append(checks, check("changes by "+by, strconv.Itoa(max(1, planned[by])), strconv.Itoa(forced[by])))
		}
		for _, w := range s.Ways {
			checks = append(checks, atLeast("replicas that wrote, "+w.Way, 2, w.Replicas))
		}
		checks = append(checks,
			atLeast("writes that carry a token", planned[ByTaking], writes),
			check(UnfencedWrites, "0", strconv.Itoa(len(unfenced))),
			longest(AfterDeath, 3*time.Second, deaths),
			check("log that was written", "intact", cmpOr(log, "intact")))
		if planned[ByStopping] > 0 {
			checks = append(checks, longest(AfterStop, 500*time.Millisecond, stops))
		}
		return checks
	})
}

// longest sets the longest of durations in milliseconds beside its bound.
func longest(what string, bound time.Duration, measured []int64) Check {
	most := int64(0)
	for _, m := range measured {
		most = max(most, m)
	}
	if len(measured) == 0 {
		return check(what, fmt.Sprint("at most ", short(bound.String())), unseen)
	}
	return within(what, bound, time.Duration(most)*time.Millisecond)
}

// cmpOr lists what was found, or says that nothing was.
func cmpOr(found []string, nothing string) string {
	if len(found) == 0 {
		return nothing
	}
	return strings.Join(found, "; ")
}
