"""While the store takes nothing: what it would have to keep is refused or waits, all else goes on."""

from __future__ import annotations

import pytest

from tests.inprocess import Engine
from tests.unit.durable import LASTING, durable, kinds, lasting, messages, nothing_left, payloads, subscribed, told
from tests.wireclient import encode
from tests.wireclient.decode import Ack, Connack, Suback

FULL, FAILED = 0x97, 0x83


def in_trouble(engine: Engine, reason: int) -> None:
    """A batch is on its way and cannot be committed."""
    engine.hub.hurry()
    engine.settle()
    if engine.batch is None:
        engine.client("trouble").publish("r", b"m", qos=1, retain=True, packet_id=1)
    assert engine.batch is not None
    engine.hub.failed(reason)
    engine.settle()
    assert engine.hub.trouble == reason


@pytest.mark.parametrize("reason", [FULL, FAILED])
@pytest.mark.parametrize(("qos", "kind"), [(1, "PUBACK"), (2, "PUBREC")])
def test_mqtt_5_publishers_are_refused_with_the_reason(reason: int, qos: int, kind: str) -> None:
    with durable() as engine:
        subscribed(engine)
        publisher = engine.client("p")
        in_trouble(engine, reason)
        assert publisher.publish("t", b"m", qos=qos, packet_id=1) == [Ack([], kind, 1, reason)]
        assert publisher.publish("nobody", b"m", qos=qos, packet_id=2, retain=True) == [Ack([], kind, 2, reason)]
        assert publisher.publish("t", b"m", retain=True) == []
        engine.commit()
        assert engine.hub.trouble == 0
        publisher.publish("t", b"good", qos=qos, packet_id=1)
        engine.commit_all()
        assert publisher.read() == [Ack([], kind, 1, 0)]


@pytest.mark.parametrize("qos", [1, 2])
def test_mqtt_3_publishers_wait(qos: int) -> None:
    with durable() as engine:
        reader = subscribed(engine)
        publisher = engine.client("p", 4)
        in_trouble(engine, FULL)
        assert publisher.publish("t", b"m", qos=qos, packet_id=1) == []
        for _ in range(20):
            engine.advance(0.3)
        assert publisher.exchange(encode.PINGREQ) == []  # not read: it comes after
        engine.commit()
        engine.catch_up()
        engine.advance(0.3)
        engine.catch_up()
        assert kinds(publisher.read()) == ["PUBACK" if qos == 1 else "PUBREC", "PINGRESP"]
        assert payloads(reader.drain()) == [b"m"]


@pytest.mark.parametrize("version", [4, 5])
def test_traffic_that_is_not_kept_goes_on(version: int) -> None:
    with durable(rules=[("volatile/#", "none")]) as engine:
        kept = subscribed(engine, "s", "volatile/#")
        passing = engine.client("q", version)
        passing.subscribe("x", 2)
        publisher = engine.client("p", version)
        in_trouble(engine, FAILED)
        for qos, kind in ((0, []), (1, ["PUBACK"]), (2, ["PUBREC"])):
            for topic in ("volatile/t", "x"):
                assert kinds(publisher.publish(topic, b"m", qos=qos, packet_id=1 if qos else None)) == kind
                if qos == 2:
                    assert kinds(publisher.exchange(encode.ack(version, encode.PUBREL, 1))) == ["PUBCOMP"]
        assert kinds(passing.read()) == kinds(kept.read()) == ["PUBLISH"] * 3
        assert kinds(passing.subscribe("y", 1)) == ["SUBACK"]


@pytest.mark.parametrize("reason", [FULL, FAILED])
def test_subscribers_are_refused_with_the_reason(reason: int) -> None:
    with durable() as engine:
        wire, old = subscribed(engine), lasting(engine, "old", 4)
        in_trouble(engine, reason)
        assert wire.exchange(encode.subscribe(5, 1, [("x", 1), ("$share/g/x", 1)])) == [Suback([], 1, [reason] * 2)]
        assert old.exchange(encode.subscribe(4, 1, [("x", 1)])) == [Suback([], 1, [0x80])]
        assert engine.client_of(b"s")["subscriptions"] == 1
        assert wire.exchange(encode.unsubscribe(5, 2, ["t"])) == []
        engine.commit_all()
        assert kinds(wire.read()) == ["UNSUBACK"]


@pytest.mark.parametrize("reason", [FULL, FAILED])
def test_new_sessions_that_are_to_last_are_refused_and_others_are_not(reason: int) -> None:
    with durable() as engine:
        subscribed(engine)
        in_trouble(engine, reason)
        wire = engine.wire()
        wire.send(encode.connect(5, client_id="new", clean=False, props=LASTING))
        engine.settle()
        (connack,) = wire.read()
        assert isinstance(connack, Connack)
        assert (connack.code, connack.session_present) == (reason, False)
        assert engine.client("passing").connack == Connack(engine.client("other").connack.props, False, 0)  # type: ignore[union-attr]
        assert engine.client("s", clean=False, props=LASTING).connack is not None


def test_who_has_a_session_may_come_but_cannot_end_it_for_sure() -> None:
    with durable() as engine:
        wires = [subscribed(engine, name) for name in ("stays", "ends")]
        in_trouble(engine, FULL)
        for wire in wires:
            wire.close()
        engine.settle()
        stays, ends = engine.wire(), engine.wire()
        stays.send(encode.connect(5, client_id="stays", clean=False, props=LASTING))
        ends.send(encode.connect(5, client_id="ends"))
        engine.settle()
        assert kinds(stays.read()) == ["CONNACK"]
        assert ends.read() == []
        assert engine.client("passing").connack is not None
        engine.commit_all()
        assert kinds(ends.read()) == ["CONNACK"]


def test_a_repeated_message_is_not_acknowledged_before_the_first_is_stored() -> None:
    """Who comes back hears at once that its session is there, but not that its message is."""
    with durable() as engine:
        reader, writer = subscribed(engine), lasting(engine, "writer")
        packet = encode.publish(5, "t", b"m", qos=2, packet_id=1)
        writer.send(packet)
        in_trouble(engine, FULL)
        writer.close()
        engine.settle()
        writer = lasting(engine, "writer")
        assert writer.connack is not None
        assert writer.exchange(packet) == []
        engine.commit_all()
        assert kinds(writer.read()) == ["PUBREC"]
        assert payloads(reader.drain()) == [b"m"]


def test_what_waited_before_the_trouble_leaves_after_it() -> None:
    with durable() as engine:
        reader = subscribed(engine)
        first, second = engine.client("p"), engine.client("q")
        first.publish("t", b"1", qos=1, packet_id=1)
        second.publish("t", b"2", qos=2, packet_id=2)
        for reason in (FULL, FULL, FAILED):
            engine.hub.failed(reason)
            engine.settle()
            assert first.read() == second.read() == []
        engine.commit()
        assert kinds(first.read()) == ["PUBACK"]
        engine.commit()
        assert kinds(second.read()) == ["PUBREC"]
        assert payloads(reader.drain()) == [b"1", b"2"]
        assert nothing_left(engine)


def test_readers_get_and_acknowledge_during_the_trouble() -> None:
    with durable() as engine:
        wire = subscribed(engine, options=1, window=2)
        for i in range(6):
            told(engine, b"%d" % i)
        in_trouble(engine, FULL)
        found: list[bytes] = []
        for _ in range(6):
            for message in messages(wire.read()):
                found.append(message.payload)
                wire.send(encode.ack(5, encode.PUBACK, message.packet_id))
            engine.settle()
        assert found == [b"%d" % i for i in range(6)]
        assert nothing_left(engine)


def test_a_crash_in_trouble_takes_back_only_what_was_not_promised() -> None:
    with durable() as engine:
        subscribed(engine)
        publisher = engine.client("p")
        publisher.publish("t", b"kept", qos=1, packet_id=1)
        engine.commit_all()
        assert kinds(publisher.read()) == ["PUBACK"]
        publisher.publish("t", b"lost", qos=1, packet_id=2)
        in_trouble(engine, FULL)
        publisher.publish("t", b"refused", qos=1, packet_id=3)
        assert publisher.read() == []
        engine = engine.crash()
        assert payloads(lasting(engine).drain()) == [b"kept"]


@pytest.mark.parametrize("version", [4, 5])
def test_a_backlog_makes_publishers_wait_and_loses_nothing(version: int) -> None:
    with durable(backlog_max=20_000) as engine:
        reader = subscribed(engine, options=1)
        publisher = engine.client("p", version)
        publisher.publish("t", b"first", qos=1, packet_id=1)
        assert engine.batch is not None
        for i in range(2, 101):
            publisher.send(encode.publish(version, "t", b"%d" % i + bytes(1000), qos=1, packet_id=i))
        engine.settle()
        for _ in range(10):
            engine.advance(0.3)
        waiting = len(messages(reader.read()))
        assert 15 < waiting < 30
        acknowledged, found = 0, waiting
        for _ in range(200):
            engine.commit()
            acknowledged += len(publisher.read())
            found += len(messages(reader.read()))
        assert (acknowledged, found) == (100, 100)


def test_a_backlog_that_is_never_taken_does_not_spin() -> None:
    """Publishers look again now and then, not in every turn."""
    with durable(backlog_max=100) as engine:
        subscribed(engine)
        wires = [engine.client(f"p{i}", 4 + i % 2) for i in range(10)]
        for wire in wires:
            for i in range(1, 20):
                wire.send(encode.publish(wire.version, "t", bytes(100), qos=1, packet_id=i))
        engine.settle()
        for _ in range(20):
            before = engine.hub.stats()["packets_received"]
            engine.advance(0.3)  # settles, or fails
            assert engine.hub.stats()["packets_received"] - before <= 20
        engine.catch_up()
        for _ in wires:
            engine.advance(0.3)
            engine.catch_up()
        assert all(len(wire.read_on()) == 19 for wire in wires)


def test_a_reader_whose_output_waits_for_the_store_is_not_a_slow_reader() -> None:
    with durable(output_max=65_536, queue_max=100, slow_after_ms=10_000) as engine:
        reader = subscribed(engine)
        publisher = engine.client("p")
        for i in range(1, 61):
            publisher.send(encode.publish(5, "t", bytes(2000), qos=2, packet_id=i))
        engine.settle()
        for _ in range(10):
            engine.advance(3)
        before = engine.hub.stats()["publish_received"]
        assert before < 40  # it waits for the reader, which waits for us
        found = len(reader.drain())
        assert found == 60
        assert engine.hub.stats()["publish_dropped"] == 0


# -- who may store nothing any more: another process goes on with the store, or a record is missing -------------------


@pytest.mark.parametrize("when", ["idle", "a batch is on its way"])
@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize(("qos", "kind"), [(1, "PUBACK"), (2, "PUBREC")])
def test_a_broken_journal_acknowledges_nothing_that_lasts(when: str, version: int, qos: int, kind: str) -> None:
    with durable() as engine:
        subscribed(engine)
        publisher, other = engine.client("p", version), engine.client("o", version)
        if when != "idle":
            assert other.publish("t", b"before", qos=qos, packet_id=1) == []
            assert engine.batch is not None
        engine.hub.broke()
        engine.settle()
        for packet_id in range(1, 5):
            assert publisher.publish("t", b"m", qos=qos, packet_id=packet_id) == []
            engine.advance(1)
        if when != "idle":  # it was committed after all, and may be promised
            engine.commit()
            assert kinds(other.read()) in ([], [kind])
        assert publisher.read() == []
        assert engine.hub.is_settled, "nobody is to wait for a commit"


def test_a_broken_journal_confirms_no_session_and_no_subscription() -> None:
    with durable() as engine:
        there = subscribed(engine)
        engine.hub.broke()
        engine.settle()
        assert there.exchange(encode.subscribe(5, 7, [("new", 1)])) == []
        late = engine.wire(5)
        late.send(encode.connect(5, client_id="late", clean=False, props=LASTING))
        engine.settle()
        assert late.read() == []
