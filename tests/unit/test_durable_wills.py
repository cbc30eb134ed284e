"""Time goes on while the broker is down: messages, sessions and delayed wills are as old as if it had been up."""

from __future__ import annotations

import pytest

from tests.inprocess import Engine, Wire
from tests.unit.durable import LASTING, away, durable, lasting, messages, nothing_left, payloads, subscribed, told
from tests.wireclient import encode
from tests.wireclient import properties as p


def with_will(
    engine: Engine, delay: int, expiry: int = 1000, qos: int = 1, retain: bool = False, lifetime: int | None = None
) -> Wire:
    props = [(p.WILL_DELAY, delay)] if delay else []
    if lifetime is not None:
        props.append((p.MESSAGE_EXPIRY, lifetime))
    wire = engine.wire()
    will = encode.Will("t", b"will", qos, retain, props)
    wire.connect("dying", clean=False, props=[(p.SESSION_EXPIRY, expiry)], will=will)
    engine.commit_all()
    return wire


def heard(engine: Engine) -> list[bytes]:
    return payloads(lasting(engine).drain())


@pytest.mark.parametrize(("away_s", "kept"), [(5, [b"brief", b"long"]), (15, [b"long"]), (150, [])])
def test_messages_expire_while_the_broker_is_down(away_s: float, kept: list[bytes]) -> None:
    with durable() as engine:
        away(engine, subscribed(engine))
        told(engine, b"brief", expiry=10)
        told(engine, b"long", expiry=100)
        engine.commit_all()
        engine = engine.crash(away_s)
        found = lasting(engine).drain()
        assert payloads(found) == kept
        for message in found:
            left = message.value(p.MESSAGE_EXPIRY)
            assert isinstance(left, int)
            lifetime = 10 if message.payload == b"brief" else 100
            assert lifetime - away_s - 1 <= left <= lifetime - away_s
        assert nothing_left(engine)


def test_what_was_sent_is_repeated_though_it_has_expired() -> None:
    with durable() as engine:
        wire = subscribed(engine)
        told(engine, b"sent", expiry=10, qos=2)
        engine.commit_all()
        (message,) = messages(wire.read())
        engine = engine.crash(100)
        assert [(m.payload, m.packet_id) for m in lasting(engine).drain()] == [(b"sent", message.packet_id)]
        assert nothing_left(engine)


@pytest.mark.parametrize(("away_s", "present"), [(1, True), (98, True), (103, False)])
@pytest.mark.parametrize("left_before", [True, False])
def test_sessions_expire_while_the_broker_is_down(away_s: float, present: bool, left_before: bool) -> None:
    """One that was connected at the crash has lost its connection at the restart."""
    with durable() as engine:
        wire = lasting(engine, expiry=100)
        wire.subscribe("t", 1)
        if left_before:
            away(engine, wire)
        told(engine, b"m")
        engine.commit_all()
        engine = engine.crash(away_s)
        wire = lasting(engine, expiry=100)
        assert wire.connack is not None
        assert wire.connack.session_present is (present or not left_before)
        assert payloads(wire.drain()) == ([b"m"] if wire.connack.session_present else [])
        assert nothing_left(engine)


def test_one_who_does_not_come_back_expires_after_the_restart() -> None:
    with durable() as engine:
        lasting(engine, expiry=100).subscribe("t", 1)
        engine.commit_all()
        for _ in range(2):  # the second crash does not start the time anew
            engine = engine.crash(30)
            engine.commit_all()
            engine.advance(10)
            engine.commit_all()
        assert engine.hub.stats()["sessions"] == 1
        engine.advance(51)
        assert engine.hub.stats()["sessions"] == 0
        engine.commit_all()
        assert engine.store.stat()["sessions"] == engine.store.stat()["subscriptions"] == 0


def test_a_session_that_never_expires_is_there_for_ever() -> None:
    with durable(expiry_max_s=0xFFFF_FFFF) as engine:
        wire = lasting(engine, expiry=0xFFFF_FFFF)
        wire.subscribe("t", 1)
        away(engine, wire)
        for _ in range(3):
            engine = engine.crash(10_000_000)
            engine.advance(10_000_000)
        assert engine.hub.stats()["sessions"] == 1


def test_the_will_of_a_client_that_was_connected_at_the_crash_goes_out_once() -> None:
    with durable() as engine:
        reader = subscribed(engine)
        with_will(engine, 0)
        engine = engine.crash()
        engine.advance(1)
        assert heard(engine) == [b"will"]
        engine = engine.crash()  # what was heard was committed with it
        engine.advance(1)
        assert heard(engine) == []
        assert nothing_left(engine)
        assert reader.ended or reader.read() == []


@pytest.mark.parametrize("dies_before", [True, False])
def test_a_delayed_will_counts_across_restarts_and_goes_out_once(dies_before: bool) -> None:
    with durable() as engine:
        subscribed(engine)
        wire = with_will(engine, 60)
        if dies_before:
            wire.close()
            engine.settle()
            engine.commit_all()
            engine.advance(20)
            engine = engine.crash(20)
        else:
            engine = engine.crash(500)  # it was alive until the broker died
            engine.advance(40)
        assert heard(engine) == []
        engine.commit_all()
        engine.advance(22)
        engine.commit_all()
        for _ in range(2):
            engine = engine.crash(100)
            engine.advance(1)
            found = heard(engine)
            assert found == ([b"will"] if _ == 0 else [])
            engine.commit_all()


def test_a_will_that_fell_due_while_the_broker_was_down_goes_out_at_the_start() -> None:
    with durable() as engine:
        subscribed(engine)
        wire = with_will(engine, 60)
        away(engine, wire)
        engine = engine.crash(100)
        engine.advance(1)
        assert heard(engine) == [b"will"]


def test_a_session_that_expired_while_the_broker_was_down_takes_its_will_along() -> None:
    """The delay is longer, but the session ends: the will goes out with it [MQTT-3.1.3-9]."""
    with durable() as engine:
        subscribed(engine)
        away(engine, with_will(engine, 600, expiry=50))
        engine = engine.crash(100)
        engine.advance(1)
        assert engine.hub.stats()["sessions"] == 1
        assert heard(engine) == [b"will"]
        assert nothing_left(engine)


@pytest.mark.parametrize("how", ["back", "disconnect", "taken with another"])
def test_a_will_that_is_off_stays_off(how: str) -> None:
    with durable() as engine:
        subscribed(engine)
        wire = with_will(engine, 60)
        if how == "disconnect":
            wire.send(encode.disconnect(5))
            engine.settle()
        else:
            away(engine, wire)
            wire = engine.wire()
            will = encode.Will("t", b"other", 1, False) if how == "taken with another" else None
            wire.connect("dying", clean=False, props=LASTING, will=will)
        engine.commit_all()
        engine = engine.crash(100)
        engine.advance(100)
        assert heard(engine) == ([b"other"] if how == "taken with another" else [])
        assert nothing_left(engine)


def test_a_will_keeps_all_that_it_says() -> None:
    with durable() as engine:
        subscribed(engine, options=2 | 8)
        with_will(engine, 0, qos=2, retain=True, lifetime=77)
        engine = engine.crash(1000)
        engine.advance(1)
        (message,) = lasting(engine).drain()
        assert (message.payload, message.qos, message.retain) == (b"will", 2, True)
        assert message.value(p.MESSAGE_EXPIRY) in (76, 77)  # it begins when the will is published
        assert engine.hub.stats()["retained"] == 1
        engine = engine.crash(100)
        assert engine.hub.stats()["retained"] == 0


def test_the_will_of_a_topic_that_is_not_kept_dies_with_the_broker() -> None:
    with durable(rules=[("t", "none")]) as engine:
        subscribed(engine)
        with_will(engine, 0)
        engine = engine.crash()
        engine.advance(1)
        assert heard(engine) == []
