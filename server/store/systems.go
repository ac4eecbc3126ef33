package store

import (
	"encoding/json"
	"time"
)

// A System is the row of something outside that is configured, without the
// secrets among its settings.
type System struct {
	ID        string          `json:"id"`
	Name      string          `json:"name"`
	Type      string          `json:"type"`
	Enabled   bool            `json:"enabled"`
	Settings  json.RawMessage `json:"settings" db:"shown" doc:"of its type; secrets are withheld"`
	TestedAt  *time.Time      `json:"tested_at,omitempty" doc:"when these settings were last tested"`
	TestError string          `json:"test_error,omitempty" doc:"what that test found; absent if it passed"`
	Revision  int64           `json:"revision" doc:"counts changes"`
	CreatedAt time.Time       `json:"created_at"`
	UpdatedAt time.Time       `json:"updated_at"`
}

// Sealed is the row of a system with the settings that only the server can read.
type Sealed struct {
	ID       string
	Name     string
	Type     string
	Enabled  bool
	Settings []byte
	Revision int64
}

const (
	systemColumns = `id, name, type, enabled, shown, tested_at, test_error, revision, created_at, updated_at`
	sealedColumns = `id, name, type, enabled, settings, revision`
)
