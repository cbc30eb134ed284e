"""Password files as mosquitto_passwd writes them: a line `user:hash` each; `#` begins a comment."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastmq.auth import hashes

SIZE_MAX_BYTES: Final = 64 * 1024 * 1024
USER_MAX_BYTES: Final = 65_535


class PasswordFileError(ValueError):
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


def parse(text: str, where: str) -> dict[str, str]:
    """User name -> hash, in the order of the lines.

    :raises PasswordFileError: a line is wrong.
    """
    users: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.rstrip("\r")
        if not line.strip() or line.startswith("#"):
            continue
        user, colon, hash = line.partition(":")
        place = f"{where}:{number}"
        if not colon or not user:
            raise PasswordFileError(f"{place}: must be USER:HASH; mosquitto_passwd writes such lines")
        if len(user.encode()) > USER_MAX_BYTES or "\0" in user:
            raise PasswordFileError(f"{place}: no client can have this user name")
        if user in users:
            raise PasswordFileError(f"{place}: {user} is in it twice")
        if not hash.startswith("$"):
            raise PasswordFileError(f"{place}: has a password in the clear; `mosquitto_passwd -U {where}` hashes them")
        try:
            hashes.check(hash)
        except hashes.BadHash as error:
            raise PasswordFileError(f"{place}: the hash of {user} {error}") from None
        users[user] = hash
    return users


def read(path: Path) -> dict[str, str]:
    """:raises PasswordFileError: it cannot be read, or a line is wrong."""
    return parse(read_text(path), str(path))


def read_text(path: Path) -> str:
    """:raises PasswordFileError: it cannot be read, or is no such file."""
    try:
        with path.open("rb") as file:
            data = file.read(SIZE_MAX_BYTES + 1)
    except OSError as error:
        raise PasswordFileError(f"{path}: {error.strerror}") from None
    if len(data) > SIZE_MAX_BYTES:
        raise PasswordFileError(f"{path}: has more than {SIZE_MAX_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise PasswordFileError(f"{path}:{line}: is not UTF-8") from None
