"""What was acknowledged outlives nodes that are killed, stand still, and come back, with clients at all of them."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.brokerproc import HOST
from tests.cluster.load import Load, Publisher, Subscriber
from tests.cluster.nodes import NAMES, Nodes, nodes
from tests.crash.budget import rounds

ROUNDS = rounds(5)
SOME = 30
"""Messages of each publisher between two kills."""
SETTINGS = {"cluster.forget_after_s": 60.0, "queue.messages_max": 10**6, "queue.bytes_max": 10**9}


@contextmanager
def loaded(cluster: Nodes) -> Iterator[Load]:
    """With clients of all kinds at all nodes, from whom nothing may be lost at the end."""
    load = Load(
        [Publisher(cluster[node], f"p{qos}-{node}", f"t/{node}/{qos}", qos) for node in NAMES for qos in (1, 2)],
        [Subscriber(cluster[node], f"s{qos}-{node}", "t/#", qos) for node in NAMES for qos in (1, 2)],
        [Subscriber(cluster[node], f"m-{node}", "$share/g/t/#", 2) for node in NAMES],
    )
    try:
        yield load
        load.finish(60)
        assert not any(each.unwanted or each.refused for each in load.publishers)
        assert load.disorder() == []
    except BaseException:
        with suppress(AssertionError):  # what it is about has been said
            load.close()
        raise
    load.close()


@pytest.mark.timeout(120 + 15 * ROUNDS)
def test_nothing_is_lost_with_a_node(tmp_path: Path) -> None:
    with nodes(tmp_path, settings=SETTINGS) as cluster, loaded(cluster) as load:
        for _ in range(ROUNDS):
            load.run(SOME, 60)
            time.sleep(random.random() / 10)
            name = random.choice(NAMES)
            port = cluster[name].port
            cluster.kill(name)
            time.sleep(random.random() / 2)
            cluster.start(name, f"tcp://{HOST}:{port}")
        load.run(SOME, 60)


@pytest.mark.timeout(120 + 15 * ROUNDS)
def test_nothing_is_lost_with_a_node_that_stands_still(tmp_path: Path) -> None:
    with nodes(tmp_path, settings=SETTINGS) as cluster, loaded(cluster) as load:
        for _ in range(max(2, ROUNDS // 2)):
            load.run(SOME, 60)
            pid = cluster[random.choice(NAMES)].pid
            os.kill(pid, signal.SIGSTOP)
            time.sleep(random.choice((0.3, 2.5)))  # less or more than the lease
            os.kill(pid, signal.SIGCONT)
        load.run(SOME, 60)
