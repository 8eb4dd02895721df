#!/bin/sh
# Makes the secrets of the dev overlay: a key pair for tokens and random passwords, in ./secrets beside this file (or in the
# folder given). It never replaces what is there: the databases keep their first passwords.
set -eu
umask 077
folder="${1:-$(dirname "$0")/secrets}"
if [ -e "$folder" ]; then
    echo "$folder exists; remove it to make new secrets (and the volumes of the old ones with it)" >&2
    exit 1
fi
password() { openssl rand -hex 20; }
for name in auth signing postgresql redis rabbitmq; do mkdir -p "$folder/plinth-$name"; done

openssl genpkey -algorithm ed25519 -out "$folder/plinth-signing/token-key.pem"
openssl pkey -in "$folder/plinth-signing/token-key.pem" -pubout -out "$folder/plinth-auth/auth.pub.pem"

secret="$(password)"
printf '%s' "$secret" >"$folder/plinth-postgresql/password"
printf 'postgres://plinth:%s@plinth-postgresql:5432/plinth' "$secret" >"$folder/plinth-postgresql/url"

secret="$(password)"
printf '%s' "$secret" >"$folder/plinth-redis/password"
printf 'requirepass %s\n' "$secret" >"$folder/plinth-redis/redis.conf"

secret="$(password)"
printf '%s' "$secret" >"$folder/plinth-rabbitmq/password"
printf 'amqp://plinth:%s@plinth-rabbitmq:5672/%%2f' "$secret" >"$folder/plinth-rabbitmq/url"
printf 'default_user = plinth\ndefault_pass = %s\n' "$secret" >"$folder/plinth-rabbitmq/rabbitmq.conf"
