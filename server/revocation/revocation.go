// Package revocation revokes certificates, signs the lists that say so and
// serves them.
package revocation

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"certctl/server/audit"
	"certctl/server/cert"
	"certctl/server/fault"
	"certctl/server/issuer"
	"certctl/server/job"
	"certctl/server/limit"
	"certctl/server/metric"
	"certctl/server/outbox"
	"certctl/server/pg"
	"certctl/server/store"
)

// Revocations revokes certificates and signs revocation lists.
type Revocations struct {
	DB       *pgxpool.Pool
	Open     func(ctx context.Context, q pg.Q, id string) (issuer.Issuer, error) // a fault of kind NotFound if there is none
	Metrics  *metric.Set
	Replica  string
	Validity time.Duration // of a list
	Log      *zap.Logger
	Told     func() // tells this replica that notifications were queued

	newest sync.Map // store.CRLBytes of the newest list that was served, by the id of its issuer
	reads  limit.Merger[string, store.CRLBytes]
}

// Init shows the metrics of every reason at zero.
func (r *Revocations) Init() {
	for _, reason := range cert.Reasons() {
		r.Metrics.Init(metric.CertsRevoked, reason.Name)
	}
}

// idle is shorter than a transaction may wait for somebody else (pg.InTx), so
// that a slow authority is known for what it is.
const idle = 8 * time.Second

// An Order says what to revoke and why.
type Order struct {
	IDs        []string     // of certificates, each once
	Serial     string       // only this version; every one that has not ended if empty
	Reason     *cert.Reason // certificateHold holds, and can be released
	Invalidity *time.Time   // since when the key may have been in other hands, to the second as in DER
}

// An Outcome is what became of one certificate of an order.
type Outcome struct {
	CertificateID string
	Versions      int   // that were revoked
	Err           error // why none were
}

// Told is what authorities that keep lists of their own were told. It is good
// for the order that it was made from.
type Told struct {
	keep  map[string]bool // whether an issuer keeps lists of its own, by its id
	tried map[string]error
}

func key(v store.Revocable) string { return v.IssuerID + " " + v.Serial }

// Tell has authorities that keep lists of their own revoke what the order is
// for. It comes before Revoke, without its locks: an authority takes its time,
// and what it was told cannot be rolled back. A crash in between leaves a version
// revoked there and not here, until the order is repeated; to revoke is the same
// however often an authority is told.
func (r *Revocations) Tell(ctx context.Context, q pg.Q, o Order) (Told, error) {
	t := Told{map[string]bool{}, map[string]error{}}
	rows, err := store.Revocables(ctx, q, o.IDs, o.Serial)
	if err != nil {
		return t, err
	}
	patient, cancel := context.WithTimeout(ctx, idle)
	defer cancel()
	opened := map[string]issuer.Issuer{}
	for _, versions := range byCertificate(rows) {
		todo, err := o.plan(versions)
		if err != nil {
			continue // Revoke says it
		}
		for _, v := range todo {
			if opened[v.IssuerID] == nil {
				if opened[v.IssuerID], err = r.Open(ctx, q, v.IssuerID); err != nil {
					t.tried[key(v)] = err
					continue
				}
			}
			authority, ok := opened[v.IssuerID].(issuer.Revoker)
			t.keep[v.IssuerID] = ok
			if ok {
				t.tried[key(v)] = tell(patient, authority, v, o.Reason)
			}
		}
	}
	return t, nil
}

func tell(ctx context.Context, authority issuer.Revoker, v store.Revocable, reason *cert.Reason) error {
	if reason == cert.CertificateHold {
		return fault.New(fault.Conflict, "the certificate's authority keeps lists of its own, from which a hold could not be released; revoke it for another reason")
	}
	leaf, err := x509.ParseCertificate(v.DER)
	if err != nil {
		return fmt.Errorf("version %d: %w", v.Number, err)
	}
	err = authority.Revoke(ctx, leaf, reason, v.Now)
	if err != nil && ctx.Err() != nil {
		return &fault.Error{Kind: fault.Unavailable, Msg: "the certificate's authority did not answer in time; try again", Err: err}
	}
	if err != nil {
		return fmt.Errorf("revoke at the authority: %w", err)
	}
	return nil
}

// of returns why a version cannot be recorded as revoked.
func (t Told) of(v store.Revocable) error {
	err, tried := t.tried[key(v)]
	keeps, known := t.keep[v.IssuerID]
	if !tried && (keeps || !known) {
		return errSince
	}
	return err
}

var errSince = fault.New(fault.Unavailable, "the certificate was renewed in the meantime; try again")

// Revoke revokes what an order is for, in a transaction of the caller. What
// cannot be revoked has an error in its outcome and holds up nothing else.
func (r *Revocations) Revoke(ctx context.Context, tx pgx.Tx, o Order, t Told) ([]Outcome, error) {
	if err := store.LockCertificates(ctx, tx, o.IDs); err != nil {
		return nil, err
	}
	rows, err := store.Revocables(ctx, tx, o.IDs, o.Serial)
	if err != nil {
		return nil, err
	}
	state, action := cert.Revoked, audit.CertRevoked
	if o.Reason == cert.CertificateHold {
		state, action = cert.Held, audit.CertHeld
	}
	var outcomes []Outcome
	var revoked []store.Revocation
	var events []audit.Event
	var moved []string
	versions := byCertificate(rows)
	for _, id := range o.IDs {
		todo, err := o.plan(versions[id])
		var made []store.Revocation
		for _, v := range todo {
			if err == nil {
				err = t.of(v)
			}
			if err == nil {
				var rev store.Revocation
				rev, err = o.revocation(v)
				made = append(made, rev)
			}
		}
		if err != nil {
			outcomes = append(outcomes, Outcome{CertificateID: id, Err: err})
			continue
		}
		outcomes = append(outcomes, Outcome{CertificateID: id, Versions: len(made)})
		revoked = append(revoked, made...)
		for _, v := range todo {
			events = append(events, event(action, id, v.Number, v.IssuerID, v.Serial, o.Reason))
			if v.Current && (v.State == cert.Active.Name || v.State == cert.Held.Name) {
				moved = append(moved, id)
			}
		}
	}
	if len(revoked) == 0 {
		return outcomes, nil
	}
	if err := store.Revoke(ctx, tx, revoked); err != nil {
		return nil, err
	}
	if err := store.MoveRevoked(ctx, tx, moved, state.Name); err != nil {
		return nil, err
	}
	if err := job.CancelFor(ctx, tx, moved, "the certificate was revoked"); err != nil {
		return nil, err
	}
	if err := audit.WriteAll(ctx, tx, events); err != nil {
		return nil, err
	}
	_, err = outbox.Tell(ctx, tx, outbox.CertRevoked, o.occasions(revoked, rows[0].Now))
	return outcomes, err
}

// occasions are what there is to tell of what was revoked at a time: one of each
// certificate, however many of its versions are revoked.
func (o Order) occasions(revoked []store.Revocation, at time.Time) []outbox.Occasion {
	severity := outbox.Warning
	switch o.Reason {
	case cert.KeyCompromise, cert.CACompromise, cert.AACompromise:
		severity = outbox.Critical
	}
	var all []outbox.Occasion
	for n, r := range revoked {
		if n == 0 || revoked[n-1].CertificateID != r.CertificateID {
			all = append(all, outbox.Occasion{
				CertificateID: r.CertificateID, Severity: severity.Name,
				Details: map[string]any{"reason": o.Reason.Name, "held": o.Reason == cert.CertificateHold, "serials": []string{}},
			})
		}
		// What was on hold can be revoked for good, and held again once released.
		t := &all[len(all)-1]
		t.Version, t.Once = r.Number, fmt.Sprintf("%s/%d", o.Reason.Name, at.Unix())
		t.Details["serials"] = append(t.Details["serials"].([]string), r.Serial)
	}
	return all
}

// RevokeMany revokes certificates for an action on many of them, in its
// transaction. Authorities that keep lists of their own have as long for all of
// them as the transaction may be idle; what they were not told by then fails, and
// can be tried again.
func (r *Revocations) RevokeMany(ctx context.Context, tx pgx.Tx, ids []string, reason *cert.Reason, invalidity *time.Time) ([]store.Outcome, error) {
	o := Order{IDs: ids, Reason: reason, Invalidity: toSecond(invalidity)}
	t, err := r.Tell(ctx, tx, o)
	if err != nil {
		return nil, err
	}
	outcomes, err := r.Revoke(ctx, tx, o, t)
	if err != nil {
		return nil, err
	}
	r.Count(o, outcomes)
	var said []store.Outcome
	for _, c := range outcomes {
		one := store.Outcome{ID: c.CertificateID, Outcome: store.Done}
		if c.Err != nil {
			one.Outcome, one.Message = store.Failed, fault.Shown(c.Err)
		}
		if c.Err != nil && fault.Of(c.Err) == fault.Internal {
			r.Log.Error("a certificate of many was not revoked", zap.String("certificate", c.CertificateID), zap.Error(c.Err))
		}
		if kind := fault.Of(c.Err); c.Err != nil && (kind == fault.Conflict || kind == fault.NotFound) {
			one.Outcome = store.Skipped
		}
		said = append(said, one)
	}
	return said, nil
}

// Count moves the metric of revocations, once what Revoke did is committed.
func (r *Revocations) Count(o Order, outcomes []Outcome) {
	for _, c := range outcomes {
		r.Metrics.Add(metric.CertsRevoked, float64(c.Versions), o.Reason.Name)
	}
}

func event(action *audit.Action, id string, version int, issuerID, serial string, reason *cert.Reason) audit.Event {
	return audit.Event{
		Action: action, ResourceKind: "certificate", ResourceID: id,
		Details: map[string]string{
			"version": strconv.Itoa(version), "issuer": issuerID, "serial": serial, "reason": reason.Name,
		},
	}
}

func byCertificate(rows []store.Revocable) map[string][]store.Revocable {
	m := map[string][]store.Revocable{}
	for _, v := range rows {
		m[v.CertificateID] = append(m[v.CertificateID], v)
	}
	return m
}

// plan returns those versions of one certificate that the order revokes, or why
// there are none.
func (o Order) plan(versions []store.Revocable) ([]store.Revocable, error) {
	if len(versions) == 0 {
		return nil, fault.New(fault.NotFound, "certificate not found")
	}
	c := versions[0]
	switch {
	case c.State == cert.Pending.Name || c.State == cert.Failed.Name:
		return nil, fault.New(fault.Conflict, "the certificate has not been issued, so there is nothing to revoke; archive it if it is not wanted any more")
	case c.State == cert.Archived.Name && o.Serial == "":
		return nil, fault.New(fault.Conflict, "the certificate is archived; name the version to revoke in body.serial")
	}
	if o.Invalidity != nil && o.Invalidity.After(c.Now) {
		return nil, fault.New(fault.Invalid, "body.invalidity_date is in the future; give the time since when the certificate is not to be trusted, or leave it out")
	}
	if o.Invalidity != nil && o.Invalidity.Before(c.BeganAt.Add(-24*time.Hour)) {
		return nil, fault.New(fault.Invalid, "body.invalidity_date is more than a day before the first version of the certificate began; give a later time, or leave it out")
	}
	var todo []store.Revocable
	found, held, revoked := false, false, false
	for _, v := range versions {
		if o.Serial != "" && v.Serial != o.Serial {
			continue
		}
		found = true
		hold := v.Reason != nil && *v.Reason == cert.CertificateHold.Code
		held, revoked = held || hold, revoked || v.Reason != nil && !hold
		if !v.Ended && (v.Reason == nil || hold && o.Reason != cert.CertificateHold) {
			todo = append(todo, v)
		}
	}
	switch {
	case len(todo) > 0:
		return todo, nil
	case !found:
		return nil, fault.New(fault.Invalid, "body.serial is of no version of this certificate; GET its versions to see theirs")
	case revoked:
		return nil, fault.New(fault.Conflict, "the certificate is revoked already")
	case held && o.Reason == cert.CertificateHold:
		return nil, fault.New(fault.Conflict, "the certificate is on hold already; release it, or revoke it for another reason")
	default:
		return nil, fault.New(fault.Conflict, "the certificate has ended, and nobody trusts it any more; there is nothing to revoke")
	}
}

// revocation is the record of a version that is revoked now. One that was on
// hold keeps the time of that: what it signed since is not to be trusted.
func (o Order) revocation(v store.Revocable) (store.Revocation, error) {
	leaf, err := x509.ParseCertificate(v.DER)
	if err != nil {
		return store.Revocation{}, fmt.Errorf("version %d: %w", v.Number, err)
	}
	at := v.Now
	if v.RevokedAt != nil {
		at = *v.RevokedAt
	}
	entry, err := issuer.Entry(leaf.SerialNumber, at, o.Reason, o.Invalidity)
	if err != nil {
		return store.Revocation{}, fmt.Errorf("version %d: %w", v.Number, err)
	}
	return store.Revocation{
		CertificateID: v.CertificateID, Number: v.Number, IssuerID: v.IssuerID, Serial: v.Serial, Reason: o.Reason.Code,
		RevokedAt: at, InvalidityAt: o.Invalidity, NotAfter: v.NotAfter, Listed: !neverListed(leaf), Entry: entry,
	}, nil
}

// neverListed reports whether a certificate says of itself that no list will
// have it (RFC 9608): its profile may say something else by now.
func neverListed(leaf *x509.Certificate) bool {
	for _, e := range leaf.Extensions {
		if e.Id.Equal(noRevAvail) {
			return true
		}
	}
	return false
}

var noRevAvail = asn1.ObjectIdentifier{2, 5, 29, 56}

// OneCertificate names a certificate.
type OneCertificate struct {
	ID string `path:"id" maxLength:"255" doc:"id of the certificate"`
}

// NewRevocation asks to revoke a certificate. Without a body, it gives no
// reason.
type NewRevocation struct {
	OneCertificate
	Body *Why
}

// Why is what a revocation says.
type Why struct {
	Reason         string     `json:"reason,omitempty" maxLength:"64" doc:"as in RFC 5280 §5.3.1, such as keyCompromise; certificateHold can be released; unspecified without it"`
	InvalidityDate *time.Time `json:"invalidity_date,omitempty" doc:"since when the certificate is not to be trusted, if that is not now"`
	Serial         string     `json:"serial,omitempty" maxLength:"64" doc:"revokes the version with this serial number only; without it, every version that has not ended: renewals may share a key"`
}

func (in *NewRevocation) order() (Order, error) {
	o := Order{IDs: []string{in.ID}, Reason: cert.Unspecified}
	if in.Body == nil {
		return o, nil
	}
	if in.Body.Reason != "" {
		var ok bool
		if o.Reason, ok = cert.ReasonNamed(in.Body.Reason); !ok {
			var names []string
			for _, r := range cert.Reasons() {
				names = append(names, r.Name)
			}
			return o, fault.New(fault.Invalid, "body.reason is no reason to revoke; give one of %s", strings.Join(names, ", "))
		}
	}
	if in.Body.Serial != "" {
		n, ok := cert.ParseSerial(in.Body.Serial)
		if !ok {
			return o, fault.New(fault.Invalid, "body.serial is not a serial number; give it in hex")
		}
		o.Serial = cert.Serial(n)
	}
	o.Invalidity = toSecond(in.Body.InvalidityDate)
	return o, nil
}

func toSecond(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	s := t.Truncate(time.Second)
	return &s
}

// attempts bounds how often a revocation starts over because the certificate was
// renewed while its authority was told.
const attempts = 3

// RevokeCertificate revokes a certificate, or one version of it.
func (r *Revocations) RevokeCertificate(ctx context.Context, in *NewRevocation) (store.Certificate, error) {
	var c store.Certificate
	o, err := in.order()
	if err != nil {
		return c, err
	}
	for range attempts {
		told, err := r.Tell(ctx, r.DB, o)
		if err != nil {
			return c, err
		}
		var outcomes []Outcome
		err = pg.InTx(ctx, r.DB, func(tx pgx.Tx) error {
			outcomes, err = r.Revoke(ctx, tx, o, told)
			if err == nil {
				err = outcomes[0].Err
			}
			if err == nil {
				c, err = store.CertificateByID(ctx, tx, in.ID)
			}
			return err
		})
		if err == nil {
			r.Count(o, outcomes)
			r.Told()
			return c, nil
		}
		if !errors.Is(err, errSince) {
			return c, err
		}
	}
	return c, errSince
}

// ReleaseCertificate takes every hold of a certificate back.
func (r *Revocations) ReleaseCertificate(ctx context.Context, in *OneCertificate) (store.Certificate, error) {
	var c store.Certificate
	err := pg.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if err := store.LockCertificates(ctx, tx, []string{in.ID}); err != nil {
			return err
		}
		released, err := store.Release(ctx, tx, in.ID)
		if err != nil {
			return err
		}
		if c, err = store.CertificateByID(ctx, tx, in.ID); err != nil {
			return err
		}
		if len(released) == 0 {
			return fault.New(fault.Conflict, "the certificate is not on hold; only a hold can be released")
		}
		var events []audit.Event
		for _, v := range released {
			events = append(events, event(audit.CertReleased, in.ID, v.Number, v.IssuerID, v.Serial, cert.CertificateHold))
		}
		return audit.WriteAll(ctx, tx, events)
	})
	return c, err
}
