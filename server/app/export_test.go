package app

import "certctl/server/notify"

// AddChannelType has servers that are made from now on know a type of channel.
func AddChannelType(t notify.Type) { channelTypes = append(channelTypes, t) }
