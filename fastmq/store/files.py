"""The files of a store: its folder, its lock, what kind of file is there, and putting a damaged one aside."""

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from fastmq.errors import StartError
from fastmq.store.schema import APPLICATION_ID, VERSION

MAGIC: Final = b"SQLite format 3\0"
HEADER_BYTES: Final = 100
SUFFIXES: Final = ("", "-wal", "-shm", "-journal")
"""What SQLite keeps beside a file."""


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


class Lock:
    """Holds `<file>.lock` for this process, so that two brokers never write one file."""

    def __init__(self, path: Path) -> None:
        name = beside(path, ".lock")
        self._file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(self._file, 32, 0).decode("ascii", "replace").strip() or "another process"
            os.close(self._file)
            raise StartError(f"{path}: process {owner} has this store open") from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """The file stays: were it removed, two processes could each hold a lock of the same name."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def prepare(path: Path) -> None:
    """Makes the folder and an empty file when they are missing, for the owner's eyes only."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # SQLite gives its other files this mode
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes new names in the folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_database(path: Path) -> bool:
    """Whether the file is empty or begins as a database; raises StartError when it is not this version's to touch."""
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    if not header:
        return True
    if len(header) < HEADER_BYTES or not header.startswith(MAGIC):
        return False
    version, application = int.from_bytes(header[60:64], "big"), int.from_bytes(header[68:72], "big")
    if application == 0 and version == 0 and beside(path, "-journal").exists():
        return True  # cut off while it was made; SQLite will undo that
    if application != APPLICATION_ID:
        raise StartError(f"{path}: this is a database of another program; it is left as it is")
    if version > VERSION:
        raise StartError(
            f"{path}: the store has format {version}, this fastmq reads up to {VERSION}; it is left as it is"
        )
    return True


def set_aside(path: Path) -> Path:
    """Renames a damaged store; returns its new name, which no file had."""
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    new, number = beside(path, f".damaged-{now}"), 1
    while any(beside(new, suffix).exists() for suffix in SUFFIXES):
        number += 1
        new = beside(path, f".damaged-{now}-{number}")
    for suffix in SUFFIXES:
        if beside(path, suffix).exists():
            beside(path, suffix).rename(beside(new, suffix))
    sync_folder(path.parent)
    return new


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
