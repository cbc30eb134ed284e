"""Which of a host's workers a process is. The parent tells its children by an environment variable."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

VARIABLE: Final = "FASTMQ_PLACE"
STANDS_IN: Final = "FASTMQ_STANDS_IN"
FENCED: Final = 75
"""The exit code of a worker whose store another process goes on with (`EX_TEMPFAIL` of sysexits.h)."""


def fnv1a(data: bytes) -> int:
    """The 32-bit FNV-1a hash: the same in every process, unlike `hash`."""
    found = 0x811C9DC5
    for byte in data:
        found = (found ^ byte) * 0x01000193 & 0xFFFFFFFF
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A worker's place among `count` workers. Without arguments: the only one."""

    index: int = 0
    count: int = 1
    folder: str = ""
    """Where the workers' sockets to each other are."""
    listeners: tuple[int, ...] = ()
    """Descriptors of listening sockets, in the order of `listen`; empty: the worker binds them itself."""
    status: int = -1
    """A socket for lines to the parent, `ready` and `alive`, which ends with the parent; -1: there is no parent."""
    settings: int = -1
    """A file with the settings that the parent has read; see `config/passing.py`."""
    at: str = ""
    """The node that this process runs at, while it stands in for another one; empty: it is that node itself."""

    facts: str = ""
    """With `at`, the store of that node, whose users and bans hold."""
    after: tuple[int, ...] = ()
    """With `at`, the terms of the workers' stores that it goes on from; empty: from any."""

    def home(self, name: bytes) -> int:
        """The worker that has what is called so: a client's session, a shared group."""
        return fnv1a(name) % self.count

    def is_home(self, name: bytes) -> bool:
        """Whether it is this one."""
        return self.count == 1 or self.home(name) == self.index

    def to_text(self) -> str:
        """For the environment variable."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> "Place":
        """The place that the parent gave this process."""
        text = environment.get(VARIABLE)
        if text is None:
            return cls()
        given = json.loads(text)
        return cls(**given | {each: tuple(given[each]) for each in ("listeners", "after")})


@dataclass(frozen=True, slots=True, kw_only=True)
class StandIn:
    """What a process is told that stands in for a node of a cluster."""

    node: str
    count: int
    """How many workers that node has."""
    at: str
    """The node that it runs at."""
    after: tuple[int, ...]
    """The terms of its workers' stores when it was seen last; empty: nobody knows."""
    facts: str
    """That node's own store."""
    settings: int
    """A file with the settings; see `config/passing.py`."""

    def place(self) -> "Place":
        """Of the process, or of those that it starts."""
        return Place(at=self.at, after=tuple(self.after), facts=self.facts)

    def to_text(self) -> str:
        """For the environment variable."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls) -> "StandIn | None":
        """What this process was told; None: it stands in for nobody."""
        text = os.environ.pop(STANDS_IN, None)
        return cls(**json.loads(text)) if text is not None else None
