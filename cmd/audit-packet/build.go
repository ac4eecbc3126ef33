package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"certctl/evidence"
	"certctl/evidence/lab"
	"certctl/evidence/packet"
	"certctl/evidence/probe"
	"certctl/server/api"
	"certctl/server/app"
	"certctl/server/client"
)

// A target is what a build looks at.
type target struct {
	server    string // binary of the laboratory's servers
	defective string // the same with switches for defects
	url       string // of a running server; empty for the laboratory's own
	keyFile   string
	roots     string
	database  string

	checkpoint, verifier string // files

	disruptive bool

	quick bool
	seed  uint64
}

func buildCommand() *cobra.Command {
	var t target
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "build [DIR]",
		Short: "Look at running servers and render the packet",
		Long: `Start a PostgreSQL and server processes, work with them, look at them from
outside, and do the same to copies with known defects. Store what was seen in
DIR (audit-packet by default), render the receipts, and write the manifest.
DIR is replaced as a whole, once everything is there; a packet in which a claim
does not hold goes to DIR.failed instead, and DIR stays.

With --url the claims are looked at on a running server of the same build; the
defects are still the laboratory's. A claim is skipped, and its receipt says why,
where a probe needs more than it was given. The tests that claims cite are run in
the source tree, by the go command; without both, what cites tests is vacuous. The packet then holds that server's
audit log, with the names of its replicas and of who acted.

Exit code 1 says that a claim is false, 2 that something could not be looked at
though the probe had what it needs.`,
		Example: `  audit-packet build
  audit-packet build --url https://certctl.example:8443 --key-file auditor.key --roots ca.pem --checkpoint monday.note --verifier log.pub packet`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := evidence.PacketDir
			if len(args) == 1 {
				dir = args[0]
			}
			say := func(what string) { progress(cmd.ErrOrStderr(), what) }
			summary, receipts, err := buildPacket(cmd, t, dir, say)
			say("")
			if err != nil {
				return err
			}
			if err := printSummary(cmd.OutOrStdout(), summary, receipts, asJSON); err != nil {
				return err
			}
			if outcome(receipts) != nil {
				cmd.PrintErrf("the packet is in %s%s; %s is as it was\n", dir, failedSuffix, dir)
			}
			return outcome(receipts)
		},
	}
	t.flags(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the summary as JSON")
	return cmd
}

func buildPacket(cmd *cobra.Command, t target, dir string, say func(string)) (s evidence.Summary, receipts []evidence.Receipt, err error) {
	begin := time.Now()
	ctx := cmd.Context()
	if err := t.find(); err != nil {
		return s, nil, err
	}
	build, err := t.build(ctx)
	if err != nil {
		return s, nil, err
	}
	tree := sourceOf(cmd, build.Commit)
	say("starting PostgreSQL and a server")
	l, err := t.laboratory(ctx)
	if err != nil {
		return s, nil, err
	}
	defer func() { err = errors.Join(err, l.Stop()) }()

	declared := app.Declared()
	base, stop, err := probe.Base(ctx, l, declared, t.quick, t.seed)
	if err != nil {
		return s, nil, err
	}
	site := base
	if t.url != "" {
		if site, err = t.site(l, declared); err != nil {
			return s, nil, errors.Join(err, stop())
		}
	}
	site.Tests = tree.tests
	introspection, err := introspect(ctx, site, build)
	if err != nil {
		return s, nil, errors.Join(err, stop())
	}
	seen, err := probe.Run(ctx, probe.Probes(), site, base, stop, say)
	if err != nil {
		return s, nil, err
	}

	about := evidence.About{
		Commit: build.Commit, Version: build.Version, Code: tree.code, Go: build.Go, BuiltAt: begin.UTC().Truncate(time.Second),
		Seed: t.seed, Quick: t.quick,
		DurationSeconds: time.Since(begin).Round(time.Millisecond).Seconds(),
		Platform:        runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU(), Database: introspection.Replica.Database,
	}
	return store(dir, about, introspection.Declared, seen)
}

// failedSuffix marks a packet in which a claim does not hold.
const failedSuffix = ".failed"

// site is a running server that somebody else started.
func (t target) site(l *lab.Lab, d api.Declared) (*probe.Site, error) {
	s := &probe.Site{Lab: l, Declared: d, Disruptive: t.disruptive}
	var roots []byte
	var err error
	if t.roots != "" {
		if roots, err = os.ReadFile(t.roots); err != nil {
			return nil, err
		}
	}
	if t.keyFile == "" {
		return nil, errors.New("--url needs --key-file, a file with an API key for that server")
	}
	key, err := os.ReadFile(t.keyFile)
	if err != nil {
		return nil, err
	}
	if t.database != "" {
		url, err := os.ReadFile(t.database)
		if err != nil {
			return nil, err
		}
		s.Database = strings.TrimSpace(string(url))
	}
	if t.checkpoint != "" && t.verifier != "" {
		note, err := os.ReadFile(t.checkpoint)
		if err != nil {
			return nil, err
		}
		public, err := os.ReadFile(t.verifier)
		if err != nil {
			return nil, err
		}
		s.Checkpoint = api.Checkpoint{Note: string(note), Verifier: strings.TrimSpace(string(public))}
	}
	s.Admin, err = client.New(t.url, strings.TrimSpace(string(key)), roots)
	return s, err
}

// find finds the servers beside this program, unless they were named.
func (t *target) find() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if t.server == "" {
		t.server = filepath.Join(filepath.Dir(self), "certctl-server")
	}
	if t.defective == "" {
		t.defective = filepath.Join(filepath.Dir(self), "certctl-server-defects")
	}
	return nil
}

// build is that of both servers.
func (t *target) build(ctx context.Context) (api.Build, error) {
	build, err := built(ctx, t.server)
	if err != nil {
		return build, err
	}
	defective, err := built(ctx, t.defective)
	if err == nil && defective.Commit != build.Commit {
		err = fmt.Errorf("%s is of commit %s, and %s of %s; `make audit-packet` builds both",
			filepath.Base(t.server), build.Commit, filepath.Base(t.defective), defective.Commit)
	}
	return build, err
}

// introspect asks the site what it is, and refuses one of another build.
func introspect(ctx context.Context, site *probe.Site, build api.Build) (api.Introspection, error) {
	in, err := client.Do(ctx, site.Admin, api.Introspect, &api.Empty{})
	if err == nil && in.Build != build {
		err = fmt.Errorf("the server is version %s of commit %s, and the laboratory's is %s of %s; use the tool that was built with the server",
			in.Build.Version, in.Build.Commit, build.Version, build.Commit)
	}
	return in, err
}

// laboratory starts one.
func (t *target) laboratory(ctx context.Context) (*lab.Lab, error) {
	begin := lab.Start
	if t.quick {
		begin = lab.Hasty
	}
	l, err := begin(ctx, t.server)
	if err == nil {
		l.Defective = t.defective
	}
	return l, err
}

// flags are those of every command that experiments.
func (t *target) flags(f *pflag.FlagSet) {
	f.StringVar(&t.server, "server", "", "certctl-server binary (default: beside this one)")
	f.StringVar(&t.defective, "defective", "", "the same, built with -tags defects (default: certctl-server-defects beside this one)")
	f.BoolVar(&t.quick, "quick", false, "do each experiment once, with one fault")
	f.Uint64Var(&t.seed, "seed", 1, "what experiments leave to chance follows from it")
	f.StringVar(&t.url, "url", "", "look at the server at this address")
	f.StringVar(&t.keyFile, "key-file", "", "file with the API key to use there")
	f.StringVar(&t.roots, "roots", "", "file with the certificates to trust there, in PEM")
	f.StringVar(&t.database, "database-url-file", "", "file with the URL of that server's database")
	f.StringVar(&t.checkpoint, "checkpoint", "", "file with a signed checkpoint of that server's audit log that was kept outside")
	f.BoolVar(&t.disruptive, "disruptive", false, "with --url: allow experiments that leave something on that server")
	f.StringVar(&t.verifier, "verifier", "", "file with the public key of that log, learnt before")
}

// built asks the binary what it is.
func built(ctx context.Context, binary string) (b api.Build, err error) {
	out, err := exec.CommandContext(ctx, binary, "version", "--json").Output()
	if err != nil {
		return b, fmt.Errorf("%s: %w; `make build` makes it", filepath.Base(binary), err)
	}
	return b, json.Unmarshal(out, &b)
}

// store writes the packet beside dir and puts it in its place when it is
// complete.
func store(dir string, about evidence.About, declared api.Declared, seen []evidence.Observation) (s evidence.Summary, receipts []evidence.Receipt, err error) {
	parent := filepath.Dir(filepath.Clean(dir))
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return s, nil, err
	}
	fresh, err := os.MkdirTemp(parent, ".packet-")
	if err != nil {
		return s, nil, err
	}
	defer os.RemoveAll(fresh)
	data := map[string]any{evidence.AboutFile: about, evidence.DeclaredFile: declared}
	for _, o := range seen {
		data[evidence.DataFile(o.Claim)] = o
	}
	for name, v := range data {
		text, err := evidence.Encode(v)
		if err != nil {
			return s, nil, err
		}
		if err := put(fresh, name, text); err != nil {
			return s, nil, err
		}
	}
	if receipts, err = evidence.Receipts(os.DirFS(fresh)); err != nil {
		return s, nil, err
	}
	// What earlier packets said of findings goes on.
	history, err := evidence.ReadHistory(os.DirFS(dir))
	if err != nil {
		return s, nil, err
	}
	text, err := evidence.Encode(history.Note(about, declared, receipts))
	if err != nil {
		return s, nil, err
	}
	if err := put(fresh, evidence.FindingsFile, text); err != nil {
		return s, nil, err
	}
	rendered, err := evidence.RenderPacket(os.DirFS(fresh))
	if err != nil {
		return s, nil, err
	}
	for name, text := range rendered {
		if err := put(fresh, name, text); err != nil {
			return s, nil, err
		}
	}
	answers, err := evidence.Answers(os.DirFS(fresh), receipts)
	if err != nil {
		return s, nil, err
	}
	s = evidence.Summarise(about, receipts, answers)
	if err := packet.Write(fresh); err != nil {
		return s, nil, err
	}
	if err := os.Chmod(fresh, 0o755); err != nil {
		return s, nil, err
	}
	if outcome(receipts) != nil {
		return s, receipts, replace(fresh, dir+failedSuffix)
	}
	return s, receipts, errors.Join(replace(fresh, dir), os.RemoveAll(dir+failedSuffix))
}

// replace puts the folder fresh where dir is. It refuses to remove a folder
// that is no packet.
func replace(fresh, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if len(entries) > 0 {
		if _, err := os.Stat(filepath.Join(dir, packet.ManifestName)); err != nil {
			return fmt.Errorf("%s holds files and is no packet; name an empty folder", dir)
		}
	}
	old := fresh + "-old"
	if err := os.Rename(dir, old); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Rename(fresh, dir); err != nil {
		return errors.Join(err, os.Rename(old, dir))
	}
	return os.RemoveAll(old)
}

func put(dir, name string, text []byte) error {
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}

func printSummary(w io.Writer, s evidence.Summary, receipts []evidence.Receipt, asJSON bool) error {
	if asJSON {
		text, err := evidence.Encode(s)
		if err == nil {
			_, err = w.Write(text)
		}
		return err
	}
	for _, r := range receipts {
		fmt.Fprintf(w, "%-8s %s", r.Verdict, r.Claim.Says)
		if r.Reason != "" {
			fmt.Fprintf(w, " (%s)", r.Reason)
		}
		fmt.Fprintln(w)
	}
	for _, f := range evidence.Findings() {
		fmt.Fprintf(w, "%-8s %s: %s\n", s.Findings[f.ID], f.ID, f.Question)
	}
	fmt.Fprintf(w, "%d of %d controls turned red for their reason; %.1f s\n", s.ControlsRed, s.Controls, s.DurationSeconds)
	return nil
}

// outcome is the error whose exit code the receipts have.
func outcome(receipts []evidence.Receipt) error {
	var undetermined error
	for _, r := range receipts {
		switch r.Verdict {
		case evidence.True, evidence.Skipped:
		case evidence.False:
			return errFalse
		case evidence.Unknown, evidence.Vacuous, evidence.Stale:
			undetermined = fmt.Errorf("%s is %s: %s", r.Claim.ID, r.Verdict, r.Reason)
		}
	}
	return undetermined
}
