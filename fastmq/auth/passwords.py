"""Users and passwords from a file, which is read again when it changes."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fastmq import logs
from fastmq.auth import hashes, password_file
from fastmq.auth.password_file import PasswordFileError
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
        self._stamp = password_file.stamp_of(path)
        self._users = password_file.read(path)
        self._looked_at = clock()
        self.version = 0
        """Rises with each change of the file."""

    async def authenticate(self, credentials: Credentials) -> Authentication | None:
        await self._look()
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

    async def _look(self) -> None:
        if self._clock() - self._looked_at < LOOK_S:
            return
        self._looked_at = self._clock()
        stamp = password_file.stamp_of(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._users = await self._work.do(lambda: password_file.read(self._path))
        except PasswordFileError as error:
            log.error("the password file is wrong; the users it had before stay", reason=error)
            return
        self.version += 1
        log.info("read the password file again", file=self._path, users=len(self._users))
