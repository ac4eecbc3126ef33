package tested_test

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"certctl/evidence"
	"certctl/evidence/tested"
)

const fixture = "testdata/module"

// wants are what the tests of a module that is only there to be cited come to.
var wants = map[string]want{
	"good.TestAdds":                    {evidence.TestPassed, true, ""},
	"good.TestAddsByAHelper":           {evidence.TestPassed, true, ""},
	"good.TestAddsOnABench":            {evidence.TestPassed, true, ""},
	"good.TestAddsInEverySubtest":      {evidence.TestPassed, true, ""},
	"missing.TestIsGone":               {evidence.TestNotRun, false, "the package has no test of that name, nor one that is like it"},
	"nowhere.TestIsGone":               {evidence.TestNotRun, false, "the module has no such package"},
	"renamed.TestSumOfTwo":             {evidence.TestNotRun, false, "the package has no test of that name; TestSumOfTwoNumbers may be it, renamed"},
	"skipped.TestSkipsItself":          {evidence.TestSkipped, true, "it says so itself"},
	"skipped.TestSkipsEverySubtest":    {evidence.TestSkipped, true, "every subtest of it was"},
	"tagged.TestSlowly":                {evidence.TestNotRun, false, "it is in tagged_test.go, which is not built: its build constraint is not met"},
	"unselected.TestIsNeverSelected":   {evidence.TestNotRun, true, "-run selected no test of that name, though its source is there"},
	"passing.TestHoldsNothing":         {evidence.TestPassed, false, unfailing},
	"passing.TestOnlySays":             {evidence.TestPassed, false, unfailing},
	"passing.TestNeverLooks":           {evidence.TestPassed, false, unfailing},
	"passing.TestIsNotCareful":         {evidence.TestPassed, false, unfailing},
	"passing.TestRangesOverNothing":    {evidence.TestPassed, false, unfailing},
	"passing.TestCallsNobody":          {evidence.TestPassed, false, unfailing},
	"passing.TestErrorOfSomethingElse": {evidence.TestPassed, false, unfailing},
	"failing.TestFails":                {evidence.TestFailed, true, ""},
	"failing.TestDies":                 {evidence.TestFailed, true, ""},
	"broken.TestBuilds":                {evidence.TestNotRun, true, "its package does not build: broken/broken_test.go:5:41: undefined: undeclared"},
}

func TestWhatACitedTestIsWorth(t *testing.T) {
	reasons := map[string]string{}
	for test, want := range runFixture(t) {
		t.Run(test, func(t *testing.T) {
			if want.got.Outcome != want.outcome || want.got.Asserts != want.asserts || want.got.Why != want.why || len(want.got.Code) != 64 {
				t.Errorf("got %s, can fail: %t, %q; want %s, can fail: %t, %q", want.got.Outcome, want.got.Asserts, want.got.Why, want.outcome, want.asserts, want.why)
			}
		})
		if r := want.got; r.Outcome != evidence.TestPassed || !r.Asserts {
			reasons[test] = r.Why
		}
	}
	// Of the ways in which a citation can prove nothing, each is told apart.
	told := map[string]bool{}
	for _, test := range []string{
		"missing.TestIsGone", "renamed.TestSumOfTwo", "skipped.TestSkipsItself", "tagged.TestSlowly", "unselected.TestIsNeverSelected",
		"passing.TestNeverLooks",
	} {
		if why := reasons[test]; why == "" || told[why] {
			t.Errorf("of %s it is said %q", test, why)
		}
		told[reasons[test]] = true
	}
}

const unfailing = "it reaches no call of t.Error, t.Fatal, t.Fail or their like"

type want struct {
	outcome evidence.Outcome
	asserts bool
	why     string
}

type compared struct {
	want
	got evidence.TestRecord
}

func runFixture(t *testing.T) map[string]compared {
	t.Helper()
	var cited []evidence.Test
	for name := range wants {
		pkg, test, _ := strings.Cut(name, ".")
		cited = append(cited, evidence.Test{Package: pkg, Name: test})
	}
	records, err := tested.Run(t.Context(), fixture, cited)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]compared{}
	for _, r := range records {
		all[r.String()] = compared{wants[r.String()], r}
	}
	if len(all) != len(wants) {
		t.Errorf("%d records of %d tests", len(all), len(wants))
	}
	return all
}

func TestWithoutGoNothingIsRun(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	records, err := tested.Run(t.Context(), fixture, []evidence.Test{{Package: "good", Name: "TestAdds"}})
	if err != nil || records[0].Outcome != evidence.TestNotRun || records[0].Why != "there is no go command to run it with" {
		t.Errorf("got %+v, %v", records, err)
	}
	if _, err := tested.Run(t.Context(), t.TempDir(), nil); err == nil {
		t.Error("a folder without a module was taken")
	}
}

// What claims cite is there, and can fail; that it ran, a packet says.
func TestWhatClaimsCiteIsThere(t *testing.T) {
	t.Parallel()
	var cited []evidence.Test
	for _, s := range evidence.Statements() {
		cited = append(cited, s.Tests...)
	}
	records, _, err := tested.Read("../..", cited)
	if err != nil || len(records) == 0 {
		t.Fatal(records, err)
	}
	for _, r := range records {
		if !r.Asserts {
			t.Errorf("%s: %s", r.Test, r.Why)
		}
	}
}

func TestCodeIsEverythingThatIsBuiltOrTested(t *testing.T) {
	base := func() fstest.MapFS {
		return fstest.MapFS{
			"go.mod": {Data: []byte("module a\n")}, "go.sum": {Data: []byte("b\n")}, "a/a.go": {Data: []byte("package a\n\n//go:embed a.txt *.html\nvar x string\n")},
			"a/a.txt": {Data: []byte("a")}, "a/b.html": {Data: []byte("b")}, "a/c.txt": {Data: []byte("c")}, "m/1.sql": {Data: []byte("select 1")},
			"a/testdata/deep/x": {Data: []byte("x")}, "docs/a.md": {Data: []byte("# A\n")}, ".git/x.go": {Data: []byte("package x\n")},
		}
	}
	code := func(change func(fstest.MapFS)) string {
		tree := base()
		change(tree)
		h, err := tested.Code(tree)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	same := code(func(fstest.MapFS) {})
	for _, name := range []string{"go.mod", "go.sum", "a/a.go", "a/a.txt", "a/b.html", "m/1.sql", "a/testdata/deep/x"} {
		if code(func(f fstest.MapFS) { f[name].Data = append(f[name].Data, ' ') }) == same {
			t.Errorf("a change of %s does not show", name)
		}
		if code(func(f fstest.MapFS) { f[name+"x.go"] = f[name]; delete(f, name) }) == same {
			t.Errorf("another name of %s does not show", name)
		}
	}
	for _, name := range []string{"docs/a.md", ".git/x.go", "a/c.txt"} {
		if code(func(f fstest.MapFS) { f[name].Data = append(f[name].Data, ' ') }) != same {
			t.Errorf("%s is not of the code", name)
		}
	}
	if again, err := tested.Code(os.DirFS(fixture)); err != nil || len(again) != 64 {
		t.Errorf("of a folder: %q, %v", again, err)
	}
}
