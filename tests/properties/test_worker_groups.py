"""Shared subscriptions whose members are at several workers: each message to one of them, whatever happens."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.inprocess import Wire
from tests.properties.workers import Workers
from tests.wireclient import encode
from tests.wireclient import properties as p
from tests.wireclient.decode import Ack, Publish

GROUP = "$share/g/t/+"
COUNT = 3
KEEP = [(p.SESSION_EXPIRY, 1000)]


def join(workers: Workers, index: int, name: str, group: str = GROUP, qos: int = 2, **connect: Any) -> Wire:
    wire = workers[index].client(name, **connect)
    wire.send(encode.subscribe(5, 1, [(group, qos)]))
    workers.settle()
    wire.read()
    return wire


def publish(workers: Workers, wire: Wire, count: int, qos: int = 1, start: int = 0) -> None:
    for number in range(start, start + count):
        packet_id = number % 60_000 + 1 if qos else None
        wire.send(encode.publish(5, "t/1", b"%d" % number, qos=qos, packet_id=packet_id))
        workers.settle()


def payloads(wire: Wire) -> list[bytes]:
    return [each.payload for each in wire.drain()]


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_each_message_goes_to_one_member_and_all_have_their_part(qos: int, kept: bool) -> None:
    with Workers(COUNT, kept=kept) as workers:
        members = [join(workers, at, f"m{at}{n}") for at in range(COUNT) for n in range(2)]
        publisher = workers[0].client("p")
        found: Counter[bytes] = Counter()
        parts = [0] * len(members)
        for number in range(120):
            publish(workers, publisher, 1, qos, number)
            for at, member in enumerate(members):
                got = payloads(member)
                found.update(got)
                parts[at] += len(got)
            workers.settle()
        assert found == Counter(b"%d" % number for number in range(120))
        assert min(parts) >= 15, parts


def test_a_group_is_told_apart_from_others_and_from_ordinary_subscriptions() -> None:
    with Workers(COUNT) as workers:
        one = [join(workers, at, f"one{at}") for at in range(COUNT)]
        two = [join(workers, at, f"two{at}", "$share/h/t/1") for at in range(COUNT)]
        plain = [join(workers, at, f"plain{at}", "t/#") for at in range(COUNT)]
        publish(workers, workers[2].client("p"), 1)
        assert [each for member in one for each in payloads(member)] == [b"0"]
        assert [each for member in two for each in payloads(member)] == [b"0"]
        assert [payloads(each) for each in plain] == [[b"0"]] * COUNT


def test_who_does_not_acknowledge_gets_no_more_and_the_others_do() -> None:
    with Workers(COUNT) as workers:
        home = workers.home(GROUP)
        lazy = join(workers, (home + 1) % COUNT, "lazy", props=[(p.RECEIVE_MAXIMUM, 2)])
        eager = join(workers, (home + 2) % COUNT, "eager")
        publisher = workers[home].client("p")
        got = []
        for number in range(200):
            publish(workers, publisher, 1, 1, number)
            got += payloads(eager)
            workers.settle()
        assert len(got) > 150
        assert len([each for each in lazy.read() if isinstance(each, Publish)]) == 2
        lazy.shut()
        workers.settle()
        got += payloads(eager)
        workers.settle()
        got += payloads(eager)
        assert sorted(got, key=int) == [b"%d" % number for number in range(200)]


def test_messages_for_members_that_are_all_away_wait_for_the_first_that_comes() -> None:
    with Workers(COUNT, kept=True) as workers:
        home = workers.home(GROUP)
        elsewhere = [(home + 1) % COUNT, (home + 2) % COUNT]
        for at in elsewhere:
            join(workers, at, f"m{at}", clean=False, props=KEEP).shut()
        workers.catch_up()
        publisher = workers[home].client("p")
        publish(workers, publisher, 50)
        workers.catch_up()
        assert sum(isinstance(each, Ack) and each.code == 0 for each in publisher.read()) == 50
        back = workers[elsewhere[1]].client(f"m{elsewhere[1]}", clean=False, props=KEEP)
        got: list[bytes] = []
        for _ in range(10):
            workers.settle()
            got += payloads(back)
        assert sorted(got, key=int) == [b"%d" % number for number in range(50)]


@pytest.mark.parametrize("who", [0, 1, 2], ids=["home", "branch", "third"])
def test_a_worker_that_is_killed_takes_no_acknowledged_message_along(who: int) -> None:
    with Workers(COUNT, kept=True) as workers:
        home = workers.home(GROUP)
        names = [f"m{at}" for at in range(COUNT)]
        wires = [join(workers, at, names[at], clean=False, props=KEEP) for at in range(COUNT)]
        publisher = workers[(home + (2 if who != 2 else 1)) % COUNT].client("p")
        publish(workers, publisher, 30)
        workers.catch_up()
        acknowledged = {each.packet_id - 1 for each in publisher.read() if isinstance(each, Ack)}
        assert len(acknowledged) == 30
        workers.kill((home + who) % COUNT)
        publish(workers, publisher, 30, 1, 30)
        workers.start((home + who) % COUNT)
        workers.catch_up()
        acknowledged |= {each.packet_id - 1 for each in publisher.read() if isinstance(each, Ack)}
        assert len(acknowledged) == 60
        back = (home + who) % COUNT
        wires[back] = workers[back].client(names[back], clean=False, props=KEEP)
        got: set[int] = set()
        for _ in range(10):
            workers.catch_up()
            for wire in wires:
                got |= set(map(int, payloads(wire)))
        assert got == acknowledged


def test_a_group_ends_everywhere_with_its_last_member() -> None:
    with Workers(COUNT) as workers:
        before = [engine.memory() for engine in workers.engines]
        members = [join(workers, at, f"m{at}") for at in range(COUNT)]
        publisher = workers[0].client("p")
        publish(workers, publisher, 30)
        for member in members:
            member.shut()
        workers.settle()
        publisher.read()
        publish(workers, publisher, 1, 1, 40)
        assert [each.code for each in publisher.read() if isinstance(each, Ack)] == [0x10]
        publisher.shut()
        workers.settle()
        for engine, memory in zip(workers.engines, before, strict=True):
            assert engine.hub.stats()["subscriptions"] == 0
            assert engine.hub.stats()["shared_subscriptions"] == 0
            assert engine.memory() <= memory + 20_000


CLIENTS = st.integers(0, 5)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), CLIENTS),
        st.tuples(st.just("unsubscribe"), CLIENTS),
        st.tuples(st.just("part"), CLIENTS),
        st.tuples(st.just("read"), CLIENTS),
        st.tuples(st.just("publish"), st.integers(0, COUNT - 1)),
        st.tuples(st.just("publish"), st.integers(0, COUNT - 1)),
        st.tuples(st.just("turn"), st.integers(0, COUNT - 1)),
        st.tuples(st.just("settle"), st.just(0)),
    ),
    max_size=40,
)


@given(ACTIONS, st.integers(0, COUNT - 1), st.booleans())
@example([("join", 2), ("unsubscribe", 2), ("publish", 0), ("publish", 2)], 0, False)
def test_each_message_reaches_somebody_and_only_one_if_nobody_leaves(
    actions: list[tuple[str, int]], anchor_at: int, kept: bool
) -> None:
    with Workers(COUNT, kept=kept) as workers:
        anchor = join(workers, anchor_at, "anchor")
        publishers = [workers[at].client(f"p{at}") for at in range(COUNT)]
        here: dict[int, Wire] = {}
        got: Counter[bytes] = Counter()
        sent, left = 0, False
        done: set[int] = set()
        for action, at in actions:
            if action == "join" and at not in here:
                here[at] = workers[at % COUNT].client(f"c{at}", props=[(p.RECEIVE_MAXIMUM, 3)])
                here[at].send(encode.subscribe(5, 1, [(GROUP, 1)]))
            elif action == "unsubscribe" and at in here:
                here[at].send(encode.unsubscribe(5, 1, [GROUP]))
                left = True
                done.add(at)
            elif action == "part" and at in here and at not in done:  # what it has in flight is its own by now
                here.pop(at).close()
                left = True
            elif action == "read" and at in here:
                for packet in here[at].read():
                    if isinstance(packet, Publish):
                        got[packet.payload] += 1
                        here[at].send(encode.ack(5, encode.PUBACK, packet.packet_id or 0))
            elif action == "publish":
                sent += 1
                publishers[at].send(encode.publish(5, "t/1", b"%d" % sent, qos=1, packet_id=sent))
            elif action == "turn":
                workers[at].turn()
            elif action == "settle":
                workers.settle()
        for _ in range(3 + sent // 2):
            workers.catch_up()
            for wire in (*here.values(), anchor):
                got.update(payloads(wire))
            for engine in workers.engines:
                engine.advance(0.3)
        acknowledged = [each for wire in publishers for each in wire.read() if isinstance(each, Ack)]
        assert sorted((each.packet_id, each.code) for each in acknowledged) == [(n, 0) for n in range(1, sent + 1)]
        assert set(got) == {b"%d" % number for number in range(1, sent + 1)}
        if not left:
            assert all(times == 1 for times in got.values()), got
