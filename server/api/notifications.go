package api

import (
	"certctl/server/alerts"
	"certctl/server/inventory"
	"certctl/server/store"
)

// Telling people and programs of what happens.
type (
	// Channel is where people or programs are told, its secrets withheld.
	Channel = store.Channel
	// NewChannel asks for a channel.
	NewChannel = inventory.NewChannel
	// ChannelChange changes a channel.
	ChannelChange = inventory.ChannelChange
	// ChannelPage is a page of channels.
	ChannelPage = inventory.Page[store.Channel]
	// ChannelTest is what a test of a channel found.
	ChannelTest = inventory.Tested

	// Alert says when a policy warns of the end of a certificate.
	Alert = store.Alert
	// PolicyChannel is a channel that is told of the certificates of a policy.
	PolicyChannel = store.PolicyChannel

	// Notification is one thing that one channel is told.
	Notification = alerts.Notification
	// NotificationQuery asks for a page of notifications.
	NotificationQuery = alerts.Query
	// NotificationPage is a page of notifications.
	NotificationPage = alerts.Page
	// OneNotification names a notification.
	OneNotification = alerts.One
)
