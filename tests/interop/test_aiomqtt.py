"""aiomqtt, the asyncio client of many services, in its three versions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiomqtt
import pytest
from aiomqtt import ProtocolVersion
from paho.mqtt.packettypes import PacketTypes

from tests.brokerproc import BrokerProcess
from tests.interop.paho_clients import properties

every_version = pytest.mark.parametrize("version", list(ProtocolVersion), ids=lambda version: version.name)
every_qos = pytest.mark.parametrize("qos", [0, 1, 2])


@contextlib.asynccontextmanager
async def client(broker: BrokerProcess, version: ProtocolVersion, **options: Any) -> AsyncIterator[aiomqtt.Client]:
    async with (
        asyncio.timeout(15),
        aiomqtt.Client(broker.host, broker.port, protocol=version, timeout=10, **options) as connected,
    ):
        yield connected


async def take(receiver: aiomqtt.Client, count: int) -> list[aiomqtt.Message]:
    async with asyncio.timeout(10):
        return [await anext(receiver.messages) for _ in range(count)]


@every_version
@every_qos
def test_messages_arrive_once_in_order(broker: BrokerProcess, topic: str, version: ProtocolVersion, qos: int) -> None:
    async def scenario() -> None:
        async with client(broker, version) as sub, client(broker, version) as pub:
            await sub.subscribe(f"{topic}/+", qos=qos)
            for number in range(200):
                await pub.publish(f"{topic}/{number % 7}", str(number), qos=qos)
            await pub.publish(f"{topic}/end", "end", qos=qos)
            got = await take(sub, 201)
            assert [(str(m.topic), m.payload, m.qos) for m in got] == [
                *((f"{topic}/{n % 7}", str(n).encode(), qos) for n in range(200)),
                (f"{topic}/end", b"end", qos),
            ]

    asyncio.run(scenario())


@every_version
def test_many_publish_at_once(broker: BrokerProcess, topic: str, version: ProtocolVersion) -> None:
    async def scenario() -> None:
        async with client(broker, version) as sub, client(broker, version) as pub:
            await sub.subscribe(topic, qos=1)
            await asyncio.gather(*(pub.publish(topic, str(n), qos=1) for n in range(200)))
            assert sorted(int(bytes(m.payload)) for m in await take(sub, 200)) == list(range(200))

    asyncio.run(scenario())


@every_version
@every_qos
def test_crowded_publishers_do_not_mix_up_their_payloads(
    broker: BrokerProcess, topic: str, version: ProtocolVersion, qos: int
) -> None:
    """Many connections are read in one turn of the broker, before any of it is written to the subscriber."""

    def payload(sender: int, number: int) -> bytes:
        return f"{sender}:{number};".encode() * (200 + 37 * sender)  # 1 to 6 kB

    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as stack:
            sub = await stack.enter_async_context(client(broker, version))
            await sub.subscribe(f"{topic}/+", qos=qos)
            pubs = [await stack.enter_async_context(client(broker, version)) for _ in range(12)]
            for number in range(20):
                sending = (pub.publish(f"{topic}/{i}", payload(i, number), qos=qos) for i, pub in enumerate(pubs))
                await asyncio.gather(*sending)
            got: dict[str, list[bytes]] = {}
            for message in await take(sub, 240):
                got.setdefault(str(message.topic), []).append(bytes(message.payload))
            assert got == {f"{topic}/{i}": [payload(i, number) for number in range(20)] for i in range(12)}

    asyncio.run(scenario())


@every_version
def test_retained_will_and_unsubscribe(broker: BrokerProcess, topic: str, version: ProtocolVersion) -> None:
    async def scenario() -> None:
        will = aiomqtt.Will(f"{topic}/status", "offline", qos=1, retain=True)
        async with client(broker, version) as watcher:
            await watcher.subscribe(f"{topic}/#", qos=1)
            async with client(broker, version, will=will) as device:
                await device.publish(f"{topic}/status", "online", qos=1, retain=True)
            await watcher.publish(f"{topic}/next", "after", qos=1)
            assert [m.payload for m in await take(watcher, 2)] == [b"online", b"after"]
            await watcher.unsubscribe(f"{topic}/#")
            await watcher.publish(f"{topic}/status", "lost", qos=1, retain=True)
            await watcher.subscribe(f"{topic}/status", qos=1)
            (message,) = await take(watcher, 1)
            assert (message.payload, message.retain) == (b"lost", True)
            await watcher.publish(f"{topic}/status", b"", qos=1, retain=True)

    asyncio.run(scenario())


@every_version
def test_a_persistent_client_gets_what_it_missed(broker: BrokerProcess, topic: str, version: ProtocolVersion) -> None:
    options: dict[str, Any] = {"identifier": topic.replace("/", "-")[-23:]}
    if version == ProtocolVersion.V5:
        options |= {"clean_start": False, "properties": properties(PacketTypes.CONNECT, SessionExpiryInterval=300)}
    else:
        options |= {"clean_session": False}

    async def scenario() -> None:
        async with client(broker, version, **options) as sub:
            await sub.subscribe(topic, qos=2)
        async with client(broker, version) as pub:
            for number in range(50):
                await pub.publish(topic, str(number), qos=2)
            async with client(broker, version, **options) as sub:
                await pub.publish(topic, "live", qos=2)
                got = [bytes(m.payload).decode() for m in await take(sub, 51)]
        assert got == [*map(str, range(50)), "live"]

    asyncio.run(scenario())


def test_properties_of_version_5(broker: BrokerProcess, topic: str) -> None:
    sent = properties(
        PacketTypes.PUBLISH,
        ResponseTopic=f"{topic}/reply",
        CorrelationData=b"\x00\xff",
        UserProperty=[("k", "1"), ("k", "2")],
    )

    async def scenario() -> None:
        async with client(broker, ProtocolVersion.V5) as both:
            await both.subscribe(topic, qos=1)
            await both.publish(topic, "x", qos=1, properties=sent)
            (message,) = await take(both, 1)
            got: Any = message.properties
            assert got.json() == sent.json()

    asyncio.run(scenario())
