package audit

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"certctl/server/config"
	"certctl/server/pg"
	"certctl/server/seal"
)

// A Log appends to the signed log of one database and verifies it. It is safe
// for concurrent use.
type Log struct {
	box    *seal.Box
	key    key
	signer note.Signer
}

// A key is a row of audit_keys.
type key struct {
	Name     string
	Verifier string
	Sealed   []byte
	Active   bool
}

func (k key) purpose() string { return "audit signing key " + k.Name }

// Open returns the log of the database, and makes its signing key if there is
// none.
func Open(ctx context.Context, db *pgxpool.Pool, box *seal.Box) (*Log, error) {
	l, err := OpenExisting(ctx, db, box)
	if !errors.Is(err, errNoKey) {
		return l, err
	}
	// Another replica may be first.
	if err := makeKey(ctx, db, box); err != nil {
		return nil, err
	}
	return OpenExisting(ctx, db, box)
}

var errNoKey = errors.New("the audit log has no signing key: no server has worked on this database")

// OpenExisting is Open for one who only reads: a log without a signing key is
// an error.
func OpenExisting(ctx context.Context, db *pgxpool.Pool, box *seal.Box) (*Log, error) {
	k, err := activeKey(ctx, db)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, errNoKey
	}
	if err != nil {
		return nil, fmt.Errorf("read the audit signing key: %w", err)
	}
	signer, err := k.open(box)
	if err != nil {
		return nil, err
	}
	return &Log{box, k, signer}, nil
}

// Verifier is the public key of the checkpoints that the log signs, in the form
// that Options takes. Its copy outside the database is what makes a forged
// checkpoint visible.
func (l *Log) Verifier() string { return l.key.Verifier }

// Origin is the log's name, which no other database has.
func (l *Log) Origin() string { return l.key.Name }

func activeKey(ctx context.Context, q pg.Q) (key, error) {
	keys, err := allKeys(ctx, q)
	if err != nil {
		return key{}, err
	}
	for _, k := range keys {
		if k.Active {
			return k, nil
		}
	}
	return key{}, pgx.ErrNoRows
}

func allKeys(ctx context.Context, q pg.Q) ([]key, error) {
	rows, _ := q.Query(ctx, readKeys)
	return pgx.CollectRows(rows, pgx.RowToStructByName[key])
}

func makeKey(ctx context.Context, q pg.Q, box *seal.Box) error {
	var id [8]byte
	rand.Read(id[:])
	k := key{Name: "certctl-audit-" + hex.EncodeToString(id[:])}
	private, public, err := note.GenerateKey(rand.Reader, k.Name)
	if err != nil {
		return fmt.Errorf("make the audit signing key: %w", err)
	}
	_, err = q.Exec(ctx, insertKey, pgx.StrictNamedArgs{
		"name": k.Name, "verifier": public, "sealed": box.Seal([]byte(private), k.purpose()),
	})
	if err != nil {
		return fmt.Errorf("store the audit signing key: %w", err)
	}
	return nil
}

func (k key) open(box *seal.Box) (note.Signer, error) {
	private, err := box.Open(k.Sealed, k.purpose())
	if err != nil {
		return nil, fmt.Errorf("audit signing key %s: %w: set %s to the key that this database was first used with; "+
			"if that is lost, run \"update audit_keys set retired_at = now() where retired_at is null\" "+
			"as the owner of the tables, and the next start makes a new signing key",
			k.Name, err, config.EncryptionKey.Name)
	}
	signer, err := note.NewSigner(string(private))
	if err != nil {
		return nil, fmt.Errorf("audit signing key %s: %w", k.Name, err)
	}
	// The public half stands beside the sealed one and is not protected by it.
	public, err := verifiers([]string{k.Verifier})
	if err != nil {
		return nil, err
	}
	probe, err := note.Sign(&note.Note{Text: "probe\n"}, signer)
	if err == nil {
		_, err = note.Open(probe, public)
	}
	if err != nil {
		return nil, fmt.Errorf("audit signing key %s: its row in audit_keys was altered: the verifier is not that of the sealed key", k.Name)
	}
	return signer, nil
}

// batch is how many events one transaction appends, and how many a reader
// holds at once.
const batch = 1000

// Sequence appends the committed events to the log, in transactions of at most
// 1000 that inTx runs, and signs a checkpoint with each. It reports how many it
// appended, which is what committed even if err is not nil.
//
// One replica at a time should call it. inTx keeps the others out: it commits
// only if the caller still holds its lease, whose token goes into the
// checkpoint. Should two run nevertheless, one of them fails and nothing is
// appended twice.
func (l *Log) Sequence(ctx context.Context, token int64, inTx func(context.Context, func(pgx.Tx) error) error) (acted int, err error) {
	for {
		var n int
		err := inTx(ctx, func(tx pgx.Tx) (err error) {
			n, err = l.append(ctx, tx, token)
			return err
		})
		if err != nil {
			return acted, fmt.Errorf("append to the audit log: %w", err)
		}
		if acted += n; n < batch {
			return acted, nil
		}
	}
}

// head is the end of the log as the database has it.
type head struct {
	Size int64
	Note string // of the newest checkpoint, empty if there is none
	Now  time.Time
}

// append takes four round trips, or one if nothing is queued.
func (l *Log) append(ctx context.Context, tx pgx.Tx, token int64) (int, error) {
	var queued []record
	var h head
	read := &pgx.Batch{}
	read.Queue(readQueue, batch).Query(collect(&queued, pgx.RowToStructByName[record]))
	read.Queue(readHead).Query(func(rows pgx.Rows) (err error) {
		h, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[head])
		return err
	})
	if err := tx.SendBatch(ctx, read).Close(); err != nil || len(queued) == 0 {
		return 0, err
	}
	t, err := l.edge(ctx, tx, h)
	if err != nil {
		return 0, err
	}

	var ids []int64
	var hashes [][]byte
	for _, r := range queued {
		leaf := node{r.leaf(), true}
		ids = append(ids, r.ID)
		hashes = append(hashes, leaf.hash[:])
		t.add(leaf, func(_ int, n node) node {
			hashes = append(hashes, n.hash[:])
			return n
		})
	}
	root, _ := t.root()
	c := checkpoint{l.Origin(), t.n, root, h.Size, token, h.Now}
	signed, err := note.Sign(&note.Note{Text: c.text()}, l.signer)
	if err != nil {
		return 0, fmt.Errorf("sign: %w", err)
	}

	write := &pgx.Batch{}
	write.Queue(insertLog, h.Size, ids)
	write.Queue(insertHashes, tlog.StoredHashCount(h.Size), hashes)
	write.Queue(insertCheckpoint, c.Size, root[:], string(signed), token, h.Now)
	write.Queue(deleteQueue, ids)
	results := tx.SendBatch(ctx, write)
	for range write.Len() - 1 {
		if _, err := results.Exec(); err != nil {
			return 0, errors.Join(err, results.Close())
		}
	}
	tag, err := results.Exec()
	if err = errors.Join(err, results.Close()); err == nil && tag.RowsAffected() != int64(len(ids)) {
		err = errors.New("another replica appends at the same time")
	}
	return len(ids), err
}

// edge returns the end of the tree, if it is what the newest checkpoint signs.
// Otherwise nothing may be appended: a new signature would cover what was
// changed.
func (l *Log) edge(ctx context.Context, tx pgx.Tx, h head) (tree, error) {
	if h.Size == 0 && h.Note == "" {
		return tree{}, nil
	}
	places := edge(h.Size)
	keys, stored := []key{}, [][]byte{}
	read := &pgx.Batch{}
	read.Queue(readHashes, places).Query(collect(&stored, pgx.RowTo[[]byte]))
	read.Queue(readKeys).Query(collect(&keys, pgx.RowToStructByName[key]))
	if err := tx.SendBatch(ctx, read).Close(); err != nil {
		return tree{}, err
	}
	known, err := verifiers(publicKeys(keys))
	if err != nil {
		return tree{}, err
	}
	c, errParse, errSign := openCheckpoint(h.Note, known)
	t := tree{n: h.Size}
	for _, b := range stored {
		if len(b) == tlog.HashSize {
			t.peaks = append(t.peaks, node{tlog.Hash(b), true})
		}
	}
	root, _ := t.root()
	switch {
	case errParse != nil || errSign != nil:
		err = errors.Join(errParse, errSign)
	case c.Size != h.Size:
		err = fmt.Errorf("it has %d entries and its newest checkpoint signs %d", h.Size, c.Size)
	case root != c.Root:
		err = errors.New("its hashes are not those that its newest checkpoint signs")
	default:
		return t, nil
	}
	return tree{}, fmt.Errorf("the end of the log was changed, and nothing is appended until it is put back: %w", err)
}

func publicKeys(keys []key) []string {
	public := []string{}
	for _, k := range keys {
		public = append(public, k.Verifier)
	}
	return public
}

// collect reads the rows of one statement of a batch into to.
func collect[T any](to *[]T, row pgx.RowToFunc[T]) func(pgx.Rows) error {
	return func(rows pgx.Rows) (err error) {
		*to, err = pgx.CollectRows(rows, row)
		return err
	}
}
