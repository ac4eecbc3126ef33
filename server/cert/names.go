package cert

import (
	"cmp"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/net/publicsuffix"
	"golang.org/x/text/unicode/norm"

	"certctl/server/table"
)

// Names are the subject alternative names of a certificate (RFC 5280
// §4.2.1.6).
type Names struct {
	DNS   []string // lower-case A-labels
	IP    []netip.Addr
	Email []string
	URI   []*url.URL
}

// A SANKind is a kind of subject alternative name.
type SANKind struct {
	Name   string `json:"name"` // stands in front of a name in text, with a colon
	Does   string `json:"does"`
	noun   string
	tag    int // of GeneralName
	parse  func(string) (name, *problem)
	allows func(*limits, name) []*problem // of a name that parse returned
}

// A name is one subject alternative name.
type name struct {
	kind *SANKind
	text string // canonical, without the kind
	addr netip.Addr
	uri  *url.URL
}

// A problem is why a name is refused.
type problem struct {
	rule *Rule
	says string
}

var sanKinds = table.By(func(k *SANKind) string { return k.Name })

// SANKinds returns every kind of name that a certificate may have.
func SANKinds() []*SANKind { return sanKinds.Rows() }

// SANKindNamed returns the kind with the given name.
func SANKindNamed(name string) (*SANKind, bool) { return sanKinds.Row(name) }

// The kinds.
var (
	DNSName      = sanKind("dns", "A host name, as a.example or *.a.example.", "a DNS name", 2, parseDNS, allowsDNS)
	IPAddress    = sanKind("ip", "An IPv4 or IPv6 address.", "an IP address", 7, parseIP, allowsIP)
	EmailAddress = sanKind("email", "A mail address, as a@b.example.", "a mail address", 1, parseEmail, allowsEmail)
	URI          = sanKind("uri", "An absolute URI with a host, as spiffe://a.example/b.", "a URI", 6, parseURI, allowsURI)
)

func sanKind(name, does, noun string, tag int, parse func(string) (name, *problem), allows func(*limits, name) []*problem) *SANKind {
	return sanKinds.Add(&SANKind{name, does, noun, tag, parse, allows})
}

// ParseNames reads names in text, as dns:a.example. A name without a kind is an
// address if it reads as one, a URI if it has ://, a mail address if it has @,
// and a DNS name otherwise. It returns the names that are good and what is wrong
// with the others, as of the field body.sans. What Text returns, ParseNames
// reads as the same names.
func ParseNames(texts []string) (Names, []Violation) {
	var f findings
	return namesOf(parseNames(&f, "body.sans", texts)), f.violations()
}

func parseNames(f *findings, field string, texts []string) []name {
	var names []name
	for i, text := range texts {
		if n, problem := parseName(text); problem != nil {
			f.at(field, i+1, "a name", problem)
		} else {
			names = append(names, n)
		}
	}
	return names
}

func parseName(text string) (name, *problem) {
	if kind, rest, found := strings.Cut(text, ":"); found {
		if k, ok := SANKindNamed(strings.ToLower(kind)); ok {
			return k.read(rest)
		}
	}
	_, err := netip.ParseAddr(text)
	switch {
	case err == nil:
		return IPAddress.read(text)
	case strings.Contains(text, "://"):
		return URI.read(text)
	case strings.Contains(text, "@"):
		return EmailAddress.read(text)
	}
	return DNSName.read(text)
}

func (k *SANKind) read(text string) (name, *problem) {
	n, problem := k.parse(text)
	n.kind = k
	return n, problem
}

// namesOf sorts names and leaves out what repeats.
func namesOf(list []name) Names {
	var names Names
	for _, n := range list {
		switch n.kind {
		case DNSName:
			names.DNS = append(names.DNS, n.text)
		case IPAddress:
			names.IP = append(names.IP, n.addr)
		case EmailAddress:
			names.Email = append(names.Email, n.text)
		case URI:
			names.URI = append(names.URI, n.uri)
		}
	}
	byText := func(a, b *url.URL) int { return cmp.Compare(a.String(), b.String()) }
	slices.Sort(names.DNS)
	slices.SortFunc(names.IP, netip.Addr.Compare)
	slices.Sort(names.Email)
	slices.SortFunc(names.URI, byText)
	names.DNS = slices.Compact(names.DNS)
	names.IP = slices.Compact(names.IP)
	names.Email = slices.Compact(names.Email)
	names.URI = slices.CompactFunc(names.URI, func(a, b *url.URL) bool { return byText(a, b) == 0 })
	return names
}

// Len is how many names there are.
func (n Names) Len() int { return len(n.DNS) + len(n.IP) + len(n.Email) + len(n.URI) }

// Text returns the names as ParseNames reads them, sorted.
func (n Names) Text() []string {
	text := make([]string, 0, n.Len())
	for _, d := range n.DNS {
		text = append(text, DNSName.Name+":"+d)
	}
	for _, a := range n.IP {
		text = append(text, IPAddress.Name+":"+a.String())
	}
	for _, m := range n.Email {
		text = append(text, EmailAddress.Name+":"+m)
	}
	for _, u := range n.URI {
		text = append(text, URI.Name+":"+u.String())
	}
	slices.Sort(text)
	return text
}

// The bounds of names.
const (
	maxName  = 253  // of a DNS name (RFC 1035 §2.3.4)
	maxEmail = 254  // of a mail address (RFC 5321 §4.5.3.1.3, without the brackets)
	maxURI   = 2048 // of a SPIFFE ID
)

var (
	noDNSName = &problem{RuleNameForm, "is no DNS name; write labels of up to 63 letters, digits and inner hyphens with dots between them, " +
		"253 characters in all, non-ASCII letters in lower case, the last label neither a number nor empty"}
	noWildcard     = &problem{RuleWildcard, "has a * that is not its whole first label; write *. once, in front"}
	suffixWildcard = &problem{RuleWildcard, "is a wildcard for everything below a public suffix; name the domain that it is for"}
)

func parseDNS(text string) (name, *problem) {
	base, wild := strings.CutPrefix(text, "*.")
	if strings.Contains(base, "*") {
		return name{}, noWildcard
	}
	host, problem := hostName(base)
	if problem != nil {
		return name{}, problem
	}
	if wild {
		if suffix, icann := publicsuffix.PublicSuffix(host); icann && suffix == host {
			return name{}, suffixWildcard
		}
		host = "*." + host
	}
	if len(host) > maxName {
		return name{}, noDNSName
	}
	return name{text: host}, nil
}

// hostName returns a DNS name as lower-case A-labels. It maps nothing but ASCII
// letters and canonically equivalent forms, so that what is approved is what was
// written (RFC 5891 §4, not the mappings of UTS #46).
func hostName(text string) (string, *problem) {
	if len(text) > 4*maxName {
		return "", noDNSName
	}
	text = norm.NFC.String(strings.Map(lower, text))
	labels := strings.Split(text, ".")
	for _, label := range labels {
		if strings.HasPrefix(label, "xn--") {
			var err error
			if label, err = idna.Punycode.ToUnicode(label); err != nil {
				return "", noDNSName
			}
		}
		if problem := checkLabel(label); problem != nil {
			return "", problem
		}
	}
	host, err := idna.Registration.ToASCII(text)
	if err != nil || number(labels[len(labels)-1]) {
		return "", noDNSName
	}
	return host, nil
}

func lower(r rune) rune {
	if 'A' <= r && r <= 'Z' {
		r += 'a' - 'A'
	}
	return r
}

// number reports whether a last label makes programs read a name as an IPv4
// address, or is empty, which idna takes.
func number(label string) bool {
	hex, ok := strings.CutPrefix(label, "0x")
	return strings.Trim(label, "0123456789") == "" || ok && strings.Trim(hex, "0123456789abcdef") == ""
}

func parseIP(text string) (name, *problem) {
	a, err := netip.ParseAddr(text)
	a = a.Unmap()
	if err != nil || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
		return name{}, &problem{RuleNameForm, "is no IP address of a host; write an IPv4 or IPv6 address without zone or prefix, neither 0.0.0.0 or :: nor of a group"}
	}
	return name{text: a.String(), addr: a}, nil
}

func parseEmail(text string) (name, *problem) {
	at := strings.LastIndexByte(text, '@')
	if at < 0 || !dotAtom(text[:at]) {
		return name{}, noEmail
	}
	host, problem := hostName(text[at+1:])
	if problem != nil || at+1+len(host) > maxEmail {
		return name{}, cmp.Or(problem.unlessForm(), noEmail)
	}
	return name{text: text[:at+1] + host}, nil
}

var noEmail = &problem{RuleNameForm, "is no mail address; write one as a@b.example, up to 64 ASCII characters without quotes in front of the @ and a DNS name behind it"}

// dotAtom reports whether the part of a mail address in front of the @ has the
// form of RFC 5322 §3.2.3.
func dotAtom(local string) bool {
	const others = "!#$%&'*+-/=?^_`{|}~"
	for atom := range strings.SplitSeq(local, ".") {
		if atom == "" || strings.TrimFunc(atom, func(r rune) bool {
			return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune(others, r)
		}) != "" {
			return false
		}
	}
	return len(local) <= 64
}

var noURI = &problem{RuleNameForm, "is no URI that names one thing; write an absolute one in ASCII with a host, as spiffe://a.example/b, " +
	"without user, fragment, or . and .. in its path, up to 2048 characters"}

func parseURI(text string) (name, *problem) {
	if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' || r == '#' }) {
		return name{}, noURI
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" || u.User != nil || dotSegment(u.Path) {
		return name{}, noURI
	}
	host, port := u.Hostname(), u.Port()
	n, problem := parseIP(host)
	if problem == nil {
		host = n.text
		if n.addr.Is6() {
			host = "[" + host + "]"
		}
	} else if host, problem = hostName(host); problem != nil {
		return name{}, cmp.Or(problem.unlessForm(), noURI)
	}
	if port != "" {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return name{}, noURI
		}
		host += ":" + port
	}
	u.Host = host
	text = u.String()
	if u, err = url.Parse(text); err != nil || len(text) > maxURI {
		return name{}, noURI
	}
	return name{text: text, uri: u}, nil
}

// unlessForm is nil for a problem of form, of which the name that holds the host
// has its own.
func (p *problem) unlessForm() *problem {
	if p == nil || p.rule == RuleNameForm {
		return nil
	}
	return p
}

// dotSegment reports whether a path means another one than it says.
func dotSegment(path string) bool {
	for s := range strings.SplitSeq(path, "/") {
		if s == "." || s == ".." {
			return true
		}
	}
	return false
}

// What makes a label look like another. The tables are made by hand and know the
// letters that are drawn like those of ASCII in most fonts, of Latin, Cyrillic
// and Greek. They do not know words that merely resemble others, as rn and m,
// accents, or letters of other scripts.
const (
	likeASCIICyrillic = "асԁеһіјӏорԛѕԝхуѵү"
	likeASCIIGreek    = "αγικνορυχϳ"
	likeASCIILatin    = "ɑɡɢɪɴʀʏʟʙʜ" // one of them is enough: nobody's name needs it
)

var (
	hidden = &problem{RuleNameConfusable, "has a character that is not seen or that turns the direction of text; leave it out"}
	mixed  = &problem{RuleNameConfusable, "has a label that mixes scripts or digits of several; write each label in one " +
		"(Japanese, Korean and Chinese may have Latin letters)"}
	alike = &problem{RuleNameConfusable, "has a label of letters that look like those of ASCII; write it in ASCII, or with a letter that only its script has"}
)

// invisible reports whether text has a character beyond ASCII that is not seen.
// RFC 5892 allows joiners in some words; they are refused all the same.
func invisible(text string) bool {
	return strings.ContainsFunc(text, func(r rune) bool {
		return r >= utf8.RuneSelf &&
			unicode.In(r, unicode.Cc, unicode.Cf, unicode.Z, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point)
	})
}

// Scripts that are written together: what UTS #39 §5.2 calls highly
// restrictive.
var together = [][]string{
	{"Latin", "Han", "Hiragana", "Katakana"},
	{"Latin", "Han", "Bopomofo"},
	{"Latin", "Han", "Hangul"},
}

// checkLabel refuses a label that does not consist of letters, marks and digits
// (RFC 5892 §2, without what it allows in context only), or can be taken for
// another. Its xn-- has been decoded.
func checkLabel(label string) *problem {
	if !strings.ContainsFunc(label, func(r rune) bool { return r >= utf8.RuneSelf }) {
		return nil
	}
	if invisible(label) {
		return hidden
	}
	var scripts []string
	var zero, last rune
	for _, r := range label {
		switch {
		case r < utf8.RuneSelf && !unicode.In(r, unicode.L, unicode.Nd): // hyphens; of others the caller says it
			continue
		case !unicode.In(r, unicode.L, unicode.M, unicode.Nd) && r != '〇' || unicode.Is(disallowed, r):
			return noDNSName
		case strings.ContainsRune(likeASCIILatin, r) || r == '\u0307' && strings.ContainsRune("iıj", last): // a second dot
			return alike
		case unicode.Is(unicode.Nd, r):
			z := zeroOf(r)
			if zero != 0 && z != zero {
				return mixed
			}
			zero = z
		}
		last = r
		if s := script(r, scripts); s != "" && !slices.Contains(scripts, s) {
			if scripts = append(scripts, s); len(scripts) > 1 && !slices.ContainsFunc(together, func(t []string) bool { return within(scripts, t) }) {
				return mixed
			}
		}
	}
	if only(label, likeASCIICyrillic) || only(label, likeASCIIGreek) {
		return alike
	}
	return nil
}

// disallowed are the letters and marks that RFC 5892 §2.6 and §2.9 exclude.
var disallowed = &unicode.RangeTable{R16: []unicode.Range16{
	{0x0640, 0x0640, 1},
	{0x07FA, 0x07FA, 1},
	{0x1100, 0x11FF, 1},
	{0x302E, 0x302F, 1},
	{0x3031, 0x3035, 1},
	{0x303B, 0x303B, 1},
	{0xA960, 0xA97C, 1},
	{0xD7B0, 0xD7FB, 1},
}}

// script is the script of r, empty for what several scripts share. Those that
// the label has already are tried first: there are many.
func script(r rune, first []string) string {
	if unicode.In(r, unicode.Common, unicode.Inherited) {
		return ""
	}
	for _, s := range first {
		if unicode.Is(unicode.Scripts[s], r) {
			return s
		}
	}
	for s, t := range unicode.Scripts {
		if unicode.Is(t, r) {
			return s
		}
	}
	return "Unknown"
}

// zeroOf is the zero of the digits that r is one of. Unicode has them in runs of
// ten, each from its zero.
func zeroOf(r rune) rune {
	for _, t := range unicode.Nd.R16 {
		if lo, hi := rune(t.Lo), rune(t.Hi); lo <= r && r <= hi {
			return r - (r-lo)%10
		}
	}
	for _, t := range unicode.Nd.R32 {
		if lo, hi := rune(t.Lo), rune(t.Hi); lo <= r && r <= hi {
			return r - (r-lo)%10
		}
	}
	return r
}

func within(some, all []string) bool {
	return !slices.ContainsFunc(some, func(s string) bool { return !slices.Contains(all, s) })
}

// only reports whether all letters of a label are of a set.
func only(label, set string) bool {
	return strings.Trim(label, set+"0123456789-") == ""
}
