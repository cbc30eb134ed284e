"""The load generator: C sources, built on demand with `cc`, run for one scenario and one broker process."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

SOURCES: Final = Path(__file__).parent
BINARY: Final = SOURCES / "build" / "mqtt-load"
FLAGS: Final = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Wno-sign-conversion", "-Werror")

Figures = dict[str, int | float | str | bool]


class LoadError(Exception):
    """The generator could not be built, or a run could not be carried out."""


def build() -> Path:
    """The generator's path; compiles it first when a source is newer."""
    sources = sorted(SOURCES.glob("*.c"))
    newest = max(file.stat().st_mtime for file in (*sources, *SOURCES.glob("*.h")))
    if BINARY.exists() and BINARY.stat().st_mtime >= newest:
        return BINARY
    BINARY.parent.mkdir(exist_ok=True)
    fresh = BINARY.with_suffix(f".{os.getpid()}")  # renamed when complete: another run may be building too
    command = [os.environ.get("CC", "cc"), *FLAGS, "-o", str(fresh), *map(str, sources)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise LoadError(f"no C compiler: {command[0]}") from None
    if result.returncode:
        raise LoadError(f"the load generator does not compile:\n{result.stderr}")
    fresh.rename(BINARY)
    return BINARY


def measure(
    arguments: Sequence[str], *, port: int, pid: int = 0, core: int | None = None, timeout_s: float = 120
) -> Figures:
    """Run one workload against a broker; its figures. Raises LoadError when there are none."""
    command = [str(build()), *arguments, "--port", str(port), "--pid", str(pid)]
    if core is not None:
        command = ["taskset", "--cpu-list", str(core), *command]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise LoadError(f"not done after {timeout_s:g} s") from None
    try:
        figures: Figures = json.loads(result.stdout)
    except json.JSONDecodeError:
        raise LoadError(result.stderr.strip() or f"exit code {result.returncode}") from None
    if not figures.get("complete"):
        raise LoadError(result.stderr.strip() or "the broker did not do its part of the setup")
    return figures
