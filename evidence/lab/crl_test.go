package lab_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"io"
	"math/big"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/evidence/lab"
	"certctl/server/api"
	"certctl/server/audit"
	"certctl/server/cert"
	"certctl/server/client"
	"certctl/server/config"
	"certctl/server/issuer"
	"certctl/server/pg/pgtest"
)

// listKills is how often a replica is killed while it makes a list: a few times
// with every run of the tests, as often as the variable says otherwise.
func listKills(t *testing.T) int {
	n, err := strconv.Atoi(os.Getenv("CERTCTL_TEST_LIST_KILLS"))
	if err != nil {
		n = 25
	}
	t.Logf("%d kills", n)
	return n
}

// The number of a revocation list never goes back, and every list that is
// served parses and verifies, however often the replica that makes it is killed.
func TestListsSurviveTheDeathOfTheirMakers(t *testing.T) {
	r := laboratory(t).on(t)
	reader := r.run(map[string]string{config.CRLGenerationEvery.Name: "1h"})
	c := r.admin()
	if _, err := lab.Estate(t.Context(), c, "lists", map[string]any{"common_name": "Root of the lists"}); err != nil {
		t.Fatal(err)
	}
	issuers, err := client.Do(t.Context(), c, api.ListIssuers, &api.ByName{Limit: 10})
	if err != nil || len(issuers.Items) != 1 {
		t.Fatalf("%+v %v", issuers, err)
	}
	id := issuers.Items[0].ID
	r.revoked(id, 10000)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	der, _ := r.fetch(reader, strings.ReplaceAll(api.GetCA.Path, "{issuer}", id))
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}

	ctx, stop := context.WithCancel(t.Context())
	asked := make(chan struct{})
	go func() { // there is always something to make
		defer close(asked)
		for ctx.Err() == nil {
			_, _ = r.pool.Exec(ctx, `insert into crl_requests (issuer_id) values ($1)`, id)
			select {
			case <-ctx.Done():
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	defer func() { stop(); <-asked }()

	// How long a list takes here says when to kill.
	first := r.run(map[string]string{config.CRLGenerationEvery.Name: "10ms"})
	pgtest.Eventually(t, "there are lists", func() bool {
		return ask[int64](t, r.pool, `select count(*) from audit_events where action = $1`, audit.CRLSigned.Name) > 3
	})
	if err := first.Kill(); err != nil {
		t.Fatal(err)
	}
	took := ask[time.Duration](t, r.pool, `select took from crls`)
	var newest int64
	lists, inTheMiddle := map[int64]bool{}, 0
	for range listKills(t) {
		maker, err := r.Server(t.Context(), r.url, map[string]string{config.CRLGenerationEvery.Name: "10ms"})
		if err != nil {
			t.Fatal(err)
		}
		var making bool
		for range 200 {
			making = ask[bool](t, r.pool, `
				select exists (
					select from pg_locks l join pg_stat_activity a using (pid)
					where a.application_name = $1 and l.relation = 'crls'::regclass and l.mode = 'RowShareLock')`, "certctl "+maker.Name)
			if making {
				break
			}
		}
		<-time.After(time.Duration(rand.Int64N(int64(3 * took)))) // somewhere in it, or in a later one
		if making {
			inTheMiddle++
		}
		if err := maker.Kill(); err != nil {
			t.Fatal(err)
		}
		list, number := r.fetch(reader, strings.ReplaceAll(api.GetCRL.Path, "{issuer}", id))
		if number < newest {
			t.Fatalf("the list %d is served after the list %d", number, newest)
		}
		newest = number
		if list == nil || lists[number] {
			continue
		}
		lists[number] = true
		cmd := exec.CommandContext(t.Context(), "openssl", "crl", "-inform", "DER", "-noout", "-crlnumber", "-CAfile", ca)
		cmd.Stdin = bytes.NewReader(list)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "verify OK") || !strings.Contains(string(out), "crlNumber=0x"+strings.ToUpper(cert.Serial(big.NewInt(number)))) {
			t.Fatalf("the list %d: %v %s", number, err, out)
		}
	}
	if len(lists) < 3 || inTheMiddle == 0 {
		t.Errorf("%d different lists were served, and %d makers killed while they made one", len(lists), inTheMiddle)
	}
	t.Logf("%d lists, %d kills in the middle", len(lists), inTheMiddle)
	pgtest.Eventually(t, "no transaction of a killed replica is left", func() bool {
		return ask[int64](t, r.pool, `
			select count(*) from pg_stat_activity where application_name like 'certctl lab-%' and application_name <> $1 and datname = current_database()`,
			"certctl "+reader.Name) == 0
	})
}

// fetch gets what relying parties get, with the number that its tag says. There
// is none before the first list.
func (r *replicas) fetch(from *lab.Replica, path string) ([]byte, int64) {
	r.t.Helper()
	c, err := from.Client("")
	if err != nil {
		r.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, c.URL+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	res, err := c.HTTP.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	if res.StatusCode == http.StatusServiceUnavailable && res.Header.Get("Retry-After") != "" {
		return nil, 0
	}
	if res.StatusCode != http.StatusOK {
		r.t.Fatalf("%s: status %d: %s", path, res.StatusCode, body)
	}
	number, _ := strconv.ParseInt(strings.Trim(res.Header.Get("ETag"), `"`), 10, 64)
	return body, number
}

// revoked puts n revoked versions on record that nobody signed: a list looks at
// their entries alone.
func (r *replicas) revoked(issuerID string, n int) {
	r.t.Helper()
	r.exec(`
		insert into certificates (id, name, common_name, sans, environment, tags, owner_id, issuer_id, profile_id, policy_id,
			key_algorithm, validity_seconds, created_by)
		select 'revoked', 'revoked', '', '{}', '', '{}', (select min(id) from owners), $1, (select min(id) from profiles),
			(select min(id) from renewal_policies), 'none', 1, 'test'`, issuerID)
	r.exec(`insert into chains values ('\x00', '{}') on conflict do nothing`)
	var versions, revocations [][]any
	now := time.Now().Truncate(time.Second)
	for i := range n {
		serial := cert.NewSerial()
		entry, err := issuer.Entry(serial, now, cert.KeyCompromise, nil)
		if err != nil {
			r.t.Fatal(err)
		}
		text := cert.Serial(serial)
		versions = append(versions, []any{"revoked", i + 1, issuerID, text, make([]byte, 32), now, now.AddDate(1, 0, 0), "none", []byte{}, []byte{0}})
		revocations = append(revocations, []any{issuerID, text, "revoked", i + 1, cert.KeyCompromise.Code, now, now.AddDate(1, 0, 0), true, entry})
	}
	for _, c := range []struct {
		table   string
		columns []string
		rows    [][]any
	}{
		{
			"certificate_versions",
			[]string{"certificate_id", "number", "issuer_id", "serial", "fingerprint", "not_before", "not_after", "key_algorithm", "der", "chain_id"},
			versions,
		},
		{
			"revocations",
			[]string{"issuer_id", "serial", "certificate_id", "number", "reason", "revoked_at", "not_after", "listed", "entry"},
			revocations,
		},
	} {
		if _, err := r.pool.CopyFrom(r.t.Context(), pgx.Identifier{c.table}, c.columns, pgx.CopyFromRows(c.rows)); err != nil {
			r.t.Fatal(err)
		}
	}
}
