"""Connections that are something else before they are MQTT: they begin with a PROXY header, or with a TLS handshake."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final

from fastmq import logs
from fastmq.broker import proxy
from fastmq.broker.streams import END_S
from fastmq.broker.tls import Contexts
from fastmq.config import networks
from fastmq.config.listener import Listener

SILENT_MAX: Final = 2000
"""Connections of one listener that have said nothing yet; for another one, the oldest of them is closed."""
SLOT_S: Final = 1.0
"""So long a handshake counts as one: who does not go on with his holds nobody else up."""
ACCEPT_PAUSE_S: Final = 0.25

log = logs.get("broker")


class Accepting:
    """Accepts for one listener, as long as `run` does. Times are seconds."""

    def __init__(
        self,
        listener: Listener,
        make: Callable[[proxy.Origin | None], asyncio.BaseProtocol],
        contexts: Contexts | None,
        *,
        handshakes_max: int,
        timeout_s: float,
    ) -> None:
        self._listener = listener
        self._make = make
        """The protocol of one connection, with what its proxy said; None: there is none."""
        self._contexts = contexts
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(handshakes_max)
        self._trusted = networks.parse(listener.trusted_proxies)
        self._tasks: set[asyncio.Task[None]] = set()
        self._silent: dict[asyncio.Task[None], None] = {}

    def tune(self, timeout_s: float, handshakes_max: int) -> None:
        """Other limits, for those who come from now on."""
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(handshakes_max)

    async def run(self, bound: socket.socket) -> None:
        """Until it is cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    connection, address = await loop.sock_accept(bound)
                except OSError as error:
                    log.rarely("error", "accept", "cannot accept a connection", error=error)
                    await asyncio.sleep(ACCEPT_PAUSE_S)
                    continue
                if self._listener.proxy_protocol and not networks.is_within(address[0], self._trusted):
                    connection.close()
                    title = self._listener.title
                    log.rarely("warning", f"{title} {address[0]}", "refused one who is no proxy", peer=address[0])
                    continue
                task = loop.create_task(self._introduce(connection))
                self._tasks.add(task)
                self._silent[task] = None
                task.add_done_callback(self._done)
                if len(self._silent) > SILENT_MAX:
                    oldest = next(iter(self._silent))
                    oldest.cancel()
                    del self._silent[oldest]
                    log.rarely("warning", self._listener.title, "too many connections say nothing", peer=address[0])
        finally:
            for task in self._tasks:
                task.cancel()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._silent.pop(task, None)

    async def _introduce(self, connection: socket.socket) -> None:
        """Takes a slot once there is something to do, and gives it back when it is done, or takes too long."""
        loop = asyncio.get_running_loop()
        held, slots = False, self._slots

        def release() -> None:
            nonlocal held
            if held:
                held = False
                slots.release()

        handed_over = False
        deadline = loop.time() + self._timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                await _speaks(connection)
                task = asyncio.current_task()
                assert task is not None
                self._silent.pop(task, None)
                await slots.acquire()
            held = True
            origin = None
            if self._listener.proxy_protocol:
                async with asyncio.timeout_at(deadline):
                    origin = await proxy.read_header(connection)
            handed_over = True
            if self._contexts is not None:
                loop.call_later(SLOT_S, release)
            with contextlib.suppress(OSError):  # its TLS may fail
                await loop.connect_accepted_socket(
                    lambda: self._make(origin),
                    connection,
                    ssl=self._contexts.context if self._contexts is not None else None,
                    ssl_handshake_timeout=max(0.1, deadline - loop.time()) if self._contexts is not None else None,
                    ssl_shutdown_timeout=END_S if self._contexts is not None else None,
                )
        except (TimeoutError, OSError, proxy.ProxyError) as error:
            title, why = self._listener.title, str(error) or "nothing came in time"
            log.rarely("warning", title, "refused a connection", listener=title, reason=why)
        finally:
            release()
            if not handed_over:
                connection.close()


async def _speaks(connection: socket.socket) -> None:
    """Returns when there is something to read, or the other end is gone."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    number = connection.fileno()
    loop.add_reader(number, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(number)
