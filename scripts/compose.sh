#!/bin/bash
# Runs Compose, v1 or v2, over the station's file and those that conjure.conf asks for. PFRING_VER reaches the build
# when PF_RING is the back end; the other back ends have no version to agree on.
set -e
here=$(dirname "$(readlink -f "$0")")
. "$here/read_conf.sh"
cd "$here/.."
files=(-f docker/docker-compose.yaml)
if [ "${CJ_INGEST_BACKEND:-auto}" = pfring ]; then
    files+=(-f docker/docker-compose.pfring.yaml)
else
    PFRING_VER=none
fi
if [ "${CJ_LIVE_FRAMES:-false}" = true ]; then
    files+=(-f docker/docker-compose.live-frames.yaml)
fi
export PFRING_VER
if command -v docker-compose > /dev/null; then
    exec docker-compose "${files[@]}" "$@"
fi
exec docker compose "${files[@]}" "$@"
