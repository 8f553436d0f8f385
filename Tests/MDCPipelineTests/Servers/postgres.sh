#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# postgres.sh FOLDER PORT: a PostgreSQL server of its own in FOLDER, on 127.0.0.1. It is told `stop` and `start` by standard
# input, and ends with it: also when the test process was killed.
set -euo pipefail
folder=$1 port=$2
bin=$(find /usr/lib/postgresql -maxdepth 2 -name bin | sort -V | tail -n 1)
[ -x "$bin/initdb" ] || { echo "postgresql is not installed: run dev/install-deps test" >&2; exit 1; }
# The server refuses to be run by root. No process in between: a signal must reach it.
as=()
if [ "$(id -u)" = 0 ]; then
    as=(setpriv --reuid=postgres --regid=postgres --clear-groups)
    chown postgres "$folder"
fi
cd "$folder"
"${as[@]}" "$bin/initdb" -D "$folder/data" -U mdc -A trust -E UTF8 --locale=C --no-sync >&2
server=""
start() {
    "${as[@]}" "$bin/postgres" -D "$folder/data" -p "$port" -c listen_addresses=127.0.0.1 \
        -c unix_socket_directories= -c fsync=off -c max_connections=300 >&2 </dev/null &
    server=$!
}
stop() {
    [ -n "$server" ] || return 0
    kill -QUIT "$server" 2>/dev/null || true
    wait "$server" || true
    server=""
}
start
while read -r word; do
    case $word in
    stop) stop ;;
    start) start ;;
    esac
done
stop
rm -rf "$folder"
