#!/usr/bin/env bash
# curl against the registrar of the demo: one line per kind of request that is no registration.
# Every status comes with its exact body.
set -uo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0 version=$(curl --version | awk 'NR == 1 { print $2 }')

# NAME STATUS BODY PATH [CURL OPTION…]
ask() {
    local name=$1 status=$2 body=$3 path=$4 got result=ok
    shift 4
    for base in 'http://10.10.3.2:8080' 'http://[fd10:3::2]:8080'; do
        got=$(curl --silent --noproxy '*' --globoff --max-time 10 --output "$work/body" \
            --write-out '%{http_code}' "$@" "$base$path")
        if [ "$got" != "$status" ]; then
            result="FAILED: status $got from $base, expected $status"
        elif [ "$(cat "$work/body")" != "$body" ]; then
            result="FAILED: body $(head -c 60 "$work/body" | tr -d '\n') from $base"
        fi
        rm -f "$work/body"
        touch "$work/body"
    done
    echo "curl $version: $name gets $status: $result"
    [ "$result" = ok ] || failed=1
}

touch "$work/body"
head -c 200 /dev/zero | tr '\0' '\377' > "$work/garbage"
head -c 32 "$work/garbage" > "$work/short"
head -c 200000 /dev/zero > "$work/long"
for path in /register /register-bidirectional; do
    ask "GET $path" 405 '' "$path"
    ask "PUT $path" 405 '' "$path" --upload-file "$work/garbage"
    ask "POST of garbage to $path" 400 'Failed to decode protobuf body' "$path" \
        --data-binary "@$work/garbage"
    ask "POST of 32 bytes to $path" 400 'Payload too small' "$path" --data-binary "@$work/short"
    ask "chunked POST to $path" 400 'Payload too small' "$path" \
        --header 'Transfer-Encoding: chunked' --data-binary "@$work/garbage"
    ask "POST to $path/" 404 '404 page not found' "$path/" --data-binary "@$work/garbage"
done
ask 'GET of another path' 404 '404 page not found' /
exit "$failed"
