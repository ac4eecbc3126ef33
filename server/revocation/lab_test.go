package revocation_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"certctl/server/audit"
	"certctl/server/cert"
	"certctl/server/fault"
	"certctl/server/issuer"
	"certctl/server/metric"
	"certctl/server/perm"
	"certctl/server/pg"
	"certctl/server/pg/pgtest"
	"certctl/server/revocation"
)

// A lab is a database with issuers, and a replica that revokes what they signed.
type lab struct {
	t   testing.TB
	ctx context.Context
	db  *pgxpool.Pool
	*revocation.Revocations
	issuers map[string]issuer.Issuer
}

const validity = 24 * time.Hour

func newLab(t testing.TB) *lab { return labOn(t, pgtest.DB(t)) }

func labOn(t testing.TB, db *pgxpool.Pool) *lab {
	t.Helper()
	l := &lab{t: t, db: db, issuers: map[string]issuer.Issuer{}}
	l.ctx = audit.WithReplica(perm.With(t.Context(), perm.Actor{Kind: perm.ByKey, ID: "k", Name: "somebody"}), "one")
	l.Revocations = &revocation.Revocations{
		DB: db, Metrics: metric.New(), Replica: "one", Validity: validity, Log: zap.NewNop(), Told: func() {},
		Open: func(_ context.Context, _ pg.Q, id string) (issuer.Issuer, error) {
			if i, ok := l.issuers[id]; ok {
				return i, nil
			}
			return nil, fault.New(fault.NotFound, "issuer not found")
		},
	}
	l.exec(`
		insert into owners (id, name) values ('o', 'o');
		insert into renewal_policies (id, name, auto_renew, renew_before_seconds, max_retries, retry_every_seconds,
			attempt_timeout_seconds, start_over_after_seconds, alerts)
		values ('p', 'p', true, 86400, 3, 300, 60, 86400, '[]');
		insert into profiles (id, name, enabled, key_algorithms, default_validity_seconds, max_validity_seconds, ext_key_usages,
			san_kinds, dns_patterns, ip_ranges, uri_prefixes, email_domains, max_sans, wildcards, must_staple, short_lived, cab_lints)
		values ('f', 'f', true, '{}', 86400, 864000, '{}', '{}', '{}', '{}', '{}', '{}', 10, true, false, false, false);
		insert into chains (id, ders) values ('', '{}')`)
	l.issuers["ca"] = l.signing("ca")
	return l
}

// another is a second replica on the same database, with pools of its own.
func (l *lab) another(url string) *lab {
	other := *l
	other.db = pgtest.Pool(l.t, url)
	other.Revocations = &revocation.Revocations{
		DB: other.db, Open: l.Open, Metrics: l.Metrics, Replica: "two", Validity: l.Validity, Log: l.Log, Told: l.Told,
	}
	return &other
}

func (l *lab) exec(sql string, args ...any) {
	l.t.Helper()
	if _, err := l.db.Exec(l.t.Context(), sql, args...); err != nil {
		l.t.Fatal(err)
	}
}

// one reads a single value.
func one[T any](l *lab, sql string, args ...any) (v T) {
	l.t.Helper()
	if err := l.db.QueryRow(l.t.Context(), sql, args...).Scan(&v); err != nil {
		l.t.Fatal(err)
	}
	return v
}

// signing adds an issuer that signs lists.
func (l *lab) signing(id string) *authority {
	l.t.Helper()
	a := newAuthority(l.t)
	l.exec(`insert into issuers (id, name, type, enabled, settings, shown) values ($1, $1, 'test', true, '', '{}')`, id)
	l.exec(`insert into crls (issuer_id) values ($1)`, id)
	l.issuers[id] = a
	return a
}

// An authority signs certificates and lists, and can be made to do something
// before that.
type authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
	before      func() error
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key, before: func() error { return nil }}
	root := &x509.Certificate{
		SerialNumber: cert.NewSerial(), Subject: pkix.Name{CommonName: "Test Root"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if a.certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) Issue(context.Context, cert.Order) (issuer.Issued, error) {
	return issuer.Issued{}, errors.New("does not issue")
}

func (a *authority) Test(context.Context) error { return nil }

func (a *authority) Chain() []*x509.Certificate { return []*x509.Certificate{a.certificate} }

func (a *authority) SignCRL(_ context.Context, l issuer.List) ([]byte, error) {
	if err := a.before(); err != nil {
		return nil, err
	}
	return issuer.SignList(a.certificate, a.key, l)
}

// A remote authority keeps lists of its own.
type remote struct {
	*authority
	told   []string // serial numbers
	refuse error
	during func()
}

func (r *remote) Revoke(_ context.Context, leaf *x509.Certificate, reason *cert.Reason, _ time.Time) error {
	if r.during != nil {
		r.during()
	}
	if r.refuse == nil {
		r.told = append(r.told, cert.Serial(leaf.SerialNumber)+" "+reason.Name)
	}
	return r.refuse
}

// A version is what issue has made.
type version struct {
	id     string
	number int
	serial string
}

type leaf struct {
	issuer      string
	begin, end  time.Duration // from now
	neverListed bool
}

// certificate issues the first version of a certificate.
func (l *lab) certificate(id string, how leaf) version {
	l.t.Helper()
	l.pending(id)
	return l.issue(id, how)
}

// pending adds a certificate that was not issued.
func (l *lab) pending(id string) {
	l.t.Helper()
	l.exec(`
		insert into certificates (id, name, common_name, sans, environment, tags, owner_id, issuer_id, profile_id, policy_id,
			key_algorithm, validity_seconds, created_by)
		values ($1, $1, $1, '{}', '', '{}', 'o', 'ca', 'f', 'p', 'ecdsa-p256', 86400, 'k')`, id)
}

// issue adds a version to a certificate.
func (l *lab) issue(id string, how leaf) version {
	l.t.Helper()
	v, err := l.tryIssue(l.db, id, how)
	if err != nil {
		l.t.Fatal(err)
	}
	return v
}

func (l *lab) tryIssue(q pg.Q, id string, how leaf) (version, error) {
	l.t.Helper()
	if how.issuer == "" {
		how.issuer = "ca"
	}
	if how.end == 0 {
		how.end = 90 * 24 * time.Hour
	}
	a, ok := l.issuers[how.issuer].(*authority)
	if !ok {
		a = l.issuers[how.issuer].(*remote).authority
	}
	tbs := &x509.Certificate{
		SerialNumber: cert.NewSerial(), Subject: pkix.Name{CommonName: id},
		NotBefore: time.Now().Add(how.begin - time.Minute), NotAfter: time.Now().Add(how.end),
	}
	if how.neverListed {
		tbs.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 56}, Value: []byte{5, 0}}}
	}
	der, err := x509.CreateCertificate(rand.Reader, tbs, a.certificate, a.key.Public(), a.key)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.record(q, id, how.issuer, der)
}

// record makes what an issuer signed the current version of a certificate.
func (l *lab) record(q pg.Q, id, issuerID string, der []byte) (version, error) {
	l.t.Helper()
	signed, err := x509.ParseCertificate(der)
	if err != nil {
		l.t.Fatal(err)
	}
	sum := sha256.Sum256(der)
	v := version{id: id, serial: cert.Serial(signed.SerialNumber)}
	// One statement, as the two rows refer to each other.
	err = q.QueryRow(l.t.Context(), `
		with c as (
			update certificates set state = 'active', version = coalesce(version, 0) + 1, serial = $2, fingerprint = $3, not_before = $4,
				not_after = $5, renew_at = $5::timestamptz - interval '1 day'
			where id = $1 returning version
		)
		insert into certificate_versions (certificate_id, number, issuer_id, serial, fingerprint, not_before, not_after, key_algorithm, der, chain_id)
		select $1, c.version, $6, $2, $3, $4, $5, 'ecdsa-p256', $7, '' from c returning number`,
		id, v.serial, sum[:], signed.NotBefore, signed.NotAfter, issuerID, der).Scan(&v.number)
	return v, err
}

// revoke revokes a certificate for a reason, or one version of it.
func (l *lab) revoke(id, reason string, serial ...string) error {
	_, err := l.RevokeCertificate(l.ctx, asked(id, revocation.Why{Reason: reason, Serial: strings.Join(serial, "")}))
	return err
}

func asked(id string, why revocation.Why) *revocation.NewRevocation {
	return &revocation.NewRevocation{OneCertificate: revocation.OneCertificate{ID: id}, Body: &why}
}

func (l *lab) release(id string) error {
	_, err := l.ReleaseCertificate(l.ctx, &revocation.OneCertificate{ID: id})
	return err
}

func (l *lab) state(id string) string {
	l.t.Helper()
	return one[string](l, `select state from certificates where id = $1`, id)
}

// list signs what is due and returns the newest list of the issuer "ca".
func (l *lab) list() *x509.RevocationList {
	l.t.Helper()
	if _, err := l.Generate(l.ctx); err != nil {
		l.t.Fatal(err)
	}
	return l.current()
}

// current returns the newest list of the issuer "ca".
func (l *lab) current() *x509.RevocationList {
	l.t.Helper()
	list, err := x509.ParseRevocationList(one[[]byte](l, `select der from crls where issuer_id = 'ca'`))
	if err != nil {
		l.t.Fatal(err)
	}
	return list
}

// entry returns the entry of a version, nil if the list has none.
func entry(list *x509.RevocationList, v version) *x509.RevocationListEntry {
	for i, e := range list.RevokedCertificateEntries {
		if cert.Serial(e.SerialNumber) == v.serial {
			return &list.RevokedCertificateEntries[i]
		}
	}
	return nil
}

// events are the newest events of an action, as "id details", oldest first.
func (l *lab) events(a *audit.Action) []string {
	l.t.Helper()
	return one[[]string](l, `select coalesce(array_agg(resource_id || ' ' || details::text order by id), '{}') from audit_events where action = $1`, a.Name)
}

func is(t testing.TB, err error, kind *fault.Kind, what string) {
	t.Helper()
	if err == nil || fault.Of(err) != kind || !strings.Contains(fault.Shown(err), what) {
		t.Errorf("got %v, want %s: %q", err, kind.Code, what)
	}
}

func sorted(list *x509.RevocationList) bool {
	var last *big.Int
	for _, e := range list.RevokedCertificateEntries {
		if last != nil && bytes.Compare(last.Bytes(), e.SerialNumber.Bytes()) >= 0 {
			return false
		}
		last = e.SerialNumber
	}
	return true
}
