#!/bin/sh
# rootfs.sh PROGRAMS DESTINATION: gathers the root file system of the runtime images in DESTINATION: the libraries that the
# programs in the folder PROGRAMS are linked to, certificate authorities, time zones, users.
set -eu
programs=$1
root=$2

mkdir -p "$root/etc/ssl/certs" "$root/usr/share/doc" "$root/var/lib/dpkg/status.d"

# ldd prints "name => path (address)", and a path alone for the loader.
libraries=$(for program in "$programs"/*; do
    [ -x "$program" ] || continue
    ldd "$program"
done | awk '/not found/ { print "missing library: " $1 >"/dev/stderr"; failed = 1 }
    $2 == "=>" && $3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 } END { exit failed }' | sort -u)
[ -n "$libraries" ] || { echo "rootfs.sh: no programs in $programs" >&2; exit 1; }
for library in $libraries; do
    mkdir -p "$root${library%/*}"
    cp -L "$library" "$root$library"
done

cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
# posix/ and right/ repeat every zone.
(cd /usr/share && find zoneinfo -path zoneinfo/posix -prune -o -path zoneinfo/right -prune -o -print0) |
    tar -C /usr/share --null --no-recursion -T - -cf - | tar -C "$root/usr/share" -xf -

# getaddrinfo without this file asks DNS before /etc/hosts.
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
cat >"$root/etc/passwd" <<'USERS'
root:x:0:0:root:/:/sbin/nologin
nonroot:x:65532:65532:nonroot:/:/sbin/nologin
USERS
cat >"$root/etc/group" <<'GROUPS'
root:x:0:
nonroot:x:65532:
GROUPS
cp -L /etc/os-release "$root/etc/os-release"

# For scanners, which look up known vulnerabilities by package and version; and the licences that come with copies.
for package in libc6 libgcc-s1 ca-certificates tzdata; do
    dpkg-query --status "$package" >"$root/var/lib/dpkg/status.d/$package"
    if [ -e "/usr/share/doc/$package/copyright" ]; then
        mkdir -p "$root/usr/share/doc/$package"
        cp -L "/usr/share/doc/$package/copyright" "$root/usr/share/doc/$package/"
    fi
done

# Folders that images give to their user.
mkdir -p /empty /kong-logs
ln -s /dev/stdout /kong-logs/access.log
