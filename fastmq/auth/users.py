"""Users that the broker keeps itself, in its store: a fact each, `user/NAME`, with JSON."""

from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from fastmq.auth import hashes
from fastmq.auth.answers import access_rules, groups
from fastmq.auth.work import Work
from fastmq.config.auth import BuiltIn
from fastmq.contracts import AccessRule, Authentication, Credentials, Facts
from fastmq.reasons import Reason

PREFIX: Final = "user/"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptUser:
    """One of them."""

    password_hash: str = field(repr=False)
    superuser: bool = False
    groups: tuple[str, ...] = ()
    rules: tuple[AccessRule, ...] = ()

    def fact(self) -> bytes:
        """What is stored of it."""
        told: dict[str, Any] = {"password_hash": self.password_hash}
        if self.superuser:
            told["is_superuser"] = True
        if self.groups:
            told["groups"] = self.groups
        if self.rules:
            told["acl"] = [_told(rule) for rule in self.rules]
        return orjson.dumps(told)


def user_of(fact: bytes) -> KeptUser:
    """A user from what is stored of it.

    :raises ValueError: that is none.
    """
    told = orjson.loads(fact)
    if not isinstance(told, dict) or not isinstance(told.get("password_hash"), str):
        raise ValueError("what is stored of a user has no password_hash")
    return KeptUser(
        password_hash=told["password_hash"],
        superuser=told.get("is_superuser") is True,
        groups=groups(told.get("groups")),
        rules=access_rules(told.get("acl")),
    )


def _told(rule: AccessRule) -> dict[str, Any]:
    told: dict[str, Any] = {"permission": "allow" if rule.allow else "deny", "action": rule.action, "topic": rule.topic}
    if rule.qos:
        told["qos"] = list(rule.qos)
    if rule.retain is not None:
        told["retain"] = rule.retain
    return told


class KeptUsers:
    """Implements `contracts.Authenticator`. Who is none of them is left to the next; who is must know the password."""

    def __init__(self, settings: BuiltIn, facts: Facts, work: Work) -> None:
        self._by_client_id = settings.user_id == "client_id"
        self._facts = facts
        self._work = work

    @property
    def version(self) -> int:
        """Of the facts: answers by another version are not remembered."""
        return self._facts.version

    async def authenticate(self, credentials: Credentials) -> Authentication | None:
        name = credentials.client_id if self._by_client_id else credentials.username
        if not name:
            return None
        fact = self._facts.get(f"{PREFIX}{name}")
        user = user_of(fact) if fact is not None else None
        known, password = user.password_hash if user is not None else "", credentials.password or b""
        fits = await self._work.do(lambda: hashes.verify(known or hashes.nobodys(""), password))
        if user is None:  # it took as long as if there were such a user
            return None
        if not fits:
            return Authentication(reason=Reason.BAD_USER_NAME_OR_PASSWORD, why="wrong password")
        return Authentication(superuser=user.superuser, groups=user.groups, rules=user.rules, why="the password fits")
