package store_test

import (
	"context"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"certctl/server/cert"
	"certctl/server/fault"
	"certctl/server/pg"
	"certctl/server/pg/pgtest"
	"certctl/server/store"
)

// seeded are names of certificates that many makes.
const (
	active   = "crt_00000000001"
	expired  = "crt_00000000009"
	archived = "crt_00000000019"
	pending  = "crt_00000000029"
)

func exec(t testing.TB, q pg.Q, sql string, args ...any) {
	t.Helper()
	if tag, err := q.Exec(t.Context(), sql, args...); err != nil || tag.RowsAffected() == 0 {
		t.Fatalf("%s: %d rows (%v)", sql, tag.RowsAffected(), err)
	}
}

func TestVersionsSayWhatWasRevoked(t *testing.T) {
	t.Parallel()
	tx := pgtest.Tx(t)
	seed(t, tx, 30)
	exec(t, tx, `
		insert into certificate_versions (certificate_id, number, issuer_id, serial, fingerprint, not_before, not_after, key_algorithm, der, chain_id, job_id)
		select certificate_id, 2, 'iss_3', '20', sha256('two'), not_before, not_after, key_algorithm, '\x3002', chain_id, 'job_1'
		from certificate_versions where certificate_id = $1`, active)
	exec(t, tx, `
		insert into revocations (issuer_id, serial, certificate_id, number, reason, revoked_at, invalidity_at, not_after, listed, entry)
		select issuer_id, serial, certificate_id, number, 1, '2024-02-03 04:05:06Z', '2024-01-02Z', not_after, true, ''
		from certificate_versions where certificate_id = $1 and number = 1`, active)
	versions, err := store.Versions(t.Context(), tx, active)
	if err != nil || len(versions) != 2 {
		t.Fatalf("there are %d versions (%v)", len(versions), err)
	}
	two, one := versions[0], versions[1]
	if two.Number != 2 || two.Serial != "20" || two.IssuerID != "iss_3" || !reflect.DeepEqual(two.JobID, new("job_1")) ||
		two.RevokedAt != nil || two.Reason != nil || two.InvalidityAt != nil {
		t.Errorf("the second is %+v", two)
	}
	at := func(t *time.Time) string {
		if t == nil {
			return ""
		}
		return t.UTC().Format(time.DateTime)
	}
	if one.Number != 1 || one.JobID != nil || at(one.RevokedAt) != "2024-02-03 04:05:06" ||
		!reflect.DeepEqual(one.Reason, &cert.KeyCompromise.Name) || at(one.InvalidityAt) != "2024-01-02 00:00:00" {
		t.Errorf("the first is %+v", one)
	}
	if len(one.Fingerprint) != 64 || one.Fingerprint == two.Fingerprint {
		t.Errorf("the fingerprints are %s and %s", one.Fingerprint, two.Fingerprint)
	}
}

func TestVersionDERIsTheCurrentOneUnlessAnotherIsNamed(t *testing.T) {
	t.Parallel()
	tx := pgtest.Tx(t)
	seed(t, tx, 30)
	exec(t, tx, `
		insert into certificate_versions (certificate_id, number, issuer_id, serial, fingerprint, not_before, not_after, key_algorithm, der, chain_id)
		select certificate_id, 2, issuer_id, '20', sha256('two'), not_before, not_after, key_algorithm, '\x3009', chain_id
		from certificate_versions where certificate_id = $1`, active)
	exec(t, tx, `update certificates set version = 2 where id = $1`, active)
	for number, want := range map[int]string{0: "\x30\x09", 2: "\x30\x09", 1: strings.Repeat("\x30", 600)} {
		d, err := store.VersionDER(t.Context(), tx, active, number)
		if err != nil || string(d.Leaf) != want || len(d.Chain) != 2 || string(d.Chain[1]) != "\x30\x02" {
			t.Errorf("version %d is %+v (%v)", number, d, err)
		}
	}
	for id, number := range map[string]int{active: 3, pending: 0, "crt_none": 0} {
		if _, err := store.VersionDER(t.Context(), tx, id, number); fault.Of(err) != fault.NotFound {
			t.Errorf("version %d of %s: %v", number, id, err)
		}
	}
}

func TestExpireMarksWhatHasEnded(t *testing.T) {
	t.Parallel()
	tx := pgtest.Tx(t)
	seed(t, tx, 30)
	held := "crt_00000000002"
	exec(t, tx, `update certificates set state = 'held' where id = $1`, held)
	exec(t, tx, `update certificates set not_after = clock_timestamp() - interval '1 second' where id = any($1)`, []string{active, held, archived})
	exec(t, tx, `update certificates set not_after = clock_timestamp() - interval '1 hour' where id = $1`, "crt_00000000003")
	exec(t, tx, `update certificates set not_after = clock_timestamp() + interval '10 minutes' where id = $1`, "crt_00000000005")
	revoked := "crt_00000000004"
	exec(t, tx, `update certificates set state = 'revoked', not_after = clock_timestamp() - interval '1 hour' where id = $1`, revoked)
	first, err := store.Expire(t.Context(), tx, 1)
	if err != nil || len(first) != 1 || first[0].ID != "crt_00000000003" {
		t.Fatalf("the first to end is %+v (%v)", first, err)
	}
	rest, err := store.Expire(t.Context(), tx, 10)
	if err != nil || len(rest) != 1 {
		t.Fatalf("then %+v (%v)", rest, err)
	}
	for _, id := range []string{active, "crt_00000000003"} {
		if c, err := store.CertificateByID(t.Context(), tx, id); err != nil || c.State != "expired" || c.Revision != 2 {
			t.Errorf("%s is %s, revision %d (%v)", id, c.State, c.Revision, err)
		}
	}
	for id, state := range map[string]string{revoked: "revoked", held: "held", archived: "archived", pending: "pending", "crt_00000000005": "active"} {
		if c, err := store.CertificateByID(t.Context(), tx, id); err != nil || c.State != state {
			t.Errorf("%s is %s (%v)", id, c.State, err)
		}
	}
	if again, err := store.Expire(t.Context(), tx, 10); err != nil || len(again) != 0 {
		t.Errorf("marked again: %+v (%v)", again, err)
	}
	if e := rest[slices.IndexFunc(rest, func(e store.Ended) bool { return e.ID == active })]; e.Name != "name-00-000000001" || e.Version != 1 || e.Serial != "100000000001" || e.IssuerID != "iss_2" || e.NotAfter.IsZero() {
		t.Errorf("it is told as %+v", e)
	}
}

// A renewal that commits between the look at the row and its lock keeps the
// certificate from being marked, and whoever holds the lock is not waited for.
func TestExpireLeavesWhatIsBeingRenewed(t *testing.T) {
	t.Parallel()
	db := pgtest.DB(t)
	seed(t, db, 8)
	exec(t, db, `update certificates set not_after = clock_timestamp() - interval '1 second' where id = any($1)`, []string{active, "crt_00000000002"})
	err := pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error {
		if _, err := store.LockCertificate(t.Context(), tx, active); err != nil {
			return err
		}
		waitless, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		ended, err := store.Expire(waitless, db, 10)
		if err != nil || len(ended) != 1 || ended[0].ID != "crt_00000000002" {
			t.Errorf("marked %+v (%v)", ended, err)
		}
		_, err = tx.Exec(t.Context(), `update certificates set not_after = clock_timestamp() + interval '1 day' where id = $1`, active)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if ended, err := store.Expire(t.Context(), db, 10); err != nil || len(ended) != 0 {
		t.Errorf("marked %+v (%v)", ended, err)
	}
}

func TestKeysOfEndedVersionsAreErased(t *testing.T) {
	t.Parallel()
	tx := pgtest.Tx(t)
	seed(t, tx, 30)
	exec(t, tx, `insert into certificate_keys (certificate_id, number, sealed, not_after) select certificate_id, number, '\x01', not_after from certificate_versions`)
	var all int
	if err := tx.QueryRow(t.Context(), `select count(*) from certificate_keys`).Scan(&all); err != nil {
		t.Fatal(err)
	}
	// Of those that many makes, two in thirty have ended and have a version.
	for _, want := range []int{1, 1, 0} {
		if n, err := store.EraseEndedKeys(t.Context(), tx, 1); err != nil || n != want {
			t.Errorf("erased %d at once, want %d (%v)", n, want, err)
		}
	}
	rows, _ := tx.Query(t.Context(), `
		select v.not_after <= clock_timestamp() from certificate_keys k
		join certificate_versions v on v.certificate_id = k.certificate_id and v.number = k.number`)
	left, err := pgx.CollectRows(rows, pgx.RowTo[bool])
	if err != nil || len(left) != all-2 || slices.Contains(left, true) {
		t.Errorf("%d of %d are left: %v (%v)", len(left), all, left, err)
	}
}

func TestStatsCountWhatIsThere(t *testing.T) {
	t.Parallel()
	tx := pgtest.Tx(t)
	seed(t, tx, 60)
	exec(t, tx, `update certificates set not_after = clock_timestamp() + interval '200 days' where state = 'active'`)
	for id, ends := range map[string]string{
		"crt_00000000001": "-1 minute", "crt_00000000002": "1 hour", "crt_00000000003": "23 hours", "crt_00000000004": "25 hours",
		"crt_00000000005": "7 days", "crt_00000000006": "29 days", "crt_00000000007": "89 days", "crt_00000000008": "91 days",
	} {
		exec(t, tx, `update certificates set not_after = clock_timestamp() + $2::text::interval where id = $1`, id, ends)
	}
	exec(t, tx, `update certificates set state = 'held', not_after = clock_timestamp() + interval '1 hour' where id = 'crt_00000000010'`)
	exec(t, tx, `
		insert into jobs (id, kind, certificate_id, args, priority, max_attempts, retry_every, timeout, created_by, state, finished_at)
		select 'job_' || n, case when n < 4 then 'renew' else 'issue' end, 'crt_0000000000' || n, '{}', 1, 1, '1 s', '1 s', 'key',
			case when n < 3 then 'done' else 'pending' end, case when n < 3 then clock_timestamp() end
		from generate_series(1, 5) n`)
	exec(t, tx, `
		insert into certificate_versions (certificate_id, number, issuer_id, serial, fingerprint, not_before, not_after, key_algorithm, der, chain_id, created_at)
		select certificate_id, 2, issuer_id, '20', sha256('two'), not_before, not_after, key_algorithm, der, chain_id,
			date_trunc('day', clock_timestamp(), 'UTC') - interval '4 days'
		from certificate_versions where certificate_id = $1`, active)
	s, err := store.ReadStats(t.Context(), tx, 5)
	if err != nil {
		t.Fatal(err)
	}
	states := map[string]int64{"pending": 2, "failed": 0, "active": 53, "expired": 2, "held": 1, "revoked": 0, "archived": 2}
	check := func(what string, got, want any) {
		t.Helper()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	check("by state", s.ByState, states)
	check("expired", s.Expired, int64(2))
	check("by environment", s.ByEnvironment, map[string]int64{"prod": 15, "test": 14, "dev": 29})
	check("by issuer", s.ByIssuer, []store.IssuerCount{{ID: "iss_1", Name: "issuer 1", Count: 20}, {ID: "iss_3", Name: "issuer 3", Count: 20}, {ID: "iss_2", Name: "issuer 2", Count: 18}})
	ending := []store.EndingCount{{Days: 0, Count: 1}, {Days: 1, Count: 3}, {Days: 7, Count: 5}, {Days: 14, Count: 5}, {Days: 30, Count: 6}, {Days: 60, Count: 6}, {Days: 90, Count: 7}}
	check("ending", s.Ending, ending)
	check("jobs", s.Jobs, []store.JobCount{{Kind: "issue", State: "pending", Count: 2}, {Kind: "renew", State: "done", Count: 2}, {Kind: "renew", State: "pending", Count: 1}})
	var days []string
	var issued int64
	for _, d := range s.Issued {
		days, issued = append(days, d.Day), issued+d.Count
	}
	var today string
	if err := tx.QueryRow(t.Context(), `select (clock_timestamp() at time zone 'UTC')::date::text`).Scan(&today); err != nil {
		t.Fatal(err)
	}
	if len(days) != 5 || days[4] != today || !slices.IsSorted(days) || s.Issued[0].Count != 1 || issued != 59 {
		t.Errorf("issued %v, today is %s", s.Issued, today)
	}
	counts, err := store.StateCounts(t.Context(), tx)
	if err != nil {
		t.Fatal(err)
	}
	check("states alone", counts, states)
	left, err := store.Ending(t.Context(), tx)
	if err != nil {
		t.Fatal(err)
	}
	want := map[int]int64{}
	for _, e := range ending[1:] {
		want[e.Days] = e.Count
	}
	check("ending alone", left, want)
	t.Run("days are those of UTC, wherever the session is", func(t *testing.T) {
		for _, zone := range []string{"Pacific/Kiritimati", "Etc/GMT+1", "Etc/GMT+12"} {
			if _, err := tx.Exec(t.Context(), `select set_config('timezone', $1, true)`, zone); err != nil {
				t.Fatal(err)
			}
			far, err := store.ReadStats(t.Context(), tx, 5)
			if err != nil || !reflect.DeepEqual(far.Issued, s.Issued) {
				t.Errorf("issued %v, want %v (%v)", far.Issued, s.Issued, err)
			}
		}
	})
}

func TestStatsOfNothing(t *testing.T) {
	t.Parallel()
	s, err := store.ReadStats(t.Context(), pgtest.Tx(t), 1)
	if err != nil || len(s.Issued) != 1 || s.Issued[0].Count != 0 || len(s.ByState) != len(cert.States()) || s.ByIssuer == nil || s.ByEnvironment == nil || s.Jobs == nil {
		t.Errorf("%+v (%v)", s, err)
	}
}

// Behind a pooler nothing is prepared, and pgx learns types from Go's alone.
func TestCertificatesWithoutPreparedStatements(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	sep := "?"
	if strings.Contains(url, "?") {
		sep = "&"
	}
	db := pgtest.Pool(t, url+sep+"default_query_exec_mode=exec")
	seed(t, pgtest.Pool(t, url), 300)
	for name, f := range singles() {
		if _, err := walk(t.Context(), db, f, "", 100); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, sort := range store.CertSorts() {
		if _, err := walk(t.Context(), db, store.CertFilter{}, sort, 100); err != nil {
			t.Errorf("in the order %s: %v", sort, err)
		}
	}
	c, err := store.CertificateByID(t.Context(), db, active)
	if err != nil || c.Tags["n"] != "1" || len(c.SANs) != 2 || c.KeySource != "server" {
		t.Fatalf("%+v (%v)", c, err)
	}
	c.Tags, c.TeamID, c.PolicyID = map[string]string{"a": "b"}, nil, "pol_3"
	if err := store.LockPolicy(t.Context(), db, "pol_3"); err != nil {
		t.Error(err)
	}
	if c, err = store.ChangeCertificate(t.Context(), db, c); err != nil || c.Tags["a"] != "b" || c.TeamID != nil || c.RenewAt != nil {
		t.Errorf("%+v (%v)", c, err)
	}
	if v, err := store.Versions(t.Context(), db, active); err != nil || len(v) != 1 {
		t.Errorf("%+v (%v)", v, err)
	}
	if d, err := store.VersionDER(t.Context(), db, active, 0); err != nil || len(d.Chain) != 2 {
		t.Errorf("%+v (%v)", d, err)
	}
	if err := store.ArchiveCertificate(t.Context(), db, active); err != nil {
		t.Error(err)
	}
	if _, err := store.Expire(t.Context(), db, 10); err != nil {
		t.Error(err)
	}
	if _, err := store.EraseEndedKeys(t.Context(), db, 10); err != nil {
		t.Error(err)
	}
	if s, err := store.ReadStats(t.Context(), db, 30); err != nil || s.ByState["archived"] != 11 {
		t.Errorf("%+v (%v)", s, err)
	}
	if _, err := store.StateCounts(t.Context(), db); err != nil {
		t.Error(err)
	}
	if _, err := store.Ending(t.Context(), db); err != nil {
		t.Error(err)
	}
}
