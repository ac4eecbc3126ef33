package prose

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"certctl/evidence"
	"certctl/server/api"
	"certctl/server/config"
	"certctl/server/metric"
	"certctl/server/schedule"
	"certctl/server/table"
)

// names are all that a code span may name.
type names struct {
	src      *source
	settings map[string]bool // with NAME_FILE of secrets
	metrics  map[string]bool // with the series of histograms
	verbs    map[string]bool // permissions and audit actions
	words    map[string]bool // loops, their classes, routes, roles, rules, algorithms, kinds and abilities
	fields   map[string]bool // tables with what is theirs, settings of issuers, and fields of the API
	routes   [][2]string     // method and path
	columns  map[string]bool // table.column
	claims   map[string]bool
	cited    map[string]bool // tests that claims cite, with and without their package
	receipts map[string]bool // files of the tree
}

func gather(in evidence.Inputs, src *source) (*names, error) {
	n := &names{
		src: src, settings: map[string]bool{}, metrics: map[string]bool{}, verbs: map[string]bool{},
		words: map[string]bool{}, fields: map[string]bool{}, columns: map[string]bool{}, claims: map[string]bool{},
		cited: map[string]bool{}, receipts: map[string]bool{},
	}
	d := in.Declared
	for _, s := range d.Settings {
		n.settings[s.Name] = true
		if s.Secret {
			n.settings[s.Name+config.FileSuffix] = true
		}
	}
	for _, m := range d.Metrics {
		n.metrics[m.Name] = true
		if m.Kind == metric.Histogram {
			for _, series := range []string{"_bucket", "_sum", "_count"} {
				n.metrics[m.Name+series] = true
			}
		}
	}
	for _, p := range d.Permissions {
		n.verbs[p.Name] = true
	}
	for _, a := range d.Actions {
		n.verbs[a.Name] = true
	}
	for _, l := range d.Loops {
		n.words[l.Name] = true
	}
	for _, class := range []schedule.HA{schedule.OneReplica, schedule.Claimed, schedule.Atomic} {
		n.words[string(class)] = true
	}
	for _, r := range d.Roles {
		n.words[r.Name] = true
	}
	for _, r := range d.Routes {
		n.words[r.Name] = true
		n.routes = append(n.routes, [2]string{r.Method, r.Path})
	}
	for _, words := range [][]api.DeclaredWord{d.Rules, d.KeyAlgorithms, d.ExtKeyUsages, d.SANKinds} {
		for _, w := range words {
			n.words[w.Name] = true
		}
	}
	for _, k := range d.JobKinds {
		n.words[k.Name] = true
	}
	for _, t := range d.IssuerTypes {
		n.words[t.Name] = true
		for _, can := range t.Can {
			n.words[can] = true
		}
		for _, f := range t.Settings {
			n.fields[f.Name] = true
		}
	}
	for _, s := range d.Severities {
		n.words[s.Name] = true
	}
	for _, e := range d.Events {
		n.words[e.Name], n.verbs[e.Name] = true, true
	}
	for _, t := range d.ChannelTypes {
		n.words[t.Name] = true
		for _, f := range t.Settings {
			n.fields[f.Name] = true
		}
	}
	for _, r := range in.Receipts {
		n.claims[r.Claim.ID] = true
		n.receipts[path.Join(evidence.PacketDir, r.File())] = true
		for _, t := range r.Claim.Tests {
			n.cited[t.Name], n.cited[t.String()] = true, true
		}
	}
	c, _, err := in.Catalog()
	for _, t := range c.Tables {
		n.fields[t.Name] = true
		for _, col := range t.Columns {
			n.columns[t.Name+"."+col.Name], n.fields[col.Name] = true, true
		}
		for _, o := range slices.Concat(t.Constraints, t.Indexes, t.Triggers) {
			n.fields[o.Name] = true
		}
	}
	for name := range src.fields {
		n.fields[name] = true
	}
	return n, err
}

var (
	settingToken = regexp.MustCompile(config.Prefix + `[A-Z0-9_]*`)
	metricSpan   = regexp.MustCompile(`^(certctl_[a-z0-9_]+)(?:\{.*\})?$`)
	routeSpan    = regexp.MustCompile(`^(?:(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) )?(/\S*)$`)
	makeSpan     = regexp.MustCompile(`^make(?: \S+)+$`)
	makeCommand  = regexp.MustCompile(`(?:^|&&|;|\|)\s*(?:\$ )?(make(?: +[^\s;&|#]+)+)`)
	symbolSpan   = regexp.MustCompile(`^[*&\[\]]*([A-Za-z]\w*(?:\.[A-Za-z]\w*){1,2})(?:\[.*\])?(?:\(.*\))?$`)
	testName     = regexp.MustCompile(`^(?:Test|Benchmark|Fuzz|Example)[A-Z]\w*$`)
	testSpan     = regexp.MustCompile(`^([a-z][a-z0-9_/-]*/[a-z][a-z0-9_-]*)\.(Test[A-Z]\w*)$`)
	verbSpan     = regexp.MustCompile(`^[a-z][a-z0-9_-]*(?:\.[a-z][a-z0-9_-]*)+$`)
	pathSpan     = regexp.MustCompile(`^[A-Za-z0-9_.@*-]+(?:/[A-Za-z0-9_.@*-]+)*/?$`)
	kebabSpan    = regexp.MustCompile(`^[a-z][a-z0-9]*(?:-[a-z0-9]+)+$`)
	snakeSpan    = regexp.MustCompile(`^[a-z][a-z0-9]*(?:_[a-z0-9]+)+$`)
	exampleHost  = regexp.MustCompile(`(?:^|\.)(?:example|test|invalid|localhost|example\.(?:com|net|org))$`)
)

// span says what is wrong with a code span on the page file, if it looks like
// a name of some kind and there is no such name.
func (n *names) span(file, s string) (what string, ok bool) {
	if bad := n.badSettings(s); len(bad) > 0 {
		return strings.Join(bad, "; "), false
	}
	if m := metricSpan.FindStringSubmatch(s); m != nil {
		return judge(m[1], n.metrics, "metric")
	}
	if m := routeSpan.FindStringSubmatch(s); m != nil {
		return n.route(s, m[1], m[2])
	}
	if makeSpan.MatchString(s) {
		bad := n.badTargets(s)
		return strings.Join(bad, "; "), len(bad) == 0
	}
	if testName.MatchString(s) {
		return judge(s, n.src.tests, "test")
	}
	if m := testSpan.FindStringSubmatch(s); m != nil {
		if !n.path(file, m[1]) {
			return judge(m[1], n.src.files, "file or directory")
		}
		return judge(m[2], n.src.tests, "test")
	}
	if verbSpan.MatchString(s) {
		known := n.src.bases[s] || n.columns[s] || n.src.symbols[s] || exampleHost.MatchString(s)
		if known {
			return "", true
		}
		return judge(s, n.verbs, "permission, audit action, file, column or Go symbol")
	}
	if m := symbolSpan.FindStringSubmatch(s); m != nil && strings.ToLower(m[1]) != m[1] {
		if n.src.used[m[1]] || n.src.bases[s] {
			return "", true
		}
		return judge(m[1], n.src.symbols, "Go symbol")
	}
	if strings.Contains(s, "/") && pathSpan.MatchString(s) && strings.ContainsFunc(s, letter) {
		if n.path(file, s) {
			return "", true
		}
		return judge(s, n.src.files, "file or directory")
	}
	if kebabSpan.MatchString(s) {
		if n.src.bases[s] || n.src.targets[s] || n.src.strings[s] {
			return "", true
		}
		return judge(s, n.words, "loop, role, route, rule, algorithm, ability, file or word of the code")
	}
	if snakeSpan.MatchString(s) {
		if n.src.strings[s] || n.src.bases[s] {
			return "", true
		}
		return judge(s, n.fields, "table, column, constraint, field of the API or word of the code")
	}
	return "", true
}

func letter(r rune) bool { return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' }

// command says which settings and make targets on a line of a code block do
// not exist.
func (n *names) command(line string) []string {
	bad := n.badSettings(line)
	for _, m := range makeCommand.FindAllStringSubmatch(line, -1) {
		bad = append(bad, n.badTargets(m[1])...)
	}
	return bad
}

func (n *names) badSettings(s string) (bad []string) {
	for _, name := range settingToken.FindAllString(s, -1) {
		known := n.settings
		if strings.HasPrefix(name, testPrefix) {
			known = n.src.testEnv
		}
		if strings.HasSuffix(name, "_") { // what follows is left open
			if hasPrefix(known, name) {
				continue
			}
		}
		if what, ok := judge(name, known, "setting"); !ok {
			bad = append(bad, what)
		}
	}
	return bad
}

func hasPrefix(known map[string]bool, prefix string) bool {
	for name := range known {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

func (n *names) badTargets(s string) (bad []string) {
	for word := range strings.FieldsSeq(strings.TrimPrefix(s, "make")) {
		if strings.HasPrefix(word, "-") || strings.Contains(word, "=") {
			continue
		}
		if what, ok := judge(word, n.src.targets, "target of the Makefile"); !ok {
			bad = append(bad, what)
		}
	}
	return bad
}

// route looks a path up. Without a method only what begins like the API is a
// route; other paths are files of some host.
func (n *names) route(s, method, path string) (string, bool) {
	if method == "" && !strings.HasPrefix(path, "/api/") {
		return "", true
	}
	path, _, _ = strings.Cut(path, "?")
	known := map[string]bool{}
	for _, r := range n.routes {
		if method == "" {
			known[r[1]] = true
		} else {
			known[r[0]+" "+r[1]] = true
		}
		if (method == "" || method == r[0]) && (matches(r[1], path) || method == "" && strings.HasSuffix(path, "/") && strings.HasPrefix(r[1], path)) {
			return "", true
		}
	}
	return judge(s, known, "route")
}

// matches reports whether path is the route's own path, or one with values in
// the place of its parameters.
func matches(route, path string) bool {
	return slices.EqualFunc(strings.Split(route, "/"), strings.Split(path, "/"), func(r, p string) bool {
		return r == p || strings.HasPrefix(r, "{") && p != "" && !strings.HasPrefix(p, "{")
	})
}

// path reports whether a path is one of the tree, seen from its root, from the
// page or from the root of the page's packet, or is the name of a package, a claim or a media type.
func (n *names) path(file, s string) bool {
	if n.claims[s] || n.src.strings[s] || n.src.imports[s] || hasPrefix(n.src.imports, strings.TrimSuffix(s, "/")+"/") {
		return true
	}
	s = strings.TrimSuffix(strings.TrimPrefix(s, "./"), "/...")
	places := []string{path.Clean(s), path.Join(path.Dir(file), s), strings.TrimPrefix(s, n.src.module+"/")}
	if strings.HasPrefix(file, evidence.PacketDir+"/") { // which a reviewer has without the tree
		places = append(places, path.Join(evidence.PacketDir, s))
	}
	return slices.ContainsFunc(places, n.src.exists)
}

// exists reports whether a path, or something that a pattern matches, is in
// the tree.
func (s *source) exists(p string) bool {
	if !strings.Contains(p, "*") {
		_, err := fs.Stat(s.tree, p)
		return err == nil
	}
	found, err := fs.Glob(s.tree, p)
	return err == nil && len(found) > 0
}

// judge says whether a name is known, and if not, what it is taken for.
func judge(name string, known map[string]bool, kind string) (string, bool) {
	if known[name] {
		return "", true
	}
	return fmt.Sprintf("`%s` is no %s%s", name, kind, nearest(name, known)), false
}

// nearest names the known name with the fewest edits from name; a path that
// only lacks its beginning needs none.
func nearest(name string, known map[string]bool) string {
	best, least := "", 0
	for _, k := range slices.Sorted(maps.Keys(known)) {
		d := table.Edits(name, k)
		if strings.HasSuffix(k, "/"+name) {
			d = 0
		}
		if best == "" || d < least {
			best, least = k, d
		}
	}
	if best == "" {
		return "; there is none"
	}
	return "; the nearest is `" + best + "`"
}
