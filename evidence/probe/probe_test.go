package probe_test

import (
	"testing"

	"certctl/evidence"
	"certctl/evidence/probe"
	"certctl/server/app"
	"certctl/server/cert"
)

func TestEveryClaimHasOneProbeThatCanFail(t *testing.T) {
	probes := map[*evidence.Statement]int{}
	for _, p := range probe.Probes {
		probes[p.Of]++
		if len(p.Controls) == 0 {
			t.Errorf("the probe of %s has no control", p.Of.ID)
		}
		for _, c := range p.Controls {
			if c.Says == "" || len(c.Turns(app.Declared())) == 0 {
				t.Errorf("a control of %s names no defect, or nothing that it turns red", p.Of.ID)
			}
		}
	}
	for _, s := range evidence.Statements() {
		if probes[s] != 1 {
			t.Errorf("the claim %s has %d probes", s.ID, probes[s])
		}
	}
}

func TestEveryRuleHasARequestThatBreaksIt(t *testing.T) {
	for _, r := range cert.Rules() {
		if _, ok := probe.Breaches[r]; !ok {
			t.Errorf("no request breaks the rule %s", r.Name)
		}
	}
}
