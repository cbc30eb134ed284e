#!/usr/bin/env bash
# Makes the virtual environment that the Makefile works in: scripts/make-venv.sh .venv
# On Debian as root it first installs what building needs and is missing: a compiler, Python's headers, venv.
set -euo pipefail

venv=${1:?usage: make-venv.sh DIRECTORY}
python=${PYTHON:-python3}

missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v "$python" >/dev/null || missing+=(python3)
if ! "$python" -c 'import ensurepip' 2>/dev/null; then missing+=(python3-venv); fi
if ! "$python" -c 'import os, sysconfig as s; os.stat(os.path.join(s.get_path("include"), "Python.h"))' 2>/dev/null; then
    missing+=(python3-dev)
fi

if ((${#missing[@]})); then
    if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
        echo "make-venv: installing ${missing[*]}"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
    else
        echo "make-venv: please install: ${missing[*]} (Debian: sudo apt-get install ${missing[*]})" >&2
        exit 1
    fi
fi

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fastmq needs Python 3.11 or newer")'
[[ -x $venv/bin/python ]] || "$python" -m venv "$venv"
"$venv/bin/pip" --disable-pip-version-check --quiet install 'setuptools>=77' wheel 'cython>=3.1'
