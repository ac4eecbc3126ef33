//go:build defects

package defect

import (
	"os"
	"sync"
	"time"
)

// On reports whether the build has defects.
const On = true

// clockOffset is how far the replica's clock is from the machine's.
var clockOffset = sync.OnceValue(func() time.Duration {
	d, err := time.ParseDuration(os.Getenv(ClockOffset))
	if err != nil {
		return 0
	}
	return d
})

// Is reports whether the replica runs with a defect. Ask On first: only a constant
// leaves nothing of the name in the program.
func Is(n Name) bool { return n == current() }

var current = sync.OnceValue(func() Name { return Name(os.Getenv(Switch)) })
