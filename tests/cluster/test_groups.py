"""Shared subscriptions whose members are at different workers."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.brokerproc import BrokerProcess, ended_cleanly
from tests.cluster.brokers import at, await_restart, processes, start, workers
from tests.cluster.flows import gather, meanwhile, pump
from tests.wireclient import Client, Publish
from tests.wireclient import properties as p

QOS = pytest.mark.parametrize("qos", [0, 1, 2])
GROUPS = pytest.mark.parametrize("group", ["a", "b", "c", "d"])
"""Each has a home: one of two workers."""
MANY = 200
LASTS = [(p.SESSION_EXPIRY, 300)]
_numbers = count()


@pytest.fixture(scope="module")
def shared() -> Iterator[BrokerProcess]:
    with workers(2) as broker:
        yield broker


class Scene:
    """The clients of one test, its topic, and its group."""

    def __init__(self, broker: BrokerProcess, stack: ExitStack) -> None:
        self.broker = broker
        self.stack = stack
        self.topic = f"t{next(_numbers)}"

    def client(self, index: int, name: str, **options: Any) -> Client:
        return at(self.broker, self.stack, index, f"{self.topic}-{name}", **options)

    def member(self, index: int, name: str, group: str, **options: Any) -> Client:
        client = self.client(index, name, **options)
        assert client.subscribe((f"$share/{group}/{self.topic}/#", 2)).codes == [2]
        return client


@pytest.fixture
def scene(shared: BrokerProcess) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(shared, stack)


def payloads(got: list[list[Publish]]) -> Counter[bytes]:
    return Counter(m.payload for each in got for m in each)


def numbers(name: str, n: int = MANY) -> list[bytes]:
    return [b"%s%d" % (name.encode(), number) for number in range(n)]


@QOS
@GROUPS
def test_each_message_comes_once_and_all_get_some(scene: Scene, qos: int, group: str) -> None:
    members = [scene.member(index, f"m{number}", group) for index in (0, 1) for number in range(index + 1)]
    other = scene.member(1, "other", f"{group}-other")
    plain = scene.client(0, "plain")
    plain.subscribe((f"{scene.topic}/#", 2))
    publishers = {name: scene.client(index, name) for index, name in enumerate("pq")}
    works = [partial(pump, each, f"{scene.topic}/{name}", numbers(name), qos) for name, each in publishers.items()]
    with meanwhile(*works):
        got = gather([*members, other, plain], 6 * MANY)
    once = Counter(numbers("p") + numbers("q"))
    assert payloads(got[:3]) == payloads(got[3:4]) == payloads(got[4:]) == once
    assert min(map(len, got)) >= 5, [len(each) for each in got]
    assert {m.qos for each in got for m in each} == {qos}


@GROUPS
def test_what_a_member_did_not_acknowledge_goes_to_another(scene: Scene, group: str) -> None:
    for index in (0, 1):
        stays, goes = scene.member(1 - index, f"stays{index}", group), scene.member(index, f"goes{index}", group)
        publisher = scene.client(0, f"p{index}")
        sent = numbers(str(index), 60)
        with meanwhile(partial(pump, publisher, f"{scene.topic}/x", sent, 1)):
            seen = [goes.expect(Publish) for _ in range(5)]  # it acknowledges none
            goes.close()
            got = gather([stays], len(sent))
        assert {m.payload for m in seen} <= set(payloads(got))
        assert set(payloads(got)) == set(sent)
        stays.close()


@GROUPS
@pytest.mark.parametrize("qos", [1, 2])
def test_a_group_waits_for_its_members(scene: Scene, group: str, qos: int) -> None:
    names = {index: f"m{index}" for index in (0, 1)}
    for index, name in names.items():
        scene.member(index, name, group, clean=False, props=LASTS).drop()
    publishers = [scene.client(index, f"p{index}") for index in (0, 1)]
    for index, publisher in enumerate(publishers):
        assert set(pump(publisher, f"{scene.topic}/x", numbers(str(index), 50), qos)) == {0}
    for turn, index in enumerate((0, 1)):  # the first to come gets what there is
        back = scene.client(index, names[index], clean=False, props=LASTS)
        assert back.connack is not None
        assert back.connack.session_present
        if turn == 0:
            assert payloads(gather([back], 100)) == Counter(numbers("0", 50) + numbers("1", 50))
        back.expect_silence()
        back.drop()
    pump(publishers[0], f"{scene.topic}/x", numbers("again", 50), qos)
    backs = [scene.client(index, name, clean=False, props=LASTS) for index, name in names.items()]
    assert payloads(gather(backs, 50)) == Counter(numbers("again", 50))


def test_a_group_ends_with_its_last_member(scene: Scene) -> None:
    members = [scene.member(index, f"m{index}", "g") for index in (0, 1)]
    publisher = scene.client(0, "p")
    members[0].close()
    for number in range(20):
        assert publisher.publish(f"{scene.topic}/x", b"%d" % number, qos=1) == 0
    assert len(gather(members[1:], 20)[0]) == 20
    members[1].unsubscribe(f"$share/g/{scene.topic}/#")
    members[1].subscribe(f"$share/g/{scene.topic}/#")  # what was published without it, it does not get
    members[1].expect_silence()


@pytest.mark.timeout(60)
def test_with_a_worker_its_members_messages_go_to_others() -> None:
    with workers(2, {"workers.watchdog_s": 0}) as broker, ExitStack() as stack:
        for group in "abcd":
            scene = Scene(broker, stack)
            stays, goes = scene.member(0, "stays", group), scene.member(1, "goes", group)
            publisher = scene.client(0, "p")
            pump(publisher, f"{scene.topic}/x", numbers("before", 20), 1)
            pid = processes(broker)[1]
            os.kill(pid, signal.SIGKILL)
            pump(publisher, f"{scene.topic}/x", numbers("after", 50), 1)
            goes.close()
            got = payloads(gather([stays], 50))
            assert set(numbers("after", 50)) <= set(got)
            await_restart(broker, 1, pid)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("index", [0, 1])
def test_a_durable_group_outlives_workers_and_the_broker(tmp_path: Path, index: int) -> None:
    settings = {"store.path": str(tmp_path / "fastmq.db"), "workers.watchdog_s": 0}
    with ended_cleanly(start(2, settings)) as broker, ExitStack() as stack:
        for group in "abcd":
            for member in (0, 1):
                client = at(broker, stack, member, f"{group}{member}", clean=False, props=LASTS)
                client.subscribe((f"$share/{group}/t/#", 2))
                client.drop()
        publisher = at(broker, stack, 0, "p")
        pump(publisher, "t/x", numbers("one", 20), 1)
        pid = processes(broker)[index]
        os.kill(pid, signal.SIGKILL)
        await_restart(broker, index, pid)
        publisher = at(broker, stack, 1, "p")
        pump(publisher, "t/x", numbers("two", 20), 2)
    with ended_cleanly(start(2, settings)) as broker, ExitStack() as stack:
        for group in "abcd":
            backs = [
                at(broker, stack, member, f"{group}{member}", clean=False, props=LASTS) for member in (index, 1 - index)
            ]
            assert set(payloads(gather(backs, 40))) == set(numbers("one", 20) + numbers("two", 20))
