#!/bin/bash
# Runs once, on a new data folder: for every service that keeps a history, a role and a schema of its own in the database of
# POSTGRES_DB. A role reads and writes its own schema and no other.
set -euo pipefail

# role:schema:file with the role's password. Of the four services, config-service alone keeps its truth in SQL.
services=(config_service:plinth_config:/run/secrets/postgres-config-password)

psql() { command psql -v ON_ERROR_STOP=1 --no-psqlrc --quiet --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" "$@"; }

psql --set db="$POSTGRES_DB" <<'SQL'
REVOKE ALL ON DATABASE :"db" FROM PUBLIC;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
SQL

for service in "${services[@]}"; do
    IFS=: read -r role schema file <<<"$service"
    [ -s "$file" ] || { echo "init.sh: $file, the password of $role, is missing" >&2; exit 1; }
    # By the environment of this process: on a command line every process could see it. CREATE on the database, as the
    # services' migrations begin with CREATE SCHEMA IF NOT EXISTS, which asks for it even when there is nothing to create.
    PLINTH_PASSWORD=$(<"$file") psql --set db="$POSTGRES_DB" --set role="$role" --set schema="$schema" <<'SQL'
\set password `printf %s "$PLINTH_PASSWORD"`
SET log_statement = 'none';
SET log_min_error_statement = 'panic';
CREATE ROLE :"role" LOGIN PASSWORD :'password' NOSUPERUSER NOCREATEDB NOCREATEROLE CONNECTION LIMIT 64;
CREATE SCHEMA :"schema" AUTHORIZATION :"role";
GRANT CONNECT, CREATE ON DATABASE :"db" TO :"role";
SQL
done
