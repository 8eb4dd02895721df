#!/bin/sh
# nginx answers, and the loops that follow the registry are alive.
set -eu
folder=${PLINTH_UPSTREAMS_DIR:-/run/nginx}
curl --silent --fail --max-time 2 --output /dev/null http://127.0.0.1:8081/health
for service in ${PLINTH_UPSTREAMS:-gateway}; do
    # A wait for a change takes 40 s at most.
    [ -n "$(find "$folder/upstream-$service.alive" -mmin -2)" ]
done
