#!/bin/sh
# Starts Kong in its container. *.service.consul names come from Consul, which Kong wants by address; access logs that the file
# sends to /var/log/kong go to standard output, as in the gateway's image.
set -eu
address=$(getent hosts consul | awk '{ print $1; exit }')
[ -n "$address" ] || { echo "kong.sh: the name consul has no address" >&2; exit 1; }
export KONG_DNS_RESOLVER="$address:8600"
ln -sf /dev/stdout /var/log/kong/access.log
exec /docker-entrypoint.sh kong docker-start
