package evidence

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"certctl/server/api"
	"certctl/server/config"
	"certctl/server/migrate"
	"certctl/server/schedule"
)

// Inputs are all that a page is a function of.
type Inputs struct {
	Declared api.Declared
	Packet   fs.FS // committed observations; nil if there are none
	Receipts []Receipt
}

// A Page is a file under docs/ with hand-written prose between its blocks.
type Page struct {
	Path, Title string
	From        string // file to edit in order to change what the blocks say
	Intro       string // first paragraph of a page that is made anew
	Blocks      []Block

	// Governed says that every statement of its prose has to be bound to a receipt or
	// to a test that a claim cites.
	Governed bool
}

// A Block is a generated part of a page.
type Block struct {
	Name, Heading string // the heading is of a page that is made anew
	Render        func(*page, Inputs) (stale string, err error)
}

// observe is the command that looks at running servers and then renders what
// it saw.
const observe = "make audit-packet docs"

// PacketDir is where the packet is in the source tree.
const PacketDir = "audit-packet"

// Pages are the pages with generated blocks.
var Pages = []Page{
	{
		Path: "docs/reference/settings.md", Title: "Settings", From: "server/config/keys.go",
		Intro:  "The server reads its settings from environment variables when it starts. It reports every bad value at once and does not start with one.",
		Blocks: []Block{{"settings", "Settings", settingsBlock}, {"secrets", "Secrets", secretsBlock}},
	},
	{
		Path: "docs/reference/permissions.md", Title: "Permissions and roles", From: "server/perm/perms.go",
		Intro:  "A route either is public or needs one permission. An API key holds the permissions of its roles.",
		Blocks: []Block{{"permissions", "Permissions", permissionsBlock}, {"roles", "Default roles", rolesBlock}},
	},
	{
		Path: "docs/reference/routes.md", Title: "Routes", From: "server/api/routes.go",
		Intro:  "What the server answers over HTTPS.",
		Blocks: []Block{{"routes", "Routes", routesBlock}},
	},
	{
		Path: "docs/reference/metrics.md", Title: "Metrics", From: "server/metric/metrics.go",
		Intro:  "What a replica tells Prometheus of itself.",
		Blocks: []Block{{"metrics", "Metrics", metricsBlock}},
	},
	{
		Path: "docs/reference/errors.md", Title: "Errors", From: "server/fault/fault.go",
		Intro:  "A request that is refused or fails is answered with a problem document (RFC 9457), whose code is one of these.",
		Blocks: []Block{{"errors", "Kinds of error", faultsBlock}},
	},
	{
		Path: "docs/reference/audit.md", Title: "Audit trail", From: "server/audit/actions.go",
		Intro:  "An event says what was done, by whom and to what. It is written in the transaction of the change.",
		Blocks: []Block{{"actions", "Actions", actionsBlock}},
	},
	{
		Path: "docs/reference/states.md", Title: "States of certificates", From: "server/cert/states.go",
		Intro:  "What a certificate can be, and what may follow. The database refuses every other move.",
		Blocks: []Block{{"certificate-states", "States", statesBlock}, {"certificate-moves", "Moves", movesBlock}, {"reasons", "Reasons of revocation", reasonsBlock}},
	},
	{
		Path: "docs/reference/jobs.md", Title: "Jobs", From: "server/job/kinds.go",
		Intro: "Work that takes longer than a request, or that nobody asked for, is a row of a queue.",
		Blocks: []Block{
			{"job-kinds", "Kinds", jobKindsBlock},
			{"job-states", "States", jobStatesBlock},
			{"job-moves", "Moves", jobMovesBlock},
			{"bulk-actions", "Actions on many certificates", bulkActionsBlock},
		},
	},
	{
		Path: "docs/reference/profiles.md", Title: "Profiles", From: "server/cert/rules.go",
		Intro: "A profile says what a certificate may look like. A request that breaks rules is refused with all of them at once.",
		Blocks: []Block{
			{"rules", "Rules", rulesBlock},
			{"key-algorithms", "Algorithms of keys", keyAlgorithmsBlock},
			{"ext-key-usages", "Purposes", usagesBlock},
			{"san-kinds", "Kinds of names", sanKindsBlock},
		},
	},
	{
		Path: "docs/reference/issuers.md", Title: "Issuers", From: "server/app/connectors.go",
		Intro:  "An issuer signs what a profile has approved.",
		Blocks: []Block{{"issuer-types", "Types", issuerTypesBlock}},
	},
	{
		Path: "docs/reference/notifications.md", Title: "Notifications", From: "server/outbox/words.go",
		Intro: "What happens to certificates is told to the channels of their renewal policies, once for each thing and channel.",
		Blocks: []Block{
			{"severities", "Severities", severitiesBlock},
			{"events", "Events", eventsBlock},
			{"notification-states", "States", notificationStatesBlock},
			{"notification-moves", "Moves", notificationMovesBlock},
			{"channel-types", "Types of channels", channelTypesBlock},
		},
	},
	{
		Path: "docs/reference/schema.md", Title: "Database schema", From: "migrations",
		Intro:  "The schema is made by numbered migrations, and read back from a database on which they ran.",
		Blocks: []Block{{"migrations", "Migrations", migrationsBlock}, {"catalog", "Catalog", catalogBlock}},
	},
	{
		Path: "docs/operator/scheduler-ha.md", Title: "The scheduler with several replicas", From: "server/schedule/loops.go",
		Intro:    "What the server does of its own accord, and how replicas share that work.",
		Governed: true,
		Blocks: []Block{
			{"loops", "Loops", loopsBlock},
			{"loop-claims", "What was seen", loopClaimsBlock},
			{"classes", "Classes", classesBlock},
			{"retentions", "What is deleted, and when", retentionsBlock},
		},
	},
	limitsPage,
}

func (p Page) names() []string {
	names := make([]string, len(p.Blocks))
	for i, b := range p.Blocks {
		names[i] = b.Name
	}
	return names
}

// Rendered are the pages as they ought to be.
type Rendered struct {
	Files   map[string][]byte // by path
	Refused []Problem         // pages that are not in Files, and why
	Stale   []Problem         // blocks whose observation is missing or of another build
}

// Render renders every page into the prose that it has in tree. It refuses a
// block that was edited by hand, unless discard is set.
func Render(tree fs.FS, in Inputs, discard bool) (Rendered, error) {
	r := Rendered{Files: map[string][]byte{}}
	for _, p := range Pages {
		blocks := map[string]string{}
		for _, b := range p.Blocks {
			var w page
			stale, err := b.Render(&w, in)
			if err != nil {
				return Rendered{}, fmt.Errorf("%s, block %s: %w", p.Path, b.Name, err)
			}
			if stale != "" {
				r.Stale = append(r.Stale, Problem{File: p.Path, What: "block " + b.Name + " is stale: " + stale, Repair: observe})
			}
			blocks[b.Name] = w.String()
		}
		old, err := fs.ReadFile(tree, p.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			r.Files[p.Path] = p.skeleton(blocks)
			continue
		case err != nil:
			return Rendered{}, err
		}
		file, problems := splice(p, old, blocks, discard)
		r.Refused = append(r.Refused, problems...)
		if len(problems) == 0 {
			r.Files[p.Path] = file
		}
	}
	return r, nil
}

// Drift compares rendered files with those in tree. A file that differs, or is
// not there, is a problem that the command repair mends.
func Drift(tree fs.FS, files map[string][]byte, repair string) ([]Problem, error) {
	var problems []Problem
	for name, want := range files {
		got, err := fs.ReadFile(tree, name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		switch {
		case err != nil:
			problems = append(problems, Problem{File: name, What: "is missing", Repair: repair})
		case string(got) != string(want):
			problems = append(problems, Problem{
				File: name, What: "is not what is rendered", Diff: diff(name, name+" (rendered)", string(got), string(want)), Repair: repair,
			})
		}
	}
	Sort(problems)
	return problems, nil
}

// Sort orders problems by file and line.
func Sort(problems []Problem) {
	slices.SortStableFunc(problems, func(a, b Problem) int {
		if c := strings.Compare(a.File, b.File); c != 0 {
			return c
		}
		return a.Line - b.Line
	})
}

func (p Page) skeleton(blocks map[string]string) []byte {
	var w page
	w.title(p.Title)
	w.paragraph(p.Intro)
	from := code(p.From)
	if p.Governed {
		from = text(p.From) // a code span would need a receipt
	}
	w.paragraph("Declared in " + link(from, p.up()+p.From) + ".")
	for i, b := range p.Blocks {
		if len(p.Blocks) > 1 {
			w.heading(b.Heading)
		}
		w.WriteString(marked(b.Name, blocks[b.Name]))
		if i < len(p.Blocks)-1 {
			w.printf("\n")
		}
	}
	return []byte(w.String())
}

// up is the way from the page to the root of the tree.
func (p Page) up() string { return strings.Repeat("../", strings.Count(p.Path, "/")) }

func settingsBlock(p *page, in Inputs) (string, error) {
	var rows [][]string
	for _, s := range in.Declared.Settings {
		if s.Secret {
			continue
		}
		value, bounds := s.Default, s.Bounds
		if s.Type == "duration" {
			value, bounds = short(value), short(bounds)
		}
		rows = append(rows, []string{code(s.Name), s.Type, code(value), text(bounds), withSettings(s.Does, in), text(s.Effect)})
	}
	p.grid([]string{"setting", "type", "default", "values", "what it does", "where a change shows"}, rows)
	return "", nil
}

func secretsBlock(p *page, in Inputs) (string, error) {
	var rows [][]string
	for _, s := range in.Declared.Settings {
		if s.Secret {
			rows = append(rows, []string{code(s.Name), code(s.Name + config.FileSuffix), text(s.Bounds), withSettings(s.Does, in), text(s.Effect)})
		}
	}
	p.grid([]string{"setting", "or a file with it", "values", "what it does", "where a change shows"}, rows)
	return "", nil
}

var settingName = regexp.MustCompile(config.Prefix + `[A-Z0-9_]+`)

// withSettings puts the settings that a sentence names into code spans.
func withSettings(s string, in Inputs) string {
	return settingName.ReplaceAllStringFunc(text(s), func(name string) string {
		for _, s := range in.Declared.Settings {
			if s.Name == name {
				return code(name)
			}
		}
		return name
	})
}

// short drops the zero minutes and seconds of Go's durations.
func short(s string) string { return zeroes.ReplaceAllString(s, "$1$2") }

var zeroes = regexp.MustCompile(`([0-9]h)0m0s\b|([0-9]m)0s\b`)

func permissionsBlock(p *page, in Inputs) (string, error) {
	var rows [][]string
	for _, perm := range in.Declared.Permissions {
		var held, guards []string
		for _, r := range in.Declared.Roles {
			if slices.Contains(r.Permissions, perm.Name) {
				held = append(held, r.Name)
			}
		}
		for _, r := range in.Declared.Routes {
			if r.Permission == perm.Name {
				guards = append(guards, r.Method+" "+r.Path)
			}
		}
		rows = append(rows, []string{code(perm.Name), text(perm.Does), codes(held, "no role"), codes(guards, "no route")})
	}
	p.grid([]string{"permission", "what it allows", "default roles that hold it", "routes it guards"}, rows)
	return "", nil
}

func rolesBlock(p *page, in Inputs) (string, error) {
	var rows [][]string
	for _, r := range in.Declared.Roles {
		rows = append(rows, []string{code(r.Name), text(r.Does), codes(r.Permissions, "no permission")})
	}
	p.grid([]string{"role", "what it is for", "permissions"}, rows)
	return "", nil
}

func routesBlock(p *page, in Inputs) (string, error) {
	var rows [][]string
	for _, r := range in.Declared.Routes {
		needs := code(r.Permission)
		if r.Permission == "" {
			needs = "public: " + text(r.Public)
		}
		rows = append(rows, []string{
			code(r.Method + " " + r.Path), code(r.Name), text(r.Does), needs,
			codes(r.Limits, "none: "+text(r.Unlimited)), cmp.Or(code(r.In), "nothing"), cmp.Or(code(r.Out), "nothing"),
		})
	}
	p.grid([]string{"route", "name", "what it does", "permission", "limits", "takes", "answers with"}, rows)
	return "", nil
}

func metricsBlock(p *page, in Inputs) (string, error) {
	var rows [][]string
	for _, m := range in.Declared.Metrics {
		rows = append(rows, []string{code(m.Name), string(m.Kind), codes(m.Labels, "none"), text(m.Help)})
	}
	p.grid([]string{"metric", "kind", "labels", "what it says"}, rows)
	return "", nil
}

func faultsBlock(p *page, in Inputs) (string, error) {
	var rows [][]string
	for _, k := range in.Declared.Faults {
		retry := "no"
		if k.Retry {
			retry = "yes"
		}
		rows = append(rows, []string{code(k.Code), strconv.Itoa(k.Status) + " " + http.StatusText(k.Status), retry, text(k.Does)})
	}
	p.grid([]string{"code", "status", "may succeed later", "what it tells the caller"}, rows)
	return "", nil
}

func actionsBlock(p *page, in Inputs) (string, error) {
	var rows [][]string
	for _, a := range in.Declared.Actions {
		rows = append(rows, []string{code(a.Name), text(a.Category), text(a.Does)})
	}
	p.grid([]string{"action", "category", "what an event of it records"}, rows)
	return "", nil
}

func migrationsBlock(p *page, in Inputs) (string, error) {
	var rows [][]string
	for _, m := range in.Declared.Migrations {
		n, _, _ := strings.Cut(m.Version, "_")
		from := "this one"
		if m.ReadableFrom != "" {
			from = "with " + m.ReadableFrom + " or later"
		}
		file := path.Join("migrations", m.File())
		rows = append(rows, []string{n, link(code(file), "../../"+file), code(m.SHA256), from})
	}
	p.grid([]string{"number", "file", "SHA-256", "the oldest migration whose server can run on it"}, rows)
	return "", nil
}

// A Catalog is what a database's catalog showed after these migrations.
type Catalog struct {
	Migrations []CatalogMigration `json:"migrations"`
	Tables     []CatalogTable     `json:"tables"`
	Views      []CatalogObject    `json:"views"`
	Functions  []CatalogObject    `json:"functions"`
}

// A CatalogMigration is a row of the ledger beside the catalog.
type CatalogMigration struct {
	Version string `json:"version"`
	SHA256  string `json:"sha256"`
}

// A CatalogTable is a table of the database.
type CatalogTable struct {
	Name        string          `json:"name"`
	Comment     string          `json:"comment"`
	Columns     []CatalogColumn `json:"columns"`
	Constraints []CatalogObject `json:"constraints"`
	Indexes     []CatalogObject `json:"indexes"`
	Triggers    []CatalogObject `json:"triggers"`
	Rules       []CatalogObject `json:"rules"`
	RowSecurity bool            `json:"row_security"`
	Unlogged    bool            `json:"unlogged"`
}

// A CatalogColumn is a column, in the order of the table.
type CatalogColumn struct {
	Name     string `json:"name"`
	Type     string `json:"type"`
	Nullable bool   `json:"nullable"`
	Default  string `json:"default"`
}

// A CatalogObject is a constraint, an index or a trigger, in SQL.
type CatalogObject struct {
	Name       string `json:"name"`
	Definition string `json:"definition"`
}

// Catalog returns what the migrations made of an empty database, as it was
// observed, or why there is none of this build.
func (in Inputs) Catalog() (c Catalog, stale string, err error) {
	const unobserved = "the catalog has not been observed"
	if in.Packet == nil {
		return c, unobserved, nil
	}
	o, err := load[Observation](in.Packet, DataFile(CatalogMatches.ID))
	if errors.Is(err, fs.ErrNotExist) || err == nil && o.Seen == nil {
		return c, unobserved, nil
	}
	if err != nil {
		return c, "", err
	}
	var seen CatalogSeen
	if err := json.Unmarshal(o.Seen, &seen); err != nil {
		return c, "", fmt.Errorf("%s: %w", DataFile(CatalogMatches.ID), err)
	}
	c = seen.Fresh
	same := slices.EqualFunc(c.Migrations, in.Declared.Migrations, func(a CatalogMigration, b migrate.Migration) bool {
		return a.Version == b.Version && a.SHA256 == b.SHA256
	})
	if !same {
		return Catalog{}, "the catalog was observed with other migrations than are declared", nil
	}
	slices.SortFunc(c.Tables, func(a, b CatalogTable) int { return strings.Compare(a.Name, b.Name) })
	return c, "", nil
}

func catalogBlock(p *page, in Inputs) (string, error) {
	c, stale, err := in.Catalog()
	if err != nil {
		return "", err
	}
	if stale != "" {
		p.paragraph("Not shown: " + stale + ". " + code(observe) + " observes it.")
		return stale, nil
	}
	for _, t := range c.Tables {
		p.entry(code(t.Name))
		if t.Comment != "" {
			p.paragraph(text(t.Comment))
		}
		var rows [][]string
		for _, col := range t.Columns {
			null := "no"
			if col.Nullable {
				null = "yes"
			}
			rows = append(rows, []string{code(col.Name), code(col.Type), null, code(col.Default)})
		}
		p.grid([]string{"column", "type", "null", "default"}, rows)
		p.objects("constraint", t.Constraints)
		p.objects("index", t.Indexes)
		p.objects("trigger", t.Triggers)
	}
	return "", nil
}

func (p *page) objects(kind string, objects []CatalogObject) {
	if len(objects) == 0 {
		return
	}
	var rows [][]string
	for _, o := range slices.SortedFunc(slices.Values(objects), func(a, b CatalogObject) int { return strings.Compare(a.Name, b.Name) }) {
		rows = append(rows, []string{code(o.Name), code(o.Definition)})
	}
	p.grid([]string{kind, "definition"}, rows)
}

func loopsBlock(p *page, in Inputs) (string, error) {
	var rows [][]string
	for _, l := range in.Declared.Loops {
		rows = append(rows, append([]string{
			link(code(l.Name), "#"+l.Name), short(l.Every), code(l.Setting), short(l.Timeout), code(string(l.HA)),
		}, shown(in.about(l))...))
	}
	p.grid(append([]string{"loop", "every", "set by", "timeout of a pass", "class"}, shownHead...), rows)
	for _, l := range in.Declared.Loops {
		p.entry(code(l.Name))
		p.list([]string{
			"What it does: " + text(l.Does) + ".",
			"Class " + code(string(l.HA)) + ", because " + text(l.Why) + ".",
			"What a pass can change: " + text(l.Effects) + ".",
			"Receipts: " + cited(in.about(l)) + ".",
		})
	}
	return "", nil
}

// severalLoops are about several loops, or about none by its name.
var severalLoops = []*Statement{LoopsPass, LeaseFences, SentOnce}

func loopClaimsBlock(p *page, in Inputs) (string, error) {
	p.claims(in, severalLoops)
	return "", nil
}

// claims sets claims beside their verdicts, and the tests that they cite.
func (p *page) claims(in Inputs, claims []*Statement) {
	var rows [][]string
	for _, s := range claims {
		row := []string{text(s.Says), noReceipt, "", ""}
		for _, r := range in.Receipts {
			if r.Claim.ID != s.ID {
				continue
			}
			row[1] = link(string(r.Verdict), "../../"+path.Join(PacketDir, r.File()))
			row[2] = fmt.Sprintf("%d of %d", red(r.Controls), len(r.Controls))
			var tests []string
			for _, t := range r.Tests {
				tests = append(tests, code(t.Name)+": "+string(t.Outcome))
			}
			row[3] = strings.Join(tests, ", ")
		}
		rows = append(rows, row)
	}
	p.grid([]string{"claim", "verdict", "controls red", "tests that it cites"}, rows)
}

// A view is what a receipt says of one row of a table.
type view struct {
	Receipt
	Verdict  Verdict
	Controls []Control // those that show that this can fail
}

// whole is a receipt that is about the row alone.
func whole(r Receipt) view { return view{r, r.Verdict, r.Controls} }

// part is what a receipt about many rows says of the one with that name, by the
// checks and the controls that name it.
func part(r Receipt, name string) (v view, about bool) {
	names := func(what string) bool { return slices.Contains(strings.Fields(what), name) }
	v = view{Receipt: r, Verdict: r.Verdict}
	for _, c := range r.Controls {
		if slices.ContainsFunc(c.Turns, names) {
			v.Controls = append(v.Controls, c)
		}
	}
	if r.Verdict != True && r.Verdict != False {
		return v, true // which is so of all of them
	}
	var checks []Check
	for _, c := range r.Checks {
		if names(c.What) {
			checks = append(checks, c)
		}
	}
	if len(checks) == 0 {
		return v, false
	}
	v.Verdict, _ = verdict(checks, r.Controls)
	v.Verdict, _ = with(r.Tests, v.Verdict, "")
	return v, true
}

// shownHead is the head of the columns that shown fills.
var shownHead = []string{"verdict", "controls red", "receipts"}

// worst orders verdicts, the worst first.
var worst = []Verdict{False, Vacuous, Unknown, Stale, Skipped, True}

// shown is what receipts say of a row: the worst verdict, the controls, and where
// that leads.
func shown(views []view) []string {
	if len(views) == 0 {
		return []string{noReceipt, "", ""}
	}
	at, reds, all := len(worst)-1, 0, 0
	var links []string
	for _, v := range views {
		at = min(at, max(0, slices.Index(worst, v.Verdict)))
		reds, all = reds+red(v.Controls), all+len(v.Controls)
		links = append(links, link(code(v.Claim.ID), "../../"+path.Join(PacketDir, v.File())))
	}
	return []string{string(worst[at]), fmt.Sprintf("%d of %d", reds, all), strings.Join(links, ", ")}
}

// about returns the receipts of a loop. A claim is about a loop if the last part
// of its id is the loop's name or its symbols name the loop's variable, or if it
// is about the scheduler and has a check for the loop.
func (in Inputs) about(l api.DeclaredLoop) []view {
	const scheduler = "schedule."
	variable := scheduler + strings.ReplaceAll(l.Name, "-", "")
	var found []view
	for _, r := range in.Receipts {
		var named, scheduled bool
		for _, s := range r.Claim.Symbols {
			named = named || strings.EqualFold(s, variable)
			scheduled = scheduled || strings.HasPrefix(s, scheduler)
		}
		checked := slices.ContainsFunc(r.Checks, func(c Check) bool { return c.What == l.Name })
		switch {
		case named || path.Base(r.Claim.ID) == l.Name:
			found = append(found, whole(r))
		case scheduled && checked:
			v, _ := part(r, l.Name)
			found = append(found, v)
		}
	}
	slices.SortFunc(found, func(a, b view) int { return strings.Compare(a.Claim.ID, b.Claim.ID) })
	return found
}

const noReceipt = "no receipt"

func cited(views []view) string {
	var links []string
	for _, v := range views {
		says := text(strings.TrimSuffix(v.Claim.Says, "."))
		links = append(links, link(says, "../../"+path.Join(PacketDir, v.File()))+": **"+string(v.Verdict)+"**")
	}
	return cmp.Or(strings.Join(links, "; "), "none; nothing was looked at")
}

// meanings say what each class of loops promises.
var meanings = []struct {
	HA   schedule.HA
	Says string
}{
	{schedule.OneReplica, "One replica at a time does a pass. It holds a lease in the database, which ends by the database's clock, and what it writes under the lease's fencing token lands only while no other replica has taken the lease."},
	{schedule.Claimed, "Every replica does passes, which share the work: each row is taken by one replica at a time, by a lock or a lease that the others skip, and what it comes to is written only while that is so."},
	{schedule.Atomic, "Passes on several replicas may overlap: each batch is one guarded statement, so a row is acted on once."},
}

func classesBlock(p *page, in Inputs) (string, error) {
	explained := map[schedule.HA]bool{}
	var rows [][]string
	for _, m := range meanings {
		explained[m.HA] = true
		var of []string
		for _, l := range in.Declared.Loops {
			if l.HA == m.HA {
				of = append(of, l.Name)
			}
		}
		rows = append(rows, []string{code(string(m.HA)), m.Says, codes(of, "no loop")})
	}
	for _, l := range in.Declared.Loops {
		if !explained[l.HA] {
			return "", fmt.Errorf("the class %q of the loop %s has no meaning in evidence/pages.go", l.HA, l.Name)
		}
	}
	p.grid([]string{"class", "what it means", "loops"}, rows)
	return "", nil
}

func retentionsBlock(p *page, in Inputs) (string, error) {
	p.paragraph("The loop " + code(schedule.Retention.Name) + " deletes these rows once they are past their age.")
	var rows [][]string
	for _, r := range in.Declared.Retentions {
		rows = append(rows, []string{code(r.Table), text(r.Does), short(r.Keep), code(r.Setting)})
	}
	p.grid([]string{"table", "what is deleted", "kept for", "set by"}, rows)
	return "", nil
}
