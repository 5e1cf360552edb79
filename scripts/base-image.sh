#!/bin/sh
# Make a root file system tar to start from: Debian by mmdebstrap, else busybox where no mirror can be reached.
# usage: base-image.sh TARGET.tar
set -eu
target=$1
mkdir -p "$(dirname "$target")"
if mmdebstrap --quiet --format=tar --variant=minbase bookworm "$target.new" 2>"$target.log"; then
    mv "$target.new" "$target"
    rm -f "$target.log"
    exit 0
fi
echo "no Debian mirror in reach (see $target.log): using a busybox root file system" >&2
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/bin" "$root/dev" "$root/etc" "$root/proc" "$root/root" "$root/sys" "$root/tmp" "$root/usr/bin" "$root/var"
chmod 1777 "$root/tmp"
cp /bin/busybox "$root/bin/busybox"
for applet in $(/bin/busybox --list); do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done
ln -s sh "$root/bin/bash"
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"
tar --numeric-owner --sort=name -C "$root" -cf "$target.new" .
mv "$target.new" "$target"
