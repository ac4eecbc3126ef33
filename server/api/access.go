package api

import (
	"certctl/server/auth"
	"certctl/server/store"
)

// The feature that serves the routes of keys and roles owns their types.
// Clients know them by these names.
type (
	// NewBootstrap asks for the first key.
	NewBootstrap = auth.NewBootstrap
	// NewKey asks for a key.
	NewKey = auth.NewKey
	// KeySecret is a key with its secret.
	KeySecret = auth.KeySecret
	// Key is a key without its secret.
	Key = store.Key
	// OneKey names a key.
	OneKey = auth.OneKey
	// KeyQuery asks for a page of keys.
	KeyQuery = auth.ListKeys
	// KeyPage is a page of keys.
	KeyPage = auth.KeyPage
	// Rotation asks for a new secret of a key.
	Rotation = auth.Rotation
	// Grace lets two secrets of a key work side by side.
	Grace = auth.Grace
	// Grant names a key and a role.
	Grant = auth.Grant
	// NewRole asks for a custom role.
	NewRole = auth.NewRole
	// Role is a role with its permissions.
	Role = store.Role
	// OneRole names a role.
	OneRole = auth.OneRole
	// Roles are all roles.
	Roles = auth.Roles
	// Permissions are all permissions.
	Permissions = auth.Permissions
)
