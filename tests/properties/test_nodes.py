"""Nodes of a cluster: messages, retained messages and shared groups across them, whatever their number of workers."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from tests.inprocess import Wire
from tests.properties.nodes import Nodes
from tests.wireclient import encode
from tests.wireclient import properties as p
from tests.wireclient.decode import Ack

SIZES = pytest.mark.parametrize("sizes", [(1, 1), (1, 1, 1), (2, 1), (2, 3)], ids=str)
KEPT = pytest.mark.parametrize("kept", [False, True], ids=["memory", "store"])
QOS = pytest.mark.parametrize("qos", [0, 1, 2])
GROUP = "$share/g/t/+"
LASTS = [(p.SESSION_EXPIRY, 1000)]


def subscribe(nodes: Nodes, at: Any, name: str, *filters: str, qos: int = 2, **connect: Any) -> Wire:
    wire = nodes[at].client(name, **connect)
    wire.send(encode.subscribe(5, 1, [(each, qos) for each in filters]))
    nodes.settle()
    wire.read()
    return wire


def publish(
    nodes: Nodes, wire: Wire, topic: str, payload: bytes, qos: int = 1, retain: bool = False, pid: int = 1
) -> None:
    wire.send(encode.publish(5, topic, payload, qos=qos, retain=retain, packet_id=pid if qos else None))
    nodes.settle()


def payloads(wire: Wire) -> list[bytes]:
    return [each.payload for each in wire.drain()]


@SIZES
@KEPT
@QOS
def test_each_subscriber_gets_each_message_once_and_in_order(sizes: tuple[int, ...], kept: bool, qos: int) -> None:
    with Nodes(sizes, kept=kept) as nodes:
        wires = [
            subscribe(nodes, at, f"s{at}{topic_filter}", topic_filter)
            for at in nodes.places()
            for topic_filter in ("t/#", "t/1")
        ]
        publishers = [nodes[at].client(f"p{at}") for at in nodes.places()]
        for number in range(30):
            for at, publisher in enumerate(publishers):
                publish(nodes, publisher, "t/1", b"%d/%d" % (at, number), qos, pid=number + 1)
        for wire in wires:
            got = payloads(wire)
            for at in range(len(publishers)):
                mine = [each for each in got if each.startswith(b"%d/" % at)]
                assert mine == [b"%d/%d" % (at, number) for number in range(30)]


@SIZES
@QOS
def test_members_of_all_nodes_are_one_group(sizes: tuple[int, ...], qos: int) -> None:
    with Nodes(sizes, even=True) as nodes:
        members = [subscribe(nodes, at, f"m{at}", GROUP) for at in nodes.places()]
        publishers = [nodes[at].client(f"p{at}") for at in nodes.places()]
        found: Counter[bytes] = Counter()
        parts = [0] * len(members)
        for number in range(60):
            for at, publisher in enumerate(publishers):
                publish(nodes, publisher, "t/1", b"%d/%d" % (at, number), qos, pid=number + 1)
            for at, member in enumerate(members):
                got = payloads(member)
                found.update(got)
                parts[at] += len(got)
            nodes.settle()
        assert found == Counter(b"%d/%d" % (at, number) for at in range(len(publishers)) for number in range(60))
        assert min(parts) >= 60 * len(publishers) // len(members) // 3, parts


@SIZES
def test_a_member_at_the_same_node_is_preferred(sizes: tuple[int, ...]) -> None:
    with Nodes(sizes) as nodes:
        here, there = (subscribe(nodes, node, f"m{node}", GROUP) for node in (0, 1))
        publisher = nodes[0].client("p")
        for number in range(40):
            publish(nodes, publisher, "t/1", b"%d" % number, pid=number + 1)
            assert payloads(here) == [b"%d" % number]
            nodes.settle()
        assert payloads(there) == []
        here.send(encode.disconnect(5))
        nodes.settle()
        publish(nodes, publisher, "t/1", b"last", pid=50)
        assert payloads(there) == [b"last"]


@KEPT
def test_a_group_queues_where_it_was_published_until_a_member_comes(kept: bool) -> None:
    with Nodes((1, 2), kept=kept) as nodes:
        member = subscribe(nodes, 1, "m", GROUP, props=LASTS)
        publisher = nodes[0].client("p")
        member.close()
        nodes.settle()
        for number in range(10):
            publish(nodes, publisher, "t/1", b"%d" % number, pid=number + 1)
        member = nodes[1].client("m", clean=False, props=LASTS)
        nodes.settle()
        assert sorted(payloads(member)) == [b"%d" % number for number in range(10)]


def test_a_group_ends_everywhere_with_its_last_member() -> None:
    with Nodes((2, 1, 1)) as nodes:
        before = [nodes[at].hub.stats()["memory_bytes"] for at in nodes.places()]
        members = [subscribe(nodes, at, f"m{at}", GROUP) for at in nodes.places()]
        for member in members:
            member.send(encode.disconnect(5))
            nodes.settle()
            member.close()
        nodes.settle()
        assert [nodes[at].hub.stats()["subscriptions"] for at in nodes.places()] == [0] * 4
        after = [nodes[at].hub.stats()["memory_bytes"] for at in nodes.places()]
        assert all(a - b < 20_000 for a, b in zip(after, before, strict=True)), (before, after)


# -- retained ----------------------------------------------------------------------------------------------------------


def retained(nodes: Nodes, at: Any, name: str) -> dict[str, bytes]:
    wire = subscribe_only(nodes, at, name)
    found = {each.topic: each.payload for each in wire.drain()}
    wire.send(encode.disconnect(5))
    nodes.settle()
    return found


def subscribe_only(nodes: Nodes, at: Any, name: str) -> Wire:
    wire = nodes[at].client(name)
    wire.send(encode.subscribe(5, 1, [("#", 2)]))
    nodes.settle()
    return wire


@SIZES
@QOS
def test_what_is_retained_is_so_everywhere(sizes: tuple[int, ...], qos: int) -> None:
    with Nodes(sizes) as nodes:
        publishers = [nodes[at].client(f"p{at}") for at in nodes.places()]
        for number in range(20):
            for at, publisher in enumerate(publishers):
                publish(nodes, publisher, f"t/{number % 7}", b"%d/%d" % (at, number), qos, True, number + 1)
        publish(nodes, publishers[-1], "t/0", b"", qos, True, 99)
        wanted = {f"t/{topic}": b"%d/%d" % (len(publishers) - 1, last) for topic, last in
                  ((n % 7, n) for n in range(20)) if topic}  # fmt: skip
        for place in nodes.places():
            assert retained(nodes, place, f"r{place}") == wanted


@SIZES
def test_after_a_parting_the_later_change_wins(sizes: tuple[int, ...]) -> None:
    rng = random.Random(7)
    with Nodes(sizes) as nodes:
        now = 1_700_000_000_000
        publishers = [nodes[at].client(f"p{at}") for at in nodes.places()]
        places = list(nodes.places())
        wanted: dict[str, bytes] = {}
        for turn in range(6):
            node = rng.randrange(len(sizes))
            if turn:
                nodes.part(node)
            for number in range(12):
                now += 1000
                for each in range(len(sizes)):
                    nodes.clock(each, now)
                at = rng.randrange(len(places))
                topic, payload = f"t/{rng.randrange(6)}", b"" if rng.random() < 0.3 else b"%d/%d" % (turn, number)
                publish(nodes, publishers[at], topic, payload, 1, True, number + 1)
                wanted.pop(topic, None)
                if payload:
                    wanted[topic] = payload
            if turn:
                nodes.meet(node)
            for at_place in places:
                assert retained(nodes, at_place, f"r{at_place}") == wanted


# -- nodes that go -----------------------------------------------------------------------------------------------------


def test_nobody_waits_for_a_node_that_was_given_up() -> None:
    with Nodes((1, 1)) as nodes:
        subscribe(nodes, 1, "s", "t/#")
        index = nodes._index[(0, 0), (1, 0)]
        publisher = nodes[0].client("p")
        del nodes.engines[(1, 0)]  # it stands still
        publisher.send(encode.publish(5, "t/1", b"x", qos=1, packet_id=1))
        nodes.settle()
        assert publisher.read() == []
        nodes[0].hub.remotes.remove(index)
        nodes.settle()
        assert [each.packet_id for each in publisher.read() if isinstance(each, Ack)] == [1]
        assert nodes[0].hub.stats()["subscriptions"] == 0


@pytest.mark.parametrize("sizes", [(1, 1), (2, 2)], ids=str)
def test_a_node_that_is_back_hears_everything_again(sizes: tuple[int, ...]) -> None:
    with Nodes(sizes) as nodes:
        wires = [subscribe(nodes, at, f"s{at}", "t/#") for at in nodes.places()]
        publisher = nodes[0].client("p")
        for number in range(5):
            nodes.part(1)
            publish(nodes, publisher, "t/1", b"apart", pid=2 * number + 1)
            nodes.meet(1)
            publish(nodes, publisher, "t/1", b"together", pid=2 * number + 2)
            for at, wire in zip(nodes.places(), wires, strict=True):
                assert payloads(wire) == ([b"apart", b"together"] if at[0] == 0 else [b"together"])
                nodes.settle()


@pytest.mark.parametrize("sizes", [(1, 1), (2, 2)], ids=str)
def test_what_a_node_has_not_taken_comes_to_its_next_process_in_its_order(sizes: tuple[int, ...]) -> None:
    with Nodes(sizes, kept=True) as nodes:
        for at in nodes.places(1):
            subscribe(nodes, at, f"s{at}", "t/#", props=LASTS).close()
        publisher = nodes[0].client("p")
        for number in range(10):
            publish(nodes, publisher, f"r/{number}", b"kept", 1, True, 100 + number)
        for turn in range(3):
            nodes.kill(1)
            for number in range(5):
                publish(nodes, publisher, "t/1", b"%d/%d" % (turn, number), 1, number == 3, 10 * turn + number + 1)
            nodes.start(1)
        wanted = [b"%d/%d" % (turn, number) for turn in range(3) for number in range(5)]
        for at in nodes.places(1):
            wire = nodes[at].client(f"s{at}", clean=False, props=LASTS)
            nodes.settle()
            got = payloads(wire)
            assert list(dict.fromkeys(got)) == wanted
            found = retained(nodes, at, f"r{at}")
            assert found == {f"r/{number}": b"kept" for number in range(10)} | {"t/1": b"2/3"}


def test_what_nodes_say_of_themselves_stays_with_them() -> None:
    with Nodes((1, 1)) as nodes:
        wires = [subscribe(nodes, node, "s", "$SYS/#") for node in (0, 1)]
        for node in (0, 1):
            nodes[node].hub.publish(encode.publish(5, "$SYS/broker/x", b"%d" % node, qos=1, retain=True, packet_id=1))
            nodes.settle()
        assert [payloads(wire) for wire in wires] == [[b"0"], [b"1"]]
        for node in (0, 1):
            assert payloads(subscribe_kept(nodes, node)) == [b"%d" % node]


def subscribe_kept(nodes: Nodes, node: int) -> Wire:
    wire = nodes[node].client("late")
    wire.send(encode.subscribe(5, 1, [("$SYS/#", 0)]))
    nodes.settle()
    return wire
