"""Retained messages are there after a crash as they were committed, and so is what was to be sent of them."""

from __future__ import annotations

import pytest

from fastmq.store import records as r
from tests.inprocess import Engine
from tests.unit.durable import away, durable, lasting, messages, nothing_left, payloads, subscribed, told
from tests.wireclient import encode
from tests.wireclient import properties as p
from tests.wireclient.properties import PropertyValue


def retained(engine: Engine, text: str = "#") -> dict[str, bytes]:
    """What a new subscription gets."""
    wire = engine.client("looking", 5, clean=True)
    wire.send(encode.subscribe(5, 1, [(text, 1)]))
    found = {message.topic: message.payload for message in wire.drain() if message.retain}
    wire.close()
    engine.settle()
    return found


def test_what_is_retained_is_there_after_a_crash() -> None:
    with durable() as engine:
        for topic in ("set", "replaced", "cleared", "brief", "long", "set again"):
            expiry = {"brief": 10, "long": 100}.get(topic)
            told(engine, b"1", topic=topic, retain=True, expiry=expiry)
            if topic != "set again":
                engine.commit_all()
        told(engine, b"2", topic="replaced", retain=True, qos=0)
        told(engine, b"", topic="cleared", retain=True)
        told(engine, b"", topic="set again", retain=True)
        told(engine, b"3", topic="set again", retain=True)
        engine.commit_all()
        told(engine, b"late", topic="late", retain=True)
        told(engine, b"", topic="set", retain=True)
        engine.settle()
        engine = engine.crash(50)
        expected = {"set": b"1", "replaced": b"2", "long": b"1", "set again": b"3"}
        assert retained(engine) == expected
        assert engine.store.stat()["messages"] == len(expected)
        engine.advance(60)
        del expected["long"]
        assert retained(engine) == expected
        engine.commit_all()
        assert engine.store.stat()["retained"] == len(expected)
        engine = engine.crash()
        for topic in expected:
            told(engine, b"", topic=topic, retain=True)
        assert nothing_left(engine)


def test_a_retained_message_may_also_be_queued_and_in_flight() -> None:
    with durable() as engine:
        away(engine, subscribed(engine, "away"))
        subscribed(engine, "here")
        told(engine, b"m", retain=True)
        engine.commit_all()
        assert engine.store.stat()["messages"] == 1
        engine = engine.crash()
        told(engine, b"", retain=True)  # cleared: the others still get it, and the empty one
        assert payloads(lasting(engine, "away").drain()) == [b"m", b""]
        assert payloads(lasting(engine, "here").drain()) == [b"m", b""]
        assert nothing_left(engine)


@pytest.mark.parametrize(("topic", "kept"), [("volatile", {}), ("$SYS/x", {}), ("t", {"t": b"m"})])
def test_only_topics_that_are_kept_are(topic: str, kept: dict[str, bytes]) -> None:
    with durable(rules=[("volatile", "none")]) as engine:
        told(engine, b"m", topic=topic, retain=True)
        engine.commit_all()
        with engine.crash() as again:
            assert retained(again) == kept


def many_retained(engine: Engine) -> set[str]:
    topics = {f"r/{i}" for i in range(20)}
    for topic in topics:
        told(engine, topic.encode(), topic=topic, retain=True)
    engine.commit_all()
    return topics


def test_retained_messages_that_a_new_subscription_did_not_get_come_after_a_crash() -> None:
    with durable() as engine:
        topics = many_retained(engine)
        wire = lasting(engine, window=3)
        wire.subscribe("r/#", 1)
        engine.commit_all()
        assert len(messages(wire.read())) == 3
        for _ in range(2):
            engine = engine.crash()
            found = lasting(engine, window=3).drain() if _ else messages(lasting(engine, window=3).read_on())
            assert [message.retain for message in found] == [True] * len(found)
        assert {message.topic for message in found} == topics
        engine.commit_all()
        engine = engine.crash()
        assert lasting(engine).drain() == []  # they were all sent


def test_a_subscription_whose_retained_messages_were_sent_does_not_get_them_again() -> None:
    with durable() as engine:
        topics = many_retained(engine)
        wire = lasting(engine)
        wire.subscribe("r/#", 1)
        assert {message.topic for message in wire.drain()} == topics
        engine.commit_all()
        engine = engine.crash()
        assert lasting(engine).drain() == []


@pytest.mark.parametrize("again", [0, 0x10, 0x20])
def test_to_subscribe_again_does_not_lose_what_is_still_to_be_sent(again: int) -> None:
    """However Retain Handling is set: what the first subscription is owed comes, before or after a crash."""
    with durable() as engine:
        topics = many_retained(engine)
        wire = lasting(engine, window=3)
        wire.subscribe("r/#", 1)
        engine.commit_all()
        wire.exchange(encode.subscribe(5, 2, [("r/#", 1 | again)]))
        records = engine.commit_all()
        assert any(isinstance(record, r.Subscribed) and record.options & 0x80 for record in records)
        engine = engine.crash()
        assert {message.topic for message in lasting(engine).drain()} == topics


def test_two_jobs_for_one_filter_are_over_with_the_second() -> None:
    with durable() as engine:
        topics = many_retained(engine)
        wire = lasting(engine, window=3)
        wire.subscribe("r/#", 1)
        wire.exchange(encode.subscribe(5, 2, [("r/#", 1)]))
        engine.commit_all()
        got = 0
        while got < 21:  # the first is done, the second has begun
            for message in messages(wire.read_on()):
                wire.send(encode.ack(5, encode.PUBACK, message.packet_id))
                got += 1
        engine.commit_all()
        engine = engine.crash()
        assert {message.topic for message in lasting(engine).drain()} == topics
        engine.commit_all()
        engine = engine.crash()
        assert lasting(engine).drain() == []


def test_a_filter_that_is_no_longer_subscribed_is_owed_nothing() -> None:
    with durable() as engine:
        many_retained(engine)
        wire = lasting(engine, window=3)
        wire.subscribe("r/#", 1)
        wire.exchange(encode.unsubscribe(5, 2, ["r/#"]))
        for message in messages(wire.read_on()):
            wire.send(encode.ack(5, encode.PUBACK, message.packet_id))
        engine.commit_all()
        engine = engine.crash()
        assert lasting(engine).drain() == []


def test_what_a_retained_message_says_survives() -> None:
    with durable() as engine:
        props: list[tuple[int, PropertyValue]] = [
            (p.CONTENT_TYPE, "text/plain"),
            (p.USER_PROPERTY, ("a", "b")),
            (p.RESPONSE_TOPIC, "r"),
        ]
        engine.hub.publish(encode.publish(5, "t", bytes(5000), qos=2, retain=True, packet_id=1, props=props))
        engine.commit_all()
        engine = engine.crash()
        wire = engine.client("new")
        wire.send(encode.subscribe(5, 1, [("t", 2)]))
        (message,) = wire.drain()
        assert (message.qos, message.retain, message.payload) == (2, True, bytes(5000))
        assert sorted(message.props, key=str) == sorted(props, key=str)
