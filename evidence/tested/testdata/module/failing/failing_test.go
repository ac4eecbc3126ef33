package failing

import "testing"

func TestFails(t *testing.T) { t.Error("as it must") }

func TestDies(t *testing.T) {
	if len(t.Name()) > 0 {
		panic("as it must")
	}
	t.Error("never")
}
