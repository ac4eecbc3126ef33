package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"certctl/server/audit"
	"certctl/server/config"
	"certctl/server/pg"
	"certctl/server/seal"
)

func verifyCommand() *cobra.Command {
	var checkpoints, verifiers []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify [EXPORT]",
		Short: "Recompute the audit log, and name what was altered",
		Long: `Recompute the audit log of the database, or of an exported file (- for standard
input) without any connection, and compare it with its checkpoints.

What somebody did who can write to the database shows for certain only against
checkpoints and the public key that were kept elsewhere: keep the answers of
GET /api/v1/audit/checkpoint. Exit code 1 says that something was altered, 2
that it could not be determined: the file is no export, say. A checkpoint may be
the note alone, or the whole answer of the route.`,
		Example: `  certctl-server verify
  certctl-server verify --checkpoint monday.txt --verifier "$(cat key.pub)" export.ndjson`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			settings, _, err := start(cmd)
			if err != nil {
				return unknownError{err}
			}
			o := audit.Options{Verifiers: verifiers}
			for _, file := range checkpoints {
				note, err := os.ReadFile(file)
				if err != nil {
					return unknownError{err}
				}
				o.Checkpoints = append(o.Checkpoints, kept(note))
			}
			report, err := verify(cmd, settings, args, o)
			if err != nil {
				return unknownError{err}
			}
			if asJSON {
				e := json.NewEncoder(os.Stdout)
				e.SetIndent("", "  ")
				err = e.Encode(report)
			} else {
				_, err = fmt.Print(report)
			}
			if err != nil {
				return unknownError{err}
			}
			if !report.Intact() {
				return errors.New("the audit log is not intact")
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&checkpoints, "checkpoint", nil, "file with a signed checkpoint that was kept elsewhere (repeatable)")
	cmd.Flags().StringArrayVar(&verifiers, "verifier", nil, "public key that was kept elsewhere (repeatable); without it the log's own is used")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the report as JSON")
	return cmd
}

// kept returns the signed note of a file that was kept: the note alone, with
// whatever blank lines an editor put behind it, or the whole answer of the
// route.
func kept(file []byte) string {
	var answer struct{ Note string }
	if json.Unmarshal(file, &answer) == nil && answer.Note != "" {
		return answer.Note
	}
	return strings.TrimRight(string(file), "\r\n") + "\n"
}

func verify(cmd *cobra.Command, settings config.Values, args []string, o audit.Options) (audit.Report, error) {
	if len(args) == 1 {
		in := io.Reader(os.Stdin)
		if args[0] != "-" {
			f, err := os.Open(args[0])
			if err != nil {
				return audit.Report{}, err
			}
			defer f.Close()
			in = f
		}
		lines := bufio.NewReader(in)
		const begins = `{"log":`
		if first, err := lines.Peek(len(begins)); err != nil || string(first) != begins {
			return audit.Report{}, errors.New("this is no export of an audit log: it does not begin with its log")
		}
		return audit.VerifyStream(lines, o)
	}
	url, key := config.DatabaseURL.In(settings), config.EncryptionKey.In(settings)
	if url == "" || key == "" {
		return audit.Report{}, fmt.Errorf("set %s and %s to verify a database, or name an exported file", config.DatabaseURL.Name, config.EncryptionKey.Name)
	}
	box, err := seal.New(key)
	if err != nil {
		return audit.Report{}, err
	}
	db, err := pg.Pool(url, "verify", 4)
	if err != nil {
		return audit.Report{}, err
	}
	defer db.Close()
	log, err := audit.OpenExisting(cmd.Context(), db, box)
	if err != nil {
		return audit.Report{}, err
	}
	return log.Verify(cmd.Context(), db, o)
}
