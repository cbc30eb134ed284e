"""Other ways in than plain TCP: TLS, WebSocket. A test client opens the door that its address is known for."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from typing import Protocol

Address = tuple[str, int]
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Door(Protocol):
    """What a client needs of a socket."""

    def sendall(self, data: bytes, /) -> None: ...
    def recv(self, size: int, /) -> bytes: ...
    def settimeout(self, seconds: float | None, /) -> None: ...
    def shutdown(self, how: int, /) -> None: ...
    def close(self) -> None: ...


Opener = Callable[[socket.socket], Door]

_openers: dict[Address, Opener] = {}


def know(address: Address, opener: Opener) -> None:
    """Clients that go to this address come in by this door from now on."""
    _openers[address] = opener


@contextlib.contextmanager
def forgetting() -> Iterator[None]:
    """What becomes known within is forgotten at the end: another broker may get the same port."""
    before = dict(_openers)
    try:
        yield
    finally:
        _openers.clear()
        _openers.update(before)


def enter(address: Address, timeout_s: float) -> Door:
    """A connection to the address, by the door that it is known for."""
    opened = socket.create_connection(address, timeout=timeout_s)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        opener = _openers.get(address)
        return opener(opened) if opener is not None else opened
    except BaseException:
        opened.close()
        raise


class Tls:
    """Ends with a close_notify: of a bare FIN, a server may hear only after its socket is closed."""

    def __init__(self, below: ssl.SSLSocket) -> None:
        self.sendall = below.sendall
        self.recv = below.recv
        self.settimeout = below.settimeout
        self.close = below.close
        self._below = below

    def shutdown(self, how: int, /) -> None:
        with contextlib.suppress(OSError):
            self._below.unwrap()


def tls(ca: str) -> Opener:
    """Trusts what this authority has issued."""
    context = ssl.create_default_context(cafile=ca)
    return lambda opened: Tls(context.wrap_socket(opened, server_hostname="localhost"))


def framed(kind: int, data: bytes = b"", fin: bool = True) -> bytes:
    """A masked frame."""
    mask = os.urandom(4)
    size = len(data)
    head = bytes((kind | (0x80 if fin else 0),))
    if size < 126:
        head += bytes((0x80 | size,))
    elif size < 65536:
        head += bytes((0x80 | 126,)) + struct.pack("!H", size)
    else:
        head += bytes((0x80 | 127,)) + struct.pack("!Q", size)
    masked = int.from_bytes(data, "little") ^ int.from_bytes((mask * (size // 4 + 1))[:size], "little")
    return head + mask + masked.to_bytes(size, "little")


class WebSocket:
    """RFC 6455, the client's side: its bytes leave in frames of all shapes, without regard to packets."""

    def __init__(self, below: Door, path: str = "/mqtt", headers: tuple[str, ...] = ("Sec-WebSocket-Protocol: mqtt",)):
        self._below = below
        self._inbox = bytearray()
        self._bytes = bytearray()
        self._sent = 0
        self.close_code: int | None = None
        key = base64.b64encode(os.urandom(16))
        lines = [
            f"GET {path} HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key.decode()}", "Sec-WebSocket-Version: 13", *headers, "", "",
        ]  # fmt: skip
        below.sendall("\r\n".join(lines).encode())
        while b"\r\n\r\n" not in self._inbox:
            chunk = below.recv(4096)
            if not chunk:
                break
            self._inbox += chunk
        head, _, rest = bytes(self._inbox).partition(b"\r\n\r\n")
        self._inbox = bytearray(rest)
        self.head = head.decode()
        if " 101 " in self.head.split("\r\n")[0]:
            accept = base64.b64encode(hashlib.sha1(key + GUID).digest()).decode()
            assert f"sec-websocket-accept: {accept}".lower() in self.head.lower(), self.head

    def sendall(self, data: bytes) -> None:
        self._sent += 1
        half = len(data) // 2
        if self._sent % 3 == 0 and half:  # two messages, cut anywhere
            frames = [framed(BINARY, data[:half]), framed(BINARY, data[half:])]
        elif self._sent % 3 == 1 and half:  # one message, in fragments, something between them
            frames = [framed(BINARY, data[:half], fin=False), framed(PING, b"?"), framed(CONTINUATION, data[half:])]
        else:
            frames = [framed(BINARY, data)]
        self._below.sendall(b"".join(frames))

    def send_frame(self, kind: int, data: bytes = b"", fin: bool = True) -> None:
        self._below.sendall(framed(kind, data, fin))

    def send_raw(self, data: bytes) -> None:
        self._below.sendall(data)

    def has_bytes(self) -> bool:
        return bool(self._bytes)

    def rest(self) -> str:
        """What follows the head of a refusal."""
        while chunk := self._below.recv(4096):
            self._inbox += chunk
        return self._inbox.decode()

    def recv(self, size: int) -> bytes:
        while not self._bytes:
            whole = self._take()
            if whole is None:
                chunk = self._below.recv(65536)
                if not chunk:
                    return b""
                self._inbox += chunk
                continue
            kind, data = whole
            if kind == CLOSE:
                self.close_code = int.from_bytes(data[:2], "big")
                return b""
            assert kind in (BINARY, CONTINUATION, PONG), f"a frame of kind {kind}"  # [MQTT-6.0.0-1]
            if kind != PONG:
                self._bytes += data
        out = bytes(self._bytes[:size])
        del self._bytes[:size]
        return out

    def _take(self) -> tuple[int, bytes] | None:
        inbox = self._inbox
        if len(inbox) < 2:
            return None
        assert not inbox[1] & 0x80, "a server must not mask"
        size, at = inbox[1] & 0x7F, 2
        if size == 126:
            size, at = int.from_bytes(inbox[2:4], "big"), 4
        elif size == 127:
            size, at = int.from_bytes(inbox[2:10], "big"), 10
        if len(inbox) < at + size or (at > 2 and len(inbox) < at):
            return None
        kind, data = inbox[0] & 0x0F, bytes(inbox[at : at + size])
        del inbox[: at + size]
        return kind, data

    def settimeout(self, seconds: float | None) -> None:
        self._below.settimeout(seconds)

    def shutdown(self, how: int) -> None:
        self._below.shutdown(how)

    def close(self) -> None:
        self._below.close()
