package web

import (
	"fmt"
	"math"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"certctl/server/config"
	"certctl/server/fault"
	"certctl/server/limit"
	"certctl/server/metric"
)

// Limits are those that a request to the route has to pass, in their order.
func (r *Route) Limits() []*limit.Limit {
	var all []*limit.Limit
	if r.Unlimited == "" {
		all = append(all, limit.HTTPAddress)
	}
	if r.Needs != nil {
		all = append(all, limit.HTTPActor)
	}
	return append(all, r.Besides...)
}

// ipv6Bits is how much of an address of IPv6 tells one caller from another: a
// host has a whole /64 to take addresses from.
const ipv6Bits = 64

// Address is the address that a request comes from, as limits see it: the peer's,
// or the one that proxies name. A header counts only as far as those who wrote it
// are trusted: X-Forwarded-For is read from its end, and what the first address
// there that is no proxy's claims before it is nothing.
func Address(r *http.Request, proxies []netip.Prefix) string {
	trusted := func(a netip.Addr) bool {
		return slices.ContainsFunc(proxies, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	from, ok := parseAddress(r.RemoteAddr)
	if !ok {
		return r.RemoteAddr
	}
	if trusted(from) {
		hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
		for _, hop := range slices.Backward(hops) {
			a, ok := parseAddress(strings.TrimSpace(hop))
			if !ok {
				break
			}
			if from = a; !trusted(a) {
				break
			}
		}
	}
	if from.Is6() {
		p, _ := from.Prefix(ipv6Bits) // it has as many bits
		return p.String()
	}
	return from.String()
}

// noteProxy says once that somebody whom the server does not trust forwards
// requests: all that come by it share what is meant for one address.
func (s *Server) noteProxy(r *http.Request) {
	if r.Header.Get("X-Forwarded-For") == "" {
		return
	}
	from, ok := parseAddress(r.RemoteAddr)
	if ok && !slices.ContainsFunc(s.Proxies, func(p netip.Prefix) bool { return p.Contains(from) }) {
		s.proxy.Do(func() {
			s.Log.Warn("requests come with X-Forwarded-For by a peer that is no trusted proxy; if it is yours, set "+config.TrustedProxies.Name+
				", or all its callers share the limit of one address", zap.String("peer", from.String()))
		})
	}
}

// parseAddress reads an address, with or without a port.
func parseAddress(s string) (netip.Addr, bool) {
	if host, _, err := net.SplitHostPort(s); err == nil {
		s = host
	}
	a, err := netip.ParseAddr(strings.Trim(s, "[]"))
	return a.Unmap().WithZone(""), err == nil
}

// limited tells the caller what the limits say (draft-ietf-httpapi-ratelimit-headers),
// and refuses the request if one of them does. It reports whether the request may
// go on.
func (s *Server) limited(w http.ResponseWriter, r *http.Request, said ...limit.Decision) bool {
	h := w.Header()
	for _, d := range said {
		outcome := "admitted"
		if !d.Admitted {
			outcome = "refused"
		}
		s.Metrics.Add(metric.LimitDecisions, 1, d.Terms.Name, outcome)
		h.Add("RateLimit-Policy", fmt.Sprintf(`"%s";q=%d;w=%d`, d.Terms.Name, d.Terms.Cap, wholeSeconds(d.Terms.Window())))
		h.Add("RateLimit", fmt.Sprintf(`"%s";r=%d;t=%d`, d.Terms.Name, d.Remaining, wholeSeconds(d.Reset)))
	}
	at := slices.IndexFunc(said, func(d limit.Decision) bool { return !d.Admitted })
	if at < 0 {
		return true
	}
	d := said[at]
	h.Set("Retry-After", strconv.FormatInt(max(1, wholeSeconds(d.Wait)), 10))
	s.refuse(w, r, fault.New(fault.Limited, "the limit %s is used up; try again in %s", d.Terms.Name, d.Wait.Round(time.Millisecond)),
		math.Ceil(d.Wait.Seconds()*1000)/1000)
	return false
}

func wholeSeconds(d time.Duration) int64 { return int64(math.Ceil(d.Seconds())) }

// pass asks the limits of the route that come after the first ones.
func (s *Server) pass(w http.ResponseWriter, r *http.Request, route *Route) bool {
	for _, l := range route.Besides {
		key := note(r).address
		if l.Key == limit.Actor {
			key = note(r).actorID
		}
		d, err := s.Take(r.Context(), l, key)
		if err != nil {
			s.Refuse(w, r, err)
			return false
		}
		if !s.limited(w, r, d) {
			return false
		}
	}
	return true
}
