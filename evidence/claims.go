package evidence

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"certctl/server/api"
	"certctl/server/audit"
	"certctl/server/config"
	"certctl/server/migrate"
	"certctl/server/schedule"
	"certctl/server/table"
)

// A Statement is a claim and how an observation decides it.
type Statement struct {
	Claim

	// Judge sets what is declared beside what was seen. It reads nothing else,
	// so that anybody who has the packet comes to the same verdict.
	Judge func(d api.Declared, seen json.RawMessage) ([]Check, error)
}

var statements = table.By(func(s *Statement) string { return s.ID })

// Statements returns every claim, in the order of the packet: that of their ids.
func Statements() []*Statement {
	return slices.SortedFunc(slices.Values(statements.Rows()), func(a, b *Statement) int { return strings.Compare(a.ID, b.ID) })
}

// The claims.
var (
	LedgerMatches = statement("migrate/ledger",
		"Every migration that this build embeds was applied once, from the file that it embeds, and no other.",
		judgeLedger, "migrate.Up", "migrate.Ledger", "migrations.Files").
		citing("server/migrate.TestRunMigrations_PopulatesSchemaMigrations", "server/migrate.TestRunMigrations_SkipsAppliedOnSecondCall",
			"server/migrate.TestRunMigrations_ConcurrentCallsSerialized", "server/migrate.TestRunMigrations_FreshDatabaseHappyPath")
	CatalogMatches = statement("migrate/catalog",
		"The live tables, functions and rules are what the migrations make of an empty database: nobody altered them by hand.",
		judgeCatalog, "migrate.Up", "migrations.Files")
	MigrationsRace = statement("migrate/concurrent",
		"Eight processes that migrate an empty database at once all end without error and apply each migration once, "+
			"and so do those that go on where others were killed in the middle.",
		judgeMigrations, "migrate.Up", "migrate.Check", "migrations.Files").
		citing("server/migrate.TestRunMigrations_ConcurrentCallsSerialized", "server/migrate.TestKilledInTheMiddleOfAMigration")
	MigrationsRefuse = statement("migrate/refuses",
		"A database that other migrations made is neither migrated nor served, the message names the migration, and the database stays as it is; "+
			"one that a later version made which leaves it readable is served.",
		judgeRefusals, "migrate.Status.Fits", "migrate.Compare", "migrate.Check")
	LoopsPass = statement("schedule/passes",
		"The newest pass of every declared loop ended without error and is not overdue, and no other loop runs.",
		judgePasses, "schedule.Runner", "schedule.All", "app.App.Loops").
		citing("server/schedule.TestOneReplicaLoopRunsOnOneReplicaAtATime", "server/schedule.TestPeriodIsThatOfTheCluster",
			"server/schedule.TestLostLeaseStopsWritesAndThePass", "server/schedule.TestTakeoverClosesTheAbandonedPass",
			"server/schedule.TestFailureIsInTheLedger")
	SettingsHold = statement("config/in-force",
		"A process says which settings it was given and withholds every secret; periods and the bound of a body are what was given.",
		judgeSettings, "config.Load", "config.Show", "app.App.Run")
	TrailIntact = statement("audit/intact",
		"The audit log is what its checkpoints signed: nothing in it was edited, removed, moved or rolled back.",
		judgeTrail, "audit.Log.Sequence", "audit.Export", "audit.VerifyStream").
		citing("server/audit.TestVerifyNamesWhatWasChanged", "server/audit.TestVerifyStreamNamesWhatWasChangedInTheFile",
			"server/audit.TestVerifyFindsAReturnToAnOlderCopy")
	ActionsWritten = statement("audit/actions",
		"Each step of work writes the audit action that names it, every declared action is written, and no undeclared one.",
		judgeActions, "audit.Write", "audit.Actions")
	RolesGuard = statement("access/roles",
		"Each default role may call the routes whose permission it holds, and no other.",
		judgeRoles, "perm.Roles", "api.Routes", "auth.Access.Admit")
)

func statement(id, says string, judge func(api.Declared, json.RawMessage) ([]Check, error), symbols ...string) *Statement {
	return statements.Add(&Statement{Claim: Claim{ID: id, Says: says, Symbols: symbols}, Judge: judge})
}

// decide decodes what was seen for a judge.
func decide[T any](seen json.RawMessage, judge func(T) []Check) ([]Check, error) {
	var s T
	if err := json.Unmarshal(seen, &s); err != nil {
		return nil, fmt.Errorf("observation: %w", err)
	}
	return judge(s), nil
}

// Words that several judges use.
const (
	none    = "none"
	unseen  = "not seen"
	healthy = "finished without error"
)

// other lists what was seen beside what is declared, or none.
func other(names []string) string {
	if len(names) == 0 {
		return none
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ", ")
}

// LedgerSeen is the ledger as rows of the database.
type LedgerSeen struct {
	Rows []migrate.Row `json:"rows"`
}

func judgeLedger(d api.Declared, seen json.RawMessage) ([]Check, error) {
	return decide(seen, func(s LedgerSeen) []Check {
		var checks []Check
		rows := map[string]migrate.Row{}
		for _, r := range s.Rows {
			rows[r.Version] = r
		}
		for _, m := range d.Migrations {
			got := unseen
			if r, ok := rows[m.Version]; ok {
				got = r.SHA256
				delete(rows, m.Version)
			}
			checks = append(checks, check(m.Version, m.SHA256, got))
		}
		var others []string
		for v := range rows {
			others = append(others, v)
		}
		return append(checks, check(OtherRows, none, other(others)))
	})
}

// OtherRows is the check that the ledger holds nothing undeclared.
const OtherRows = "rows without a file"

// MigrationsSeen are databases that several processes migrated.
type MigrationsSeen struct {
	Processes int          `json:"processes"`
	PIDs      []int        `json:"pids"`
	Ended     int          `json:"ended"` // without error
	Errors    []string     `json:"errors"`
	Together  MigratedSeen `json:"together"`
	Kills     int          `json:"kills"` // of processes that were migrating
	Killed    MigratedSeen `json:"killed"`
}

// MigratedSeen is what the ledger and the catalog of a database have.
type MigratedSeen struct {
	Rows    []migrate.Row `json:"rows"`
	Catalog string        `json:"catalog"` // hash of all of it
	Fresh   string        `json:"fresh"`   // of one that one process migrated
}

// The checks of migrations at once.
const (
	EndedWell  = "processes that ended without error"
	KilledSome = "processes that were killed while they held the lock, at least three"
)

func judgeMigrations(d api.Declared, seen json.RawMessage) ([]Check, error) {
	return decide(seen, func(s MigrationsSeen) []Check {
		applied := func(rows []migrate.Row) int {
			n := 0
			for _, m := range d.Migrations {
				if slices.ContainsFunc(rows, func(r migrate.Row) bool { return r.Version == m.Version && r.SHA256 == m.SHA256 }) {
					n++
				}
			}
			return n
		}
		all := strconv.Itoa(len(d.Migrations))
		return []Check{
			check("processes", "8", strconv.Itoa(len(slices.Compact(slices.Sorted(slices.Values(s.PIDs)))))),
			check(EndedWell, strconv.Itoa(s.Processes), strconv.Itoa(s.Ended)),
			check("migrations in the ledger of the eight", all, strconv.Itoa(applied(s.Together.Rows))),
			check("rows of that ledger", all, strconv.Itoa(len(s.Together.Rows))),
			check("catalog that the eight made", s.Together.Fresh, s.Together.Catalog),
			check(KilledSome, "yes", yes(s.Kills >= 3)),
			check("migrations in the ledger after the kills", all, strconv.Itoa(applied(s.Killed.Rows))),
			check("rows of that ledger", all, strconv.Itoa(len(s.Killed.Rows))),
			check("catalog after the kills", s.Killed.Fresh, s.Killed.Catalog),
		}
	})
}

// A Misfit is a way in which a ledger is not that of this build.
type Misfit struct {
	Says    string
	Fits    bool   // a server may run on it all the same
	Version string // that the refusal names; the newest if empty
	SQL     func(newest string) string
}

// another is a version that no build has, and that a build can read which has the
// given one.
func another(readable string) func(string) string {
	return func(string) string {
		return `insert into schema_migrations (version, sha256, readable_from, took, server, replica)
			values ('9999_later', 'a hash', '` + readable + `', '1 second', 'a later version', 'another')`
	}
}

// Misfits are those that are tried.
var Misfits = []Misfit{
	{Says: "a migration that was applied from another file", SQL: func(newest string) string {
		return `update schema_migrations set sha256 = repeat('0', 64) where version = '` + newest + `'`
	}},
	{Says: "a migration that was left out", Version: "0002_", SQL: func(string) string {
		return `delete from schema_migrations where version like '0002_%'`
	}},
	{Says: "a later migration that this build cannot read", Version: "9999_later", SQL: another("9999")},
	{Says: "a later migration that this build can read", Fits: true, Version: "9999_later", SQL: another("0001")},
}

// RefusalsSeen is what became of databases that do not fit.
type RefusalsSeen struct {
	Databases []MisfitSeen `json:"databases"`
}

// A MisfitSeen is one of them.
type MisfitSeen struct {
	Misfit   string `json:"misfit"`
	Migrated bool   `json:"migrated"` // without error
	Served   bool   `json:"served"`
	Names    bool   `json:"names"` // the errors name the migration
	Kept     bool   `json:"kept"`  // ledger and catalog are as before
}

func judgeRefusals(_ api.Declared, seen json.RawMessage) ([]Check, error) {
	return decide(seen, func(s RefusalsSeen) []Check {
		var checks []Check
		const served, refused = "migrated and served, and as it was", "refused by name, and as it was"
		for _, m := range Misfits {
			want, got := refused, unseen
			if m.Fits {
				want = served
			}
			for _, d := range s.Databases {
				switch {
				case d.Misfit != m.Says:
				case d.Migrated && d.Served && d.Kept:
					got = served
				case !d.Migrated && !d.Served && d.Names && d.Kept:
					got = refused
				default:
					got = fmt.Sprintf("migrated: %t, served: %t, named: %t, as it was: %t", d.Migrated, d.Served, d.Names, d.Kept)
				}
			}
			checks = append(checks, check(m.Says, want, got))
		}
		return checks
	})
}

// CatalogSeen is the catalog of an empty database after the migrations, and
// that of the database that a server works on.
type CatalogSeen struct {
	Fresh Catalog `json:"fresh"`
	Live  Catalog `json:"live"`
}

func judgeCatalog(_ api.Declared, seen json.RawMessage) ([]Check, error) {
	return decide(seen, func(s CatalogSeen) []Check {
		var checks []Check
		live := map[string]string{}
		for _, t := range s.Live.Tables {
			live[t.Name] = digest(t)
		}
		for _, t := range s.Fresh.Tables {
			got := unseen
			if h, ok := live[t.Name]; ok {
				got = h
				delete(live, t.Name)
			}
			checks = append(checks, check(t.Name, digest(t), got))
		}
		var others []string
		for name := range live {
			others = append(others, name)
		}
		return append(checks,
			check("other tables", none, other(others)),
			check(Functions, digest(s.Fresh.Functions), digest(s.Live.Functions)),
			check("views", digest(s.Fresh.Views), digest(s.Live.Views)))
	})
}

// Functions is the check that no function was altered.
const Functions = "functions"

// digest stands for a whole definition in a check.
func digest(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // it is made of strings
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:8])
}

// PassesSeen is the ledger of passes as rows of the database.
type PassesSeen struct {
	Runs    []schedule.Run    `json:"runs"`    // oldest first
	Now     time.Time         `json:"now"`     // by the database's clock
	Periods map[string]string `json:"periods"` // of each loop, as the server says
}

func judgePasses(d api.Declared, seen json.RawMessage) ([]Check, error) {
	return decide(seen, func(s PassesSeen) []Check {
		var checks []Check
		var others []string
		newest := map[string]schedule.Run{}
		for _, r := range s.Runs {
			newest[r.Loop] = r
		}
		finished := map[string]schedule.Run{}
		for _, r := range s.Runs {
			if r.FinishedAt != nil {
				finished[r.Loop] = r
			}
		}
		for loop := range newest {
			if !slices.ContainsFunc(d.Loops, func(l api.DeclaredLoop) bool { return l.Name == loop }) {
				others = append(others, loop)
			}
		}
		for _, l := range d.Loops {
			every := l.Every
			if given, ok := s.Periods[l.Name]; ok {
				every = given
			}
			checks = append(checks, check(l.Name, healthy, pace(newest[l.Name], finished[l.Name], every, l.Timeout, s.Now)))
		}
		return append(checks, check("other loops", none, other(others)))
	})
}

// pace says whether the last pass that ended did so without error, and not
// longer ago than the next one may take to come and to end.
func pace(newest, finished schedule.Run, every, timeout string, now time.Time) string {
	period, err := time.ParseDuration(every)
	limit, err2 := time.ParseDuration(timeout)
	switch {
	case err != nil || err2 != nil:
		return "no period"
	case newest.Loop == "":
		return unseen
	case newest.FinishedAt == nil && now.Sub(newest.StartedAt) > limit:
		return "hangs"
	case finished.FinishedAt == nil:
		return "begun"
	case finished.Error != "":
		return "failed: " + finished.Error
	case now.Sub(*finished.FinishedAt) > 2*period+limit:
		return "no pass since " + finished.FinishedAt.UTC().Format(time.RFC3339)
	}
	return healthy
}

// SettingsSeen is what a process was given, what it answered on the wire, and
// what it did.
type SettingsSeen struct {
	Given  map[string]string `json:"given"` // secrets withheld
	Shown  []config.Shown    `json:"shown"` // by introspection
	Leaked []string          `json:"leaked"`

	// Periods are the mean times between the starts of passes, in
	// milliseconds, from rows, of the loops whose period was given.
	Periods map[string]int64 `json:"periods"`

	// Bodies are the statuses of a request with a body of the largest size that
	// was given, and with one byte more.
	Bodies [2]int `json:"bodies"`
}

func judgeSettings(d api.Declared, seen json.RawMessage) ([]Check, error) {
	return decide(seen, func(s SettingsSeen) []Check {
		shown := map[string]config.Shown{}
		for _, x := range s.Shown {
			shown[x.Name] = x
		}
		var checks []Check
		for _, k := range d.Settings {
			want, given := s.Given[k.Name]
			if !given {
				want = k.Default
			}
			got := unseen
			if x, ok := shown[k.Name]; ok {
				got = x.Value
			}
			checks = append(checks, check(k.Name, want, got))
		}
		for _, l := range d.Loops {
			mean, ok := s.Periods[l.Name]
			if !ok {
				continue
			}
			want := "about " + s.Given[l.Setting]
			checks = append(checks, check("time between passes of "+l.Name, want, about(s.Given[l.Setting], mean)))
		}
		bound := "a body of that size is read, a larger one refused"
		got := fmt.Sprintf("the statuses %d and %d", s.Bodies[0], s.Bodies[1])
		if s.Bodies == [2]int{http.StatusUnauthorized, http.StatusRequestEntityTooLarge} {
			got = bound
		}
		return append(checks, check(BodyBound, bound, got), check("secrets in the answer", none, other(s.Leaked)))
	})
}

// BodyBound is the check that the bound of a body is what was given.
const BodyBound = "largest body"

// TrailSeen is an export of the log, with a checkpoint and the public key that
// were learnt before.
type TrailSeen struct {
	Export     string `json:"export"`
	Checkpoint string `json:"checkpoint"`
	Verifier   string `json:"verifier"`
}

// trailKinds are what a verification can find, in the order of the checks.
var trailKinds = []audit.Kind{
	audit.Edited, audit.Swapped, audit.Rehashed, audit.Missing, audit.Truncated, audit.Replaced,
	audit.Forged, audit.Unsigned, audit.Unlogged, audit.Malformed, audit.Incomplete,
}

func judgeTrail(_ api.Declared, seen json.RawMessage) ([]Check, error) {
	var s TrailSeen
	if err := json.Unmarshal(seen, &s); err != nil {
		return nil, fmt.Errorf("observation: %w", err)
	}
	report, err := audit.VerifyStream(strings.NewReader(s.Export),
		audit.Options{Verifiers: []string{s.Verifier}, Checkpoints: []string{s.Checkpoint}})
	if err != nil {
		return nil, err
	}
	found := map[audit.Kind][]string{}
	for _, p := range report.Problems {
		found[p.Kind] = append(found[p.Kind], p.String())
	}
	agrees := "does not agree"
	if report.Outside == 1 {
		agrees = "agrees"
	}
	unread := none
	if report.Withheld > 0 || report.Unchecked > 0 {
		unread = fmt.Sprintf("%d events withheld, %d checkpoints not compared", report.Withheld, report.Unchecked)
	}
	checks := []Check{check("checkpoint kept outside", "agrees", agrees), check("not read", none, unread)}
	for _, k := range trailKinds {
		checks = append(checks, check(string(k), none, other(found[k])))
		delete(found, k)
	}
	if report.Events == 0 {
		checks = append(checks, check("events", "some", none))
	}
	return checks, nil
}

// ActionsSeen is the actions of events, from rows.
type ActionsSeen struct {
	Events map[string]int `json:"events"` // of each action, how many
	Steps  []StepSeen     `json:"steps"`  // of the work that was done
}

// StepsOfWork is the check that there was any work.
const StepsOfWork = "steps of work"

// A StepSeen is one call and the actions that it wrote.
type StepSeen struct {
	Step  string   `json:"step"`
	Names string   `json:"names"` // the action that it is
	Wrote []string `json:"wrote"`
}

func judgeActions(d api.Declared, seen json.RawMessage) ([]Check, error) {
	return decide(seen, func(s ActionsSeen) []Check {
		var checks []Check
		for _, a := range d.Actions {
			got := unseen
			if s.Events[a.Name] > 0 {
				got = "written"
			}
			delete(s.Events, a.Name)
			checks = append(checks, check(a.Name, "written", got))
		}
		var others []string
		for name := range s.Events {
			others = append(others, name)
		}
		checks = append(checks, check("other actions", none, other(others)))
		if len(s.Steps) == 0 {
			checks = append(checks, check(StepsOfWork, "some", none))
		}
		for _, step := range s.Steps {
			checks = append(checks, check(step.Step, step.Names, cmp.Or(strings.Join(step.Wrote, ", "), none)))
		}
		return checks
	})
}

// RolesSeen is, for each role, the routes that did not refuse a key with it.
type RolesSeen struct {
	Admitted map[string][]string `json:"admitted"`
}

func judgeRoles(d api.Declared, seen json.RawMessage) ([]Check, error) {
	return decide(seen, func(s RolesSeen) []Check {
		var checks []Check
		for _, role := range d.Roles {
			var want []string
			for _, r := range d.Routes {
				if r.Permission != "" && slices.Contains(role.Permissions, r.Permission) {
					want = append(want, r.Name)
				}
			}
			got := unseen
			if admitted, ok := s.Admitted[role.Name]; ok {
				got = other(admitted)
			}
			checks = append(checks, check(role.Name, other(want), got))
		}
		return checks
	})
}

// about sets a mean of milliseconds beside a period: not less than half of it,
// and not more than three times, which a busy disk may add and no other setting
// that a probe gives comes near.
func about(period string, mean int64) string {
	d, err := time.ParseDuration(period)
	if err != nil {
		return "no period"
	}
	seen := time.Duration(mean) * time.Millisecond
	if seen < d/2 || seen > 3*d {
		return seen.String()
	}
	return "about " + period
}
