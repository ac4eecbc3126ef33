package evidence_test

import (
	"encoding/json"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"certctl/evidence"
	"certctl/server/app"
	"certctl/server/migrate"
)

const here = "the hash of this code"

// ledgerPacket is a packet in which the ledger was as declared, with records of the
// tests that the claim cites, each changed by change.
func ledgerPacket(t *testing.T, change func(*evidence.TestRecord)) fs.FS {
	t.Helper()
	d := app.Declared()
	rows := evidence.LedgerSeen{}
	for _, m := range d.Migrations {
		rows.Rows = append(rows.Rows, migrate.Row{Version: m.Version, SHA256: m.SHA256})
	}
	encode := func(v any) json.RawMessage {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	o := evidence.Observation{Claim: evidence.LedgerMatches.ID, Seen: encode(rows)}
	o.Controls = []evidence.ControlObservation{{
		Defect: "a row nobody declared", Turns: []string{evidence.OtherRows},
		Seen: encode(evidence.LedgerSeen{Rows: append(rows.Rows[:len(rows.Rows):len(rows.Rows)], migrate.Row{Version: "9999_x"})}),
	}}
	for _, test := range evidence.LedgerMatches.Tests {
		r := evidence.TestRecord{Test: test, Outcome: evidence.TestPassed, Asserts: true, Code: here}
		change(&r)
		o.Tests = append(o.Tests, r)
	}
	history := evidence.History{{Finding: "HIGH-1", State: evidence.FindingClosed}}
	return fstest.MapFS{
		evidence.AboutFile:                           {Data: encode(evidence.About{Code: here, BuiltAt: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)})},
		evidence.DeclaredFile:                        {Data: encode(d)},
		evidence.FindingsFile:                        {Data: encode(history)},
		evidence.DataFile(evidence.LedgerMatches.ID): {Data: encode(o)},
	}
}

// judged returns the receipt of the ledger, and what has become of its finding once
// every other claim is true.
func judged(t *testing.T, packet fs.FS) (evidence.Receipt, evidence.FindingState) {
	t.Helper()
	all, err := evidence.Receipts(packet)
	if err != nil {
		t.Fatal(err)
	}
	var ledger evidence.Receipt
	for i := range all {
		if all[i].Claim.ID == evidence.LedgerMatches.ID {
			ledger = all[i]
			continue
		}
		all[i].Verdict = evidence.True
	}
	answers, err := evidence.Answers(packet, all)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range answers {
		if a.ID == "HIGH-1" {
			return ledger, a.State
		}
	}
	t.Fatal("there is no such finding")
	return ledger, ""
}

func TestAClaimIsWorthNoMoreThanTheTestsItCites(t *testing.T) {
	first := evidence.LedgerMatches.Tests[0]
	for name, tt := range map[string]struct {
		change  func(*evidence.TestRecord)
		verdict evidence.Verdict
		state   evidence.FindingState
		reason  string
	}{
		"all passed":       {func(*evidence.TestRecord) {}, evidence.True, evidence.FindingClosed, ""},
		"one was skipped":  {func(r *evidence.TestRecord) { r.Outcome = evidence.TestSkipped }, evidence.Vacuous, evidence.FindingOpen, "was skipped"},
		"one was not run":  {func(r *evidence.TestRecord) { r.Outcome, r.Why = evidence.TestNotRun, "it is gone" }, evidence.Vacuous, evidence.FindingOpen, "was not run: it is gone"},
		"one cannot fail":  {func(r *evidence.TestRecord) { r.Asserts = false }, evidence.Vacuous, evidence.FindingOpen, "cannot fail"},
		"one failed":       {func(r *evidence.TestRecord) { r.Outcome = evidence.TestFailed }, evidence.False, evidence.FindingFalsified, "failed"},
		"other code":       {func(r *evidence.TestRecord) { r.Code = "another" }, evidence.Stale, evidence.FindingUnknown, "ran for other code"},
		"no record":        {func(r *evidence.TestRecord) { r.Name = "TestOfSomethingElse" }, evidence.Vacuous, evidence.FindingOpen, "it has no record"},
		"of other package": {func(r *evidence.TestRecord) { r.Package = "server/x" }, evidence.Vacuous, evidence.FindingOpen, "it has no record"},
	} {
		t.Run(name, func(t *testing.T) {
			packet := ledgerPacket(t, func(r *evidence.TestRecord) {
				if r.Test == first {
					tt.change(r)
				}
			})
			r, state := judged(t, packet)
			if r.Verdict != tt.verdict || state != tt.state || !strings.Contains(r.Reason, tt.reason) || r.TestsHold() != (tt.verdict == evidence.True) {
				t.Errorf("%s (%s), and the finding %s; want %s (%s) and %s", r.Verdict, r.Reason, state, tt.verdict, tt.reason, tt.state)
			}
			files, err := evidence.RenderPacket(packet)
			if err != nil {
				t.Fatal(err)
			}
			for _, page := range []string{r.File(), "findings/HIGH-1.md"} {
				if text := string(files[page]); !strings.Contains(text, first.String()) || !strings.Contains(text, tt.reason) {
					t.Errorf("%s does not say it:\n%s", page, text)
				}
			}
		})
	}
}

func TestAFalsifiedFindingShowsWhatBrokeIt(t *testing.T) {
	packet := ledgerPacket(t, func(r *evidence.TestRecord) {
		if r.Test == evidence.LedgerMatches.Tests[0] {
			r.Outcome = evidence.TestFailed
		}
	})
	const claim = "| [`migrate/ledger`](../receipts/migrate-ledger.md) | "
	page := func() string {
		files, err := evidence.RenderPacket(packet)
		if err != nil {
			t.Fatal(err)
		}
		_, page, _ := strings.Cut(string(files["findings/HIGH-1.md"]), "## What broke it\n")
		page, _, _ = strings.Cut(page, "\n## ")
		return page
	}
	if got, want := page(), claim+"`"+evidence.LedgerMatches.Tests[0].String()+"` | pass | fail |"; !strings.Contains(got, want) {
		t.Errorf("the record does not say %s:\n%s", want, got)
	}
	packet = ledgerPacket(t, func(*evidence.TestRecord) {})
	if got := page(); got != "" {
		t.Errorf("nothing broke it, and the record says %s", got)
	}
	name := evidence.DataFile(evidence.LedgerMatches.ID)
	data := packet.(fstest.MapFS)[name]
	last := app.Declared().Migrations[len(app.Declared().Migrations)-1]
	data.Data = []byte(strings.ReplaceAll(string(data.Data), last.SHA256, "edited"))
	if got, want := page(), claim+last.Version+" | "+last.SHA256+" | edited |"; !strings.Contains(got, want) {
		t.Errorf("the record does not say %s:\n%s", want, got)
	}
}

func TestAFailedTestIsNotHiddenByWhatWasNotLookedAt(t *testing.T) {
	of := evidence.LedgerMatches
	failed := []evidence.TestRecord{{Test: of.Tests[0], Outcome: evidence.TestFailed, Asserts: true, Code: here}}
	for _, o := range []evidence.Observation{{Skipped: "no database", Tests: failed}, {Failed: "it is down", Tests: failed}} {
		if r := of.Receipt(app.Declared(), here, o); r.Verdict != evidence.False {
			t.Errorf("%+v is %s", o, r.Verdict)
		}
	}
	if r := of.Receipt(app.Declared(), here, evidence.Observation{Skipped: "no database"}); r.Verdict != evidence.Skipped {
		t.Errorf("without a record it is %s", r.Verdict)
	}
}
