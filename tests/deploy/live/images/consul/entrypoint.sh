#!/bin/sh
# As the official image: `agent ...` runs the agent on /consul/data and /consul/config, as the user consul.
set -eu
if [ "$1" = agent ]; then
    shift
    set -- consul agent -data-dir=/consul/data -config-dir=/consul/config "$@"
    [ "$(id -u)" != 0 ] || exec setpriv --reuid=consul --regid=consul --clear-groups "$@"
fi
exec "$@"
