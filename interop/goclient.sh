#!/usr/bin/env bash
# The released Go client through the whole station, run on the client's node of the demo:
#   station demo --exec interop/goclient.sh
# Each cell is a process of its own, with its own copy of the ClientConf, that registers once and
# carries one TLS download from the covert. RACE=n repeats the API cells, whose dial races the
# station's liveness probe; JOBS=n cells run at a time; ONLY=pattern chooses cells; DELAY=ms makes the
# client's IPv4 packets take that much longer.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
client=$here/bin/goclient
demo=${CONJURE_DEMO_DIR:?is set by station demo --exec}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The decoy registrar of the client ignores assets/roots.
export SSL_CERT_FILE=$demo/cert.pem TMPDIR=$work
version=$(sed -n 's|^\tgithub.com/refraction-networking/gotapdance v||p' "$here/goclient/go.mod")
expected=$(sha256sum < "$demo/www/blob")

if [ -n "${DELAY:-}" ]; then
    python3 "$here/delay.py" "$DELAY" > "$work/delay" &
    delay=$!
    trap 'kill "$delay"; rm -rf "$work"' EXIT
    disown "$delay"
    for _ in $(seq 50); do
        grep -q ready "$work/delay" && break
        sleep 0.1
    done
    ping -c 2 10.10.3.2 | sed -n 's/^rtt/round trip with the delay/p'
fi

# For DTLS the client asks a fixed STUN server, whose name its own file of hosts leads to one here.
printf '127.0.0.1 localhost\n10.10.1.2 stun.l.google.com\nfd10:1::2 stun.l.google.com\n' > "$work/hosts"
python3 "$here/stun.py" 19302 > "$work/stun" &
stun=$!
trap 'kill "$stun" ${delay:+"$delay"}; rm -rf "$work"' EXIT
disown "$stun"

# Waits until something listens on 127.0.0.1:PORT. PORT PID
listens() {
    for _ in $(seq 200); do
        kill -0 "$2" 2> /dev/null || return 1
        [ -n "$(ss -Hltn "sport = :$1")" ] && return 0
        sleep 0.05
    done
    return 1
}

# Cells that fail now and then whoever serves them get some tries, and say which one it was.
# LIMIT, what the client says when it is worth another try, then what `cell` takes.
tries() {
    local limit=$1 reason=$2 n
    shift 2
    for n in $(seq "$limit"); do
        cell "$(($1 + 1000 * n))" "$2" "$3" "$4" "${5:-}, try $n" > "$work/$1.try"
        grep -q ': ok$' "$work/$1.try" && break
        grep -qE "$reason" "$work/$(($1 + 1000 * n))/log" || break
        [ "$n" = "$limit" ] || rm -f "$work/$(($1 + 1000 * n)).failed"
    done
    cat "$work/$1.try"
}

# One cell: LOCAL_PORT CHANNEL TRANSPORT[-rand] FAMILY [NOTE]
cell() {
    local port=$1 channel=$2 transport=$3 family=$4 note=${5:-}
    local dir=$work/$port covert registrar conf result status pid start
    local options=()
    if [ "$family" = ipv4 ]; then
        covert=198.51.100.2:443 registrar='http://10.10.3.2:8080' conf=ClientConf.4
        options+=(-disable-ipv6)
    else
        covert='[2001:db8:4::2]:443' registrar='http://[fd10:3::2]:8080' conf=ClientConf.6
    fi
    case $channel in
        api) options+=(-api-endpoint "$registrar/register") ;;
        bdapi) options+=(-api-endpoint "$registrar/register-bidirectional") ;;
    esac
    [ "${transport#*-}" = rand ] && options+=(-rand-dst-port)
    [ "${transport#*-}" = unordered ] && options+=(-unordered-dtls)
    mkdir -p "$dir/assets"
    cp "$demo/$conf" "$dir/assets/ClientConf"
    cp "$demo/cert.pem" "$dir/assets/roots"
    # shellcheck disable=SC2016 # for the inner shell
    unshare -m sh -c 'mount --bind "$0" /etc/hosts && exec "$@"' "$work/hosts" \
        "$client" -registrar "$channel" -transport "${transport%-*}" -connect-addr "$covert" \
        -assetsdir "$dir/assets/" -port "$port" "${options[@]}" > "$dir/log" 2>&1 &
    pid=$!
    start=$(date +%s%3N)
    if listens "$port" "$pid"; then
        curl --silent --show-error --noproxy '*' --max-time 40 --cacert "$demo/cert.pem" \
            --connect-to "decoy.example:443:127.0.0.1:$port" https://decoy.example/blob \
            > "$dir/blob" 2> "$dir/curl"
        status=$?
        if [ $status -ne 0 ]; then
            result="FAILED: $(tail -1 "$dir/curl")"
        elif [ "$(sha256sum < "$dir/blob")" != "$expected" ]; then
            result="FAILED: other bytes arrived"
        else
            result=ok
        fi
    else
        result="FAILED: the client does not listen"
    fi
    echo "go client $version: $channel $transport $family$note, $(($(date +%s%3N) - start)) ms: $result"
    if [ "$result" != ok ]; then
        touch "$work/$port.failed"
        tail -12 "$dir/log" | cut -c -300 | sed 's/^/    /'
    fi
    kill "$pid" 2> /dev/null
    wait "$pid" 2> /dev/null
}

# IPv6 first: the client of an IPv6 cell tries the IPv4 phantom too, and takes it for its own when
# an earlier IPv4 cell has opened that address; the lab's prefix has only 256 of them.
cells() {
    local channel transport family n
    for family in ipv6 ipv4; do
        for channel in decoy api bdapi dns bddns; do
            # Over DNS the client registers for both families and then tries both.
            [ "$family" = ipv6 ] && [ "${channel%dns}" != "$channel" ] && continue
            for transport in min prefix obfs4 dtls min-rand dtls-unordered; do
                echo "$channel $transport $family"
            done
        done
        echo barrier
    done
    for n in $(seq "${RACE:-3}"); do
        echo "api min ipv4 race $n"
        echo "bdapi min ipv4 race $n"
    done
}

# Waits until fewer than N cells run.
fewer_than() {
    while [ "$(jobs -pr | wc -l)" -ge "$1" ]; do
        wait -n
    done
}

port=10500
while read -r channel transport family note; do
    if [ "$channel" = barrier ]; then
        fewer_than 1
        continue
    fi
    case "$channel $transport $family $note" in *${ONLY:-}*) ;; *) continue ;; esac
    fewer_than "${JOBS:-3}"
    port=$((port + 1))
    case $channel-$transport in
        # An unordered stream hands a retransmitted message over late: a single lost packet spoils
        # the TLS inside.
        *-unordered) tries 3 . "$port" "$channel" "$transport" "$family" "${note:+ $note}" & ;;
        # Over DNS without an answer the client dials at once and gives up after 300 ms times 2 to 7;
        # the station probes the phantom for 700 ms before it lets anybody in.
        dns-*) tries 5 'deadline exceeded|i/o timeout' "$port" "$channel" "$transport" "$family" "${note:+ $note}" & ;;
        *) cell "$port" "$channel" "$transport" "$family" "${note:+ $note}" & ;;
    esac
done < <(cells)
wait
[ "$port" -gt 10500 ] && ! ls "$work"/*.failed > "$work/lost" 2>&1
