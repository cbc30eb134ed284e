"""Password files as mosquitto_passwd writes them: a line `user:hash` each; `#` begins a comment."""

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fastmq.auth import hashes
from fastmq.auth.text_file import TextFileError, read_text

USER_MAX_BYTES: Final = 65_535


def parse(text: str, where: str) -> dict[str, str]:
    """User name -> hash, in the order of the lines.

    :raises TextFileError: a line is wrong.
    """
    users: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.rstrip("\r")
        if not line.strip() or line.startswith("#"):
            continue
        user, colon, hash = line.partition(":")
        place = f"{where}:{number}"
        if not colon or not user:
            raise TextFileError(f"{place}: must be USER:HASH; `fastmq passwd` writes such lines")
        if len(user.encode()) > USER_MAX_BYTES or "\0" in user:
            raise TextFileError(f"{place}: no client can have this user name")
        if user in users:
            raise TextFileError(f"{place}: {user} is in it twice")
        if not hash.startswith("$"):
            raise TextFileError(f"{place}: has a password in the clear; `fastmq passwd -U {where}` hashes them")
        try:
            hashes.check(hash)
        except hashes.BadHash as error:
            raise TextFileError(f"{place}: the hash of {user} {error}") from None
        users[user] = hash
    return users


def read(path: Path) -> dict[str, str]:
    """:raises TextFileError: it cannot be read, or a line is wrong."""
    return parse(read_text(path), str(path))


def changed(text: str, user: str, hash: str | None) -> str:
    """The file's text with another hash for this user, a new last line for a new one; None: without the user.

    All other lines stay as they are, comments too.

    :raises TextFileError: there can be no such user name.
    :raises KeyError: the user to leave out is not in it.
    """
    if not user or ":" in user or "\n" in user or "\r" in user or "\0" in user or user.startswith("#"):
        raise TextFileError("a user name must have characters, no colon, no line break, and no # at its start")
    if len(user.encode()) > USER_MAX_BYTES:
        raise TextFileError("no client can have a user name that long")
    lines = text.splitlines(keepends=True)
    mine = [at for at, line in enumerate(lines) if line.partition(":")[0] == user and ":" in line]
    if hash is None:
        if not mine:
            raise KeyError(user)
        return "".join(line for at, line in enumerate(lines) if at not in mine)
    if not mine:
        if lines and not lines[-1].endswith("\n"):
            lines[-1] += "\n"
        return "".join(lines) + f"{user}:{hash}\n"
    for at in mine:
        lines[at] = f"{user}:{hash}\n" if at == mine[0] else ""
    return "".join(lines)


def hashed(text: str, where: str, make: Callable[[bytes], str]) -> tuple[str, int]:
    """The file's text with hashes instead of passwords in the clear, and how many those were.

    :raises TextFileError: a line is neither.
    """
    count = 0
    out: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        user, colon, password = line.partition(":")
        if not line.strip() or line.startswith("#"):
            out.append(line)
            continue
        if not colon or not user or not password:
            raise TextFileError(f"{where}:{number}: must be USER:PASSWORD")
        if not password.startswith("$"):
            count += 1
            password = make(password.encode())
        out.append(f"{user}:{password}")
    return "".join(f"{line}\n" for line in out), count


def write(path: Path, text: str) -> None:
    """Replaces the file in one step, with the rights it has; a new one is for its owner only.

    :raises OSError: it cannot be written; then nothing has changed.
    """
    path = path.resolve()  # a link stays one
    try:
        before = path.stat()
    except FileNotFoundError:
        before = None
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(number, "w", encoding="utf-8", newline="") as file:
            if before is not None:
                os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
                if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
