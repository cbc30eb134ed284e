"""Connections that must end at a certain time: what their clients showed of themselves is valid until then."""

import asyncio
import heapq
import time
from collections.abc import Callable
from typing import Final

from fastmq._hub import Hub
from fastmq.reasons import Reason

LOOK_MAX_S: Final = 60.0
"""The wall clock may be set meanwhile."""


class Deadlines:
    """Those of one worker."""

    def __init__(self, hub: Hub, clock: Callable[[], float] = time.time) -> None:
        self._hub = hub
        self._clock = clock
        self._heap: list[tuple[float, int]] = []
        self._swept_at = 64
        self._timer: asyncio.TimerHandle | None = None

    def set(self, conn: int, expires_at: float) -> bool:
        """Ends the connection at this Unix time; False: that is now or was before."""
        if expires_at <= self._clock():
            return False
        if len(self._heap) >= self._swept_at:  # those that have gone by themselves
            self._heap = [(at, each) for at, each in self._heap if self._hub.is_open(each)]
            heapq.heapify(self._heap)
            self._swept_at = max(64, 2 * len(self._heap))
        heapq.heappush(self._heap, (expires_at, conn))
        self._arm()
        return True

    def look(self) -> None:
        """Ends those whose time has come, and comes back for the next."""
        now = self._clock()
        while self._heap and self._heap[0][0] <= now:
            _, conn = heapq.heappop(self._heap)
            self._hub.close_connection(conn, Reason.NOT_AUTHORIZED)
        self._timer = None
        self._arm()

    def close(self) -> None:
        """Ends no more."""
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._heap:
            wait_s = min(LOOK_MAX_S, max(0.0, self._heap[0][0] - self._clock()))
            self._timer = asyncio.get_running_loop().call_later(wait_s, self.look)
