# Sourced by the start scripts: exports every variable of conjure.conf and of the local overrides.
# CJ_ROOT is put before every absolute path, for staged installations.
set -a
. "${CJ_ROOT:-}/opt/conjure/sysconfig/conjure.conf"
: "${PF_DRIVER:=i40e}"
if [ -z "${CJ_STOP_RECURSE+set}" ] && [ -r "${CJ_ROOT:-}/var/lib/conjure/conjure.conf" ]; then
    CJ_STOP_RECURSE=true
    . "${CJ_ROOT:-}/var/lib/conjure/conjure.conf"
fi
unset CJ_STOP_RECURSE
set +a
