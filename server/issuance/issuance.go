// Package issuance has certificates issued: on request where the issuer signs
// at once, by a job where it does not or where a version is to be renewed.
package issuance

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"certctl/server/audit"
	"certctl/server/cert"
	"certctl/server/fault"
	"certctl/server/issuer"
	"certctl/server/job"
	"certctl/server/metric"
	"certctl/server/perm"
	"certctl/server/pg"
	"certctl/server/seal"
	"certctl/server/store"
)

// Issuance issues certificates. What it signs is handed out only once the
// version and its audit event are committed.
type Issuance struct {
	DB      *pgxpool.Pool
	Box     *seal.Box
	Issuers *issuer.Registry
	Metrics *metric.Set
	Log     *zap.Logger
	Wake    func() // tells this replica that jobs were queued
	Told    func() // tells this replica that notifications were queued
}

// A Request asks for one certificate. Its key is that of the request for
// certification, or one that the server makes.
type Request struct {
	store.Refs
	Name            string            `json:"name" minLength:"1" maxLength:"255" doc:"no two certificates that are not archived share a name"`
	CSR             string            `json:"csr,omitempty" maxLength:"65536" doc:"request for certification (PKCS#10) in PEM; without one the server makes the key"`
	CommonName      string            `json:"common_name,omitempty" maxLength:"253" doc:"of a certificate whose key the server makes"`
	SANs            []string          `json:"sans,omitempty" maxItems:"1000" nullable:"false" doc:"subject alternative names of a certificate whose key the server makes, as in dns:a.example, ip:192.0.2.1, email:a@b.example or uri:spiffe://a/b; the kind can be left out"`
	KeyAlgorithm    string            `json:"key_algorithm,omitempty" maxLength:"40" doc:"of the key that the server makes; the profile's first without it"`
	ValiditySeconds int64             `json:"validity_seconds,omitempty" minimum:"60" maximum:"345600000" doc:"the profile's default without it"`
	Environment     string            `json:"environment,omitempty" maxLength:"100"`
	Tags            map[string]string `json:"tags,omitempty" nullable:"false"`
	Queued          bool              `json:"queued,omitempty" doc:"have a job issue it: the answer is a pending certificate, and a failure is tried again"`
}

// New asks for a certificate.
type New struct {
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"200" doc:"a request that is sent again under the same key is answered as the first was"`
	Body           Request
}

// Created is a certificate with its first version. Where a job issues it, it is
// pending and there is none yet.
type Created struct {
	Certificate    store.Certificate `json:"certificate"`
	CertificatePEM string            `json:"certificate_pem,omitempty" doc:"the certificate alone"`
	ChainPEM       string            `json:"chain_pem,omitempty" doc:"what leads from it to the root, which is left out"`
	JobID          string            `json:"job_id,omitempty" doc:"of the job that issues it"`
}

// Create issues a certificate.
func (s *Issuance) Create(ctx context.Context, in *New) (Created, error) {
	once := store.OnceKey{Actor: perm.From(ctx).ID, Key: in.IdempotencyKey, Route: "create-certificate"}
	outcomes, err := s.createOnce(ctx, []Request{in.Body}, &once)
	if err == nil {
		err = outcomes[0].err
	}
	if err != nil {
		return Created{}, err
	}
	return outcomes[0].created, nil
}

// createOnce is create for a call that may be sent again: under the key of an
// earlier call it answers with what that one made, as it is now.
func (s *Issuance) createOnce(ctx context.Context, requests []Request, once *store.OnceKey) ([]outcome, error) {
	if once.Key == "" {
		return s.create(ctx, requests, once)
	}
	if err := once.Ask(requests); err != nil {
		return nil, err
	}
	if outcomes, again, err := s.again(ctx, *once); err != nil || again {
		return outcomes, err
	}
	outcomes, err := s.create(ctx, requests, once)
	refused := func(o outcome) bool { return fault.Of(o.err) == fault.Conflict }
	if err != nil && fault.Of(err) == fault.Conflict || err == nil && slices.ContainsFunc(outcomes, refused) {
		// Another call under the same key may have come first.
		if outcomes, again, err := s.again(ctx, *once); err != nil || again {
			return outcomes, err
		}
	}
	return outcomes, err
}

// kept is what an idempotency key keeps of an outcome.
type kept struct {
	ID    string `json:"id,omitempty"` // of the certificate
	JobID string `json:"job_id,omitempty"`
	Code  string `json:"code,omitempty"` // of the refusal
	Error string `json:"error,omitempty"`
}

func keep(outcomes []outcome) []kept {
	all := make([]kept, len(outcomes))
	for i, o := range outcomes {
		if o.err != nil {
			all[i] = kept{Code: fault.Of(o.err).Code, Error: fault.Shown(o.err)}
		} else {
			all[i] = kept{ID: o.row.ID, JobID: o.created.JobID}
		}
	}
	return all
}

// again returns what an earlier call under the same idempotency key came to. It
// reports false if there was none.
func (s *Issuance) again(ctx context.Context, once store.OnceKey) ([]outcome, bool, error) {
	var first []kept
	if again, err := store.Answered(ctx, s.DB, once, &first); err != nil || !again {
		return nil, false, err
	}
	outcomes := make([]outcome, len(first))
	byID := map[string]*outcome{}
	for i, k := range first {
		if k.ID == "" {
			outcomes[i].err = &fault.Error{Kind: fault.KindOf(k.Code), Msg: k.Error}
			continue
		}
		outcomes[i].created.JobID = k.JobID
		byID[k.ID] = &outcomes[i]
	}
	b := &pgx.Batch{}
	store.QueueDERs(b, keys(byID), func(id string, d store.DERs) { byID[id].chain = append([][]byte{d.Leaf}, d.Chain...) })
	store.QueueCertificatesByID(b, keys(byID), func(c store.Certificate) { byID[c.ID].created = created(byID[c.ID], c) })
	return outcomes, true, pg.Fault(s.DB.SendBatch(ctx, b).Close(), "certificates")
}

// NewMany asks for many certificates at once.
type NewMany struct {
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"200" doc:"a request that is sent again under the same key is answered as the first was"`
	Body           struct {
		Requests []Request `json:"requests" minItems:"1" maxItems:"500" nullable:"false"`
	}
}

// Many are the outcomes of requests, in their order.
type Many struct {
	Items  []Outcome `json:"items" nullable:"false"`
	Issued int       `json:"issued" doc:"how many certificates were made"`
}

// An Outcome is what became of one request: a certificate, or why there is
// none.
type Outcome struct {
	Created *Created `json:"created,omitempty"`
	Code    string   `json:"code,omitempty" doc:"kind of the error"`
	Error   string   `json:"error,omitempty" doc:"why there is no certificate"`
}

// CreateMany issues certificates in one transaction. A request that is refused
// does not keep the others from being issued.
func (s *Issuance) CreateMany(ctx context.Context, in *NewMany) (Many, error) {
	once := store.OnceKey{Actor: perm.From(ctx).ID, Key: in.IdempotencyKey, Route: "create-certificates"}
	outcomes, err := s.createOnce(ctx, in.Body.Requests, &once)
	many := Many{Items: make([]Outcome, len(outcomes))}
	for i, o := range outcomes {
		if o.err != nil {
			if fault.Of(o.err) == fault.Internal {
				s.Log.Error("a certificate of many was not issued", zap.String("name", in.Body.Requests[i].Name), zap.Error(o.err))
			}
			many.Items[i] = Outcome{Code: fault.Of(o.err).Code, Error: fault.Shown(o.err)}
			continue
		}
		many.Items[i] = Outcome{Created: &outcomes[i].created}
		many.Issued++
	}
	return many, err
}

// outcome is what becomes of one request on its way.
type outcome struct {
	row     store.NewCertificate
	issuer  store.Sealed
	chain   [][]byte // leaf first
	created Created
	err     error
}

// create issues what can be issued of the requests: a round trip to read what
// they refer to, and one to record what was signed.
func (s *Issuance) create(ctx context.Context, requests []Request, once *store.OnceKey) ([]outcome, error) {
	var refs []store.Refs
	var names []string
	outcomes := make([]outcome, len(requests))
	for i, r := range requests {
		if outcomes[i].err = r.check(); outcomes[i].err == nil {
			refs, names = append(refs, r.Refs), append(names, r.Name)
		}
	}
	found, err := store.Refer(ctx, s.DB, refs, names)
	if err != nil {
		return nil, err
	}
	places := make(chan struct{}, runtime.GOMAXPROCS(0))
	var wg sync.WaitGroup
	for i, r := range requests {
		o := &outcomes[i]
		if o.err != nil {
			continue
		}
		if found.Taken[r.Name] {
			o.err = fault.New(fault.Conflict, "body.name is the name of another certificate; choose another, or archive that one")
			continue
		}
		found.Taken[r.Name] = true
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			wg.Wait()
			return nil, context.Cause(ctx)
		}
		wg.Go(func() {
			defer func() { <-places }()
			if o.err = s.prepare(ctx, r, found, o); o.err != nil {
				s.refused(o.issuer.ID, o.err)
			}
		})
	}
	wg.Wait()
	return outcomes, s.record(ctx, outcomes, once)
}

// check refuses text that the database cannot look for, and names that nobody
// could tell from others.
func (r *Request) check() error {
	if err := cert.CheckName(r.Name, idPrefix); err != nil {
		return err
	}
	for field, text := range map[string]string{
		"owner_id": r.OwnerID, "team_id": r.TeamID, "issuer_id": r.IssuerID, "profile_id": r.ProfileID, "policy_id": r.PolicyID,
		"environment": r.Environment,
	} {
		if strings.ContainsFunc(text, func(c rune) bool { return !unicode.IsPrint(c) }) {
			return fault.New(fault.Invalid, "body.%s has a character that cannot be seen; leave it out", field)
		}
	}
	return nil
}

// idPrefix begins the id of a certificate.
const idPrefix = "crt"

// prepare checks a request and, if its issuer signs at once, has it signed.
func (s *Issuance) prepare(ctx context.Context, r Request, found *store.Referred, o *outcome) error {
	owner, team, okOwner := found.Owner(r.OwnerID)
	if r.TeamID != "" {
		id, ok := found.Team(r.TeamID)
		if !ok {
			return unknown("body.team_id", "team", "teams")
		}
		team = &id
	}
	policy, okPolicy := found.Policy(r.PolicyID)
	profile, okProfile := found.Profile(r.ProfileID)
	var okIssuer bool
	o.issuer, okIssuer = found.Issuer(r.IssuerID)
	switch {
	case !okOwner:
		return unknown("body.owner_id", "owner", "owners")
	case !okPolicy:
		return unknown("body.policy_id", "renewal policy", "renewal-policies")
	case !okProfile:
		return unknown("body.profile_id", "profile", "profiles")
	case !okIssuer:
		return unknown("body.issuer_id", "issuer", "issuers")
	case !o.issuer.Enabled:
		return fault.New(fault.Conflict, "body.issuer_id is an issuer that is not enabled; choose another, or enable it")
	}
	if err := cert.CheckTags(r.Tags); err != nil {
		return err
	}
	order, key, err := profile.Approve(cert.Request{
		CSR: []byte(r.CSR), CommonName: r.CommonName, SANs: r.SANs, KeyAlgorithm: r.KeyAlgorithm,
		Validity: time.Duration(r.ValiditySeconds) * time.Second,
	})
	if err != nil {
		return err
	}
	o.row = store.NewCertificate{
		ID: cert.NewID(idPrefix), Name: r.Name, State: cert.Pending.Name, CommonName: order.CommonName, SANs: order.Names.Text(),
		Environment: r.Environment, Tags: r.Tags, OwnerID: owner, TeamID: team, IssuerID: o.issuer.ID, ProfileID: profile.ID,
		PolicyID: policy, KeyAlgorithm: order.KeyAlgorithm.Name, ValiditySeconds: int64(order.Validity / time.Second),
		CreatedAt: found.Now, CreatedBy: perm.From(ctx).ID,
	}
	if o.row.Tags == nil {
		o.row.Tags = map[string]string{}
	}
	if key == nil {
		csr := store.Bytes(order.CSR)
		o.row.CSR = &csr
	}
	authority, err := s.Issuers.Open(o.issuer.ID, o.issuer.Type, o.issuer.Revision, o.issuer.Settings)
	if err != nil {
		return err
	}
	if _, ok := authority.(issuer.Immediate); !ok || r.Queued {
		return nil // a job makes its own key
	}
	issued, err := s.sign(o.issuer.ID, func() (issuer.Issued, error) { return authority.Issue(ctx, order) })
	if err != nil {
		return err
	}
	o.row.State = cert.Active.Name
	o.row.Signed, err = s.signed(o.row.ID, 1, o.issuer.ID, issued, key, found.Now)
	o.chain = o.row.Signed.DERs()
	return err
}

func unknown(field, what, path string) error {
	return fault.New(fault.Invalid, "%s names no %s; GET /api/v1/%s lists them", field, what, path)
}

// sign measures f, which has an issuer sign.
func (s *Issuance) sign(issuerID string, f func() (issuer.Issued, error)) (issuer.Issued, error) {
	begin := time.Now()
	issued, err := f()
	s.Metrics.Observe(metric.SignSeconds, time.Since(begin).Seconds(), issuerID)
	if err == nil && issued.Leaf == nil {
		err = errors.New("the issuer answered without a certificate")
	}
	return issued, err
}

// refused counts an issuance that came to nothing. An issuer that is not known
// is not named: what a caller sends is no label.
func (s *Issuance) refused(issuerID string, err error) {
	s.Metrics.Add(metric.CertsRefused, 1, issuerID, fault.Of(err).Code)
}

// signed is a version as it is recorded, its key sealed if the server made it.
func (s *Issuance) signed(id string, number int, issuerID string, issued issuer.Issued, key crypto.Signer, now time.Time) (*store.Signed, error) {
	leaf := issued.Leaf
	algorithm, err := cert.KeyAlgorithmOf(leaf.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("the issuer signed %w", err)
	}
	sum := sha256.Sum256(leaf.Raw)
	v := &store.Signed{
		CertificateID: id, Number: number, IssuerID: issuerID, Serial: cert.Serial(leaf.SerialNumber), Fingerprint: sum[:],
		NotBefore: leaf.NotBefore.UTC(), NotAfter: leaf.NotAfter.UTC(), KeyAlgorithm: algorithm.Name, DER: leaf.Raw, CreatedAt: now,
		Chain: []store.Bytes{},
	}
	all := sha256.New()
	for _, c := range issued.Chain {
		v.Chain = append(v.Chain, c.Raw)
		all.Write(c.Raw)
	}
	v.ChainID = all.Sum(nil)
	if key != nil {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		sealed := store.Bytes(s.Box.Seal(der, keyPurpose(id, number)))
		v.Key = &sealed
	}
	return v, nil
}

// keyPurpose binds a sealed key to its version.
func keyPurpose(id string, number int) string {
	return fmt.Sprintf("certificate key %s/%d", id, number)
}

// record commits what was prepared, with its audit events, all or nothing. The
// statements go to the database together.
func (s *Issuance) record(ctx context.Context, outcomes []outcome, once *store.OnceKey) error {
	var rows []store.NewCertificate
	var events []audit.Event
	var waiting []*outcome
	byID := map[string]*outcome{}
	for i := range outcomes {
		o := &outcomes[i]
		if o.err != nil {
			continue
		}
		rows, byID[o.row.ID] = append(rows, o.row), o
		if o.row.Signed != nil {
			events = append(events, issuedEvent(*o.row.Signed, o.row.Name, "first"))
			continue
		}
		waiting = append(waiting, o)
		events = append(events, audit.Event{
			Action: audit.CertRequested, ResourceKind: "certificate", ResourceID: o.row.ID,
			Details: map[string]string{"name": o.row.Name, "issuer": o.row.IssuerID},
		})
	}
	if len(rows) == 0 {
		return nil
	}
	b := &pgx.Batch{}
	if err := store.QueueCertificates(b, rows); err != nil {
		return err
	}
	args, err := audit.Arguments(ctx, events)
	if err != nil {
		return err
	}
	b.Queue(audit.Statement, args)
	store.QueueCertificatesByID(b, keys(byID), func(c store.Certificate) { byID[c.ID].created = created(byID[c.ID], c) })
	if len(waiting) == 0 {
		if err := once.Queue(b, keep(outcomes)); err != nil {
			return err
		}
		err = s.DB.SendBatch(ctx, b).Close()
	} else {
		err = pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
			if err := tx.SendBatch(ctx, b).Close(); err != nil {
				return err
			}
			for _, o := range waiting {
				n, err := store.LockForRenewal(ctx, tx, o.row.ID)
				if err != nil {
					return err
				}
				o.created.JobID, err = job.Issue.Enqueue(ctx, tx, job.New{
					CertificateID: o.row.ID, Attempts: n.Attempts, RetryEvery: n.RetryEvery, Timeout: n.Timeout,
				}, job.CertArgs{})
				if err != nil {
					return err
				}
			}
			b := &pgx.Batch{}
			if err := once.Queue(b, keep(outcomes)); err != nil || b.Len() == 0 {
				return err
			}
			return tx.SendBatch(ctx, b).Close()
		})
		s.Wake()
	}
	if err != nil {
		return recordFault(err)
	}
	for _, r := range rows {
		if r.Signed != nil {
			s.Metrics.Add(metric.CertsIssued, 1, r.IssuerID, "first")
		}
	}
	return nil
}

// recordFault says which field another call has made wrong since it was
// checked.
func recordFault(err error) error {
	switch pg.Constraint(err) {
	case "certificates_name_is_taken":
		return &fault.Error{Kind: fault.Conflict, Msg: "body.name was given to another certificate just now; nothing was issued", Err: err}
	case "idempotency_keys_pkey":
		return &fault.Error{Kind: fault.Conflict, Msg: "header.Idempotency-Key is in use by another call; nothing was issued", Err: err}
	}
	return pg.Fault(err, "certificate")
}

func issuedEvent(v store.Signed, name, kind string) audit.Event {
	return audit.Event{
		Action: audit.CertIssued, ResourceKind: "certificate", ResourceID: v.CertificateID,
		Details: map[string]string{
			"name": name, "kind": kind, "version": strconv.Itoa(v.Number), "serial": v.Serial, "issuer": v.IssuerID,
			"fingerprint": hex.EncodeToString(v.Fingerprint), "not_after": v.NotAfter.Format(time.RFC3339),
		},
	}
}

func created(o *outcome, c store.Certificate) Created {
	answer := Created{Certificate: c, JobID: o.created.JobID}
	if len(o.chain) > 0 {
		answer.CertificatePEM, answer.ChainPEM = encode(o.chain[0]), encode(o.chain[1:]...)
	}
	return answer
}

func keys(m map[string]*outcome) []string { return slices.Collect(maps.Keys(m)) }

// encode returns certificates in PEM.
func encode(ders ...[]byte) string {
	var b strings.Builder
	for _, der := range ders {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der}) // a builder takes everything
	}
	return b.String()
}
