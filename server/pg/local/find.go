package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Oldest is the oldest major version of PostgreSQL that certctl runs on.
const Oldest = 15

// ErrNotInstalled is what Find's error wraps when there is no PostgreSQL that is
// new enough.
var ErrNotInstalled = fmt.Errorf("PostgreSQL %d or newer is not installed", Oldest)

// places are where packages put the binaries, beside PATH and what pg_config
// answers: Debian, Red Hat, Homebrew on Apple's and on Intel's processors.
var places = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/opt/homebrew/opt/postgresql@*/bin",
	"/usr/local/opt/postgresql@*/bin",
}

// Find returns the folder of the newest installed PostgreSQL and its version.
func Find() (binDir, version string, err error) {
	found := installed()
	if len(found) == 0 {
		return "", "", fmt.Errorf("%w; %s", ErrNotInstalled, HowToInstall())
	}
	return found[0].bin, found[0].version, nil
}

// HowToInstall is a sentence that says how PostgreSQL is installed on this system.
func HowToInstall() string {
	if runtime.GOOS == "darwin" {
		return "install it with: brew install postgresql@17"
	}
	release, _ := os.ReadFile("/etc/os-release")
	for line := range strings.Lines(string(release)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if name != "ID" && name != "ID_LIKE" {
			continue
		}
		for id := range strings.FieldsSeq(strings.Trim(value, `"'`)) {
			switch id {
			case "debian", "ubuntu":
				return "install it with: apt-get install postgresql"
			case "fedora", "rhel":
				return "install it with: dnf install postgresql-server"
			case "alpine":
				return "install it with: apk add postgresql"
			}
		}
	}
	return "install your system's package of the PostgreSQL server"
}

type installation struct {
	bin, version string
	major        int
}

// installed returns what is there, newest first.
func installed() []installation {
	dirs := filepath.SplitList(os.Getenv("PATH"))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	for _, pattern := range places {
		matches, _ := filepath.Glob(pattern)
		dirs = append(dirs, matches...)
	}
	var found []installation
	seen := map[string]bool{}
	for _, dir := range dirs {
		if !filepath.IsAbs(dir) {
			continue
		}
		// PATH may hold only a link to postgres, while initdb stands beside the file.
		binary, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres"))
		if err != nil {
			continue
		}
		bin := filepath.Dir(binary)
		if seen[bin] {
			continue
		}
		seen[bin] = true
		if _, err := os.Stat(filepath.Join(bin, "initdb")); err != nil {
			continue
		}
		version, err := versionOf(bin)
		if err != nil {
			continue
		}
		if i := (installation{bin, version, major(version)}); i.major >= Oldest {
			found = append(found, i)
		}
	}
	slices.SortStableFunc(found, func(a, b installation) int {
		return cmp.Or(cmp.Compare(b.major, a.major), cmp.Compare(minor(b.version), minor(a.version)))
	})
	return found
}

// binariesFor returns the newest binaries that can run the cluster in data, or
// the newest of all if there is no cluster yet.
func binariesFor(data string) (string, error) {
	of, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if errors.Is(err, os.ErrNotExist) {
		bin, _, err := Find()
		return bin, err
	}
	if err != nil {
		return "", err
	}
	needed := strings.TrimSpace(string(of))
	for _, i := range installed() {
		if strconv.Itoa(i.major) == needed {
			return i.bin, nil
		}
	}
	return "", fmt.Errorf("the data in %s needs PostgreSQL %s, which is not installed; install it, or move the data with pg_upgrade",
		data, needed)
}

// versionOf asks for the version of the binaries in bin, as "15.14".
func versionOf(bin string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(bin, "postgres"), "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask for the version of PostgreSQL: %w", err)
	}
	// postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)
	_, version, ok := strings.Cut(string(out), "(PostgreSQL) ")
	fields := strings.Fields(version)
	if !ok || len(fields) == 0 {
		return "", fmt.Errorf("%s is not PostgreSQL: it calls itself %q", filepath.Join(bin, "postgres"), out)
	}
	return fields[0], nil
}

// major and minor read the parts of "15.14"; of "18beta1" they read 18 and 0.
func major(version string) int { return leading(version) }

func minor(version string) int {
	_, after, _ := strings.Cut(version, ".")
	return leading(after)
}

func leading(s string) int {
	end := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if end >= 0 {
		s = s[:end]
	}
	n, _ := strconv.Atoi(s)
	return n
}
