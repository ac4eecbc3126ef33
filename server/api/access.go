package api

import (
	"certctl/server/auth"
	"certctl/server/store"
)

// The types that the routes of keys and roles take and answer with. The feature that
// serves them owns the types; clients know them by these names.
type (
	NewBootstrap = auth.NewBootstrap
	NewKey       = auth.NewKey
	KeySecret    = auth.KeySecret
	ListKeysIn   = auth.ListKeys
	KeyPage      = auth.KeyPage
	OneKey       = auth.OneKey
	Rotation     = auth.Rotation
	Grant        = auth.Grant
	NewRole      = auth.NewRole
	OneRole      = auth.OneRole
	Roles        = auth.Roles
	Permissions  = auth.Permissions
	Key          = store.Key
	Role         = store.Role
)
