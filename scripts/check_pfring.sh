# Sourced by start_zbalance_ipc.sh for the PF_RING back end: library and kernel module must be of one
# version, or attaching fails with errors that name neither.
module=$(sed -n 's/^PF_RING Version *: *\([^ ]*\).*/\1/p' "${CJ_ROOT:-}/proc/net/pf_ring/info" 2> /dev/null || true)
if [ -z "$module" ]; then
    echo "CJ_INGEST_BACKEND=pfring, but the kernel module is not loaded; run: modprobe pf_ring" >&2
    exit 78
fi
wanted=$(cat "${CJ_ROOT:-}/etc/conjure-pfring" 2> /dev/null || echo host)
case $wanted in
    host | latest) ;;
    none)
        echo "CJ_INGEST_BACKEND=pfring, but this image was built without PF_RING;" \
            "build it with: make pfring_ver=$module container" >&2
        exit 78
        ;;
    *)
        if [ "${wanted#tags/}" != "$module" ] && [ "${wanted%-stable}" != "$module" ]; then
            echo "PF_RING $wanted in this image, $module in the kernel;" \
                "build it with: make pfring_ver=$module container" >&2
            exit 78
        fi
        ;;
esac
