package pg

import (
	"encoding/base64"
	"strings"
	"time"

	"certctl/server/fault"
)

// Cursor is where a row stands in a list that is ordered by a time and an id.
func Cursor(at time.Time, id string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(at.UTC().Format(time.RFC3339Nano) + " " + id))
}

// Position reads the cursor that a caller gives as query.after. Without one it is
// before the newest row.
func Position(cursor string) (at, id string, err error) {
	if cursor == "" {
		return "infinity", "", nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(cursor)
	if err == nil {
		at, id, _ = strings.Cut(string(raw), " ")
		_, err = time.Parse(time.RFC3339Nano, at)
	}
	if err != nil || id == "" {
		return "", "", fault.New(fault.Invalid, "query.after is not a page's next; give the next of the page before as it was")
	}
	return at, id, nil
}
