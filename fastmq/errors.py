"""The one tree of errors.

    FastmqError
    |- ConfigError          a setting is wrong; carries every problem found, each with its place and key
    |- ProtocolError        a peer broke the protocol; carries the reason code that it is told
    |  |- MalformedPacket       the bytes are no packet (0x81)
    |  |- TopicNameInvalid      (0x90)
    |  `- TopicFilterInvalid    (0x8F)
    |- StartError           the settings are right, but the machine says no (a port in use, for one)
    |- StoreError           what must be durable could not be stored; carries whether there may be room later
    |- Fenced               another process goes on with the store; this one must do nothing more
    `- Unavailable          a session cannot be had just now; may be tried again

Raised deep, with the reason; turned into a packet, a log line or an exit code at one edge.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fastmq.reasons import Reason


class FastmqError(Exception):
    """Every error that fastmq raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One wrong setting: `fastmq.toml:12: mqtt.maximum_qos: must be 0 to 2, not 3`."""

    where: str
    """`file:line`, the name of the environment variable, or the flag."""
    key: str
    """`section.key`; empty when the file as a whole is wrong."""
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.key, self.message) if part)


class ConfigError(FastmqError):
    """The settings are wrong. `str()` gives one line a problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class StartError(FastmqError):
    """The broker cannot start here, although its settings are valid."""


class StoreError(FastmqError):
    """The store could not do what it was asked; nothing of it was done, and it may be asked again."""

    reason: Literal["full", "failed"]
    """full: the disk is full, or the store has reached its size; there may be room later. failed: anything else."""

    def __init__(self, reason: Literal["full", "failed"], message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ProtocolError(FastmqError):
    """A peer broke the protocol. Its connection ends with `reason`."""

    reason: Reason = Reason.PROTOCOL_ERROR

    def __init__(self, message: str, reason: Reason | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class MalformedPacket(ProtocolError):
    """The bytes cannot be a packet."""

    reason = Reason.MALFORMED_PACKET


class TopicNameInvalid(ProtocolError):
    """A topic name to publish to breaks a rule of section 4.7."""

    reason = Reason.TOPIC_NAME_INVALID


class TopicFilterInvalid(ProtocolError):
    """A topic filter to subscribe to breaks a rule of section 4.7 or 4.8."""

    reason = Reason.TOPIC_FILTER_INVALID


class Fenced(FastmqError):
    """Another process owns what this one did; nothing that it does is stored any more."""


class Unavailable(FastmqError):
    """A client's session may be at a node that is not there just now."""
