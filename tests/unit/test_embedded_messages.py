"""Messages between the program and the broker in it: `publish` and `subscribe` of `fastmq.Broker`."""

from __future__ import annotations

import asyncio
import gc

import pytest

import fastmq
from fastmq.client import Client
from fastmq.contracts import BrokerPort
from fastmq.packets import Properties
from tests.unit.loops import on_each_loop, turns

FULL = Properties(
    payload_format_indicator=1,
    content_type="text/plain",
    response_topic="answers/1",
    correlation_data=b"\0\1",
    user_properties=[("a", "1"), ("a", "x" * 300)],
)


@on_each_loop
async def test_a_message_comes_out_as_it_went_in() -> None:
    async with fastmq.Broker() as broker, broker.subscribe("a/+") as messages:
        sent = fastmq.Message("a/é", b"\0payload", 2, True, FULL)
        assert await broker.publish(sent) == 1
        assert await anext(messages) == sent
        assert await broker.publish("a/b", "text", qos=1, properties=FULL) == 1
        assert await anext(messages) == fastmq.Message("a/b", b"text", 1, False, FULL)
        assert await broker.publish("b") == 0


@on_each_loop
async def test_it_is_the_port_that_other_rooms_know() -> None:
    async with fastmq.Broker() as broker:
        port: BrokerPort = broker
        messages = port.subscribe("a", qos=1)
        assert await port.publish(fastmq.Message("a", b"x", qos=2)) == 1
        assert (await anext(messages)).qos == 1
        assert port.disconnect("nobody") is False


@on_each_loop
async def test_messages_to_and_from_clients() -> None:
    async with (
        fastmq.Broker() as broker,
        broker.subscribe("up/#") as up,
        Client(broker.host, broker.port, client_id="c") as client,
    ):
        await client.subscribe("down/#", qos=2)
        await client.publish("up/1", b"hello", qos=2, properties=FULL)
        assert await anext(up) == fastmq.Message("up/1", b"hello", 2, False, FULL)
        assert await broker.publish("down/1", b"hi", qos=1, properties=FULL) == 1
        message = await client.receive()
        assert (message.topic, message.payload, message.qos) == ("down/1", b"hi", 1)
        assert message.properties.user_properties == FULL.user_properties
        assert message.properties.response_topic == FULL.response_topic


@on_each_loop
async def test_retained_messages_come_first_if_they_are_wanted() -> None:
    async with fastmq.Broker(**{"systopics.interval_s": 0}) as broker:
        for topic in ("a/1", "a/2"):
            await broker.publish(topic, topic, retain=True)
        async with broker.subscribe("a/#") as messages:
            assert {(await anext(messages)).topic for _ in range(2)} == {"a/1", "a/2"}
            await broker.publish("a/1", b"", retain=True)
            assert (await anext(messages)).payload == b""
        async with broker.subscribe("a/#", retained=False) as messages:
            assert messages.waiting == 0
        async with broker.subscribe("a/#") as messages:
            assert [(await anext(messages)).retain, messages.waiting] == [True, 0]


@on_each_loop
async def test_a_message_that_matches_several_filters_comes_once() -> None:
    async with fastmq.Broker() as broker, broker.subscribe("a/#", "a/b", "+/b") as messages:
        assert await broker.publish("a/b", b"x") >= 1
        assert (await anext(messages)).payload == b"x"
        await broker.publish("a/end")
        assert (await anext(messages)).topic == "a/end"


@on_each_loop
async def test_filters_come_and_go() -> None:
    async with fastmq.Broker() as broker, broker.subscribe("a") as messages:
        messages.subscribe("b", "c")
        assert messages.unsubscribe("a", "b", "nothing") == 2
        for topic in ("a", "b", "c"):
            await broker.publish(topic)
        assert (await anext(messages)).topic == "c"
        assert messages.waiting == 0


@pytest.mark.parametrize("topic_filter", ["", "a/#/b", "a+", "a\0", "$share/g/a", "$queue/a"])
@on_each_loop
async def test_what_is_not_a_filter_is_refused(topic_filter: str) -> None:
    async with fastmq.Broker() as broker:
        with pytest.raises(ValueError, match="filter"):
            broker.subscribe("fine", topic_filter)
        assert await broker.publish("fine") == 0, "nothing of it is left"


@on_each_loop
async def test_a_subscription_without_a_filter_is_refused() -> None:
    async with fastmq.Broker() as broker:
        with pytest.raises(ValueError, match="at least one"):
            broker.subscribe()


@pytest.mark.parametrize("topic", ["", "a/+", "#", "a\0b"])
@on_each_loop
async def test_what_is_not_a_topic_is_refused(topic: str) -> None:
    async with fastmq.Broker() as broker, broker.subscribe("#") as messages:
        with pytest.raises(ValueError, match=r"PUBLISH|U\+0000"):
            await broker.publish(topic, b"x")
        assert messages.waiting == 0


@pytest.mark.parametrize(
    "message",
    [
        fastmq.Message("t", qos=3),
        fastmq.Message("t", qos=-1),
        fastmq.Message("t" * 65536),
        fastmq.Message("t\ud800"),
        fastmq.Message("t", properties=Properties(session_expiry_interval=1)),
        fastmq.Message("t", properties=Properties(subscription_identifiers=[1])),
        fastmq.Message("", properties=Properties(topic_alias=1)),
        fastmq.Message("t", properties=Properties(response_topic="a/#")),
        fastmq.Message("t", properties=Properties(message_expiry_interval=-1)),
    ],
    ids=["QoS 3", "QoS -1", "long", "surrogate", "foreign", "id", "alias alone", "response topic", "expiry"],
)
@on_each_loop
async def test_what_is_no_message_is_refused(message: fastmq.Message) -> None:
    async with fastmq.Broker() as broker, broker.subscribe("#") as messages:
        with pytest.raises(ValueError, match=r"QoS|bytes|surrogates|PUBLISH|property|fit"):
            await broker.publish(message)
        assert messages.waiting == 0
        assert await broker.publish("fine") == 1


@on_each_loop
async def test_a_topic_alias_is_not_handed_on() -> None:
    async with fastmq.Broker() as broker, broker.subscribe("t") as messages:
        await broker.publish("t", properties=Properties(topic_alias=1))
        assert await anext(messages) == fastmq.Message("t")


@on_each_loop
async def test_an_expired_message_does_not_come() -> None:
    async with fastmq.Broker() as broker, broker.subscribe("t") as messages:
        await broker.publish("t", b"1", properties=Properties(message_expiry_interval=10))
        await broker.publish("t", b"2", properties=Properties(message_expiry_interval=100))
        broker.advance(20)
        message = await anext(messages)
        assert (message.payload, message.properties.message_expiry_interval) == (b"2", 80)


@on_each_loop
async def test_a_message_may_be_larger_than_what_clients_may_send() -> None:
    settings = {"mqtt.packet_max_bytes": 100}
    async with fastmq.Broker(**settings) as broker, Client(broker.host, broker.port) as client:
        await client.subscribe("t", qos=1)
        assert await broker.publish("t", bytes(3_000_000), qos=1) == 1
        assert (await client.receive()).payload == bytes(3_000_000)


@on_each_loop
async def test_a_full_queue_drops_and_counts() -> None:
    async with fastmq.Broker() as broker, broker.subscribe("a", messages_max=3) as messages:
        for number in range(10):
            await broker.publish("a", str(number))
        assert (messages.dropped, messages.waiting) == (7, 3)
        assert [(await anext(messages)).payload for _ in range(3)] == [b"0", b"1", b"2"]
        await broker.publish("a", "again")
        assert (await anext(messages)).payload == b"again"


@on_each_loop
async def test_a_queue_is_bounded_in_bytes_too() -> None:
    async with fastmq.Broker() as broker, broker.subscribe("a", bytes_max=5000) as messages:
        for _ in range(10):
            await broker.publish("a", bytes(1000))
        assert 0 < messages.waiting < 5
        assert messages.dropped == 10 - messages.waiting


@on_each_loop
async def test_a_reader_that_waits_is_woken() -> None:
    async with fastmq.Broker() as broker, broker.subscribe("a") as messages:
        waiting = asyncio.ensure_future(anext(messages))
        await asyncio.sleep(0)
        await broker.publish("a", b"1")
        assert (await waiting).payload == b"1"


@on_each_loop
async def test_readers_of_one_subscription_share_its_messages() -> None:
    async with fastmq.Broker() as broker:
        messages = broker.subscribe("a")
        got: list[list[bytes]] = [[], [], []]

        async def read(mine: list[bytes]) -> None:
            async for message in messages:
                mine.append(message.payload)  # noqa: PERF401 - the list is looked at meanwhile

        async with asyncio.TaskGroup() as readers:
            for mine in got:
                readers.create_task(read(mine))
            for number in range(300):
                await broker.publish("a", str(number))
            await turns(lambda: sum(map(len, got)) == 300)
            await messages.aclose()
        assert sorted(int(each) for mine in got for each in mine) == list(range(300))


@on_each_loop
async def test_what_came_before_the_end_can_still_be_read() -> None:
    async with fastmq.Broker() as broker:
        messages = broker.subscribe("a")
        other = broker.subscribe("b")
        waiting = asyncio.ensure_future(anext(other, None))
        for number in range(200):
            await broker.publish("a", str(number))
    assert [int(message.payload) async for message in messages] == list(range(200))
    assert await waiting is None
    with pytest.raises(RuntimeError, match="closed"):
        messages.subscribe("c")
    await messages.aclose()


@on_each_loop
async def test_a_closed_subscription_gives_nothing_more() -> None:
    async with fastmq.Broker() as broker:
        messages = broker.subscribe("a")
        await broker.publish("a", b"1")
        await broker.publish("a", b"2")
        assert (await anext(messages)).payload == b"1"
        await messages.aclose()
        await messages.aclose()
        assert [message async for message in messages] == []
        assert await broker.publish("a", b"3") == 0


@on_each_loop
async def test_a_forgotten_subscription_ends() -> None:
    async with fastmq.Broker() as broker:
        await broker.publish("a", b"kept", retain=True)
        async for message in broker.subscribe("a"):
            assert message.payload == b"kept"
            break
        gc.collect()
        await turns(lambda: broker.stats()["subscriptions"] == 0)
        assert await broker.publish("a") == 0


@on_each_loop
async def test_publishing_without_pause_leaves_the_clients_their_turns() -> None:
    async with fastmq.Broker() as broker, Client(broker.host, broker.port) as client:
        await client.subscribe("a", qos=1)
        for number in range(5000):
            await broker.publish("a", str(number).encode(), qos=0)
        assert [int((await client.receive()).payload) for _ in range(5000)] == list(range(5000))
