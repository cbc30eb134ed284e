"""gmqtt (fastapi-mqtt stands on it), in its two versions, with its habit of sending an empty user name."""

from __future__ import annotations

import asyncio
from typing import Any

import gmqtt  # type: ignore[import-untyped]
import pytest
from gmqtt.mqtt.constants import MQTTv50, MQTTv311  # type: ignore[import-untyped]

from tests.brokerproc import BrokerProcess

every_version = pytest.mark.parametrize("version", [MQTTv311, MQTTv50], ids=["MQTTv311", "MQTTv50"])
every_qos = pytest.mark.parametrize("qos", [0, 1, 2])


class GmqttClient:
    """A gmqtt client whose callbacks fill queues."""

    def __init__(self, broker: BrokerProcess, client_id: str, version: int, **options: Any) -> None:
        self.gmqtt = gmqtt.Client(client_id, **options)
        self.gmqtt.set_config({"reconnect_retries": -2})  # never: -1 is for ever, 0 still tries once
        self.messages: asyncio.Queue[tuple[str, bytes, int, dict[str, Any]]] = asyncio.Queue()
        self._broker = broker
        self._version = version
        self._acked: asyncio.Queue[int] = asyncio.Queue()
        self.gmqtt.on_message = self._on_message
        self.gmqtt.on_subscribe = self._on_acknowledged
        self.gmqtt.on_unsubscribe = self._on_acknowledged

    async def __aenter__(self) -> GmqttClient:
        await self.gmqtt.connect(self._broker.host, self._broker.port, version=self._version)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.gmqtt.disconnect()

    async def subscribe(self, topic: str, qos: int, **options: Any) -> None:
        self.gmqtt.subscribe(gmqtt.Subscription(topic, qos=qos, **options))
        await asyncio.wait_for(self._acked.get(), 10)

    async def unsubscribe(self, topic: str) -> None:
        self.gmqtt.unsubscribe(topic)
        await asyncio.wait_for(self._acked.get(), 10)

    async def take(self, count: int) -> list[tuple[str, bytes, int, dict[str, Any]]]:
        async with asyncio.timeout(10):
            return [await self.messages.get() for _ in range(count)]

    async def _on_message(self, _client: Any, topic: str, payload: bytes, qos: int, properties: dict[str, Any]) -> int:
        self.messages.put_nowait((topic, payload, qos, properties))
        return 0

    def _on_acknowledged(self, _client: Any, mid: int, *_: Any) -> None:
        self._acked.put_nowait(mid)


@every_version
@every_qos
def test_messages_arrive_once_in_order(broker: BrokerProcess, topic: str, version: int, qos: int) -> None:
    async def scenario() -> None:
        async with (
            GmqttClient(broker, f"{topic}/sub", version) as sub,
            GmqttClient(broker, f"{topic}/pub", version) as pub,
        ):
            await sub.subscribe(f"{topic}/#", qos)
            for number in range(200):
                pub.gmqtt.publish(f"{topic}/{number}", str(number), qos=qos)
            got = await sub.take(200)
            assert [(name, payload, received) for name, payload, received, _ in got] == [
                (f"{topic}/{n}", str(n).encode(), qos) for n in range(200)
            ]
            assert sub.messages.empty()

    asyncio.run(scenario())


@every_version
@pytest.mark.parametrize("credentials", [("", None), ("", ""), ("anyone", "secret")])
def test_an_empty_user_name_is_anonymous(
    broker: BrokerProcess, topic: str, version: int, credentials: tuple[str, str | None]
) -> None:
    async def scenario() -> None:
        client = GmqttClient(broker, topic, version)
        client.gmqtt.set_auth_credentials(*credentials)
        async with client:
            await client.subscribe(topic, 1)
            client.gmqtt.publish(topic, "let in", qos=1)
            assert (await client.take(1))[0][1] == b"let in"

    asyncio.run(scenario())


@every_version
def test_a_retained_message_and_the_end_of_a_subscription(broker: BrokerProcess, topic: str, version: int) -> None:
    async def scenario() -> None:
        async with GmqttClient(broker, topic, version) as client:
            await client.subscribe(f"{topic}/first", 1)
            client.gmqtt.publish(f"{topic}/state", "kept", qos=1, retain=True)
            client.gmqtt.publish(f"{topic}/first", "x", qos=1)
            await client.take(1)
            await client.subscribe(f"{topic}/state", 1)
            name, payload, _, properties = (await client.take(1))[0]
            assert (name, payload, properties["retain"]) == (f"{topic}/state", b"kept", 1)
            await client.unsubscribe(f"{topic}/state")
            client.gmqtt.publish(f"{topic}/state", "", qos=1, retain=True)
            client.gmqtt.publish(f"{topic}/first", "end", qos=1)
            assert (await client.take(1))[0][1] == b"end"

    asyncio.run(scenario())


@every_version
@every_qos
def test_the_will_of_a_lost_connection(broker: BrokerProcess, topic: str, version: int, qos: int) -> None:
    async def scenario() -> None:
        will = gmqtt.Message(topic, "gone", qos=qos, retain=False)
        async with GmqttClient(broker, f"{topic}/watcher", version) as watcher:
            await watcher.subscribe(topic, 2)
            lost = GmqttClient(broker, f"{topic}/lost", version, will_message=will)
            async with lost:
                lost.gmqtt._connection._transport.abort()
                got = await watcher.take(1)
            assert got[0][:3] == (topic, b"gone", qos)

    asyncio.run(scenario())


@every_version
def test_a_persistent_client_gets_what_it_missed(broker: BrokerProcess, topic: str, version: int) -> None:
    options: dict[str, Any] = {"clean_session": False}
    if version == MQTTv50:
        options["session_expiry_interval"] = 300

    async def scenario() -> None:
        async with GmqttClient(broker, topic, version, **options) as sub:
            await sub.subscribe(topic, 2)
        async with GmqttClient(broker, f"{topic}/pub", version) as pub:
            await pub.subscribe(f"{topic}/sent", 1)
            for number in range(50):
                pub.gmqtt.publish(topic, str(number), qos=2)
            pub.gmqtt.publish(f"{topic}/sent", "all", qos=1)
            await pub.take(1)
            async with GmqttClient(broker, topic, version, **options) as sub:
                got = await sub.take(50)
        assert [payload for _, payload, _, _ in got] == [str(n).encode() for n in range(50)]

    asyncio.run(scenario())


def test_properties_of_version_5(broker: BrokerProcess, topic: str) -> None:
    async def scenario() -> None:
        async with GmqttClient(broker, topic, MQTTv50) as client:
            await client.subscribe(topic, 1, subscription_identifier=42)
            client.gmqtt.publish(
                topic,
                "{}",
                qos=1,
                content_type="application/json",
                response_topic=f"{topic}/reply",
                correlation_data=b"\x01",
                message_expiry_interval=100,
                user_property=[("k", "1"), ("k", "2")],
            )
            properties = (await client.take(1))[0][3]
            assert properties["user_property"] == [("k", "1"), ("k", "2")]
            assert properties["content_type"] == ["application/json"]
            assert properties["response_topic"] == [f"{topic}/reply"]
            assert properties["correlation_data"] == [b"\x01"]
            assert properties["subscription_identifier"] == [42]
            assert 98 <= properties["message_expiry_interval"][0] <= 100

    asyncio.run(scenario())


def test_an_alias_of_the_client(broker: BrokerProcess, topic: str) -> None:
    async def scenario() -> None:
        async with (
            GmqttClient(broker, f"{topic}/sub", MQTTv50, topic_alias_maximum=10) as sub,
            GmqttClient(broker, f"{topic}/pub", MQTTv50) as pub,
        ):
            await sub.subscribe(f"{topic}/#", 1)
            for name in "abab":
                pub.gmqtt.publish(f"{topic}/{name}", name, qos=1, topic_alias=1 if name == "a" else 2)
            got = await sub.take(4)
            assert [name for name, *_ in got] == [f"{topic}/{name}" for name in "abab"]

    asyncio.run(scenario())
