package main

import (
	"go/format"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestANewFindingIsARowThatFits(t *testing.T) {
	root := "../.."
	args := func(change ...string) []string {
		all := []string{
			"findings", "new", "MED-3", "--root", root, "--severity", "medium", "--question", `Who reads "it"?`, "--before", "Nobody knew.",
			"--after", "A role says who.", "--claim", "access/roles", "--claim", "audit/intact",
		}
		return append(all, change...)
	}
	code, row, stderr := audit(t, known(), args()...)
	want := "\t\t{\n\t\t\tID: \"MED-3\", Severity: \"medium\",\n\t\t\tQuestion: \"Who reads \\\"it\\\"?\",\n\t\t\tBefore:   \"Nobody knew.\",\n" +
		"\t\t\tAfter:    \"A role says who.\",\n\t\t\tClaims:   []*Statement{RolesGuard, TrailIntact},\n\t\t},\n"
	if code != exitTrue || row != want {
		t.Fatalf("exit %d, %s, printed\n%s", code, stderr, row)
	}
	ledger, err := os.ReadFile(filepath.Join(root, "evidence/ledger.go"))
	if err != nil {
		t.Fatal(err)
	}
	const first = "\t\t{\n\t\t\tID: \"HIGH-1\""
	pasted := strings.Replace(string(ledger), first, row+first, 1)
	if formatted, err := format.Source([]byte(pasted)); err != nil || string(formatted) != pasted || pasted == string(ledger) {
		t.Errorf("the row does not fit into the table: %v", err)
	}
	if code, row, _ := audit(t, known(), args("--wrong", "It was another server.")...); code != exitTrue || !strings.Contains(row, "\t\t\tWrong:    \"It was another server.\",\n") {
		t.Errorf("exit %d, printed\n%s", code, row)
	}
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"an id that is taken":       {append([]string{"findings", "new", "med-1"}, args()[3:]...), "MED-1 is taken"},
		"no id":                     {append([]string{"findings", "new", "MED 3"}, args()[3:]...), "an id has letters"},
		"a severity of no kind":     {args("--severity", "grave"), "--severity is one of high, medium, low"},
		"a claim that is none":      {args("--claim", "access/rules"), `"access/rules" is no claim; the claims are access/roles`},
		"a claim that is twice":     {args("--claim", "audit/intact"), "is named twice"},
		"no question":               {args("--question", " "), "--question is missing"},
		"a tree without claims":     {args("--root", filepath.Join(root, "docs")), "no variable of evidence/*.go holds the claim access/roles"},
		"no claim":                  {args()[:len(args())-4], "--claim is missing"},
		"all that is wrong at once": {[]string{"findings", "new", "D8", "--root", root}, "--severity is one of high, medium, low\n--question is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := audit(t, known(), tt.args...)
			if code != exitUnknown || stdout != "" || !strings.Contains(stderr, tt.want) {
				t.Errorf("exit %d, said %q, want %q", code, stderr, tt.want)
			}
		})
	}
}
