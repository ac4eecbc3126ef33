package app

import (
	"certctl/server/issuer"
	"certctl/server/issuer/local"
)

// issuerTypes are the kinds of issuer that are built in.
var issuerTypes = []issuer.Type{local.Type}
