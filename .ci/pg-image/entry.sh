#!/bin/sh
# Starts PostgreSQL as the official image does, as far as the tests use that one:
# POSTGRES_PASSWORD and POSTGRES_USER make the superuser, the arguments are the
# command.
set -e
if [ "$(id -u)" = 0 ]; then
	mkdir -p "$PGDATA"
	chown -R postgres:postgres "$PGDATA"
	chmod 700 "$PGDATA"
	exec setpriv --reuid=postgres --regid=postgres --clear-groups "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	: "${POSTGRES_PASSWORD:?is not set}"
	printf %s "$POSTGRES_PASSWORD" >/tmp/password
	initdb -U "${POSTGRES_USER:-postgres}" --pwfile=/tmp/password -A scram-sha-256 \
		-N --no-instructions -E UTF8 --locale=C.UTF-8 >/dev/null
	rm /tmp/password
	echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
	printf "listen_addresses = '*'\nunix_socket_directories = '/tmp'\n" >>"$PGDATA/postgresql.conf"
fi
exec "$@"
