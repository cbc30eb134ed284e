"""Threads for what takes CPU: checking a password is slow on purpose, so that nobody can try many."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")

WAITING_MAX: Final = 100
"""A few seconds' work: who would wait longer is told that the server is busy."""


class Busy(Exception):
    """More waits already than may."""


class Work:
    """A few threads, and a bounded number of things that wait for them."""

    def __init__(self, threads: int = 0, waiting_max: int = WAITING_MAX) -> None:
        # One core is left to the event loop: hashes let go of the GIL, and would take all there are.
        self._threads = ThreadPoolExecutor(threads or max(1, min(4, (os.cpu_count() or 1) - 1)), "fastmq-auth")
        self._waiting = 0
        self._waiting_max = waiting_max

    async def do(self, function: Callable[[], T]) -> T:
        """What the function returns, from a thread.

        :raises Busy: too much waits.
        """
        if self._waiting >= self._waiting_max:
            raise Busy
        loop = asyncio.get_running_loop()
        future = self._threads.submit(function)
        self._waiting += 1

        def done(_: Future[T]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop may have ended first
                loop.call_soon_threadsafe(self._done)

        future.add_done_callback(done)  # of the thread's own future: who asked may give up before
        return await asyncio.wrap_future(future)

    def _done(self) -> None:
        self._waiting -= 1

    def close(self) -> None:
        """Starts nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)
