package api

import (
	"time"

	"certctl/server/audit"
)

// EventFilter narrows a list or an export of audit events. Parameters that
// are left out do not narrow.
type EventFilter struct {
	Action       string    `query:"action" maxLength:"100" doc:"name of an action"`
	Category     string    `query:"category" maxLength:"100" doc:"category of actions"`
	Actor        string    `query:"actor" maxLength:"200" doc:"id of who acted"`
	ResourceKind string    `query:"resource_kind" maxLength:"100" doc:"kind of what was acted on, as in key"`
	ResourceID   string    `query:"resource_id" maxLength:"200" doc:"id of what was acted on"`
	Since        time.Time `query:"since" doc:"not before this time (RFC 3339)"`
	Until        time.Time `query:"until" doc:"before this time (RFC 3339)"`
}

// EventQuery asks for a page of audit events.
type EventQuery struct {
	EventFilter
	Before int64 `query:"before" minimum:"0" doc:"next of the page before this one"`
	Limit  int   `query:"limit" minimum:"1" maximum:"500" default:"100"`
}

// EventPage is a page of audit events, newest first.
type EventPage struct {
	Items []audit.Entry `json:"items" nullable:"false"`
	Next  int64         `json:"next,omitempty" doc:"give it as before for the next page; absent on the last"`
}

// A Checkpoint is a signed statement of what the log held.
type Checkpoint struct {
	Note     string `json:"note" doc:"the signed checkpoint (C2SP tlog-checkpoint)"`
	Verifier string `json:"verifier" doc:"public key of the signature; learn it once, over a path you trust"`
}

// InclusionQuery asks for the proof that an entry is in the log.
type InclusionQuery struct {
	Seq  int64 `query:"seq" minimum:"0" required:"true" doc:"number of the entry in the log, from zero"`
	Size int64 `query:"size" minimum:"1" required:"true" doc:"size of the log in the checkpoint"`
}

// ConsistencyQuery asks for the proof that one log is the beginning of
// another.
type ConsistencyQuery struct {
	Old int64 `query:"old" minimum:"1" required:"true" doc:"size in the older checkpoint"`
	New int64 `query:"new" minimum:"1" required:"true" doc:"size in the newer checkpoint"`
}

// Inclusion proves that an event is in the log. The leaf hash is
// SHA-256(0x00 || event); the rest is RFC 6962 §2.1.1.
type Inclusion struct {
	Seq    int64    `json:"seq"`
	Size   int64    `json:"size"`
	Root   string   `json:"root" doc:"of the log at that size, in base64"`
	Leaf   string   `json:"leaf" doc:"in base64"`
	Event  string   `json:"event" doc:"the bytes that the log commits to"`
	Hashes []string `json:"hashes" nullable:"false" doc:"the proof, in base64"`
}

// Consistency proves that one log is the beginning of another (RFC 6962
// §2.1.2).
type Consistency struct {
	Old     int64    `json:"old"`
	New     int64    `json:"new"`
	OldRoot string   `json:"old_root" doc:"in base64"`
	NewRoot string   `json:"new_root" doc:"in base64"`
	Hashes  []string `json:"hashes" nullable:"false" doc:"the proof, in base64"`
}

// Verification asks for the log to be recomputed.
type Verification struct {
	Body *KeptOutside
}

// KeptOutside is what a verification may trust.
type KeptOutside struct {
	Verifiers   []string `json:"verifiers,omitempty" maxItems:"20" nullable:"false" doc:"public keys that were learnt before; the log's own without them"`
	Checkpoints []string `json:"checkpoints,omitempty" maxItems:"100" nullable:"false" doc:"signed checkpoints, the notes alone"`
}

// VerifyReport says whether the log is intact, and if not, what was altered.
type VerifyReport struct {
	Intact bool         `json:"intact"`
	Says   string       `json:"says" doc:"the report in words"`
	Report audit.Report `json:"report"`
}
