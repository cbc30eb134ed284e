"""`fastmq.Broker` in the program's own loop: its life, its settings, its clients. On asyncio and on uvloop."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import weakref

import pytest

import fastmq
from fastmq.broker.embedded import ClientState
from fastmq.client import Client, ConnectionLost
from fastmq.config import Config, Listener
from fastmq.errors import ConfigError, StartError
from fastmq.packets import Properties
from fastmq.reasons import Reason
from tests.unit.loops import on_each_loop, turns

# -- its life ----------------------------------------------------------------------------------------------------------


@on_each_loop
async def test_it_listens_where_it_says_until_the_block_ends() -> None:
    async with fastmq.Broker() as broker:
        address = broker.host, broker.port
        assert broker.url == f"mqtt://127.0.0.1:{broker.port}"
        assert broker.is_running
        _, writer = await asyncio.open_connection(*address)
        writer.close()
    assert not broker.is_running
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)


@on_each_loop
async def test_what_is_asked_of_a_broker_that_does_not_run_is_an_error() -> None:
    broker = fastmq.Broker()
    for _ in range(2):
        for question in (
            lambda: broker.port,
            lambda: broker.url,
            lambda: broker.listeners,
            broker.clients,
            broker.stats,
            lambda: broker.subscribe("a"),
            lambda: broker.disconnect("a"),
            lambda: broker.advance(1),
        ):
            with pytest.raises(RuntimeError, match="not running"):
                question()
        with pytest.raises(RuntimeError, match="not running"):
            await broker.publish("a")
        await broker.stop()
        async with broker:
            assert broker.port


@on_each_loop
async def test_it_can_be_started_again_and_is_empty_then() -> None:
    broker = fastmq.Broker()
    for _ in range(3):
        await broker.start()
        async with broker.subscribe("a") as messages:
            assert messages.waiting == 0
            await broker.publish("a", b"kept", retain=True)
            assert (await anext(messages)).payload == b"kept"
        await broker.stop()
        await broker.stop()


@on_each_loop
async def test_it_cannot_be_started_twice() -> None:
    async with fastmq.Broker() as broker:
        port = broker.port
        with pytest.raises(RuntimeError, match="running already"):
            await broker.start()
        assert broker.port == port


@on_each_loop
async def test_a_port_in_use_leaves_nothing_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        broker = fastmq.Broker(listen=["tcp://127.0.0.1:0", f"tcp://127.0.0.1:{port}"])
        with pytest.raises(StartError, match="in use"):
            await broker.start()
        assert not broker.is_running
    async with broker:
        assert broker.listeners[1].port == port


@on_each_loop
async def test_several_brokers_share_a_loop_and_nothing_else() -> None:
    async with fastmq.Broker() as one, fastmq.Broker() as other:
        assert one.port != other.port
        async with one.subscribe("#") as ones, other.subscribe("#") as others:
            await one.publish("t", b"1")
            await other.publish("t", b"2")
            assert (await anext(ones)).payload == b"1"
            assert (await anext(others)).payload == b"2"
            assert (ones.waiting, others.waiting) == (0, 0)


@on_each_loop
async def test_its_end_is_told_to_the_clients() -> None:
    broker = fastmq.Broker()
    await broker.start()
    client = Client(broker.host, broker.port)
    await client.connect()
    await broker.stop()
    with pytest.raises(ConnectionLost) as told:
        await client.receive()
    assert told.value.reason == Reason.SERVER_SHUTTING_DOWN


@on_each_loop
async def test_an_error_in_the_block_stops_it_too() -> None:
    with pytest.raises(KeyError):
        async with fastmq.Broker() as broker:
            raise KeyError
    assert not broker.is_running


# -- settings ----------------------------------------------------------------------------------------------------------


@on_each_loop
async def test_settings_are_given_by_their_key() -> None:
    settings = {"mqtt.receive_maximum": 5, "mqtt.accept_versions": (5,)}
    async with fastmq.Broker(queue__drop="oldest", **settings) as broker, Client(broker.host, broker.port) as client:
        assert client.connack is not None
        assert client.connack.properties.receive_maximum == 5
        assert broker.config.queue.drop == "oldest"


def test_settings_change_a_config_and_leave_the_rest_of_it() -> None:
    config = Config(listen=(Listener("tcp", "127.0.0.1", 0),))
    broker = fastmq.Broker(config, **{"mqtt.maximum_qos": 1})
    assert broker.config.listen == config.listen
    assert broker.config.mqtt.maximum_qos == 1
    assert config.mqtt.maximum_qos == 2
    assert fastmq.Broker(config, listen="tcp://127.0.0.1:1").config.listen[0].port == 1
    assert fastmq.Broker(Config()).config.listen[0].port == 1883
    assert fastmq.Broker().config.listen[0].port == 0


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"mqtt.receive_maximum": 0}, r"mqtt.receive_maximum: must be 1 to 65535"),
        ({"mqtt.receive_maximum": "5"}, r"mqtt.receive_maximum: must be a whole number"),
        ({"mqtt.no_such": 1}, r"mqtt.no_such: no such setting"),
        ({"receive_maximum": 1}, r"receive_maximum: no such setting"),
        ({"listen": "127.0.0.1"}, r"listen\[0\]: .*no address"),
        ({"listen": []}, r"listen: must not be empty"),
    ],
)
def test_a_wrong_setting_is_refused_before_the_start(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        fastmq.Broker(**settings)


def test_all_wrong_settings_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as told:
        fastmq.Broker(**{"mqtt.maximum_qos": 3, "queue.drop": "all"})
    assert [problem.key for problem in told.value.problems] == ["mqtt.maximum_qos", "queue.drop"]


# -- clients and figures -----------------------------------------------------------------------------------------------


@on_each_loop
async def test_it_knows_its_clients() -> None:
    async with fastmq.Broker() as broker:
        assert broker.clients() == []
        lasting = Properties(session_expiry_interval=100)
        async with Client(broker.host, broker.port, client_id="é", properties=lasting) as client:
            await client.subscribe("a", "b", qos=1)
            assert broker.clients() == [ClientState("é", True, 5, 0, 0, 0, 2)]
        await turns(lambda: not broker.clients()[0].connected)
        await broker.publish("a", b"later", qos=1)
        assert broker.clients() == [ClientState("é", False, 0, 1, 0, 0, 2)]


@on_each_loop
async def test_it_can_send_a_client_away() -> None:
    async with fastmq.Broker() as broker:
        for reason in (Reason.ADMINISTRATIVE_ACTION, Reason.QUOTA_EXCEEDED):
            client = Client(broker.host, broker.port, client_id="c")
            await client.connect()
            assert broker.disconnect("c", reason)
            with pytest.raises(ConnectionLost) as told:
                await client.receive()
            assert told.value.reason == reason
            await turns(lambda: broker.clients() == [])
            assert not broker.disconnect("c")


@on_each_loop
async def test_its_figures_are_a_snapshot() -> None:
    async with fastmq.Broker() as broker:
        before = broker.stats()
        async with Client(broker.host, broker.port) as client:
            await client.publish("a", b"x", qos=1)
        await turns(lambda: broker.stats()["disconnects"] == 1)
        after = broker.stats()
        assert (before["connects"], after["connects"]) == (0, 1)
        assert (before["publish_received"], after["publish_received"]) == (0, 1)


@on_each_loop
async def test_a_broker_that_was_stopped_is_freed() -> None:
    broker = fastmq.Broker()
    async with broker, Client(broker.host, broker.port) as client:
        messages = broker.subscribe("a")
        await client.publish("a", b"x", qos=1)
        assert (await anext(messages)).payload == b"x"
    gone = weakref.ref(broker)
    del broker, messages, client
    gc.collect()
    assert gone() is None


@on_each_loop
async def test_many_brokers_leave_no_descriptor_behind() -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def live() -> None:
        async with fastmq.Broker() as broker, Client(broker.host, broker.port) as client:
            broker.subscribe("a")
            await client.publish("a", b"x", qos=1)

    await live()  # uvloop opens one with its first connection
    before = descriptors()
    for _ in range(50):
        await live()
    await turns(lambda: descriptors() <= before)
