//go:build !defects

package defect

import "time"

// On reports whether the build has defects.
const On = false

func clockOffset() time.Duration { return 0 }

// Is reports whether the replica runs with a defect.
func Is(Name) bool { return false }
