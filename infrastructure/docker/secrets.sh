#!/bin/sh
# Makes the secrets that docker-compose.yml reads, once, at random:
#
#   infrastructure/docker/secrets.sh                          everything, in ./secrets; an existing folder is left alone
#   infrastructure/docker/secrets.sh tokens                   the services' own tokens anew (they expire after a year)
#   infrastructure/docker/secrets.sh kong                     secrets/kong.yml anew, after a change of infrastructure/kong/kong.yml
#   infrastructure/docker/secrets.sh token SCOPES [SECONDS]   prints an operator's token, such as: token "services:write config:read"
#   infrastructure/docker/secrets.sh consumer-token [SECONDS] prints a token of the Kong file's consumer frontend-app
#
# The folder is closed to others (0700). Files that containers read are readable for every user inside it: the containers'
# users have ids of their own, and Docker binds the files one by one. Private keys that no container needs are 0600.
# PLINTH_FRONT_NAME is the front's host name in its certificate (localhost).
set -eu
umask 077

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
secrets=${PLINTH_SECRETS_DIR:-$root/secrets}
kong_source=$root/infrastructure/kong/kong.yml
year=31536000

fail() {
    echo "secrets.sh: $*" >&2
    exit 1
}

command -v openssl >/dev/null || fail "openssl is not installed (Debian package openssl)"

# ---- pieces

# A random word of 43 characters, 256 bits, safe in URLs.
word() {
    openssl rand 32 | base64url
}

base64url() {
    openssl base64 -A | tr '+/' '-_' | tr -d '='
}

# give NAME MODE: standard input becomes a secret. Written beside it and renamed, so that nobody reads half of it.
give() {
    cat >"$secrets/.$1.new"
    [ -s "$secrets/.$1.new" ] || fail "$1 came out empty: is this OpenSSL 3 or newer? ($(openssl version))"
    chmod "$2" "$secrets/.$1.new"
    mv "$secrets/.$1.new" "$secrets/$1"
}

# sign ALGORITHM KEY SUBJECT-CLAIMS SECONDS: a JSON Web Token.
sign() {
    now=$(date +%s)
    head=$(printf '{"typ":"JWT","alg":"%s"}' "$1" | base64url)
    body=$(printf '{%s,"iat":%d,"exp":%d}' "$3" "$now" $((now + $4)) | base64url)
    case $1 in
        EdDSA)
            # Ed25519 signs the whole text, which openssl reads from a file only.
            printf '%s.%s' "$head" "$body" >"$secrets/.signing"
            signature=$(openssl pkeyutl -sign -rawin -inkey "$2" -in "$secrets/.signing" | base64url)
            rm "$secrets/.signing"
            ;;
        RS256) signature=$(printf '%s.%s' "$head" "$body" | openssl dgst -sha256 -sign "$2" | base64url) ;;
    esac
    printf '%s.%s.%s' "$head" "$body" "$signature"
}

# token SUBJECT SCOPES SECONDS
token() {
    case $1$2 in
        *[!A-Za-z0-9:/_.*\ -]*) fail "scopes are words such as services:read or config:write:shop/prod, separated by blanks" ;;
    esac
    sign EdDSA "$secrets/token-key.pem" "$(printf '"sub":"%s","iss":"plinth","aud":"plinth","scope":"%s"' "$1" "$2")" "$3"
}

seconds() {
    case $1 in
        '' | *[!0-9]*) fail "SECONDS must be a whole number, not '$1'" ;;
    esac
}

made() {
    [ -e "$secrets/token-key.pem" ] || fail "there are no secrets in $secrets yet; run infrastructure/docker/secrets.sh first"
}

# ---- what is made

tokens() {
    # Each with the one scope that its holder needs.
    token registry-service health:read "$year" | give registry-health-token 0444
    token health-aggregator health:probe "$year" | give health-peer-token 0444
    token nginx services:read "$year" | give nginx-registry-token 0444
}

# The Kong file with this installation's consumer key and Redis password in the places of the example's.
kong() {
    awk -v public="$secrets/consumer-key.pub.pem" -v password="$secrets/redis-password" '
        BEGIN { getline secret <password }
        /-----BEGIN PUBLIC KEY-----/ {
            indent = $0
            sub(/-----.*/, "", indent)
            while ((getline line <public) > 0) print indent line
            keys++
            skipping = 1
        }
        !skipping { print }
        /-----END PUBLIC KEY-----/ { skipping = 0 }
        /^ *redis_host:/ {
            indent = $0
            sub(/redis_host.*/, "", indent)
            print indent "redis_password: \"" secret "\""
        }
        END { if (keys != 1) exit 3 }
    ' "$kong_source" >"$secrets/.kong.yml" || fail "$kong_source must have one public key to replace"
    # In place: Docker has bound the file itself, and a new one under its name would not be seen in the container.
    [ -e "$secrets/kong.yml" ] || : >"$secrets/kong.yml"
    cat "$secrets/.kong.yml" >"$secrets/kong.yml"
    rm "$secrets/.kong.yml"
    chmod 0444 "$secrets/kong.yml"
}

certificate() {
    name=${PLINTH_FRONT_NAME:-localhost}
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=Plinth local authority" \
        -keyout "$secrets/.ca.key" -out "$secrets/.ca.pem" 2>/dev/null
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$name" \
        -keyout "$secrets/.front.key" -out "$secrets/.front.csr" 2>/dev/null
    {
        echo "subjectAltName=DNS:$name,DNS:localhost,IP:127.0.0.1,IP:::1"
        echo 'basicConstraints=critical,CA:FALSE'
        echo 'keyUsage=critical,digitalSignature'
        echo 'extendedKeyUsage=serverAuth'
    } >"$secrets/.front.ext"
    openssl x509 -req -in "$secrets/.front.csr" -CA "$secrets/.ca.pem" -CAkey "$secrets/.ca.key" -CAcreateserial \
        -days 820 -sha256 -extfile "$secrets/.front.ext" -out "$secrets/.front.pem" 2>/dev/null
    give front-ca.pem 0444 <"$secrets/.ca.pem"
    give front.pem 0444 <"$secrets/.front.pem"
    give front.key 0444 <"$secrets/.front.key"
    # The authority's key is thrown away: nobody can sign another certificate that browsers here would trust.
    rm "$secrets"/.ca.* "$secrets"/.front.*
}

# RabbitMQ's users in the form it imports: the password as salted SHA-256.
rabbitmq() {
    password=$1
    openssl rand 4 >"$secrets/.salt"
    printf '%s' "$password" >"$secrets/.password"
    hash=$({
        cat "$secrets/.salt"
        cat "$secrets/.salt" "$secrets/.password" | openssl dgst -sha256 -binary
    } | openssl base64 -A)
    rm "$secrets/.salt" "$secrets/.password"
    cat <<DEFINITIONS
{
  "vhosts": [{"name": "plinth"}],
  "users": [{"name": "config-service", "password_hash": "$hash", "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": []}],
  "permissions": [
    {"user": "config-service", "vhost": "plinth", "configure": "^plinth\\\\.events$", "write": "^plinth\\\\.events$", "read": "^$"}
  ]
}
DEFINITIONS
}

everything() {
    if [ -e "$secrets" ] && [ -n "$(ls -A "$secrets")" ]; then
        fail "$secrets is there already and is not overwritten. To begin anew: docker compose down --volumes, remove the folder"
    fi
    mkdir -p "$secrets"
    chmod 0700 "$secrets"

    openssl genpkey -algorithm ed25519 | give token-key.pem 0600
    openssl pkey -in "$secrets/token-key.pem" -pubout | give auth.pub.pem 0444
    tokens

    word | give postgres-password 0444
    database=$(word)
    printf '%s' "$database" | give postgres-config-password 0444
    printf 'postgres://config_service:%s@postgres:5432/plinth' "$database" | give config-database-url 0444

    redis=$(word)
    printf '%s' "$redis" | give redis-password 0444
    # What the gateway's and Kong's limits and caches use; nothing that looks around, configures or deletes by the lot.
    printf 'user default on #%s resetchannels ~* -@all +@connection +@read +@write +@scripting +@transaction -@dangerous\n' \
        "$(printf '%s' "$redis" | openssl dgst -sha256 -r | cut -d ' ' -f 1)" | give redis-users.acl 0444

    events=$(word)
    rabbitmq "$events" | give rabbitmq-definitions.json 0444
    printf 'amqp://config-service:%s@rabbitmq:5672/plinth' "$events" | give config-events-url 0444

    printf '{"encrypt": "%s"}\n' "$(openssl rand -base64 32)" | give consul-gossip.json 0444

    openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 2>/dev/null | give consumer-key.pem 0600
    openssl pkey -in "$secrets/consumer-key.pem" -pubout | give consumer-key.pub.pem 0444
    kong

    certificate

    for name in grafana-password elastic-password kibana-password kibana-encryption-key logstash-password; do
        word | give "$name" 0444
    done

    # docker-compose.yml asks for this variable, so that a forgotten secrets.sh gets an error which says so.
    environment=$root/.env
    if [ -z "${PLINTH_SECRETS_DIR:-}" ] && ! grep -qs '^PLINTH_SECRETS=' "$environment"; then
        echo 'PLINTH_SECRETS=./secrets' >>"$environment"
    fi
    echo "secrets are in $secrets; keep token-key.pem: it signs every access token"
}

case ${1:-} in
    '') everything ;;
    tokens) made && tokens ;;
    kong) made && kong ;;
    token)
        made
        [ $# -ge 2 ] || fail 'token needs SCOPES, such as "services:read"'
        seconds "${3:-3600}"
        token operator "$2" "${3:-3600}"
        echo
        ;;
    consumer-token)
        made
        seconds "${2:-3600}"
        sign RS256 "$secrets/consumer-key.pem" '"iss":"frontend-app-key"' "${2:-3600}"
        echo
        ;;
    *) fail "unknown command '$1': none, tokens, kong, token or consumer-token" ;;
esac
