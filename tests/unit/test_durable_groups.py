"""Shared groups with members whose sessions are kept: what was accepted for the group is done by somebody."""

from __future__ import annotations

from collections import Counter

import pytest

from fastmq.store import records as r
from tests.inprocess import Engine, Wire
from tests.unit.durable import away, durable, kinds, lasting, messages, nothing_left, payloads, subscribed, told
from tests.wireclient import encode
from tests.wireclient import properties as p

TEXT = "$share/g/t"


def member(engine: Engine, name: str, window: int = 65_535, options: int = 2) -> Wire:
    return subscribed(engine, name, TEXT, options, window)


def passing(engine: Engine, name: str, window: int = 65_535) -> Wire:
    """A member whose session ends with its connection."""
    wire = engine.client(name, props=[(p.RECEIVE_MAXIMUM, window)])
    wire.subscribe(TEXT, 2)
    return wire


def jobs(engine: Engine, count: int, first: int = 0) -> list[bytes]:
    made = [b"%d" % i for i in range(first, first + count)]
    for job in made:
        told(engine, job)
    engine.commit_all()
    return made


def test_a_group_keeps_its_queue_in_order() -> None:
    with durable() as engine:
        away(engine, member(engine, "a"), member(engine, "b"))
        made = jobs(engine, 50)
        for _ in range(2):
            engine = engine.crash()
        made += jobs(engine, 5, 50)
        assert payloads(lasting(engine, "b").drain()) == made
        assert nothing_left(engine)


def test_members_share_after_a_crash_what_was_queued_before() -> None:
    with durable() as engine:
        away(engine, member(engine, "a", 1), member(engine, "b", 1))
        made = jobs(engine, 30)
        engine = engine.crash()
        wires = [lasting(engine, name, window=1) for name in "ab"]
        done: list[bytes] = []
        for _ in range(30):
            for wire in wires:
                for message in messages(wire.read_on()):
                    done.append(message.payload)
                    wire.send(encode.ack(5, encode.PUBACK, message.packet_id))
        engine.catch_up()
        assert done == made
        assert nothing_left(engine)


@pytest.mark.parametrize("qos", [1, 2])
def test_what_a_member_had_in_flight_stays_its_own(qos: int) -> None:
    with durable() as engine:
        wire = member(engine, "a", window=2)
        for i in range(5):
            told(engine, b"%d" % i, qos=qos)
        engine.commit_all()
        sent = messages(wire.read())
        assert payloads(list(sent)) == [b"0", b"1"]
        engine = engine.crash()
        found = lasting(engine, "a", window=2).drain()
        assert [(m.payload, m.packet_id, m.dup) for m in found[:2]] == [(m.payload, m.packet_id, True) for m in sent]
        assert payloads(found[2:]) == [b"2", b"3", b"4"]
        assert nothing_left(engine)


@pytest.mark.parametrize("how", ["crash", "loss", "unsubscribe and crash"])
def test_what_a_passing_member_had_in_flight_comes_back_to_the_group(how: str) -> None:
    """It is recorded with the group, since the member may be gone with its connection."""
    with durable() as engine:
        away(engine, member(engine, "a"))
        wire = passing(engine, "b", window=3)
        made = jobs(engine, 6)
        assert payloads(wire.read()) == made[:3]
        if how == "loss":
            wire.close()
            engine.settle()
        elif how != "crash":  # what is in flight completes with the member that left
            wire.exchange(encode.unsubscribe(5, 1, [TEXT]))
        engine.commit_all()
        engine = engine.crash()
        assert payloads(lasting(engine, "a").drain()) == (made[3:] if how.startswith("unsub") else made)
        assert nothing_left(engine)


def test_what_a_passing_member_acknowledged_is_over() -> None:
    with durable() as engine:
        away(engine, member(engine, "a"))
        wire = passing(engine, "b")
        jobs(engine, 4)
        told(engine, b"twice", qos=2)
        engine.commit_all()
        assert len(wire.drain()) == 5
        assert nothing_left(engine)
        engine = engine.crash()
        assert lasting(engine, "a").drain() == []


def test_the_qos_2_message_of_a_passing_member_dies_with_it() -> None:
    """[MQTT-4.8.2-5]"""
    with durable() as engine:
        away(engine, member(engine, "a"))
        wire = passing(engine, "b")
        told(engine, b"twice", qos=2)
        engine.commit_all()
        assert kinds(wire.read()) == ["PUBLISH"]
        wire.close()
        engine.settle()
        assert nothing_left(engine)


def test_a_durable_member_whose_session_ends_gives_back_what_it_had() -> None:
    with durable() as engine:
        away(engine, member(engine, "a"))
        wire = member(engine, "b", window=2)
        made = jobs(engine, 5)
        wire.send(encode.disconnect(5, 0, [(p.SESSION_EXPIRY, 0)]))
        engine.commit_all()
        engine = engine.crash()
        assert payloads(lasting(engine, "a").drain()) == made
        assert nothing_left(engine)


def test_a_member_that_is_not_to_be_kept_any_more_leaves_its_work_to_the_group() -> None:
    """It came back with Session Expiry Interval 0: its session is not in the store, the group is."""
    with durable() as engine:
        away(engine, member(engine, "a"))
        wire = member(engine, "b", window=2)
        made = jobs(engine, 4)
        assert payloads(wire.read()) == made[:2]
        away(engine, wire)
        wire = lasting(engine, "b", window=2, expiry=0)
        assert set(payloads(wire.read())) == set(made[:2])
        engine.commit_all()
        engine = engine.crash()
        assert payloads(lasting(engine, "a").drain()) == made
        assert nothing_left(engine)


def test_a_group_is_kept_as_long_as_it_has_members_though_none_of_them_is() -> None:
    with durable() as engine:
        passing(engine, "b", window=1)
        wire = member(engine, "a", window=1)
        jobs(engine, 5)  # b and a have one each
        wire.send(encode.unsubscribe(5, 1, [TEXT]))
        away(engine, wire)
        assert len(engine.store.contents.groups) == 1
        away(engine, member(engine, "c", window=1))
        engine = engine.crash()
        assert set(payloads(lasting(engine, "a").drain())) == {b"1"}
        assert set(payloads(lasting(engine, "c").drain())) == {b"0", b"2", b"3", b"4"}
        assert nothing_left(engine)


def test_what_a_group_has_queued_is_kept_from_its_first_durable_member_on() -> None:
    with durable() as engine:
        passing(engine, "b", window=1)
        made = jobs(engine, 4)
        assert engine.store.stat()["messages"] == 0
        away(engine, member(engine, "a", window=1))
        assert engine.store.stat()["messages"] >= 2
        engine = engine.crash()
        assert Counter(payloads(lasting(engine, "a").drain())) <= Counter(made)
        assert nothing_left(engine)


def test_a_group_ends_with_its_last_member() -> None:
    with durable() as engine:
        wire = member(engine, "a", window=1)
        jobs(engine, 4)
        wire.send(encode.unsubscribe(5, 1, [TEXT]))
        records = engine.commit_all()
        assert sum(isinstance(record, r.GroupGone) for record in records) == 1
        wire.drain()
        assert nothing_left(engine)
        assert engine.store.contents.groups == {}
        away(engine, wire)
        engine = engine.crash()
        assert jobs(engine, 1)
        assert nothing_left(engine)
        wire = lasting(engine, "a")
        wire.subscribe(TEXT, 1)
        assert payloads(wire.drain()) == []


def test_a_group_whose_members_are_all_gone_is_forgotten_at_the_start() -> None:
    """The store should never have it; the engine does not keep it."""
    with durable() as engine:
        away(engine, member(engine, "a"))
        jobs(engine, 3)
        serial = next(iter(engine.store.contents.sessions))
        engine.store.contents.apply(r.Ended(serial))
        engine = engine.crash()
        assert engine.store.contents.groups
        assert nothing_left(engine)
        assert engine.store.contents.groups == {}
        assert jobs(engine, 1)


def test_messages_of_a_group_expire_while_the_broker_is_down() -> None:
    with durable() as engine:
        away(engine, member(engine, "a"))
        told(engine, b"brief", expiry=10)
        told(engine, b"long", expiry=1000)
        told(engine, b"short", expiry=30)
        engine.commit_all()
        engine = engine.crash(20)
        engine.advance(20)
        assert payloads(lasting(engine, "a").drain()) == [b"long"]
        assert engine.hub.stats()["dropped_lost"] == 0
        assert nothing_left(engine)


def test_two_groups_and_an_ordinary_subscription_share_one_stored_message() -> None:
    with durable() as engine:
        away(engine, member(engine, "a"), subscribed(engine, "b", "$share/h/#"), subscribed(engine, "c", "+"))
        told(engine, b"m")
        engine.commit_all()
        assert engine.store.stat()["messages"] == 1
        assert engine.store.stat()["deliveries"] == 3
        engine = engine.crash()
        for name in "abc":
            assert payloads(lasting(engine, name).drain()) == [b"m"]
        assert nothing_left(engine)


def test_a_large_queue_of_a_group_comes_back_in_slices() -> None:
    with durable(group_queue_bytes_max=1 << 26) as engine:
        away(engine, member(engine, "a"))
        made = [bytes([i]) * 500_000 for i in range(20)]
        for job in made:
            told(engine, job)
        engine.commit_all()
        engine = engine.crash()
        assert payloads(lasting(engine, "a").drain()) == made
        assert engine.hub.stats()["dropped_lost"] == 0
        assert nothing_left(engine)
