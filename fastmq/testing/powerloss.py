"""A machine that fails on demand: the disk forgets what was not synced, or takes nothing; the wall clock jumps.

The broker runs with powerloss.c preloaded (needs a C compiler); this is what steers it and what restores the disk
after a power cut.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import shutil
import struct
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

__all__ = ["Machine", "NoCompiler", "compile_shim"]

SOURCE: Final = Path(__file__).with_suffix(".c")
BLOCK: Final = 4096
_CONTROL: Final = struct.Struct("=qqq")  # as `struct control`: errno, wall clock, boot clock

Error = Literal["", "EIO", "ENOSPC"]


class NoCompiler(RuntimeError):
    """Simulated faults need a C compiler, `cc`, and the shim's source."""


def compile_shim(folder: Path) -> Path:
    """:raises NoCompiler: there is none, or the source was not installed."""
    target = folder / "powerloss.so"
    command = [
        os.environ.get("CC", "cc"),
        "-std=gnu11",
        "-O2",
        "-shared",
        "-fPIC",
        "-o",
        str(target),
        str(SOURCE),
        "-ldl",
    ]
    if not SOURCE.exists():
        raise NoCompiler(f"{SOURCE} is not installed")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise NoCompiler(f"no C compiler: {command[0]}") from None
    if done.returncode:
        raise NoCompiler(done.stderr)
    return target


class Machine:
    """The machine on which the broker runs. What is below `disk` fails as it is told; `room` is for what this needs."""

    def __init__(self, disk: Path, room: Path, *, loses_power: bool, seed: int = 0, shim: Path | None = None) -> None:
        self.disk = disk
        self._room = room
        self._image = room / "image"
        self._boot_id = room / "boot_id"
        self._random = random.Random(seed)
        self._loses_power = loses_power
        self._shim = shim or compile_shim(room)
        self._state = [0, 0, 0]
        control = room / "control"
        control.write_bytes(_CONTROL.pack(*self._state))
        with control.open("r+b") as file:
            self._control = mmap.mmap(file.fileno(), _CONTROL.size)
        self._boot(0)

    def close(self) -> None:
        self._control.close()

    def environment(self) -> Mapping[str, str]:
        """For the broker's process."""
        given = {
            "LD_PRELOAD": str(self._shim),
            "CRASH_FOLDER": str(self.disk),
            "CRASH_CONTROL": str(self._room / "control"),
            "CRASH_BOOT_ID": str(self._boot_id),
        }
        return {**given, "CRASH_IMAGE": str(self._image)} if self._loses_power else given

    # -- faults that come and go -------------------------------------------------------------------------------------

    def fail_writes(self, error: Error) -> None:
        """From now on whatever writes below the disk fails; "": it works again."""
        self._set(0, getattr(errno, error) if error else 0)

    def step_clock(self, seconds: float) -> None:
        """The wall clock is off by so much from now on."""
        self._set(1, int(seconds * 1e9))

    def _set(self, at: int, value: int) -> None:
        self._state[at] = value
        self._control[:] = _CONTROL.pack(*self._state)

    # -- power cuts --------------------------------------------------------------------------------------------------

    def _boot(self, boot_clock_ns: int) -> None:
        """Another boot id, and a boot clock that is off by so much."""
        self._image.mkdir(exist_ok=True)
        self._boot_id.write_text(f"{uuid.UUID(int=self._random.getrandbits(128), version=4)}\n")
        self._set(2, boot_clock_ns)

    def cut_power(self, *, keeps_some: bool | None = None) -> None:
        """The broker's process has been killed: the disk becomes what it must still hold.

        `keeps_some`: and a random choice of the blocks that were written but not synced; None: now and then.
        """
        assert self._loses_power
        if keeps_some is None:
            keeps_some = self._random.random() < 0.5
        if (self._image / "complete").exists():
            restored = self._room / "restored"
            self._restore("", restored, keeps_some)
            shutil.rmtree(self.disk)
            shutil.copytree(restored, self.disk)
            shutil.rmtree(restored)
        shutil.rmtree(self._image)
        self._boot(int(10e9) - time.clock_gettime_ns(time.CLOCK_BOOTTIME))

    def _restore(self, below: str, target: Path, keeps_some: bool) -> None:
        target.mkdir()
        for kind, key, name in self._names(below):
            path = f"{below}/{name}"
            if kind == "d":
                self._restore(path, target / name, keeps_some)
                continue
            synced = self._bytes(key)
            written = self.disk / path[1:]
            if keeps_some and _is_file(written, key):
                synced = self._mix(synced, written.read_bytes())
            (target / name).write_bytes(synced)

    def _names(self, below: str) -> Iterator[tuple[str, str, str]]:
        """What a directory holds, its names synced: kind, key, name. Nothing if it never was synced itself."""
        listed = self._image / "names" / (below.replace("/", "%") + "@")
        for line in listed.read_text().splitlines() if listed.exists() else ():
            kind, key, name = line.split(" ", 2)
            yield kind, key, name

    def _bytes(self, key: str) -> bytes:
        path = self._image / "files" / key
        return path.read_bytes() if path.exists() else b""  # a name whose bytes were never synced

    def _mix(self, synced: bytes, written: bytes) -> bytes:
        """Any block may have been written back by itself; and the size, which is the inode's, or not."""
        mixed = bytearray(synced)
        if len(written) != len(synced) and self._random.random() < 0.5:
            mixed = mixed[: len(written)] + bytes(max(0, len(written) - len(synced)))
        for at in range(0, min(len(mixed), len(written)), BLOCK):
            if self._random.random() < 0.5:
                end = min(at + BLOCK, len(mixed), len(written))
                mixed[at:end] = written[at:end]
        return bytes(mixed)


def _is_file(path: Path, key: str) -> bool:
    """Whether the path still is the file that had that key."""
    return path.is_file() and str(path.stat().st_ino) == key.partition("-")[0]
