"""Messages for those who are away are only in the store; they are asked back when it is their turn, in slices."""

from __future__ import annotations

import pytest

from fastmq.store.memory import Contents
from tests.inprocess import Engine
from tests.unit.durable import away, durable, kinds, lasting, messages, nothing_left, payloads, subscribed, told
from tests.wireclient import encode
from tests.wireclient import properties as p


def queued(engine: Engine, count: int, size: int = 10, client_id: str = "s") -> list[bytes]:
    away(engine, subscribed(engine, client_id))
    made = [b"%d" % i + bytes(size) for i in range(count)]
    for payload in made:
        told(engine, payload)
    engine.commit_all()
    return made


def test_what_waits_for_one_who_is_away_takes_no_memory_for_its_body() -> None:
    with durable(queue_max=10_000, queue_bytes_max=1 << 30) as engine:
        before = engine.memory()
        queued(engine, 500, 10_000)
        assert engine.memory() - before < 500 * 400


def test_bodies_come_back_in_slices_that_memory_can_hold() -> None:
    with durable(queue_max=10_000, queue_bytes_max=1 << 30) as engine:
        made = queued(engine, 400, 50_000)
        before = engine.memory()
        wire = lasting(engine)
        found, slices, most = 0, 0, 0
        while found < 400:
            engine.commit_all()
            slices += engine.fetch() > 0
            most = max(most, engine.memory() - before)
            for message in messages(wire.read()):
                assert message.payload == made[found]
                found += 1
                wire.send(encode.ack(5, encode.PUBACK, message.packet_id))
            engine.settle()
        assert slices > 10
        assert most < 8 << 20
        assert nothing_left(engine)


def test_many_who_come_back_at_once_do_not_fill_the_memory() -> None:
    with durable(queue_max=10_000, queue_bytes_max=1 << 30) as engine:
        names = [f"s{i}" for i in range(40)]
        for name in names:
            away(engine, subscribed(engine, name, name))
            for i in range(8):
                told(engine, b"%d" % i + bytes(100_000), topic=name)
        engine.commit_all()
        engine = engine.crash()
        base = engine.memory()
        wires = [lasting(engine, name, window=4) for name in names]
        engine.commit_all()
        asked = []
        while engine.wanted:
            asked.append(sum(len(engine.store.contents.messages[id].payload) for id in engine.wanted))
            engine.fetch()
        assert len(asked) > 5
        assert max(asked) < 5 << 20
        for wire in wires:
            assert [message.payload[:1] for message in wire.drain()] == [b"%d" % i for i in range(8)]
        assert engine.memory() - base < 1 << 20
        assert nothing_left(engine)


def test_a_long_queue_is_asked_for_piece_by_piece_and_each_piece_once() -> None:
    with durable(queue_max=20_000) as engine:
        made = queued(engine, 10_000)
        wire = lasting(engine, window=100)
        found: list[bytes] = []
        asked = slices = 0
        while len(found) < 10_000:
            engine.commit_all()
            came = engine.fetch()
            asked += came
            slices += came > 0
            for message in messages(wire.read()):
                found.append(message.payload)
                wire.send(encode.ack(5, encode.PUBACK, message.packet_id))
            engine.settle()
        assert found == made
        assert asked == 10_000
        assert 3 <= slices <= 6


def test_large_messages_are_asked_for_many_at_a_time_too() -> None:
    """A megabyte of them: not the next one each time that one was taken."""
    with durable(queue_max=10_000, queue_bytes_max=1 << 30) as engine:
        made = queued(engine, 900, 20_000)
        wire = lasting(engine, window=1)
        found: list[bytes] = []
        slices = 0
        while len(found) < 900:
            engine.commit_all()
            slices += engine.fetch() > 0
            for message in messages(wire.read()):
                found.append(message.payload)
                wire.send(encode.ack(5, encode.PUBACK, message.packet_id))
            engine.settle()
        assert found == made
        assert slices <= 60


def test_a_lost_body_is_a_lost_message_and_nothing_more() -> None:
    with durable() as engine:
        made = queued(engine, 10)
        wire = lasting(engine)
        engine.commit_all()
        assert engine.wanted is not None
        engine.fetch(lost=engine.wanted[3:5])
        assert payloads(wire.drain()) == made[:3] + made[5:]
        assert engine.hub.stats()["dropped_lost"] == 2
        assert nothing_left(engine)


def test_a_body_that_is_lost_while_it_was_in_flight_frees_its_packet_id() -> None:
    with durable() as engine:
        wire = subscribed(engine, window=2)
        for i in range(4):
            told(engine, b"%d" % i, qos=2)
        engine.commit_all()
        assert payloads(wire.read()) == [b"0", b"1"]
        engine = engine.crash()
        wire = lasting(engine, window=2)
        engine.commit_all()
        assert engine.wanted is not None
        engine.fetch(lost=engine.wanted[:1])
        assert payloads(wire.drain()) == [b"1", b"2", b"3"]
        assert nothing_left(engine)


@pytest.mark.parametrize("how", ["away", "gone", "taken over", "clean"])
def test_a_client_may_go_while_its_messages_are_fetched(how: str) -> None:
    with durable() as engine:
        made = queued(engine, 10)
        wire = lasting(engine)
        engine.commit_all()
        assert engine.wanted is not None
        if how == "taken over":
            wire = lasting(engine)
        elif how == "clean":
            wire = engine.client("s")
        elif how == "gone":
            wire.send(encode.disconnect(5, 0, [(p.SESSION_EXPIRY, 0)]))
            engine.settle()
        else:
            wire.close()
            engine.settle()
        engine.fetch()
        if how == "away":
            wire = lasting(engine)
        if how in ("away", "taken over"):
            assert payloads(wire.drain()) == made
        assert nothing_left(engine)


def test_messages_may_expire_or_be_dropped_while_they_are_fetched() -> None:
    with durable(queue_max=5, drop_oldest=True) as engine:
        away(engine, subscribed(engine, window=1))
        for i in range(5):
            told(engine, b"%d" % i, expiry=10 if i % 2 else None)
        engine.commit_all()
        wire = lasting(engine, window=1)
        engine.commit_all()
        assert engine.wanted is not None
        engine.advance(20)
        told(engine, b"5")
        told(engine, b"6")
        engine.commit_all()
        engine.fetch()
        assert payloads(wire.drain()) == [b"2", b"4", b"5", b"6"]
        assert nothing_left(engine)


def test_a_message_that_is_in_memory_for_another_is_not_fetched() -> None:
    with durable() as engine:
        away(engine, subscribed(engine, "s"))
        here = subscribed(engine, "here")
        told(engine, b"m", retain=True)
        engine.commit_all()
        wire = lasting(engine)
        engine.commit_all()
        assert engine.wanted is None
        assert payloads(wire.read()) == [b"m"]
        assert kinds(here.read()) == ["PUBLISH"]


def test_what_comes_while_the_queue_is_fetched_waits_behind_it() -> None:
    with durable() as engine:
        made = queued(engine, 5)
        wire = lasting(engine)
        engine.commit_all()
        told(engine, b"new", qos=2)
        told(engine, b"passes by", qos=0)
        engine.commit_all()
        assert payloads(wire.read()) == [b"passes by"]
        assert payloads(wire.drain()) == [*made, b"new"]
        assert nothing_left(engine)


def test_what_is_wanted_before_it_is_committed_is_asked_for_afterwards() -> None:
    with durable() as engine:
        away(engine, subscribed(engine))
        told(engine, b"m")
        wire = engine.wire()
        wire.send(encode.connect(5, client_id="s", clean=False, props=[(p.SESSION_EXPIRY, 1000)]))
        engine.settle()
        assert engine.fetch() == 0
        engine.commit_all()
        assert engine.fetch() == 1
        assert payloads(wire.drain()) == [b"m"]


def test_who_waits_for_the_store_lets_others_go_on() -> None:
    with durable() as engine:
        queued(engine, 5)
        other = subscribed(engine, "other", "x")
        lasting(engine)
        engine.commit_all()
        assert engine.wanted is not None
        told(engine, b"m", topic="x")
        engine.settle()
        assert payloads(other.read()) == [b"m"]


@pytest.mark.parametrize("size", [10, 3000])
def test_all_memory_comes_back(size: int) -> None:
    """Sessions, queues, windows, what was fetched and asked: nothing stays on the ledger."""
    with durable(queue_max=10_000, queue_bytes_max=1 << 30) as engine:
        sizes: list[int] = []
        for _ in range(3):
            made = queued(engine, 1500, size)
            assert payloads(lasting(engine, window=100).drain()) == made
            engine.client("s")
            engine.forget_wires()
            engine.commit_all()
            assert engine.hub.stats()["sessions"] == 0
            sizes.append(engine.memory())
        assert sizes == sizes[:1] * 3


def test_a_restore_that_fails_leaves_nothing_behind() -> None:
    contents = Contents()
    with Engine(store=contents) as engine:
        queued(engine, 10)
        away(engine, subscribed(engine, "g", "$share/g/#"))
        told(engine, b"m", retain=True)
        engine.commit_all()
        batches = list(engine.store.load())
    for cut in (b"\xff", b"\x03\x02"):
        with Engine() as engine:
            engine.hub.keep(2, [])
            for batch in batches:
                engine.hub.restore(batch)
            with pytest.raises(ValueError, match="malformed"):
                engine.hub.restore(cut)
