package evidence

import (
	"encoding/json"
	"strconv"

	"certctl/server/api"
	"certctl/server/outbox"
)

// SentOnce is the claim about sending.
var SentOnce = statement("notifications/sent-once",
	"200 alerts are sent by three replicas of which one is killed and one frozen in the middle: 200 different keys arrive, signed, "+
		"and what arrives again was on its way from one of the two. One digest of the period arrives.",
	judgeSending, "outbox.Runner.Pass", "outbox.TellExpiring", "alerts.Alerts.Digest", "schedule.NotificationProcess", "schedule.NotificationRetry", "schedule.Digest")

// SendingSeen is what sinks took from three replicas.
type SendingSeen struct {
	PIDs      []int             `json:"pids"`
	Alerts    int               `json:"alerts"`    // certificates times channels
	UnderWay  int               `json:"under_way"` // sends of the two replicas, as the rows had it once they were killed or frozen
	Unsettled int               `json:"unsettled"` // notifications that are not sent in the end
	Log       []DeliverySeen    `json:"log"`       // of the sinks
	Refused   int               `json:"refused"`   // posts whose signature did not verify
	Faults    map[string]string `json:"faults"`    // what was done to which replica
}

// A DeliverySeen is one line of a sink's log.
type DeliverySeen struct {
	Channel string `json:"channel"`
	At      string `json:"at"` // since the first
	Key     string `json:"key"`
	Event   string `json:"event"`
}

// The checks of sending.
const (
	KeysArrived    = "different keys that arrived"
	BeyondUnderWay = "deliveries beyond the keys and the sends that were under way"
	DigestsArrived = "digests of the period"
)

func judgeSending(_ api.Declared, seen json.RawMessage) ([]Check, error) {
	return decide(seen, func(s SendingSeen) []Check {
		keys, digests, alerts := map[string]bool{}, map[string]bool{}, 0
		for _, d := range s.Log {
			if d.Event == outbox.Digest.Name {
				digests[d.Key] = true
				continue
			}
			alerts++
			keys[d.Channel+" "+d.Key] = true
		}
		return []Check{
			check("alerts", "200", strconv.Itoa(s.Alerts)),
			check("replicas", "3", strconv.Itoa(len(s.PIDs))),
			check("replicas that were killed or frozen", "2", strconv.Itoa(len(s.Faults))),
			check(KeysArrived, strconv.Itoa(s.Alerts), strconv.Itoa(len(keys))),
			check(BeyondUnderWay, "0", strconv.Itoa(max(0, alerts-len(keys)-s.UnderWay))),
			check("posts whose signature does not verify", "0", strconv.Itoa(s.Refused)),
			check("notifications that are not sent", "0", strconv.Itoa(s.Unsettled)),
			check(DigestsArrived, "1", strconv.Itoa(len(digests))),
		}
	})
}
