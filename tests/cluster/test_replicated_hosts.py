"""A host with a replicated store is cut off: the others go on with its sessions, and it promises nothing meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.brokerproc import BrokerProcess, await_condition, start_fastmq
from tests.cluster.hosts import Hosts, hosts
from tests.cluster.test_nodes import LASTS, received
from tests.wireclient import Ack, Client, ConnectionEnded, encode

PORT = 1883
NUMBERS = 1, 2, 3
PATIENCE_S = 60.0
FENCED = "the store has another owner"


def started(net: Hosts, folder: Path, number: int) -> BrokerProcess:
    address = net.address(number)
    others = [net.address(each) for each in NUMBERS if each != number]
    return start_fastmq(
        {
            "cluster.name": "lan",
            "cluster.node": f"node{number}",
            "cluster.listen": f"{address}:7447",
            "cluster.secret": "of the test",
            "cluster.lease_s": 1.0,
            "store.engine": "jetstream",
            "store.durability": "os",
            "store.path": str(folder / f"{number}.db"),
            "jetstream.serve": True,
            "jetstream.cluster_listen": f"{address}:6222",
            "jetstream.routes": ",".join(others),
            "jetstream.folder": str(folder / f"nats-{number}"),
            "jetstream.stand_in_after_s": 0.5,
        },
        listen=f"tcp://{address}:{PORT}",
        inside=net.inside(number),
        ready=rf"listening on tcp://{address}:(\d+)",
    )


@contextmanager
def lan(folder: Path) -> Iterator[tuple[Hosts, dict[int, BrokerProcess]]]:
    """Three hosts with a node and a server each."""
    with hosts(len(NUMBERS)) as net, ExitStack() as stack:
        with ThreadPoolExecutor(len(NUMBERS)) as pool:  # the first one waits for the second
            nodes = dict(zip(NUMBERS, pool.map(lambda number: started(net, folder, number), NUMBERS), strict=True))
        for node in nodes.values():
            stack.callback(node.kill)
        try:
            for number, node in nodes.items():
                for other in {*NUMBERS} - {number}:
                    node.await_log(f"a node is there node=node{other} ", 30)
            yield net, nodes
        except BaseException as error:
            for node in nodes.values():
                error.add_note(f"--- log ---\n{node.log_text()[-4000:]}")
            raise


def joined(net: Hosts, stack: ExitStack, number: int, name: str) -> Client | None:
    """A client of this host; None: it was not let in."""
    try:
        client = net.at(number, lambda: Client((net.address(number), PORT)))
        stack.callback(client.close)
        return client if client.connect(name, clean=False, props=LASTS).code == 0 else None
    except (ConnectionEnded, OSError):
        return None


def in_the_end(net: Hosts, stack: ExitStack, number: int, name: str) -> Client:
    """Its session must be there."""
    found: list[Client] = []

    def is_in() -> bool:
        client = joined(net, stack, number, name)
        if client is not None:
            found.append(client)
        return client is not None

    await_condition(is_in, PATIENCE_S, f"{name} is let in")
    assert found[0].connack is not None
    assert found[0].connack.session_present
    return found[0]


def until(client: Client, payload: bytes) -> None:
    """It comes, after what may come again because its acknowledgement was not stored yet."""
    while (found := received(client, 1)[0]) != payload:
        assert found in {b"before", b"meanwhile", b"healed"}, "nothing that was never acknowledged"


@pytest.mark.timeout(300)
def test_a_host_that_is_cut_off_promises_nothing_and_loses_nothing(tmp_path: Path) -> None:
    with lan(tmp_path) as (net, nodes), ExitStack() as stack:
        subscriber, near, far = joined(net, stack, 3, "s3"), joined(net, stack, 1, "p1"), joined(net, stack, 3, "p3")
        assert subscriber is not None
        assert near is not None
        assert far is not None
        subscriber.subscribe(("t/#", 1))
        assert near.publish("t/a", b"before", qos=1) == 0
        assert received(subscriber, 1) == [b"before"]

        net.cut(3)
        # The side with one of three servers acknowledges nothing that must last.
        far.send(encode.publish(5, "t/3", b"cut off", qos=1, packet_id=9))
        began = time.monotonic()
        # The other one goes on, with the session too.
        near.send(encode.publish(5, "t/a", b"meanwhile", qos=1, packet_id=8))
        answer = near.expect(Ack, PATIENCE_S)
        assert (answer.packet_id, answer.code) == (8, 0)
        again = in_the_end(net, stack, 1, "s3")
        until(again, b"meanwhile")
        print(f"the session went on after {time.monotonic() - began:.1f} s")
        try:
            refused = far.expect(Ack, 2.0)
        except (TimeoutError, ConnectionEnded):
            pass
        else:
            assert refused.code >= 0x80

        net.heal(3)
        nodes[3].await_log(FENCED, PATIENCE_S)
        nodes[3].await_log("begins anew", PATIENCE_S)
        back = in_the_end(net, stack, 3, "s3")
        assert near.publish("t/a", b"healed", qos=1) == 0
        until(back, b"healed")
        # One session of it is left, wherever it connects.
        last = in_the_end(net, stack, 2, "s3")
        assert near.publish("t/a", b"last", qos=1) == 0
        until(last, b"last")
