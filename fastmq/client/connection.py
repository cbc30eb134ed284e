"""One client's connection over its life: dial, CONNECT, hand packets to where they belong, come back after a loss.

closed --open()--> opening --CONNACK--> open --close()--> closed
                      |                  | lost, no reconnect: closed with an error
                      '---- refused      | lost, reconnect:    returning --CONNACK--> open
"""

import asyncio
import contextlib
import ssl as tls
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastmq.client.errors import ConnectionLost, ConnectRefused, Refused, reason_name
from fastmq.client.inbound import Inbound
from fastmq.client.keepalive import KeepAlive
from fastmq.client.link import Link
from fastmq.client.outbound import Outbound
from fastmq.client.reconnect import Reconnect
from fastmq.errors import ProtocolError
from fastmq.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingresp,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Unsuback,
)
from fastmq.reasons import Reason

__all__ = ["Address", "Connection"]

_WINDOW_V3 = 100  # before MQTT 5 the server cannot tell how many it wants in flight
_PACKET_MAX = 268_435_460  # the largest there can be
_COMING_BACK_HELPS = (
    3,  # MQTT 3: server unavailable
    Reason.SERVER_UNAVAILABLE,
    Reason.SERVER_BUSY,
    Reason.QUOTA_EXCEEDED,
    Reason.CONNECTION_RATE_EXCEEDED,
)


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int
    path: str | None = None  # a Unix socket, instead
    ssl: tls.SSLContext | None = None
    bind: str | None = None  # our own address


class Connection:
    """:param restore: called after a reconnect to a server that has forgotten the session."""

    def __init__(
        self,
        address: Address,
        connect: Connect,
        *,
        inbound_max: int,
        connect_timeout_s: float,
        reconnect: Reconnect | None,
        restore: Callable[[], Awaitable[None]],
        authenticate: Callable[[Auth], Auth] | None,
        on_packet: Callable[[Packet, bool], None] | None,
    ) -> None:
        self.connect = connect
        self.connack: Connack | None = None
        self.outbound = Outbound(_WINDOW_V3)
        self.inbound = Inbound(inbound_max, self._answer)
        self.inbound.alias_max = connect.properties.topic_alias_maximum or 0
        self._address = address
        self._connect_timeout_s = connect_timeout_s
        self._reconnect = reconnect
        self._restore = restore
        self._authenticate = authenticate
        self._on_packet = on_packet
        self._link: Link | None = None
        self._is_open = False
        self._decided = asyncio.Event()  # cleared while it is unknown whether the connection comes back
        self._decided.set()
        self._welcome: asyncio.Future[Connack] | None = None
        self._keepalive: KeepAlive | None = None
        self._returning: asyncio.Task[None] | None = None
        self._reading = True
        self._goodbye: Disconnect | None = None  # what the server said

    @property
    def is_open(self) -> bool:
        return self._is_open

    async def open(self) -> Connack:
        if self._link is not None or self._returning is not None:
            raise RuntimeError("already connected")
        self.outbound.revive()
        try:
            return await self._open()
        except ConnectionLost:
            self._forget_returning()  # it was open for a moment; the caller decides whether to try again
            raise

    async def close(self, reason: int, properties: Properties) -> None:
        if self._returning is not None:
            self._returning.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._returning
            self._returning = None
        link, said_goodbye = self._link, self._is_open
        if link is not None and said_goodbye:
            self.send(Disconnect(reason, properties))
        self._settle(None)
        if link is not None:
            await link.close()

    def _forget_returning(self) -> None:
        if self._returning is not None:
            self._returning.cancel()
            self._returning = None
            self._decided.set()

    async def ready(self) -> Link:
        """The link, when it is open and takes more. :raises ConnectionLost: there is none, and none will come."""
        while True:
            await self._decided.wait()
            if self._link is None or not self._is_open:
                raise ConnectionLost("not connected")
            link = self._link
            await link.drain()
            if link is self._link and self._is_open:
                return link

    async def admit(self) -> None:
        """Return when one more publish with QoS 1 or 2 may be sent without another await."""
        while True:
            link = await self.ready()
            await self.outbound.admit()
            if link is self._link and self._is_open:
                return

    def send(self, packet: Packet) -> None:
        if self._link is None or self._link.closed:
            return
        self._link.send(packet)
        if self._on_packet is not None:
            self._on_packet(packet, True)

    def _answer(self, packet: Packet) -> None:
        """An acknowledgement. Before CONNACK it may not be sent; the server then sends its message again."""
        if self._is_open:
            self.send(packet)

    async def ping(self) -> float:
        await self.ready()
        assert self._keepalive is not None
        self.listen()
        return await self._keepalive.ping()

    async def take(self) -> Publish | None:
        message = await self.inbound.take()
        if not self._reading and len(self.inbound) * 2 <= self.inbound.messages_max:
            self.listen()
        return message

    def listen(self) -> None:
        """Read again: there is room, or an answer is awaited that must not wait behind unread messages."""
        if not self._reading and self._link is not None:
            self._reading = True
            self._link.resume_reading()

    async def _open(self) -> Connack:
        self._goodbye = None
        self._reading = True
        self._welcome = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                self._link = await self._dial()
                self.send(self.connect)
                connack = await self._welcome
        except TimeoutError:
            self._drop_link()
            raise ConnectionLost("the server did not answer in time") from None
        except OSError as e:
            self._drop_link()
            raise ConnectionLost(f"cannot connect: {e.strerror or e}") from e
        except BaseException:
            self._drop_link()
            raise
        finally:
            self._welcome = None
        if not self._is_open:  # lost again at once, between CONNACK and here
            raise self._loss(None)
        return connack

    async def _dial(self) -> Link:
        def make() -> Link:
            packet_max = self.connect.properties.maximum_packet_size or _PACKET_MAX
            return Link(self.connect.version, self._on_packets, self._on_lost, packet_max)

        loop, to = asyncio.get_running_loop(), self._address
        if to.path is not None:
            return (await loop.create_unix_connection(make, to.path))[1]
        ours = (to.bind, 0) if to.bind else None
        return (await loop.create_connection(make, to.host, to.port, ssl=to.ssl, local_addr=ours))[1]

    def _welcomed(self, link: Link, connack: Connack) -> None:
        """At once, not when `_open` wakes: messages may follow CONNACK in the same read."""
        limits = connack.properties
        self.connack = connack
        if limits.assigned_client_identifier is not None:
            self.connect.client_id = limits.assigned_client_identifier
        link.peer_packet_max = limits.maximum_packet_size or 0
        if self.connect.version == 5:
            self.outbound.window = limits.receive_maximum or 65_535
        self.inbound.start(connack.session_present)
        interval_s = self.connect.keepalive if limits.server_keep_alive is None else limits.server_keep_alive
        self._keepalive = KeepAlive(link, interval_s, lambda: self._reading, self.send)
        for packet in self.outbound.resume(connack.session_present):
            self.send(packet)
        self._is_open = True
        self._decided.set()

    def _answered(self, welcome: "asyncio.Future[Connack]", connack: Connack) -> None:
        if connack.reason:
            explanation = connack.properties.reason_string
            version = self.connect.version
            welcome.set_exception(ConnectRefused("connection refused", connack.reason, explanation, version=version))
            return
        assert self._link is not None
        self._welcomed(self._link, connack)
        welcome.set_result(connack)

    def _drop_link(self) -> None:
        link, self._link = self._link, None
        self._is_open = False
        if link is not None:
            link.fail(ConnectionLost("given up"))

    def _on_packets(self, packets: list[Packet]) -> None:
        for packet in packets:
            if self._on_packet is not None:
                self._on_packet(packet, False)
            try:
                self._handle(packet)
            except ProtocolError as e:
                assert self._link is not None
                if self.connect.version == 5:
                    self.send(Disconnect(e.reason))
                self._link.fail(ConnectionLost(f"the server broke the protocol: {e}", e.reason))
                return
        if self._reading and self.inbound.is_full and not self._awaits_answer and self._link is not None:
            self._reading = False
            self._link.pause_reading()

    @property
    def _awaits_answer(self) -> bool:
        return bool(self.outbound) or (self._keepalive is not None and self._keepalive.awaits_answer)

    def _handle(self, packet: Packet) -> None:
        if isinstance(packet, Publish):
            self.inbound.put(packet, may_drop=self._awaits_answer)
        elif isinstance(packet, Puback | Pubcomp):
            self.outbound.finished(packet.packet_id, packet.reason, packet.properties.reason_string)
        elif isinstance(packet, Pubrec):
            if self.outbound.received(packet.packet_id, packet.reason, packet.properties.reason_string):
                self.send(Pubrel(packet.packet_id))
        elif isinstance(packet, Pubrel):
            self.inbound.released(packet)
        elif isinstance(packet, Suback | Unsuback):
            self.outbound.answered(packet)
        elif isinstance(packet, Pingresp):
            if self._keepalive is not None:
                self._keepalive.answered()
        elif isinstance(packet, Disconnect):
            self._goodbye = packet
        elif isinstance(packet, Connack) and self._welcome is not None and not self._welcome.done():
            self._answered(self._welcome, packet)
        elif isinstance(packet, Auth) and self._authenticate is not None:
            self.send(self._authenticate(packet))
        else:
            raise ProtocolError(f"unexpected {type(packet).__name__}")

    def _on_lost(self, link: Link, error: Exception | None) -> None:
        if self._welcome is not None and not self._welcome.done():
            self._welcome.set_exception(self._loss(error))
        if link is not self._link or not self._is_open:
            return
        lost = self._loss(error)
        if self._reconnect is None:
            self._settle(lost)
            return
        self._stop(lost)
        self._decided.clear()
        if self._returning is None:
            self._returning = asyncio.get_running_loop().create_task(self._come_back(self._reconnect))

    def _loss(self, error: Exception | None) -> ConnectionLost:
        if isinstance(error, ConnectionLost):
            return error
        if self._goodbye is not None:
            said = reason_name(self._goodbye.reason)
            explanation = self._goodbye.properties.reason_string
            return ConnectionLost(f"the server disconnected: {explanation or said}", self._goodbye.reason)
        return ConnectionLost(f"connection lost: {error}" if error else "the server closed the connection")

    def _stop(self, error: ConnectionLost | None) -> None:
        self._link = None
        self._is_open = False
        if self._keepalive is not None:
            self._keepalive.stop(error)
            self._keepalive = None

    def _settle(self, error: ConnectionLost | None) -> None:
        """The end: no connection, and none to come. Whoever waits for one learns it."""
        self._stop(error)
        self.outbound.fail(error or ConnectionLost("disconnected"))
        self.inbound.finish(error)
        self._decided.set()

    async def _come_back(self, reconnect: Reconnect) -> None:
        for pause_s in reconnect.pauses():
            await asyncio.sleep(pause_s)
            try:
                connack = await self._open()
                break
            except ConnectRefused as e:
                if e.reason not in _COMING_BACK_HELPS:
                    self._returning = None
                    self._settle(ConnectionLost(str(e), e.reason))
                    return
            except ConnectionLost:
                continue
        self._returning = None
        if not connack.session_present:
            with contextlib.suppress(ConnectionLost, Refused):
                await self._restore()
