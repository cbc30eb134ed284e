"""A session goes to another engine: there it goes on as if nothing had happened, here nothing is left of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastmq.store.memory import Contents
from fastmq.store.records import decode as decode_records
from fastmq.store.records import encode as encode_records
from fastmq.store.sqlite import SqliteStore
from tests.inprocess import Engine
from tests.unit.durable import durable, lasting, messages, nothing_left, payloads, told
from tests.unit.moved import back, each_kind, exported, gone, in_every_state, move, pair, seen
from tests.wireclient import encode
from tests.wireclient import properties as p
from tests.wireclient.decode import Publish
from tests.wireclient.properties import PropertyValue

EXPECTED = [(b"a1", 1, True, 4), (b"b2", 2, True, 5), ("PUBREL", 6), (b"d1", 1, True, 7), (b"e2", 2, True, 8)]


@each_kind
def test_what_is_in_flight_keeps_its_packet_id_and_state_and_the_queue_its_order(kept: bool) -> None:
    with pair(kept) as (old, new):
        in_every_state(old)
        move(old, new)
        wire = back(new, window=5)
        assert seen(wire.read_on()) == EXPECTED
        wire.send(encode.ack(5, encode.PUBCOMP, 6) + encode.ack(5, encode.PUBACK, 4))
        assert payloads(wire.read_on()) == [b"f1", b"g2"]
        wire.send(b"".join(encode.ack(5, encode.PUBREC, i) for i in (5, 8)) + encode.ack(5, encode.PUBACK, 7))
        assert seen(wire.read_on())[:2] == [("PUBREL", 5), ("PUBREL", 8)]


@each_kind
def test_nothing_is_left_at_the_old_place(kept: bool) -> None:
    with pair(kept) as (old, new):
        in_every_state(old)
        move(old, new)
        before = old.memory()
        in_every_state(old)
        move_again = exported(old)
        assert old.hub.moving.drop(b"s")
        old.catch_up()
        assert old.memory() == before
        assert old.hub.moving.sessions() == []
        assert old.hub.stats()["subscriptions"] == 0
        assert old.hub.moving.export(b"s") is None
        assert not old.hub.moving.drop(b"s")
        assert old.hub.moving.want(b"s")
        assert move_again
        if kept:
            assert nothing_left(old)
            assert not old.store.contents.sessions
            assert old.crash().hub.moving.sessions() == []


@pytest.mark.parametrize("times", [1, 2])
def test_it_survives_the_new_place_and_keeps_its_order(times: int) -> None:
    with pair(True) as (old, new):
        in_every_state(old)
        assert new.hub.moving.adopt(b"s", exported(old))
        told(new, b"later")
        new.commit_all()
        for _ in range(times):
            new = new.crash()
        wire = back(new, window=5)
        assert seen(wire.read_on()) == EXPECTED
        wire.send(encode.ack(5, encode.PUBCOMP, 6))
        found = payloads(wire.drain())
        for i in (4, 5, 7, 8):
            wire.send(encode.ack(5, encode.PUBACK if i in (4, 7) else encode.PUBREC, i))
        found += payloads(wire.drain())
        assert found == [b"f1", b"g2", b"h1", b"later"]
        assert nothing_left(new)


@pytest.mark.parametrize("settles", [False, True])
def test_a_database_keeps_it_too(tmp_path: Path, settles: bool) -> None:
    """A packet id that awaits PUBCOMP is written with a message that is forgotten in the same batch."""
    with pair(True) as (old, new):
        in_every_state(old)
        assert new.hub.moving.adopt(b"s", exported(old))
        batch = encode_records(*new.commit_all())
        store = SqliteStore(tmp_path / "store.db", fold_bytes=1)
        store.append(batch, True)
        while settles and store.maintain(1):
            pass
        again = Contents()
        for records in store.load():
            for record in decode_records(records):
                again.apply(record)
        assert None not in store.fetch(list(new.store.contents.messages))
        store.close()
        assert again.deliveries == new.store.contents.deliveries


@each_kind
def test_what_came_since_is_behind_it(kept: bool) -> None:
    """Subscribed at the new place first, so that nothing is missed meanwhile."""
    with pair(kept) as (old, new):
        in_every_state(old)
        first = old.hub.moving.export(b"s", only_subscriptions=True)
        assert first is not None
        assert new.hub.moving.adopt(b"s", first)
        for payload in (b"x", b"y"):
            told(new, payload)
        new.catch_up()
        move(old, new)
        told(new, b"z")
        new.catch_up()
        assert new.client_of(b"s") | {"dropped": 0} == {
            "connected": 0, "version": 0, "queued": 6, "inflight": 5, "dropped": 0, "subscriptions": 1
        }  # fmt: skip
        if kept:
            new = new.crash()
        wire = back(new)
        found = seen(wire.read_on())
        assert found[:5] == EXPECTED
        assert [each[0] for each in found[5:]] == [b"f1", b"g2", b"h1", b"x", b"y", b"z"]


@each_kind
def test_two_that_were_queued_apart_become_one_queue(kept: bool) -> None:
    """Longer ones, at either place, and again at a third one."""
    with pair(kept, queue_max=5000, queue_bytes_max=1 << 30) as (old, new), Engine() as third:
        for engine, first in ((old, 0), (new, 3000)):
            wire = lasting(engine)
            wire.subscribe("t", 1)
            gone(engine, wire)
            for i in range(first, first + 3000 if engine is old else first + 10):
                told(engine, b"%d" % i + bytes(1000))
            engine.catch_up()
        move(old, new)
        if kept:
            new = new.crash()
        move(new, third)
        got = [int(each.payload.rstrip(b"\0")) for each in back(third).drain()]
        assert got == list(range(3010))


@each_kind
def test_subscriptions_keep_options_and_identifiers(kept: bool) -> None:
    with pair(kept) as (old, new):
        wire = lasting(old)
        wire.subscribe("a", 0x04 | 1, [(p.SUBSCRIPTION_ID, 5)])  # No Local
        wire.subscribe("b/#", 0x08 | 2, [(p.SUBSCRIPTION_ID, 268_435_455)])  # Retain As Published
        wire.subscribe("b/+", 0x20)
        gone(old, wire)
        told(old, b"two ids", topic="b/c", qos=2)
        move(old, new)
        told(new, b"as published", topic="b/c", qos=2, retain=True)
        if kept:
            new.catch_up()
            new = new.crash()
        wire = back(new)
        found = wire.drain()
        assert payloads(found) == [b"two ids", b"as published"]
        assert [each.values(p.SUBSCRIPTION_ID) for each in found] == [[268_435_455], [268_435_455]]
        assert [each.retain for each in found] == [False, True]
        assert wire.publish("a", b"own", qos=1, packet_id=9)[-1:] != []
        assert wire.drain() == []
        told(new, b"of others", topic="a")
        (message,) = wire.drain()
        assert message.values(p.SUBSCRIPTION_ID) == [5]


@each_kind
def test_a_message_is_the_same_everywhere(kept: bool) -> None:
    props: list[tuple[int, PropertyValue]] = [
        (p.PAYLOAD_FORMAT, 1), (p.CONTENT_TYPE, "text"), (p.RESPONSE_TOPIC, "r"), (p.CORRELATION_DATA, b"\0\1"),
        (p.USER_PROPERTY, ("k", "v")), (p.MESSAGE_EXPIRY, 100),
    ]  # fmt: skip
    with pair(kept) as (old, new):
        for engine in (old, new):
            gone(engine, lasting(engine))
        wire = back(old)
        wire.subscribe("t", 1, [(p.SUBSCRIPTION_ID, 7)])
        wire.subscribe("#", 2, [(p.SUBSCRIPTION_ID, 8)])
        gone(old, wire)
        for expiry in (100, 10):
            sent = [*props[:-1], (p.MESSAGE_EXPIRY, expiry)]
            old.hub.publish(encode.publish(5, "t", b"e", qos=2, packet_id=1, props=sent))
        old.advance(20)
        move(old, new)
        new.advance(30)
        (message,) = back(new).drain()
        assert (message.topic, message.payload, message.qos) == ("t", b"e", 2)
        assert sorted(message.values(p.SUBSCRIPTION_ID)) == [7, 8]
        assert [each for each in message.props if each[0] not in (p.SUBSCRIPTION_ID, p.MESSAGE_EXPIRY)] == props[:-1]
        assert message.value(p.MESSAGE_EXPIRY) in (50, 51)


@each_kind
def test_a_publish_is_not_taken_twice(kept: bool) -> None:
    with pair(kept) as (old, new):
        wire = lasting(old)
        for i in (7, 4096, 65_535):
            assert seen(wire.publish("t", b"once", qos=2, packet_id=i) or wire.read_on()) == [("PUBREC", i)]
        gone(old, wire)
        move(old, new)
        if kept:
            new = new.crash()
        hears = lasting(new, "hears")
        hears.subscribe("t", 1)
        wire = back(new)
        wire.send(encode.publish(5, "t", b"once", qos=2, packet_id=7, dup=True))
        assert seen(wire.read_on()) == [("PUBREC", 7)]
        wire.send(b"".join(encode.ack(5, encode.PUBREL, i) for i in (7, 4096, 65_535)))
        assert seen(wire.read_on()) == [("PUBCOMP", 7), ("PUBCOMP", 4096), ("PUBCOMP", 65_535)]
        assert hears.drain() == []
        wire.send(encode.publish(5, "t", b"new", qos=2, packet_id=7))
        assert payloads(hears.drain()) == [b"new"]


@each_kind
def test_retained_messages_that_were_not_all_sent_are_sent(kept: bool) -> None:
    with pair(kept) as (old, new):
        for engine in (old, new):
            for i in range(4):
                told(engine, b"%d" % i, topic=f"r/{i}", retain=True)
            engine.catch_up()
        wire = lasting(old, window=1)
        wire.subscribe("r/#", 1, [(p.SUBSCRIPTION_ID, 4)])
        assert len(messages(wire.read_on())) <= 1
        gone(old, wire)
        move(old, new)
        if kept:
            new = new.crash()
        found = [each for each in back(new).drain() if not each.dup]
        assert sorted(payloads(found)) == [b"0", b"1", b"2", b"3"]
        assert all(each.retain and each.values(p.SUBSCRIPTION_ID) == [4] for each in found)


def test_bodies_that_are_only_in_the_store_are_wanted_first() -> None:
    with durable(queue_max=10_000, queue_bytes_max=1 << 30) as old, durable() as new:
        wire = lasting(old, window=3)
        wire.subscribe("t", 1)
        gone(old, wire)
        made = [b"%d" % i + bytes(20_000) for i in range(600)]
        for payload in made:
            told(old, payload)
        old.commit_all()
        with pytest.raises(RuntimeError, match="want them first"):
            old.hub.moving.export(b"s")
        assert old.hub.moving.export(b"s", only_subscriptions=True) is not None
        assert not old.hub.moving.want(b"s")
        rounds = 0
        while not old.hub.moving.want(b"s"):
            old.commit_all()
            old.fetch()
            told(old, b"meanwhile %d" % rounds)
            made.append(b"meanwhile %d" % rounds)
            rounds += 1
        assert rounds > 1  # 12 MB come in slices, and what comes meanwhile does not go away
        move(old, new)
        assert new.hub.moving.want(b"s") is False  # the new place keeps no more in memory than it must
        assert payloads(back(new).drain()) == made
        assert nothing_left(old)
        assert nothing_left(new)


def test_what_the_store_has_lost_does_not_hold_up_the_rest() -> None:
    with durable() as old, Engine() as new:
        wire = lasting(old)
        wire.subscribe("t", 1)
        gone(old, wire)
        for payload in (b"1", b"2", b"3"):
            told(old, payload)
        old.commit_all()
        assert not old.hub.moving.want(b"s")
        old.settle()
        assert old.wanted is not None
        old.fetch(lost=[old.wanted[1]])
        assert old.hub.moving.want(b"s")
        move(old, new)
        assert payloads(back(new).drain()) == [b"1", b"3"]
        assert nothing_left(old)


def test_after_a_crash_what_was_in_flight_is_away_too() -> None:
    with pair(True) as (old, new):
        in_every_state(old)
        old = old.crash()
        move(old, new)
        assert seen(back(new, window=5).read_on()) == EXPECTED
        assert nothing_left(old)


def test_an_adopted_session_is_counted_and_heard_of() -> None:
    with Engine() as engine:
        base = engine.memory()
        assert engine.hub.moving.adopt(b"s", b"\x01\x00\x0a\x00\x01\x01\x00\x01t")
        assert engine.hub.moving.sessions() == [b"s"]
        assert engine.hub.publish(encode.publish(5, "t", b"m", qos=1, packet_id=1)) == 1
        assert engine.client_of(b"s")["queued"] == 1
        assert engine.hub.moving.drop(b"s")
        assert engine.memory() - base < 40_000  # tables that stay
        engine.hub.close()
        with pytest.raises(RuntimeError, match="closed"):
            engine.hub.moving.sessions()


def test_packets_of_version_4_move_as_well() -> None:
    with pair(True) as (old, new):
        wire = lasting(old, version=4)
        wire.subscribe("t", 2)
        told(old, b"m", qos=2)
        assert [each for each in wire.read_on() if isinstance(each, Publish)] != []
        gone(old, wire)
        move(old, new)
        again = lasting(new, version=4)
        assert seen(again.read_on()) == [(b"m", 2, True, 1)]
