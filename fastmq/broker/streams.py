"""Connections that come over a transport of the event loop: TLS, and those of proxies."""

import asyncio
from typing import Any, Final

from fastmq._sink import Sinks
from fastmq.broker.proxy import Origin
from fastmq.broker.tls import certificate_of, is_resumed
from fastmq.contracts import Certificate, Receiver

BUFFER_BYTES: Final = 65_536
WRITE_HIGH_BYTES: Final = 65_536
"""What a transport may hold before the engine keeps the rest back."""
END_S: Final = 2.0
"""How long a transport may take to say its last words."""


class Stream(asyncio.BufferedProtocol):
    """One connection, as `_sink.Sinks` and the loop see it."""

    __slots__ = (
        "_attach",
        "_conn",
        "_listener",
        "_loop",
        "_origin",
        "_sinks",
        "_transport",
        "_view",
        "certificate",
        "cookies",
        "peer",
    )

    def __init__(
        self,
        sinks: Sinks,
        listener: int,
        view: memoryview,
        loop: asyncio.AbstractEventLoop,
        origin: Origin | None = None,
    ) -> None:
        self._sinks: Receiver = sinks
        self._attach = sinks.attach
        self._listener = listener
        self._view = view
        """Shared by all: it is read from right after it was filled."""
        self._loop = loop
        self._conn = -1
        self._origin = origin
        """What a proxy says; None: there is none."""
        self._transport: Any = None
        self.peer = ""
        self.certificate: Certificate | None = None
        self.cookies: dict[str, str] = {}

    # -- the loop's side -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        self.peer = peer_text(transport.get_extra_info("peername"))
        self.certificate = certificate_of(transport)
        if self.certificate is not None and is_resumed(transport):
            self._transport.abort()
            return
        if self._origin is not None:
            self.peer = self._origin.peer or self.peer
            self.certificate = self.certificate or self._origin.certificate
        self._conn = self._attach(self._listener, self)
        if self._conn < 0:
            self._transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        self._sinks.receive(self._conn, self._view[:nbytes])

    def eof_received(self) -> bool:
        self._sinks.lost(self._conn)  # at once: messages must not be sent to it while the transport closes
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._sinks.lost(self._conn)

    def pause_writing(self) -> None:
        self._sinks.block(self._conn, True)

    def resume_writing(self) -> None:
        self._sinks.block(self._conn, False)

    # -- the engine's side ---------------------------------------------------------------------------------------------

    def move(self, sinks: Receiver) -> None:
        """From now on its input goes elsewhere."""
        self._sinks = sinks

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def end(self) -> None:
        """Sends what it still has and closes; a client that does not take it is cut."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()
            self._loop.call_later(END_S, self._cut)

    def _cut(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def peer_text(peername: Any) -> str:
    """`address:port`, an IPv6 address in brackets; empty for a Unix socket."""
    if not isinstance(peername, tuple):
        return ""
    return f"[{peername[0]}]:{peername[1]}" if ":" in peername[0] else f"{peername[0]}:{peername[1]}"
