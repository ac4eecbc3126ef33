package app_test

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"certctl/server/api"
	"certctl/server/auth"
	"certctl/server/client"
	"certctl/server/config"
	"certctl/server/fault"
	"certctl/server/limit"
	"certctl/server/metric"
	"certctl/server/pg/pgtest"
	"certctl/server/web"
)

var rateLimit = regexp.MustCompile(`^"([a-z-]+)";r=(\d+);t=(\d+)$`)

func TestRefusedRequestIsToldWhenToComeBack(t *testing.T) {
	t.Parallel()
	r := run(t, config.Values{config.HTTPActorBurst.Name: 3, config.HTTPActorRate.Name: 0.5})
	var last answer
	for n := range 4 {
		last = r.raw(t, http.MethodGet, api.ListTeams.Path, "", "")
		policy, said := last.header.Values("RateLimit-Policy"), last.header.Values("RateLimit")
		if len(said) != 2 || len(policy) != 2 || policy[1] != fmt.Sprintf(`"%s";q=3;w=6`, limit.HTTPActor.Name) {
			t.Fatalf("the limits are told as %q, %q", policy, said)
		}
		m := rateLimit.FindStringSubmatch(said[1])
		if m == nil || m[1] != limit.HTTPActor.Name || m[2] != strconv.Itoa(max(0, 2-n)) {
			t.Errorf("request %d is told %q", n, said[1])
		}
	}
	var p web.Problem
	if err := json.Unmarshal([]byte(last.body), &p); err != nil {
		t.Fatal(err)
	}
	header, err := strconv.Atoi(last.header.Get("Retry-After"))
	if last.status != http.StatusTooManyRequests || p.Code != fault.Limited.Code || p.RetryAfter <= 1 || p.RetryAfter > 2 ||
		err != nil || header != int(math.Ceil(p.RetryAfter)) || !strings.Contains(p.Detail, limit.HTTPActor.Name) {
		t.Errorf("%d %v %s", last.status, last.header, last.body)
	}
	t.Run("a client waits as long as it is told", func(t *testing.T) {
		begin := time.Now()
		if _, err := client.Do(t.Context(), r.Client, api.ListTeams, &api.ByName{Limit: 1}); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin).Seconds(); took < p.RetryAfter/2 {
			t.Errorf("it took %v s", took)
		}
	})
	t.Run("one without patience does not", func(t *testing.T) {
		hasty := r.With(r.Key)
		hasty.Patience = 0
		_, err := client.Do(t.Context(), hasty, api.ListTeams, &api.ByName{Limit: 1})
		is(t, err, fault.Limited, limit.HTTPActor.Name)
	})
	t.Run("what is not limited says nothing of limits", func(t *testing.T) {
		if a := r.raw(t, http.MethodGet, api.Healthz.Path, "", ""); a.status != http.StatusOK || a.header.Get("RateLimit") != "" {
			t.Errorf("%d %v", a.status, a.header)
		}
	})
	t.Run("the metric counts it", func(t *testing.T) {
		want := fmt.Sprintf(`%s{limit="%s",outcome="refused"} `, metric.LimitDecisions.Name, limit.HTTPActor.Name)
		if lines := r.scrape(t); !slices.ContainsFunc(lines, func(line string) bool { return strings.HasPrefix(line, want) }) {
			t.Errorf("no line begins with %s", want)
		}
	})
}

// Whoever may not do something takes nothing from the limits of those who may.
func TestWhoIsRefusedOtherwiseUsesUpNoLimitAfter(t *testing.T) {
	t.Parallel()
	r := run(t, config.Values{config.HTTPActorBurst.Name: 5, config.HTTPActorRate.Name: 0.001})
	id, rest, _ := strings.Cut(strings.TrimPrefix(r.Key, "ck_"), "_")
	wrong := "ck_" + id + "_" + strings.Repeat("A", len(rest))
	for range 20 {
		if a := r.raw(t, http.MethodGet, api.ListTeams.Path, "", "", "Authorization", "Bearer "+wrong); a.status != http.StatusUnauthorized {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	for range 5 {
		if a := r.raw(t, http.MethodGet, api.ListTeams.Path, "", ""); a.status != http.StatusOK {
			t.Fatalf("guesses of its secret took from a key's limit: %d %s", a.status, a.body)
		}
	}
}

// Guessing is limited before any key is looked up.
func TestGuessesAreLimitedByAddress(t *testing.T) {
	t.Parallel()
	r := run(t, config.Values{config.HTTPAddressBurst.Name: 10, config.HTTPAddressRate.Name: 0.001})
	refused := 0
	for _, credential := range []string{"", "Bearer", "Bearer x", "Bearer ck_a_b", "Basic eDp5", "Bearer ck_" + strings.Repeat("a", 16) + "_x"} {
		for range 3 {
			a := r.raw(t, http.MethodGet, api.ListTeams.Path, "", "", "Authorization", credential)
			switch a.status {
			case http.StatusTooManyRequests:
				refused++
			case http.StatusUnauthorized:
			default:
				t.Errorf("%q: %d %s", credential, a.status, a.body)
			}
		}
	}
	if refused != 9 { // the first key was made by one of ten
		t.Errorf("%d of 18 were refused", refused)
	}
}

// Without the database nobody is told that a limit is used up.
func TestLimitsWithoutTheDatabase(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t, pgtest.URL(t))
	access := &auth.Access{DB: pool, Limiter: &limit.Limiter{DB: pool}}
	pool.Close()
	for _, secret := range []string{"nonsense", "ck_aaaaaaaaaaaaaaaa_A"} {
		if _, said, err := access.Admit(t.Context(), "192.0.2.7", secret); err == nil || len(said) > 0 || fault.Of(err) == fault.Unauthenticated {
			t.Errorf("%s: %v (%v)", secret, said, err)
		}
	}
}

func BenchmarkLimited(b *testing.B) {
	for _, scope := range limit.Scopes() {
		b.Run(scope.Name, func(b *testing.B) {
			r := run(b, config.Values{config.RateLimitScope.Name: scope.Name})
			b.SetParallelism(8)
			b.ResetTimer()
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					if _, err := client.Do(b.Context(), r.Client, api.ListTeams, &api.ByName{Limit: 1}); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
		})
	}
}
