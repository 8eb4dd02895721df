#!/bin/sh
# Puts lifecycle policy, index template, the shippers' role and user, and Kibana's saved objects in place. May run again at any time:
# everything is written as a whole.
#
# ELASTICSEARCH_URL            default http://elasticsearch:9200
# KIBANA_URL                   default http://kibana:5601; empty: no saved objects
# ELASTICSEARCH_USER           default elastic
# ELASTICSEARCH_PASSWORD_FILE  file with its password; required
# SHIPPER_PASSWORD_FILE        file with the password that plinth-shipper (Logstash, rsyslog) gets; left out: no user is made
# KIBANA_PASSWORD_FILE         file with the password that kibana_system gets; left out: it is not touched
# ELASTICSEARCH_CA             file with the authority of Elasticsearch's certificate, if it has one of its own
set -eu

here=$(cd "$(dirname "$0")" && pwd)
elasticsearch=${ELASTICSEARCH_URL:-http://elasticsearch:9200}
kibana=${KIBANA_URL-http://kibana:5601}
user=${ELASTICSEARCH_USER:-elastic}
: "${ELASTICSEARCH_PASSWORD_FILE:?names the file with the password of $user}"

# curl reads user and password from a file of its own: they appear in no list of processes.
config=$(mktemp)
body=$(mktemp)
answer=$(mktemp)
trap 'rm -f "$config" "$body" "$answer"' EXIT
chmod 600 "$config" "$body" "$answer"
escape() { sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' | tr -d '\n'; }
{
    printf 'user = "%s:%s"\n' "$user" "$(escape <"$ELASTICSEARCH_PASSWORD_FILE")"
    if [ -n "${ELASTICSEARCH_CA:-}" ]; then printf 'cacert = "%s"\n' "$ELASTICSEARCH_CA"; fi
} >"$config"

# The answer goes to $answer; anything but 2xx is shown and fails.
ask() {
    code=$(curl --silent --show-error --max-time 30 --config "$config" --output "$answer" --write-out '%{http_code}' "$@") || return 1
    case $code in
    2??) ;;
    *)
        echo "setup: answered $code: $(cat "$answer")" >&2
        return 1
        ;;
    esac
}

wait_for() {
    tries=0
    until ask "$1" 2>/dev/null; do
        tries=$((tries + 1))
        if [ "$tries" -ge 150 ]; then
            echo "setup: $1 does not answer" >&2
            exit 1
        fi
        sleep 2
    done
}

put() {
    echo "setup: $1"
    ask --request PUT --header 'content-type: application/json' --data-binary "@$2" "$elasticsearch/$1"
}

password() { printf '{"password":"%s"%s}' "$(escape <"$1")" "${2:-}" >"$body"; }

wait_for "$elasticsearch/_cluster/health?wait_for_status=yellow&timeout=5s"
put _ilm/policy/plinth-logs "$here/elasticsearch/ilm-policy.json"
put _index_template/plinth-logs "$here/elasticsearch/index-template.json"

if [ -n "${SHIPPER_PASSWORD_FILE:-}" ]; then
    put _security/role/plinth-shipper "$here/elasticsearch/shipper-role.json"
    password "$SHIPPER_PASSWORD_FILE" ',"roles":["plinth-shipper"],"full_name":"Ships logs of Plinth"'
    put _security/user/plinth-shipper "$body"
fi
if [ -n "${KIBANA_PASSWORD_FILE:-}" ]; then
    password "$KIBANA_PASSWORD_FILE"
    put _security/user/kibana_system/_password "$body"
fi

if [ -n "$kibana" ]; then
    wait_for "$kibana/api/status"
    echo "setup: saved objects"
    ask --request POST --header 'kbn-xsrf: plinth' --form "file=@$here/kibana/plinth.ndjson" "$kibana/api/saved_objects/_import?overwrite=true"
    # Kibana answers 200 also when it could not import everything.
    if ! grep -q '"success":true' "$answer"; then
        echo "setup: not imported: $(cat "$answer")" >&2
        exit 1
    fi
fi
echo "setup: done"
