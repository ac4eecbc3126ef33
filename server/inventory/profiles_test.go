package inventory_test

import (
	"reflect"
	"slices"
	"testing"

	"certctl/server/audit"
	"certctl/server/cert"
	"certctl/server/fault"
	"certctl/server/inventory"
)

func TestProfile(t *testing.T) {
	t.Parallel()
	ctx, all := replicas(t, 1)
	inv := all[0]
	t.Run("has defaults", func(t *testing.T) {
		p := must[cert.Profile](t)(inv.CreateProfile(ctx, newProfile("plain")))
		want := cert.Profile{
			ID: p.ID, Name: "plain", Enabled: true,
			KeyAlgorithms:          []string{"ecdsa-p256", "ecdsa-p384", "rsa-2048", "rsa-3072", "rsa-4096", "ed25519"},
			DefaultValiditySeconds: 90 * 86400, MaxValiditySeconds: 397 * 86400, ExtKeyUsages: []string{"serverAuth"},
			SANKinds: []string{"dns", "ip"}, DNSPatterns: []string{}, IPRanges: []string{}, URIPrefixes: []string{},
			EmailDomains: []string{}, MaxSANs: 100, Wildcards: true, Revision: 1, CreatedAt: p.CreatedAt, UpdatedAt: p.UpdatedAt,
		}
		if !reflect.DeepEqual(p, want) {
			t.Errorf("it is %+v", p)
		}
		if read := must[cert.Profile](t)(inv.Profile(ctx, one(p.ID))); !reflect.DeepEqual(read, p) {
			t.Errorf("it reads as %+v", read)
		}
	})
	t.Run("has a default that is not beyond what is allowed", func(t *testing.T) {
		brief := newProfile("brief")
		brief.Body.MaxValiditySeconds = new(int64(86400))
		short := newProfile("short")
		short.Body.ShortLived = new(true)
		for _, c := range []struct {
			in        *inventory.NewProfile
			def, most int64
		}{{brief, 86400, 86400}, {short, 7 * 86400, 7 * 86400}} {
			p := must[cert.Profile](t)(inv.CreateProfile(ctx, c.in))
			if p.DefaultValiditySeconds != c.def || p.MaxValiditySeconds != c.most {
				t.Errorf("it allows %d, by default %d", p.MaxValiditySeconds, p.DefaultValiditySeconds)
			}
		}
	})
	t.Run("is refused where its fields contradict each other", func(t *testing.T) {
		in := newProfile("bad")
		in.Body.KeyAlgorithms = new([]string{"rsa-512"})
		_, err := inv.CreateProfile(ctx, in)
		refused(t, err, fault.Invalid, "body.key_algorithms")
	})
	t.Run("every field can be changed", func(t *testing.T) {
		p := must[cert.Profile](t)(inv.CreateProfile(ctx, newProfile("whole")))
		in := &inventory.ProfileChange{ByID: *one(p.ID)}
		b := &in.Body
		b.Name, b.Description, b.Enabled, b.KeyAlgorithms = new("all"), new("d"), new(false), new([]string{"ed25519"})
		b.DefaultValiditySeconds, b.MaxValiditySeconds = new(int64(60)), new(int64(120))
		b.ExtKeyUsages, b.SANKinds = new([]string{"clientAuth", "serverAuth"}), new([]string{"dns", "ip", "email", "uri"})
		b.DNSPatterns, b.IPRanges = new([]string{"*.corp.example"}), new([]string{"192.0.2.0/24"})
		b.URIPrefixes, b.EmailDomains = new([]string{"spiffe://corp.example/"}), new([]string{"corp.example"})
		b.MaxSANs, b.Wildcards, b.MustStaple, b.ShortLived, b.CABLints = new(5), new(false), new(true), new(true), new(true)
		got := must[cert.Profile](t)(inv.ChangeProfile(ctx, in))
		was, is := reflect.ValueOf(p), reflect.ValueOf(got)
		for f, given := range reflect.ValueOf(b.ProfileBody).Fields() {
			if v := is.FieldByName(f.Name).Interface(); !reflect.DeepEqual(v, given.Elem().Interface()) {
				t.Errorf("%s is %v", f.Name, v)
			}
		}
		for n := range was.NumField() {
			name := was.Type().Field(n).Name
			stays := slices.Contains([]string{"ID", "CreatedAt"}, name)
			if same := reflect.DeepEqual(was.Field(n).Interface(), is.Field(n).Interface()); same != stays {
				t.Errorf("%s is %v", name, is.Field(n).Interface())
			}
		}
		if e := changes(t, inv.DB, audit.ProfileChanged); len(e) != 1 ||
			e[0].Details["fields"] != "name description enabled key_algorithms default_validity_seconds max_validity_seconds ext_key_usages "+
				"san_kinds dns_patterns ip_ranges uri_prefixes email_domains max_sans wildcards must_staple short_lived cab_lints" {
			t.Errorf("the events are %+v", e)
		}
	})
	t.Run("a change is refused that what stays contradicts", func(t *testing.T) {
		p := must[cert.Profile](t)(inv.CreateProfile(ctx, newProfile("kept")))
		in := &inventory.ProfileChange{ByID: *one(p.ID)}
		in.Body.ShortLived = new(true)
		_, err := inv.ChangeProfile(ctx, in)
		refused(t, err, fault.Invalid, "body.short_lived")
		if read := must[cert.Profile](t)(inv.Profile(ctx, one(p.ID))); !reflect.DeepEqual(read, p) {
			t.Errorf("it reads as %+v", read)
		}
	})
}
