#!/usr/bin/env bash
# Runs a program on the client's node while tcpdump records the wire at the station's tap, and lets
# tshark decode what was recorded: capture.sh PROGRAM [ARGUMENT…]
set -uo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if ! command -v tshark > /dev/null; then
    "$@"
    exit
fi
version=$(tshark --version 2> /dev/null | awk 'NR == 1 { print $3 }')
nsenter --net=/run/netns/station tcpdump --immediate-mode -Z root -B 16384 -s 0 -U -n -i tap0 \
    -w "$work/wire.pcap" > "$work/tcpdump" 2>&1 &
tcpdump=$!
for _ in $(seq 100); do
    grep -q 'listening on' "$work/tcpdump" && break
    sleep 0.05
done
"$@"
failed=$?
sleep 0.5
kill -INT "$tcpdump"
wait "$tcpdump"

# Packets that match a display filter. FILTER [TSHARK OPTION…]
matching() {
    local filter=$1
    shift
    tshark -n -r "$work/wire.pcap" -Y "$filter" "$@"
}

# Number of matching packets; -1 when tshark itself failed, which is no match and no absence.
count() {
    if matching "$@" -T fields -e frame.number > "$work/frames" 2> "$work/errors"; then
        wc -l < "$work/frames"
    else
        grep -v 'Running as user' "$work/errors" | head -3 >&2
        echo -1
    fi
}

first() {
    matching "$@" 2> /dev/null | head -1 | cut -c -160
}

report() {
    echo "tshark $version: $1: $2"
    [ "$2" = ok ] || failed=1
}

# Reports how many packets match; none is a failure. ROLE FILTER [TSHARK OPTION…]
some() {
    local role=$1 filter=$2 number
    shift 2
    number=$(count "$filter" "$@")
    if [ "$number" -gt 0 ]; then
        report "$number $role" ok
    else
        report "$role" 'FAILED: there is none'
    fi
}

# Reports malformed packets; one is a failure. ROLE FILTER [TSHARK OPTION…]
sound() {
    local role=$1 filter=$2 number
    shift 2
    number=$(count "_ws.malformed && $filter" "$@")
    if [ "$number" -eq 0 ]; then
        report "$role" ok
    else
        report "$role" "FAILED ($number): see $(first "_ws.malformed && $filter" "$@")"
    fi
}

decoys='(ip.addr == 198.51.100.2 || ipv6.addr == 2001:db8:4::2)'
phantoms='(ip.src == 192.122.190.0/24 || ipv6.src == 2001:48a8:687f:1::/64)'
# What a phantom carries is opaque to the wire, a prefix imitates protocols without going on with them,
# and a port drawn at random may be that of any protocol: only the headers are ours to get right there.
headers=(-d 'tcp.port==1-65535,data' -d 'udp.port==1-65535,data')

some 'TLS ClientHellos to decoys' "tls.handshake.type == 1 && $decoys"
some 'TLS 1.2 ServerHellos of decoys' \
    "tls.handshake.type == 2 && tls.handshake.version == 0x0303 && $decoys"
some 'TLS 1.2 records with data to decoys' "tls.record.version == 0x0303 && tls.app_data && $decoys"
sound 'nothing to or from decoys is malformed' "$decoys"
some 'answers of phantoms with SYN and ACK' \
    "tcp.flags.syn == 1 && tcp.flags.ack == 1 && tcp.options.mss && $phantoms" "${headers[@]}"
some 'segments with data from phantoms' "tcp.len > 0 && $phantoms" "${headers[@]}"
sound 'no header from a phantom is malformed' "$phantoms" "${headers[@]}"
exit "$failed"
