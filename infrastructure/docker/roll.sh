#!/bin/sh
# roll.sh SERVICE...: starts a service of docker-compose.yml anew, with its current image and settings, without a failed request: as
# many replicas again, and when those are healthy the old ones are asked to stop, one after the other. They leave the registry
# first and serve until everybody has noticed. For an upgrade: pull or build the images, set PLINTH_VERSION, then roll.
set -eu

# PLINTH_COMPOSE: the command, when it is neither of these.
if [ -n "${PLINTH_COMPOSE:-}" ]; then
    compose() { $PLINTH_COMPOSE "$@"; }
elif docker compose version >/dev/null 2>&1; then
    compose() { docker compose "$@"; }
else
    compose() { docker-compose "$@"; }
fi
# How long new replicas may take, in seconds.
limit=${PLINTH_ROLL_LIMIT:-120}

fail() {
    echo "roll.sh: $*" >&2
    exit 1
}

healthy() {
    for container in $(compose ps -q "$1"); do
        state=$(docker inspect --format '{{if .State.Health}}{{.State.Health.Status}}{{else}}{{.State.Status}}{{end}}' "$container")
        [ "$state" = healthy ] || [ "$state" = running ] || return 1
    done
}

[ $# -gt 0 ] || fail "which services? Those of docker-compose.yml without a fixed port: gateway, registry-service, ..."
for service in "$@"; do
    old=$(compose ps -q "$service")
    [ -n "$old" ] || fail "$service does not run"
    count=$(echo "$old" | wc -l)
    compose up -d --no-deps --no-recreate --scale "$service=$((count * 2))" "$service"
    waited=0
    until healthy "$service"; do
        waited=$((waited + 1))
        if [ "$waited" -ge "$limit" ]; then
            fail "new replicas of $service are not healthy after $limit s; the old ones still serve. Look at: docker compose logs $service"
        fi
        sleep 1
    done
    for container in $old; do
        docker stop --time 45 "$container" >/dev/null
        docker rm "$container" >/dev/null
    done
    echo "$service: $count replaced"
done
