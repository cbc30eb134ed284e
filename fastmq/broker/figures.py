"""The figures of all workers of a host: each tells worker 0 its own, which adds them up."""

from collections.abc import Callable
from typing import Any, Final

from fastmq.config.place import Place
from fastmq.contracts import Fabric

NOW: Final = frozenset({
    "cluster_backlog_bytes", "connections", "journal_bytes", "memory_bytes", "sessions", "shared_subscriptions",
    "subscriptions",
})  # fmt: skip
"""What is so now, of a worker that is there; all else has been counted, and stays when a worker ends."""
SAME: Final = frozenset({"certificate_expires", "cluster_nodes", "retained", "retained_bytes"})
"""What is the same at every worker."""
TICKS: Final = 4
"""A worker tells its figures about once a second."""
COUNTER: Final = "connects"
"""Falls only when another process has the worker's place."""

Stats = dict[str, int]


class Figures:
    """Those of one worker, and at worker 0 those of all."""

    def __init__(self, own: Callable[[], Stats], place: Place, fabric: Fabric | None) -> None:
        self._own = own
        self._place = place
        self._fabric = fabric
        self._others: dict[int, Stats] = {}
        self._past: Stats = {}
        self._ticks = 0
        if fabric is not None:
            fabric.hear("figures", self._hear)

    def tick(self) -> None:
        """Called by the worker, four times a second."""
        self._ticks += 1
        if self._fabric is not None and self._place.index and self._ticks % TICKS == 0:
            self._fabric.tell(0, "figures", self._own())

    def total(self) -> Stats:
        """All counters, and how much there is of everything, at all workers."""
        found = self._own()
        for stats in (*self._others.values(), self._past):
            for name, value in stats.items():
                if name not in SAME:
                    found[name] = found.get(name, 0) + value
        return found

    def _hear(self, index: int, stats: Any) -> None:
        before = self._others.get(index)
        if before is not None and stats[COUNTER] < before[COUNTER]:
            for name, value in before.items():
                if name not in NOW and name not in SAME:
                    self._past[name] = self._past.get(name, 0) + value
        self._others[index] = stats
