package revocation

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/audit"
	"certctl/server/fault"
	"certctl/server/issuer"
	"certctl/server/metric"
	"certctl/server/pg"
	"certctl/server/store"
)

// Generate signs a new list for every issuer whose list is due or was asked
// for, once each, and returns how many it signed. An issuer that cannot sign
// keeps its list and holds up no other.
func (r *Revocations) Generate(ctx context.Context) (int, error) {
	signed, done, failures := 0, []string{}, []error(nil)
	for {
		var due store.DueCRL
		var found, made bool
		start := time.Now()
		err := pg.InTx(ctx, r.DB, func(tx pgx.Tx) (err error) {
			due, found, err = store.LockDueCRL(ctx, tx, r.Validity, done)
			if err != nil || !found {
				return err
			}
			made, err = r.generate(ctx, tx, due)
			return err
		})
		var cannot *cannotSignError
		switch {
		case errors.As(err, &cannot) && ctx.Err() == nil:
			failures = append(failures, err)
			err = pg.InTx(ctx, r.DB, func(tx pgx.Tx) error { return store.CRLFailed(ctx, tx, due, fault.Shown(cannot.err)) })
		case err == nil && made:
			signed++
			r.Metrics.Observe(metric.CRLSeconds, time.Since(start).Seconds())
		}
		if err != nil || !found {
			return signed, errors.Join(append(failures, err)...)
		}
		done = append(done, due.IssuerID)
	}
}

// cannotSignError is a failure of one issuer, not of the database.
type cannotSignError struct {
	issuerID string
	err      error
}

func (e *cannotSignError) Error() string {
	return "list of the issuer " + e.issuerID + ": " + e.err.Error()
}

func (e *cannotSignError) Unwrap() error { return e.err }

// generate signs a list, unless another replica did since the row was found.
func (r *Revocations) generate(ctx context.Context, tx pgx.Tx, due store.DueCRL) (bool, error) {
	asked, err := store.TakeCRLRequests(ctx, tx, due.IssuerID)
	if err != nil || !asked && !due.Overdue {
		return false, err
	}
	der, entries, err := r.sign(ctx, tx, due)
	if err != nil {
		return false, err
	}
	if err := store.SaveCRL(ctx, tx, due, entries, der, r.Replica); err != nil {
		return false, err
	}
	return true, audit.Write(ctx, tx, audit.Event{
		Action: audit.CRLSigned, ResourceKind: "issuer", ResourceID: due.IssuerID,
		Details: map[string]string{"number": strconv.FormatInt(due.Number, 10), "entries": strconv.FormatInt(entries, 10)},
	})
}

func (r *Revocations) sign(ctx context.Context, tx pgx.Tx, due store.DueCRL) (der []byte, entries int64, err error) {
	opened, err := r.Open(ctx, tx, due.IssuerID)
	if err != nil {
		return nil, 0, &cannotSignError{due.IssuerID, fmt.Errorf("open: %w", err)}
	}
	signer, ok := opened.(issuer.CRLSigner)
	if !ok {
		return nil, 0, &cannotSignError{due.IssuerID, fault.New(fault.Conflict, "the issuer signs no revocation lists")}
	}
	list, err := store.CRLEntries(ctx, tx, due.IssuerID, r.Validity)
	if err != nil {
		return nil, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, idle)
	defer cancel()
	der, err = signer.SignCRL(ctx, issuer.List{
		Number: big.NewInt(due.Number), ThisUpdate: due.ThisUpdate, NextUpdate: due.NextUpdate, Entries: list.DER,
	})
	if err != nil {
		return nil, 0, &cannotSignError{due.IssuerID, fmt.Errorf("sign: %w", err)}
	}
	return der, list.Count, nil
}

// ListCRLs asks for the state of revocation lists.
type ListCRLs struct{}

// CRLs are the issuers that sign revocation lists, each with its newest.
type CRLs struct {
	Items []store.CRLState `json:"items" nullable:"false"`
}

// List tells of the newest list of each issuer that signs them.
func (r *Revocations) List(ctx context.Context, _ *ListCRLs) (CRLs, error) {
	items, err := store.CRLStates(ctx, r.DB)
	return CRLs{items}, err
}
