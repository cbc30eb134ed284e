"""Coming back after a lost connection: what is sent again, in which order, and when to give up."""

import asyncio
from itertools import islice

import pytest

from fastmq.client import Client, ConnectionLost, Properties, Publish, Reconnect
from fastmq.client.errors import reason_name
from fastmq.packets import Connack, Connect, Puback, Pubcomp, Pubrec, Pubrel, Suback, Subscribe
from fastmq.reasons import Reason
from tests.unit.scripted_server import ScriptedServer, Session, scripted, until

SOON = Reconnect(first_s=0.01, longest_s=0.05)


async def sent_in_three_states(client: Client, session: Session) -> list[asyncio.Future[int]]:
    """QoS 1 unacknowledged, QoS 2 unacknowledged, QoS 2 released; in this order."""
    sending: list[asyncio.Future[int]] = [
        asyncio.ensure_future(client.publish("a", payload, qos)) for payload, qos in ((b"1", 1), (b"2", 2), (b"3", 2))
    ]
    packets = [await session.receive(Publish) for _ in sending]
    assert [each.packet_id for each in packets] == [1, 2, 3]
    await session.send(Pubrec(3))
    await session.receive(Pubrel)
    return sending


async def come_back(server: ScriptedServer, *, session_present: bool) -> Session:
    session = await server.session()
    await session.accept(Connack(session_present))
    return session


def test_a_session_that_is_still_there_goes_on_where_it_was() -> None:
    async def scenario() -> None:
        async with scripted() as server:
            client, session = await server.connected(client_id="c", clean_start=False, reconnect=SOON)
            sending = await sent_in_three_states(client, session)
            await session.close()
            session = await come_back(server, session_present=True)
            assert await session.receive(Publish) == Publish("a", b"1", 1, dup=True, packet_id=1)  # [MQTT-3.3.1-1]
            assert await session.receive(Publish) == Publish("a", b"2", 2, dup=True, packet_id=2)
            assert await session.receive(Pubrel) == Pubrel(3)
            await session.send(Puback(1), Pubrec(2), Pubcomp(3))
            assert await session.receive(Pubrel) == Pubrel(2)
            await session.send(Pubcomp(2))
            assert [await each for each in sending] == [0, 0, 0]

    asyncio.run(scenario())


def test_a_session_that_is_gone_starts_again() -> None:
    async def scenario() -> None:
        async with scripted() as server:
            client, session = await server.connected(reconnect=SOON)
            asking = asyncio.ensure_future(client.subscribe("s/#", qos=1))
            await session.send(Suback((await session.receive(Subscribe)).packet_id, [1]))
            await asking
            sending = [asyncio.ensure_future(client.publish("a", b"1", 1))]
            packet = await session.receive(Publish)
            await session.close()
            session = await come_back(server, session_present=False)
            assert await session.receive(Publish) == Publish("a", b"1", 1, packet_id=packet.packet_id)
            again = await session.receive(Subscribe)
            assert [each.filter for each in again.subscriptions] == ["s/#"]
            await session.send(Puback(packet.packet_id), Suback(again.packet_id, [1]), Publish("s/x", b"news"))
            assert await sending[0] == 0
            assert (await client.receive()).payload == b"news"

    asyncio.run(scenario())


def test_a_publish_waits_for_the_connection_to_come_back() -> None:
    async def scenario() -> None:
        async with scripted() as server:
            client, session = await server.connected(reconnect=SOON)
            await session.close()
            await until(lambda: not client.is_connected)
            sending = asyncio.ensure_future(client.publish("a", b"later"))
            session = await come_back(server, session_present=False)
            await sending
            assert (await session.receive(Publish)).payload == b"later"

    asyncio.run(scenario())


def test_unread_messages_of_qos_1_come_once_after_a_reconnect() -> None:
    async def scenario() -> None:
        async with scripted() as server:
            client, session = await server.connected(reconnect=SOON)
            await session.send(
                Publish("a", b"0"), Publish("a", b"1", 1, packet_id=1), Publish("a", b"2", 2, packet_id=2)
            )
            await until(lambda: client.unread >= 3)
            await session.close()
            session = await come_back(server, session_present=True)
            await until(lambda: client.is_connected)
            await session.send(
                Publish("a", b"1", 1, dup=True, packet_id=1),
                Publish("a", b"2", 2, dup=True, packet_id=2),
                Publish("a", b"3", 1, packet_id=3),
            )
            assert sorted([(await client.receive()).payload for _ in range(4)]) == [b"0", b"1", b"2", b"3"]
            answers: list[object] = []
            while Puback(3) not in answers:
                answers.append(await session.receive(object))
            # PUBREC may come twice: for the message taken from the queue, and for its copy.
            assert [each for each in answers if each != Pubrec(2)] == [Puback(1), Puback(3)]
            assert Pubrec(2) in answers

    asyncio.run(scenario())


def test_unread_messages_of_a_forgotten_session_are_not_acknowledged() -> None:
    async def scenario() -> None:
        async with scripted() as server:
            client, session = await server.connected(reconnect=SOON)
            await session.send(Publish("a", b"1", 1, packet_id=1))
            await until(lambda: client.unread)
            await session.close()
            session = await come_back(server, session_present=False)
            await session.send(Publish("a", b"2", 1, packet_id=7))
            assert [(await client.receive()).payload for _ in range(2)] == [b"1", b"2"]
            assert await session.receive(Puback) == Puback(7)

    asyncio.run(scenario())


def test_a_server_that_is_only_busy_is_asked_again() -> None:
    async def scenario() -> None:
        async with scripted() as server:
            client, session = await server.connected(reconnect=SOON)
            await session.close()
            for refusal in (Connack(False, Reason.SERVER_BUSY), Connack(False, Reason.SERVER_UNAVAILABLE)):
                await (await server.session()).accept(refusal)
            await come_back(server, session_present=False)
            await client.publish("a", b"x")
            assert client.is_connected

    asyncio.run(scenario())


def test_a_server_that_does_not_want_the_client_is_left_alone() -> None:
    async def scenario() -> None:
        async with scripted() as server:
            client, session = await server.connected(reconnect=SOON)
            sending = asyncio.ensure_future(client.publish("a", qos=1))
            await session.receive(Publish)
            await session.close()
            await (await server.session()).accept(Connack(False, Reason.BANNED))
            for waiting in (sending, client.receive(), client.publish("a")):
                with pytest.raises(ConnectionLost):
                    await waiting

    asyncio.run(scenario())


def test_disconnect_ends_the_attempts() -> None:
    async def scenario() -> None:
        async with scripted() as server:
            client, session = await server.connected(reconnect=Reconnect(first_s=60))
            sending = asyncio.ensure_future(client.publish("a", qos=1))
            await session.receive(Publish)
            await session.close()
            await until(lambda: not client.is_connected)
            await client.disconnect()
            with pytest.raises(ConnectionLost):
                await sending

    asyncio.run(scenario())


def test_an_assigned_client_id_is_kept() -> None:
    async def scenario() -> None:
        async with scripted() as server:
            assigned = Connack(False, 0, Properties(assigned_client_identifier="auto"))
            _client, session = await server.connected(assigned, reconnect=SOON)
            await session.close()
            session = await server.session()
            assert (await session.receive(Connect)).client_id == "auto"

    asyncio.run(scenario())


def test_pauses_double_up_to_the_longest() -> None:
    pauses = list(islice(Reconnect(first_s=1, longest_s=5).pauses(), 6))
    for pause, longest in zip(pauses, [1, 2, 4, 5, 5, 5], strict=True):
        assert longest / 2 <= pause <= longest


@pytest.mark.parametrize(
    ("reason", "version", "name"),
    [
        (0x87, 5, "not authorized (0x87)"),
        (5, 4, "not authorized (0x05)"),
        (0x80, 4, "unspecified error (0x80)"),
        (0x7F, 5, "reason 0x7F"),
        (9, 3, "reason 0x09"),
    ],
)
def test_a_reason_has_a_name(reason: int, version: int, name: str) -> None:
    assert reason_name(reason, version) == name
