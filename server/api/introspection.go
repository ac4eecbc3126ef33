package api

import (
	"time"

	"certctl/server/audit"
	"certctl/server/cert"
	"certctl/server/config"
	"certctl/server/connector"
	"certctl/server/fault"
	"certctl/server/limit"
	"certctl/server/metric"
	"certctl/server/migrate"
	"certctl/server/outbox"
	"certctl/server/perm"
	"certctl/server/schedule"
	"certctl/server/web"
)

// Empty is the input of a route that takes none.
type Empty = web.Nothing

// Ready says that a replica can serve.
type Ready struct {
	Ready   bool   `json:"ready"`
	Replica string `json:"replica"`
}

// Introspection is what a running server says of itself.
type Introspection struct {
	Build    Build            `json:"build"`
	Replica  Replica          `json:"replica"`
	Declared Declared         `json:"declared"`
	Settings []config.Shown   `json:"settings" nullable:"false"`
	Ledger   []migrate.Row    `json:"ledger" nullable:"false"`
	Leases   []schedule.Lease `json:"leases" nullable:"false"`
	LastRuns []schedule.Run   `json:"last_runs" nullable:"false"`
}

// A Build says what was compiled.
type Build struct {
	Version string `json:"version"`
	Commit  string `json:"commit" doc:"of the source, if it was built from a checkout"`
	Go      string `json:"go"`
}

// A Replica is one process.
type Replica struct {
	Name      string    `json:"name"`
	PID       int       `json:"pid"`
	StartedAt time.Time `json:"started_at"`
	Database  string    `json:"database" doc:"version of the database server"`
}

// Declared is every table of the server, as built.
type Declared struct {
	Settings    []config.Spec       `json:"settings" nullable:"false"`
	Permissions []*perm.Permission  `json:"permissions" nullable:"false"`
	Roles       []DeclaredRole      `json:"roles" nullable:"false"`
	Metrics     []*metric.Metric    `json:"metrics" nullable:"false"`
	Faults      []*fault.Kind       `json:"faults" nullable:"false"`
	Actions     []*audit.Action     `json:"actions" nullable:"false"`
	Loops       []DeclaredLoop      `json:"loops" nullable:"false"`
	Retentions  []DeclaredRetention `json:"retentions" nullable:"false"`
	Routes      []DeclaredRoute     `json:"routes" nullable:"false"`
	Migrations  []migrate.Migration `json:"migrations" nullable:"false"`

	CertStates    []DeclaredState      `json:"cert_states" nullable:"false"`
	Reasons       []*cert.Reason       `json:"reasons" nullable:"false"`
	Rules         []DeclaredWord       `json:"rules" nullable:"false"`
	KeyAlgorithms []DeclaredWord       `json:"key_algorithms" nullable:"false"`
	ExtKeyUsages  []DeclaredWord       `json:"ext_key_usages" nullable:"false"`
	SANKinds      []DeclaredWord       `json:"san_kinds" nullable:"false"`
	JobStates     []DeclaredState      `json:"job_states" nullable:"false"`
	JobKinds      []DeclaredJobKind    `json:"job_kinds" nullable:"false"`
	BulkActions   []DeclaredBulkAction `json:"bulk_actions" nullable:"false"`
	IssuerTypes   []DeclaredIssuer     `json:"issuer_types" nullable:"false"`

	Limits          []DeclaredLimit    `json:"limits" nullable:"false"`
	LimitScopes     []*limit.Scope     `json:"limit_scopes" nullable:"false"`
	LimitAlgorithms []*limit.Algorithm `json:"limit_algorithms" nullable:"false"`
	LimitKeys       []*limit.Key       `json:"limit_keys" nullable:"false"`

	Severities         []*outbox.Severity `json:"severities" nullable:"false"`
	Events             []*outbox.Event    `json:"events" nullable:"false"`
	NotificationStates []DeclaredState    `json:"notification_states" nullable:"false"`
	ChannelTypes       []DeclaredChannel  `json:"channel_types" nullable:"false"`
}

// A DeclaredLimit is a rate limit.
type DeclaredLimit struct {
	Name      string  `json:"name"`
	Does      string  `json:"does"`
	Key       string  `json:"key" doc:"what one bucket is for"`
	Algorithm string  `json:"algorithm"`
	Cap       int     `json:"cap" doc:"the default of the burst, or of what a window admits"`
	CapBy     string  `json:"cap_by" doc:"the setting that changes it"`
	Rate      float64 `json:"rate,omitempty" doc:"the default of how many tokens a second come back; absent for a window"`
	RateBy    string  `json:"rate_by,omitempty" doc:"the setting that changes it"`
	Window    string  `json:"window,omitempty"`
	Durable   bool    `json:"durable" doc:"whether no crash of the database forgets a decision"`
	Failure   string  `json:"failure" doc:"what becomes of a request while the database does not answer"`
}

// A DeclaredState is a state of a certificate or a job.
type DeclaredState struct {
	Name  string   `json:"name"`
	Does  string   `json:"does"`
	Moves []string `json:"moves" nullable:"false" doc:"what may follow"`
}

// A DeclaredWord is a name with what it means.
type DeclaredWord struct {
	Name string `json:"name"`
	Does string `json:"does"`
}

// A DeclaredJobKind is a kind of job.
type DeclaredJobKind struct {
	Name       string `json:"name"`
	Does       string `json:"does"`
	Attempts   int    `json:"attempts"`
	RetryEvery string `json:"retry_every" doc:"before the second attempt; it doubles from then on"`
	Timeout    string `json:"timeout" doc:"of one attempt"`
	Priority   int    `json:"priority" doc:"the smallest first"`
}

// A DeclaredBulkAction is what can be done to many certificates.
type DeclaredBulkAction struct {
	Name       string `json:"name"`
	Does       string `json:"does"`
	Permission string `json:"permission"`
}

// A DeclaredIssuer is a type of issuer.
type DeclaredIssuer struct {
	Name     string            `json:"name"`
	Does     string            `json:"does"`
	Can      []string          `json:"can" nullable:"false" doc:"what it can do beside signing"`
	Settings []connector.Field `json:"settings" nullable:"false"`
}

// A DeclaredChannel is a type of channel.
type DeclaredChannel struct {
	Name     string            `json:"name"`
	Does     string            `json:"does"`
	Settings []connector.Field `json:"settings" nullable:"false"`
}

// A DeclaredRole is a default role.
type DeclaredRole struct {
	Name        string   `json:"name"`
	Does        string   `json:"does"`
	Permissions []string `json:"permissions" nullable:"false"`
}

// A DeclaredLoop is a loop of the scheduler.
type DeclaredLoop struct {
	Name    string      `json:"name"`
	Does    string      `json:"does"`
	Every   string      `json:"every" doc:"the default period"`
	Setting string      `json:"setting" doc:"what changes the period"`
	Timeout string      `json:"timeout" doc:"of one pass"`
	HA      schedule.HA `json:"ha" doc:"how several replicas keep from doing its work twice"`
	Why     string      `json:"why"`
	Effects string      `json:"effects"`
}

// A DeclaredRetention is a table that the retention loop prunes.
type DeclaredRetention struct {
	Table   string `json:"table"`
	Setting string `json:"setting"`
	Keep    string `json:"keep" doc:"the default"`
	Does    string `json:"does"`
}

// A DeclaredRoute is a route of the API.
type DeclaredRoute struct {
	Name       string `json:"name"`
	Method     string `json:"method"`
	Path       string `json:"path"`
	Does       string `json:"does"`
	Permission string `json:"permission,omitempty"`
	Public     string `json:"public,omitempty" doc:"why it needs no permission"`
	In         string `json:"in,omitempty" doc:"Go type of what it takes"`
	Out        string `json:"out,omitempty" doc:"Go type of what it answers with, or its media type"`

	Limits    []string `json:"limits" nullable:"false" doc:"what a request has to pass, in this order"`
	Unlimited string   `json:"unlimited,omitempty" doc:"why no limit counts it"`
}
