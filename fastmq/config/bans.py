"""Clients that may not connect, a table each: `[[bans.rules]]` with `by = "client_id"` and so on."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar

from fastmq.config import networks, patterns
from fastmq.config.setting import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ban:
    value: str = setting("", not_empty=True, help="Who.")
    until: str = setting("", help="When the ban ends, `2027-01-31T12:00:00Z`; empty: never.")
    reason: str = setting("", help="Why, for the log.")

    def wrong(self) -> tuple[str, str] | None:
        """The key that cannot be like that, and why."""
        if message := self.problem():
            return "value", message
        try:
            self.ends_at()
        except ValueError:
            return "until", f"must be a time like 2027-01-31T12:00:00Z, not {self.until!r}"
        return None

    def problem(self) -> str:
        """What is wrong with `value`; empty: nothing."""
        return ""

    def ends_at(self) -> float:
        """Unix time; infinity: never.

        :raises ValueError: `until` is no time.
        """
        if not self.until:
            return float("inf")
        found = datetime.fromisoformat(self.until)
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pattern(_Ban):
    def problem(self) -> str:
        return patterns.problem(self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientId(_Ban):
    """A client identifier."""

    told: ClassVar[tuple[str, str]] = ("by", "client_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Username(_Ban):
    """A user name."""

    told: ClassVar[tuple[str, str]] = ("by", "username")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address(_Ban):
    """An IP address or a network."""

    told: ClassVar[tuple[str, str]] = ("by", "address")

    def problem(self) -> str:
        try:
            networks.parse((self.value,))
        except ValueError as error:
            return str(error)
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientIdRegex(_Pattern):
    """Client identifiers that a regular expression matches as a whole."""

    told: ClassVar[tuple[str, str]] = ("by", "client_id_regex")


@dataclass(frozen=True, slots=True, kw_only=True)
class UsernameRegex(_Pattern):
    """User names that a regular expression matches as a whole."""

    told: ClassVar[tuple[str, str]] = ("by", "username_regex")


Ban = ClientId | Username | Address | ClientIdRegex | UsernameRegex
"""Any of them."""

KINDS = (ClientId, Username, Address, ClientIdRegex, UsernameRegex)
