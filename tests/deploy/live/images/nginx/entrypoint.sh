#!/bin/sh
# As the official image: runs what is executable in /docker-entrypoint.d, then the command.
set -e
if [ "$1" = nginx ]; then
    find /docker-entrypoint.d/ -follow -type f -name '*.sh' | sort -V | while read -r file; do
        if [ -x "$file" ]; then "$file"; else echo "$0: ignoring $file, not executable"; fi
    done
fi
exec "$@"
