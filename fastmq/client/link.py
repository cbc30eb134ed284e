"""The client's socket: bytes in become packets, packets become bytes out. Knows no session."""

import asyncio
from collections.abc import Callable
from typing import cast

from fastmq._codec import Decoder, encode
from fastmq.errors import ProtocolError
from fastmq.packets import Disconnect, Packet

__all__ = ["Link"]


class Link(asyncio.Protocol):
    """One connection. `on_packets` gets whole packets; `on_lost` is called once, with the error or None for an end."""

    def __init__(
        self,
        version: int,
        on_packets: Callable[[list[Packet]], None],
        on_lost: Callable[["Link", Exception | None], None],
        maximum_packet_size: int,
    ) -> None:
        self.version = version
        self.peer_packet_max = 0  # bytes; 0 = the server set no limit
        self.last_sent_s = 0.0  # loop time
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._decoder = Decoder(version, maximum_packet_size)
        self._on_packets = on_packets
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._gone = asyncio.Event()
        self._error: Exception | None = None

    def send(self, packet: Packet) -> None:
        """Queue the packet's bytes. :raises ValueError: the packet cannot be encoded, or too large for the server."""
        wire = encode(packet, self.version, self.peer_packet_max)
        if self._transport is not None and not self.closed:
            self._transport.write(wire)
            self.last_sent_s = self._loop.time()

    async def drain(self) -> None:
        """Return when the socket takes more; a slow server slows its publisher here."""
        if not self._writable.is_set():
            await self._writable.wait()

    def pause_reading(self) -> None:
        if self._transport is not None and not self.closed:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self.closed:
            self._transport.resume_reading()

    async def close(self) -> None:
        """Flush what is queued, then close and wait until it is."""
        self._end(None)
        await self._gone.wait()

    def fail(self, error: Exception) -> None:
        """Close at once because of `error`."""
        self._end(error)
        if self._transport is not None:
            self._transport.abort()

    def _end(self, error: Exception | None) -> None:
        if self.closed:
            return
        self.closed = True
        self._error = error
        if self._transport is not None:
            self._transport.close()
        else:
            self._gone.set()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.closed:
            return
        try:
            packets = self._decoder.feed(data)
        except ProtocolError as e:
            if self.version == 5:
                self.send(Disconnect(e.reason))
            self._end(e)
            return
        self._on_packets(packets)

    def eof_received(self) -> None:
        return None

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._writable.set()
        self._gone.set()
        self._on_lost(self, self._error or exc)
