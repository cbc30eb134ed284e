"""A broker that ends without a word starts from what was committed: sessions, subscriptions, what is in flight."""

from __future__ import annotations

import pytest

from fastmq.store import records as r
from tests.inprocess import Engine
from tests.unit.durable import LASTING, away, durable, lasting, messages, payloads, present, told
from tests.wireclient import encode
from tests.wireclient import properties as p
from tests.wireclient.decode import Ack

NO_LOCAL, AS_PUBLISHED = 4, 8


def test_a_session_is_there_and_what_was_not_committed_is_not() -> None:
    with durable() as engine:
        lasting(engine)
        wire = engine.wire()
        wire.send(encode.connect(5, client_id="late", clean=False, props=LASTING))
        engine.settle()
        with engine.crash() as again:
            assert [name for name, *_ in again.hub.clients()] == [b"s"]
            back = lasting(again)
            assert present(back)


@pytest.mark.parametrize("version", [4, 5])
def test_subscriptions_keep_their_options_and_identifiers(version: int) -> None:
    with durable() as engine:
        wire = lasting(engine, version=version)
        if version == 5:
            wire.exchange(encode.subscribe(5, 1, [("own", 1 | NO_LOCAL), ("flag/#", 2 | AS_PUBLISHED)]))
            wire.exchange(encode.subscribe(5, 2, [("flag/+", 1)], [(p.SUBSCRIPTION_ID, 7)]))
            wire.exchange(encode.subscribe(5, 3, [("flag/a", 0)], [(p.SUBSCRIPTION_ID, 268_435_455)]))
            wire.exchange(encode.subscribe(5, 4, [("gone", 1)]) + encode.unsubscribe(5, 5, ["gone"]))
        else:
            wire.exchange(encode.subscribe(4, 1, [("own", 1), ("flag/#", 2)]))
        engine.commit_all()
        with engine.crash() as again:
            assert again.client_of(b"s")["subscriptions"] == (4 if version == 5 else 2)
            wire = lasting(again, version=version)
            wire.send(encode.publish(version, "own", b"mine", qos=1, packet_id=1))
            wire.send(encode.publish(version, "gone", b"gone", qos=1, packet_id=2))
            wire.send(encode.publish(version, "flag/a", b"all", qos=2, retain=True, packet_id=3))
            found = wire.drain()
            assert payloads(found) == ([b"mine"] if version == 4 else []) + [b"all"]
            assert (found[-1].qos, found[-1].retain) == (2, version == 5)
            if version == 5:
                assert sorted(found[-1].values(p.SUBSCRIPTION_ID), key=str) == [268_435_455, 7]


@pytest.mark.parametrize("version", [4, 5])
def test_what_was_in_flight_comes_again_with_its_packet_id_dup_and_order(version: int) -> None:
    with durable() as engine:
        wire = lasting(engine, version=version)
        wire.subscribe("t", 2)
        for i in range(30):
            told(engine, b"%d" % i, qos=1 + i % 2)
            engine.commit_all()
        sent = messages(wire.read())
        done = [0, 3, 17, 20]  # QoS 1 and 2; the last one has not been completed
        for at in done:
            wire.send(encode.ack(version, encode.PUBACK if sent[at].qos == 1 else encode.PUBREC, sent[at].packet_id))
        engine.commit_all()
        wire.send(encode.ack(version, encode.PUBCOMP, sent[3].packet_id))
        engine.commit_all()
        expected = [(m.payload, m.packet_id, m.qos) for at, m in enumerate(sent) if at not in done]
        with engine.crash() as again:
            wire = lasting(again, version=version)
            packets = wire.read_on()
            assert [(m.payload, m.packet_id, m.qos) for m in messages(packets)] == expected
            assert all(message.dup for message in messages(packets))
            released = [(packet.kind, packet.packet_id) for packet in packets if isinstance(packet, Ack)]
            assert released == [("PUBREL", sent[17].packet_id)]
            assert packets.index(next(each for each in packets if isinstance(each, Ack))) == 15  # in its place
            told(again, b"fresh")
            again.catch_up()
            (fresh,) = messages(wire.read())
            assert fresh.packet_id not in {packet_id for _, packet_id, _ in expected}


def test_a_delivery_that_was_released_is_released_again_and_never_repeated() -> None:
    with durable() as engine:
        wire = lasting(engine)
        wire.subscribe("t", 2)
        told(engine, b"once", qos=2)
        engine.commit_all()
        (message,) = messages(wire.read())
        wire.send(encode.ack(5, encode.PUBREC, message.packet_id))
        engine.commit_all()
        for _ in range(3):
            assert engine.store.stat()["messages"] == 0
            engine = engine.crash()
            wire = lasting(engine)
            assert wire.read_on() == [Ack([], "PUBREL", message.packet_id, 0)]
        wire.send(encode.ack(5, encode.PUBCOMP, message.packet_id))
        engine.commit_all()
        assert engine.store.stat()["deliveries"] == 0


def test_received_packet_ids_are_remembered_until_they_are_released() -> None:
    with durable() as engine:
        reader = lasting(engine, "reader")
        reader.subscribe("t", 1)
        writer = lasting(engine, "writer")
        for packet_id in (1, 5000, 65_535):
            writer.send(encode.publish(5, "t", b"%d" % packet_id, qos=2, packet_id=packet_id))
        engine.commit_all()
        writer.send(encode.ack(5, encode.PUBREL, 5000))
        engine.commit_all()
        assert len(reader.drain()) == 3
        engine.commit_all()
        with engine.crash() as again:
            reader, writer = lasting(again, "reader"), lasting(again, "writer")
            for packet_id in (1, 5000, 65_535):
                writer.send(encode.publish(5, "t", b"again", qos=2, packet_id=packet_id, dup=True))
            again.catch_up()
            assert [packet.packet_id for packet in writer.read() if isinstance(packet, Ack)] == [1, 5000, 65_535]
            assert payloads(reader.drain()) == [b"again"]  # 5000 was free for another message


def test_a_queue_keeps_its_order_through_restarts() -> None:
    with durable() as engine:
        wire = lasting(engine)
        wire.subscribe("#", 2)
        away(engine, wire)
        for generation in range(3):
            for i in range(50):
                told(engine, b"%d" % (generation * 50 + i), qos=1 + i % 2)
            engine.commit_all()
            engine = engine.crash(60)
        assert engine.client_of(b"s")["queued"] == 150
        assert payloads(lasting(engine, window=7).drain()) == [b"%d" % i for i in range(150)]
        engine.commit_all()
        assert engine.store.stat()["messages"] == engine.store.stat()["deliveries"] == 0


def test_what_is_in_flight_comes_before_the_queue_and_before_what_is_new() -> None:
    with durable() as engine:
        wire = lasting(engine, window=2)
        wire.subscribe("t", 1)
        for i in range(6):
            told(engine, b"%d" % i)
        engine.commit_all()
        assert payloads(wire.read()) == [b"0", b"1"]
        engine = engine.crash()
        told(engine, b"6")
        wire = lasting(engine, window=3)
        told(engine, b"7")
        found = wire.drain()
        assert payloads(found) == [b"%d" % i for i in range(8)]
        assert [message.dup for message in found] == [True] * 2 + [False] * 6


def test_a_batch_that_was_stored_counts_though_nobody_was_told() -> None:
    with durable() as engine:
        wire = lasting(engine)
        wire.subscribe("t", 2)
        engine.commit_all()
        publisher = engine.client("p")
        publisher.send(encode.publish(5, "t", b"m", qos=2, packet_id=9))
        engine.settle()
        assert [type(record) for record in engine.append()] == [r.Clock, r.Message, r.Delivery]
        with engine.crash() as again:
            assert [(m.payload, m.dup) for m in lasting(again).drain()] == [(b"m", True)]


@pytest.mark.parametrize(("drop_oldest", "kept"), [(False, b"01234"), (True, b"56789")])
@pytest.mark.parametrize("crash_at", [3, 7])
def test_a_limited_queue_drops_what_its_policy_says_across_a_restart(
    drop_oldest: bool, kept: bytes, crash_at: int
) -> None:
    with durable(queue_max=5, drop_oldest=drop_oldest) as engine:
        wire = lasting(engine)
        wire.subscribe("t", 1)
        away(engine, wire)
        for i in range(10):
            told(engine, b"%d" % i)
            if i == crash_at:
                engine.commit_all()
                engine = engine.crash()
        engine.commit_all()
        assert engine.store.stat()["messages"] == engine.store.stat()["deliveries"] == 5
        assert b"".join(payloads(lasting(engine).drain())) == kept


def test_the_bytes_of_a_queue_are_counted_alike_before_and_after_a_restart() -> None:
    """Fetching and sending takes off exactly what loading put on, or the limit moves."""

    def takes(engine: Engine) -> int:
        before = engine.client_of(b"s")["queued"]
        for _ in range(60):
            told(engine, bytes(100))
        return engine.client_of(b"s")["queued"] - before

    with durable(queue_bytes_max=4000, queue_max=1000) as engine:
        wire = lasting(engine, window=1)
        wire.subscribe("t", 1)
        away(engine, wire)
        full = takes(engine)
        assert 10 < full < 40
        engine.commit_all()
        engine = engine.crash()
        assert takes(engine) == 0
        wire = lasting(engine, window=1)
        engine.catch_up()
        for _ in range(10):
            for message in messages(wire.read_on()):
                wire.send(encode.ack(5, encode.PUBACK, message.packet_id))
        away(engine, wire)
        left = engine.client_of(b"s")["queued"]
        assert left + takes(engine) == full


def test_subscriptions_and_queues_end_with_a_clean_start() -> None:
    with durable() as engine:
        wire = lasting(engine)
        wire.subscribe("t", 1)
        away(engine, wire)
        told(engine, b"m")
        engine.commit_all()
        wire = engine.client("s", clean=True, props=LASTING)
        assert not present(wire)
        with engine.crash() as again:
            wire = lasting(again)
            assert present(wire)
            assert wire.drain() == []
            assert again.client_of(b"s")["subscriptions"] == 0


def test_what_is_stored_twice_is_one_message_and_goes_with_the_last_that_needs_it() -> None:
    with durable() as engine:
        names = [f"s{i}" for i in range(20)]
        wires = [lasting(engine, name) for name in names]
        for wire in wires:
            wire.subscribe("t", 1)
        for wire in wires[:10]:
            wire.close()
        engine.commit_all()
        told(engine, b"for all")
        kinds = [type(record) for record in engine.commit_all()]
        assert (kinds.count(r.Message), kinds.count(r.Delivery)) == (1, 20)
        for wire in wires[10:]:
            assert payloads(wire.drain()) == [b"for all"]
        assert r.Forget not in [type(record) for record in engine.commit_all()]
        engine = engine.crash()
        for name in names[:9]:
            assert payloads(lasting(engine, name).drain()) == [b"for all"]
        assert engine.commit_all()[-1:] != [r.Forget(1)]
        assert payloads(lasting(engine, names[9]).drain()) == [b"for all"]
        engine.commit_all()
        assert engine.store.stat()["messages"] == 0


def test_topics_that_are_not_kept_are_gone_and_the_others_are_not() -> None:
    with durable(durability="none", rules=[("kept/#", "fsync"), ("kept/by/os", "os")]) as engine:
        wire = lasting(engine)
        wire.subscribe("#", 1)
        away(engine, wire)
        for topic in ("kept/a", "other", "kept/by/os"):
            told(engine, topic.encode(), topic=topic)
        assert engine.client_of(b"s")["queued"] == 3
        engine.commit_all()
        with engine.crash() as again:
            assert payloads(lasting(again).drain()) == [b"kept/a", b"kept/by/os"]


@pytest.mark.parametrize(("level", "synced"), [("os", False), ("fsync", True)])
def test_only_what_must_survive_a_power_cut_is_synced(level: str, synced: bool) -> None:
    with durable(rules=[("t", level)]) as engine:
        lasting(engine).subscribe("t", 1)
        engine.commit_all()
        engine.client("p").publish("t", b"m", qos=1, packet_id=1)
        assert engine.batch is not None
        assert engine.batch[1] is synced


def test_qos_0_for_one_who_is_away_is_kept_where_it_is_asked_for() -> None:
    with durable(qos0_offline=True) as engine:
        wire = lasting(engine)
        wire.subscribe("t", 0)
        away(engine, wire)
        told(engine, b"0", qos=0)
        told(engine, b"1", qos=1)
        engine.commit_all()
        engine = engine.crash()
        assert payloads(lasting(engine).drain()) == [b"0", b"1"]
        engine.commit_all()
        assert engine.store.stat()["messages"] == 0
