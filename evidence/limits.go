package evidence

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"certctl/server/api"
	"certctl/server/config"
	"certctl/server/limit"
)

var limitsPage = Page{
	Path: "docs/operator/rate-limit-scope.md", Title: "Rate limits and their scope", From: "server/limit/limits.go",
	Intro:    "What is limited, for whom, and what that comes to with several replicas, after a restart and while the database does not answer.",
	Governed: true,
	Blocks: []Block{
		{"limits", "Limits", limitsBlock},
		{"limit-receipts", "What was seen", limitReceiptsBlock},
		{"limit-scopes", "Scopes", limitScopesBlock},
		{"limit-details", "Limit by limit", limitDetailsBlock},
		{"limit-keys", "What a bucket is for", limitKeysBlock},
		{"limit-algorithms", "Algorithms", limitAlgorithmsBlock},
	},
}

// admits says what a bucket of the limit admits as it comes.
func admits(l api.DeclaredLimit) string {
	if l.Window != "" {
		return strconv.Itoa(l.Cap) + " in any " + short(l.Window)
	}
	return fmt.Sprintf("%d at once, and %v a second", l.Cap, l.Rate)
}

// admitsTimes is what so many buckets of the limit admit.
func admitsTimes(l api.DeclaredLimit, factor string) string {
	if factor == "1" {
		return admits(l)
	}
	if l.Window != "" {
		return fmt.Sprintf("%s × %d in any %s", factor, l.Cap, short(l.Window))
	}
	return fmt.Sprintf("%s × %d at once, and %s × %v a second", factor, l.Cap, factor, l.Rate)
}

func setBy(l api.DeclaredLimit) string {
	if l.RateBy == "" {
		return code(l.CapBy)
	}
	return code(l.CapBy) + ", " + code(l.RateBy)
}

func limitsBlock(p *page, in Inputs) (string, error) {
	var rows [][]string
	for _, l := range in.Declared.Limits {
		rows = append(rows, append([]string{
			link(code(l.Name), "#"+l.Name), admits(l), setBy(l), "one " + l.Key, l.Algorithm,
		}, shown(in.limited(l))...))
	}
	p.grid(append([]string{"limit", "admits, by default", "set by", "for", "algorithm"}, shownHead...), rows)
	return "", nil
}

// limited is what the claims about limits say of one.
func (in Inputs) limited(l api.DeclaredLimit) (found []view) {
	for _, s := range limitClaims {
		for _, r := range in.Receipts {
			if v, about := part(r, l.Name); about && r.Claim.ID == s.ID {
				found = append(found, v)
			}
		}
	}
	return found
}

func limitReceiptsBlock(p *page, in Inputs) (string, error) {
	p.claims(in, limitClaims)
	return "", nil
}

func limitScopesBlock(p *page, in Inputs) (string, error) {
	for _, s := range in.Declared.Settings {
		if s.Name == config.RateLimitScope.Name {
			p.paragraph("Set by " + code(s.Name) + ", for all limits together; " + code(s.Default) + " unless it is set. What is in force on a " +
				"server, its introspection says.")
		}
	}
	var rows [][]string
	for _, s := range in.Declared.LimitScopes {
		factor := "the cap"
		if s.Factor != "1" {
			factor = s.Factor + " times the cap"
		}
		rows = append(rows, []string{code(s.Name), text(s.Does), factor, text(s.Restart), text(s.Bound)})
	}
	p.grid([]string{"scope", "what it means", "N replicas admit", "a restart of a replica forgets", "memory"}, rows)
	return "", nil
}

func limitDetailsBlock(p *page, in Inputs) (string, error) {
	for _, l := range in.Declared.Limits {
		p.entry(code(l.Name))
		crash := "Decisions need not be on disk before they are answered."
		if l.Durable {
			crash = "It guards a secret, so in scope " + code(limit.Cluster.Name) + " a decision is on disk before it is answered."
		}
		p.list([]string{
			"What it protects: it " + text(l.Does) + ".",
			"Asked by " + askedBy(in, l) + ".",
			crash,
			"While the database does not answer: " + text(strings.ToLower(l.Failure[:1])+l.Failure[1:]),
		})
		var rows [][]string
		for _, s := range in.Declared.LimitScopes {
			forgets := s.Crash
			if l.Durable {
				forgets = s.Durable
			}
			rows = append(rows, []string{code(s.Name), admitsTimes(l, s.Factor), text(s.Restart), text(forgets)})
		}
		p.grid([]string{"scope", "N replicas admit for one " + l.Key, "a restart of a replica forgets", "a crash of PostgreSQL forgets"}, rows)
	}
	return "", nil
}

// askedBy says which routes have the limit.
func askedBy(in Inputs, l api.DeclaredLimit) string {
	var have, lack []string
	for _, r := range in.Declared.Routes {
		if slices.Contains(r.Limits, l.Name) {
			have = append(have, r.Method+" "+r.Path)
		} else {
			lack = append(lack, r.Method+" "+r.Path)
		}
	}
	if len(have) <= len(lack) {
		return codes(have, "no route")
	}
	return "every route but " + codes(lack, "none") + " (" + link("routes", "../reference/routes.md") + ")"
}

func limitKeysBlock(p *page, in Inputs) (string, error) {
	var rows [][]string
	for _, k := range in.Declared.LimitKeys {
		var of []string
		for _, l := range in.Declared.Limits {
			if l.Key == k.Name {
				of = append(of, l.Name)
			}
		}
		rows = append(rows, []string{k.Name, withSettings(k.Does, in), codes(of, "no limit")})
	}
	p.grid([]string{"key", "what it is", "limits"}, rows)
	return "", nil
}

func limitAlgorithmsBlock(p *page, in Inputs) (string, error) {
	var rows [][]string
	for _, a := range in.Declared.LimitAlgorithms {
		rows = append(rows, []string{a.Name, text(a.Does)})
	}
	p.grid([]string{"algorithm", "what it promises"}, rows)
	return "", nil
}

// The claims about limits.
var (
	CapIsTheClusters = statement("limits/cluster-cap",
		"In scope cluster each limit admits its cap, at one replica and at three together, and not one more after all of them were killed and started again.",
		judgeCaps, "limit.All", "limit.Limiter.Take", "store.Admit", "web.Route.Limits").
		citing("server/limit.TestReplicasAdmitTheCapTogether")
	CapIsEachReplicas = statement("limits/memory-cap",
		"In scope memory each of three replicas admits the cap of each limit, and admits it again once it was killed and started again.",
		judgeCaps, "limit.All", "limit.Limiter.TakeOwn")
	KeysAreKnown = statement("limits/keys",
		"The bucket of each limit is what its row says: another port, a forged header, another secret of the same key change nothing; another address or another key do where they are what is limited.",
		judgeLimitKeys, "limit.Keys", "web.Address", "auth.Access.Admit")
	LimitsAreApart = statement("limits/isolation",
		"Using up one limit changes the answer of no other.",
		judgeIsolation, "limit.All", "limit.Limiter.Take")
	WaitIsTold = statement("limits/retry-after",
		"A refused request is told how long to wait; before that it is refused again, and after it admitted.",
		judgeWaits, "web.Problem", "limit.Decision")

	limitClaims = []*Statement{CapIsTheClusters, CapIsEachReplicas, KeysAreKnown, LimitsAreApart, WaitIsTold}
)

// CapsSeen is what limits admitted, all with the same cap and hardly any refill.
type CapsSeen struct {
	Scope  string    `json:"scope"`
	Cap    int       `json:"cap"`
	Asked  int       `json:"asked"` // each time, all at once
	Limits []CapSeen `json:"limits"`
}

// A CapSeen is how many requests of one key a limit admitted.
type CapSeen struct {
	Limit    string `json:"limit"`
	PIDs     []int  `json:"pids"`     // of the replicas
	One      int    `json:"one"`      // at one replica
	Together int    `json:"together"` // at all of them, of another key
	Restart  int    `json:"restart"`  // at the first, of that key, after all were killed and started again
}

// AtOne is the check of what one replica admits.
func AtOne(name string) string { return name + " admits at one replica" }

// AtThree is the check of what three replicas admit together.
func AtThree(name string) string { return name + " admits at three replicas" }

// Restarted is the check of what is admitted after a restart.
func Restarted(name string) string { return name + " admits after a restart" }

func judgeCaps(d api.Declared, seen json.RawMessage) ([]Check, error) {
	return decide(seen, func(s CapsSeen) []Check {
		factor, again := 1, 0
		if s.Scope == limit.Memory.Name {
			factor, again = 3, s.Cap
		}
		checks := []Check{check("more was asked for than is admitted", "yes", yes(s.Asked > 3*s.Cap))}
		for _, l := range d.Limits {
			at := slices.IndexFunc(s.Limits, func(c CapSeen) bool { return c.Limit == l.Name })
			if at < 0 {
				checks = append(checks, check(l.Name, "asked", unseen))
				continue
			}
			c := s.Limits[at]
			pids := slices.Compact(slices.Sorted(slices.Values(c.PIDs)))
			checks = append(checks,
				check(l.Name+" was asked at replicas", "3", strconv.Itoa(len(pids))),
				check(AtOne(l.Name), strconv.Itoa(s.Cap), strconv.Itoa(c.One)),
				check(AtThree(l.Name), strconv.Itoa(factor*s.Cap), strconv.Itoa(c.Together)),
				check(Restarted(l.Name), strconv.Itoa(again), strconv.Itoa(c.Restart)))
		}
		return checks
	})
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// LimitKeysSeen is whether a request has a bucket of its own that differs in one
// thing from those that used a bucket up.
type LimitKeysSeen struct {
	Turns []TurnSeen `json:"turns"`
}

// A TurnSeen is one such request.
type TurnSeen struct {
	Limit    string `json:"limit"`
	Differs  string `json:"differs"`
	Admitted bool   `json:"admitted"`
}

// What requests differ in.
const (
	ByNothing = "nothing"
	ByPort    = "port"
	ByHeader  = "forged headers"
	BySecret  = "secret of the key"
	ByAddress = "address"
	ByKey     = "key"
)

// Differences are all of them.
var Differences = []string{ByNothing, ByPort, ByHeader, BySecret, ByAddress, ByKey}

// Turned is the check of a limit and a difference.
func Turned(name, differs string) string {
	return name + " admits a request with another " + differs
}

func judgeLimitKeys(d api.Declared, seen json.RawMessage) ([]Check, error) {
	return decide(seen, func(s LimitKeysSeen) []Check {
		var checks []Check
		for _, l := range d.Limits {
			for _, differs := range Differences {
				if differs == BySecret && l.Key == limit.Address.Name {
					continue // covered by another key
				}
				want := differs == ByAddress && l.Key == limit.Address.Name || differs == ByKey && l.Key == limit.Actor.Name
				got := unseen
				for _, t := range s.Turns {
					if t.Limit == l.Name && t.Differs == differs {
						got = yes(t.Admitted)
					}
				}
				checks = append(checks, check(Turned(l.Name, differs), yes(want), got))
			}
		}
		return checks
	})
}

// IsolationSeen is what other limits say once one is used up.
type IsolationSeen struct {
	Pairs []PairSeen `json:"pairs"`
}

// A PairSeen is a request that passes one limit and not the other, whose key's
// bucket is used up.
type PairSeen struct {
	Used     string `json:"used"`
	Asked    string `json:"asked"`
	Admitted bool   `json:"admitted"`
}

// Apart is the check of a pair of limits.
func Apart(used, asked string) string { return asked + " admits while " + used + " is used up" }

func judgeIsolation(d api.Declared, seen json.RawMessage) ([]Check, error) {
	return decide(seen, func(s IsolationSeen) []Check {
		var checks []Check
		for _, used := range d.Limits {
			for _, asked := range d.Limits {
				if used.Name == asked.Name {
					continue
				}
				got := unseen
				for _, p := range s.Pairs {
					if p.Used == used.Name && p.Asked == asked.Name {
						got = yes(p.Admitted)
					}
				}
				checks = append(checks, check(Apart(used.Name, asked.Name), "yes", got))
			}
		}
		return checks
	})
}

// WaitsSeen is what refused requests were told to wait, and what came of it.
type WaitsSeen struct {
	Waits []WaitSeen `json:"waits"`
}

// A WaitSeen is one refusal.
type WaitSeen struct {
	Limit  string  `json:"limit"`
	Told   float64 `json:"told_seconds"`
	Header int     `json:"retry_after"`      // the header, in whole seconds
	Early  bool    `json:"admitted_early"`   // at six tenths of it
	Late   bool    `json:"admitted_in_time"` // once it had passed
}

// TooEarly is the check of a request that does not wait long enough.
func TooEarly(name string) string { return name + " admits before the time that it told" }

// InTime is the check of one that does.
func InTime(name string) string { return name + " admits after the time that it told" }

func judgeWaits(d api.Declared, seen json.RawMessage) ([]Check, error) {
	return decide(seen, func(s WaitsSeen) []Check {
		var checks []Check
		for _, l := range d.Limits {
			early, late, header := unseen, unseen, unseen
			for _, w := range s.Waits {
				if w.Limit == l.Name && w.Told > 0 {
					early, late = yes(w.Early), yes(w.Late)
					header = yes(float64(w.Header) >= w.Told && float64(w.Header) < w.Told+1)
				}
			}
			checks = append(checks, check(TooEarly(l.Name), "no", early), check(InTime(l.Name), "yes", late),
				check(l.Name+" says it in the header Retry-After, rounded up", "yes", header))
		}
		return checks
	})
}
