package probe

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"certctl/evidence"
	"certctl/evidence/observe"
	"certctl/server/api"
	"certctl/server/audit"
	"certctl/server/client"
	"certctl/server/config"
	"certctl/server/fault"
	"certctl/server/perm"
	"certctl/server/schedule"
)

// probes are the experiments with a server and its copies.
var probes = []Probe{
	{
		Of: evidence.LedgerMatches, Needs: []Need{Database}, Look: lookLedger, Make: copied,
		Controls: []Defect{
			{
				Says:  "the ledger says that the newest migration was applied from another file",
				Turns: func(d api.Declared) []string { return []string{newest(d)} },
				SQL: func(d api.Declared) string {
					return `update schema_migrations set sha256 = repeat('0', 64) where version = '` + newest(d) + `'`
				},
			},
			{
				Says:  "the ledger lacks the newest migration and has one that no file has",
				Turns: func(d api.Declared) []string { return []string{newest(d), evidence.OtherRows} },
				SQL: func(d api.Declared) string {
					return `update schema_migrations set version = '9999_elsewhere' where version = '` + newest(d) + `'`
				},
			},
		},
	},
	{
		Of: evidence.CatalogMatches, Needs: []Need{Database}, Look: lookCatalog, Make: copied,
		Controls: []Defect{
			{
				Says:  "a column was added to a table by hand",
				Turns: func(api.Declared) []string { return []string{"api_keys"} },
				SQL:   always(`alter table api_keys add column added_by_hand text`),
			},
			{
				Says:  "the function that keeps events from being edited lets everything pass",
				Turns: func(api.Declared) []string { return []string{evidence.Functions} },
				SQL:   always(`create or replace function audit_refuse() returns trigger language plpgsql as $$ begin return null; end $$`),
			},
			{
				Says:  "the trigger that keeps events from being edited is disabled",
				Turns: func(api.Declared) []string { return []string{"audit_events"} },
				SQL:   always(`alter table audit_events disable trigger user`),
			},
		},
	},
	{
		Of: evidence.LoopsPass, Needs: []Need{Database}, Look: lookPasses, Make: served,
		Controls: []Defect{
			{
				Says:  "no loop that has a lease passed for two days",
				Turns: leased,
				SQL: always(`update leases set due_at = now() + interval '1 hour';
						update loop_runs set started_at = started_at - interval '2 days', finished_at = finished_at - interval '2 days'
						where loop in (select name from leases)`),
			}, {
				Says:  "an absent replica holds the lease of every loop that has one",
				Turns: leased,
				SQL:   always(`delete from loop_runs; update leases set holder = 'absent', expires_at = now() + interval '1 hour'`),
			},
		},
	},
	{
		Of: evidence.SettingsHold, Needs: []Need{Database, Processes}, Look: lookSettings, Make: served,
		Controls: []Defect{{
			Says: "the process runs with another period and another bound than it was given",
			Turns: func(api.Declared) []string {
				return []string{
					config.AuditSequenceEvery.Name, "time between passes of " + schedule.AuditSequence.Name,
					config.MaxBodyBytes.Name, evidence.BodyBound,
				}
			},
			Settings: map[string]string{config.AuditSequenceEvery.Name: "500ms", config.MaxBodyBytes.Name: "150000"},
			SQL:      always(`delete from loop_runs`),
		}},
	},
	{
		Of: evidence.TrailIntact, Needs: []Need{Checkpoint}, Look: lookTrail, Make: served,
		Controls: []Defect{
			{Says: "an event was edited", Turns: turns(audit.Edited), SQL: tamper(editEvent)},
			{Says: "an event was deleted", Turns: turns(audit.Missing), SQL: tamper(deleteEvent)},
			{Says: "two entries of the log were swapped", Turns: turns(audit.Swapped), SQL: tamper(swapEntries)},
			{
				Says: "the newest entries were removed, with their hashes and checkpoints", Turns: turns(audit.Truncated, outside),
				SQL: tamper(truncateLog),
			},
			{
				Says: "an older copy of the tables was restored, and written on", Turns: turns(audit.Replaced, outside),
				SQL: tamper(truncateLog), Make: servedAndWorked,
			},
		},
	},
	{
		Of: evidence.ActionsWritten, Needs: []Need{Database, Processes}, Look: lookActions, Make: workedOn,
		Controls: []Defect{
			{
				Says: "nobody worked with the server",
				Turns: func(d api.Declared) []string {
					names := []string{evidence.StepsOfWork}
					for _, a := range d.Actions {
						if a.Name != audit.ServerStarted.Name && a.Name != audit.Verified.Name {
							names = append(names, a.Name)
						}
					}
					return names
				},
				Make: idle,
			},
			{
				Says:  "the rotation of a key is written down as its revocation",
				Turns: func(api.Declared) []string { return []string{audit.KeyRotated.Name, "call of " + api.RotateKey.Name} },
				SQL: always(`
					create function misname() returns trigger language plpgsql as $$
					begin
						new.action := '` + audit.KeyRevoked.Name + `';
						return new;
					end $$;
					create trigger misname before insert on audit_events for each row
						when (new.action = '` + audit.KeyRotated.Name + `') execute function misname()`),
			},
		},
	},
	{
		Of: evidence.RolesGuard, Look: lookRoles,
		Harms: "makes a key for each role, which stays, and calls each route with it on what does not exist", Make: served,
		Controls: []Defect{{
			Says:  "the database gives whoever gets one of the roles another beside it",
			Turns: func(api.Declared) []string { return []string{perm.Auditor.Name} },
			SQL: always(`
					create function more() returns trigger language plpgsql as $$
					begin
						insert into key_roles (key_id, role, granted_by) values (new.key_id, '` + perm.CLI.Name + `', 'more');
						return null;
					end $$;
					create trigger more after insert on key_roles for each row
						when (new.role = '` + perm.Auditor.Name + `') execute function more()`),
		}},
	},
	{
		Of: evidence.CertificatesVerify, Needs: []Need{Database, Processes}, Site: populated, Look: lookCertificates, Make: populated,
		Controls: []Defect{
			{
				Says:  "the rows of two certificates hold each other's bytes",
				Turns: checks(evidence.LeavesVerify(issuers[0]), evidence.LeavesVerify(issuers[1]), evidence.BytesAreTheRows),
				SQL:   always(swapLeaves),
			},
			{
				Says:  "the event of an issuance was deleted",
				Turns: checks(evidence.EachHasItsEvent),
				SQL:   always(deleteIssuance),
			},
			{
				Says:  "the database keeps every revocation from the lists",
				Turns: checks(evidence.AllListed(issuers[0]), evidence.AllListed(issuers[1])),
				SQL:   always(unlist), Make: populatedOn,
			},
			{
				Says:  "the row of a revocation was added by hand, with the entry of another issuer's",
				Turns: checks(evidence.NoneElseListed(issuers[0])),
				SQL:   always(listOther),
			},
		},
	},
	{
		Of: evidence.RulesRefuse, Alone: true, Needs: []Need{Database, Processes}, Look: lookRules, Make: served,
		Controls: []Defect{{
			Says: "the database widens every profile that is written",
			Turns: func(api.Declared) []string {
				names := []string{evidence.NothingIssued, severalRules}
				for _, r := range widened {
					names = append(names, r.Name)
				}
				return names
			},
			SQL: always(widen),
		}},
	},
	{
		Of: evidence.LeaseFences, Needs: []Need{Database, Processes}, Look: lookLease, Make: served,
		Controls: []Defect{{
			Says:  "the database does not keep who takes a job from another",
			Turns: checks(evidence.NothingWritten, evidence.JobStaysTaken, evidence.ReplicaLost),
			SQL:   always(untakeable),
		}},
	},
}

// checks are those that a defect turns red, whatever is declared.
func checks(names ...string) func(api.Declared) []string {
	return func(api.Declared) []string { return names }
}

func newest(d api.Declared) string { return d.Migrations[len(d.Migrations)-1].Version }

func leased(d api.Declared) (names []string) {
	for _, l := range d.Loops {
		if l.HA == schedule.OneReplica {
			names = append(names, l.Name)
		}
	}
	return names
}

func lookLedger(ctx context.Context, s *Site) (any, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	return observe.Ledger(ctx, conn)
}

func lookCatalog(ctx context.Context, s *Site) (any, error) {
	fresh, err := s.Lab.Database(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.Lab.Migrate(ctx, fresh); err != nil {
		return nil, err
	}
	var seen evidence.CatalogSeen
	for _, c := range []struct {
		url string
		to  *evidence.Catalog
	}{{fresh, &seen.Fresh}, {s.Database, &seen.Live}} {
		at := *s
		at.Database = c.url
		conn, err := at.connect(ctx)
		if err != nil {
			return nil, err
		}
		*c.to, err = observe.Catalog(ctx, conn)
		conn.Close(ctx)
		if err != nil {
			return nil, err
		}
	}
	return seen, nil
}

// patience is how long a probe waits for what loops do: several periods of the
// slowest that runs at start.
const patience = 3 * time.Second

func lookPasses(ctx context.Context, s *Site) (any, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	in, err := client.Do(ctx, s.Admin, api.Introspect, &api.Empty{})
	if err != nil {
		return nil, err
	}
	periods := map[string]string{}
	for _, l := range s.Declared.Loops {
		for _, x := range in.Settings {
			if x.Name == l.Setting {
				periods[l.Name] = x.Value
			}
		}
	}
	var seen evidence.PassesSeen
	_, err = eventually(patience, func() (bool, error) {
		if seen, err = observe.Passes(ctx, conn); err != nil {
			return false, err
		}
		done := map[string]bool{}
		for _, r := range seen.Runs {
			if r.FinishedAt != nil {
				done[r.Loop] = r.Error == "" // a pass that lost its lease on a slow machine is followed by another
			}
		}
		maps.DeleteFunc(done, func(_ string, ended bool) bool { return !ended })
		return len(done) >= len(s.Declared.Loops), nil
	})
	seen.Periods = periods
	return seen, err
}

func lookSettings(ctx context.Context, s *Site) (any, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	body, err := s.Admin.Send(ctx, api.Introspect.Method, api.Introspect.Path, nil)
	if err != nil {
		return nil, err
	}
	defer body.Body.Close()
	raw, err := io.ReadAll(body.Body)
	if err != nil {
		return nil, err
	}
	in, err := client.Do(ctx, s.Admin, api.Introspect, &api.Empty{})
	if err != nil {
		return nil, err
	}
	seen := evidence.SettingsSeen{Given: map[string]string{}, Shown: in.Settings, Leaked: []string{}, Periods: map[string]int64{}}
	secret := map[string]bool{}
	for _, k := range config.Keys() {
		secret[k.Name] = k.Secret
	}
	for name, value := range s.Given {
		if !secret[name] {
			seen.Given[name] = value
			continue
		}
		seen.Given[name] = config.Withheld
		secrets := forms(value)
		if u, err := url.Parse(value); err == nil && u.User != nil {
			if password, ok := u.User.Password(); ok {
				secrets = append(secrets, forms(password)...)
			}
		}
		if slices.ContainsFunc(secrets, func(form string) bool { return strings.Contains(string(raw), form) }) {
			seen.Leaked = append(seen.Leaked, name)
		}
	}
	if seen.Bodies, err = bodies(ctx, s); err != nil {
		return nil, err
	}
	// The paths of the laboratory's own files are not this machine's to tell.
	for _, name := range []string{config.TLSCertFile.Name, config.TLSKeyFile.Name} {
		for i := range seen.Shown {
			if seen.Shown[i].Name == name && seen.Shown[i].Value == s.Given[name] {
				seen.Shown[i].Value, seen.Given[name] = "as given", "as given"
			}
		}
	}
	for _, l := range s.Declared.Loops {
		if _, given := s.Given[l.Setting]; !given {
			continue
		}
		if seen.Periods[l.Name], err = period(ctx, s, l.Name); err != nil {
			return nil, err
		}
	}
	return seen, nil
}

// bodies sends a wrong bootstrap token in a body of the largest size that was
// given, and in one that is a byte larger.
func bodies(ctx context.Context, s *Site) (statuses [2]int, err error) {
	limit, err := strconv.Atoi(s.Given[config.MaxBodyBytes.Name])
	if err != nil {
		return statuses, err
	}
	const frame = `{"name":"a","token":"b"}`
	for i := range statuses {
		body := frame + strings.Repeat(" ", limit+i-len(frame))
		res, err := s.Admin.Send(ctx, api.Bootstrap.Method, api.Bootstrap.Path, []byte(body))
		if err != nil {
			statuses[i] = fault.Of(err).Status
			continue
		}
		statuses[i] = res.StatusCode
		res.Body.Close()
	}
	return statuses, nil
}

// period waits for enough passes to take a mean of.
func period(ctx context.Context, s *Site, loop string) (int64, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close(ctx)
	var mean int64
	_, err = eventually(2*patience, func() (bool, error) {
		var n int
		mean, n, err = observe.Period(ctx, conn, loop)
		return n >= 8, err
	})
	return mean, err
}

// forms are the ways in which a secret could stand in an answer.
func forms(secret string) []string {
	return []string{
		secret, url.QueryEscape(secret), url.PathEscape(secret), hex.EncodeToString([]byte(secret)),
		base64.StdEncoding.EncodeToString([]byte(secret)), base64.RawURLEncoding.EncodeToString([]byte(secret)),
	}
}

func lookTrail(ctx context.Context, s *Site) (any, error) {
	body, err := client.Stream(ctx, s.Admin, api.ExportEvents, &api.EventFilter{})
	if err != nil {
		return nil, err
	}
	defer body.Close()
	export, err := io.ReadAll(body)
	return evidence.TrailSeen{Export: string(export), Checkpoint: s.Checkpoint.Note, Verifier: s.Checkpoint.Verifier}, err
}

func lookActions(ctx context.Context, s *Site) (any, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	// What a server writes of its own accord comes with its first passes.
	var seen evidence.ActionsSeen
	_, err = eventually(5*patience, func() (bool, error) {
		seen, err = observe.Actions(ctx, conn)
		return seen.Events[audit.Verified.Name] > 0, err
	})
	seen.Steps = append(seen.Steps, s.Steps...)
	return seen, err
}

func lookRoles(ctx context.Context, s *Site) (any, error) {
	seen := evidence.RolesSeen{Admitted: map[string][]string{}}
	for _, role := range s.Declared.Roles {
		key, err := createKey(ctx, s.Admin, unique("as "+role.Name), role.Name)
		if err != nil {
			return nil, err
		}
		seen.Admitted[role.Name] = []string{}
		for _, r := range s.Declared.Routes {
			if r.Permission == "" {
				continue
			}
			admitted, err := admits(ctx, s.Admin.With(key.Secret), r)
			if err != nil {
				return nil, fmt.Errorf("%s as %s: %w", r.Name, role.Name, err)
			}
			if admitted {
				seen.Admitted[role.Name] = append(seen.Admitted[role.Name], r.Name)
			}
		}
		slices.Sort(seen.Admitted[role.Name])
	}
	return seen, nil
}

var parameter = regexp.MustCompile(`\{[^}]*\}`)

// admits calls a route on things that do not exist, and reports whether the
// guard let the call through to be answered or refused for that.
func admits(ctx context.Context, c *client.Client, r api.DeclaredRoute) (bool, error) {
	path := parameter.ReplaceAllString(r.Path, "none")
	var body []byte
	if r.Method == http.MethodPost || r.Method == http.MethodPatch {
		body = []byte("{}")
	}
	res, err := c.Send(ctx, r.Method, path, body)
	if err == nil {
		return true, res.Body.Close()
	}
	switch fault.Of(err) {
	case fault.Forbidden:
		return false, nil
	case fault.Invalid, fault.NotFound, fault.Conflict:
		return true, nil
	}
	return false, err
}
