"""Several real engines in one process as the workers of several hosts, joined by socket pairs and turned by hand."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from fastmq.config.place import Place
from fastmq.store.memory import Contents
from tests.inprocess import Engine

TURNS_MAX = 100_000
MINUTE_MS = 60_000
_instances = itertools.count(1)

Where = tuple[int, int]
"""Node and worker."""


class Nodes:
    """Nodes of so many workers each. Nothing happens between two calls of `settle`."""

    def __init__(self, sizes: Sequence[int], *, kept: bool = False, even: bool = False, **engine: Any) -> None:
        self.sizes = sizes
        self.kept = kept
        self.even = even
        self.engines: dict[Where, Engine] = {}
        self._all: list[Engine] = []
        self._made = engine
        self._instances: dict[Where, int] = {}
        self._index: dict[tuple[Where, Where], int] = {}
        """Under which index the first knows the second."""
        self._down: set[Where] = set()
        for at in self.places():
            self._make(at)
        for one, other in itertools.permutations(self.places(), 2):
            if one[0] != other[0]:
                self._add(one, other)
        for one, other in itertools.permutations(self.places(), 2):
            self.join(one, other)
        self.settle()
        for each in self.engines.values():
            each.hub.remotes.serve()

    def __getitem__(self, where: Where | int) -> Engine:
        return self.engines[where if isinstance(where, tuple) else (where, 0)]

    def places(self, node: int | None = None) -> Iterator[Where]:
        for each, size in enumerate(self.sizes):
            if node in (None, each):
                yield from ((each, worker) for worker in range(size))

    def _make(self, at: Where, store: Contents | None = None) -> None:
        node, worker = at
        clustered = {"clustered": True, "node": node + 1, "even": self.even}
        engine = Engine(
            place=(worker, self.sizes[node]),
            clustered=clustered,
            store=(store or Contents()) if self.kept else None,
            **self._made,
        )
        self.engines[at] = engine
        self._all.append(engine)
        self._instances[at] = next(_instances)

    def _add(self, one: Where, other: Where) -> None:
        self._index[one, other] = self.engines[one].hub.remotes.add(other[1], self.sizes[other[0]])

    def _known(self, one: Where, other: Where) -> int:
        return other[1] if one[0] == other[0] else self._index[one, other]

    def join(self, one: Where, other: Where) -> None:
        """Connects worker `one` to worker `other`."""
        here, there = socket.socketpair()
        here.setblocking(False)
        there.setblocking(False)
        self.engines[other].hub.remotes.hear(self._known(other, one), there.detach(), self._instances[one])
        self.engines[one].hub.remotes.speak(self._known(one, other), here.detach(), self._instances[other])

    def settle(self) -> None:
        """Turns all until none has anything to do; what they store is committed at once."""
        for _ in range(TURNS_MAX):
            busy = False
            for at, engine in self.engines.items():
                if at in self._down:
                    continue
                if engine.is_busy:
                    busy = True
                    engine.turn()
                if self.kept and (engine.batch is not None or engine.wanted is not None):
                    busy = True
                    engine.commit()
                    engine.fetch()
            if not busy:
                return
        raise AssertionError(f"the nodes are still busy after {TURNS_MAX} turns")

    def clock(self, node: int, wall_ms: int) -> None:
        """What time it is at a node."""
        for at in self.places(node):
            self.engines[at].hub.remotes.clock(wall_ms)

    def part(self, node: int) -> None:
        """A node is forgotten by all others, and forgets them."""
        for one, other in itertools.permutations(self.places(), 2):
            if one[0] != other[0] and node in (one[0], other[0]):
                self.engines[one].hub.remotes.remove(self._index.pop((one, other)))
        self.settle()

    def meet(self, node: int) -> None:
        """It is back."""
        pairs = [
            (one, other)
            for one, other in itertools.permutations(self.places(), 2)
            if one[0] != other[0] and node in (one[0], other[0])
        ]
        for one, other in pairs:
            self._add(one, other)
        for one, other in pairs:
            self.join(one, other)
        self.settle()

    def kill(self, node: int) -> None:
        """All workers of a node end without a word; the others keep what they have for it."""
        for at in self.places(node):
            self._down.add(at)
            self.engines[at] = self.engines[at].crash()
        self.settle()

    def start(self, node: int) -> None:
        """They start again, with what was committed."""
        for at in self.places(node):
            self._down.discard(at)
            self._instances[at] = next(_instances)
        pairs = [pair for pair in itertools.permutations(self.places(), 2) if node in (pair[0][0], pair[1][0])]
        for one, other in pairs:
            if one[0] == node != other[0]:
                self._add(one, other)
        for one, other in pairs:
            self.join(one, other)
        self.settle()

    def home(self, node: int, name: str) -> Where:
        """Where at a node a session or group of this name is, or a topic."""
        return node, Place(count=self.sizes[node]).home(name.encode())

    def close(self) -> None:
        for each in self._all:
            each.close()

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
