#!/bin/sh
# Install what is missing on a Debian machine, then lamella itself into .venv.
# usage: setup.sh run|test
set -eu
cd "$(dirname "$0")/.."
need() { # package command-or-path
    if [ -e "$2" ] || command -v "$2" >/dev/null 2>&1; then return; fi
    missing="${missing:-} $1"
}
PATH=$PATH:/usr/sbin:/sbin
missing=
need python3 /usr/bin/python3
ls /usr/lib/python3*/ensurepip/__init__.py >/dev/null 2>&1 || missing="$missing python3-venv"
need crun crun
need conmon conmon
need mmdebstrap mmdebstrap
need busybox-static busybox
need ca-certificates /etc/ssl/certs/ca-certificates.crt
need procps ps
if [ "${1:-run}" = test ]; then
    need docker.io /usr/sbin/dockerd
    need containerd /usr/bin/containerd
    need runc runc
    need podman podman
    need skopeo skopeo
    need umoci umoci
    need attr setfattr
    need libcap2-bin setcap
    need e2fsprogs mkfs.ext4
    need xz-utils xz
    need zstd zstd
    need git git
    need curl curl
    need bzip2 bzip2
    need docker-registry docker-registry
    need openssl openssl
    need chromium chromium
fi
if [ -n "$missing" ]; then
    echo "installing:$missing"
    export DEBIAN_FRONTEND=noninteractive
    # A service that a package starts by itself is not wanted: the tests start their own daemons.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    apt-get -q update
    # shellcheck disable=SC2086
    apt-get -qq install -y --no-install-recommends $missing >/dev/null
fi
[ -x .venv/bin/python ] || /usr/bin/python3 -m venv .venv
stamp=.venv/.installed-${1:-run}
if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
    .venv/bin/pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
    if [ "${1:-run}" = test ]; then
        .venv/bin/pip install --quiet --editable . --group dev
    else
        .venv/bin/pip install --quiet --editable .
    fi
    touch "$stamp"
fi
