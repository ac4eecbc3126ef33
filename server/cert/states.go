package cert

import "certctl/server/table"

// A State is where a certificate is in its life.
type State struct {
	Name  string   `json:"name"`
	Does  string   `json:"does"`  // what is so in this state
	Moves []string `json:"moves"` // names of the states that may follow; the database refuses others
}

var states = table.By(func(s *State) string { return s.Name })

// States returns every state, in the order of a life.
func States() []*State { return states.Rows() }

// The states.
var (
	Pending = state("pending", "It was asked for and has not been issued yet.",
		"active", "failed", "archived")
	Failed = state("failed", "It could not be issued; its last job says why.",
		"pending", "archived")
	Active = state("active", "Its current version is valid.",
		"expired", "held", "revoked", "archived")
	Expired = state("expired", "Its current version has ended and was not renewed.",
		"active", "archived")
	Held = state("held", "Its current version is revoked for the time being (certificateHold).",
		"active", "expired", "revoked")
	Revoked = state("revoked", "Its current version is revoked for good. It is not renewed.",
		"archived")
	Archived = state("archived", "It is no longer looked after. It is not renewed, and its name can be used again.")
)

func state(name, does string, moves ...string) *State {
	return states.Add(&State{name, does, moves})
}

// StateNames are the names of all states.
func StateNames() []string {
	var names []string
	for _, s := range states.Rows() {
		names = append(names, s.Name)
	}
	return names
}
