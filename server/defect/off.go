//go:build !defects

package defect

import "time"

// On reports whether the build has defects.
const On = false

func clockOffset() time.Duration { return 0 }

// Is reports whether the replica runs with a defect. Ask On first: only a constant
// leaves nothing of the name in the program.
func Is(Name) bool { return false }
