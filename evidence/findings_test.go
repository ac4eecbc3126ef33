package evidence_test

import (
	"slices"
	"testing"
	"time"

	"certctl/evidence"
	"certctl/server/app"
)

// receipts are one for each claim, with a verdict.
func receipts(verdicts map[string]evidence.Verdict) (all []evidence.Receipt) {
	for _, s := range evidence.Statements() {
		v, ok := verdicts[s.ID]
		if !ok {
			v = evidence.True
		}
		all = append(all, evidence.Receipt{Claim: s.Claim, Verdict: v, Reason: "for a reason"})
	}
	return all
}

func TestFindings(t *testing.T) {
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	state := func(t *testing.T, h evidence.History, id string) evidence.FindingState {
		t.Helper()
		for i := len(h) - 1; i >= 0; i-- {
			if h[i].Finding == id {
				return h[i].State
			}
		}
		t.Fatalf("%s has no state", id)
		return ""
	}
	note := func(h evidence.History, at time.Time, verdicts map[string]evidence.Verdict) evidence.History {
		return h.Note(evidence.About{Commit: "c", BuiltAt: at}, app.Declared(), receipts(verdicts))
	}
	const ledger, caps = "migrate/ledger", "limits/cluster-cap"
	good := note(nil, now, nil)
	for id, want := range map[string]evidence.FindingState{
		"HIGH-1": evidence.FindingClosed, "D4": evidence.FindingClosed, "finding-4": evidence.FindingClosed, "D8": evidence.FindingDeferred,
		"MED-1": evidence.FindingDeferred, "MED-2": evidence.FindingDeferred, "T9": evidence.FindingDeferred,
	} {
		if got := state(t, good, id); got != want {
			t.Errorf("%s is %s, want %s", id, got, want)
		}
	}
	if again := note(good, now, nil); len(again) != len(good) {
		t.Errorf("nothing changed, and the history has %d more", len(again)-len(good))
	}
	t.Run("what turns false falsifies those that name it, and no other", func(t *testing.T) {
		h := note(good, now, map[string]evidence.Verdict{caps: evidence.False})
		if a, b, c := state(t, h, "MED-1"), state(t, h, "MED-2"), state(t, h, "HIGH-1"); a != evidence.FindingFalsified || b != a || c != evidence.FindingClosed {
			t.Errorf("%s, %s and %s", a, b, c)
		}
		if healed := note(h, now, nil); state(t, healed, "MED-1") != evidence.FindingDeferred {
			t.Error("it stays falsified")
		}
	})
	t.Run("what never held is open", func(t *testing.T) {
		if got := state(t, note(nil, now, map[string]evidence.Verdict{ledger: evidence.False}), "HIGH-1"); got != evidence.FindingOpen {
			t.Errorf("it is %s", got)
		}
	})
	t.Run("what says nothing closes nothing", func(t *testing.T) {
		for _, v := range []evidence.Verdict{evidence.Unknown, evidence.Skipped, evidence.Stale} {
			if got := state(t, note(nil, now, map[string]evidence.Verdict{ledger: v}), "HIGH-1"); got != evidence.FindingUnknown {
				t.Errorf("%s: it is %s", v, got)
			}
		}
	})
	t.Run("what proves nothing opens it again", func(t *testing.T) {
		if got := state(t, note(good, now, map[string]evidence.Verdict{ledger: evidence.Vacuous}), "HIGH-1"); got != evidence.FindingOpen {
			t.Errorf("it is %s", got)
		}
	})
	t.Run("a deferral ends", func(t *testing.T) {
		if got := state(t, note(good, now.AddDate(5, 0, 0), nil), "D8"); got != evidence.FindingOpen {
			t.Errorf("it is %s", got)
		}
	})
	t.Run("one that was wrong says so, as long as its claims hold", func(t *testing.T) {
		f := &evidence.Finding{ID: "X", Claims: []*evidence.Statement{evidence.LedgerMatches}, Wrong: "the auditor looked at another server"}
		wrong := evidence.AnswerOf(f, nil, now, app.Declared(), receipts(nil))
		if wrong.State != evidence.FindingWrong || wrong.Why != f.Wrong {
			t.Errorf("it is %s (%s)", wrong.State, wrong.Why)
		}
		held := evidence.History{{Finding: "X", State: wrong.State}}
		for v, want := range map[evidence.Verdict]evidence.FindingState{
			evidence.False: evidence.FindingFalsified, evidence.Vacuous: evidence.FindingOpen, evidence.Unknown: evidence.FindingUnknown,
		} {
			if got := evidence.AnswerOf(f, held, now, app.Declared(), receipts(map[string]evidence.Verdict{ledger: v})); got.State != want {
				t.Errorf("with a receipt that is %s it is %s, want %s", v, got.State, want)
			}
		}
	})
	t.Run("each finding that is deferred says why and until when", func(t *testing.T) {
		for _, f := range evidence.Findings() {
			if _, err := time.Parse(time.DateOnly, f.Deferred.Until); f.Contract != nil && (err != nil || f.Deferred.Reason == "") {
				t.Errorf("%s: %+v", f.ID, f.Deferred)
			}
			if f.Question == "" || f.Before == "" || f.After == "" || !slices.Contains(evidence.Severities, f.Severity) || len(f.Claims) == 0 && f.Contract == nil {
				t.Errorf("%s is not complete", f.ID)
			}
		}
	})
}
