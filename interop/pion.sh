#!/usr/bin/env bash
# Pion's DTLS in both roles against ours, over UDP on the loopback. One line per connection.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
pion=$here/bin/pion
ours=$here/../target/release/examples/dtls
version=$(sed -n 's|.*github.com/pion/dtls/v3 v||p' "$here/pion/go.mod")
secret=5414c734ad5dc53e6b56a7bb47ce695a14a3ef076a3d5ace9cbf3b4d12706b73
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Starts a server in the background and waits until it listens: $server and $address. COMMAND…
start() {
    dir=$(mktemp -d -p "$work")
    : > "$dir/server"
    timeout 30 "$@" > "$dir/server" 2>&1 &
    server=$!
    for _ in $(seq 100); do
        address=$(sed -n 's/^listening //p' "$dir/server")
        [ -n "$address" ] && return
        sleep 0.05
    done
}

# Prints the result of one connection. WHAT WANTED(both or none of the ends succeed) CLIENT_STATUS
judge() {
    local what=$1 wanted=$2 client=$3 result=ok
    wait "$server"
    local served=$?
    if [ "$wanted" = both ]; then
        [ "$client" = 0 ] && [ "$served" = 0 ] || result="FAILED: client $client, server $served"
    else
        [ "$client" != 0 ] && [ "$served" != 0 ] || result="FAILED: client $client, server $served"
        grep -q 'messages' "$dir/server" "$dir/client" && result='FAILED: data passed'
    fi
    echo "pion dtls $version: $what: $result"
    [ "$result" = ok ] && return
    touch "$work/failed"
    sed 's/^/    client: /' "$dir/client" | tail -5
    sed 's/^/    server: /' "$dir/server" | tail -5
}

# Pion is the client. WHAT WANTED PION_OPTIONS OUR_OPTIONS
client() {
    # shellcheck disable=SC2086 # options are words
    start "$ours" server secret=$secret $4
    # shellcheck disable=SC2086
    timeout 30 "$pion" dtls-client -secret $secret -connect "$address" $3 > "$dir/client" 2>&1
    judge "as client, $1" "$2" $?
}

# Pion is the server. WHAT WANTED PION_OPTIONS OUR_OPTIONS
server() {
    # shellcheck disable=SC2086
    start "$pion" dtls-server -secret $secret $3
    # shellcheck disable=SC2086
    timeout 30 "$ours" client "$address" secret=$secret $4 > "$dir/client" 2>&1
    judge "as server, $1" "$2" $?
}

# These last as long as a handshake may.
client 'certificate of another secret' none '-other' '' &
client 'our certificate of another secret' none '' 'other' &
server 'certificate of another secret' none '-other' '' &
server 'our certificate of another secret' none '' 'other' &
client 'X25519, AES-128, 2,000 messages' both '-count 2000' ''
client 'P-256, AES-256' both '-curve P-256 -aes256' ''
client 'P-384, AES-256' both '-curve P-384 -aes256' ''
client 'cookie' both '' 'cookie'
client 'small fragments' both '-mtu 150' 'limit=200'
server 'X25519, AES-128, 2,000 messages' both '' 'count=2000'
server 'P-256, AES-256' both '-curve P-256 -aes256' ''
server 'P-384, AES-256' both '-curve P-384 -aes256' ''
server 'cookie' both '-cookie' ''
server 'small fragments' both '-mtu 150' 'limit=200'
wait
[ ! -e "$work/failed" ]
