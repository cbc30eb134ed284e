"""The open listeners. The hub accepts from those of TCP and Unix, the event loop from TLS and WebSocket."""

import asyncio
import socket
from collections.abc import Callable, Sequence

from fastmq import sockets
from fastmq._hub import Hub
from fastmq.broker import tls
from fastmq.broker.accepting import Accepting
from fastmq.broker.proxy import Origin
from fastmq.broker.streams import BUFFER_BYTES, Stream
from fastmq.config.listener import SECURE, WEB, Listener
from fastmq.errors import StartError


class Listeners:
    """Those of one worker, which binds their sockets unless they are `inherited`. Times are seconds, sizes bytes."""

    def __init__(
        self,
        hub: Hub,
        *,
        connect_timeout_s: float,
        packet_max: int,
        handshakes_max: int,
        inherited: Sequence[int] = (),
    ) -> None:
        self._hub = hub
        self._connect_timeout_s = connect_timeout_s
        self._packet_max = packet_max
        self._handshakes_max = handshakes_max
        self._inherited = tuple(inherited)
        self._sockets: list[tuple[Listener, socket.socket]] = []
        self._accepting: list[Accepting] = []
        self._contexts: list[tls.Contexts] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._looked_at = 0.0

    async def open(self, listener: Listener) -> Listener:
        """Listens; returns the listener with its real port.

        :raises StartError: the address cannot be bound; the message names it and says why.
        """
        number = len(self._sockets)
        contexts = None
        if listener.scheme in SECURE:
            contexts = tls.Contexts(listener, tls.WEB_PROTOCOLS if listener.scheme in WEB else tls.PROTOCOLS)
            self._contexts.append(contexts)
        bound = sockets.inherited(self._inherited[number]) if self._inherited else sockets.bind(listener)
        self._sockets.append((listener, bound))
        try:
            self._hub.allow_connections(number, listener.connections_max)
        except ValueError as error:
            raise StartError(f"{listener}: {error}") from None
        if listener.scheme not in WEB and contexts is None and not listener.proxy_protocol:
            self._hub.listen(bound.fileno(), number)
        else:
            accepting = Accepting(
                listener, self._protocols(listener, number), contexts,
                handshakes_max=self._handshakes_max, timeout_s=self._connect_timeout_s,
            )  # fmt: skip
            self._accepting.append(accepting)
            self._tasks.append(asyncio.create_task(accepting.run(bound)))
        return sockets.with_port(listener, bound)

    def tune(self, connect_timeout_s: float, handshakes_max: int) -> None:
        """Other limits, for those who come from now on."""
        self._connect_timeout_s = connect_timeout_s
        self._handshakes_max = handshakes_max
        for accepting in self._accepting:
            accepting.tune(connect_timeout_s, handshakes_max)

    def _protocols(self, listener: Listener, number: int) -> Callable[[Origin | None], asyncio.BaseProtocol]:
        """What is to be made of connections that are accepted here."""
        sinks, loop = self._hub.sinks, asyncio.get_running_loop()
        if listener.scheme in WEB:
            from fastmq.broker import websocket  # here: it needs picows, which not every machine has

            return websocket.protocols(listener, sinks, number, self._packet_max, lambda: self._connect_timeout_s)
        view = memoryview(bytearray(BUFFER_BYTES))
        return lambda origin: Stream(sinks, number, view, loop, origin)

    @property
    def certificate_expires_at(self) -> float | None:
        """Unix time at which the first of all certificates expires; None: there are none."""
        found = min((each.expires_at for each in self._contexts), default=float("inf"))
        return found if found != float("inf") else None

    def tick(self) -> None:
        """Called by the worker, several times a second: looks after certificates."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_at >= tls.LOOK_S:
            self._looked_at = now
            for contexts in self._contexts:
                contexts.refresh()

    def close(self) -> None:
        """Accepts no more."""
        for task in self._tasks:
            task.cancel()
        for listener, bound in self._sockets:
            self._hub.unlisten(bound.fileno())
            bound.close()
            if not self._inherited:
                sockets.remove(listener)
        self._sockets.clear()
