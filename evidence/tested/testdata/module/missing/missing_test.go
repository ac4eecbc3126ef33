package missing

import "testing"

func TestSomethingElse(t *testing.T) { t.Error("nobody asked") }
