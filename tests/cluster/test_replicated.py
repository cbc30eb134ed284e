"""A node dies, and its sessions go on at the others with all that was acknowledged."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster.brokers import joined
from tests.cluster.replicated import replicated_nodes
from tests.cluster.test_nodes import LASTS, received
from tests.wireclient import Client, ConnectionEnded

pytestmark = pytest.mark.timeout(180)  # NATS takes up to 6 s for another leader, and there are several
WORKERS = pytest.mark.parametrize("workers", [1, 2])


def resumed(address: tuple[str, int], name: str, timeout_s: float = 40.0) -> Client:
    """Connects like a client that tries again while it is refused; its session must be there."""
    deadline = time.monotonic() + timeout_s
    while True:
        client = Client(address)
        try:
            connack = client.connect(name, clean=False, props=LASTS)
        except (ConnectionEnded, OSError, TimeoutError):
            connack = None
        if connack is not None and connack.code == 0:
            assert connack.session_present, name
            return client
        client.close()
        assert time.monotonic() < deadline, f"{name} was not let in"
        time.sleep(0.2)


@WORKERS
def test_sessions_of_a_node_that_died_go_on_at_another_one(tmp_path: Path, workers: int) -> None:
    with replicated_nodes(tmp_path, workers) as cluster, ExitStack() as stack:
        for number in range(6):
            client = joined(cluster["beta"], stack, f"c-{number}", clean=False, props=LASTS)
            client.subscribe((f"t/{number}/#", 1))
            client.close()
        publisher = joined(cluster["alpha"], stack, "p")
        for number in range(60):
            assert publisher.publish(f"t/{number % 6}/x", b"%d" % number, qos=1) == 0
        cluster.kill("beta")
        began = time.monotonic()
        for number in range(6):
            client = resumed((cluster["gamma"].host, cluster["gamma"].port), f"c-{number}")
            stack.callback(client.close)
            assert received(client, 10) == [b"%d" % each for each in range(number, 60, 6)]
        print(f"all sessions went on after {time.monotonic() - began:.1f} s")
        # It goes on: what is published now arrives.
        assert publisher.publish("t/5/x", b"later", qos=1) == 0
        assert received(client, 1) == [b"later"]
        # And the node itself takes over again.
        cluster.start("beta")
        client.close()
        client = resumed((cluster["beta"].host, cluster["beta"].port), "c-5")
        stack.callback(client.close)
        assert publisher.publish("t/5/x", b"at last", qos=1) == 0
        assert received(client, 1) == [b"at last"]
