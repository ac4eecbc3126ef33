package inventory

import (
	"context"

	"certctl/server/audit"
	"certctl/server/cert"
	"certctl/server/store"
	"certctl/server/web"
)

var profiles = &kind[cert.Profile]{
	what: "profile", noun: "profile", prefix: "prf",
	created: audit.ProfileCreated, changed: audit.ProfileChanged, deleted: audit.ProfileDeleted,
	key:  func(p *cert.Profile) key { return key{p.ID, p.Name, p.Revision} },
	list: store.Profiles, byID: store.ProfileByID, lock: store.LockProfile,
	insert: store.InsertProfile, update: store.ChangeProfile, drop: store.DeleteProfile,
	inUse: map[string]string{
		"certificates_profile_id_fkey": "certificates were issued under the profile, archived ones too; disable it to have no more",
	},
}

// What a profile allows that does not say it.
const (
	defaultValidity         = 90 * day
	defaultMaxValidity      = 397 * day
	defaultShortMaxValidity = 7 * day
	defaultMaxSANs          = 100
)

// ProfileBody are the fields of a profile that callers set.
type ProfileBody struct {
	Description            *string   `json:"description,omitempty" maxLength:"2000" nullable:"false"`
	Enabled                *bool     `json:"enabled,omitempty" nullable:"false" doc:"nothing is issued under a profile that is not; true by default"`
	KeyAlgorithms          *[]string `json:"key_algorithms,omitempty" maxItems:"20" nullable:"false" doc:"names of algorithms that keys may have, the one of keys that the server makes first; all by default"`
	DefaultValiditySeconds *int64    `json:"default_validity_seconds,omitempty" minimum:"60" maximum:"345600000" nullable:"false" doc:"of a request that names none; 90 days by default, or the longest that is allowed"`
	MaxValiditySeconds     *int64    `json:"max_validity_seconds,omitempty" minimum:"60" maximum:"345600000" nullable:"false" doc:"397 days by default, a week if short-lived"`
	ExtKeyUsages           *[]string `json:"ext_key_usages,omitempty" maxItems:"20" nullable:"false" doc:"purposes that every certificate gets; serverAuth by default"`
	SANKinds               *[]string `json:"san_kinds,omitempty" maxItems:"20" nullable:"false" doc:"kinds of subject alternative names that are allowed; dns and ip by default"`
	DNSPatterns            *[]string `json:"dns_patterns,omitempty" maxItems:"200" nullable:"false" doc:"DNS names that are allowed; a leading *. stands for one label or more; any name if empty, the default"`
	IPRanges               *[]string `json:"ip_ranges,omitempty" maxItems:"200" nullable:"false" doc:"addresses that are allowed, as CIDR; any if empty, the default"`
	URIPrefixes            *[]string `json:"uri_prefixes,omitempty" maxItems:"200" nullable:"false" doc:"what URIs have to begin with; any if empty, the default"`
	EmailDomains           *[]string `json:"email_domains,omitempty" maxItems:"200" nullable:"false" doc:"domains of mail addresses that are allowed; any if empty, the default"`
	MaxSANs                *int      `json:"max_sans,omitempty" minimum:"1" maximum:"1000" nullable:"false" doc:"how many names a certificate may have; 100 by default"`
	Wildcards              *bool     `json:"wildcards,omitempty" nullable:"false" doc:"whether a DNS name may begin with *.; true by default"`
	MustStaple             *bool     `json:"must_staple,omitempty" nullable:"false" doc:"whether servers have to staple an OCSP response (RFC 7633); false by default"`
	ShortLived             *bool     `json:"short_lived,omitempty" nullable:"false" doc:"whether certificates say that they are never revoked by a list (RFC 9608); they last a week at most; false by default"`
	CABLints               *bool     `json:"cab_lints,omitempty" nullable:"false" doc:"whether the lints of the CA/Browser Forum apply beside those of RFC 5280; false by default"`
}

// edit sets the fields of a profile that are given.
func (b *ProfileBody) edit(p *cert.Profile, e *edits) {
	set(e, "description", &p.Description, b.Description)
	set(e, "enabled", &p.Enabled, b.Enabled)
	set(e, "key_algorithms", &p.KeyAlgorithms, b.KeyAlgorithms)
	set(e, "default_validity_seconds", &p.DefaultValiditySeconds, b.DefaultValiditySeconds)
	set(e, "max_validity_seconds", &p.MaxValiditySeconds, b.MaxValiditySeconds)
	set(e, "ext_key_usages", &p.ExtKeyUsages, b.ExtKeyUsages)
	set(e, "san_kinds", &p.SANKinds, b.SANKinds)
	set(e, "dns_patterns", &p.DNSPatterns, b.DNSPatterns)
	set(e, "ip_ranges", &p.IPRanges, b.IPRanges)
	set(e, "uri_prefixes", &p.URIPrefixes, b.URIPrefixes)
	set(e, "email_domains", &p.EmailDomains, b.EmailDomains)
	set(e, "max_sans", &p.MaxSANs, b.MaxSANs)
	set(e, "wildcards", &p.Wildcards, b.Wildcards)
	set(e, "must_staple", &p.MustStaple, b.MustStaple)
	set(e, "short_lived", &p.ShortLived, b.ShortLived)
	set(e, "cab_lints", &p.CABLints, b.CABLints)
}

// NewProfile asks for a profile.
type NewProfile struct {
	Idempotency
	Body struct {
		Name string `json:"name" minLength:"1" maxLength:"255" doc:"no two profiles share a name"`
		ProfileBody
	}
}

// CreateProfile makes a profile.
func (i *Inventory) CreateProfile(ctx context.Context, in *NewProfile) (cert.Profile, error) {
	b := &in.Body
	longest := int64(defaultMaxValidity)
	if or(b.ShortLived, false) {
		longest = defaultShortMaxValidity
	}
	p := cert.Profile{
		ID: profiles.newID(), Name: b.Name, Enabled: true, ExtKeyUsages: []string{cert.ServerAuth.Name},
		SANKinds: []string{"dns", "ip"}, DNSPatterns: []string{}, IPRanges: []string{}, URIPrefixes: []string{},
		EmailDomains: []string{}, MaxSANs: defaultMaxSANs, Wildcards: true, MaxValiditySeconds: longest,
		DefaultValiditySeconds: min(defaultValidity, or(b.MaxValiditySeconds, longest)),
	}
	for _, a := range cert.KeyAlgorithms() {
		p.KeyAlgorithms = append(p.KeyAlgorithms, a.Name)
	}
	b.edit(&p, &edits{})
	if err := p.Validate(); err != nil {
		return p, err
	}
	return create(ctx, i, profiles, in.Idempotency, in.Body, p)
}

// Profiles lists profiles by name.
func (i *Inventory) Profiles(ctx context.Context, in *ListByName) (Page[cert.Profile], error) {
	return list(ctx, i, profiles, in)
}

// Profile returns one profile.
func (i *Inventory) Profile(ctx context.Context, in *ByID) (cert.Profile, error) {
	return profiles.byID(ctx, i.DB, in.ID)
}

// ProfileChange changes those fields of a profile that it gives.
type ProfileChange struct {
	ByID
	Body struct {
		Revision *int64  `json:"revision,omitempty" nullable:"false" doc:"refuses the change if the profile has another one by now"`
		Name     *string `json:"name,omitempty" minLength:"1" maxLength:"255" nullable:"false"`
		ProfileBody
	}
}

// ChangeProfile changes what may be issued from now on. What was issued stays.
func (i *Inventory) ChangeProfile(ctx context.Context, in *ProfileChange) (cert.Profile, error) {
	return change(ctx, i, profiles, in.ID, in.Body.Revision, func(p *cert.Profile) (e edits, _ error) {
		set(&e, "name", &p.Name, in.Body.Name)
		in.Body.edit(p, &e)
		return e, p.Validate()
	})
}

// DeleteProfile deletes a profile that nothing was issued under.
func (i *Inventory) DeleteProfile(ctx context.Context, in *ByID) (web.Nothing, error) {
	return remove(ctx, i, profiles, in)
}
