// Package probe looks at a running system, and at the same system with known
// defects, and stores what it saw. It judges nothing.
package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/evidence"
	"certctl/evidence/lab"
	"certctl/server/api"
	"certctl/server/client"
	"certctl/server/defect"
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

	// Tests runs tests that claims cite; nil if there is no source tree.
	Tests func(context.Context, []evidence.Test) ([]evidence.TestRecord, error)

	Disruptive bool // experiments may leave something on a server that somebody else started

	Quick bool   // each experiment is done once, with one fault
	Seed  uint64 // of whatever an experiment leaves to chance

	once *once // what is made once for all sites of a base
}

// once has what experiments share.
type once struct {
	mu        sync.Mutex
	populated *Site // where certificates were made to be looked at
	staged    *Site // where loops find work
}

// times is how often something is done: once in a while, or many times.
func (s *Site) times(quick, full int) int {
	if s.Quick {
		return quick
	}
	return full
}

// chance is what an experiment draws from: the same for the same seed.
func (s *Site) chance(what string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(what))
	return rand.New(rand.NewPCG(s.Seed, h.Sum64()))
}

// connect opens the site's database.
func (s *Site) connect(ctx context.Context) (*pgx.Conn, error) { return pgx.Connect(ctx, s.Database) }

// A Need is something that a probe cannot do without.
type Need string

// The needs. Every probe has the API.
const (
	Database   Need = "the database's URL"
	Processes  Need = "a process that it started itself"
	Checkpoint Need = "a checkpoint and a public key that were kept outside"
)

// A Probe is an experiment for one claim.
type Probe struct {
	Of       *evidence.Statement
	Needs    []Need
	Harms    string // what it leaves on a running server, in words; empty if nothing
	Alone    bool   // it measures times, or counts all there is, which other experiments at the same time would spoil
	Site     Maker  // what is looked at; nil if it is the base
	Look     func(context.Context, *Site) (any, error)
	Make     Maker // what the controls look at; it gets their defects
	Controls []Defect
}

// A Maker makes a system to look at of the base, with a defect unless that is
// zero, and returns what ends it.
type Maker func(ctx context.Context, base *Site, d Defect) (*Site, func() error, error)

// A Defect is a change of the system that the probe must notice: of settings, of
// the database, or of the server's code.
type Defect struct {
	Says  string
	Turns func(api.Declared) []string // the checks that must turn red, and no other may

	Settings map[string]string // that the servers get
	SQL      func(api.Declared) string
	Switch   defect.Name // of a server that was built with the tag defects
	Make     Maker       // nil if it is the probe's
}

// sql is what the defect does to the database.
func (d Defect) sql(declared api.Declared) string {
	if d.SQL == nil {
		return ""
	}
	return d.SQL(declared)
}

// settings are what the servers get, the switch among them.
func (d Defect) settings() map[string]string {
	all := maps.Clone(d.Settings)
	if d.Switch != "" {
		if all == nil {
			all = map[string]string{}
		}
		all[lab.DefectSwitch] = string(d.Switch)
	}
	return all
}

// always is SQL that does not depend on what is declared.
func always(sql string) func(api.Declared) string { return func(api.Declared) string { return sql } }

// Probes returns the registered experiments, in the order of the packet.
func Probes() []Probe { return registered }

var registered = func() (all []Probe) {
	alone := []Probe{sendingProbe, migrationsProbe, refusalsProbe, leasesProbe, jobsProbe, rollingProbe, backupProbe}
	for _, p := range slices.Concat(probes, loopProbes(), limitProbes, alone) {
		var err error
		if all, err = Register(all, p); err != nil {
			panic(err) // the tables of this package are wrong
		}
	}
	return all
}()

// Register adds an experiment. It refuses one that cannot be shown to fail: one
// without a control, or with a control that changes nothing or turns nothing red.
func Register(all []Probe, p Probe) ([]Probe, error) {
	switch {
	case p.Of == nil || p.Look == nil:
		return nil, errors.New("an experiment needs a claim and a look")
	case slices.ContainsFunc(all, func(o Probe) bool { return o.Of == p.Of }):
		return nil, fmt.Errorf("%s has an experiment already", p.Of.ID)
	case len(p.Controls) == 0:
		return nil, fmt.Errorf("the experiment of %s has no control: nothing shows that it can fail", p.Of.ID)
	}
	for i, d := range p.Controls {
		same := func(o Defect) bool { return o.Says == d.Says }
		switch {
		case d.Says == "" || d.Turns == nil:
			return nil, fmt.Errorf("control %d of %s does not say what it breaks, or which checks that turns red", i+1, p.Of.ID)
		case d.Make == nil && p.Make == nil:
			return nil, fmt.Errorf("nothing makes the system of a control of %s: %s", p.Of.ID, d.Says)
		case d.Make == nil && len(d.Settings) == 0 && d.SQL == nil && d.Switch == "":
			return nil, fmt.Errorf("a control of %s changes nothing: %s", p.Of.ID, d.Says)
		case slices.ContainsFunc(p.Controls[:i], same):
			return nil, fmt.Errorf("two controls of %s have the same words: %s", p.Of.ID, d.Says)
		}
	}
	return append(all, p), nil
}

// Observe looks at the site for the probe's claim.
func (p Probe) Observe(ctx context.Context, s *Site) evidence.Observation {
	o := evidence.Observation{Claim: p.Of.ID, SeenAt: time.Now().UTC().Truncate(time.Second)}
	if lacks := p.lacks(s); len(lacks) > 0 {
		o.Skipped = "the probe needs " + strings.Join(lacks, ", and ")
		return o
	}
	if p.Harms != "" && s.Given == nil && !s.Disruptive {
		o.Skipped = "the probe " + p.Harms + ", and was not allowed to"
		return o
	}
	of := p.Site
	if of == nil {
		of = func(_ context.Context, s *Site, _ Defect) (*Site, func() error, error) { return s, nothing, nil }
	}
	o.Seen, o.Failed = p.on(ctx, s, of, Defect{})
	return o
}

// lacks are the needs that the site does not meet.
func (p Probe) lacks(s *Site) (lacks []string) {
	for _, n := range p.Needs {
		if (n == Database && s.Database == "") || (n == Processes && s.Given == nil) || (n == Checkpoint && s.Checkpoint.Note == "") {
			lacks = append(lacks, string(n))
		}
	}
	return lacks
}

// on looks at what is made of the base, and ends it.
func (p Probe) on(ctx context.Context, base *Site, of Maker, d Defect) (seen json.RawMessage, failed string) {
	site, end, err := of(ctx, base, d)
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
func (p Probe) Control(ctx context.Context, base *Site, d Defect) evidence.ControlObservation {
	o := evidence.ControlObservation{Defect: d.Says, Turns: d.Turns(base.Declared)}
	of := p.Make
	if d.Make != nil {
		of = d.Make
	}
	o.Seen, o.Failed = p.on(ctx, base, of, d)
	return o
}

func (p Probe) look(ctx context.Context, s *Site) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	seen, err := p.Look(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("look: %w", err)
	}
	return json.Marshal(seen)
}
