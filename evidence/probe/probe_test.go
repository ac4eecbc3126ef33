package probe_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"certctl/evidence"
	"certctl/evidence/probe"
	"certctl/server/api"
	"certctl/server/app"
	"certctl/server/cert"
	"certctl/server/migrate"
)

func TestEveryClaimHasOneProbeThatCanFail(t *testing.T) {
	probes := map[*evidence.Statement]int{}
	for _, p := range probe.Probes() {
		probes[p.Of]++
		for _, c := range p.Controls {
			if len(c.Turns(app.Declared())) == 0 {
				t.Errorf("a control of %s names nothing that it turns red: %s", p.Of.ID, c.Says)
			}
		}
	}
	for _, s := range evidence.Statements() {
		if probes[s] != 1 {
			t.Errorf("the claim %s has %d probes", s.ID, probes[s])
		}
	}
}

// example is an experiment that can be registered, changed by change.
func example(change func(*probe.Probe)) probe.Probe {
	p := probe.Probe{
		Of:   evidence.LedgerMatches,
		Look: func(context.Context, *probe.Site) (any, error) { return nil, nil },
		Make: func(_ context.Context, s *probe.Site, _ probe.Defect) (*probe.Site, func() error, error) {
			return s, func() error { return nil }, nil
		},
		Controls: []probe.Defect{{
			Says: "it is broken", Turns: func(api.Declared) []string { return []string{"a check"} }, Settings: map[string]string{"A": "b"},
		}},
	}
	change(&p)
	return p
}

func TestRegisterRefusesWhatCannotFail(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*probe.Probe)
		want   string // of the error; none if it is registered
	}{
		"nothing is wrong":                    {func(*probe.Probe) {}, ""},
		"no control":                          {func(p *probe.Probe) { p.Controls = nil }, "has no control"},
		"a control that changes nothing":      {func(p *probe.Probe) { p.Controls[0].Settings = nil }, "changes nothing"},
		"a control that says nothing":         {func(p *probe.Probe) { p.Controls[0].Says = "" }, "does not say"},
		"a control that turns nothing":        {func(p *probe.Probe) { p.Controls[0].Turns = nil }, "does not say"},
		"a control whose system nobody makes": {func(p *probe.Probe) { p.Make = nil }, "nothing makes"},
		"the same control twice":              {func(p *probe.Probe) { p.Controls = append(p.Controls, p.Controls[0]) }, "the same words"},
		"no look":                             {func(p *probe.Probe) { p.Look = nil }, "needs a claim"},
	} {
		t.Run(name, func(t *testing.T) {
			all, err := probe.Register(nil, example(tt.change))
			if tt.want == "" && (err != nil || len(all) != 1) || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
	one := example(func(*probe.Probe) {})
	if _, err := probe.Register([]probe.Probe{one}, one); err == nil {
		t.Error("a claim has two experiments")
	}
}

// A control that is registered and yet leaves the system as it was is found when
// it is done: it stays green, and the claim is not true.
func TestAControlThatStaysGreenIsFound(t *testing.T) {
	p := example(func(p *probe.Probe) {
		p.Look = func(context.Context, *probe.Site) (any, error) {
			var rows []migrate.Row
			for _, m := range app.Declared().Migrations {
				rows = append(rows, migrate.Row{Version: m.Version, SHA256: m.SHA256})
			}
			return evidence.LedgerSeen{Rows: rows}, nil
		}
		p.Controls[0].Turns = func(api.Declared) []string { return []string{evidence.OtherRows} }
	})
	site := &probe.Site{Declared: app.Declared()}
	stop := func() error { return nil }
	seen, err := probe.Run(t.Context(), []probe.Probe{p}, site, site, stop, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	r := p.Of.Receipt(app.Declared(), "", seen[0])
	if r.Verdict != evidence.Vacuous || !strings.Contains(r.Reason, "it is broken") {
		t.Errorf("the verdict is %s (%s)", r.Verdict, r.Reason)
	}
}

func TestEveryRuleHasARequestThatBreaksIt(t *testing.T) {
	for _, r := range cert.Rules() {
		if _, ok := probe.Breaches[r]; !ok {
			t.Errorf("no request breaks the rule %s", r.Name)
		}
	}
}

func TestRunRecordsTheTestsThatClaimsCite(t *testing.T) {
	p := example(func(*probe.Probe) {})
	cited := evidence.LedgerMatches.Tests
	records := []evidence.TestRecord{{Test: cited[0], Outcome: evidence.TestPassed}}
	for name, tt := range map[string]struct {
		run  func(context.Context, []evidence.Test) ([]evidence.TestRecord, error)
		want []evidence.TestRecord
	}{
		"those that ran": {
			func(context.Context, []evidence.Test) ([]evidence.TestRecord, error) { return records, nil },
			[]evidence.TestRecord{records[0], {Test: cited[1], Outcome: evidence.TestNotRun, Why: "nothing was recorded of it"}},
		},
		"none, for a reason": {
			func(context.Context, []evidence.Test) ([]evidence.TestRecord, error) {
				return records, errors.New("it broke\non this machine")
			},
			[]evidence.TestRecord{{Test: cited[0], Outcome: evidence.TestNotRun, Why: "it broke"}},
		},
		"none without a tree": {nil, []evidence.TestRecord{{Test: cited[0], Outcome: evidence.TestNotRun, Why: "there is no source tree"}}},
	} {
		t.Run(name, func(t *testing.T) {
			site := &probe.Site{Declared: app.Declared(), Tests: tt.run}
			seen, err := probe.Run(t.Context(), []probe.Probe{p}, site, site, func() error { return nil }, func(string) {})
			if err != nil || len(seen[0].Tests) != len(cited) {
				t.Fatalf("%+v, %v", seen[0].Tests, err)
			}
			for i, want := range tt.want {
				if seen[0].Tests[i] != want {
					t.Errorf("of the test %d it is recorded: %s, %q", i, seen[0].Tests[i].Outcome, seen[0].Tests[i].Why)
				}
			}
		})
	}
}
