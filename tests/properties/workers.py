"""Several real engines in one process as the workers of a host, joined by socket pairs and turned by hand."""

from __future__ import annotations

import itertools
import socket
from typing import Any

from fastmq.config.place import Place
from fastmq.store.memory import Contents
from tests.inprocess import Engine

TURNS_MAX = 100_000
_instances = itertools.count(1)


class Workers:
    """`count` engines; with `kept`, each has a store. Nothing happens between two calls of `settle`."""

    def __init__(self, count: int, *, kept: bool = False, **engine: Any) -> None:
        self.count = count
        self.kept = kept
        self._stopped: set[int] = set()
        self._first = [
            Engine(place=(index, count), store=Contents() if kept else None, **engine) for index in range(count)
        ]
        self.engines = list(self._first)
        self.instances = [next(_instances) for _ in range(count)]
        for one in range(count):
            for other in range(count):
                if one != other:
                    self.join(one, other)
        self.settle()
        for each in self.engines:
            each.hub.remotes.serve()

    def __getitem__(self, index: int) -> Engine:
        return self.engines[index]

    def join(self, one: int, other: int) -> None:
        """Connects worker `one` to worker `other`."""
        here, there = socket.socketpair()
        here.setblocking(False)
        there.setblocking(False)
        self.engines[other].hub.remotes.hear(one, there.detach(), self.instances[one])
        self.engines[one].hub.remotes.speak(other, here.detach(), self.instances[other])

    def stop(self, index: int) -> None:
        """A worker does nothing any more, as by SIGSTOP."""
        self._stopped.add(index)

    def go_on(self, index: int) -> None:
        self._stopped.discard(index)

    def settle(self) -> None:
        """Turns all that run until none has anything to do; what they store is committed at once."""
        for _ in range(TURNS_MAX):
            busy = False
            for index, engine in enumerate(self.engines):
                if index in self._stopped:
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
        raise AssertionError(f"the workers are still busy after {TURNS_MAX} turns")

    def catch_up(self) -> None:
        """Settles, and stores all that happened."""
        self.settle()
        while self.kept and any(
            engine.commit_all() for index, engine in enumerate(self.engines) if index not in self._stopped
        ):
            self.settle()

    def kill(self, index: int) -> None:
        """A worker ends without a word; the others notice. With a store, it has what was committed."""
        self._stopped.discard(index)
        if self.kept:
            self.engines[index] = self.engines[index].crash()
        else:
            self.engines[index].close()
            self.engines[index] = Engine(place=(index, self.count))
            self._first.append(self.engines[index])
        self._stopped.add(index)  # it has not started yet
        self.settle()

    def start(self, index: int) -> None:
        """Starts a worker again that was killed."""
        self._stopped.discard(index)
        self.instances[index] = next(_instances)
        for other in range(self.count):
            if other != index:
                self.join(other, index)
                self.join(index, other)
        self.settle()
        self.engines[index].hub.remotes.serve()

    def home(self, name: str) -> int:
        return Place(count=self.count).home(name.encode())

    def close(self) -> None:
        for each in self._first:
            each.close()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
