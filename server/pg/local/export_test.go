package local

// Places lets a test stand on a machine without PostgreSQL.
var Places = &places
