#!/usr/bin/env bash
# Proves that what is released works away from the checkout: builds the sdist, and the wheel from it; installs each in a
# fresh virtual environment; starts the broker, sends a message through it with mosquitto's clients, and stops it.
set -euo pipefail
cd "$(dirname "$0")/.."

python=$PWD/.venv/bin/python
work=$(mktemp -d)
broker=
clean_up() {
    [[ -z $broker ]] || kill "$broker" 2>/dev/null || :
    rm -rf "$work"
}
trap clean_up EXIT

fail() {
    echo "smoke: $1" >&2
    [[ ! -f $work/log ]] || cat "$work/log" >&2
    exit 1
}

# wait_for SECONDS COMMAND...: until COMMAND succeeds
wait_for() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.05
    done
}

announced() { grep -qs 'listening on tcp://127.0.0.1:[0-9]\+' "$work/log"; }
subscribed() { grep -qs 'SUBACK' "$work/sub.log"; }

exercise() { # exercise NAME ARCHIVE
    local name=$1 archive=$2 venv=$work/venv-$1 port code=0
    echo "smoke: $name: installing $(basename "$archive")"
    "$python" -m venv "$venv"
    "$venv/bin/pip" --disable-pip-version-check --quiet install "$archive"
    cd "$work"
    [[ $("$venv/bin/python" -c 'import fastmq; print(fastmq.__file__)') == "$venv"/* ]] || fail "$name: not the installed package"

    "$venv/bin/fastmq" check >/dev/null || fail "$name: fastmq check"
    "$venv/bin/fastmq" verify-crash --rounds 3 --power-loss --folder "$work/crash-$name" || fail "$name: verify-crash"
    STATE_DIRECTORY="$work" "$venv/bin/fastmq" serve --listen tcp://127.0.0.1:0 2>"$work/log" &
    broker=$!
    wait_for 10 announced || fail "$name: the broker did not say where it listens"
    port=$(grep -o 'tcp://127.0.0.1:[0-9]\+' "$work/log" | head -n 1)
    port=${port##*:}

    stdbuf -oL mosquitto_sub -h 127.0.0.1 -p "$port" -V 5 -q 1 -t 'smoke/+' -C 1 -W 20 -d >"$work/sub.log" &
    local subscriber=$!
    wait_for 10 subscribed || fail "$name: no SUBACK"
    mosquitto_pub -h 127.0.0.1 -p "$port" -V 5 -q 1 -t smoke/test -m "through the $name"
    wait "$subscriber" || fail "$name: the subscriber got nothing"
    grep -qx "through the $name" "$work/sub.log" || fail "$name: another message than was sent"

    kill -TERM "$broker"
    wait "$broker" || code=$?
    broker=
    ((code == 0)) || fail "$name: exit code $code after SIGTERM"
    echo "smoke: $name: a message went through, and the broker stopped with code 0"
    rm "$work/log" "$work/sub.log"
    cd "$OLDPWD"
}

"$python" -m build --outdir "$work/dist" . >"$work/build.log" 2>&1 || { cat "$work/build.log" >&2; fail "cannot build"; }
exercise wheel "$work"/dist/*.whl
exercise sdist "$work"/dist/*.tar.gz
