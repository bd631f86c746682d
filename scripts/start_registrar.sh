#!/bin/bash
# Starts the registrar with the settings of conjure.conf.
set -e
here=$(dirname "$(readlink -f "$0")")
. "$here/read_conf.sh"

if [ ! -f "$CJ_REGISTRAR_CONFIG" ]; then
    echo "CJ_REGISTRAR_CONFIG: no file at $CJ_REGISTRAR_CONFIG" >&2
    exit 1
fi

exec "${CJ_ROOT:-}/opt/conjure/bin/registrar"
