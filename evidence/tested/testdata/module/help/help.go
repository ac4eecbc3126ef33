// Package help is what tests share.
package help

import "testing"

func Equal[T comparable](t testing.TB, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("got %v, want %v", got, want)
	}
}

// Say fails nothing.
func Say(t testing.TB, what string) {
	t.Helper()
	t.Log(what)
}
