#!/bin/bash
# Starts zbalance with the settings of conjure.conf.
set -e
here=$(dirname "$(readlink -f "$0")")
. "$here/read_conf.sh"

if [ -z "$CJ_IFACE" ]; then
    echo "CJ_IFACE is empty; set it to one of: $(ls /sys/class/net | grep -vx lo | tr '\n' ' ')" >&2
    exit 78
fi

backend=${CJ_INGEST_BACKEND:-auto}
if [ "$backend" = pfring ]; then
    . "$here/check_pfring.sh"
fi
if [ "$backend" = pfring ] && [ "$(sysctl -b vm.nr_hugepages)" -lt 512 ]; then
    echo "fewer than 512 huge pages; run: sysctl -w vm.nr_hugepages=512" >&2
    exit 1
fi

sources=
IFS=, read -ra interfaces <<<"$CJ_IFACE"
for interface in "${interfaces[@]}"; do
    case $backend,$interface in
        *,zc:* | *,xdp:* | *,afp:* | *,pcap:*) ;;
        pfring,*) interface=zc:$interface ;;
    esac
    name=${interface#zc:}
    if [ "$backend" = pfring ] && [ "$name" = "${name#*:}" ] &&
        ! grep -q ZC "${CJ_ROOT:-}/proc/net/pf_ring/dev/$name/info"; then
        echo "$name has no ZC driver loaded" >&2
        exit 1
    fi
    sources=${sources:+$sources,}$interface
done

queues=$CJ_CORECOUNT
[ "$N_QUEUE_SETS" = 1 ] || queues=$CJ_CORECOUNT,$CJ_CORECOUNT

# A list such as 0,2-3 becomes 0:2:3.
cpus=
IFS=, read -ra ranges <<<"${CJ_INGEST_CORES:-$CJ_COREBASE}"
for range in "${ranges[@]}"; do
    for ((cpu = ${range%-*}; cpu <= ${range#*-}; cpu++)); do
        cpus=${cpus:+$cpus:}$cpu
    done
done

exec "${CJ_ROOT:-}/opt/conjure/bin/zbalance" -i "$sources" -c "$CJ_CLUSTER_ID" -n "$queues" \
    -m "$ZBALANCE_HASH_MODE" -g "$cpus" -z
