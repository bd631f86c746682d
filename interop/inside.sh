#!/usr/bin/env bash
# What runs on the client's node of the demo: the released client, curl, tshark and, where they
# are, the independent peers. Prints one line per peer and role.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
failed=0
[ -x "$here/bin/goclient" ] && { "$here/capture.sh" "$here/goclient.sh" || failed=1; }
"$here/registrar.sh" || failed=1
"$here/obfs4.py" live || failed=1
if [ -n "${CONJURE_PEERS:-}" ]; then
    "$PYTHON" "$here/peers.py" live || failed=1
fi
exit "$failed"
