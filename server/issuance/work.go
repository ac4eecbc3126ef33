package issuance

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/audit"
	"certctl/server/cert"
	"certctl/server/fault"
	"certctl/server/issuer"
	"certctl/server/job"
	"certctl/server/metric"
	"certctl/server/outbox"
	"certctl/server/pg"
	"certctl/server/store"
)

// progress is what an attempt leaves for the next one: the order that a remote
// authority has taken, and the key that the server made for it.
type progress struct {
	Order string `json:"order,omitempty"`
	Key   []byte `json:"key,omitempty"` // PKCS#8, sealed
}

// First obtains the first version of a certificate.
func (s *Issuance) First(ctx context.Context, t *job.Task, _ job.CertArgs) error {
	return s.work(ctx, t, "first")
}

// Renew obtains the next version of a certificate.
func (s *Issuance) Renew(ctx context.Context, t *job.Task, _ job.CertArgs) error {
	return s.work(ctx, t, renewal)
}

// renewal is the kind of an issuance that is not a certificate's first.
const renewal = "renewal"

func (s *Issuance) work(ctx context.Context, t *job.Task, kind string) error {
	c, err := store.CertificateToIssue(ctx, s.DB, t.CertificateID)
	if err != nil {
		return err
	}
	err = s.attempt(ctx, t, c, kind)
	if err != nil && !errors.Is(err, job.ErrLost) && !errors.As(err, new(job.Later)) {
		s.refused(c.Issuer.ID, err)
	}
	return err
}

func (s *Issuance) attempt(ctx context.Context, t *job.Task, c store.ToIssue, kind string) error {
	switch c.State {
	case cert.Pending.Name, cert.Active.Name, cert.Expired.Name:
	default:
		return fault.New(fault.Conflict, "the certificate is %s and is not issued again", c.State)
	}
	if !c.Issuer.Enabled {
		return fault.New(fault.Unavailable, "the issuer is not enabled")
	}
	authority, err := s.Issuers.Open(c.Issuer.ID, c.Issuer.Type, c.Issuer.Revision, c.Issuer.Settings)
	if err != nil {
		return err
	}
	before := progress{}
	if len(t.Progress) > 0 {
		if err := json.Unmarshal(t.Progress, &before); err != nil {
			return fmt.Errorf("progress of the job: %w", err)
		}
	}
	number := c.Version + 1
	order, key, err := s.order(c, before, keyPurpose(t.CertificateID, number))
	if err != nil {
		return err
	}
	issued, err := s.sign(c.Issuer.ID, func() (issuer.Issued, error) { return ask(ctx, authority, c, before.Order, order) })
	if pending, ok := errors.AsType[*issuer.Pending](err); ok {
		return s.wait(ctx, t, pending, key, keyPurpose(t.CertificateID, number))
	}
	if err != nil {
		return err
	}
	v, err := s.signed(t.CertificateID, number, c.Issuer.ID, issued, key, c.Now)
	if err != nil {
		return err
	}
	v.JobID = &t.ID
	err = t.Complete(ctx, func(tx pgx.Tx) error {
		added, err := store.AddVersion(ctx, tx, *v)
		if err == nil && !added {
			err = fault.New(fault.Conflict, "the certificate was changed meanwhile: it has another version, or may not be issued any more")
		}
		if err != nil {
			return err
		}
		if err := audit.Write(ctx, tx, issuedEvent(*v, c.Name, kind)); err != nil || kind != renewal {
			return err
		}
		_, err = outbox.Tell(ctx, tx, outbox.RenewalSucceeded, []outbox.Occasion{
			{CertificateID: v.CertificateID, Version: v.Number, Severity: outbox.Informational.Name},
		})
		return err
	})
	if err == nil {
		s.Told()
		s.Metrics.Add(metric.CertsIssued, 1, c.Issuer.ID, kind)
	}
	return err
}

// order is what the profile approves today of what was asked for, with the key
// of an order that is under way, or a new one if the server makes it.
func (s *Issuance) order(c store.ToIssue, before progress, purpose string) (cert.Order, crypto.Signer, error) {
	r := cert.Request{CSR: c.CSR, Validity: time.Duration(c.ValiditySeconds) * time.Second}
	if c.CSR == nil {
		r.CommonName, r.SANs, r.KeyAlgorithm = c.CommonName, c.SANs, c.KeyAlgorithm
	}
	order, key, err := c.Profile.Approve(r)
	if err != nil || before.Key == nil {
		return order, key, err
	}
	der, err := s.Box.Open(before.Key, purpose)
	if err != nil {
		return order, nil, fmt.Errorf("key of the order under way: %w", err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return order, nil, err
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return order, nil, fmt.Errorf("key of the order under way: a %T cannot sign", parsed)
	}
	return order, key, nil
}

// ask has the authority sign, or says how far an order has come.
func ask(ctx context.Context, authority issuer.Issuer, c store.ToIssue, under string, order cert.Order) (issuer.Issued, error) {
	if under != "" {
		poller, ok := authority.(issuer.Poller)
		if !ok {
			return issuer.Issued{}, errors.New("the issuer has an order under way and cannot say how far it has come")
		}
		return poller.Status(ctx, under)
	}
	if renewer, ok := authority.(issuer.Renewer); ok && c.DER != nil {
		old, err := x509.ParseCertificate(c.DER)
		if err != nil {
			return issuer.Issued{}, fmt.Errorf("current version: %w", err)
		}
		return renewer.Renew(ctx, old, order)
	}
	return authority.Issue(ctx, order)
}

// wait stores the order before anybody asks about it: the authority gets no
// second one if this process ends now.
func (s *Issuance) wait(ctx context.Context, t *job.Task, pending *issuer.Pending, key crypto.Signer, purpose string) error {
	next := progress{Order: pending.Order}
	if key != nil {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return err
		}
		next.Key = s.Box.Seal(der, purpose)
	}
	if err := t.Save(ctx, next, nil); err != nil {
		return err
	}
	return job.Later{After: pending.After}
}

// FirstDied marks certificates whose first version no attempt could obtain.
func (s *Issuance) FirstDied(ctx context.Context, tx pgx.Tx, dead []job.Dead) error {
	_, err := died(ctx, tx, dead, audit.IssuanceFailed, store.FailPending)
	return err
}

// RenewDied has certificates wait whose renewal no attempt could do.
func (s *Issuance) RenewDied(ctx context.Context, tx pgx.Tx, dead []job.Dead) error {
	failed, err := died(ctx, tx, dead, audit.RenewalFailed, store.PostponeRenewal)
	if err != nil {
		return err
	}
	var told []outbox.Occasion
	for _, d := range failed {
		told = append(told, outbox.Occasion{
			CertificateID: d.CertificateID, Severity: outbox.Critical.Name, Once: fmt.Sprintf("%s/%d", d.ID, d.Token),
			Details: map[string]any{"job": d.ID, "error": d.Error},
		})
	}
	_, err = outbox.Tell(ctx, tx, outbox.RenewalFailed, told)
	return err
}

// died applies what the end of jobs means for their certificates, and writes it
// down for those that it concerns, whose jobs it returns.
func died(ctx context.Context, tx pgx.Tx, dead []job.Dead, action *audit.Action, apply func(context.Context, pg.Q, []string) ([]string, error)) ([]job.Dead, error) {
	why := map[string]job.Dead{}
	for _, d := range dead {
		why[d.CertificateID] = d
	}
	ids, err := apply(ctx, tx, slices.Sorted(maps.Keys(why)))
	if err != nil {
		return nil, err
	}
	var concerns []job.Dead
	var events []audit.Event
	for _, id := range ids {
		concerns = append(concerns, why[id])
		events = append(events, audit.Event{
			Action: action, ResourceKind: "certificate", ResourceID: id,
			Details: map[string]string{"job": why[id].ID, "error": why[id].Error},
		})
	}
	return concerns, audit.WriteAll(ctx, tx, events)
}
