#!/usr/bin/env bash
# The registration channels against peers that nobody here wrote, in a network namespace of their own:
# noise, unbound (UDP, TLS, HTTPS), dig and tshark for DNS; grpcurl, nghttp and curl for gRPC. One line
# per peer and role. A peer that is not there is named as missing.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [ -z "${CHANNELS_INSIDE:-}" ]; then
    CHANNELS_INSIDE=1 exec unshare --map-root-user --net "$0" "$@"
fi
ip link set lo up
PATH=$PATH:/usr/sbin:/sbin
station=$here/../target/release/station
work=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2> /dev/null; wait; keep; rm -rf "$work"' EXIT
zone=r.example.com
client=198.51.100.7
failed=0

# What the registrar wrote, for `make leaks`.
keep() {
    [ -n "${CONJURE_RECORDS:-}" ] || return
    mkdir -p "$CONJURE_RECORDS/hidden"
    echo "client $client" >> "$CONJURE_RECORDS/markers"
    echo "secret $(od -An -v -tx1 -N32 "$work/privkey" | tr -d ' \n') station key" >> "$CONJURE_RECORDS/markers"
    cp "$work/registrar" "$CONJURE_RECORDS/hidden/channels.log"
}

# Prints a line; the words that follow are shown when it failed. PEER ROLE RESULT [FILE]
line() {
    echo "$1: $2: $3"
    [ "$3" = ok ] && return
    case $3 in missing*) return ;; esac
    failed=1
    [ -f "${4:-}" ] && tail -8 "$4" | cut -c -300 | sed 's/^/    /'
}

# Waits until the log FILE holds TEXT.
waits() {
    for _ in $(seq 200); do
        grep -q "$2" "$1" 2> /dev/null && return 0
        sleep 0.05
    done
    return 1
}

# The files of a registrar and its client.
python3 - "$here/../target/release/genkey" "$work" << 'P' || exit 70
import subprocess, sys
genkey, work = sys.argv[1:]
subprocess.run([genkey, '-o', work], check=True, capture_output=True)
key = open(work + '/pubkey', 'rb').read()
def field(number, value):
    if isinstance(value, int):
        return bytes([number << 3, value])
    value = value.encode() if isinstance(value, str) else value
    assert len(value) < 128
    return bytes([number << 3 | 2, len(value)]) + value
subnets = field(1, 1) + field(2, '192.0.2.0/24') + field(2, '2001:db8::/64') + field(3, 1)
dns = field(1, 1) + field(2, '127.0.0.1:53') + field(3, 'r.example.com')
conf = field(2, 1) + field(4, field(1, subnets)) + field(5, field(1, key)) + field(6, dns)
open(work + '/ClientConf', 'wb').write(conf)
open(work + '/phantoms.toml', 'w').write('''
[Networks.1]
Generation = 1
[[Networks.1.WeightedSubnets]]
Weight = 1
RandomizeDstPort = true
Subnets = ["192.0.2.0/24", "2001:db8::/64"]
''')
open(work + '/reg.toml', 'w').write(f'''
log_level = "trace"
log_metrics_interval = 1
api_port = 8080
zmq_port = 5591
zmq_bind_addr = "127.0.0.1"
zmq_auth_type = "NULL"
clientconf_path = "{work}/ClientConf"
dns_listen_addr = "127.0.0.1:5300"
domain = "r.example.com"
dns_private_key_path = "{work}/privkey"
grpc_listen_addr = "127.0.0.1:8443"
grpc_reflection = true
dns_nodata = true
''')
P
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost \
    -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$work/key.pem" \
    -out "$work/cert.pem" 2> "$work/openssl" || exit 70

CJ_IPC_DIR=$work PHANTOM_SUBNET_LOCATION=$work/phantoms.toml \
    "$here/../target/release/registrar" --config "$work/reg.toml" 2> "$work/registrar" &
pids+=($!)
waits "$work/registrar" 'Started Conjure' || { cat "$work/registrar"; exit 70; }
# dumpcap names its file once it listens; tshark speaks a little before that, and misses a first query.
if command -v tshark > "$work/tshark-path"; then
    dumpcap -q -B 16 -i lo -f 'port 5300' -w "$work/dns.pcap" > "$work/dumpcap" 2>&1 &
    dumpcap=$!
    waits "$work/dumpcap" '^File:'
fi

# Registers once. CHANNEL [OPTION…]
register() {
    local channel=$1
    shift
    timeout 60 "$station" client --registrar "$channel" --client-conf "$work/ClientConf" \
        --connect-addr 198.51.100.2:443 --client-address $client --roots "$work/cert.pem" \
        --register-only "$@" > "$work/out" 2>&1
}

# ---- noise
if [ -x "$here/bin/noise" ]; then
    noise="noise $(sed -n 's|.*flynn/noise v||p' "$here/noise/go.mod")"
    key=$(od -An -v -tx1 "$work/pubkey" | tr -d ' \n')
    if "$here/bin/noise" client 127.0.0.1:5300 $zone "$key" > "$work/out" 2>&1; then
        line "$noise" 'client of our registrar, UDP and TCP, parts reversed and repeated' ok
    else
        line "$noise" 'client of our registrar' 'FAILED: no registration' "$work/out"
    fi
    "$here/bin/noise" server 127.0.0.1:5400 $zone "$(head -c32 "$work/privkey" | od -An -v -tx1 |
        tr -d ' \n')" > "$work/noise" 2>&1 &
    pids+=($!)
    waits "$work/noise" listening
    if register bddns --resolver udp://127.0.0.1:5400 --disable-ipv6 &&
        grep -q '^192.0.2.77:4321$' "$work/out"; then
        line "$noise" 'registrar of our client' ok
    else
        line "$noise" 'registrar of our client' 'FAILED: no registration' "$work/out"
    fi
else
    line noise 'both roles' 'missing (install Go 1.24 or newer)'
fi

# ---- unbound: minimises names strictly, varies the case of letters, speaks all three transports
if command -v unbound > "$work/unbound-path"; then
    unbound="unbound $(unbound -V | sed -n '1s/Version //p')"
    cat > "$work/unbound.conf" << E
server:
    interface: 127.0.0.1@53
    interface: 127.0.0.1@853
    interface: 127.0.0.1@443
    tls-port: 853
    https-port: 443
    tls-service-key: "$work/key.pem"
    tls-service-pem: "$work/cert.pem"
    do-daemonize: no
    use-syslog: no
    chroot: ""
    username: ""
    directory: "$work"
    pidfile: "$work/unbound.pid"
    module-config: "iterator"
    do-not-query-localhost: no
    use-caps-for-id: yes
    qname-minimisation: yes
    qname-minimisation-strict: yes
    access-control: 127.0.0.0/8 allow
stub-zone:
    name: "$zone"
    stub-addr: 127.0.0.1@5300
E
    unbound -d -c "$work/unbound.conf" > "$work/unbound" 2>&1 &
    pids+=($!)
    waits "$work/unbound" 'start of service'
    for resolver in udp://127.0.0.1 tls://localhost:853 https://localhost/dns-query; do
        for channel in dns bddns; do
            if register "$channel" --resolver "$resolver" && grep -q '^192\.0\.2\.' "$work/out"; then
                line "$unbound" "between client and registrar, $channel over ${resolver%%:*}" ok
            else
                tail -3 "$work/unbound" >> "$work/out"
                line "$unbound" "between client and registrar, $channel over ${resolver%%:*}" \
                    'FAILED: no registration' "$work/out"
            fi
        done
    done
else
    line unbound 'resolver between client and registrar' 'missing (install unbound)'
fi

# ---- dig. ROLE STATUS FLAGS OPTION…
ask() {
    local role=$1 status=$2 flags=$3 result=ok
    shift 3
    dig +tries=1 +time=5 @127.0.0.1 -p 5300 "$@" > "$work/out" 2>&1
    if ! grep -q "status: $status" "$work/out"; then
        result="FAILED: expected $status"
    elif ! grep -q "flags: $flags;" "$work/out"; then
        result="FAILED: expected flags $flags"
    elif grep -v 'recursion requested' "$work/out" | grep -qiE 'warning|malformed|extra bytes'; then
        result='FAILED: dig warns'
    fi
    line "$dig" "$role" "$result" "$work/out"
}
if command -v dig > "$work/dig-path"; then
    dig="dig $(dig -v 2>&1 | sed 's/DiG \([0-9.]*\).*/\1/')"
    for transport in +notcp +tcp; do
        ask "another type, $transport" NOERROR 'qr aa' "$transport" "abc.$zone" A
        ask "another zone, $transport" NXDOMAIN 'qr' "$transport" other.example TXT
        ask "no base32, $transport" NXDOMAIN 'qr aa' "$transport" "0189.$zone" TXT
    done
    ask 'the authority' NOERROR 'qr aa' "$zone" SOA
    ask 'no EDNS' FORMERR 'qr aa' +noedns "aa.$zone" TXT
    ask 'EDNS version 1' BADVERS 'qr' +edns=1 +noednsnegotiation "aa.$zone" TXT
else
    line dig 'queries' 'missing (install bind9-dnsutils)'
fi

# ---- tshark reads every message of the above
if [ -n "${dumpcap:-}" ]; then
    sleep 1
    kill -INT "$dumpcap"
    wait "$dumpcap" 2> /dev/null
    name="tshark $(tshark --version 2> /dev/null | sed -n '1s/.*(Wireshark) \([0-9.]*\).*/\1/p')"
    count() {
        tshark -r "$work/dns.pcap" -d udp.port==5300,dns -d tcp.port==5300,dns -Y "$1" 2> /dev/null | wc -l
    }
    replies=$(count 'dns.flags.response == 1')
    malformed=$(count '_ws.malformed or _ws.expert.severity == error')
    # By hand, because a busy machine records a reply on one processor before its query on another.
    # One segment may hold several messages of a connection: a line per identifier and client's port.
    ids() {
        tshark -r "$work/dns.pcap" -d udp.port==5300,dns -d tcp.port==5300,dns -Y "dns.flags.response == $1" \
            -T fields -e dns.id -e "udp.$2" -e "tcp.$2" 2> /dev/null |
            awk -F'\t' '{ n = split($1, id, ","); while (n) print id[n--], $2, $3 }' | sort -u
    }
    comm -23 <(ids 1 dstport) <(ids 0 srcport) > "$work/unasked"
    unasked=$(wc -l < "$work/unasked")
    sealed=$(count 'dns.flags.response == 1 and dns.flags.rcode == 0 and dns.txt and dns.flags.authoritative == 1')
    if [ "$malformed" -eq 0 ] && [ "$unasked" -eq 0 ] && [ "$sealed" -gt 5 ]; then
        line "$name" 'reads every reply of the DNS registrar' ok
    else
        cat "$work/dumpcap" "$work/unasked" > "$work/out"
        line "$name" 'reads every reply of the DNS registrar' \
            "FAILED: $malformed malformed, $unasked of $replies to no query, $sealed to registrations" "$work/out"
    fi
else
    line tshark 'reads every reply of the DNS registrar' 'missing (install tshark)'
fi

# ---- gRPC
call() {
    "$here/bin/grpcurl" -plaintext -max-time 10 "$@" > "$work/out" 2>&1
}
if [ -x "$here/bin/grpcurl" ]; then
    name="grpcurl $(sed -n 's|.*fullstorydev/grpcurl v\([0-9.]*\).*|\1|p' "$here/grpcurl/go.mod")"
    service=conjure.registration.v1.Registration
    call 127.0.0.1:8443 list && grep -q "^$service$" "$work/out" && result=ok ||
        result='FAILED: the service is not listed'
    line "$name" 'reflection' "$result" "$work/out"
    call 127.0.0.1:8443 grpc.health.v1.Health/Check && grep -q SERVING "$work/out" && result=ok ||
        result='FAILED: not serving'
    line "$name" 'health' "$result" "$work/out"
    secret=$(head -c32 /dev/urandom | base64)
    message='"shared_secret": "'$secret'", "registration_payload": {"client_lib_version": 4,
        "decoy_list_generation": 0, "v4_support": true, "transport": "Min",
        "covert_address": "198.51.100.2:443"}'
    call -d "{$message}" 127.0.0.1:8443 $service/Register &&
        grep -q '"ipv4addr"' "$work/out" && grep -q '"clientConf"' "$work/out" && result=ok ||
        result='FAILED: no phantom and ClientConf'
    line "$name" 'Register, with a ClientConf for an outdated client' "$result" "$work/out"
    call -d "{$message}" 127.0.0.1:8443 $service/Announce && result=ok || result='FAILED: refused'
    line "$name" 'Announce' "$result" "$work/out"
    call -d '{"shared_secret": "AAAA"}' 127.0.0.1:8443 $service/Register
    grep -q 'Code: InvalidArgument' "$work/out" && result=ok || result='FAILED: not refused'
    line "$name" 'a short secret is an invalid argument' "$result" "$work/out"
else
    line grpcurl 'all roles' 'missing (install Go 1.24 or newer)'
fi
if command -v nghttp > "$work/nghttp-path"; then
    name="nghttp2 $(nghttp --version | sed 's|.*/||')"
    nghttp -v -H 'content-type: application/grpc' http://127.0.0.1:8443/nothing > "$work/out" 2>&1
    grep -q 'grpc-status: 12' "$work/out" && result=ok || result='FAILED: no status 12'
    line "$name" 'an unknown call' "$result" "$work/out"
    h2load -n 2000 -c 20 -m 20 -d "$work/cert.pem" -H 'content-type: application/grpc' \
        http://127.0.0.1:8443/conjure.registration.v1.Registration/Register > "$work/out" 2>&1
    grep -q '2000 succeeded, 0 failed, 0 errored, 0 timeout' "$work/out" && result=ok ||
        result='FAILED: not all are answered'
    line "$name" '2,000 calls of garbage on 20 connections' "$result" "$work/out"
else
    line nghttp2 'HTTP/2 client' 'missing (install nghttp2-client)'
fi
if command -v curl > "$work/curl-path"; then
    name="curl $(curl --version | awk 'NR == 1 { print $2 }')"
    status=$(curl --silent --noproxy '*' --http2-prior-knowledge --output "$work/out" \
        --write-out '%{http_version} %{http_code}' -H 'content-type: application/grpc' \
        --data-binary @"$work/cert.pem" http://127.0.0.1:8443/conjure.registration.v1.Registration/Announce)
    [ "$status" = '2 200' ] && result=ok || result="FAILED: $status"
    line "$name" 'garbage over HTTP/2 gets a gRPC status' "$result" "$work/out"
    # A registration that asks for the ClientConf, compressed and not.
    python3 -c "
import sys
inner = bytes([0x28, 4, 0x60, 1, 0xb8, 1, 1])
sys.stdout.buffer.write(bytes([10, 32]) + bytes([7] * 32) + bytes([26, len(inner)]) + inner)" \
        > "$work/body"
    post() {
        curl --silent --fail --noproxy '*' --data-binary @"$work/body" "$@" \
            http://127.0.0.1:8080/register-bidirectional
    }
    post > "$work/plain" && post --compressed --dump-header "$work/head" > "$work/unpacked" &&
        grep -qi '^content-encoding: gzip' "$work/head" && cmp -s "$work/plain" "$work/unpacked" &&
        result=ok || result='FAILED: not the same'
    line "$name" 'a compressed ClientConf is the plain one' "$result" "$work/head"
else
    line curl 'HTTP/2 client' 'missing (install curl)'
fi
exit "$failed"
