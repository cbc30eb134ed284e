"""Clients that people use, against the broker in the same program: aiomqtt on the same loop, paho beside a thread."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import Any

import aiomqtt
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.subscribeoptions import SubscribeOptions

import fastmq
from fastmq.reasons import Reason
from fastmq.testing import BackgroundBroker
from tests.unit.loops import on_each_loop, turns

VERSIONS = pytest.mark.parametrize("version", [3, 4, 5])


# -- aiomqtt -----------------------------------------------------------------------------------------------------------


def aio(broker: fastmq.Broker, version: int = 5, **options: Any) -> aiomqtt.Client:
    return aiomqtt.Client(broker.host, broker.port, protocol=aiomqtt.ProtocolVersion(version), **options)


@VERSIONS
@on_each_loop
async def test_aiomqtt_speaks_with_the_program(version: int) -> None:
    async with fastmq.Broker() as broker, broker.subscribe("up/#") as up, aio(broker, version) as client:
        await client.subscribe("down/#", qos=2)
        for qos in (0, 1, 2):
            await client.publish(f"up/{qos}", f"hello {qos}", qos=qos)
            message = await anext(up)
            assert (message.topic, message.payload, message.qos) == (f"up/{qos}", f"hello {qos}".encode(), qos)
            assert await broker.publish(f"down/{qos}", f"hi {qos}", qos=qos) == 1
            answer = await anext(client.messages)
            assert (answer.topic.value, answer.payload, answer.qos) == (f"down/{qos}", f"hi {qos}".encode(), qos)


@on_each_loop
async def test_fifty_aiomqtt_clients_hear_the_program() -> None:
    async with fastmq.Broker() as broker, contextlib.AsyncExitStack() as clients:
        joined = [await clients.enter_async_context(aio(broker, identifier=f"c{n}")) for n in range(50)]
        await asyncio.gather(*(client.subscribe("news", qos=1) for client in joined))
        assert await broker.publish("news", b"!", qos=1) == 50
        heard = await asyncio.gather(*(anext(client.messages) for client in joined))
        assert [message.payload for message in heard] == [b"!"] * 50
        assert {each.client_id for each in broker.clients()} == {f"c{n}" for n in range(50)}
    assert not broker.is_running


@on_each_loop
async def test_aiomqtt_clients_answer_one_another() -> None:
    async def answer(client: aiomqtt.Client) -> None:
        async for question in client.messages:
            assert question.properties is not None
            back = PahoProperties(PacketTypes.PUBLISH)
            back.CorrelationData = question.properties.CorrelationData
            await client.publish(question.properties.ResponseTopic, bytes(question.payload)[::-1], properties=back)

    async with fastmq.Broker() as broker, aio(broker) as asker, aio(broker) as answerer:
        await answerer.subscribe("questions")
        await asker.subscribe("answers")
        answering = asyncio.ensure_future(answer(answerer))
        for number in range(20):
            properties = PahoProperties(PacketTypes.PUBLISH)
            properties.ResponseTopic = "answers"
            properties.CorrelationData = str(number).encode()
            await asker.publish("questions", f"abc{number}", properties=properties)
            reply = await anext(asker.messages)
            assert reply.payload == f"abc{number}".encode()[::-1]
            assert reply.properties is not None
            assert reply.properties.CorrelationData == str(number).encode()
        answering.cancel()


@on_each_loop
async def test_an_aiomqtt_session_is_resumed() -> None:
    lasting = PahoProperties(PacketTypes.CONNECT)
    lasting.SessionExpiryInterval = 100
    async with fastmq.Broker() as broker:
        async with aio(broker, identifier="s", properties=lasting, clean_start=True) as client:
            await client.subscribe("a", qos=1)
        await turns(lambda: not broker.clients()[0].connected)
        for number in range(100):
            assert await broker.publish("a", str(number), qos=1) == 1
        async with aio(broker, identifier="s", properties=lasting, clean_start=False) as client:
            assert [int(bytes((await anext(client.messages)).payload)) for _ in range(100)] == list(range(100))


@on_each_loop
async def test_the_end_of_the_broker_ends_aiomqtt_clients() -> None:
    broker = fastmq.Broker()
    await broker.start()
    client = aio(broker)
    await client.__aenter__()
    await broker.stop()
    with pytest.raises(aiomqtt.MqttError):
        await anext(client.messages)
    with contextlib.suppress(aiomqtt.MqttError):
        await client.__aexit__(None, None, None)


@on_each_loop
async def test_a_client_that_is_sent_away_leaves_its_will() -> None:
    will = aiomqtt.Will("gone", b"c", qos=1)
    async with fastmq.Broker() as broker, broker.subscribe("gone") as wills:
        client = aio(broker, identifier="c", will=will)
        await client.__aenter__()
        assert broker.disconnect("c", Reason.ADMINISTRATIVE_ACTION)
        assert (await anext(wills)).payload == b"c"
        with contextlib.suppress(aiomqtt.MqttError):
            await client.__aexit__(None, None, None)


# -- paho, beside the broker's thread ----------------------------------------------------------------------------------


@pytest.fixture
def broker() -> Iterator[BackgroundBroker]:
    with BackgroundBroker() as broker:
        yield broker


class Paho:
    """paho with its own network thread; what it receives waits in a queue."""

    def __init__(self, broker: BackgroundBroker, version: int = 5, client_id: str = "", **connect: Any) -> None:
        self.inbox: queue.Queue[paho.MQTTMessage] = queue.Queue()
        self.ended: queue.Queue[Any] = queue.Queue()
        self._connected = threading.Event()
        self._subscribed = threading.Event()
        clean = {} if version == 5 else {"clean_session": True}
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            protocol=MQTTProtocolVersion(version),
            reconnect_on_failure=False,
            **clean,
        )
        self.client.on_connect = lambda *_: self._connected.set()
        self.client.on_subscribe = lambda *_: self._subscribed.set()
        self.client.on_message = lambda _client, _data, message: self.inbox.put(message)
        self.client.on_disconnect = lambda _client, _data, _flags, reason, _properties: self.ended.put(reason)
        self.client.connect(broker.host, broker.port, **connect)
        self.client.loop_start()
        assert self._connected.wait(5)

    def subscribe(self, *arguments: Any, **options: Any) -> None:
        self._subscribed.clear()
        self.client.subscribe(*arguments, **options)
        assert self._subscribed.wait(5)

    def publish(self, topic: str, payload: bytes, qos: int = 1, **options: Any) -> None:
        self.client.publish(topic, payload, qos, **options).wait_for_publish(5)

    def receive(self) -> paho.MQTTMessage:
        return self.inbox.get(timeout=5)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def closing() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@VERSIONS
def test_paho_speaks_with_the_test(broker: BackgroundBroker, closing: contextlib.ExitStack, version: int) -> None:
    client = Paho(broker, version)
    closing.callback(client.close)
    up = broker.messages("up/#")
    client.subscribe("down/#", 2)
    for qos in (0, 1, 2):
        client.publish(f"up/{qos}", b"hello", qos)
        assert up.wait_for(f"up/{qos}").qos == qos
        assert broker.publish(f"down/{qos}", "hi", qos) == 1
        message = client.receive()
        assert (message.topic, message.payload, message.qos) == (f"down/{qos}", b"hi", qos)
    assert up.payloads == [b"hello"] * 3


def test_paho_is_told_of_the_end(broker: BackgroundBroker, closing: contextlib.ExitStack) -> None:
    client = Paho(broker)
    closing.callback(client.close)
    broker.stop()
    assert client.ended.get(timeout=5).value == Reason.SERVER_SHUTTING_DOWN


def test_paho_is_sent_away(broker: BackgroundBroker, closing: contextlib.ExitStack) -> None:
    client = Paho(broker, client_id="p")
    closing.callback(client.close)
    assert [each.client_id for each in broker.clients()] == ["p"]
    assert broker.disconnect("p", Reason.QUOTA_EXCEEDED)
    assert client.ended.get(timeout=5).value == Reason.QUOTA_EXCEEDED


def test_paho_options_of_a_subscription(broker: BackgroundBroker, closing: contextlib.ExitStack) -> None:
    client = Paho(broker)
    closing.callback(client.close)
    broker.publish("kept", "old", retain=True)
    client.subscribe([("kept", SubscribeOptions(qos=1, retainHandling=2, noLocal=True, retainAsPublished=True))])
    client.publish("kept", b"own")
    broker.publish("kept", "new", 1, retain=True)
    message = client.receive()
    assert (message.payload, message.retain) == (b"new", True)


def test_paho_workers_share(broker: BackgroundBroker, closing: contextlib.ExitStack) -> None:
    workers = [Paho(broker) for _ in range(3)]
    for worker in workers:
        closing.callback(worker.close)
        worker.subscribe("$share/g/jobs", 1)
    for number in range(30):
        assert broker.publish("jobs", str(number), 1) >= 1
    taken = [int(worker.receive().payload) for worker in workers for _ in range(10)]
    assert sorted(taken) == list(range(30))


def test_paho_is_cut_after_one_and_a_half_keep_alives(broker: BackgroundBroker, closing: contextlib.ExitStack) -> None:
    client = Paho(broker, keepalive=60)
    closing.callback(client.close)
    broker.advance(89)
    assert broker.clients()[0].connected
    broker.advance(2)
    assert client.ended.get(timeout=5).value == Reason.KEEP_ALIVE_TIMEOUT


def test_many_threads_ask_one_broker(broker: BackgroundBroker) -> None:
    heard = broker.messages("t/#")

    def ask(number: int) -> None:
        for each in range(50):
            broker.publish(f"t/{number}", str(each), 1)
            broker.stats()
            broker.clients()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    messages = heard.wait(400)
    for number in range(8):
        mine = [int(each.payload) for each in messages if each.topic == f"t/{number}"]
        assert mine == list(range(50))
