#!/bin/bash
# Starts the application with the settings of conjure.conf.
set -e
here=$(dirname "$(readlink -f "$0")")
. "$here/read_conf.sh"

if [ ! -f "$CJ_STATION_CONFIG" ]; then
    echo "CJ_STATION_CONFIG: no file at $CJ_STATION_CONFIG" >&2
    exit 1
fi

exec "${CJ_ROOT:-}/opt/conjure/bin/application"
