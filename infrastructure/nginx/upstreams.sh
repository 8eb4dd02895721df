#!/bin/sh
# Keeps an nginx upstream in step with the registry.
#
#   upstreams.sh SERVICE first     waits for instances and writes the upstream once; nginx need not run yet
#   upstreams.sh SERVICE follow    from then on: writes it anew when they change, tests the configuration, reloads nginx
#
# An upstream is replaced whole by a rename, and only by a configuration that `nginx -t` accepts. It is never emptied: when the
# registry is away, or knows no healthy instance, the last one stays, and nginx finds out itself who answers.
set -eu

service=${1:-}
mode=${2:-}
registry=${PLINTH_REGISTRY_URL:-http://registry-service:8510}
token_file=${PLINTH_REGISTRY_TOKEN_FILE:-}
folder=${PLINTH_UPSTREAMS_DIR:-/run/nginx}
nginx=${PLINTH_NGINX:-nginx}
conf=${PLINTH_NGINX_CONF:-/etc/nginx/nginx.conf}
# How long the registry holds an answer back until something changes, and how long `first` waits for an instance.
wait=${PLINTH_UPSTREAMS_WAIT:-30}
first=${PLINTH_UPSTREAMS_FIRST:-30}
scripts=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

say() {
    printf '{"@timestamp":"%s","log.level":"%s","message":"%s","service.name":"nginx-upstreams"}\n' \
        "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$1" "$(printf %s "$2" | tr -d '\042\134' | tr '\n' ' ')" >&2
}

case $service in
    '' | *[!a-z0-9-]*) say error "upstreams.sh needs the name of a service"; exit 64 ;;
esac
target=$folder/upstream-$service.conf
work=$folder/.upstream-$service

# ask [INDEX]: the registry's answer into $work.json, its index into $index. With INDEX it comes when there is a later state.
ask() {
    query="$registry/api/v1/services/discover/$service?healthy_only=true"
    [ -z "${1:-}" ] || query="$query&index=$1&wait=${wait}s"
    # The token goes through a pipe: a command line can be read by every process.
    status=$({ [ -z "$token_file" ] || printf 'header = "Authorization: Bearer %s"\n' "$(cat "$token_file")"; } |
        curl --config - --silent --show-error --connect-timeout 2 --max-time $((wait + 10)) \
            --dump-header "$work.headers" --output "$work.json" --write-out '%{http_code}' "$query" 2>"$work.error") || {
        reason="registry: $(cat "$work.error")"
        return 1
    }
    if [ "$status" != 200 ]; then
        reason="registry: answer $status"
        return 1
    fi
    index=$(sed -n 's/^[Xx]-[Pp]linth-[Ii]ndex: *\([0-9]*\).*/\1/p' "$work.headers")
}

# block NAME: an upstream of what is in $work.sorted.
block() {
    echo "upstream $1 {"
    echo "    zone $1 256k;"
    echo "    random two least_conn;"
    while read -r address port weight; do
        echo "    server $address:$port weight=$weight max_fails=2 fail_timeout=2s;"
    done <"$work.sorted"
    # Shorter than the gateway's own 60 s, so that it is nginx who closes idle connections.
    echo "    keepalive 64;"
    echo "    keepalive_timeout 30s;"
    echo "}"
}

# The upstream for the answer into $work.new. Fails when there is nobody in it.
render() {
    awk -f "$scripts/instances.awk" "$work.json" >"$work.list" 2>"$work.error" || {
        reason="registry: $(cat "$work.error")"
        return 1
    }
    if [ ! -s "$work.list" ]; then
        reason="no healthy instance of $service"
        return 1
    fi
    LC_ALL=C sort -u "$work.list" >"$work.sorted"
    {
        echo "# Written by upstreams.sh from the registry; changes here are lost."
        block "plinth_$service"
        # The same once more: kept connections speak either HTTP/1.1 or HTTP/2, and nginx does not tell them apart.
        block "plinth_${service}_grpc"
    } >"$work.new"
}

# Puts $work.new in place and has nginx read it. It is tested beside the one in force, with a configuration that differs in where
# the upstreams are, so that what nginx would refuse is never where nginx looks.
apply() {
    rm -rf "$work.try"
    mkdir "$work.try"
    cp "$folder"/upstream-*.conf "$work.try/"
    cp "$work.new" "$work.try/upstream-$service.conf"
    sed "s#$folder/upstream-#$work.try/upstream-#" "$conf" >"$work.try/nginx.conf"
    if ! "$nginx" -t -q -c "$work.try/nginx.conf" 2>"$work.error"; then
        reason="nginx refuses the new upstream: $(cat "$work.error")"
        return 1
    fi
    mv "$work.new" "$target"
    "$nginx" -s reload 2>"$work.error" || {
        reason="nginx did not reload: $(cat "$work.error")"
        return 1
    }
    say info "upstream $service: $(tr '\n' ';' <"$work.sorted")"
}

# A reason is told when it is new, not at every attempt.
complain() {
    [ "$reason" = "${told:-}" ] || say warn "$reason; the last upstream stays"
    told=$reason
}

case $mode in
    first)
        tries=0
        until ask && render; do
            tries=$((tries + 1))
            if [ "$tries" -ge "$first" ]; then
                say warn "$reason; starting with an upstream that answers 502"
                printf 'upstream %s {\n    server 127.0.0.1:9 down;\n}\n' "plinth_$service" "plinth_${service}_grpc" >"$work.new"
                break
            fi
            sleep 1
        done
        mv "$work.new" "$target"
        ;;
    follow)
        index=
        while :; do
            # For the health check: the loop is alive, whatever the registry says.
            : >"$folder/upstream-$service.alive"
            if ask "$index"; then
                if ! render; then
                    complain
                    # An answer with nobody in it has an index; the next one waits for a change, but no tighter than this.
                    sleep 1
                elif cmp -s "$work.new" "$target"; then
                    told=
                elif apply; then
                    told=
                else
                    complain
                    index=
                    sleep 1
                fi
            else
                complain
                # Another replica may count otherwise, and a plain read tells at once.
                index=
                sleep 1
            fi
        done
        ;;
    *) say error "the second word is first or follow"; exit 64 ;;
esac
