#!/usr/bin/env bash
# The released Go library against a registrar of its own: the phantoms of every client version.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
work=$(mktemp -d)
trap 'kill "$registrar" 2> "$work/kill"; keep; rm -rf "$work"' EXIT

# What the registrar wrote, for `make leaks`.
keep() {
    [ -n "${CONJURE_RECORDS:-}" ] && mkdir -p "$CONJURE_RECORDS/hidden" &&
        cp "$work/log" "$CONJURE_RECORDS/hidden/versions.log"
}
registrar=
cat > "$work/phantoms.toml" << 'EOF'
[Networks]
    [Networks.1]
        Generation = 1
        [[Networks.1.WeightedSubnets]]
            Weight = 9
            Subnets = ["192.122.190.0/24", "2001:48a8:687f:1::/64"]
        [[Networks.1.WeightedSubnets]]
            Weight = 1
            Subnets = ["141.219.0.0/16", "35.8.0.0/16"]
    [Networks.7]
        Generation = 7
        [[Networks.7.WeightedSubnets]]
            Weight = 3
            RandomizeDstPort = true
            Subnets = ["203.0.113.0/25", "198.18.0.0/15", "2001:db8:7::/48", "2001:db8:8:8::/96"]
        [[Networks.7.WeightedSubnets]]
            Weight = 5
            Subnets = ["192.0.2.7/32", "2001:db8::1/128", "192.122.190.0/28"]
        [[Networks.7.WeightedSubnets]]
            Weight = 2
            Subnets = ["10.64.0.0/10"]
EOF
"$root/target/release/genkey" --output "$work" > "$work/genkey" || exit 1
# Of generation 0, so that no client's generation is replaced by a newer one.
: > "$work/ClientConf"
port=$((20000 + RANDOM % 10000))
sed -e "s|^api_port = .*|api_port = $port|" -e "s|^zmq_port = .*|zmq_port = $((port + 10000))|" \
    -e "s|/var/lib/conjure/privkey|$work/privkey|" -e "s|/var/lib/conjure/ClientConf|$work/ClientConf|" \
    "$root/conf/reg_config.toml" > "$work/reg_config.toml"
CJ_IPC_DIR=$work PHANTOM_SUBNET_LOCATION=$work/phantoms.toml \
    "$root/target/release/registrar" --api-only --config "$work/reg_config.toml" > "$work/log" 2>&1 &
registrar=$!
for _ in $(seq 100); do
    curl --silent --noproxy '*' --max-time 1 --output "$work/answer" "http://127.0.0.1:$port/" && break
    sleep 0.05
done
"$here/bin/versions" -url "http://127.0.0.1:$port/register-bidirectional" \
    -phantoms "$work/phantoms.toml" || {
    tail -5 "$work/log" | sed 's/^/    /'
    exit 1
}
