package local

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"certctl/server/cert"
	"certctl/server/fault"
)

// allows reports every name and purpose of an order that a certificate of the
// chain does not allow (RFC 5280 §4.2.1.10 and §4.2.1.12). Names are told by their
// place among those of their kind, which are in the order of their text.
func (i *Issuer) allows(o cert.Order) error {
	var outside []string
	check := func(kind string, at int, allowed func(ca *x509.Certificate) bool) {
		for _, ca := range i.chain {
			if !allowed(ca) {
				outside = append(outside, fmt.Sprintf("%s %d", kind, at+1))
				return
			}
		}
	}
	for at, d := range o.Names.DNS {
		check("DNS name", at, func(ca *x509.Certificate) bool {
			return within(ca.PermittedDNSDomains, ca.ExcludedDNSDomains, func(c string) bool { return inDomain(d, c) }, func(c string) bool { return meetsDomain(d, c) })
		})
	}
	for at, a := range o.Names.IP {
		in := func(r *net.IPNet) bool { return contains(r, a) }
		check("IP address", at, func(ca *x509.Certificate) bool {
			return within(ca.PermittedIPRanges, ca.ExcludedIPRanges, in, in)
		})
	}
	for at, m := range o.Names.Email {
		in := func(c string) bool { return inMailbox(m, c) }
		check("mail address", at, func(ca *x509.Certificate) bool {
			return within(ca.PermittedEmailAddresses, ca.ExcludedEmailAddresses, in, in)
		})
	}
	for at, u := range o.Names.URI {
		host := u.Hostname()
		check("URI", at, func(ca *x509.Certificate) bool {
			return within(ca.PermittedURIDomains, ca.ExcludedURIDomains, func(c string) bool { return inHost(host, c) }, func(c string) bool { return inDomain(host, c) })
		})
	}
	if len(outside) > 0 {
		return fault.New(fault.Invalid, "the name constraints of the issuer do not allow %s, counted in the order of the alphabet; leave them out, or choose another issuer", strings.Join(outside, ", "))
	}
	for _, ca := range i.chain {
		if len(ca.ExtKeyUsage)+len(ca.UnknownExtKeyUsage) == 0 || slices.Contains(ca.ExtKeyUsage, x509.ExtKeyUsageAny) {
			continue
		}
		for _, u := range cert.ExtKeyUsages() {
			if slices.Contains(o.Usages, u.X509) && !slices.Contains(ca.ExtKeyUsage, u.X509) {
				outside = append(outside, u.Name)
			}
		}
	}
	if len(outside) > 0 {
		slices.Sort(outside)
		return fault.New(fault.Invalid, "the issuer's certificates do not allow the purposes %s; choose a profile without them, or another issuer", strings.Join(slices.Compact(outside), ", "))
	}
	return nil
}

// within applies the constraints of one certificate to a name.
func within[C any](permitted, excluded []C, in, meets func(C) bool) bool {
	return !slices.ContainsFunc(excluded, meets) && (len(permitted) == 0 || slices.ContainsFunc(permitted, in))
}

// inDomain reports whether a DNS name is the domain or below it; with a dot in
// front only what is below.
func inDomain(name, domain string) bool {
	name, domain = strings.ToLower(name), strings.ToLower(domain)
	if strings.HasPrefix(domain, ".") {
		return strings.HasSuffix(name, domain)
	}
	return domain == "" || name == domain || strings.HasSuffix(name, "."+domain)
}

// meetsDomain reports whether a DNS name stands for anything in the domain, as a
// wildcard next to it does.
func meetsDomain(name, domain string) bool {
	parent, wildcard := strings.CutPrefix(strings.ToLower(name), "*.")
	_, above, _ := strings.Cut(strings.ToLower(strings.TrimPrefix(domain, ".")), ".")
	return inDomain(name, domain) || wildcard && parent == above
}

func contains(r *net.IPNet, a netip.Addr) bool { return r.Contains(net.IP(a.AsSlice())) }

// inMailbox reports whether a mail address is that of a constraint, at its host,
// or below the domain that it names with a dot in front.
func inMailbox(address, constraint string) bool {
	if strings.Contains(constraint, "@") {
		local, host, _ := strings.Cut(constraint, "@")
		l, h, _ := strings.Cut(address, "@")
		return l == local && strings.EqualFold(h, host)
	}
	_, host, _ := strings.Cut(address, "@")
	return inHost(host, constraint)
}

// inHost reports whether a host is that of a constraint, or below the domain that
// it names with a dot in front.
func inHost(host, constraint string) bool {
	if strings.HasPrefix(constraint, ".") {
		return inDomain(host, constraint)
	}
	return constraint == "" || strings.EqualFold(host, constraint)
}
