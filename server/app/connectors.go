package app

import (
	"certctl/server/issuer"
	"certctl/server/issuer/local"
	"certctl/server/notify"
	"certctl/server/notify/email"
	"certctl/server/notify/webhook"
)

// issuerTypes are the kinds of issuer that are built in.
var issuerTypes = []issuer.Type{local.Type}

// channelTypes are the kinds of channel that are built in.
var channelTypes = []notify.Type{email.Type, webhook.Type}
