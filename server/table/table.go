// Package table holds ordered sets of uniquely named rows: declarations that
// both run the server and render its reference documentation.
package table

import (
	"fmt"
	"slices"
)

// A Table is an ordered, append-only set of rows with unique names.
type Table[R any] struct {
	name func(R) string
	rows []R
	seen map[string]int
}

// By returns an empty table whose rows are identified by name.
func By[R any](name func(R) string) *Table[R] {
	return &Table[R]{name: name, seen: map[string]int{}}
}

// Add appends row and returns it, so that a declaration can name its variable.
// It panics on an empty or repeated name: both are mistakes in the source.
func (t *Table[R]) Add(row R) R {
	n := t.name(row)
	if _, twice := t.seen[n]; n == "" || twice {
		panic(fmt.Sprintf("table: %T %q is unnamed or declared twice", row, n))
	}
	t.seen[n] = len(t.rows)
	t.rows = append(t.rows, row)
	return row
}

// Rows returns the rows in declaration order.
func (t *Table[R]) Rows() []R { return slices.Clone(t.rows) }

// Row returns the row with the given name.
func (t *Table[R]) Row(name string) (row R, ok bool) {
	i, ok := t.seen[name]
	if ok {
		row = t.rows[i]
	}
	return row, ok
}

// Edits is the number of edits between two names (Levenshtein), by which a
// mistyped one finds the row that was meant.
func Edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
