"""Users that are looked up: what is found, whether the password fits, and what the user may do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fastmq.auth import stored
from fastmq.auth.answers import access_rules
from fastmq.auth.work import Work
from fastmq.contracts import AccessRule, Authentication, Credentials
from fastmq.reasons import Reason


@dataclass(frozen=True, slots=True)
class User:
    """One that was found."""

    password_hash: str
    salt: str = ""
    superuser: bool = False


class Source(Protocol):
    """Where users are. Its errors are failures of the step."""

    async def user(self, values: Mapping[str, str | None]) -> User | None:
        """The user; None: there is none."""
        ...

    async def rules(self, values: Mapping[str, str | None]) -> Sequence[AccessRule]:
        """What it may do."""
        ...

    async def close(self) -> None:
        """Gives the connections back."""
        ...


class Lookup:
    """Implements `contracts.Authenticator` over a source. Who is not found is left to the next step."""

    def __init__(self, settings: Any, source: Source, work: Work) -> None:
        self._settings = settings
        self._source = source
        self._work = work

    async def authenticate(self, credentials: Credentials) -> Authentication | None:
        if credentials.username is None:
            return None
        values = credentials.values
        user = await self._source.user(values)
        password = credentials.password or b""
        if user is None:  # it takes as long as if there were one
            await self._work.do(lambda: stored.fits(self._settings, stored.nobodys(self._settings), "", password))
            return None
        if not await self._work.do(lambda: stored.fits(self._settings, user.password_hash, user.salt, password)):
            return Authentication(reason=Reason.BAD_USER_NAME_OR_PASSWORD, why="wrong password")
        rules = () if user.superuser else tuple(await self._source.rules(values))
        return Authentication(superuser=user.superuser, rules=rules, why="the password fits")

    async def close(self) -> None:
        """Gives the source's connections back."""
        await self._source.close()


def user_of(row: Mapping[str, Any]) -> User:
    """A user from a row or a hash.

    :raises ValueError: it has no password_hash.
    """
    hash = row.get("password_hash")
    if hash is None:
        raise ValueError("what was found has no password_hash")
    salt = row.get("salt")
    return User(_text(hash), "" if salt is None else _text(salt), _truth(row.get("is_superuser")))


def rule_of(row: Mapping[str, Any]) -> Sequence[AccessRule]:
    """Rules from a row: permission, action, topic, and perhaps qos (a number, or some with commas) and retain.

    :raises ValueError: it is malformed.
    """
    given: dict[str, Any] = {"permission": row.get("permission", "allow"), "action": row.get("action", "all")}
    given["topic"] = row.get("topic")
    if (qos := row.get("qos")) not in (None, ""):
        given["qos"] = [int(part) for part in str(qos).split(",")]
    retain = row.get("retain")
    if retain not in (None, "", "all"):
        given["retain"] = _truth(retain)
    return access_rules(
        [{key: value.lower() if key in ("permission", "action") else value for key, value in given.items()}]
    )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes | bytearray) else str(value)


def _truth(value: Any) -> bool:
    if isinstance(value, bytes | bytearray):
        value = value.decode() if value not in (b"\0", b"\1") else value == b"\1"
    if isinstance(value, str):
        return value.strip().lower() in ("1", "true", "t", "yes")
    return bool(value)
