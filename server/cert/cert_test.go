package cert_test

import (
	"math/big"
	"slices"
	"strings"
	"testing"

	"certctl/server/cert"
	"certctl/server/pg/pgtest"
)

func TestSerialHasOneForm(t *testing.T) {
	for range 1000 {
		n := cert.NewSerial()
		text := cert.Serial(n)
		if len(text) != 32 || n.Sign() <= 0 {
			t.Fatalf("the serial %s", text)
		}
		for _, form := range []string{text, strings.ToUpper(text), "0x" + text, "00" + text, colons(text)} {
			back, ok := cert.ParseSerial(form)
			if !ok || cert.Serial(back) != text {
				t.Errorf("%s is read as %v", form, back)
			}
		}
	}
	// Of one octet, and of an odd number of digits.
	for _, n := range []int64{1, 0x80, 0xabc} {
		text := cert.Serial(big.NewInt(n))
		if back, ok := cert.ParseSerial(text); !ok || back.Int64() != n || len(text)%2 != 0 {
			t.Errorf("%d is written as %s and read as %v", n, text, back)
		}
	}
	for _, bad := range []string{"", "0", "00", "-1", "xyz", "+1", " 1", strings.Repeat("f", 42), strings.Repeat("0", 65), "1_0"} {
		if n, ok := cert.ParseSerial(bad); ok {
			t.Errorf("%q is read as %v", bad, n)
		}
	}
}

func colons(s string) string {
	var parts []string
	for pair := range slices.Chunk([]byte(s), 2) {
		parts = append(parts, string(pair))
	}
	return strings.Join(parts, ":")
}

func TestIDsAreDistinctAndInOrder(t *testing.T) {
	seen := map[string]bool{}
	last := ""
	for range 10000 {
		id := cert.NewID("crt")
		if seen[id] {
			t.Fatalf("%s was made twice", id)
		}
		seen[id] = true
		if id[:13] < last {
			t.Errorf("%s comes after %s", id, last)
		}
		last = id[:13] // the time
	}
}

// The rows say which moves there are; a function of the schema refuses others.
func TestStatesAreThoseOfTheDatabase(t *testing.T) {
	db := pgtest.Tx(t)
	moves := 0
	for _, from := range cert.States() {
		for _, to := range cert.States() {
			var may bool
			if err := db.QueryRow(t.Context(), `select certificate_may_move($1, $2)`, from.Name, to.Name).Scan(&may); err != nil {
				t.Fatal(err)
			}
			want := from == to || slices.Contains(from.Moves, to.Name)
			if may != want {
				t.Errorf("from %s to %s: the database says %v", from.Name, to.Name, may)
			}
			if may {
				moves++
			}
		}
		for _, m := range from.Moves {
			if !slices.Contains(cert.StateNames(), m) {
				t.Errorf("%s moves to %s, which is no state", from.Name, m)
			}
		}
	}
	if moves <= len(cert.States()) {
		t.Error("there is no move")
	}
}

func TestTagsAreBounded(t *testing.T) {
	many := map[string]string{}
	for i := range 51 {
		many["k"+strings.Repeat("x", i)] = ""
	}
	for name, tags := range map[string]map[string]string{
		"too many": many, "an empty key": {"": "a"}, "a key in upper case": {"A": "a"}, "a long key": {strings.Repeat("a", 64): ""},
		"a long value": {"a": strings.Repeat("ä", 256)}, "a value that is no text": {"a": "\xff"},
	} {
		if cert.CheckTags(tags) == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if err := cert.CheckTags(map[string]string{"team/cost-centre": strings.Repeat("ä", 255)}); err != nil {
		t.Error(err)
	}
}
