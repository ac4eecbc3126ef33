package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"certctl/evidence"
)

func docsCommand(f facts) *cobra.Command {
	var check, discard, asJSON bool
	cmd := &cobra.Command{
		Use:   "docs",
		Short: "Render the pages under docs/",
		Long: `Docs renders the generated blocks of the pages under docs/ from the declared
tables and the committed observations. The prose between the blocks is yours and
stays. A block that was edited by hand is refused: nothing is written, and the
edit is shown, so that it can be moved to where it belongs.`,
		Example: `  audit-packet docs                    write the pages that have changed
  audit-packet docs --check            say what would change, and write nothing
  audit-packet docs --discard-edits    render over what was edited by hand`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			tree, err := openTree(cmd)
			if err != nil {
				return err
			}
			defer tree.Close()
			in, err := f.inputs(tree.FS())
			if err != nil {
				return err
			}
			if check {
				problems, err := stalePages(tree.FS(), in)
				if err != nil {
					return err
				}
				return report(cmd, asJSON, problems, "the pages are what is rendered")
			}
			r, err := evidence.Render(tree.FS(), in, discard)
			if err != nil {
				return err
			}
			if len(r.Refused) > 0 {
				return report(cmd, asJSON, r.Refused, "")
			}
			for _, p := range r.Stale {
				cmd.PrintErr(p.String())
			}
			written, err := write(tree, r.Files)
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(struct {
					Written []string           `json:"written"`
					Stale   []evidence.Problem `json:"stale"`
				}{append([]string{}, written...), append([]evidence.Problem{}, r.Stale...)})
			}
			for _, name := range written {
				cmd.Println(name)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "write nothing; show the difference of each page that is stale")
	cmd.Flags().BoolVar(&discard, "discard-edits", false, "render over blocks that were edited by hand")
	cmd.Flags().BoolVar(&asJSON, "json", false, "say it as JSON")
	cmd.MarkFlagsMutuallyExclusive("check", "discard-edits")
	return cmd
}

// openTree opens the source tree: the one that is named, or the module around
// the working directory.
func openTree(cmd *cobra.Command) (*os.Root, error) {
	dir, err := cmd.Flags().GetString("root")
	if err != nil {
		return nil, err
	}
	if dir != "" {
		return os.OpenRoot(dir)
	}
	wd, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	for dir = wd; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return os.OpenRoot(dir)
		}
		if dir == filepath.Dir(dir) {
			return nil, errors.New("there is no go.mod around the working directory; name the source tree with --root")
		}
	}
}

// inputs gathers what the pages are rendered from.
func (f facts) inputs(tree fs.FS) (evidence.Inputs, error) {
	in := evidence.Inputs{Declared: f.declared()}
	if _, err := fs.Stat(tree, evidence.PacketDir); errors.Is(err, fs.ErrNotExist) {
		return in, nil
	}
	var err error
	if in.Packet, err = fs.Sub(tree, evidence.PacketDir); err != nil {
		return in, err
	}
	in.Receipts, err = f.receipts(in.Packet)
	if errors.Is(err, fs.ErrNotExist) { // nothing has been judged yet
		err = nil
	}
	return in, err
}

// stalePages says which pages are not what is rendered.
func stalePages(tree fs.FS, in evidence.Inputs) ([]evidence.Problem, error) {
	r, err := evidence.Render(tree, in, false)
	if err != nil {
		return nil, err
	}
	drifted, err := evidence.Drift(tree, r.Files, "make docs")
	return slices.Concat(r.Refused, drifted, r.Stale), err
}

// write writes the files that differ from those in the tree, each at once.
func write(tree *os.Root, files map[string][]byte) (written []string, err error) {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		old, err := tree.ReadFile(name)
		if err == nil && string(old) == string(files[name]) {
			continue
		}
		if err := tree.MkdirAll(path.Dir(name), 0o755); err != nil {
			return written, err
		}
		if err := tree.WriteFile(name+".new", files[name], 0o644); err != nil {
			return written, err
		}
		if err := tree.Rename(name+".new", name); err != nil {
			return written, err
		}
		written = append(written, name)
	}
	return written, nil
}
