package cert

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"certctl/server/fault"
	"certctl/server/table"
)

// A Rule is something that requests, and what they ask for, have to keep.
type Rule struct {
	Name string `json:"name"`
	Does string `json:"does"` // what it refuses
}

var rules = table.By(func(r *Rule) string { return r.Name })

// Rules returns every rule, in declaration order.
func Rules() []*Rule { return rules.Rows() }

// The rules.
var (
	RuleProfileForm     = rule("profile-form", "A profile that contradicts itself, or has an element that cannot be read.")
	RuleProfileDisabled = rule("profile-disabled", "A profile that is not enabled.")
	RuleCSRForm         = rule("csr-form", "A request for certification that is not one PKCS#10 structure in PEM or DER, or is larger than 64 KiB.")
	RuleCSRSignature    = rule("csr-signature", "A request for certification that the key in it has not signed, or signed over MD5 or SHA-1.")
	RuleCSRExtension    = rule("csr-extension", "A request for certification that asks to be an authority, or for an extension which nobody grants.")
	RuleCSRAlone        = rule("csr-alone", "Names or a key algorithm beside a request for certification, which says both itself.")
	RuleKeyAlgorithm    = rule("key-algorithm", "A key of an algorithm or size that the profile does not have.")
	RuleWeakKey         = rule("weak-key", "An RSA key whose exponent is even or smaller than 65537, or whose modulus has a small factor.")
	RuleExtKeyUsage     = rule("ext-key-usage", "A purpose that the profile does not give.")
	RuleValidity        = rule("validity", "A validity that is longer than the profile's, or shorter than a minute.")
	RuleSANMissing      = rule("san-missing", "A request without any name.")
	RuleSANCount        = rule("san-count", "More names than the profile allows.")
	RuleSANKind         = rule("san-kind", "A name of a kind that the profile does not have, or that nobody grants.")
	RuleNameForm        = rule("name-form", "A name that is none of its kind.")
	RuleNameConfusable  = rule("name-confusable", "A DNS name that can be taken for another: hidden characters, mixed scripts or digits, letters of another script that look like ASCII.")
	RuleWildcard        = rule("wildcard", "A wildcard where the profile allows none, below a public suffix, or in another place than the first label.")
	RuleDNSPattern      = rule("dns-pattern", "A DNS name that none of the profile's patterns matches.")
	RuleIPRange         = rule("ip-range", "An address that is in none of the profile's ranges.")
	RuleURIPrefix       = rule("uri-prefix", "A URI that begins with none of the profile's prefixes.")
	RuleEmailDomain     = rule("email-domain", "A mail address in none of the profile's domains.")
	RuleCommonName      = rule("common-name", "A common name that is not one of the names.")
)

func rule(name, does string) *Rule { return rules.Add(&Rule{name, does}) }

// A Violation is a rule that a request does not keep.
type Violation struct {
	Rule  *Rule
	Field string // as body.csr
	Says  string // the problem and the way out; never a value that came from outside
}

// A Refusal is the error of a request that breaks rules. It is a fault.Invalid
// whose message has every violation.
type Refusal struct {
	Violations []Violation
}

func (r *Refusal) Error() string {
	var says []string
	for _, v := range r.Violations {
		says = append(says, v.Field+" "+v.Says+" ("+v.Rule.Name+")")
	}
	return strings.Join(says, ". ")
}

// Unwrap makes it a fault.
func (r *Refusal) Unwrap() error { return fault.New(fault.Invalid, "%s", r.Error()) }

// Refused is the error of violations, nil if there are none.
func Refused(violations []Violation) error {
	if len(violations) == 0 {
		return nil
	}
	return &Refusal{violations}
}

// findings collect what is wrong. What is wrong with several elements of a list
// in the same way is one violation.
type findings struct {
	order  []finding
	places map[finding][]int
}

type finding struct {
	field, noun string
	problem     problem
}

func (f *findings) add(rule *Rule, field, says string) {
	f.at(field, 0, "", &problem{rule, says})
}

// at adds a problem of an element, which has a noun with its article and is
// counted from 1.
func (f *findings) at(field string, place int, noun string, p *problem) {
	if f.places == nil {
		f.places = map[finding][]int{}
	}
	it := finding{field, noun, *p}
	if f.places[it] == nil {
		f.order = append(f.order, it)
	}
	f.places[it] = append(f.places[it], place)
}

// violations returns what was found, sorted.
func (f *findings) violations() []Violation {
	var all []Violation
	for _, it := range f.order {
		says := it.problem.says
		if it.noun != "" {
			says = fmt.Sprintf("has %s (%s) that %s", it.noun, ordinals(f.places[it]), says)
		}
		all = append(all, Violation{it.problem.rule, it.field, says})
	}
	slices.SortStableFunc(all, func(a, b Violation) int {
		return cmp.Or(cmp.Compare(a.Field, b.Field), cmp.Compare(a.Rule.Name, b.Rule.Name), cmp.Compare(a.Says, b.Says))
	})
	return all
}

// ordinals names the first places, and how many there are besides.
func ordinals(places []int) string {
	const named = 8
	var text []string
	for _, n := range places[:min(len(places), named)] {
		suffix := "th"
		if n/10%10 != 1 && n%10 >= 1 && n%10 <= 3 {
			suffix = []string{"st", "nd", "rd"}[n%10-1]
		}
		text = append(text, strconv.Itoa(n)+suffix)
	}
	all := strings.Join(text, ", ")
	if more := len(places) - named; more > 0 {
		all += fmt.Sprintf(" and %d more", more)
	}
	return all
}

// limits are what a profile says about names, as it is compared with them. An
// element that cannot be read allows nothing.
type limits struct {
	*Profile
	dns, uris, domains []string
	ranges             []netip.Prefix
}

func limitsOf(p *Profile, f *findings) limits {
	l := limits{Profile: p}
	bad := func(field string, i int, noun, says string) {
		f.at("body."+field, i+1, noun, &problem{RuleProfileForm, says})
	}
	for i, text := range p.DNSPatterns {
		base, wild := strings.CutPrefix(text, "*.")
		host, problem := hostName(base)
		switch {
		case problem != nil:
			bad("dns_patterns", i, "a pattern", "is neither a DNS name nor one behind *.; for any name leave the list empty")
		case wild:
			l.dns = append(l.dns, "."+host)
		default:
			l.dns = append(l.dns, host)
		}
	}
	for i, text := range p.IPRanges {
		r, err := netip.ParsePrefix(text)
		if err != nil || r != r.Masked() || r.Addr().Is4In6() {
			bad("ip_ranges", i, "a range", "is no CIDR; write the first address of the range, a slash, and the length of the prefix, as 192.0.2.0/24")
			continue
		}
		l.ranges = append(l.ranges, r)
	}
	for i, text := range p.URIPrefixes {
		u, problem := parseURI(text)
		if problem != nil || u.uri.RawQuery != "" || u.uri.ForceQuery {
			bad("uri_prefixes", i, "a prefix", "is no absolute URI; write a scheme, a host and whole segments of a path, as spiffe://a.example/b")
			continue
		}
		l.uris = append(l.uris, u.text)
	}
	for i, text := range p.EmailDomains {
		host, problem := hostName(text)
		if problem != nil {
			bad("email_domains", i, "a domain", "is no DNS name; write what stands behind the @")
			continue
		}
		l.domains = append(l.domains, host)
	}
	return l
}

var (
	wildcardOff = &problem{RuleWildcard, "is a wildcard, which the profile does not allow; name each host, or use a profile that does"}
	otherDNS    = &problem{RuleDNSPattern, "matches none of the profile's dns_patterns; choose a name that does, or another profile"}
	otherIP     = &problem{RuleIPRange, "is in none of the profile's ip_ranges; choose an address that is, or another profile"}
	otherURI    = &problem{RuleURIPrefix, "begins with none of the profile's uri_prefixes; choose a URI that does, or another profile"}
	otherDomain = &problem{RuleEmailDomain, "is in none of the profile's email_domains; choose an address that is, or another profile"}
)

func allowsDNS(l *limits, n name) []*problem {
	var problems []*problem
	if !l.Wildcards && strings.HasPrefix(n.text, "*.") {
		problems = append(problems, wildcardOff)
	}
	if len(l.DNSPatterns) > 0 && !slices.ContainsFunc(l.dns, func(pattern string) bool {
		return n.text == pattern || pattern[0] == '.' && strings.HasSuffix(n.text, pattern)
	}) {
		problems = append(problems, otherDNS)
	}
	return problems
}

func allowsIP(l *limits, n name) []*problem {
	if len(l.IPRanges) > 0 && !slices.ContainsFunc(l.ranges, func(r netip.Prefix) bool { return r.Contains(n.addr) }) {
		return []*problem{otherIP}
	}
	return nil
}

func allowsEmail(l *limits, n name) []*problem {
	if len(l.EmailDomains) > 0 && !slices.Contains(l.domains, n.text[strings.LastIndexByte(n.text, '@')+1:]) {
		return []*problem{otherDomain}
	}
	return nil
}

func allowsURI(l *limits, n name) []*problem {
	if len(l.URIPrefixes) > 0 && !slices.ContainsFunc(l.uris, func(prefix string) bool {
		// Whole segments only: /a does not allow /ab, nor a host one that begins with it.
		rest, ok := strings.CutPrefix(n.text, prefix)
		return ok && (rest == "" || strings.HasSuffix(prefix, "/") || rest[0] == '/' || rest[0] == '?')
	}) {
		return []*problem{otherURI}
	}
	return nil
}
