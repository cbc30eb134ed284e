"""A small disk that is full soon, and a proof under which disk and clock do what the test says."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fastmq.testing.crash import Plan, Proof

SMALL: int = 16 << 20
LARGE: int = 512 << 20


class Disk:
    """A file system in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        _mount("-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(folder))

    def grow(self) -> None:
        _mount("-o", f"remount,size={LARGE}", str(self.folder))


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, timeout=10)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Disk]:
    """Needs the rights of root, as CI has them."""
    folder = tmp_path / "proof/disk"
    folder.mkdir(parents=True)
    disk = Disk(folder)
    yield disk
    subprocess.run(["umount", str(folder)], check=True, timeout=10)


@pytest.fixture
def start_proof(tmp_path: Path) -> Iterator[Callable[..., Proof]]:
    """Starts a proof in `tmp_path/proof`; arguments as for a Plan."""
    with ExitStack() as proofs:

        def start(**given: object) -> Proof:
            plan = Plan(folder=tmp_path / "proof", seed=random.getrandbits(32), **given)  # type: ignore[arg-type]
            return proofs.enter_context(Proof(plan))

        yield start
