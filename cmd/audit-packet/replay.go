package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"certctl/evidence"
	"certctl/evidence/lab"
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
would pass.`,
		Example: `  audit-packet replay limits/cluster-cap
  audit-packet replay migrate/ledger --controls=false`,
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return claimIDs(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			say := func(what string) { progress(cmd.ErrOrStderr(), what) }
			r, err := replay(cmd.Context(), t, args[0], withControls, say)
			say("")
			if err != nil {
				return err
			}
			if err := printReceipt(cmd.OutOrStdout(), r, asJSON); err != nil {
				return err
			}
			if !withControls && r.Verdict == evidence.Vacuous && !slices.ContainsFunc(r.Checks, func(c evidence.Check) bool { return !c.Holds() }) {
				return nil // as was asked for
			}
			return outcome([]evidence.Receipt{r})
		},
	}
	f := cmd.Flags()
	f.StringVar(&t.server, "server", "", "certctl-server binary (default: beside this one)")
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

func replay(ctx context.Context, t target, claim string, withControls bool, say func(string)) (r evidence.Receipt, err error) {
	at := slices.IndexFunc(probe.Probes, func(p probe.Probe) bool { return p.Of.ID == claim })
	if at < 0 {
		return r, fmt.Errorf("%q is no claim; the claims are %s", claim, strings.Join(claimIDs(), ", "))
	}
	p := probe.Probes[at]
	if t.server == "" {
		self, err := os.Executable()
		if err != nil {
			return r, err
		}
		t.server = filepath.Join(filepath.Dir(self), "certctl-server")
	}
	say("starting PostgreSQL and a server")
	l, err := lab.Start(ctx, t.server)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, l.Stop()) }()
	declared := app.Declared()
	base, stop, err := probe.Base(ctx, l, declared)
	if err != nil {
		return r, err
	}
	say(claim)
	o := p.Observe(ctx, base)
	if err := stop(); err != nil {
		return r, err
	}
	if withControls && o.Skipped == "" {
		for _, d := range p.Controls {
			say(claim + ", control: " + d.Says)
			o.Controls = append(o.Controls, p.Control(ctx, base, d))
		}
	}
	return p.Of.Receipt(declared, o), nil
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
	for _, c := range r.Controls {
		mark := "red, for its reason"
		if !c.Holds() {
			mark = "NOT RED FOR ITS REASON: must turn " + strings.Join(c.Turns, ", ") + "; turned " + strings.Join(c.Red, ", ") + " " + c.Failed
		}
		fmt.Fprintf(w, "  control: %s: %s\n", c.Defect, mark)
	}
	return nil
}
