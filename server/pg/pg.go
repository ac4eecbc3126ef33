// Package pg holds what every query needs: a handle that is either a pool or a
// transaction, and the meaning of PostgreSQL's errors.
package pg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	neturl "net/url"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"certctl/server/fault"
)

// Q runs statements. A pool, a connection and a transaction all do, so the
// caller of a store function decides what it is part of.
type Q interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// InTx runs f in a transaction of db, which commits if f returns nil. A process
// that freezes in it loses it, with its locks, after ten seconds; one that
// waits for another's locks gives up after five.
func InTx(ctx context.Context, db *pgxpool.Pool, f func(pgx.Tx) error) error {
	err := pgx.BeginTxFunc(ctx, db, pgx.TxOptions{BeginQuery: begin}, f)
	if unavailable(err) && fault.Of(err) == fault.Internal {
		return Fault(err, "the transaction") // begin and commit have no statement to say it
	}
	return err
}

// begin is one round trip. Settings of the transaction go through a pooler.
const begin = `begin; set local idle_in_transaction_session_timeout = '10s'; set local lock_timeout = '5s'`

// Pool returns a pool on the database at url. It connects when first used.
// The sessions name replica, so that the database shows who holds them.
func Pool(url, replica string, most int) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, badURL(err)
	}
	cfg.MaxConns = int32(most)
	cfg.ConnConfig.RuntimeParams["application_name"] = ApplicationName(replica)
	return pgxpool.NewWithConfig(context.Background(), cfg)
}

// Connect opens one connection to the database at url, for replica.
func Connect(ctx context.Context, url, replica string) (*pgx.Conn, error) {
	cfg, err := pgxpool.ParseConfig(url) // takes the parameters of a pool too
	if err != nil {
		return nil, badURL(err)
	}
	cfg.ConnConfig.RuntimeParams["application_name"] = ApplicationName(replica)
	return pgx.ConnectConfig(ctx, cfg.ConnConfig)
}

// badURL is err without the connection string, which pgx's own error repeats.
func badURL(err error) error {
	const want = "the database's URL cannot be used; want postgres://user:password@host:5432/database"
	if cause := errors.Unwrap(err); cause != nil {
		if _, whole := errors.AsType[*neturl.Error](cause); !whole {
			return fmt.Errorf("%s: %w", want, cause)
		}
	}
	return errors.New(want)
}

// ApplicationName is what the sessions of a replica are called in
// pg_stat_activity: at most 63 bytes, PostgreSQL cuts the rest.
func ApplicationName(replica string) string {
	return fmt.Sprintf("%.63s", "certctl "+replica)
}

// The SQLSTATE codes that the server acts on.
const (
	UniqueViolation     = "23505"
	ForeignKeyViolation = "23503"
	UndefinedTable      = "42P01"
	Refused             = "CC409" // by a guard of the schema, which says why
)

// unstorable are the codes of values that a column cannot hold, which only a
// caller can have sent: text with a zero byte or broken UTF-8, and times and
// numbers out of range.
var unstorable = map[string]bool{"22021": true, "22P05": true, "22008": true, "22003": true, "22007": true}

// unavailable reports whether err is of the connection or of the database's
// state, and the same call may succeed later.
func unavailable(err error) bool {
	if err == nil {
		return false
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	switch code := Code(err); code {
	case "":
		return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || pgconn.SafeToRetry(err)
	case "55P03", // lock_timeout
		"25P03",          // idle_in_transaction_session_timeout
		"25006",          // read-only: the session is on a standby since a failover
		"40001", "40P01", // serialization failure, deadlock
		"57014": // statement_timeout
		return true
	default: // connection exception, insufficient resources, operator intervention
		return strings.HasPrefix(code, "08") || strings.HasPrefix(code, "53") || strings.HasPrefix(code, "57P")
	}
}

// Code returns the SQLSTATE of err, or "" if PostgreSQL did not report it.
func Code(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// Constraint returns the name of the constraint that err is a violation of, or
// "".
func Constraint(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.ConstraintName
	}
	return ""
}

func refusal(err error) string {
	e, _ := errors.AsType[*pgconn.PgError](err)
	return e.Message
}

// Fault gives err the kind it has for the owner of what was read or written,
// which what names for the caller ("certificate").
func Fault(err error, what string) error {
	if err == nil {
		return nil
	}
	kind, msg := fault.Internal, what
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		kind, msg = fault.NotFound, what+" not found"
	case Code(err) == UniqueViolation:
		kind, msg = fault.Conflict, what+" already exists"
	case Code(err) == Refused:
		kind, msg = fault.Conflict, refusal(err)
	case Code(err) == ForeignKeyViolation:
		kind, msg = fault.Invalid, what+" refers to something that does not exist"
	case unavailable(err):
		kind, msg = fault.Unavailable, "the database does not answer, or is busy; try again"
	case unstorable[Code(err)]:
		kind, msg = fault.Invalid, what+" holds a value that cannot be stored: a zero byte, broken UTF-8, or a time or number out of range"
	}
	return &fault.Error{Kind: kind, Msg: msg, Err: err}
}
