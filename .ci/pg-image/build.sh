#!/bin/bash
# Makes a container image of the newest PostgreSQL installed on this machine, for
# the container tests where no image can be pulled, and prints the image's name:
#   CERTCTL_TEST_POSTGRES_IMAGE=$(.ci/pg-image/build.sh)
set -euo pipefail
cd "$(dirname "$0")"

bin=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
[ -x "$bin/initdb" ] || { echo "no PostgreSQL in /usr/lib/postgresql: apt-get install postgresql" >&2; exit 1; }
version=$(basename "$(dirname "$bin")")
image=certctl-test-postgres:$version

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
# The libraries of these lie where the loader looks for them, so lib must be a
# link here wherever it is one on this machine.
mkdir -p "$root"/{usr/bin,usr/lib,usr/lib64,etc,tmp,proc,sys,dev,run,var/lib/postgresql/data}
chmod 1777 "$root/tmp"
for name in bin sbin lib lib64; do
	[ ! -L "/$name" ] || ln -s "usr/${name/#sbin/bin}" "$root/$name"
done

copy() { (cd / && cp -a --parents "${@#/}" "$root"); }
libdir=$("$bin/pg_config" --pkglibdir)
copy "$bin" "$libdir" "$("$bin/pg_config" --sharedir)" /usr/share/zoneinfo /usr/lib/locale
# Just-in-time compilation, which the tests turn off, brings 120 MB of LLVM.
rm -rf "$root$libdir"/{bitcode,llvmjit*}
for tool in sh id mkdir chown chmod setpriv rm cat; do
	install -D "$(readlink -f "$(command -v "$tool")")" "$root/usr/bin/$tool"
done
{ find "$root/usr/bin" "$root$bin" -type f; find "$root$libdir" -name '*.so'; } |
	xargs ldd 2>/dev/null | sed -n 's,^\t\(.* => \)\?\(/[^ ]*\) (.*,\2,p' | sort -u |
	while read -r library; do install -D "$(readlink -f "$library")" "$root$library"; done

printf 'root:x:0:0::/:/bin/sh\npostgres:x:999:999::/var/lib/postgresql:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\npostgres:x:999:\n' >"$root/etc/group"
install -m 755 entry.sh "$root/usr/bin/entry.sh"

tar -C "$root" -c . | docker import \
	-c "ENV PATH=/usr/bin:$bin LANG=C.UTF-8 PGDATA=/var/lib/postgresql/data" \
	-c 'ENTRYPOINT ["entry.sh"]' -c 'CMD ["postgres"]' \
	-c 'EXPOSE 5432' -c 'VOLUME /var/lib/postgresql/data' \
	- "$image" >/dev/null
echo "$image"
