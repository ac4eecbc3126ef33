package evidence

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"

	"certctl/server/api"
)

// The claims about certificates and jobs.
var (
	CertificatesVerify = statement("certificates/verified",
		"200 certificates of two issuers and three profiles, in every declared state: each leaf verifies to its issuer's root with openssl, "+
			"each has its audit event, and each issuer's revocation list verifies with openssl and holds exactly what was revoked.",
		judgeCertificates, "issuance.Issuance.CreateMany", "local.Issuer.Issue", "revocation.Revocations.Generate", "cert.States")
	RulesRefuse = statement("profiles/rules",
		"Each rule of profiles refuses a request that breaks it, with its name, and nothing is issued.",
		judgeRules, "cert.Profile.Approve", "cert.Profile.Validate", "cert.Rules")
	LeaseFences = statement("jobs/lease",
		"A replica whose job was taken from it while it was doing it cannot write the result.",
		judgeLease, "job.Task.Complete", "job.Runner.Pass").
		citing("server/job.TestLostLeaseWritesNothing", "server/job.TestLeaseThatRanOutIsLost", "server/job.TestEachJobTakesEffectOnce")
)

// CertificatesSeen are certificates as a server answers with them, and what
// openssl says of them.
type CertificatesSeen struct {
	OpenSSL string         `json:"openssl"` // its version
	States  map[string]int `json:"states"`  // of certificates, with or without a leaf
	Leaves  []LeafSeen     `json:"leaves"`
	Lists   []ListSeen     `json:"lists"`
}

// A LeafSeen is one version of a certificate.
type LeafSeen struct {
	Name    string `json:"name"`
	Issuer  string `json:"issuer"`
	Profile string `json:"profile"`
	State   string `json:"state"`
	Serial  string `json:"serial"` // in the bytes, as the next one
	SHA256  string `json:"sha256"`
	Row     string `json:"row"`     // serial and SHA-256, as the server lists them
	OpenSSL string `json:"openssl"` // OK, or why it does not verify
	Events  int    `json:"events"`  // of its issuance
}

// A ListSeen is the revocation list of an issuer.
type ListSeen struct {
	Issuer  string   `json:"issuer"`
	OpenSSL string   `json:"openssl"` // of its signature
	Serials []string `json:"serials"`
	Revoked []string `json:"revoked"` // serials, by the calls that did it
}

// Words of openssl.
const (
	LeafOK = "OK"
	ListOK = "verify OK"
)

// The checks that a defect turns red.
const (
	BytesAreTheRows = "leaves that are not what their row says"
	EachHasItsEvent = "leaves without one event of their issuance"
)

// LeavesVerify is the check of the leaves of an issuer.
func LeavesVerify(issuer string) string { return "leaves that do not verify to " + issuer }

// AllListed is the check that what was revoked is on the issuer's list.
func AllListed(issuer string) string { return "revoked, and not on the list of " + issuer }

// NoneElseListed is the check that nothing else is on it.
func NoneElseListed(issuer string) string { return "on the list of " + issuer + ", and not revoked" }

func judgeCertificates(d api.Declared, seen json.RawMessage) ([]Check, error) {
	return decide(seen, func(s CertificatesSeen) []Check {
		issuers, profiles, bad := map[string]bool{}, map[string]bool{}, map[string][]string{}
		for _, l := range s.Leaves {
			issuers[l.Issuer], profiles[l.Profile] = true, true
			if l.OpenSSL != LeafOK {
				bad[LeavesVerify(l.Issuer)] = append(bad[LeavesVerify(l.Issuer)], l.Name+" ("+l.OpenSSL+")")
			}
			if l.Row != l.Serial+" "+l.SHA256 {
				bad[BytesAreTheRows] = append(bad[BytesAreTheRows], l.Name)
			}
			if l.Events != 1 {
				bad[EachHasItsEvent] = append(bad[EachHasItsEvent], l.Name)
			}
		}
		checks := []Check{
			check("leaves", "200", strconv.Itoa(len(s.Leaves))),
			check("issuers", "2", strconv.Itoa(len(issuers))),
			check("profiles", "3", strconv.Itoa(len(profiles))),
		}
		for _, state := range d.CertStates {
			checks = append(checks, some("certificates that are "+state.Name, s.States[state.Name]))
		}
		for _, l := range s.Lists {
			checks = append(checks,
				check(LeavesVerify(l.Issuer), none, other(bad[LeavesVerify(l.Issuer)])),
				check("list of "+l.Issuer, ListOK, l.OpenSSL),
				some("revoked by "+l.Issuer, len(l.Revoked)),
				check(AllListed(l.Issuer), none, other(without(l.Revoked, l.Serials))),
				check(NoneElseListed(l.Issuer), none, other(without(l.Serials, l.Revoked))))
		}
		return append(checks,
			check("lists", "2", strconv.Itoa(len(s.Lists))),
			check(BytesAreTheRows, none, other(bad[BytesAreTheRows])),
			check(EachHasItsEvent, none, other(bad[EachHasItsEvent])))
	})
}

// some is a check that there was something to look at.
func some(what string, n int) Check {
	got := none
	if n > 0 {
		got = "some"
	}
	return check(what, "some", got)
}

// without returns what is in a and not in b.
func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

// RulesSeen is how requests that break rules were answered.
type RulesSeen struct {
	Refused []RefusalSeen `json:"refused"`
	Before  IssuedSeen    `json:"before"`
	After   IssuedSeen    `json:"after"`
}

// A RefusalSeen is a request that breaks rules, and the names that the answer
// has.
type RefusalSeen struct {
	Request string   `json:"request"`
	Breaks  []string `json:"breaks"`
	Named   []string `json:"named"` // empty if it was not refused
}

// IssuedSeen counts rows.
type IssuedSeen struct {
	Certificates int `json:"certificates"`
	Versions     int `json:"versions"`
	Jobs         int `json:"jobs"`
	Profiles     int `json:"profiles"`
}

// NothingIssued is the check that requests which break rules made no rows.
const NothingIssued = "certificates, versions, jobs and profiles that were made"

func judgeRules(d api.Declared, seen json.RawMessage) ([]Check, error) {
	return decide(seen, func(s RulesSeen) []Check {
		var checks []Check
		for _, rule := range d.Rules {
			got := unseen
			for _, r := range s.Refused {
				if slices.Equal(r.Breaks, []string{rule.Name}) {
					got = other(slices.Clone(r.Named))
				}
			}
			checks = append(checks, check(rule.Name, rule.Name, got))
		}
		several := 0
		for _, r := range s.Refused {
			if len(r.Breaks) > 1 {
				several++
				checks = append(checks, check(r.Request, other(slices.Clone(r.Breaks)), other(slices.Clone(r.Named))))
			}
		}
		made := s.After.Certificates + s.After.Versions + s.After.Jobs + s.After.Profiles -
			s.Before.Certificates - s.Before.Versions - s.Before.Jobs - s.Before.Profiles
		return append(checks, some("requests that break several", several), check(NothingIssued, "0", strconv.Itoa(made)))
	})
}

// LeaseSeen is a job that was taken from the replica that did it, after that
// replica had ended its attempt.
type LeaseSeen struct {
	Began    string         `json:"began"`    // the replica that did it
	Taker    string         `json:"taker"`    // who took it, by hand
	State    string         `json:"state"`    // of the job
	Worker   string         `json:"worker"`   // of the job
	Versions int            `json:"versions"` // of the certificate, which had one
	Outcomes map[string]int `json:"outcomes"` // of the replica's attempts of that kind, as its metrics have them
}

// The checks of a job that was taken.
const (
	NothingWritten = "versions that the replica wrote after its job was taken"
	JobStaysTaken  = "who has the job"
	ReplicaLost    = "what the replica says became of its attempt"
)

func judgeLease(_ api.Declared, seen json.RawMessage) ([]Check, error) {
	return decide(seen, func(s LeaseSeen) []Check {
		var outcomes []string
		for o := range s.Outcomes {
			outcomes = append(outcomes, o)
		}
		began := "nobody"
		if s.Began != "" && s.Began != s.Taker {
			began = "a replica"
		}
		return []Check{
			check("who did the job before", "a replica", began),
			check(NothingWritten, "0", strconv.Itoa(s.Versions-1)),
			check(JobStaysTaken, s.Taker, cmp.Or(s.Worker, "nobody")),
			check(ReplicaLost, "lost", other(outcomes)),
		}
	})
}
