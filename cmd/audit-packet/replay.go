package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"certctl/evidence"
	"certctl/evidence/probe"
	"certctl/server/app"
)

func replayCommand() *cobra.Command {
	var t target
	var asJSON, withControls bool
	cmd := &cobra.Command{
		Use:   "replay CLAIM",
		Short: "Do the experiment of one claim again",
		Long: `Replay does the experiment of one claim again, on servers and a PostgreSQL of its
own, and judges it as the packet's was judged. Its controls, the same experiment on
systems with a known defect, are done too: without them a probe that cannot fail
would pass. The tests that the claim cites are run in the source tree. The same seed
makes the same choices.

With --url the claim is looked at on a running server of the same build, and the
defects are still the laboratory's. An experiment that leaves something on that server
is refused without --disruptive.

Exit code 1 says that the claim is false, 2 that it could not be looked at.`,
		Example: `  audit-packet replay limits/cluster-cap
  audit-packet replay audit/intact --url https://certctl.example:8443 --key-file auditor.key --roots ca.pem --checkpoint monday.note --verifier log.pub
  audit-packet replay migrate/ledger --controls=false`,
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return claimIDs(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			say := func(what string) { progress(cmd.ErrOrStderr(), what) }
			r, err := replay(cmd, t, args[0], withControls, say)
			say("")
			if err != nil {
				return err
			}
			if err := printReceipt(cmd.OutOrStdout(), r, asJSON); err != nil {
				return err
			}
			if !withControls && r.Verdict == evidence.Vacuous && r.TestsHold() && !slices.ContainsFunc(r.Checks, func(c evidence.Check) bool { return !c.Holds() }) {
				return nil // as was asked for
			}
			if r.Verdict == evidence.Skipped {
				return fmt.Errorf("%s could not be looked at: %s", r.Claim.ID, r.Reason)
			}
			return outcome([]evidence.Receipt{r})
		},
	}
	f := cmd.Flags()
	t.flags(f)
	f.BoolVar(&withControls, "controls", true, "show that the experiment can fail")
	f.BoolVar(&asJSON, "json", false, "print the receipt as JSON")
	return cmd
}

func claimIDs() (ids []string) {
	for _, s := range evidence.Statements() {
		ids = append(ids, s.ID)
	}
	return ids
}

func replay(cmd *cobra.Command, t target, claim string, withControls bool, say func(string)) (r evidence.Receipt, err error) {
	ctx := cmd.Context()
	probes := probe.Probes()
	at := slices.IndexFunc(probes, func(p probe.Probe) bool { return p.Of.ID == claim })
	if at < 0 {
		return r, fmt.Errorf("%q is no claim; the claims are %s", claim, strings.Join(claimIDs(), ", "))
	}
	p := probes[at]
	if t.url != "" && p.Harms != "" && !t.disruptive {
		return r, fmt.Errorf("the experiment of %s %s; --disruptive allows it to", claim, p.Harms)
	}
	if !withControls {
		p.Controls = nil
	}
	if err := t.find(); err != nil {
		return r, err
	}
	build, err := t.build(ctx)
	if err != nil {
		return r, err
	}
	tree := sourceOf(cmd, build.Commit)
	say("starting PostgreSQL and a server")
	l, err := t.laboratory(ctx)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, l.Stop()) }()
	declared := app.Declared()
	base, stop, err := probe.Base(ctx, l, declared, t.quick, t.seed)
	if err != nil {
		return r, err
	}
	site := base
	if t.url != "" {
		site, err = t.site(l, declared)
		if err == nil {
			_, err = introspect(ctx, site, build)
		}
		if err != nil {
			return r, errors.Join(err, stop())
		}
	}
	site.Tests = tree.tests
	seen, err := probe.Run(ctx, []probe.Probe{p}, site, base, stop, say)
	if err != nil {
		return r, err
	}
	return p.Of.Receipt(declared, tree.code, seen[0]), nil
}

func printReceipt(w io.Writer, r evidence.Receipt, asJSON bool) error {
	if asJSON {
		text, err := evidence.Encode(r)
		if err == nil {
			_, err = w.Write(text)
		}
		return err
	}
	fmt.Fprintf(w, "%s: %s\n", r.Verdict, r.Claim.Says)
	if r.Reason != "" {
		fmt.Fprintf(w, "  %s\n", r.Reason)
	}
	for _, c := range r.Checks {
		mark := "as declared"
		if !c.Holds() {
			mark = "DIFFERS"
		}
		fmt.Fprintf(w, "  %-12s %s: declared %s, seen %s\n", mark, c.What, c.Want, c.Got)
	}
	for _, t := range r.Tests {
		mark := string(t.Outcome)
		if t.Verdict != evidence.True {
			mark = strings.ToUpper(string(t.Verdict)) + ": " + t.Reason
		}
		fmt.Fprintf(w, "  test: %s: %s\n", t.Test, mark)
	}
	for _, c := range r.Controls {
		mark := "red, for its reason"
		if !c.Holds() {
			mark = "NOT RED FOR ITS REASON: must turn " + strings.Join(c.Turns, ", ") + "; turned " + strings.Join(c.Red, ", ") + " " + c.Failed
		}
		fmt.Fprintf(w, "  control: %s: %s\n", c.Defect, mark)
	}
	return nil
}
