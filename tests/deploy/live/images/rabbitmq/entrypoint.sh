#!/bin/bash
# As the official image: rabbitmq* commands run as the user rabbitmq.
set -euo pipefail
if [[ "$1" == rabbitmq* ]] && [ "$(id -u)" = 0 ]; then
    chown rabbitmq /var/lib/rabbitmq
    exec setpriv --reuid=rabbitmq --regid=rabbitmq --clear-groups "$BASH" "$0" "$@"
fi
exec "$@"
