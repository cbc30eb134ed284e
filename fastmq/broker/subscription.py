"""A subscription of the program around the broker: the engine's tap as an async iterator."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from types import TracebackType
from typing import Final, Self

from fastmq._codec import decode
from fastmq._tap import Tap
from fastmq.contracts import Message
from fastmq.packets import Properties, Publish

BATCH: Final = 64  # messages taken from the engine at a time


class Subscription:
    """The messages that match, oldest first: `async for message in subscription`.

    The engine queues them from the call of `Broker.subscribe` on; what finds the queue full is dropped and counted.
    It ends with `aclose`, at the end of an `async with` block, when nobody refers to it any more, and after the last
    message that came before the broker stopped. Several tasks may iterate over one: each message goes to one of them.
    """

    def __init__(self, tap: Tap) -> None:
        self._tap = tap
        self._batch: deque[Message] = deque()
        self._changed = asyncio.Event()
        self._closed = False
        tap.on_ready = self._changed.set
        # The engine refers to the tap as long as it is subscribed, so it must be closed, and on the engine's thread;
        # the collector may run on any.
        self._forgotten = weakref.finalize(self, _close_on, asyncio.get_running_loop(), tap)
        self._forgotten.atexit = False

    def subscribe(self, *filters: str, qos: int = 2, retained: bool = True) -> None:
        """Adds filters, or changes the QoS of those that are there.

        :raises ValueError: one is not a topic filter, or a shared one; those before it are subscribed to.
        """
        if self._closed:
            raise RuntimeError("the subscription is closed")
        for topic_filter in filters:
            self._tap.subscribe(topic_filter.encode(), qos, retained)
        if len(self._tap):
            self._changed.set()

    def unsubscribe(self, *filters: str) -> int:
        """Removes filters; returns how many were there. Messages that wait already still come."""
        return sum(self._tap.unsubscribe(topic_filter.encode()) for topic_filter in filters)

    @property
    def dropped(self) -> int:
        """How many messages were lost because the queue was full."""
        return self._tap.dropped

    @property
    def waiting(self) -> int:
        """How many messages wait; those that expire until they are taken do not come."""
        return len(self._batch) + len(self._tap)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        while not self._batch:
            self._changed.clear()
            self._batch.extend(map(_message, self._tap.take(BATCH)))
            if self._batch:
                break
            if self._closed:
                self._changed.set()  # for the other tasks that wait
                raise StopAsyncIteration
            await self._changed.wait()
        return self._batch.popleft()

    async def aclose(self) -> None:
        """Ends the subscription; messages that wait are dropped. Once is enough."""
        self._batch.clear()
        self._end()

    def finish(self) -> None:
        """Ends the subscription; messages that wait can still be taken."""
        self._batch.extend(map(_message, self._tap.take(len(self._tap))))
        self._end()

    def _end(self) -> None:
        self._closed = True
        self._changed.set()
        if self._forgotten.detach() is not None:
            self._tap.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _close_on(loop: asyncio.AbstractEventLoop, tap: Tap) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(tap.close)


def _message(taken: tuple[bytes, bytes, int, bool, bytes]) -> Message:
    topic, payload, qos, retain, properties = taken
    return Message(topic.decode(), payload, qos, retain, _decoded(properties) if properties else Properties())


def _decoded(properties: bytes) -> Properties:
    """From their bytes, without the length before them: the codec reads packets, so they are put into one."""
    length, left = bytearray(), len(properties)
    while left > 0x7F:
        length.append(left & 0x7F | 0x80)
        left >>= 7
    length.append(left)
    publish = decode(0x30, b"\x00\x01t" + length + properties, 5)
    assert isinstance(publish, Publish)
    return publish.properties
