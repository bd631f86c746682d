#!/bin/bash
# Starts the detector with the settings of conjure.conf.
set -e
here=$(dirname "$(readlink -f "$0")")
. "$here/read_conf.sh"

if [ ! -e "$CJ_PRIVKEY" ]; then
    echo "CJ_PRIVKEY: no station key at $CJ_PRIVKEY; make one with genkey" >&2
    exit 1
fi

exec "${CJ_ROOT:-}/opt/conjure/bin/detector" -c "$CJ_CLUSTER_ID" -o "$CJ_COREBASE" \
    -n "$CJ_CORECOUNT" -l "$CJ_LOG_INTERVAL" -K "$CJ_PRIVKEY" -s "${CJ_SKIP_CORE:--1}" \
    -z "$CJ_QUEUE_OFFSET"
