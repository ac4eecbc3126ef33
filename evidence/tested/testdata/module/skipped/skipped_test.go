package skipped

import "testing"

func TestSkipsItself(t *testing.T) {
	if testing.Short() || len(t.Name()) > 0 {
		t.Skip("not today")
	}
	t.Error("it ran")
}

func TestSkipsEverySubtest(t *testing.T) {
	t.Run("a", func(t *testing.T) {
		if t.Name() != "" {
			t.SkipNow()
		}
		t.Error("it ran")
	})
	t.Run("b", func(t *testing.T) {
		t.Run("c", func(t *testing.T) {
			if t.Name() != "" {
				t.SkipNow()
			}
			t.Error("it ran")
		})
	})
}
