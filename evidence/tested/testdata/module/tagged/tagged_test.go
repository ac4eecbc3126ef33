//go:build slow

package tagged

import "testing"

func TestSlowly(t *testing.T) {
	if len(t.Name()) == 0 {
		t.Error("it is not")
	}
}
