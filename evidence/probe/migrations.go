package probe

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/evidence"
	"certctl/evidence/observe"
	"certctl/server/api"
	"certctl/server/defect"
)

// racing is how many processes migrate a database at once.
const racing = 8

// migrationsProbe is the experiment with processes that migrate at once.
var migrationsProbe = Probe{
	Of: evidence.MigrationsRace, Needs: []Need{Processes}, Look: lookMigrations, Make: own,
	Controls: []Defect{{
		Says:  "the lock of the database locks nobody out",
		Turns: func(api.Declared) []string { return []string{evidence.EndedWell, evidence.KilledSome} },
		// A function of the database's owner is found before the one of PostgreSQL.
		SQL: always(`
			create function public.pg_advisory_lock(bigint) returns void language sql as 'select';
			create function public.pg_try_advisory_lock(bigint) returns boolean language sql as 'select true';
			create function public.pg_advisory_unlock(bigint) returns boolean language sql as 'select true';
			do $$ begin execute format('alter database %I set search_path = public, pg_catalog', current_database()); end $$`),
	}},
}

// lookMigrations migrates one database by several processes at once, and one by
// processes that are killed in the middle.
func lookMigrations(ctx context.Context, s *Site) (any, error) {
	seen := evidence.MigrationsSeen{Processes: racing}
	fresh, err := s.Lab.Database(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.Lab.Migrate(ctx, fresh); err != nil {
		return nil, err
	}
	together, err := s.altered(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.race(ctx, together, &seen); err != nil {
		return nil, err
	}
	killed, err := s.altered(ctx)
	if err != nil {
		return nil, err
	}
	if seen.Kills, err = s.killMigrations(ctx, killed); err != nil {
		return nil, err
	}
	if err := s.Lab.Migrate(ctx, killed); err != nil {
		return nil, err
	}
	for url, to := range map[string]*evidence.MigratedSeen{together: &seen.Together, killed: &seen.Killed} {
		if *to, err = s.on(url).migrated(ctx); err != nil {
			return nil, err
		}
		of, err := s.on(fresh).migrated(ctx)
		if err != nil {
			return nil, err
		}
		to.Fresh = of.Catalog
	}
	return seen, nil
}

// altered returns an empty database with what the site's experiment changes.
func (s *Site) altered(ctx context.Context) (string, error) {
	url, err := s.Lab.Database(ctx)
	if err == nil && s.Altered != "" {
		err = s.on(url).alter(ctx, s.Altered)
	}
	return url, err
}

// race has several processes migrate a database at once.
func (s *Site) race(ctx context.Context, url string, seen *evidence.MigrationsSeen) error {
	errs := make([]string, racing)
	pids := make([]int, racing)
	var wg sync.WaitGroup
	for i := range racing {
		cmd := s.Lab.Migration(ctx, url, s.With)
		var said bytes.Buffer
		cmd.Stderr = &said
		if err := cmd.Start(); err != nil {
			return err
		}
		pids[i] = cmd.Process.Pid
		wg.Go(func() {
			if err := cmd.Wait(); err != nil {
				errs[i] = lastLine(said.String())
			}
		})
	}
	wg.Wait()
	seen.PIDs = pids
	for _, e := range errs {
		if e == "" {
			seen.Ended++
		} else {
			seen.Errors = append(seen.Errors, e)
		}
	}
	return nil
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// killMigrations kills processes shortly after they have taken the lock, and
// returns how many.
func (s *Site) killMigrations(ctx context.Context, url string) (kills int, err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return 0, err
	}
	defer conn.Close(ctx)
	for _, after := range []time.Duration{2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond, 30 * time.Millisecond} {
		cmd := s.Lab.Migration(ctx, url, s.With)
		if err := cmd.Start(); err != nil {
			return kills, err
		}
		ended := make(chan struct{})
		go func() {
			_ = cmd.Wait() // it is killed
			close(ended)
		}()
		locked := func() (bool, error) {
			select {
			case <-ended:
				return true, nil
			default:
			}
			var held bool
			err := conn.QueryRow(ctx, `
				select exists (select from pg_catalog.pg_locks l join pg_catalog.pg_database d on d.oid = l.database
					where l.locktype = 'advisory' and d.datname = current_database())`).Scan(&held)
			return held, err
		}
		if _, err := eventually(patience, locked); err != nil {
			return kills, err
		}
		time.Sleep(after)
		select {
		case <-ended:
			continue // it was done
		default:
		}
		if err := cmd.Process.Kill(); err != nil {
			return kills, err
		}
		<-ended
		kills++
	}
	return kills, nil
}

// migrated reads the ledger and the catalog of the site's database.
func (s *Site) migrated(ctx context.Context) (m evidence.MigratedSeen, err error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return m, err
	}
	defer conn.Close(ctx)
	ledger, err := observe.Ledger(ctx, conn)
	if err != nil {
		return m, err
	}
	c, err := observe.Catalog(ctx, conn)
	if err != nil {
		return m, err
	}
	c.Functions = withoutLocks(c.Functions)
	raw, err := json.Marshal(c)
	sum := sha256.Sum256(raw)
	return evidence.MigratedSeen{Rows: ledger.Rows, Catalog: hex.EncodeToString(sum[:])}, err
}

// withoutLocks leaves out what the control has made.
func withoutLocks(all []evidence.CatalogObject) (rest []evidence.CatalogObject) {
	for _, o := range all {
		if !strings.Contains(o.Name, "advisory") {
			rest = append(rest, o)
		}
	}
	return rest
}

// refusalsProbe is the experiment with databases that do not fit.
var refusalsProbe = Probe{
	Of: evidence.MigrationsRefuse, Needs: []Need{Processes}, Look: lookRefusals, Make: own,
	Controls: []Defect{{
		Says: "the server does not compare the ledger with its files",
		Turns: func(api.Declared) (names []string) {
			for _, m := range evidence.Misfits {
				if !m.Fits {
					names = append(names, m.Says)
				}
			}
			return names
		},
		Switch: defect.UncheckedLedger,
	}},
}

// lookRefusals migrates, and serves, databases that other files made.
func lookRefusals(ctx context.Context, s *Site) (any, error) {
	fresh, err := s.Lab.Database(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.Lab.Migrate(ctx, fresh); err != nil {
		return nil, err
	}
	var seen evidence.RefusalsSeen
	for _, m := range evidence.Misfits {
		url, err := s.Lab.Clone(ctx, fresh)
		if err != nil {
			return nil, err
		}
		made := s.on(url)
		version := newest(s.Declared)
		if m.Version != "" {
			version = m.Version
		}
		if err := made.alter(ctx, m.SQL(newest(s.Declared))); err != nil {
			return nil, err
		}
		before, err := made.migrated(ctx)
		if err != nil {
			return nil, err
		}
		r := evidence.MisfitSeen{Misfit: m.Says}
		out, failed := s.Lab.Migration(ctx, url, s.With).CombinedOutput()
		r.Migrated, r.Names = failed == nil, strings.Contains(string(out), version)
		server, failed := s.Lab.Server(ctx, url, s.With)
		if r.Served = failed == nil; r.Served {
			if err := server.Kill(); err != nil {
				return nil, err
			}
		} else {
			r.Names = r.Names && strings.Contains(failed.Error(), version)
		}
		after, err := made.migrated(ctx)
		if err != nil {
			return nil, err
		}
		r.Kept = reflect.DeepEqual(before, after)
		seen.Databases = append(seen.Databases, r)
	}
	return seen, nil
}
