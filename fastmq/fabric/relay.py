"""Bytes between the transport of a client, which stays where it came, and the client's home worker."""

import asyncio
import contextlib
import socket
from typing import Any, Final

WRITE_HIGH_BYTES: Final = 65_536


class Relay(asyncio.Protocol):
    """One connection: a stream of the loop on one side, one end of a pair of sockets on the other.

    To the stream it is what `_sink.Sinks` was: what arrives goes to the pair. What comes from the pair is written.
    """

    def __init__(self, stream: Any, relays: "set[Relay]", rest: bytes) -> None:
        self._stream = stream
        self._relays = relays
        self._pair: Any = None
        self._over = False
        self._early: list[bytes] = [rest]
        """What came before there was a pair."""

    async def start(self) -> int:
        """Takes the stream over; returns the descriptor of the home's end, which is the caller's."""
        self._relays.add(self)
        self._stream.move(self)
        here, there = socket.socketpair()
        here.setblocking(False)
        there.setblocking(False)
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, sock=here)
        except BaseException:
            here.close()
            there.close()
            raise
        with contextlib.suppress(RuntimeError):  # while its CONNECT was decided about, nothing was read
            self._stream.resume_reading()
        return there.detach()

    def close(self) -> None:
        """Ends both sides."""
        self._end()
        self._stream.end()

    def _end(self) -> None:
        self._over = True
        self._relays.discard(self)
        if self._pair is not None:
            self._pair.abort()

    # -- the stream's side ---------------------------------------------------------------------------------------------

    def receive(self, _conn: int, data: bytes | bytearray | memoryview) -> bool:
        """Input of the client."""
        if self._over:
            return False
        if self._pair is None:
            self._early.append(bytes(data))
        else:
            self._pair.write(bytes(data))
        return True

    def block(self, _conn: int, blocked: bool) -> None:
        """Whether the client takes nothing for now."""
        if self._pair is None or self._pair.is_closing():
            return
        with contextlib.suppress(RuntimeError):  # it has been so already
            if blocked:
                self._pair.pause_reading()
            else:
                self._pair.resume_reading()

    def lost(self, _conn: int) -> None:
        """The client is gone."""
        self._end()

    # -- the pair's side -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._pair = transport
        transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        if self._over:
            transport.abort()
            return
        early, self._early = self._early, []
        transport.writelines(early)

    def data_received(self, data: bytes) -> None:
        if not self._over:
            self._stream.write(data)

    def eof_received(self) -> bool:
        self._stream.end()
        return True  # until the client has closed as well

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._over:
            self._end()
            self._stream.end()

    def pause_writing(self) -> None:
        if not self._over:
            self._stream.pause_reading()

    def resume_writing(self) -> None:
        if not self._over:
            self._stream.resume_reading()
