#!/bin/sh
# manifests.sh SOURCE DESTINATION: copies what decides which dependencies are compiled, and nothing else: Cargo's manifests and
# the lock file, with an empty source for every target that they declare.
set -eu
source=$1
destination=$2

cd "$source"
mkdir -p "$destination"
find . -name Cargo.toml -o -name Cargo.lock -o -path ./.cargo/config.toml | while read -r file; do
    mkdir -p "$destination/${file%/*}"
    cp "$file" "$destination/$file"
done

# --no-deps reads the workspace's own manifests only, so it needs no network.
cargo metadata --no-deps --offline --format-version 1 >/tmp/metadata.json
grep -o '"src_path":"[^"]*"' /tmp/metadata.json | cut -d '"' -f 4 | while read -r path; do
    file=$destination/${path#"$source"/}
    mkdir -p "${file%/*}"
    case $path in
        */lib.rs) : >"$file" ;;
        *) echo 'fn main() {}' >"$file" ;;
    esac
done
rm /tmp/metadata.json
