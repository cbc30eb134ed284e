"""What was acknowledged outlives nodes that die, stand still and lose their servers, and goes on without them."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from tests.cluster.load import Load, Publisher, Subscriber
from tests.cluster.nodes import NAMES
from tests.cluster.replicated import ReplicatedNodes, replicated_nodes
from tests.crash.budget import rounds

ROUNDS: Final = rounds(2)
SOME: Final = 20
"""Messages of each publisher between two deaths."""
PATIENCE_S: Final = 90
"""NATS takes up to 6 s for another leader, of every stream; after a while on a busy machine more."""
SETTINGS = {"store.durability": "os", "queue.messages_max": 10**6, "queue.bytes_max": 10**9}


@contextmanager
def loaded(cluster: ReplicatedNodes) -> Iterator[Load]:
    """With lasting clients at all nodes, who go to another node when theirs does not let them in."""
    load = Load(
        [Publisher(cluster[node], f"p{qos}-{node}", f"t/{node}/{qos}", qos) for node in NAMES for qos in (1, 2)],
        [Subscriber(cluster[node], f"s{qos}-{node}", "t/#", qos) for node in NAMES for qos in (1, 2)],
    )
    try:
        for each in (*load.publishers, *load.subscribers):
            each.others = [cluster[node] for node in NAMES if cluster[node] is not each.broker]
        yield load
        load.finish(PATIENCE_S)
        assert not any(each.unwanted for each in load.publishers)
        assert load.disorder() == []
    except BaseException:
        with suppress(AssertionError):  # what it is about has been said
            load.close()
        raise
    load.close()


def server_of(cluster: ReplicatedNodes, name: str) -> int:
    """The pid of its nats-server, the last of those that it has started."""
    return int(re.findall("a nats-server is started pid=(\\d+)", cluster[name].log_text())[-1])


def dies_and_comes_back_at_once(cluster: ReplicatedNodes, name: str, load: Load) -> None:
    cluster.kill(name)
    cluster.start(name)


def dies_and_comes_back_after_others_went_on(cluster: ReplicatedNodes, name: str, load: Load) -> None:
    cluster.kill(name)
    began = time.monotonic()
    load.run(SOME, PATIENCE_S)
    print(f"{name} is dead, and all publishers went on after {time.monotonic() - began:.1f} s")
    cluster.start(name)


def stands_still_and_is_fenced(cluster: ReplicatedNodes, name: str, load: Load) -> None:
    """With its server, like a host that hangs."""
    pids = cluster[name].pid, server_of(cluster, name)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    others = [cluster[each] for each in NAMES if each != name]
    deadline = time.monotonic() + PATIENCE_S
    while not any(f"stands in for a node node={name}" in each.log_text() for each in others):
        assert time.monotonic() < deadline, "nobody stands in"
        time.sleep(0.1)
    time.sleep(random.choice((0.5, 3.0)))
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def stands_still_for_a_moment(cluster: ReplicatedNodes, name: str, load: Load) -> None:
    os.kill(cluster[name].pid, signal.SIGSTOP)
    time.sleep(random.choice((0.3, 1.5)))
    os.kill(cluster[name].pid, signal.SIGCONT)


def loses_its_server(cluster: ReplicatedNodes, name: str, load: Load) -> None:
    os.kill(server_of(cluster, name), signal.SIGKILL)


FATES: Final = (
    dies_and_comes_back_at_once,
    dies_and_comes_back_after_others_went_on,
    stands_still_and_is_fenced,
    stands_still_for_a_moment,
    loses_its_server,
)


@pytest.mark.timeout(120 + 2 * PATIENCE_S * ROUNDS)
@pytest.mark.parametrize("fate", FATES, ids=lambda fate: fate.__name__)
def test_nothing_is_lost_with_a_node_that(tmp_path: Path, fate: Callable[[ReplicatedNodes, str, Load], None]) -> None:
    with replicated_nodes(tmp_path, settings=SETTINGS) as cluster, loaded(cluster) as load:
        for _ in range(ROUNDS):
            load.run(SOME, PATIENCE_S)
            fate(cluster, random.choice(NAMES), load)
        load.run(SOME, PATIENCE_S)
