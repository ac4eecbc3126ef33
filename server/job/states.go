package job

import "certctl/server/table"

// A State is where a job is in its life.
type State struct {
	Name  string   `json:"name"`
	Does  string   `json:"does"`  // what is so in this state
	Moves []string `json:"moves"` // names of the states that may follow; the database refuses others
}

var states = table.By(func(s *State) string { return s.Name })

// States returns every state, in the order of a life.
func States() []*State { return states.Rows() }

// The states that a job is open in: it has not come to its end.
var (
	Pending = state("pending", "It waits for a replica to claim it, at its time or later.",
		"running", "cancelled")
	Running = state("running", "A replica does it, under a lease.",
		"pending", "done", "failed", "dead", "cancelled")
	Failed = state("failed", "Its last attempt failed; it is queued again at its time.",
		"pending", "cancelled")
)

// The states that it ends in. Of them only a dead one can be opened again.
var (
	Done      = state("done", "It has done what it was for.")
	GivenUp   = state("dead", "It failed for good: its last attempt failed, or was refused what no other one would get.", "pending")
	Cancelled = state("cancelled", "It was cancelled by a caller, or because of what became of its certificate.")
)

func state(name, does string, moves ...string) *State {
	return states.Add(&State{name, does, moves})
}
