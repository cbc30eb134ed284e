"""Password files as mosquitto_passwd writes them: a line `user:hash` each; `#` begins a comment."""

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
            raise TextFileError(f"{place}: must be USER:HASH; mosquitto_passwd writes such lines")
        if len(user.encode()) > USER_MAX_BYTES or "\0" in user:
            raise TextFileError(f"{place}: no client can have this user name")
        if user in users:
            raise TextFileError(f"{place}: {user} is in it twice")
        if not hash.startswith("$"):
            raise TextFileError(f"{place}: has a password in the clear; `mosquitto_passwd -U {where}` hashes them")
        try:
            hashes.check(hash)
        except hashes.BadHash as error:
            raise TextFileError(f"{place}: the hash of {user} {error}") from None
        users[user] = hash
    return users


def read(path: Path) -> dict[str, str]:
    """:raises TextFileError: it cannot be read, or a line is wrong."""
    return parse(read_text(path), str(path))
