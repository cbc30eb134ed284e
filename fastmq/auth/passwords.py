"""Users and passwords from a file, which is read again when it changes."""

import time
from collections.abc import Callable
from pathlib import Path

from fastmq.auth import hashes, password_file
from fastmq.auth.text_file import Stamp, TextFile
from fastmq.auth.work import Work
from fastmq.contracts import Authentication, Credentials
from fastmq.reasons import Reason


class Passwords:
    """Implements `contracts.Authenticator`. Who is not in the file is left to the next; who is must know the password.

    :raises TextFileError: the file cannot be used.
    """

    def __init__(self, path: Path, work: Work, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = TextFile(path, password_file.read, work, clock)
        self._work = work

    @property
    def version(self) -> Stamp | None:
        """Of the file: answers by another version are not remembered."""
        return self._file.version

    async def authenticate(self, credentials: Credentials) -> Authentication | None:
        await self._file.refresh()
        user, users = credentials.username, self._file.value
        if user is None:
            return None
        known, password = users.get(user), credentials.password or b""
        like = next(iter(users.values()), "")
        fits = await self._work.do(lambda: hashes.verify(known or hashes.nobodys(like), password))
        if known is None:  # it took as long as if there were such a user
            return None
        if not fits:
            return Authentication(reason=Reason.BAD_USER_NAME_OR_PASSWORD, why="wrong password")
        return Authentication(why=str(self._file.path))
