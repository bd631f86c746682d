#!/bin/sh
# Installs PF_RING's user-space library in an image. pfring_ver: `none` for no PF_RING (zbalance then
# captures with AF_XDP or AF_PACKET), `latest` or empty for ntop's stable packages, otherwise a
# package version. The library is ntop's; read its licence before you use it, and do not publish
# images that contain it.
set -eu
case ${pfring_ver:-latest} in
    none) exit 0 ;;
    latest) package=pfring ;;
    *) package=pfring=${pfring_ver#tags/}* ;;
esac
apt-get update -qq
if ! apt-cache show "${package%%=*}" > /dev/null 2>&1; then
    echo "pfring_ver=${pfring_ver:-latest}: no package pfring in the sources of this base image;" \
        "build with BASE= an image that has ntop's package source, or with pfring_ver=none" >&2
    exit 69
fi
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package"
rm -rf /var/lib/apt/lists/*
