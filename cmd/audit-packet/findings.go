package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"certctl/evidence"
)

func findingsCommand() *cobra.Command {
	var asJSON bool
	var dir string
	cmd := &cobra.Command{
		Use:   "findings [ID]",
		Short: "Show what has become of the findings of an audit",
		Long: `Findings lists the questions of the first audit with their states, as the receipts
of a packet give them; with an id it shows the closure record of one. Nobody sets a
state: a finding is closed while every receipt that it names holds.

It exits with 0 if every finding is closed, deferred or verified-false, with 1 if one is open or was
falsified, and with 2 if a receipt says nothing.

A row that says why the audit was wrong makes its finding verified-false while its
receipts hold. To add a finding, audit-packet findings new prints a row for
evidence/ledger.go.`,
		Example: `  audit-packet findings                 all of them
  audit-packet findings MED-1           one, with its receipts
  audit-packet findings --json          for programs
  audit-packet findings new --help      add one`,
		Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return findingIDs(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			packet := os.DirFS(dir)
			receipts, err := evidence.Receipts(packet)
			if err != nil {
				return err
			}
			answers, err := evidence.Answers(packet, receipts)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				at := slices.IndexFunc(answers, func(a evidence.Answer) bool { return a.ID == args[0] })
				if at < 0 {
					return fmt.Errorf("%q is no finding; the findings are %s", args[0], strings.Join(findingIDs(), ", "))
				}
				answers = answers[at : at+1]
				if !asJSON {
					page, err := fs.ReadFile(packet, answers[0].File())
					if err == nil {
						_, err = cmd.OutOrStdout().Write(page)
					}
					if err != nil {
						return err
					}
					return stateOf(answers)
				}
			}
			if err := printFindings(cmd.OutOrStdout(), answers, asJSON); err != nil {
				return err
			}
			return stateOf(answers)
		},
	}
	cmd.AddCommand(newFindingCommand())
	cmd.Flags().StringVar(&dir, "packet", evidence.PacketDir, "the packet")
	cmd.Flags().BoolVar(&asJSON, "json", false, "say it as JSON")
	return cmd
}

func findingIDs() (ids []string) {
	for _, f := range evidence.Findings() {
		ids = append(ids, f.ID)
	}
	return ids
}

func printFindings(w io.Writer, answers []evidence.Answer, asJSON bool) error {
	type row struct {
		ID       string                `json:"id"`
		Severity string                `json:"severity"`
		Question string                `json:"question"`
		State    evidence.FindingState `json:"state"`
		Why      string                `json:"why,omitempty"`
		Claims   []string              `json:"claims"`
		Missing  []string              `json:"missing"`
	}
	rows := []row{}
	for _, a := range answers {
		r := row{a.ID, a.Severity, a.Question, a.State, a.Why, []string{}, append([]string{}, a.Missing...)}
		for _, receipt := range a.Receipts {
			r.Claims = append(r.Claims, receipt.Claim.ID)
		}
		rows = append(rows, r)
	}
	if asJSON {
		text, err := evidence.Encode(rows)
		if err == nil {
			_, err = w.Write(text)
		}
		return err
	}
	for _, r := range rows {
		fmt.Fprintf(w, "%-9s %-14s %s\n", r.ID, r.State, r.Question)
		if r.Why != "" {
			fmt.Fprintf(w, "%24s %s\n", "", r.Why)
		}
	}
	return nil
}

// stateOf is the error whose exit code the findings have.
func stateOf(answers []evidence.Answer) error {
	var unsure error
	for _, a := range answers {
		switch a.State {
		case evidence.FindingClosed, evidence.FindingDeferred, evidence.FindingWrong:
		case evidence.FindingOpen, evidence.FindingFalsified:
			return errFalse
		case evidence.FindingUnknown:
			unsure = fmt.Errorf("%s is %s: %s", a.ID, a.State, a.Why)
		}
	}
	return unsure
}
