#!/bin/sh
# Play the walk-through on a store of its own and show, at each step, which directory is which layer.
set -eu
cd "$(dirname "$0")/.."
root=${DEMO_ROOT:-/var/tmp/lamella-demo}
base=.cache/debian.tar
say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; }
run() { say "lamella $*"; .venv/bin/lamella --root "$root" "$@"; }

[ "$(id -u)" = 0 ] || { echo "the demo mounts file systems and starts containers: run it as root" >&2; exit 1; }
[ -e "$base" ] || scripts/base-image.sh "$base"
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
cat >"$context/Dockerfile" <<'END'
FROM ubuntu:latest
ENV author jlz
RUN echo "x1" >> /tmp/test
RUN echo "x2" >> /tmp/test2
RUN echo "x3" >> /tmp/test3
ENTRYPOINT ["/bin/bash", "-c", "cat /tmp/test"]
END

for container in $(.venv/bin/lamella --root "$root" ps -aq); do .venv/bin/lamella --root "$root" rm -f "$container" >/dev/null; done
for image in $(.venv/bin/lamella --root "$root" images -q); do .venv/bin/lamella --root "$root" rmi -f "$image" >/dev/null 2>&1 || true; done

run import "$base" ubuntu:latest
say "cat Dockerfile"
cat "$context/Dockerfile"
run build -t my-ubuntu:0.1 "$context"
run inspect --format '{{json .RootFS}} {{json .GraphDriver}}' my-ubuntu:0.1
run explain my-ubuntu:0.1
run run --rm my-ubuntu:0.1

say "lamella run -it --name walker --entrypoint sh my-ubuntu:0.1      # in it: echo hahaha > test4"
# script(1) gives the command a terminal of its own, wherever this runs.
printf 'echo hahaha > test4\nexit\n' |
    script -qec ".venv/bin/lamella --root $root run -it --name walker --entrypoint sh my-ubuntu:0.1" /dev/null
run explain walker
upper=$(.venv/bin/lamella --root "$root" inspect --format '{{.GraphDriver.Data.UpperDir}}' walker)
say "cat $upper/test4      # the container's own layer"
cat "$upper/test4"
run diff walker
run why "$upper/test4"
run blame walker /tmp/test
run commit walker my-ubuntu:0.2
run history my-ubuntu:0.2
run explain my-ubuntu:0.2
run rm walker
run images
run df
run fsck
