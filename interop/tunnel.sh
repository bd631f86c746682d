#!/usr/bin/env bash
# Pion's SCTP over pion's DTLS against our tunnels, as client and as station of the tunnel, each as
# client and as server of DTLS. One line per tunnel, which moves SIZE bytes there and back.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
pion=$here/bin/pion
ours=$here/../target/release/examples/tunnel
version=$(sed -n 's|.*github.com/pion/sctp v||p' "$here/pion/go.mod")
secret=5414c734ad5dc53e6b56a7bb47ce695a14a3ef076a3d5ace9cbf3b4d12706b73
size=${SIZE:-8000000}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Runs the DTLS server in the background, then the client. WHAT SERVER_COMMAND -- CLIENT_COMMAND with @ for the address
tunnel() {
    local what=$1 address='' status result=ok start
    shift
    local server=()
    while [ "$1" != -- ]; do
        server+=("$1")
        shift
    done
    shift
    : > "$work/server"
    timeout 90 "${server[@]}" > "$work/server" 2>&1 &
    local pid=$!
    for _ in $(seq 100); do
        address=$(sed -n 's/^listening //p' "$work/server")
        [ -n "$address" ] && break
        sleep 0.05
    done
    start=$(date +%s%3N)
    timeout 90 "${@/@/$address}" > "$work/client" 2>&1
    status=$?
    wait "$pid"
    local served=$?
    [ $status = 0 ] && [ $served = 0 ] || result="FAILED: client $status, server $served"
    [ "$(cat "$work/client" "$work/server" | grep -c "^$size bytes")" = 2 ] ||
        result="FAILED: not all bytes"
    echo "pion sctp $version: $what, $(($(date +%s%3N) - start)) ms: $result"
    [ "$result" = ok ] && return
    touch "$work/failed"
    sed 's/^/    client: /' "$work/client" | tail -5
    sed 's/^/    server: /' "$work/server" | tail -5
}

pion() {
    echo "$pion" "tunnel-$1" -secret "$secret" "${@:2}"
}
ours() {
    echo "$ours" "$1" secret="$secret" size="$size" "${@:2}"
}

# shellcheck disable=SC2046 # commands are words
{
    tunnel 'client, dials DTLS' $(ours station listen) -- $(pion client -size "$size" -connect @)
    tunnel 'client, dials DTLS, unordered' $(ours station listen unordered) -- \
        $(pion client -size "$size" -unordered -connect @)
    tunnel 'client, serves DTLS' $(pion client -size "$size") -- $(ours station dial=@)
    tunnel 'station, serves DTLS' $(pion station) -- $(ours client dial=@)
    tunnel 'station, serves DTLS, unordered' $(pion station -unordered) -- \
        $(ours client dial=@ unordered)
    tunnel 'station, dials DTLS' $(ours client listen) -- $(pion station -connect @)
}
[ ! -e "$work/failed" ]
