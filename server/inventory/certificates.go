package inventory

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5"
	"software.sslmate.com/src/go-pkcs12"

	"certctl/server/audit"
	"certctl/server/cert"
	"certctl/server/fault"
	"certctl/server/job"
	"certctl/server/outbox"
	"certctl/server/pg"
	"certctl/server/store"
	"certctl/server/table"
	"certctl/server/web"
)

// ListCertificates asks for a page of certificates that meet all that it names.
type ListCertificates struct {
	State         []string  `query:"state" maxItems:"10" doc:"any of these states, separated by commas; all but archived without it"`
	Environment   string    `query:"environment" maxLength:"100"`
	OwnerID       string    `query:"owner_id" maxLength:"64"`
	TeamID        string    `query:"team_id" maxLength:"64"`
	IssuerID      string    `query:"issuer_id" maxLength:"64"`
	ProfileID     string    `query:"profile_id" maxLength:"64"`
	PolicyID      string    `query:"policy_id" maxLength:"64"`
	Tag           string    `query:"tag" maxLength:"2000" doc:"all of these tags, as in app=shop,tier=web; a comma in a value has a backslash before it"`
	NamePrefix    string    `query:"name_prefix" maxLength:"255" doc:"what the name begins with"`
	CommonName    string    `query:"common_name" maxLength:"253"`
	SAN           string    `query:"san" maxLength:"2000" doc:"one of its names, as in a.example or dns:a.example"`
	Serial        string    `query:"serial" maxLength:"100" doc:"serial number of any version, in hex"`
	Fingerprint   string    `query:"fingerprint" maxLength:"100" doc:"SHA-256 of any version, in hex"`
	ExpiresBefore time.Time `query:"expires_before" doc:"whose current version ends before this time (RFC 3339)"`
	ExpiresAfter  time.Time `query:"expires_after" doc:"whose current version ends after this time"`
	CreatedBefore time.Time `query:"created_before"`
	CreatedAfter  time.Time `query:"created_after"`
	UpdatedAfter  time.Time `query:"updated_after"`
	Sort          string    `query:"sort" maxLength:"20" default:"-created_at" doc:"created_at, updated_at, not_after, name or common_name; with a minus before it from the last to the first"`
	Fields        []string  `query:"fields" maxItems:"50" doc:"names of the fields that are wanted, separated by commas; all without it"`
	After         string    `query:"after" maxLength:"4000" doc:"next of the page before; with the same sort"`
	Limit         int       `query:"limit" minimum:"1" maximum:"500" default:"100"`
}

// CertificatePage is a page of certificates.
type CertificatePage struct {
	Items []CertificateItem `json:"items" nullable:"false"`
	Next  string            `json:"next,omitempty" doc:"give it as after for the next page; absent on the last"`
}

// Certificates lists certificates.
func (i *Inventory) Certificates(ctx context.Context, in *ListCertificates) (CertificatePage, error) {
	fields, err := fieldsNamed(in.Fields)
	if err != nil {
		return CertificatePage{}, err
	}
	tags, err := parseTags(in.Tag)
	if err != nil {
		return CertificatePage{}, err
	}
	certificates, next, err := store.Certificates(ctx, i.DB, store.CertFilter{
		States: in.State, Environment: in.Environment, OwnerID: in.OwnerID, TeamID: in.TeamID, IssuerID: in.IssuerID,
		ProfileID: in.ProfileID, PolicyID: in.PolicyID, Tags: tags, NamePrefix: in.NamePrefix, CommonName: in.CommonName,
		SAN: in.SAN, Serial: in.Serial, Fingerprint: in.Fingerprint, ExpiresBefore: in.ExpiresBefore,
		ExpiresAfter: in.ExpiresAfter, CreatedBefore: in.CreatedBefore, CreatedAfter: in.CreatedAfter,
		UpdatedAfter: in.UpdatedAfter,
	}, store.CertPage{Sort: in.Sort, After: in.After, Limit: in.Limit})
	page := CertificatePage{make([]CertificateItem, len(certificates)), next}
	for n, c := range certificates {
		page.Items[n] = CertificateItem{c, fields}
	}
	return page, err
}

var (
	tagTerm    = regexp.MustCompile(`(?:[^,\\]|\\.)+`)
	tagEscaped = regexp.MustCompile(`\\(.)`)
)

// parseTags reads the tags of a filter.
func parseTags(s string) (map[string]string, error) {
	tags := map[string]string{}
	for _, term := range tagTerm.FindAllString(s, -1) {
		k, v, ok := strings.Cut(tagEscaped.ReplaceAllString(term, "$1"), "=")
		if _, twice := tags[k]; !ok || twice {
			return nil, fault.New(fault.Invalid, "query.tag has a tag that is not of the form key=value, or a key twice; separate tags by commas")
		}
		tags[k] = v
	}
	return tags, nil
}

// A CertificateItem is a certificate, or what was asked for of it.
type CertificateItem struct {
	store.Certificate
	fields []int // all if empty
}

// MarshalJSON writes those fields that were asked for.
func (c CertificateItem) MarshalJSON() ([]byte, error) {
	if len(c.fields) == 0 {
		return json.Marshal(c.Certificate)
	}
	row, picked := reflect.ValueOf(c.Certificate), map[string]any{}
	for _, n := range c.fields {
		if f := row.Field(n); f.Kind() != reflect.Pointer || !f.IsNil() {
			picked[certificateFields[n]] = f.Interface()
		}
	}
	return json.Marshal(picked)
}

// TransformSchema says that only the id is always there.
func (CertificateItem) TransformSchema(_ huma.Registry, s *huma.Schema) *huma.Schema {
	s.Required = []string{"id"}
	return s
}

// certificateFields are the names of the fields, in the order of the struct.
var certificateFields = func() (names []string) {
	for f := range reflect.TypeFor[store.Certificate]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}()

// fieldsNamed returns the places of fields, with that of the id, or none if no
// field is named.
func fieldsNamed(names []string) ([]int, error) {
	var places []int
	for _, name := range names {
		place := slices.Index(certificateFields, name)
		if place < 0 {
			nearest := slices.MinFunc(certificateFields, func(a, b string) int { return table.Edits(a, name) - table.Edits(b, name) })
			return nil, fault.New(fault.Invalid, "query.fields names a field that a certificate does not have; the nearest is %s", nearest)
		}
		places = append(places, place)
	}
	if len(places) > 0 {
		places = append(places, slices.Index(certificateFields, "id"))
	}
	return places, nil
}

// Certificate returns one certificate.
func (i *Inventory) Certificate(ctx context.Context, in *ByID) (store.Certificate, error) {
	return store.CertificateByID(ctx, i.DB, in.ID)
}

// Versions are all versions of a certificate.
type Versions struct {
	Items []store.Version `json:"items" nullable:"false" doc:"the newest first"`
}

// Versions lists what was issued for a certificate.
func (i *Inventory) Versions(ctx context.Context, in *ByID) (Versions, error) {
	versions, err := store.Versions(ctx, i.DB, in.ID)
	if err == nil && len(versions) == 0 {
		_, err = store.CertificateByID(ctx, i.DB, in.ID)
	}
	return Versions{versions}, err
}

// OneVersion names a version of a certificate.
type OneVersion struct {
	ByID
	Version int `query:"version" minimum:"1" maximum:"2147483647" doc:"number of the version; the current one without it"`
}

// PEM is a version of a certificate in PEM.
type PEM struct {
	Version        int    `json:"version"`
	CertificatePEM string `json:"certificate_pem" doc:"the certificate alone"`
	ChainPEM       string `json:"chain_pem" doc:"what leads from it to the root, which is left out"`
	FullPEM        string `json:"full_pem" doc:"the certificate and then its chain"`
}

// Export returns a version of a certificate in PEM.
func (i *Inventory) Export(ctx context.Context, in *OneVersion) (PEM, error) {
	d, err := i.version(ctx, in.ID, in.Version)
	leaf, chain := toPEM(d.Leaf), toPEM(d.Chain...)
	return PEM{d.Number, leaf, chain, leaf + chain}, err
}

func toPEM(ders ...[]byte) string {
	var text strings.Builder
	for _, der := range ders {
		text.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	return text.String()
}

// version returns a version of a certificate, the current one if number is zero,
// or says why there is none.
func (i *Inventory) version(ctx context.Context, id string, number int) (store.DERs, error) {
	d, err := store.VersionDER(ctx, i.DB, id, number)
	if fault.Of(err) != fault.NotFound {
		return d, err
	}
	c, err := store.CertificateByID(ctx, i.DB, id)
	switch {
	case err != nil:
		return d, err
	case c.Version == nil:
		return d, fault.New(fault.NotFound, "the certificate is %s: nothing was issued for it yet", c.State)
	}
	return d, fault.New(fault.NotFound, "the certificate has no such version; its versions count from 1 to %d", *c.Version)
}

// NewTrustStore asks for a version of a certificate in PKCS#12.
type NewTrustStore struct {
	ByID
	Body struct {
		Password string `json:"password" minLength:"8" maxLength:"1024" doc:"encrypts the file"`
		Version  int    `json:"version,omitempty" minimum:"1" maximum:"2147483647" doc:"number of the version; the current one without it"`
	}
}

// TrustStore is a version of a certificate in PKCS#12.
type TrustStore struct {
	Version int    `json:"version"`
	PKCS12  []byte `json:"pkcs12" doc:"the certificate and its chain as trusted certificates, without a key; in base64, encrypted with AES-256 under the password"`
}

// ExportP12 returns a version of a certificate as a trust store in PKCS#12.
func (i *Inventory) ExportP12(ctx context.Context, in *NewTrustStore) (TrustStore, error) {
	if strings.ContainsFunc(in.Body.Password, func(r rune) bool { return r > 0xFFFF }) {
		return TrustStore{}, fault.New(fault.Invalid, "body.password has a character that PKCS#12 cannot hold (beyond U+FFFF); choose another password")
	}
	d, err := i.version(ctx, in.ID, in.Body.Version)
	if err != nil {
		return TrustStore{}, err
	}
	var trusted []*x509.Certificate
	for _, der := range slices.Concat([][]byte{d.Leaf}, d.Chain) {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return TrustStore{}, fmt.Errorf("version %d of the certificate %s: %w", d.Number, in.ID, err)
		}
		trusted = append(trusted, c)
	}
	file, err := pkcs12.Modern.EncodeTrustStore(trusted, in.Body.Password)
	if err != nil {
		return TrustStore{}, fmt.Errorf("encode PKCS#12: %w", err)
	}
	return TrustStore{d.Number, file}, nil
}

var certificates = &kind[store.Certificate]{
	what: "certificate", noun: "certificate", prefix: "crt",
	changed: audit.CertChanged,
	key:     func(c *store.Certificate) key { return key{c.ID, c.Name, c.Revision} },
	update:  store.ChangeCertificate,
	unknown: map[string]string{
		"certificates_owner_id_fkey":  "body.owner_id is the id of no owner; GET /api/v1/owners lists them",
		"certificates_team_id_fkey":   "body.team_id is the id of no team; GET /api/v1/teams lists them",
		"certificates_policy_id_fkey": "body.policy_id is the id of no renewal policy; GET /api/v1/renewal-policies lists them",
	},
}

// CertificateChange changes those fields of a certificate that it gives.
type CertificateChange struct {
	ByID
	Body struct {
		Revision    *int64            `json:"revision,omitempty" nullable:"false" doc:"refuses the change if the certificate has another one by now"`
		Name        *string           `json:"name,omitempty" minLength:"1" maxLength:"255" nullable:"false"`
		OwnerID     *string           `json:"owner_id,omitempty" minLength:"1" maxLength:"64" nullable:"false"`
		TeamID      *string           `json:"team_id,omitempty" maxLength:"64" nullable:"false" doc:"none if empty"`
		PolicyID    *string           `json:"policy_id,omitempty" minLength:"1" maxLength:"64" nullable:"false" doc:"another policy says anew when the certificate is renewed"`
		Environment *string           `json:"environment,omitempty" maxLength:"100" nullable:"false"`
		Tags        map[string]string `json:"tags,omitempty" nullable:"false" doc:"take the place of all tags there are"`
	}
}

// ChangeCertificate changes what is known of a certificate.
func (i *Inventory) ChangeCertificate(ctx context.Context, in *CertificateChange) (store.Certificate, error) {
	if err := cert.CheckTags(in.Body.Tags); err != nil {
		return store.Certificate{}, err
	}
	k := *certificates
	k.lock = func(ctx context.Context, q pg.Q, id string) (store.Certificate, error) {
		if in.Body.PolicyID != nil {
			if err := store.LockPolicy(ctx, q, *in.Body.PolicyID); err != nil {
				return store.Certificate{}, err
			}
		}
		return store.LockCertificate(ctx, q, id)
	}
	return change(ctx, i, &k, in.ID, in.Body.Revision, func(c *store.Certificate) (e edits, _ error) {
		if c.State == cert.Archived.Name {
			return nil, fault.New(fault.Conflict, "the certificate is archived, and what is known of it stays as it is; ask for a new one under its name")
		}
		set(&e, "name", &c.Name, in.Body.Name)
		set(&e, "owner_id", &c.OwnerID, in.Body.OwnerID)
		if in.Body.TeamID != nil {
			team := orNone(*in.Body.TeamID)
			set(&e, "team_id", &c.TeamID, &team)
		}
		set(&e, "policy_id", &c.PolicyID, in.Body.PolicyID)
		set(&e, "environment", &c.Environment, in.Body.Environment)
		if in.Body.Tags != nil {
			set(&e, "tags", &c.Tags, &in.Body.Tags)
		}
		return e, nil
	})
}

// ArchiveCertificate ends the care for a certificate, and cancels what would
// issue or renew it. Archiving it again changes nothing.
func (i *Inventory) ArchiveCertificate(ctx context.Context, in *ByID) (web.Nothing, error) {
	return web.Nothing{}, pg.InTx(ctx, i.DB, func(tx pgx.Tx) error {
		if err := store.LockCertificates(ctx, tx, []string{in.ID}); err != nil {
			return err
		}
		c, err := store.CertificateByID(ctx, tx, in.ID)
		switch {
		case err != nil:
			return err
		case c.State == cert.Archived.Name:
			return nil
		case c.State == cert.Held.Name:
			return fault.New(fault.Conflict, "the certificate is held; release it or revoke it first")
		}
		if err := store.ArchiveCertificate(ctx, tx, in.ID); err != nil {
			return err
		}
		if err := job.CancelFor(ctx, tx, []string{in.ID}, "the certificate was archived"); err != nil {
			return err
		}
		if err := outbox.Withdraw(ctx, tx, []string{in.ID}); err != nil {
			return err
		}
		return audit.Write(ctx, tx, audit.Event{
			Action: audit.CertArchived, ResourceKind: certificates.noun, ResourceID: in.ID,
			Details: map[string]string{"name": c.Name, "from": c.State},
		})
	})
}

// expireAtOnce is how many certificates one transaction marks.
const expireAtOnce = 1000

// Expire marks the certificates that have ended, in transactions that inTx
// runs, and erases keys of versions that have. It returns how many certificates
// it marked.
func (i *Inventory) Expire(ctx context.Context, inTx func(context.Context, func(pgx.Tx) error) error) (int, error) {
	total := 0
	for n := expireAtOnce; n == expireAtOnce; total += n {
		err := inTx(ctx, func(tx pgx.Tx) error {
			ended, err := store.Expire(ctx, tx, expireAtOnce)
			if err != nil {
				return err
			}
			n = len(ended)
			var events []audit.Event
			for _, c := range ended {
				events = append(events, audit.Event{
					Action: audit.CertExpired, ResourceKind: certificates.noun, ResourceID: c.ID,
					Details: map[string]string{
						"name": c.Name, "version": strconv.Itoa(c.Version), "serial": c.Serial, "issuer": c.IssuerID,
						"not_after": c.NotAfter.UTC().Format(time.RFC3339),
					},
				})
			}
			return audit.WriteAll(ctx, tx, events)
		})
		if err != nil {
			return total, err
		}
	}
	for n := expireAtOnce; n == expireAtOnce; {
		err := inTx(ctx, func(tx pgx.Tx) (err error) {
			n, err = store.EraseEndedKeys(ctx, tx, expireAtOnce)
			return err
		})
		if err != nil {
			return total, err
		}
	}
	return total, nil
}
