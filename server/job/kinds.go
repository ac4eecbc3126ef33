package job

import (
	"time"

	"certctl/server/table"
)

// A Spec is the row of a kind of job. A job can be queued with attempts, times
// and a priority of its own; these are the ones it has otherwise.
type Spec struct {
	Name       string
	Does       string
	Attempts   int           // how often it is tried
	RetryEvery time.Duration // before the second attempt; it doubles from then on, to about a day
	Timeout    time.Duration // of one attempt
	Priority   int           // the smallest is done first
}

// A Kind is a kind of job whose arguments are an A.
type Kind[A any] struct{ *Spec }

var kinds = table.By(func(s *Spec) string { return s.Name })

// Kinds returns every kind, in declaration order.
func Kinds() []*Spec { return kinds.Rows() }

// Named returns the kind with the given name.
func Named(name string) (*Spec, bool) { return kinds.Row(name) }

func declare[A any](s Spec) Kind[A] { return Kind[A]{kinds.Add(&s)} }

// CertArgs are the arguments of a job that is for one certificate, which its
// row names.
type CertArgs struct{}

// BulkArgs name a bulk operation.
type BulkArgs struct {
	Operation string `json:"operation"`
}

// The kinds.
var (
	Issue = declare[CertArgs](Spec{
		Name:     "issue",
		Does:     "obtains the first version of a certificate",
		Attempts: 5, RetryEvery: 10 * time.Second, Timeout: time.Minute,
		Priority: 10, // somebody waits for it
	})
	Renew = declare[CertArgs](Spec{
		Name:     "renew",
		Does:     "obtains the next version of a certificate",
		Attempts: 4, RetryEvery: 5 * time.Minute, Timeout: time.Minute,
		Priority: 20,
	})
	Bulk = declare[BulkArgs](Spec{
		Name:     "bulk",
		Does:     "applies one action to the certificates of a bulk operation, in batches",
		Attempts: 10, RetryEvery: 10 * time.Second, Timeout: 10 * time.Minute,
		Priority: 30,
	})
)

// issuance are the kinds of which a certificate has one open job at a time, as
// the index jobs_one_open_issuance_per_certificate says.
var issuance = []string{Issue.Name, Renew.Name}
