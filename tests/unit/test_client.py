"""The client against a scripted server: connecting, publishing, subscribing, and how each ends when it goes wrong."""

import asyncio
import socket

import pytest
import uvloop

from fastmq.client import (
    Client,
    ConnectionLost,
    ConnectRefused,
    Properties,
    Publish,
    Refused,
    SubscriptionRequest,
    Will,
)
from fastmq.errors import TopicFilterInvalid, TopicNameInvalid
from fastmq.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)
from fastmq.reasons import Reason
from tests.unit.scripted_server import Run, scripted


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    return asyncio.run if request.param == "asyncio" else uvloop.run


@pytest.mark.parametrize("version", [3, 4, 5])
def test_connect_says_what_the_client_was_told(run: Run, version: int) -> None:
    async def scenario() -> None:
        async with scripted() as server:
            will = Will("gone", b"x", 1, True)
            options = {"client_id": "me", "clean_start": False, "keepalive": 7, "username": "u", "password": "p"}
            client, session = await server.connected(Connack(True), version=version, will=will, **options)
            said = session.connect
            assert said is not None
            assert (said.client_id, said.version, said.clean_start, said.keepalive) == ("me", version, False, 7)
            assert (said.username, said.password, said.will) == ("u", b"p", will)
            assert client.connack == Connack(True)
            assert client.is_connected
            await client.disconnect()
            await session.receive(Disconnect)
            assert await session.is_closed()
            assert not client.is_connected

    run(scenario())


@pytest.mark.parametrize(
    ("version", "code", "said"),
    [
        (4, 5, "not authorized (0x05)"),
        (3, 4, "bad user name or password (0x04)"),
        (5, 0x85, "client identifier not valid (0x85): no"),
    ],
)
def test_a_refused_connection_says_why(run: Run, version: int, code: int, said: str) -> None:
    async def scenario() -> None:
        async with scripted() as server:
            connecting = asyncio.ensure_future(server.client(version=version).connect())
            why = Properties(reason_string="no") if version == 5 else Properties()
            await (await server.session()).accept(Connack(False, code, why))
            with pytest.raises(ConnectRefused) as refused:
                await connecting
            assert refused.value.reason == code
            assert str(refused.value) == f"connection refused: {said}"

    run(scenario())


def test_a_connection_that_cannot_be_made_is_lost(run: Run) -> None:
    async def scenario() -> None:
        with socket.socket() as taken:  # bound, but not listening
            taken.bind(("127.0.0.1", 0))
            with pytest.raises(ConnectionLost, match="cannot connect"):
                await Client("127.0.0.1", taken.getsockname()[1]).connect()

    run(scenario())


def test_a_server_that_closes_or_keeps_silent_is_given_up(run: Run) -> None:
    async def scenario() -> None:
        async with scripted() as server:
            connecting = asyncio.ensure_future(server.client().connect())
            await (await server.session()).close()
            with pytest.raises(ConnectionLost):
                await connecting
            with pytest.raises(ConnectionLost, match="did not answer in time"):
                await server.client(connect_timeout_s=0.05).connect()

    run(scenario())


def test_the_client_uses_what_the_server_assigns(run: Run) -> None:
    async def scenario() -> None:
        async with scripted() as server:
            limits = Properties(
                assigned_client_identifier="auto-1", maximum_qos=1, retain_available=False, maximum_packet_size=50
            )
            client, session = await server.connected(Connack(False, 0, limits))
            assert client.client_id == "auto-1"
            with pytest.raises(Refused, match="qos not supported"):
                await client.publish("a", qos=2)
            with pytest.raises(Refused, match="retain not supported"):
                await client.publish("a", retain=True)
            with pytest.raises(ValueError, match="the peer takes at most 50"):
                await client.publish("a", bytes(50), qos=1)
            await client.publish("a", b"fits")
            assert await session.receive(Publish) == Publish("a", b"fits")

    run(scenario())


def test_what_no_server_may_take_is_not_sent(run: Run) -> None:
    async def scenario() -> None:
        async with scripted() as server:
            client, session = await server.connected()
            with pytest.raises(TopicNameInvalid):
                await client.publish("a/#")
            with pytest.raises(TopicFilterInvalid):
                await client.subscribe("a/#/b")
            with pytest.raises(TopicFilterInvalid):
                await client.unsubscribe("")
            with pytest.raises(ValueError, match="no such QoS"):
                await client.publish("a", qos=3)
            await client.disconnect()
            await session.receive(Disconnect)

    run(scenario())


def test_a_publish_ends_with_its_acknowledgement(run: Run) -> None:
    async def scenario() -> None:
        async with scripted() as server:
            client, session = await server.connected()
            once = asyncio.ensure_future(client.publish("a", "text", 1, True, Properties(content_type="t")))
            packet = await session.receive(Publish)
            assert packet == Publish("a", b"text", 1, True, False, packet.packet_id, Properties(content_type="t"))
            assert not once.done()
            await session.send(Puback(packet.packet_id, Reason.NO_MATCHING_SUBSCRIBERS))
            assert await once == Reason.NO_MATCHING_SUBSCRIBERS
            exactly = asyncio.ensure_future(client.publish("a", qos=2))
            packet = await session.receive(Publish)
            await session.send(Pubrec(packet.packet_id))
            assert await session.receive(Pubrel) == Pubrel(packet.packet_id)
            assert not exactly.done()
            await session.send(Pubcomp(packet.packet_id))
            assert await exactly == 0

    run(scenario())


@pytest.mark.parametrize(("qos", "kind"), [(1, Puback), (2, Pubrec)])
def test_a_publish_that_the_server_refuses_raises(run: Run, qos: int, kind: type) -> None:
    async def scenario() -> None:
        async with scripted() as server:
            client, session = await server.connected()
            sending = asyncio.ensure_future(client.publish("a", qos=qos))
            packet = await session.receive(Publish)
            await session.send(kind(packet.packet_id, Reason.QUOTA_EXCEEDED, Properties(reason_string="full")))
            with pytest.raises(Refused, match=r"^publish to a: quota exceeded \(0x97\): full$"):
                await sending

    run(scenario())


def test_no_more_publishes_are_open_than_the_server_can_receive(run: Run) -> None:
    async def scenario() -> None:
        async with scripted() as server:
            client, session = await server.connected(Connack(properties=Properties(receive_maximum=2)))
            sending = [asyncio.ensure_future(client.publish("a", str(n), 1 + n % 2)) for n in range(5)]
            first, second = await session.receive(Publish), await session.receive(Publish)
            await client.publish("a", b"not counted")  # [MQTT-3.3.4-7] is about QoS 1 and 2
            assert (await session.receive(Publish)).payload == b"not counted"
            await session.send(Puback(first.packet_id))
            third = await session.receive(Publish)
            await session.send(Pubrec(second.packet_id))
            await session.receive(Pubrel)
            await session.send(Pubcomp(second.packet_id), Puback(third.packet_id))
            last = [await session.receive(Publish), await session.receive(Publish)]
            assert [each.payload for each in (first, second, third, *last)] == [b"0", b"1", b"2", b"3", b"4"]
            assert [each.done() for each in sending[3:]] == [False, False]
            await client.disconnect()
            await asyncio.wait(sending)
            assert [type(each.exception()) for each in sending] == [type(None)] * 3 + [ConnectionLost] * 2

    run(scenario())


def test_subscribe_and_unsubscribe_give_the_reasons(run: Run) -> None:
    async def scenario() -> None:
        async with scripted() as server:
            client, session = await server.connected()
            wanted = SubscriptionRequest("b", 2, True, True, 1)
            asking = asyncio.ensure_future(
                client.subscribe("a/#", wanted, qos=1, properties=Properties(subscription_identifiers=[5]))
            )
            packet = await session.receive(Subscribe)
            assert packet.subscriptions == [SubscriptionRequest("a/#", 1), wanted]
            assert packet.properties.subscription_identifiers == [5]
            await session.send(Suback(packet.packet_id, [1, 0x87]))
            assert await asking == [1, 0x87]
            asking = asyncio.ensure_future(client.unsubscribe("a/#", "c"))
            leaving = await session.receive(Unsubscribe)
            assert leaving.filters == ["a/#", "c"]
            await session.send(Unsuback(leaving.packet_id, [0, 0x11]))
            assert await asking == [0, 0x11]
            asking = asyncio.ensure_future(client.subscribe("x"))
            packet = await session.receive(Subscribe)
            await session.send(Suback(packet.packet_id, [0x9E]))
            with pytest.raises(Refused, match="subscribe to x: shared subscriptions not supported"):
                await asking

    run(scenario())


def test_ping_measures_the_way_there_and_back(run: Run) -> None:
    async def scenario() -> None:
        async with scripted() as server:
            client, session = await server.connected()
            pinging = asyncio.ensure_future(client.ping())
            await session.receive(Pingreq)
            await session.send(Pingresp())
            assert 0 < await pinging < 5

    run(scenario())


def test_a_silent_client_pings_and_gives_up_a_silent_server(run: Run) -> None:
    async def scenario() -> None:
        async with scripted() as server:
            client, session = await server.connected(Connack(properties=Properties(server_keep_alive=1)))
            await session.receive(Pingreq)
            await session.send(Pingresp())
            await session.receive(Pingreq)
            with pytest.raises(ConnectionLost, match="does not answer PINGREQ"):
                await client.receive()

    run(scenario())


def test_an_enhanced_authentication_is_answered(run: Run) -> None:
    def answer(asked: Auth) -> Auth:
        data = (asked.properties.authentication_data or b"")[::-1]
        return Auth(0x18, Properties(authentication_method="mirror", authentication_data=data))

    async def scenario() -> None:
        async with scripted() as server:
            method = Properties(authentication_method="mirror")
            connecting = asyncio.ensure_future(server.client(properties=method, authenticate=answer).connect())
            session = await server.session()
            challenge = Properties(authentication_method="mirror", authentication_data=b"abc")
            await session.receive(Connect)
            await session.send(Auth(0x18, challenge))
            assert (await session.receive(Auth)).properties.authentication_data == b"cba"
            await session.send(Connack())
            await connecting

    run(scenario())


def test_a_lost_connection_ends_everything_that_waits(run: Run) -> None:
    async def scenario() -> None:
        async with scripted() as server:
            client, session = await server.connected()
            waiting = [
                asyncio.ensure_future(each)
                for each in (client.publish("a", qos=1), client.subscribe("a"), client.receive(), client.ping())
            ]
            await session.receive(Publish)
            await session.send(Disconnect(Reason.SESSION_TAKEN_OVER))
            await session.close()
            await asyncio.wait(waiting)
            assert {str(each.exception()) for each in waiting} == {"the server disconnected: session taken over (0x8E)"}
            with pytest.raises(ConnectionLost, match="not connected"):
                await client.publish("a")

    run(scenario())


def test_disconnect_says_why_and_ends_the_iteration(run: Run) -> None:
    async def scenario() -> None:
        async with scripted() as server:
            client, session = await server.connected()
            await session.send(Publish("a", b"1"))
            assert (await client.receive()).payload == b"1"
            reading = asyncio.ensure_future(anext(aiter(client)))
            await client.disconnect(Reason.DISCONNECT_WITH_WILL, Properties(user_properties=[("k", "v")]))
            assert await session.receive(Disconnect) == Disconnect(4, Properties(user_properties=[("k", "v")]))
            with pytest.raises(StopAsyncIteration):
                await reading
            await client.disconnect()  # once more does no harm

    run(scenario())


def test_a_client_can_connect_again(run: Run) -> None:
    async def scenario() -> None:
        async with scripted() as server:
            client, session = await server.connected()
            with pytest.raises(RuntimeError, match="already connected"):
                await client.connect()
            await client.disconnect()
            connecting = asyncio.ensure_future(client.connect())
            session = await server.session()
            await session.accept()
            await connecting
            await client.publish("a", b"again")
            assert (await session.receive(Publish)).payload == b"again"

    run(scenario())


def test_the_context_connects_and_disconnects(run: Run) -> None:
    async def scenario() -> None:
        async with scripted() as server:

            async def use() -> None:
                async with server.client() as client:
                    await client.publish("a", b"inside")

            using = asyncio.ensure_future(use())
            session = await server.session()
            await session.accept()
            assert (await session.receive(Publish)).payload == b"inside"
            await session.receive(Disconnect)
            await using

    run(scenario())
