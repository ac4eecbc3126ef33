package limit

import (
	"time"

	"certctl/server/config"
)

const refused = "A request is refused as unavailable: what it would need is in the same database."

// The limits.
var (
	HTTPAddress = limits.Add(&Limit{
		Name:      "http-address",
		Does:      "keeps one caller from having the server look up keys, or anything else, faster than this; before anybody is authenticated",
		Key:       Address,
		Algorithm: TokenBucket, Cap: config.HTTPAddressBurst, Rate: config.HTTPAddressRate,
		Failure: refused,
	})
	HTTPActor = limits.Add(&Limit{
		Name:      "http-actor",
		Does:      "keeps one API key from taking the server from the others, wherever it is used from",
		Key:       Actor,
		Algorithm: TokenBucket, Cap: config.HTTPActorBurst, Rate: config.HTTPActorRate,
		Failure: refused,
	})
	BootstrapAttempts = limits.Add(&Limit{
		Name:      "bootstrap-attempts",
		Does:      "slows guessing of the bootstrap token; attempts that succeed count too",
		Key:       Address,
		Algorithm: SlidingWindow, Cap: config.BootstrapPerHour, Window: time.Hour, Durable: true,
		Failure: refused,
	})
	CertExport = limits.Add(&Limit{
		Name:      "cert-export",
		Does:      "slows the copying of the inventory, and of keys that wait for their download, with a stolen API key",
		Key:       Actor,
		Algorithm: SlidingWindow, Cap: config.ExportsPerHour, Window: time.Hour, Durable: true,
		Failure: refused,
	})
)
