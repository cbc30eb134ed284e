"""The client's PINGREQ clock [MQTT-3.1.2-20]."""

import asyncio
import time
from collections.abc import Callable

from fastmq.client.errors import ConnectionLost
from fastmq.client.link import Link
from fastmq.packets import Packet, Pingreq

__all__ = ["KeepAlive"]


class KeepAlive:
    """Sends PINGREQ when nothing else was sent for `interval_s`; 0 never. A link that does not answer is given up.

    :param is_reading: False while the client does not read, and so cannot see an answer.
    """

    def __init__(
        self, link: Link, interval_s: int, is_reading: Callable[[], bool], send: Callable[[Packet], None]
    ) -> None:
        self._link = link
        self._interval_s = interval_s
        self._is_reading = is_reading
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._sent_s = 0.0  # loop time of the PINGREQ that is not answered
        self._asked_s = 0.0  # the same on a clock that is finer than a loop's
        self._waiting: list[asyncio.Future[float]] = []
        self._timer: asyncio.TimerHandle | None = None
        if interval_s:
            self._timer = self._loop.call_later(interval_s, self._tick)

    @property
    def awaits_answer(self) -> bool:
        return bool(self._waiting)

    async def ping(self) -> float:
        answer: asyncio.Future[float] = self._loop.create_future()
        self._waiting.append(answer)
        self._request()
        return await answer

    def answered(self) -> None:
        took = time.perf_counter() - self._asked_s
        self._sent_s = 0.0
        for answer in self._waiting:
            if not answer.done():
                answer.set_result(took)
        self._waiting.clear()

    def stop(self, error: ConnectionLost | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for answer in self._waiting:
            if not answer.done():
                answer.set_exception(error or ConnectionLost("disconnected"))
                answer.exception()  # seen, should its waiter have gone
        self._waiting.clear()

    def _request(self) -> None:
        if not self._sent_s:
            self._sent_s = self._loop.time()
            self._asked_s = time.perf_counter()
        self._send(Pingreq())

    def _tick(self) -> None:
        now = self._loop.time()
        if self._sent_s and not self._is_reading():
            self._sent_s = now
        if self._sent_s and now - self._sent_s >= self._interval_s:
            self._link.fail(ConnectionLost("the server does not answer PINGREQ"))
            return
        idle_s = now - self._link.last_sent_s
        if idle_s >= self._interval_s - 0.01:
            self._request()
            idle_s = 0.0
        self._timer = self._loop.call_later(self._interval_s - idle_s, self._tick)
