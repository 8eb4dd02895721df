#!/bin/sh
# compile.sh PROFILE [OUT]: builds the six programs in the current folder, with OUT copies them there. Without OUT the sources
# are empty and what stays is their dependencies.
set -eu
profile=$1
out=${2:-}

# Sources copied out of a checkout are older than what was built from the empty ones; to Cargo they would look unchanged.
find crates services examples -type f -exec touch {} +

cargo build --locked --profile "$profile" \
    -p registry-service -p config-service -p health-aggregator -p gateway -p plinth -p demo-service

if [ -n "$out" ]; then
    case $profile in
        dev) folder=debug ;;
        *) folder=$profile ;;
    esac
    mkdir -p "$out"
    for program in registry-service config-service health-aggregator gateway plinth demo-service; do
        cp "$CARGO_TARGET_DIR/$folder/$program" "$out/"
    done
fi
