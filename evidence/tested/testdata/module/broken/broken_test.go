package broken

import "testing"

func TestBuilds(t *testing.T) { t.Error(undeclared) }
