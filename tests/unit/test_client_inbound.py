"""Messages to the client: acknowledged when they are taken, once, in order, and bounded."""

import asyncio

import pytest

from fastmq.client import ConnectionLost, Properties, Publish
from fastmq.packets import Connack, Connect, Disconnect, Pingreq, Pingresp, Puback, Pubcomp, Pubrec, Pubrel
from fastmq.reasons import Reason
from tests.unit.scripted_server import scripted, until


def test_qos_1_is_acknowledged_when_it_is_taken() -> None:
    async def scenario() -> None:
        async with scripted() as server:
            client, session = await server.connected()
            await session.send(Publish("a", b"1", 1, packet_id=5), Publish("a", b"2", 1, packet_id=6))
            pinging = asyncio.ensure_future(client.ping())
            await session.receive(Pingreq)  # no PUBACK before it, although both have come
            await session.send(Pingresp())
            await pinging
            assert client.unread == 2
            assert (await client.receive()).payload == b"1"
            assert await session.receive(Puback) == Puback(5)
            assert (await client.receive()).payload == b"2"
            assert await session.receive(Puback) == Puback(6)

    asyncio.run(scenario())


def test_qos_2_comes_once_however_often_it_is_sent() -> None:
    async def scenario() -> None:
        async with scripted() as server:
            client, session = await server.connected()
            message = Publish("a", b"1", 2, packet_id=5)
            again = Publish("a", b"1", 2, dup=True, packet_id=5)
            await session.send(message, again)
            assert (await client.receive()).payload == b"1"
            assert await session.receive(Pubrec) == Pubrec(5)
            await session.send(again)
            assert await session.receive(Pubrec) == Pubrec(5)
            await session.send(Pubrel(5))
            assert await session.receive(Pubcomp) == Pubcomp(5)
            await session.send(Pubrel(5))
            assert await session.receive(Pubcomp) == Pubcomp(5, Reason.PACKET_IDENTIFIER_NOT_FOUND)
            await session.send(Publish("a", b"2", 2, packet_id=5))
            assert (await client.receive()).payload == b"2"

    asyncio.run(scenario())


def test_a_topic_alias_stands_for_its_topic() -> None:
    async def scenario() -> None:
        async with scripted() as server:
            client, session = await server.connected(properties=Properties(topic_alias_maximum=2))
            first, second = Properties(topic_alias=1), Properties(topic_alias=2)
            await session.send(
                Publish("a", b"1", properties=first),
                Publish("b", b"2", properties=second),
                Publish("", b"3", properties=Properties(topic_alias=1)),
                Publish("c", b"4", properties=Properties(topic_alias=1)),
                Publish("", b"5", properties=Properties(topic_alias=1)),
            )
            assert [(await client.receive()).topic for _ in range(5)] == ["a", "b", "a", "c", "c"]

    asyncio.run(scenario())


@pytest.mark.parametrize("alias", [1, 3])
def test_an_alias_that_means_nothing_ends_the_connection(alias: int) -> None:
    async def scenario() -> None:
        async with scripted() as server:
            client, session = await server.connected(properties=Properties(topic_alias_maximum=2))
            await session.send(Publish("", b"", properties=Properties(topic_alias=alias)))
            assert await session.receive(Disconnect) == Disconnect(Reason.TOPIC_ALIAS_INVALID)
            with pytest.raises(ConnectionLost, match="broke the protocol"):
                await client.receive()

    asyncio.run(scenario())


@pytest.mark.parametrize("version", [4, 5])
def test_a_malformed_packet_ends_the_connection(version: int) -> None:
    async def scenario() -> None:
        async with scripted() as server:
            client, session = await server.connected(version=version)
            session.writer.write(b"\x36\x00")
            if version == 5:
                assert await session.receive(Disconnect) == Disconnect(Reason.MALFORMED_PACKET)
            assert await session.is_closed()
            with pytest.raises(ConnectionLost):
                await client.receive()

    asyncio.run(scenario())


@pytest.mark.parametrize("version", [3, 4])
def test_a_packet_that_only_clients_send_ends_the_connection(version: int) -> None:
    async def scenario() -> None:
        async with scripted() as server:
            client, session = await server.connected(version=version)
            await session.send(Pingreq())
            with pytest.raises(ConnectionLost, match="unexpected Pingreq"):
                await client.receive()

    asyncio.run(scenario())


def test_a_flood_waits_in_the_socket_and_nothing_of_it_is_lost() -> None:
    count, size = 4000, 4096

    async def scenario() -> None:
        async with scripted() as server:
            client, session = await server.connected(inbound_max=20)
            flooding = asyncio.ensure_future(
                session.send(*(Publish("a", n.to_bytes(4, "big") + bytes(size)) for n in range(count)))
            )
            await until(lambda: client.unread)
            assert (await client.receive()).payload[:4] == bytes(4)
            worst = 0
            for n in range(1, count):
                worst = max(worst, client.unread)
                assert int.from_bytes((await client.receive()).payload[:4], "big") == n
            await flooding
            # Reading stops at 20, but what one read of the socket holds comes with it.
            assert worst < 20 + 1_000_000 // size
            assert client.dropped == 0

    asyncio.run(scenario())


def test_an_answer_does_not_wait_behind_unread_messages() -> None:
    async def scenario() -> None:
        async with scripted() as server:
            client, session = await server.connected(inbound_max=5)
            await session.send(*(Publish("a", b"%d" % n) for n in range(20)))
            await until(lambda: client.unread >= 5)
            sending = asyncio.ensure_future(client.publish("b", qos=1))
            packet = await session.receive(Publish)
            await session.send(*(Publish("a", b"%d" % n) for n in range(20, 30)), Puback(packet.packet_id))
            assert await sending == 0  # with all its messages unread
            assert client.dropped == 10  # the price: QoS 0 that finds no room while an answer is awaited
            assert [(await client.receive()).payload for _ in range(20)] == [b"%d" % n for n in range(20)]

    asyncio.run(scenario())


def test_what_has_come_can_be_read_after_the_end() -> None:
    async def scenario() -> None:
        async with scripted() as server:
            client, session = await server.connected()
            await session.send(Publish("a", b"1"), Publish("a", b"2"))
            await session.close()
            assert (await client.receive()).payload == b"1"
            assert (await client.receive()).payload == b"2"
            with pytest.raises(ConnectionLost, match="closed the connection"):
                await client.receive()

    asyncio.run(scenario())


def test_a_message_may_follow_connack_in_the_same_read() -> None:
    async def scenario() -> None:
        async with scripted() as server:
            client = server.client()
            connecting = asyncio.ensure_future(client.connect())
            session = await server.session()
            await session.receive(Connect)
            await session.send(Connack(True), Publish("a", b"queued", 1, packet_id=9))
            await connecting
            assert (await client.receive()).payload == b"queued"
            assert await session.receive(Puback) == Puback(9)

    asyncio.run(scenario())
