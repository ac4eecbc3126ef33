// Package migrate applies the numbered schema files and keeps the ledger of
// what was applied.
package migrate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"certctl/server/config"
	"certctl/server/defect"
	"certctl/server/fault"
	"certctl/server/pg"
)

// A Migration is one schema file.
type Migration struct {
	Version      string `json:"version"` // the file's name without .sql
	SHA256       string `json:"sha256"`
	ReadableFrom string `json:"readable_from,omitempty"` // see readableFrom

	sql string
}

// File is the name of the migration's file.
func (m Migration) File() string { return m.Version + ".sql" }

// number is the part of a version that orders it: 0012 of 0012_name.
func number(version string) string {
	n, _, _ := strings.Cut(version, "_")
	return n
}

var (
	fileName = regexp.MustCompile(`^[0-9]{4}_[a-z0-9_]+\.sql$`)

	// readableFrom marks a migration that older servers can live with:
	// "-- readable-from: 0003" says that a server whose newest migration is
	// 0003 or later works on a database that has this one.
	readableFrom = regexp.MustCompile(`(?m)^-- readable-from: ([0-9]{4})$`)
)

// Read returns the migrations in fsys, whose files are NNNN_name.sql with
// numbers from 1 and no gaps.
func Read(fsys fs.FS) ([]Migration, error) {
	files, err := fs.Glob(fsys, "*.sql")
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	var ms []Migration
	for i, file := range files {
		want := fmt.Sprintf("%04d", i+1)
		if !fileName.MatchString(file) || number(file) != want {
			return nil, fmt.Errorf("migration %s: want the name %s_subject.sql: numbers go up by one, without a gap", file, want)
		}
		sql, err := fs.ReadFile(fsys, file)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(sql)
		m := Migration{Version: strings.TrimSuffix(file, ".sql"), SHA256: hex.EncodeToString(sum[:]), sql: string(sql)}
		if mark := readableFrom.FindStringSubmatch(m.sql); mark != nil {
			m.ReadableFrom = mark[1]
		}
		ms = append(ms, m)
	}
	return ms, nil
}

// Options say what is applied and by whom.
type Options struct {
	Files   fs.FS
	Replica string      // recorded in the ledger
	Server  string      // version of the server, recorded in the ledger
	Log     *zap.Logger // may be nil
}

// lockKey is what every server locks while it migrates. Any other program that
// wants to keep migrations off can take the same lock.
var lockKey = func() int64 {
	h := fnv.New64a()
	h.Write([]byte("certctl-migrations"))
	return int64(h.Sum64())
}()

// Up brings the database at url to the newest of the files. It holds the
// migration lock on a connection of its own, so a second replica waits, and
// then finds nothing to do. Each file and its row in the ledger commit
// together. A database that does not fit the files is left as it is.
func Up(ctx context.Context, url string, o Options) error {
	ms, err := Read(o.Files)
	if err != nil {
		return err
	}
	log := o.Log
	if log == nil {
		log = zap.NewNop()
	}
	conn, err := pg.Connect(ctx, url, o.Replica)
	if err != nil {
		return fmt.Errorf("connect to migrate: %w", err)
	}
	// The lock belongs to the session and goes with it, whatever happened.
	defer conn.Close(context.WithoutCancel(ctx))
	if err := direct(ctx, conn); err != nil {
		return err
	}
	// So that the database ends a long migration, and frees the lock, when this
	// process dies. Not every platform of PostgreSQL can; the statement then
	// runs to its end.
	_, _ = conn.Exec(ctx, noticeDeath)
	if _, err := conn.Exec(ctx, noticeFreeze); err != nil {
		return err
	}

	if err := lock(ctx, conn, log); err != nil {
		return fmt.Errorf("take the migration lock: %w", err)
	}
	if _, err := conn.Exec(ctx, createLedger); err != nil {
		return fmt.Errorf("create the ledger: %w", err)
	}
	status, err := Compare(ctx, conn, ms)
	if err != nil {
		return err
	}
	if err := status.Fits(); err != nil {
		return err
	}
	for _, e := range status {
		if e.State != Pending {
			continue
		}
		start := time.Now()
		if err := apply(ctx, conn, e.Migration, o, start); err != nil {
			return fmt.Errorf("migration %s: %w", e.File(), err)
		}
		log.Info("migration applied", zap.String("version", e.Version), zap.Duration("took", time.Since(start)))
	}
	return nil
}

// direct refuses a connection that leads through a pooler, before anything of
// the session behind it is changed: the pooler would keep it, with the lock.
func direct(ctx context.Context, conn *pgx.Conn) error {
	var session uint32
	if err := conn.QueryRow(ctx, thisSession).Scan(&session); err != nil {
		return err
	}
	if session != conn.PgConn().PID() {
		return fault.New(fault.Conflict, "the connection leads through a pooler, and migrations need one of their own; set %s to the database itself, or migrate apart and start with --no-migrate",
			config.MigrateDatabaseURL.Name)
	}
	return nil
}

func lock(ctx context.Context, conn *pgx.Conn, log *zap.Logger) error {
	var got bool
	if err := conn.QueryRow(ctx, tryLock, lockKey).Scan(&got); err != nil || got {
		return err
	}
	var holder string
	if err := conn.QueryRow(ctx, lockHolder, lockKey).Scan(&holder); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	log.Info("waiting for another replica to finish its migrations", zap.String("holder", holder))
	_, err := conn.Exec(ctx, waitLock, lockKey)
	return err
}

func apply(ctx context.Context, conn *pgx.Conn, m Migration, o Options, start time.Time) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		var xid string
		if err := tx.QueryRow(ctx, thisTransaction).Scan(&xid); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, m.sql); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, record, pgx.StrictNamedArgs{
			"version": m.Version, "sha256": m.SHA256, "readable_from": m.ReadableFrom,
			"took": time.Since(start), "server": o.Server, "replica": o.Replica, "xid": xid,
		})
		if err == nil && tag.RowsAffected() != 1 {
			err = fmt.Errorf("ends the transaction it runs in; remove begin, commit and rollback from the file")
		}
		return err
	})
}

// State says what an entry of a comparison shows.
type State string

// The states of a migration, seen from a database and a server's files.
const (
	Applied  State = "applied"
	Pending  State = "pending"
	Edited   State = "edited"   // applied from a file that has another content now
	Newer    State = "newer"    // applied by a newer server, and this one may run on it
	TooNew   State = "too new"  // applied by a newer server, and this one may not
	Fileless State = "fileless" // in the ledger, and no file has its number
	Skipped  State = "skipped"  // not applied though a later one is
)

// An Entry is a file, a row of the ledger, or both.
type Entry struct {
	Migration
	State     State  `json:"state"`
	AppliedAs string `json:"applied_as,omitempty"` // checksum of what was applied
	Row       *Row   `json:"row,omitempty"`
}

// A Row is one line of the ledger, schema_migrations.
type Row struct {
	Version      string        `json:"version"`
	AppliedAt    time.Time     `json:"applied_at"`
	SHA256       string        `json:"sha256" db:"sha256"`
	ReadableFrom string        `json:"readable_from"`
	Took         time.Duration `json:"took"`
	Server       string        `json:"server"`
	Replica      string        `json:"replica"`
}

// A Status lines up the files with the ledger, in order of version.
type Status []Entry

// Compare lines up ms with what the database has applied. A database without
// a ledger has applied nothing.
func Compare(ctx context.Context, q pg.Q, ms []Migration) (Status, error) {
	rows, err := Ledger(ctx, q)
	if err != nil {
		return nil, err
	}
	applied := map[string]Row{}
	for _, r := range rows {
		applied[r.Version] = r
	}
	var newest, last string // of the files, of the ledger
	if len(ms) > 0 {
		newest = number(ms[len(ms)-1].Version)
	}
	if len(rows) > 0 {
		last = rows[len(rows)-1].Version
	}
	var status Status
	for _, m := range ms {
		e := Entry{Migration: m, State: Pending}
		if r, ok := applied[m.Version]; ok {
			e.Row, e.AppliedAs, e.State = &r, r.SHA256, Applied
			if r.SHA256 != m.SHA256 {
				e.State = Edited
			}
			delete(applied, m.Version)
		} else if m.Version < last {
			e.State = Skipped
		}
		status = append(status, e)
	}
	for _, r := range rows {
		if _, left := applied[r.Version]; !left {
			continue
		}
		e := Entry{Migration: Migration{Version: r.Version, SHA256: r.SHA256, ReadableFrom: r.ReadableFrom}, Row: &r, AppliedAs: r.SHA256}
		switch {
		case number(r.Version) <= newest:
			e.State = Fileless
		case r.ReadableFrom != "" && r.ReadableFrom <= newest:
			e.State = Newer
		default:
			e.State = TooNew
		}
		status = append(status, e)
	}
	slices.SortStableFunc(status, func(a, b Entry) int { return strings.Compare(a.Version, b.Version) })
	return status, nil
}

// Ledger returns what the database has applied, in order of version.
func Ledger(ctx context.Context, q pg.Q) ([]Row, error) {
	rows, _ := q.Query(ctx, ledger)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[Row])
	if pg.Code(err) == pg.UndefinedTable {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the ledger: %w", err)
	}
	return found, nil
}

// Count returns how many entries are in the state s.
func (status Status) Count(s State) int {
	n := 0
	for _, e := range status {
		if e.State == s {
			n++
		}
	}
	return n
}

// Fits says why a server with these files must not touch the database, and how
// to go on; nil if it may.
func (status Status) Fits() error {
	if defect.On && defect.Is(defect.UncheckedLedger) {
		return nil
	}
	for _, e := range status {
		var problem string
		switch e.State {
		case Edited:
			problem = fmt.Sprintf("was applied from a file with checksum %.12s and is %.12s in this server; restore the file as it was, and put the change into a new migration", e.AppliedAs, e.SHA256)
		case Fileless:
			problem = "is in the ledger and this server has no file of that name; start the server that applied it, or restore the file"
		case Skipped:
			problem = "was not applied, and a later one was; start the server whose files made the ledger, or restore the database from a backup"
		case TooNew:
			problem = fmt.Sprintf("was applied by a newer server (%s), and this one cannot work with it; start that version or a later one, or restore the backup from before the upgrade", e.Row.Server)
		default:
			continue
		}
		return fault.New(fault.Conflict, "migration %s %s", e.Version, problem)
	}
	return nil
}

// Check says why a server with these files cannot run on the database as it
// is: it does not fit, or a migration is pending.
func Check(ctx context.Context, q pg.Q, fsys fs.FS) error {
	ms, err := Read(fsys)
	if err != nil {
		return err
	}
	status, err := Compare(ctx, q, ms)
	if err != nil {
		return err
	}
	if err := status.Fits(); err != nil {
		return err
	}
	for _, e := range status {
		if e.State == Pending {
			return fault.New(fault.Conflict, "migration %s is pending; run `certctl-server migrate` against this database, or start without --no-migrate", e.Version)
		}
	}
	return nil
}
