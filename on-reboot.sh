#!/bin/bash
# Makes this host ready for a Conjure station: tun devices, packet filter, kernel settings. Run it as
# root after boot, and after CJ_CORECOUNT, OFFSET, IP4_ADDR or IP6_ADDR changed; running it again changes
# nothing. All the work is done by `station setup`, which gets the arguments of this script:
# --dry-run, --undo, --iptables, --driver.
set -e
here=$(dirname "$(readlink -f "$0")")
: "${CJ_PATH:=/opt/conjure}"

if [ -z "${CJ_CONF:-}" ] && [ -r "$CJ_PATH/sysconfig/conjure.conf" ]; then
    export CJ_CONF="$CJ_PATH/sysconfig/conjure.conf"
fi
for station in "$CJ_PATH/bin/station" "$here/bin/station" "$here/target/release/station" \
    "$(command -v station || true)"; do
    if [ -n "$station" ] && [ -x "$station" ]; then
        exec "$station" setup --files-win "$@"
    fi
done
echo "on-reboot.sh: no station program in $CJ_PATH/bin, $here/bin or PATH; install it, or set CJ_PATH" >&2
exit 69
