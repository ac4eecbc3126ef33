package evidence

import (
	"encoding/json"
	"strconv"

	"certctl/server/api"
)

// RestartsUnseen is the claim about replicas that are restarted.
var RestartsUnseen = statement("replicas/rolling-restart",
	"Three replicas stand behind a proxy that asks which of them are ready, and are stopped and started again one at a time while clients read and write "+
		"over connections that they keep and over new ones: no request fails, and every write that was acknowledged is there afterwards.",
	judgeRolling, "app.App.Run", "web.Server.Serve", "config.ShutdownDelay")

// RollingSeen is what clients saw of replicas that were restarted.
type RollingSeen struct {
	PIDs     []int    `json:"pids"` // of all replicas that there were
	Planned  int      `json:"planned"`
	Restarts int      `json:"restarts"`
	Reads    int      `json:"reads"`
	Writes   int      `json:"writes"` // acknowledged
	Failed   int      `json:"failed"`
	Errors   []string `json:"errors"` // of the first that failed
	Lost     int      `json:"lost"`   // acknowledged, and not there
}

// FailedRequests is the check of a rolling restart that a defect turns red.
const FailedRequests = "requests that failed"

// What counts as a load.
const (
	LeastReads  = 100
	LeastWrites = 50
)

func judgeRolling(_ api.Declared, seen json.RawMessage) ([]Check, error) {
	return decide(seen, func(s RollingSeen) []Check {
		return []Check{
			check("replicas that were stopped and started again", strconv.Itoa(max(1, s.Planned)), strconv.Itoa(s.Restarts)),
			check("processes", strconv.Itoa(3+s.Restarts), strconv.Itoa(len(s.PIDs))),
			atLeast("reads", LeastReads, s.Reads),
			atLeast("writes that were acknowledged", LeastWrites, s.Writes),
			check(FailedRequests, "0", strconv.Itoa(s.Failed)),
			check("acknowledged writes that are not there", "0", strconv.Itoa(s.Lost)),
		}
	})
}
