"""The client as its callers see it: connect, publish, subscribe, iterate, disconnect."""

import asyncio
import ssl as tls
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from types import TracebackType
from typing import Self

from fastmq import topics
from fastmq.client.connection import Address, Connection
from fastmq.client.errors import ConnectionLost, Refused
from fastmq.client.reconnect import Reconnect
from fastmq.packets import (
    Auth,
    Connack,
    Connect,
    Packet,
    Properties,
    Publish,
    Subscribe,
    SubscriptionRequest,
    Unsubscribe,
    Will,
)
from fastmq.reasons import Reason

__all__ = ["Client"]

_LEVELS_MAX = 65_535  # the server has the say; here only what no server may take is refused


class Client:
    """An MQTT client. `connect()` and `disconnect()` may be repeated; `async with` does both.

    :param path: a Unix socket, instead of host and port.
    :param properties: of the CONNECT, MQTT 5 only. Its receive maximum is `inbound_max` unless given.
    :param inbound_max: so many messages may wait unread; then reading from the socket pauses.
    :param reconnect: try again after a lost connection, and subscribe again if the session is gone.
    :param authenticate: answers the server's AUTH in an enhanced authentication (MQTT 5).
    :param on_packet: sees every packet, with True for those that were sent; for debugging.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int = 1883,
        *,
        path: str | None = None,
        client_id: str = "",
        version: int = 5,
        clean_start: bool = True,
        keepalive: int = 60,
        username: str | None = None,
        password: bytes | str | None = None,
        will: Will | None = None,
        properties: Properties | None = None,
        inbound_max: int = 1000,
        connect_timeout_s: float = 10.0,
        ssl: tls.SSLContext | None = None,
        bind: str | None = None,
        reconnect: Reconnect | None = None,
        authenticate: Callable[[Auth], Auth] | None = None,
        on_packet: Callable[[Packet, bool], None] | None = None,
    ) -> None:
        secret = password.encode() if isinstance(password, str) else password
        sent = replace(properties) if properties is not None else Properties()
        if version == 5 and sent.receive_maximum is None:
            sent.receive_maximum = min(inbound_max, 65_535)
        self._subscriptions: dict[str, tuple[SubscriptionRequest, Properties]] = {}
        self._connection = Connection(
            Address(host, port, path, ssl, bind),
            Connect(client_id, version, clean_start, keepalive, username, secret, will, sent),
            inbound_max=inbound_max,
            connect_timeout_s=connect_timeout_s,
            reconnect=reconnect,
            restore=self._subscribe_again,
            authenticate=authenticate,
            on_packet=on_packet,
        )

    @property
    def client_id(self) -> str:
        """Ours, or the one that the server assigned."""
        return self._connection.connect.client_id

    @property
    def connack(self) -> Connack | None:
        """The server's answer to the last CONNECT: session present, its limits, the assigned client id."""
        return self._connection.connack

    @property
    def is_connected(self) -> bool:
        return self._connection.is_open

    @property
    def unread(self) -> int:
        """Messages that have arrived and nobody has taken."""
        return len(self._connection.inbound)

    @property
    def dropped(self) -> int:
        """QoS 0 messages that found the inbound queue full while an answer was awaited."""
        return self._connection.inbound.dropped

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.disconnect()

    async def connect(self) -> Connack:
        """:raises ConnectRefused: by the server. :raises ConnectionLost: it cannot be reached, or went silent."""
        return await self._connection.open()

    async def disconnect(self, reason: int = 0, properties: Properties | None = None) -> None:
        """Say goodbye and close. Messages that have arrived can still be taken."""
        await self._connection.close(reason, properties or Properties())

    async def publish(
        self,
        topic: str,
        payload: bytes | str = b"",
        qos: int = 0,
        retain: bool = False,
        properties: Properties | None = None,
    ) -> int:
        """Return when the server has acknowledged (QoS 0: when it is on its way); the reason code.

        :raises Refused: the server does not want it. :raises ConnectionLost: before it was acknowledged.
        """
        return await (await self.publish_soon(topic, payload, qos, retain, properties))

    async def publish_soon(
        self,
        topic: str,
        payload: bytes | str = b"",
        qos: int = 0,
        retain: bool = False,
        properties: Properties | None = None,
    ) -> "asyncio.Future[int]":
        """Return when the message is sent, which the receive maximum may delay; await the result for its end."""
        message = Publish(
            topic,
            payload.encode() if isinstance(payload, str) else bytes(payload),
            qos,
            retain,
            properties=replace(properties) if properties is not None else Properties(),
        )
        self._check_publish(message)
        finished: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        connection = self._connection
        if qos == 0:
            await connection.ready()
            connection.send(message)
            finished.set_result(0)
            return finished
        await connection.admit()
        done = connection.outbound.open(message)
        done.add_done_callback(lambda done: _hand_over(done, finished, topic))
        try:
            connection.send(message)
        except ValueError:
            connection.outbound.finished(message.packet_id, 0, None)
            raise
        connection.listen()
        return finished

    async def subscribe(
        self,
        *filters: str | SubscriptionRequest,
        qos: int = 0,
        properties: Properties | None = None,
    ) -> list[int]:
        """The reason code of each filter, the granted QoS if below 0x80. `qos` is for those given as text.

        :raises Refused: the server refused all of them.
        """
        wanted = [SubscriptionRequest(each, qos) if isinstance(each, str) else each for each in filters]
        for each in wanted:
            topics.parse_subscription(each.filter, _LEVELS_MAX)
        connection = self._connection
        await connection.ready()
        packet_id, answer = connection.outbound.request()
        connection.send(Subscribe(packet_id, wanted, properties or Properties()))
        connection.listen()
        suback = await answer
        for each, reason in zip(wanted, suback.reasons, strict=False):
            if reason < 0x80:
                self._subscriptions[each.filter] = (each, properties or Properties())
        if suback.reasons and all(reason >= 0x80 for reason in suback.reasons):
            what = "subscribe to " + ", ".join(each.filter for each in wanted)
            raise Refused(what, suback.reasons[0], suback.properties.reason_string)
        return suback.reasons

    async def unsubscribe(self, *filters: str, properties: Properties | None = None) -> list[int]:
        """The reason code of each filter; empty before MQTT 5."""
        for each in filters:
            topics.parse_subscription(each, _LEVELS_MAX)
        connection = self._connection
        await connection.ready()
        packet_id, answer = connection.outbound.request()
        connection.send(Unsubscribe(packet_id, list(filters), properties or Properties()))
        connection.listen()
        unsuback = await answer
        for each in filters:
            self._subscriptions.pop(each, None)
        return unsuback.reasons

    async def ping(self) -> float:
        """The seconds from PINGREQ to PINGRESP."""
        return await self._connection.ping()

    async def receive(self) -> Publish:
        """The next message, acknowledged by taking it. :raises ConnectionLost: none will come."""
        message = await self._connection.take()
        if message is None:
            raise ConnectionLost("disconnected")
        return message

    async def messages(self) -> AsyncIterator[Publish]:
        """The messages until `disconnect()`. :raises ConnectionLost: the connection is gone for good."""
        while (message := await self._connection.take()) is not None:
            yield message

    def __aiter__(self) -> AsyncIterator[Publish]:
        return self.messages()

    async def _subscribe_again(self) -> None:
        """After a reconnect to a server that has forgotten the session."""
        for request, properties in list(self._subscriptions.values()):
            await self.subscribe(request, properties=properties)

    def _check_publish(self, message: Publish) -> None:
        if message.topic or message.properties.topic_alias is None:
            topics.validate_name(message.topic, _LEVELS_MAX)
        if not 0 <= message.qos <= 2:
            raise ValueError(f"no such QoS: {message.qos}")
        limits = self.connack.properties if self.connack is not None else Properties()
        if limits.maximum_qos is not None and message.qos > limits.maximum_qos:
            raise Refused(f"publish to {message.topic}", Reason.QOS_NOT_SUPPORTED)  # [MQTT-3.2.2-11]
        if message.retain and limits.retain_available is False:
            raise Refused(f"publish to {message.topic}", Reason.RETAIN_NOT_SUPPORTED)  # [MQTT-3.2.2-14]


def _hand_over(done: "asyncio.Future[tuple[int, str | None]]", finished: "asyncio.Future[int]", topic: str) -> None:
    if finished.done() or done.cancelled():
        return
    error = done.exception()
    if error is None:
        reason, explanation = done.result()
        if reason < 0x80:
            finished.set_result(reason)
            return
        error = Refused(f"publish to {topic}", reason, explanation)
    finished.set_exception(error)
    finished.exception()  # seen: whoever does not await it does not want to know
