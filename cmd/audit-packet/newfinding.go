package main

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"certctl/evidence"
)

func newFindingCommand() *cobra.Command {
	f := &evidence.Finding{}
	var claims []string
	cmd := &cobra.Command{
		Use:   "new ID",
		Short: "Print a row for a finding of an audit",
		Long: `New prints a row for evidence/ledger.go, ready to be pasted, once it has found that
the id is free, the severity is known and every claim is there. Nothing is written.

The state of the finding follows from the receipts of its claims, once the packet is
built anew.`,
		Example: `  audit-packet findings new MED-3 --severity medium --question "Who reads the trail?" \
    --before "Nobody knew." --after "A role says who." --claim access/roles --claim audit/intact`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.ID = args[0]
			tree, err := openTree(cmd)
			if err != nil {
				return err
			}
			defer tree.Close()
			variables, err := claimVariables(tree.FS())
			if err != nil {
				return err
			}
			row, err := findingRow(f, claims, variables)
			if err == nil {
				cmd.Print(row)
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.Severity, "severity", "", "one of "+strings.Join(evidence.Severities, ", "))
	flags.StringVar(&f.Question, "question", "", "what the audit asked")
	flags.StringVar(&f.Before, "before", "", "what it found")
	flags.StringVar(&f.After, "after", "", "what is so now")
	flags.StringVar(&f.Wrong, "wrong", "", "why the audit was wrong, if it was")
	flags.StringArrayVar(&claims, "claim", nil, "a claim whose receipt has to hold; may be repeated")
	return cmd
}

var (
	findingID     = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]*$`)
	claimVariable = regexp.MustCompile(`(?m)^\s*(?:var )?([A-Z]\w*)\s*=\s*statement\("([^"]+)"`)
)

// claimVariables are the variables of the source that hold claims, by the claim.
func claimVariables(tree fs.FS) (map[string]string, error) {
	files, err := fs.Glob(tree, "evidence/*.go")
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, name := range files {
		src, err := fs.ReadFile(tree, name)
		if err != nil {
			return nil, err
		}
		for _, m := range claimVariable.FindAllStringSubmatch(string(src), -1) {
			found[m[2]] = m[1]
		}
	}
	return found, nil
}

// findingRow is the row of a finding, or all that is wrong with it.
func findingRow(f *evidence.Finding, claims []string, variables map[string]string) (string, error) {
	var wrong []string
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if !findingID.MatchString(f.ID) {
		bad("an id has letters, digits and hyphens, and begins with a letter")
	}
	for _, id := range findingIDs() {
		if strings.EqualFold(id, f.ID) {
			bad("%s is taken; choose another id", id)
		}
	}
	if !slices.Contains(evidence.Severities, f.Severity) {
		bad("--severity is one of %s", strings.Join(evidence.Severities, ", "))
	}
	for _, needed := range [][2]string{{"question", f.Question}, {"before", f.Before}, {"after", f.After}} {
		if strings.TrimSpace(needed[1]) == "" {
			bad("--%s is missing", needed[0])
		}
	}
	if len(claims) == 0 {
		bad("--claim is missing: without a claim nothing answers it")
	}
	var held []string
	for i, id := range claims {
		switch {
		case !slices.Contains(claimIDs(), id):
			bad("%q is no claim; the claims are %s", id, strings.Join(claimIDs(), ", "))
		case slices.Contains(claims[:i], id):
			bad("the claim %s is named twice", id)
		case variables[id] == "":
			bad("no variable of evidence/*.go holds the claim %s; name one that has a variable", id)
		default:
			held = append(held, variables[id])
		}
	}
	if len(wrong) > 0 {
		return "", errors.New(strings.Join(wrong, "\n"))
	}
	row := fmt.Sprintf("\t\t{\n\t\t\tID: %q, Severity: %q,\n\t\t\tQuestion: %q,\n\t\t\tBefore:   %q,\n\t\t\tAfter:    %q,\n\t\t\tClaims:   []*Statement{%s},\n",
		f.ID, f.Severity, f.Question, f.Before, f.After, strings.Join(held, ", "))
	if f.Wrong != "" {
		row += fmt.Sprintf("\t\t\tWrong:    %q,\n", f.Wrong)
	}
	return row + "\t\t},\n", nil
}
