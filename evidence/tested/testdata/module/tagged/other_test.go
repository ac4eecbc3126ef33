package tagged

import "testing"

func TestQuickly(*testing.T) {}
