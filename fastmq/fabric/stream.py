"""A byte stream over the bus: every byte arrives, in order, or the stream ends. Never less.

The user has one end of a pair of sockets, the stream the other. What it reads there goes out in numbered frames; at
most WINDOW bytes are under way that the other side has not passed on. A frame that is missing, or silence of the other
side, end the stream on both sides; what was not acknowledged above comes again over the next one.
"""

import asyncio
import enum
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Final

HEADER: Final = struct.Struct("!BQQQQ")
"""Kind, stream, instance of the sender, of the receiver (0: any), and a number."""
FRAME_MAX: Final = 65_536
WINDOW: Final = 2 << 20
CREDIT_BYTES: Final = 131_072
CREDIT_S: Final = 0.02
SILENCE_S: Final = 5.0
"""Without credit for so long, the other side is asked; without an answer for so long again, the stream ends."""


class Kind(enum.IntEnum):
    """What a frame is."""

    OPEN = 1
    """Its body: who opens the stream."""
    ACCEPT = 2
    DATA = 3
    """Its number counts from 1."""
    CREDIT = 4
    """Its number: bytes that were passed on, since the start. Its body: how many frames have come (8 bytes)."""
    PROBE = 5
    """Answered with ANSWER, which says the same as CREDIT."""
    END = 6
    ANSWER = 7


COUNT: Final = struct.Struct("!Q")
Put = Callable[[int, int, int, bytes], None]


class Stream:
    """One side of a stream. All methods belong to the loop's thread."""

    def __init__(self, pair: socket.socket, number: int, put: Put, ended: Callable[[int], None]) -> None:
        """`put` sends kind, stream, number and body to the other side; `ended` hears of the end."""
        pair.setblocking(False)
        self._pair = pair
        self._number = number
        self._put = put
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self.peer_instance = 0
        self._over = False
        self._is_closing = False
        """The user has closed its end, or the other side: what is left is passed on."""
        self._frames_out = self._bytes_out = self._credited = 0
        self._frames_in = self._passed = self._told = 0
        self._left: deque[memoryview] = deque()
        """What came, and the user has not taken."""
        self._reads = self._writes = False
        self._telling: asyncio.TimerHandle | None = None
        self._asking: asyncio.TimerHandle | None = None
        self._asked = 0
        """How many frames had been sent when the other side was asked; 0: it has answered."""

    def begin(self, peer_instance: int) -> None:
        """The other side is there."""
        self.peer_instance = peer_instance
        self._read(True)

    def end(self) -> None:
        """Ends it on both sides, whatever is left."""
        if self._over:
            return
        if self.peer_instance:
            self._put(Kind.END, self._number, 0, b"")
        self._finish()

    def _finish(self) -> None:
        self._over = True
        self._read(False)
        self._write(False)
        for timer in (self._telling, self._asking):
            if timer is not None:
                timer.cancel()
        self._left.clear()
        self._pair.close()
        self._ended(self._number)

    # -- out -----------------------------------------------------------------------------------------------------------

    def _read(self, wanted: bool) -> None:
        if wanted != self._reads:
            self._reads = wanted
            if wanted:
                self._loop.add_reader(self._pair.fileno(), self._on_readable)
            else:
                self._loop.remove_reader(self._pair.fileno())

    def _on_readable(self) -> None:
        while not self._over:
            room = WINDOW - (self._bytes_out - self._credited)
            if room <= 0:
                self._read(False)
                return
            try:
                data = self._pair.recv(min(room, FRAME_MAX))
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.end()  # behind all that was sent
                return
            self._frames_out += 1
            self._bytes_out += len(data)
            self._put(Kind.DATA, self._number, self._frames_out, data)
            if self._asking is None:
                self._asking = self._loop.call_later(SILENCE_S, self._ask)

    def _ask(self) -> None:
        self._asking = None
        if self._bytes_out == self._credited:
            return
        if self._asked:
            self.end()
            return
        self._asked = self._frames_out
        self._put(Kind.PROBE, self._number, 0, b"")
        self._asking = self._loop.call_later(SILENCE_S, self._ask)

    def _on_credit(self, passed: int, body: memoryview, is_answer: bool) -> None:
        if len(body) != COUNT.size or not self._credited <= passed <= self._bytes_out:
            self.end()
            return
        (came,) = COUNT.unpack(body)
        if is_answer and came < self._asked:
            self.end()  # frames are lost: nothing overtakes the question
            return
        if is_answer or passed > self._credited:
            self._asked = 0
        self._credited = passed
        if not self._asked:
            if self._asking is not None:
                self._asking.cancel()
                self._asking = None
            if passed < self._bytes_out:
                self._asking = self._loop.call_later(SILENCE_S, self._ask)
        self._read(not self._is_closing)

    # -- in ------------------------------------------------------------------------------------------------------------

    def on_frame(self, kind: int, value: int, body: memoryview) -> None:
        """A frame of the other side."""
        if self._over:
            return
        if kind == Kind.DATA:
            self._frames_in += 1
            waiting = sum(map(len, self._left))
            if value != self._frames_in or waiting + len(body) > WINDOW or self._is_closing:
                self.end()
                return
            self._left.append(body)
            self._pass_on()
        elif kind in (Kind.CREDIT, Kind.ANSWER):
            self._on_credit(value, body, kind == Kind.ANSWER)
        elif kind == Kind.PROBE:
            self._tell(Kind.ANSWER)
        elif kind == Kind.END:
            self._is_closing = True
            self._read(False)
            if not self._left:
                self._finish()

    def _write(self, wanted: bool) -> None:
        if wanted != self._writes:
            self._writes = wanted
            if wanted:
                self._loop.add_writer(self._pair.fileno(), self._pass_on)
            else:
                self._loop.remove_writer(self._pair.fileno())

    def _pass_on(self) -> None:
        while self._left:
            try:
                sent = self._pair.send(self._left[0])
            except BlockingIOError:
                self._write(True)
                break
            except OSError:
                self.end()
                return
            self._passed += sent
            if sent < len(self._left[0]):
                self._left[0] = self._left[0][sent:]
            else:
                self._left.popleft()
        if not self._left:
            self._write(False)
            if self._is_closing:
                self._finish()
                return
        if self._passed - self._told >= CREDIT_BYTES:
            self._tell()
        elif self._passed > self._told and self._telling is None:
            self._telling = self._loop.call_later(CREDIT_S, self._tell)

    def _tell(self, kind: Kind = Kind.CREDIT) -> None:
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        self._told = self._passed
        self._put(kind, self._number, self._passed, COUNT.pack(self._frames_in))
