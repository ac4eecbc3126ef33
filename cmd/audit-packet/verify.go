package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"certctl/evidence"

	"certctl/evidence/packet"
)

func verifyCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify DIR",
		Short: "Check that a packet is the one that was sealed",
		Long: `Verify compares every file of a packet with its manifest: nothing is changed,
added or removed, and there are regular files only. Then it judges the
observations anew, and compares the receipts with what comes out. It reads the
directory and nothing else; it needs no network and no source tree.`,
		Example: `  audit-packet verify audit-packet
  audit-packet verify --json /media/packet    for programs`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			problems, err := packet.Verify(args[0], recompute)
			if err != nil {
				return err
			}
			holds := args[0] + " is what its manifest says, and its observations give its verdicts"
			if receipts, err := evidence.Receipts(os.DirFS(args[0])); err == nil {
				count := map[evidence.Verdict]int{}
				for _, r := range receipts {
					count[r.Verdict]++
				}
				for _, v := range slices.Sorted(maps.Keys(count)) {
					holds += fmt.Sprintf("; %s: %d", v, count[v])
				}
			}
			return report(cmd, asJSON, problems, holds)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "say it as JSON")
	return cmd
}

// recompute judges the observations of a packet anew. A manifest that was made
// to fit altered receipts does not help them.
func recompute(files fs.FS) (problems []packet.Problem) {
	rendered, err := evidence.RenderPacket(files)
	if err != nil {
		return []packet.Problem{{File: evidence.AboutFile, What: "the observations cannot be judged: " + err.Error()}}
	}
	for _, name := range slices.Sorted(maps.Keys(rendered)) {
		text, err := fs.ReadFile(files, name)
		if err != nil || !bytes.Equal(text, rendered[name]) {
			problems = append(problems, packet.Problem{File: name, What: "is not what the observations give"})
		}
	}
	return problems
}
