package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"certctl/evidence"
	"certctl/evidence/prose"
	"certctl/evidence/tested"
)

func checkCommand(f facts) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check that the pages say what is so",
		Long: `Check compares the pages of a source tree with the tables of this build and with
the committed observations. It reports everything that is not so, each with the
way to mend it:

  - a page or a receipt that is not what is rendered, with the difference;
  - a claim that the packet does not show to be true;
  - a generated block that was edited by hand;
  - a code span that names a setting, metric, loop, permission, audit action,
    route, Go symbol, file or make target that does not exist;
  - a link or an anchor that leads nowhere, or out of the repository;
  - a count in prose.`,
		Example: `  audit-packet check                 this checkout
  audit-packet check --root ../x     another one
  audit-packet check --json          for programs`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			tree, err := openTree(cmd)
			if err != nil {
				return err
			}
			defer tree.Close()
			progress(cmd.ErrOrStderr(), "reading the declared tables and the packet")
			in, err := f.inputs(tree.FS())
			if err != nil {
				progress(cmd.ErrOrStderr(), "")
				return err
			}
			var problems []evidence.Problem
			var unknown []error
			for _, step := range []struct {
				what string
				look func() ([]evidence.Problem, error)
			}{
				{"rendering the pages", func() ([]evidence.Problem, error) { return stalePages(tree.FS(), in) }},
				{"reading the verdicts", func() ([]evidence.Problem, error) { return verdicts(in) }},
				{"rendering the packet", func() ([]evidence.Problem, error) { return f.stalePacket(tree.FS(), in.Packet) }},
				{"reading the prose", func() ([]evidence.Problem, error) { return prose.Check(tree.FS(), in) }},
			} {
				progress(cmd.ErrOrStderr(), step.what)
				found, err := step.look()
				problems = append(problems, found...)
				if err != nil {
					unknown = append(unknown, fmt.Errorf("%s: %w", step.what, err))
				}
			}
			progress(cmd.ErrOrStderr(), "")
			if in.Packet != nil && (!evidence.SameDeclarations(in) || !sameCode(tree.FS(), in.Packet)) {
				cmd.PrintErrln("the packet was built of other code than this tree has: its verdicts are stale until make audit-packet")
			}
			if len(unknown) > 0 && len(problems) == 0 {
				return errors.Join(unknown...)
			}
			for _, err := range unknown {
				cmd.PrintErrln("audit-packet:", err)
			}
			return report(cmd, asJSON, problems, "the pages, the packet and the prose hold")
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "say it as JSON")
	return cmd
}

// sameCode reports whether the packet was built of the tree's code, as far as it
// says of which.
func sameCode(tree, packet fs.FS) bool {
	var about evidence.About
	raw, err := fs.ReadFile(packet, evidence.AboutFile)
	if err != nil || json.Unmarshal(raw, &about) != nil || about.Code == "" {
		return true
	}
	now, err := tested.Code(tree)
	return err != nil || now == about.Code
}

// verdicts says which claims the packet does not show to be true.
func verdicts(in evidence.Inputs) (problems []evidence.Problem, err error) {
	for _, r := range in.Receipts {
		if r.Verdict != evidence.True && r.Verdict != evidence.Skipped {
			problems = append(problems, evidence.Problem{
				File: path.Join(evidence.PacketDir, r.File()), What: fmt.Sprintf("the claim is %s: %s", r.Verdict, r.Reason),
				Repair: "mend the server, then make audit-packet",
			})
		}
	}
	return problems, nil
}

// stalePacket says which pages of the packet are not what its data renders to.
func (f facts) stalePacket(tree, packet fs.FS) ([]evidence.Problem, error) {
	const repair = "make audit-packet"
	if packet == nil {
		return []evidence.Problem{{File: evidence.PacketDir, What: "there is no packet", Repair: repair}}, nil
	}
	rendered, err := f.render(packet)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for name, content := range rendered {
		files[path.Join(evidence.PacketDir, name)] = content
	}
	problems, err := evidence.Drift(tree, files, repair)
	if err != nil {
		return nil, err
	}
	err = fs.WalkDir(packet, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path.Ext(name) != ".md" {
			return err
		}
		if _, ok := rendered[name]; !ok {
			problems = append(problems, evidence.Problem{
				File: path.Join(evidence.PacketDir, name), What: "nothing in the packet renders to this page", Repair: repair,
			})
		}
		return nil
	})
	evidence.Sort(problems)
	return problems, err
}

// report says every problem, or that there is none.
func report[P fmt.Stringer](cmd *cobra.Command, asJSON bool, problems []P, none string) error {
	var said strings.Builder
	switch {
	case asJSON:
		err := json.NewEncoder(&said).Encode(struct {
			Problems []P `json:"problems"`
		}{append([]P{}, problems...)})
		if err != nil {
			return err
		}
	case len(problems) == 0:
		said.WriteString(none + "\n")
	default:
		for _, p := range problems {
			said.WriteString(strings.TrimSuffix(p.String(), "\n") + "\n")
		}
	}
	_, err := io.WriteString(cmd.OutOrStdout(), said.String())
	if err == nil && len(problems) > 0 {
		err = errFalse
	}
	return err
}

// progress says on a terminal what is being done, in the place of what it said
// before.
func progress(w io.Writer, what string) {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprintf(f, "\r\x1b[K%s", what)
	}
}
