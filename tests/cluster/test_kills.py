"""What was acknowledged outlives the workers: each, both at once, and their parent.

QoS 1 may come again. So may QoS 2, across a kill of the publisher's or the subscriber's worker: which of the messages
that one worker has sent the other has stored, neither knows for sure when one of them has died.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.brokerproc import HOST, BrokerProcess, ended_cleanly
from tests.cluster.brokers import await_gone, await_restart, kill_left, named, processes, start
from tests.cluster.load import Load, Publisher, Subscriber
from tests.crash.budget import rounds

ROUNDS = rounds(5)
BOTH_ROUNDS = rounds(2)
SOME = 40
"""Messages of each publisher between two kills."""


def settings(folder: Path) -> dict[str, str | int]:
    """What waits for a client that is away may be any amount: on a busy machine the others publish a lot meanwhile."""
    return {
        "store.path": str(folder / "fastmq.db"), "workers.watchdog_s": 0,
        "queue.messages_max": 10**6, "queue.bytes_max": 10**9,
    }  # fmt: skip


def publishers(broker: BrokerProcess, topic: str = "t") -> list[Publisher]:
    return [
        Publisher(broker, named(index, f"p{qos}"), f"{topic}/{index}{qos}", qos) for index in (0, 1) for qos in (1, 2)
    ]


def subscribers(broker: BrokerProcess, topic_filter: str, prefix: str = "s") -> list[Subscriber]:
    return [Subscriber(broker, named(index, f"{prefix}{qos}"), topic_filter, qos) for index in (0, 1) for qos in (1, 2)]


@contextmanager
def loaded(broker: BrokerProcess) -> Iterator[Load]:
    """With clients of all kinds at both workers, from whom nothing may be lost at the end."""
    load = Load(
        publishers(broker), subscribers(broker, "t/#"), [
            Subscriber(broker, named(index, f"m{number}"), "$share/g/t/#", 2) for index in (0, 1) for number in (0, 1)
        ]
    )  # fmt: skip
    try:
        yield load
        load.finish()
        assert not any(each.unwanted or each.refused for each in load.publishers)
        assert load.disorder() == []
    finally:
        load.close()


@pytest.mark.timeout(60 + 10 * ROUNDS)
def test_nothing_is_lost_with_a_worker(tmp_path: Path) -> None:
    with ended_cleanly(start(2, settings(tmp_path))) as broker, loaded(broker) as load:
        for _ in range(ROUNDS):
            load.run(SOME, 30)  # it waits for 5 s before it is started if it ends again and again
            time.sleep(random.random() / 10)
            pids = processes(broker)
            index = random.choice((0, 1))
            os.kill(pids[index], signal.SIGKILL)
            assert await_restart(broker, index, pids[index]) != pids[index]
        load.run(SOME)


@pytest.mark.timeout(60 + 10 * BOTH_ROUNDS)
def test_nothing_is_lost_with_both_at_once(tmp_path: Path) -> None:
    with ended_cleanly(start(2, settings(tmp_path))) as broker, loaded(broker) as load:
        for _ in range(BOTH_ROUNDS):
            load.run(SOME, 30)  # it waits for 5 s before it is started if it ends again and again
            time.sleep(random.random() / 10)
            pids = processes(broker)
            for pid in pids.values():
                os.kill(pid, signal.SIGKILL)
            for index, pid in pids.items():
                await_restart(broker, index, pid)
        load.run(SOME)


@pytest.mark.timeout(60 + 10 * BOTH_ROUNDS)
@pytest.mark.parametrize("with_workers", [False, True], ids=["parent", "parent and workers"])
def test_nothing_is_lost_with_the_parent(tmp_path: Path, with_workers: bool) -> None:
    broker = start(2, settings(tmp_path))
    try:
        with loaded(broker) as load:
            for _ in range(BOTH_ROUNDS):
                load.run(SOME)
                pids = list(processes(broker).values())
                if with_workers:
                    kill_left(pids)
                broker.kill()
                await_gone(*pids)
                broker = start(2, settings(tmp_path), listen=f"tcp://{HOST}:{broker.port}")
            load.run(SOME)
        broker.stop()
    finally:
        pids = list(processes(broker).values()) if broker.is_running() else []
        broker.kill()
        kill_left(pids)
