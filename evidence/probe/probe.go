// Package probe looks at a running system, and at the same system with known
// defects, and stores what it saw. It judges nothing.
package probe

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/evidence"
	"certctl/evidence/lab"
	"certctl/server/api"
	"certctl/server/client"
)

// A Site is a system to look at.
type Site struct {
	Lab      *lab.Lab
	Declared api.Declared

	Admin    *client.Client    // holds every permission, or what the operator gave
	Database string            // URL; empty if it is out of reach
	Given    map[string]string // settings the process was given; nil if unknown

	// Kept outside since before anything was looked at.
	Checkpoint api.Checkpoint

	Steps []evidence.StepSeen // of the work that was done
	Made  *made               // what was made to be looked at

	With    map[string]string // settings of servers that probes start
	Altered string            // what is done to the databases of those
	Apart   time.Duration     // how far the clocks of those are from each other, if they were built with the tag defects

	Populated *Site // the one where it was made, once there is one
}

// connect opens the site's database.
func (s *Site) connect(ctx context.Context) (*pgx.Conn, error) { return pgx.Connect(ctx, s.Database) }

// A Need is something that a probe cannot do without.
type Need string

// The needs.
const (
	Database   Need = "the database's URL"
	Processes  Need = "a process that it started itself"
	Checkpoint Need = "a checkpoint and a public key that were kept outside"
)

// A Probe is an experiment for one claim.
type Probe struct {
	Of       *evidence.Statement
	Needs    []Need
	Site     func(ctx context.Context, base *Site) (*Site, func() error, error) // what is looked at; nil if it is the base
	Look     func(context.Context, *Site) (any, error)
	Controls []Defect
}

// A Defect is a change of the system that the probe must notice.
type Defect struct {
	Says  string
	Turns func(api.Declared) []string // the checks that must turn red

	// Site returns the base with the defect, and what ends it.
	Site func(ctx context.Context, base *Site) (*Site, func() error, error)
}

// Observe looks at the site for the probe's claim.
func (p Probe) Observe(ctx context.Context, s *Site) evidence.Observation {
	o := evidence.Observation{Claim: p.Of.ID, SeenAt: time.Now().UTC().Truncate(time.Second)}
	var lacks []string
	for _, n := range p.Needs {
		if (n == Database && s.Database == "") || (n == Processes && s.Given == nil) || (n == Checkpoint && s.Checkpoint.Note == "") {
			lacks = append(lacks, string(n))
		}
	}
	if len(lacks) > 0 {
		o.Skipped = "the probe needs " + strings.Join(lacks, ", and ")
		return o
	}
	if p.Site == nil {
		p.Site = func(context.Context, *Site) (*Site, func() error, error) { return s, nothing, nil }
	}
	o.Seen, o.Failed = p.on(ctx, s, p.Site)
	return o
}

// on looks at what a function makes of the base, and ends it.
func (p Probe) on(ctx context.Context, base *Site, of func(context.Context, *Site) (*Site, func() error, error)) (seen json.RawMessage, failed string) {
	site, end, err := of(ctx, base)
	if err != nil {
		return nil, brief(err)
	}
	seen, err = p.look(ctx, site)
	if ended := end(); err == nil {
		err = ended
	}
	if err != nil {
		failed = brief(err)
	}
	return seen, failed
}

// brief is the first line of an error: what follows may be a server's log,
// which is of the machine.
func brief(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// Control looks at the base with a defect.
func (p Probe) Control(ctx context.Context, base *Site, d Defect) (o evidence.ControlObservation) {
	o = evidence.ControlObservation{Defect: d.Says, Turns: d.Turns(base.Declared)}
	o.Seen, o.Failed = p.on(ctx, base, d.Site)
	return o
}

func (p Probe) look(ctx context.Context, s *Site) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	seen, err := p.Look(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("look: %w", err)
	}
	return json.Marshal(seen)
}
