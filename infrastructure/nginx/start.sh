#!/bin/sh
# Runs before nginx in its container: what depends on the version and the published port, the first upstream, and the loop that
# keeps it in step.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
scripts=${PLINTH_NGINX_SCRIPTS:-$here}
folder=${PLINTH_UPSTREAMS_DIR:-/run/nginx}
nginx=${PLINTH_NGINX:-nginx}

port=${PLINTH_HTTPS_PORT:-443}
case $port in
    '' | *[!0-9]*) echo "start.sh: PLINTH_HTTPS_PORT must be a port, not '$port'" >&2; exit 64 ;;
esac
{
    echo "map \$host \$plinth_https_port { default $port; }"
    # From 1.27.4 on, a reload leaves idle connections open for a while, so that no request meets a closing one.
    if "$nginx" -v 2>&1 | awk -F '[/. ]' '{ v = $(NF-2) * 1000000 + $(NF-1) * 1000 + $NF; exit v < 1027004 }'; then
        echo 'keepalive_min_timeout 10s;'
    fi
} >"$folder/version-start.conf"

for service in ${PLINTH_UPSTREAMS:-gateway}; do
    sh "$scripts/upstreams.sh" "$service" first
    sh "$scripts/upstreams.sh" "$service" follow </dev/null &
done
