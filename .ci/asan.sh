#!/usr/bin/env bash
# The engine-heavy tests with every memory access checked (AddressSanitizer) and undefined behaviour reported (UBSan).
# Builds a copy of the tree in a temporary folder, so that instrumented extensions never stand in for the real ones.
# About five minutes on two cores. Arguments replace the list of tests: .ci/asan.sh tests/spec -k retain
set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
copy=$(mktemp -d --suffix=-fastmq-asan)
trap 'rm -rf "$copy"' EXIT

git ls-files -z --cached --others --exclude-standard | tar --null --files-from - --create --ignore-failed-read | tar --extract --directory "$copy"
cd "$copy"
FASTMQ_SANITIZE=address,undefined "$python" setup.py --quiet build_ext --inplace

# libstdc++ goes first into the process too, or exceptions of other extensions find no sanitizer behind them.
preload=$(for library in asan ubsan stdc++; do cc -print-file-name="lib$library.so"; done | paste --serial --delimiters=:)
# Python's own leaks at exit are not ours (tests/leaks looks for those); a small quarantine keeps resident memory honest.
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:quarantine_size_mb=16
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export PYTHONMALLOC=malloc PYTHONPATH=$copy PYTHONDONTWRITEBYTECODE=1 HYPOTHESIS_EXAMPLES=${HYPOTHESIS_EXAMPLES:-60}

if [ $# -eq 0 ]; then
    set -- tests/properties tests/fuzz tests/faults tests/wire tests/spec tests/unit/test_{hub,session,share,durable,embedded}*.py
fi
LD_PRELOAD=$preload "$python" -m pytest -p no:cacheprovider --timeout 120 "$@"
