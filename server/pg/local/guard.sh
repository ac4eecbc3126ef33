# Usage: data-directory signal seconds [directory-to-remove ...]
# Waits until standard input ends. Then ends the PostgreSQL on the data directory:
# with the signal, after that many seconds with SIGQUIT, at last with SIGKILL.
# Exit status 1: it is still there.
trap '' HUP INT QUIT TERM
data=$1 first=$2 patience=$3
shift 3
while read -r _; do :; done

pid=$(head -n 1 "$data/postmaster.pid")

# The pid may have come to another process: only its command line tells.
# A zombie has none, so it counts as gone.
running() {
	case $pid in '' | *[!0-9]* | 0 | 1) return 1 ;; esac
	if [ -e /proc/self/cmdline ]; then
		line=$(tr '\0' ' ' <"/proc/$pid/cmdline")
	else
		line=$(ps -o command= -p "$pid")
	fi
	case $line in *"postgres -D $data -p "*) return 0 ;; esac
	return 1
}

# finish SIGNAL SECONDS
finish() {
	running || return 0
	kill -"$1" "$pid"
	left=$(($2 * 10))
	while [ "$left" -gt 0 ] && running; do
		sleep 0.1
		left=$((left - 1))
	done
}

finish "$first" "$patience"
finish QUIT 1
if running; then
	# Every backend is in a session of its own: no process group holds them.
	backends=
	for stat in /proc/[0-9]*/stat; do
		read -r line <"$stat" || continue
		after=${line##*) } # state, parent, ...; the name before may hold anything
		set -f
		parent=${after#* }
		[ "${parent%% *}" != "$pid" ] || backends="$backends ${line%% *}"
		set +f
	done
	finish KILL 1
	[ -z "$backends" ] || kill -KILL $backends
fi

# What initdb's last process writes may come between.
tries=20
for dir; do
	while ! rm -rf -- "$dir" && [ "$tries" -gt 0 ]; do
		sleep 0.05
		tries=$((tries - 1))
	done
done
! running
