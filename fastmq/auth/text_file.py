"""Text files that people write, and that are read again when they change."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from fastmq import logs
from fastmq.auth.work import Work

T = TypeVar("T")

SIZE_MAX_BYTES: Final = 64 * 1024 * 1024
LOOK_S: Final = 1.0
"""A file is looked at no more often."""

log = logs.get("auth")


class TextFileError(ValueError):
    """The file cannot be used. `str()` has file, line, and what is wrong; never a hash."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells that a file has changed."""

    inode: int
    size: int
    mtime_ns: int


def stamp_of(path: Path) -> Stamp | None:
    """None when there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return Stamp(found.st_ino, found.st_size, found.st_mtime_ns)


def read_text(path: Path) -> str:
    """:raises TextFileError: it cannot be read, or is no such file."""
    try:
        with path.open("rb") as file:
            data = file.read(SIZE_MAX_BYTES + 1)
    except OSError as error:
        raise TextFileError(f"{path}: {error.strerror}") from None
    if len(data) > SIZE_MAX_BYTES:
        raise TextFileError(f"{path}: has more than {SIZE_MAX_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise TextFileError(f"{path}:{line}: is not UTF-8") from None


class TextFile(Generic[T]):
    """What a file says, kept up to date. One that becomes wrong is told in the log, and what it said before stays.

    :raises TextFileError: the file cannot be used.
    """

    def __init__(
        self, path: Path, read: Callable[[Path], T], work: Work, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.path = path
        self._read = read
        self._work = work
        self._clock = clock
        self._was_read = self._seen = stamp_of(path)
        self.value = read(path)
        self._looked_at = clock()
        self._reading = asyncio.Lock()

    @property
    def version(self) -> Stamp | None:
        """Of the file; looks at it. What was said of another version is worth nothing."""
        if self._clock() - self._looked_at >= LOOK_S:
            self._looked_at = self._clock()
            self._seen = stamp_of(self.path)
        return self._seen

    async def refresh(self) -> bool:
        """Reads the file, if it is not the one that was read last; whether it says something else now."""
        if self.version == self._was_read:
            return False
        async with self._reading:  # who comes meanwhile must not be measured against the old one
            stamp = self._seen
            if stamp == self._was_read:
                return False
            try:
                self.value = await self._work.do(lambda: self._read(self.path))
            except TextFileError as error:
                log.error("a file is wrong; what it said before stays", reason=error)
                changed = False
            else:
                log.info("read a file again", file=self.path)
                changed = True
            self._was_read = stamp
        return changed
