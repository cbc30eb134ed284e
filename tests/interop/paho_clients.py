"""A paho-mqtt client as most programs use it: loop_start, callbacks, and waiting for what was asked."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from tests.brokerproc import BrokerProcess

VERSIONS: Final = (MQTTProtocolVersion.MQTTv31, MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5)
TIMEOUT_S: Final = 10.0

Filters = str | list[tuple[str, int]] | list[tuple[str, SubscribeOptions]]


def properties(packet: int, **values: Any) -> Any:
    """properties(PacketTypes.PUBLISH, TopicAlias=5). Any, for paho sets their attributes at run time."""
    made: Any = Properties(packet)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(made, name, value)
    return made


class PahoClient:
    """Collects what comes in; every wait is bounded and says what it waited for."""

    def __init__(
        self,
        broker: BrokerProcess,
        version: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv311,
        client_id: str = "",
        *,
        clean: bool = True,
        reconnect: bool = False,
        will: dict[str, Any] | None = None,
        user: tuple[str, str | None] | None = None,
        connect_properties: Properties | None = None,
    ) -> None:
        self._broker = broker
        self._clean = clean
        self._connect_properties = connect_properties
        self._changed = threading.Condition()
        self._acked: dict[int, list[int]] = {}
        self.messages: list[paho.MQTTMessage] = []
        self.connacks: list[tuple[paho.ConnectFlags, ReasonCode, Properties | None]] = []
        self.disconnects: list[ReasonCode] = []
        is_v5 = version == MQTTProtocolVersion.MQTTv5
        self.paho = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=None if is_v5 else clean,
            protocol=version,
            reconnect_on_failure=reconnect,
        )
        self.paho.max_inflight_messages_set(100)
        self.paho.on_connect = self._on_connect
        self.paho.on_disconnect = self._on_disconnect
        self.paho.on_subscribe = self._on_acknowledged
        self.paho.on_unsubscribe = self._on_acknowledged
        self.paho.on_message = self._on_message
        if user is not None:
            self.paho.username_pw_set(*user)
        if will is not None:
            self.paho.will_set(**will)

    def __enter__(self) -> PahoClient:
        return self.connect()

    def __exit__(self, *_: object) -> None:
        self.leave()

    def connect(self) -> PahoClient:
        """CONNECT, and back with the CONNACK; also to come back after leave() or vanish()."""
        expected = len(self.connacks) + 1
        if self.paho.protocol == MQTTProtocolVersion.MQTTv5:
            self.paho.connect(
                self._broker.host,
                self._broker.port,
                clean_start=self._clean,
                properties=self._connect_properties,
            )
        else:
            self.paho.connect(self._broker.host, self._broker.port)
        self.paho.loop_start()
        self.await_(lambda: len(self.connacks) >= expected, "CONNACK")
        return self

    @property
    def session_present(self) -> bool:
        return self.connacks[-1][0].session_present

    @property
    def connack_properties(self) -> dict[str, Any]:
        found: Any = self.connacks[-1][2]
        return {} if found is None else dict(found.json())

    def leave(self, reason: ReasonCode | None = None, disconnect_properties: Properties | None = None) -> None:
        """DISCONNECT and wait for the end of the connection."""
        if self.paho.is_connected():
            self.paho.disconnect(reason, disconnect_properties)
        self._stop_loop()

    def vanish(self) -> None:
        """Lose the connection without DISCONNECT."""
        expected = len(self.disconnects) + 1
        self.tear()
        self.await_(lambda: len(self.disconnects) >= expected, "the end of the connection")
        self._stop_loop()

    def _stop_loop(self) -> None:
        self.paho.loop_stop()
        # paho makes a pair of wake-up sockets at each loop_start and leaves closing them to the garbage collector.
        self.paho._reset_sockets(sockpair_only=True)

    def tear(self) -> None:
        """Break the TCP connection; the client notices by itself."""
        connection = self.paho.socket()
        assert isinstance(connection, socket.socket)
        connection.shutdown(socket.SHUT_RDWR)

    def subscribe(self, filters: Filters, qos: int = 0, subscribe_properties: Properties | None = None) -> list[int]:
        """The reason codes of the SUBACK."""
        if isinstance(filters, str):
            filters = [(filters, qos)]
        if self.paho.protocol == MQTTProtocolVersion.MQTTv5:
            with_options = [(name, SubscribeOptions(o) if isinstance(o, int) else o) for name, o in filters]
            _, mid = self.paho.subscribe(with_options, properties=subscribe_properties)
        else:
            _, mid = self.paho.subscribe(filters)
        return self._await_acknowledgement(mid, "SUBACK")

    def unsubscribe(self, filters: str | list[str]) -> list[int]:
        _, mid = self.paho.unsubscribe(filters)
        return self._await_acknowledgement(mid, "UNSUBACK")

    def publish(
        self, topic: str, payload: bytes | str, qos: int = 0, retain: bool = False, properties: Properties | None = None
    ) -> None:
        """Publish and wait until the QoS is fulfilled."""
        info = self.paho.publish(topic, payload, qos, retain, properties)
        info.wait_for_publish(TIMEOUT_S)
        assert info.is_published(), f"PUBLISH of {topic} with QoS {qos} was not acknowledged"

    def received(self, count: int) -> list[paho.MQTTMessage]:
        """All messages so far, as soon as there are `count`."""
        self.await_(lambda: len(self.messages) >= count, f"{count} messages, have {len(self.messages)}")
        with self._changed:
            return list(self.messages)

    def payloads(self, count: int) -> list[str]:
        return [message.payload.decode() for message in self.received(count)]

    def await_(self, condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, timeout_s), f"waited in vain for {what}"

    def _await_acknowledgement(self, mid: int | None, what: str) -> list[int]:
        assert mid is not None
        self.await_(lambda: mid in self._acked, what)
        return self._acked.pop(mid)

    def _on_connect(self, _c: Any, _u: Any, flags: Any, reason: ReasonCode, properties: Properties | None) -> None:
        with self._changed:
            self.connacks.append((flags, reason, properties))
            self._changed.notify_all()

    def _on_disconnect(self, _c: Any, _u: Any, _flags: Any, reason: ReasonCode, _p: Any) -> None:
        with self._changed:
            self.disconnects.append(reason)
            self._changed.notify_all()

    def _on_acknowledged(self, _c: Any, _u: Any, mid: int, reasons: list[ReasonCode], _p: Any) -> None:
        with self._changed:
            self._acked[mid] = [reason.value for reason in reasons]
            self._changed.notify_all()

    def _on_message(self, _c: Any, _u: Any, message: paho.MQTTMessage) -> None:
        with self._changed:
            self.messages.append(message)
            self._changed.notify_all()


__all__ = ["VERSIONS", "MQTTProtocolVersion", "PacketTypes", "PahoClient", "properties"]
