// Package migrations holds the schema, one numbered file per subject.
package migrations

import "embed"

// Files are the migrations. Each is named NNNN_name.sql and runs in one
// transaction with its row in the ledger.
//
//go:embed *.sql
var Files embed.FS
