#!/usr/bin/env bash
# Installs what the tests need beyond Python packages: Debian's mosquitto and its clients, Node.js with the
# packages in interop/node, Chromium, the databases and the directory that brokers ask, what makes network namespaces, a C compiler with Python's
# headers, valgrind. Idempotent, and quick when all is there.
# Fails with a sentence that says what is missing.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
node_dir=$here/interop/node
log=$(mktemp)
as_root=
own_policy=
policy=/usr/sbin/policy-rc.d
clean_up() {
    rm -f "$log"
    [ -z "$own_policy" ] || $as_root rm -f "$policy"
}
trap clean_up EXIT

fail() {
    [ -s "$log" ] && tail -n 40 "$log" >&2
    printf 'provision: %s\n' "$*" >&2
    exit 1
}

has() { PATH=$PATH:/usr/sbin command -v "$1" >/dev/null 2>&1; }
has_headers() {
    "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' 2>/dev/null
}
has_venv() { "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; }
has_libc_headers() { echo '#include <stdlib.h>' | gcc -E -x c - >/dev/null 2>&1; }

has_postgresql() { has postgres || compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null; }

missing=()
services=()
has "$python" || missing+=(python3)
has_headers || missing+=(python3-dev)
has_venv || missing+=(python3-venv)
has gcc || missing+=(gcc)
{ has gcc && has_libc_headers; } || missing+=(libc6-dev)
has make || missing+=(make)
has valgrind || missing+=(valgrind)
has mosquitto || { missing+=(mosquitto); services+=(mosquitto); }
{ has mosquitto_pub && has mosquitto_sub; } || missing+=(mosquitto-clients)
has node || missing+=(nodejs)
has npm || missing+=(npm)
has chromium || missing+=(chromium)
has_postgresql || { missing+=(postgresql); services+=(postgresql); }
has mariadbd || { missing+=(mariadb-server); services+=(mariadb); }
has redis-server || { missing+=(redis-server); services+=(redis-server); }
has slapd || { missing+=(slapd); services+=(slapd); }
has ip || missing+=(iproute2)
has unshare || missing+=(util-linux)

# Debian starts a service as soon as its package is unpacked; a second broker on 1883, for one, would answer in place
# of the one under test. While we install, the policy file forbids every start; it goes again if it was not there.
install_packages() {
    if [ "${#services[@]}" -gt 0 ] && [ ! -e "$policy" ]; then
        own_policy=yes
        printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
        $as_root chmod 755 "$policy"
    fi
    $as_root apt-get update >>"$log" 2>&1 || return
    $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends "${missing[@]}" >>"$log" 2>&1
}

if [ "${#missing[@]}" -gt 0 ]; then
    echo "provision: installing ${missing[*]}"
    has apt-get || fail "these must be installed by hand, for there is no apt-get here: ${missing[*]}"
    [ "$(id -u)" -eq 0 ] || { has sudo || fail "run as root, or install by hand: ${missing[*]}"; as_root=sudo; }
    install_packages || fail "apt-get could not install: ${missing[*]}"
    # Where systemd runs, the next boot would start them too.
    if [ "${#services[@]}" -gt 0 ] && [ -d /run/systemd/system ]; then
        $as_root systemctl disable --now "${services[@]}" >>"$log" 2>&1 || fail "a new service could not be stopped"
    fi
fi

for tool in "$python" gcc make valgrind mosquitto mosquitto_pub mosquitto_sub node npm chromium mariadbd redis-server slapd ip unshare; do
    has "$tool" || fail "$tool is still missing after the installation"
done
has_postgresql || fail "postgres is still missing after the installation"
has_headers || fail "$python has no Python.h; install the -dev package of that Python"
has_venv || fail "$python cannot make virtual environments; install the -venv package of that Python"
node -e 'process.exit(Number(process.versions.node.split(".")[0]) >= 18 ? 0 : 1)' ||
    fail "Node.js 18 or newer is needed, found $(node --version)"

# The stamp holds the checksum of what was installed, so an edit of package.json installs again.
stamp=$node_dir/node_modules/.provisioned
wanted=$(cat "$node_dir/package.json" "$node_dir/package-lock.json" | sha256sum)
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "provision: installing the npm packages of tests/interop/node"
    (cd "$node_dir" && npm ci --ignore-scripts --no-audit --no-fund) >>"$log" 2>&1 ||
        fail "npm could not install the packages of $node_dir/package.json"
    printf '%s\n' "$wanted" >"$stamp"
fi
