"""Messages between workers: real engines, joined as workers of a host are; every turn of each is the test's."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.inprocess import Wire
from tests.properties.workers import Workers
from tests.wireclient import encode
from tests.wireclient import properties as p
from tests.wireclient.decode import Ack, Publish, Suback

QOS = pytest.mark.parametrize("qos", [0, 1, 2])
KEPT = pytest.mark.parametrize("kept", [False, True], ids=["memory", "store"])


def payloads(wire: Wire) -> list[bytes]:
    return [each.payload for each in wire.drain()]


def acks(wire: Wire) -> list[Ack]:
    return [each for each in wire.read() if isinstance(each, Ack)]


def subscribed(workers: Workers, wire: Wire, topic_filter: str, options: int = 2) -> Wire:
    wire.send(encode.subscribe(wire.version, 1, [(topic_filter, options)]))
    workers.settle()
    assert any(isinstance(each, Suback) for each in wire.read())
    return wire


def send(
    workers: Workers, wire: Wire, topic: str, payload: bytes, qos: int = 0, packet_id: int = 1, **how: Any
) -> None:
    wire.send(encode.publish(wire.version, topic, payload, qos=qos, packet_id=packet_id if qos else None, **how))
    workers.settle()


def retained(workers: Workers, index: int) -> dict[str, bytes]:
    """What a client of this worker finds below r."""
    late = workers[index].client("late")
    late.send(encode.subscribe(5, 1, [("r/#", 0)]))
    workers.catch_up()
    return {each.topic: each.payload for each in late.read() if isinstance(each, Publish)}


@QOS
@KEPT
@pytest.mark.parametrize("topic_filter", ["t/1", "t/+", "#"])
def test_a_message_crosses_once_however_many_want_it(qos: int, kept: bool, topic_filter: str) -> None:
    with Workers(3, kept=kept) as workers:
        wires = [
            subscribed(workers, workers[at].client(f"s{at}{n}"), topic_filter) for at in range(3) for n in range(2)
        ]
        publisher = workers[0].client("p")
        send(workers, publisher, "t/1", b"x", qos)
        if qos:
            assert [each.code for each in acks(publisher)] == [0]
        workers.catch_up()
        for wire in wires:
            assert [(each.topic, each.payload, each.qos) for each in wire.drain()] == [("t/1", b"x", qos)]
        assert all(n == 0 for each in workers.engines for _, _, _, n, _ in each.hub.remotes.state())


def test_who_has_no_subscribers_anywhere_is_told() -> None:
    with Workers(2) as workers:
        publisher = workers[0].client("p")
        send(workers, publisher, "t", b"", 1)
        assert [each.code for each in acks(publisher)] == [0x10]
        subscribed(workers, workers[1].client("s"), "t")
        send(workers, publisher, "t", b"", 1)
        assert [each.code for each in acks(publisher)] == [0]


@QOS
@pytest.mark.parametrize("size", [0, 100, 5000, 200_000])
def test_messages_arrive_as_they_were_published(qos: int, size: int) -> None:
    props: list[tuple[int, Any]] = [
        (p.MESSAGE_EXPIRY, 100), (p.CONTENT_TYPE, "x"), (p.USER_PROPERTY, ("a", "b")), (p.RESPONSE_TOPIC, "r"),
        (p.CORRELATION_DATA, b"\0"),
    ]  # fmt: skip
    with Workers(2) as workers:
        subscriber = subscribed(workers, workers[1].client("s"), "a/#", 2 | 8)
        publisher = workers[0].client("p")
        publisher.send(encode.publish(
            5, "a/b", b"z" * size, qos=qos, packet_id=1 if qos else None, retain=True, props=props
        ))  # fmt: skip
        workers.settle()
        (found,) = subscriber.drain()
        assert (found.topic, found.payload, found.qos, found.retain) == ("a/b", b"z" * size, qos, True)
        assert sorted(map(str, found.props)) == sorted(map(str, props))


@QOS
def test_the_order_of_a_publisher_stays(qos: int) -> None:
    with Workers(2, kept=True) as workers:
        subscriber = subscribed(workers, workers[1].client("s", props=[(p.RECEIVE_MAXIMUM, 500)]), "t")
        publisher = workers[0].client("p")
        for number in range(200):
            publisher.send(encode.publish(5, "t", b"%d" % number, qos=qos, packet_id=number + 1 if qos else None))
        workers.settle()
        assert payloads(subscriber) == [b"%d" % number for number in range(200)]
        if qos:
            assert [each.packet_id for each in acks(publisher)] == list(range(1, 201))


@pytest.mark.parametrize("qos", [1, 2])
def test_an_acknowledgement_waits_for_the_other_worker_and_keeps_its_place(qos: int) -> None:
    with Workers(3, kept=True) as workers:
        subscriber = subscribed(workers, workers[1].client("s", clean=False), "far")
        subscribed(workers, workers[2].client("s2"), "near")
        publisher = workers[0].client("p")
        workers.catch_up()
        workers.stop(1)
        for number, topic in enumerate(("near", "far", "near", "nowhere"), 1):
            send(workers, publisher, topic, b"%d" % number, qos, number)
        assert [each.packet_id for each in acks(publisher)] == [1]
        send(workers, publisher, "near", b"other", 0)
        publisher.send(b"\xc0\x00")
        workers.settle()
        assert len(publisher.read()) == 1  # the stopped worker stalls nothing else
        workers.go_on(1)
        workers.settle()
        assert [each.packet_id for each in acks(publisher)] == [2, 3, 4]
        assert payloads(subscriber) == [b"2"]


@pytest.mark.parametrize("qos", [1, 2])
def test_nothing_is_acknowledged_before_the_other_worker_has_it_on_its_disk(qos: int) -> None:
    with Workers(2, kept=True) as workers:
        subscribed(workers, workers[1].client("s", clean=False, props=[(p.SESSION_EXPIRY, 1000)]), "t")
        publisher = workers[0].client("p")
        workers.catch_up()
        publisher.send(encode.publish(5, "t", b"x", qos=qos, packet_id=1))
        for _ in range(20):
            workers[0].settle()
            workers[1].settle()
        assert workers[1].batch is not None
        assert acks(publisher) == []
        workers.settle()
        assert [each.packet_id for each in acks(publisher)] == [1]


@pytest.mark.parametrize("qos", [1, 2])
def test_a_worker_that_is_killed_gets_what_was_not_acknowledged(qos: int) -> None:
    with Workers(2, kept=True) as workers:
        subscribed(workers, workers[1].client("s", clean=False, props=[(p.SESSION_EXPIRY, 1000)]), "t")
        publisher = workers[0].client("p")
        workers.catch_up()
        send(workers, publisher, "t", b"1", qos, 1)
        assert [each.packet_id for each in acks(publisher)] == [1]
        workers.stop(1)
        send(workers, publisher, "t", b"2", qos, 2)
        workers.kill(1)
        send(workers, publisher, "t", b"3", qos, 3)
        assert acks(publisher) == []
        workers.start(1)
        workers.settle()
        assert [each.packet_id for each in acks(publisher)] == [2, 3]
        back = workers[1].client("s", clean=False, props=[(p.SESSION_EXPIRY, 1000)])
        workers.settle()
        assert payloads(back) == [b"1", b"2", b"3"]


def test_filters_of_a_killed_worker_are_forgotten_once_it_is_back() -> None:
    with Workers(2, kept=True) as workers:
        subscribed(workers, workers[1].client("gone"), "t")
        publisher = workers[0].client("p")
        workers.kill(1)
        workers.start(1)
        send(workers, publisher, "t", b"", 1)
        assert [each.code for each in acks(publisher)] == [0x10]


def test_a_publish_with_qos_2_that_is_repeated_waits_for_the_copy_of_before() -> None:
    with Workers(2, kept=True) as workers:
        keep = [(p.SESSION_EXPIRY, 1000)]
        subscriber = subscribed(workers, workers[1].client("s"), "t")
        publisher = workers[0].client("p", clean=False, props=keep)
        workers.catch_up()
        workers.stop(1)
        send(workers, publisher, "t", b"x", 2, 7)
        publisher.shut()
        workers.settle()
        publisher = workers[0].client("p", clean=False, props=keep)
        send(workers, publisher, "t", b"x", 2, 7, dup=True)
        assert acks(publisher) == []
        workers.go_on(1)
        workers.settle()
        assert [(each.kind, each.packet_id) for each in acks(publisher)] == [("PUBREC", 7)]
        assert payloads(subscriber) == [b"x"]


def test_a_publisher_that_crashes_with_its_worker_routes_its_qos_2_message_again() -> None:
    with Workers(2, kept=True) as workers:
        keep = [(p.SESSION_EXPIRY, 1000)]
        subscribed(workers, workers[1].client("s", clean=False, props=keep), "t")
        publisher = workers[0].client("p", clean=False, props=keep)
        workers.catch_up()
        workers.stop(1)
        send(workers, publisher, "t", b"x", 2, 7)
        workers.catch_up()
        workers.kill(1)  # what had reached its socket is lost
        workers.kill(0)
        for index in (0, 1):
            workers._stopped.discard(index)
        workers.instances = [each + 1000 for each in workers.instances]
        workers.join(0, 1)
        workers.join(1, 0)
        workers.settle()
        publisher = workers[0].client("p", clean=False, props=keep)
        send(workers, publisher, "t", b"x", 2, 7, dup=True)
        assert [each.packet_id for each in acks(publisher)] == [7]
        back = workers[1].client("s", clean=False, props=keep)
        workers.settle()
        assert payloads(back) == [b"x"]


# -- retained ----------------------------------------------------------------------------------------------------------


@QOS
@KEPT
def test_what_is_retained_is_so_everywhere(qos: int, kept: bool) -> None:
    with Workers(3, kept=kept) as workers:
        for number in range(12):
            publisher = workers[number % 3].client(f"p{number}")
            send(workers, publisher, f"r/{number}", b"old", qos, retain=True)
            send(workers, publisher, f"r/{number}", b"new", qos, 2, retain=True)
            assert len(acks(publisher)) == (2 if qos else 0)
        send(workers, workers[0].client("x"), "r/5", b"", qos, retain=True)
        workers.catch_up()
        for index in range(3):
            assert Counter(retained(workers, index).values()) == {b"new": 11}
            assert workers[index].hub.stats()["retained"] == 11


def test_two_publishers_of_one_retained_topic_leave_the_same_everywhere() -> None:
    with Workers(3) as workers:
        publishers = [workers[index].client(f"p{index}") for index in range(3)]
        for number in range(50):
            for index, publisher in enumerate(publishers):
                publisher.send(encode.publish(5, "r", b"%d-%d" % (index, number), retain=True))
            if number % 3 == 0:
                workers[number % 2].turn()
        workers.settle()
        found = [retained(workers, index) for index in range(3)]
        assert found[0] == found[1] == found[2]
        assert len(found[0]) == 1


@KEPT
def test_a_worker_that_starts_again_knows_what_is_retained(kept: bool) -> None:
    with Workers(3, kept=kept) as workers:
        publisher = workers[0].client("p")
        for number in range(6):
            send(workers, publisher, f"r/{number}", b"old", 1, number + 1, retain=True)
        workers.catch_up()
        workers.kill(1)
        send(workers, publisher, "r/0", b"", 1, 10, retain=True)
        send(workers, publisher, "r/1", b"new", 1, 11, retain=True)
        workers.start(1)
        workers.catch_up()
        assert retained(workers, 1) == ({"r/1": b"new"} | {f"r/{number}": b"old" for number in range(2, 6)})


# -- limits ------------------------------------------------------------------------------------------------------------


def test_what_waits_for_a_stopped_worker_is_bounded_and_who_publishes_hears_it() -> None:
    with Workers(2) as workers:
        subscriber = subscribed(workers, workers[1].client("s"), "t")
        publisher, old = workers[0].client("p"), workers[0].client("old", version=4)
        workers.stop(1)
        for number in range(1, 120):
            publisher.send(encode.publish(5, "t", bytes(1 << 20)[:1_000_000], qos=1, packet_id=number))
            workers.settle()
            workers[0].advance(0.2)
        refused = [each for each in acks(publisher) if each.code == 0x97]
        assert refused == []  # none may overtake what is not acknowledged yet
        ((_, _, _, items, size),) = workers[0].hub.remotes.state()
        assert 60_000_000 < size < 70_000_000
        assert items < 119
        send(workers, old, "t", bytes(1_000_000), 1)
        old.read()
        assert old.ended  # MQTT 3 has no word for it
        workers.go_on(1)
        for _ in range(100):
            workers.settle()
            subscriber.drain()
            for each in workers.engines:
                each.advance(0.2)
        codes = Counter(each.code for each in acks(publisher))
        assert codes[0] == items
        assert codes[0x97] == 119 - items


def test_much_that_is_retained_while_a_worker_stands_still_holds_up_nobody_else() -> None:
    with Workers(3) as workers:
        subscriber = subscribed(workers, workers[1].client("s"), "t")
        publisher = workers[0].client("p")
        workers.stop(2)
        topics = [topic for topic in map("r/{}".format, range(400)) if workers.home(topic) == 1][:80]
        for topic in topics:
            publisher.send(encode.publish(5, topic, bytes(1_000_000), retain=True))
            workers.settle()
        send(workers, publisher, "t", b"x", 1)
        assert [each.code for each in acks(publisher)] == [0]
        assert payloads(subscriber) == [b"x"]
        assert workers[1].hub.stats()["retained"] == len(topics) == 80
        assert workers[1].hub.stats()["dropped_queue_full"] > 0


def test_qos_0_for_a_stopped_worker_is_dropped_and_the_publisher_goes_on() -> None:
    with Workers(2) as workers:
        subscribed(workers, workers[1].client("s"), "t")
        publisher = workers[0].client("p")
        workers.stop(1)
        for _ in range(100):
            send(workers, publisher, "t", bytes(100_000))
            workers[0].advance(1)
        assert workers[0].hub.stats()["dropped_output_full"] > 50
        assert workers[0].memory() < 20_000_000


@pytest.mark.parametrize("qos", [1, 2])
def test_a_worker_that_may_store_nothing_any_more_acknowledges_nothing_that_lasts(qos: int) -> None:
    """As one that stands in for a node, or that node, whose store another process goes on with."""
    with Workers(2, kept=True) as workers:
        lasting = workers[1].client("s", clean=False, props=[(p.SESSION_EXPIRY, 1000)])
        subscribed(workers, lasting, "t")
        workers.catch_up()
        publisher = workers[0].client("p")
        workers[1].hub.broke()
        for packet_id in range(1, 5):
            send(workers, publisher, "t", b"%d" % packet_id, qos, packet_id)
        assert acks(publisher) == []
        assert [n for _, _, _, n, _ in workers[0].hub.remotes.state()] == [4], "they are kept for whoever goes on"
