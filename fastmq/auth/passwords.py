"""Users and passwords from a file, which is read again when it changes."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fastmq import logs
from fastmq.auth import hashes, password_file
from fastmq.auth.password_file import PasswordFileError, Stamp
from fastmq.auth.work import Work
from fastmq.contracts import Authentication, Credentials
from fastmq.reasons import Reason

LOOK_S: Final = 1.0
"""The file is looked at no more often."""

log = logs.get("auth")


class Passwords:
    """Implements `contracts.Authenticator`. Who is not in the file is left to the next; who is must know the password.

    A file that becomes wrong is told in the log, and the users that were in it before stay.

    :raises PasswordFileError: the file cannot be used.
    """

    def __init__(self, path: Path, work: Work, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._work = work
        self._clock = clock
        self._read = self._seen = password_file.stamp_of(path)
        self._users = password_file.read(path)
        self._looked_at = clock()
        self._reading = asyncio.Lock()

    @property
    def version(self) -> Stamp | None:
        """Of the file; looks at it. What was said of another version is worth nothing."""
        if self._clock() - self._looked_at >= LOOK_S:
            self._looked_at = self._clock()
            self._seen = password_file.stamp_of(self._path)
        return self._seen

    async def authenticate(self, credentials: Credentials) -> Authentication | None:
        await self._read_again()
        user = credentials.username
        if user is None:
            return None
        known, password = self._users.get(user), credentials.password or b""
        like = next(iter(self._users.values()), "")
        fits = await self._work.do(lambda: hashes.verify(known or hashes.nobodys(like), password))
        if known is None:  # it took as long as if there were such a user
            return None
        if not fits:
            return Authentication(reason=Reason.BAD_USER_NAME_OR_PASSWORD, why="wrong password")
        return Authentication(why=str(self._path))

    async def _read_again(self) -> None:
        """Reads the file, if it is not the one that was read last."""
        if self.version == self._read:
            return
        async with self._reading:  # who comes meanwhile must not be measured against the old one
            stamp = self._seen
            if stamp == self._read:
                return
            try:
                self._users = await self._work.do(lambda: password_file.read(self._path))
            except PasswordFileError as error:
                log.error("the password file is wrong; the users it had before stay", reason=error)
            else:
                log.info("read the password file again", file=self._path, users=len(self._users))
            self._read = stamp
