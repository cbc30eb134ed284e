"""`python -m tests.check_stubs`: compares each extension module's .pyi with what was compiled (mypy's stubtest).

A module that Python code imports has a stub, or `mypy --strict` fails; one that only the engine cimports needs none.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> int:
    stubs = sorted((ROOT / "fastmq").glob("_*.pyi"))
    modules = [f"fastmq.{stub.stem}" for stub in stubs]
    command = [sys.executable, "-m", "mypy.stubtest", "--allowlist", "tests/stubtest-allowlist.txt"]
    return subprocess.run(
        [*command, "--ignore-unused-allowlist", "--ignore-disjoint-bases", *modules], cwd=ROOT, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
