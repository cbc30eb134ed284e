"""MQTT over WebSocket (MQTT 5, section 6): the upgrade, and frames to and from the engine's bytes."""

import asyncio
import inspect
import logging
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from fastmq import logs
from fastmq._sink import Sinks
from fastmq.broker.proxy import Origin, forwarded_for
from fastmq.broker.streams import END_S, WRITE_HIGH_BYTES, peer_text
from fastmq.broker.tls import certificate_of, is_resumed
from fastmq.config.listener import Listener
from fastmq.config.networks import Network, is_within, parse
from fastmq.contracts import Certificate, Receiver
from fastmq.errors import StartError

try:
    from picows import (
        WSCloseCode,
        WSFrame,
        WSListener,
        WSMsgType,
        WSTransport,
        WSUpgradeRequest,
        WSUpgradeResponse,
        WSUpgradeResponseWithListener,
        ws_create_server,
    )
    from picows.picows import WSProtocol  # type: ignore[attr-defined]
except ImportError as error:
    raise StartError("ws:// and wss:// need picows: pip install picows") from error

PROTOCOLS: Final = ("mqtt", "mqttv5", "mqttv3.1.1", "mqttv3.1")
"""Subprotocols that are taken; the first that the client offers of them [MQTT-6.0.0-3]."""
VERSION: Final = "13"
"""RFC 6455, section 4.1."""
COOKIES_MAX: Final = 100
RECEIVE_BYTES: Final = 524_288
"""What the kernel may hold of a client's input. picows reads all of it at once, however soon it is told to pause."""
HEAD_ROOM: Final = 14
"""Bytes that the head of a frame has at most."""
HELP: Final = b"This is an MQTT broker. Connect to it with an MQTT client over WebSocket, subprotocol `mqtt`.\n"


log = logs.get("websocket")


class _Rarely(logging.Handler):
    """What picows has to say, at most a line in ten seconds: strangers can make it say much."""

    def emit(self, record: logging.LogRecord) -> None:
        log.rarely("warning", record.msg, "WebSocket", detail=record.getMessage())


_picows = logging.getLogger("fastmq.picows")
_picows.propagate = False
_picows.setLevel(logging.ERROR)
_picows.addHandler(_Rarely())


class Stream(WSListener):
    """One connection, as `_sink.Sinks` and picows see it."""

    def __init__(
        self,
        sinks: Sinks,
        listener: int,
        trusted: Sequence[Network],
        loop: asyncio.AbstractEventLoop,
        origin: Origin | None = None,
    ) -> None:
        self._sinks: Receiver = sinks
        self._attach = sinks.attach
        self._listener = listener
        self._trusted = trusted
        self._origin = origin
        self._loop = loop
        self._conn = -1
        self._transport: WSTransport | None = None
        self.peer = ""
        self.certificate: Certificate | None = None
        self.cookies: dict[str, str] = {}

    # -- picows' side --------------------------------------------------------------------------------------------------

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        below = transport.underlying_transport
        below.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        below.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        self.peer = peer_text(below.get_extra_info("peername"))
        self.certificate = certificate_of(below)
        if self.certificate is not None and is_resumed(below):
            transport.disconnect(False)
            return
        if self._origin is not None:
            self.peer = self._origin.peer or self.peer
            self.certificate = self.certificate or self._origin.certificate
        headers = transport.request.headers
        self.cookies = cookies_of(headers.getall("Cookie", ())) if "Origin" in headers else {}
        forwarded = headers.getall("X-Forwarded-For", ())
        if forwarded and is_within(self.peer.rpartition(":")[0].strip("[]"), self._trusted):
            self.peer = forwarded_for(",".join(forwarded), self.peer, self._trusted)
        self._conn = self._attach(self._listener, self)
        if self._conn < 0:
            transport.send_close(WSCloseCode.TRY_AGAIN_LATER)
            transport.disconnect()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind in (WSMsgType.BINARY, WSMsgType.CONTINUATION) and not (frame.rsv1 or frame.rsv2 or frame.rsv3):
            self._sinks.receive(self._conn, frame.get_payload_as_memoryview())
        elif kind == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        elif kind not in (WSMsgType.PING, WSMsgType.PONG):
            transport.send_close(WSCloseCode.UNSUPPORTED_DATA)  # [MQTT-6.0.0-1]
            transport.disconnect()

    def on_eof(self) -> None:
        """The client sends no more."""
        self._sinks.lost(self._conn)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
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
        if self._transport is not None:
            # Not `send`: of large frames it leaves the head in a buffer that the next frame overwrites, and uvloop does
            # not copy it before it writes. This copies what cannot be written at once.
            self._transport.send_reuse_external_bytearray(WSMsgType.BINARY, bytearray(HEAD_ROOM) + data, HEAD_ROOM)

    def pause_reading(self) -> None:
        if self._transport is not None:
            self._transport.underlying_transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None:
            self._transport.underlying_transport.resume_reading()

    def end(self) -> None:
        """Says that it closes, sends what it still has, and closes."""
        transport = self._transport
        if transport is not None and not transport.is_close_frame_sent:
            transport.send_close(WSCloseCode.OK)
            transport.disconnect()
            self._loop.call_later(END_S, self._cut)

    def _cut(self) -> None:
        if self._transport is not None:
            self._transport.disconnect(False)


class _Protocol(WSProtocol):  # type: ignore[misc]
    """A WebSocket whose end is heard at once: messages must not be sent to it while its transport closes."""

    def eof_received(self) -> bool:
        if self.listener is not None:
            self.listener.on_eof()
        return bool(super().eof_received())


def protocols(
    settings: Listener, sinks: Sinks, listener: int, frame_max: int, timeout_s: Callable[[], float]
) -> Callable[[Origin | None], asyncio.BaseProtocol]:
    """The protocol of one WebSocket client whose connection has been accepted already, perhaps after a PROXY header.

    picows has no public way to take such a connection: this is what its `ws_create_server` makes for its own.
    """
    loop = asyncio.get_running_loop()
    trusted = parse(settings.trusted_proxies)
    known = {each.name: each.default for each in inspect.signature(ws_create_server).parameters.values()}
    known |= {"max_frame_size": frame_max, "enable_auto_pong": True}

    def make(origin: Origin | None) -> asyncio.BaseProtocol:
        known["websocket_handshake_timeout"] = timeout_s()
        protocol: asyncio.BaseProtocol = _Protocol(
            None, None, False,
            _upgrader(settings, lambda: Stream(sinks, listener, trusted, loop, origin)),
            _picows,
            *(known[name] for name in (
                "disconnect_on_exception", "websocket_handshake_timeout", "enable_auto_ping", "auto_ping_idle_timeout",
                "auto_ping_reply_timeout", "auto_ping_strategy", "enable_auto_pong", "max_frame_size",
            )),
            None,
            known["read_buffer_init_size"],
        )  # fmt: skip
        return protocol

    return make


def _upgrader(settings: Listener, make: Callable[[], Stream]) -> Callable[[WSUpgradeRequest], Any]:
    origins = frozenset(each.lower() for each in settings.origins)

    def upgrade(request: WSUpgradeRequest) -> Any:
        if request.path.decode("latin-1").partition("?")[0] != settings.path:
            return _refused(404, f"MQTT is at {settings.path}.\n".encode())
        if "websocket" not in request.headers.get("Upgrade", "").lower():
            return _refused(426, HELP, {"Upgrade": "websocket"})
        if request.headers.get("Sec-WebSocket-Version") != VERSION:
            return _refused(426, HELP, {"Upgrade": "websocket", "Sec-WebSocket-Version": VERSION})
        if origins and request.headers.get("Origin", "").lower() not in origins and "Origin" in request.headers:
            return _refused(403, b"Pages of this origin may not connect: see `origins` of the listener.\n")
        chosen = _chosen(request.headers.getall("Sec-WebSocket-Protocol", ()))
        if chosen is None:
            return _refused(400, b"Sec-WebSocket-Protocol must offer `mqtt`.\n")
        response = WSUpgradeResponse.create_101_response({"Sec-WebSocket-Protocol": chosen})
        return WSUpgradeResponseWithListener(response, make())

    return upgrade


def cookies_of(headers: Iterable[str]) -> dict[str, str]:
    """Cookies by name (RFC 6265, section 4.2.1); of two with the same name the first, the one of the nearer path."""
    found: dict[str, str] = {}
    for header in headers:
        for pair in header.split(";"):
            name, equals, value = pair.strip().partition("=")
            if equals and name and name not in found and len(found) < COOKIES_MAX:
                found[name] = value.strip('"')
    return found


def _chosen(offers: Iterable[str]) -> str | None:
    offered = [each.strip() for offer in offers for each in offer.split(",")]
    return next((each for each in offered if each in PROTOCOLS), None)


def _refused(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> Any:
    return WSUpgradeResponseWithListener(WSUpgradeResponse.create_error_response(status, body, headers), None)
