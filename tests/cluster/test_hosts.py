"""Nodes at hosts of their own: they find each other by multicast, are cut off without a word, and come back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.brokerproc import BrokerProcess, await_condition, start_fastmq
from tests.cluster.hosts import Hosts, hosts, ip
from tests.cluster.test_nodes import LASTS, received, times
from tests.wireclient import Ack, Client, encode

PORT = 1883


@contextmanager
def lan(folder: Path, **more: str) -> Iterator[tuple[Hosts, list[BrokerProcess]]]:
    """Three hosts with a node each, which find each other by multicast, or as `more` settings of 2 and 3 say."""
    with hosts(3) as net, ExitStack() as stack:
        nodes = []
        for number in (1, 2, 3):
            address = net.address(number)
            settings: dict[str, str | float] = {
                "cluster.name": "lan",
                "cluster.node": f"node{number}",
                "cluster.listen": f"{address}:7447",
                "cluster.lease_s": 1.0,
                "cluster.forget_after_s": 1.5,
                "store.path": str(folder / f"{number}.db"),
                **({key.replace("_", ".", 1): text for key, text in more.items()} if number > 1 else {}),
            }
            node = start_fastmq(
                settings,
                listen=f"tcp://{address}:{PORT}",
                inside=net.inside(number),
                ready=rf"listening on tcp://{address}:(\d+)",
            )
            stack.callback(node.kill)
            nodes.append(node)
        for number, node in enumerate(nodes, 1):
            for other in {1, 2, 3} - {number}:
                node.await_log(f"a node is there node=node{other} ", 15)
        try:
            yield net, nodes
        except BaseException as error:
            for node in nodes:
                error.add_note(f"--- log ---\n{node.log_text()[-3000:]}")
            raise
        for node in nodes:
            node.stop()


def joined(net: Hosts, stack: ExitStack, number: int, name: str) -> Client:
    client = net.at(number, lambda: Client((net.address(number), PORT)))
    stack.callback(client.close)
    assert client.connect(name, clean=False, props=LASTS).code == 0
    return client


@pytest.mark.timeout(120)
def test_a_host_that_is_cut_off_goes_on_alone_and_all_is_one_again_afterwards(tmp_path: Path) -> None:
    with lan(tmp_path) as (net, nodes), ExitStack() as stack:
        clients = {number: joined(net, stack, number, f"c{number}") for number in (1, 2, 3)}
        for client in clients.values():
            client.subscribe(("t/#", 1))
        clients[1].publish("t/a", b"all", qos=1)
        assert [received(client, 1) for client in clients.values()] == [[b"all"]] * 3

        net.cut(3)
        began = time.monotonic()
        clients[1].send(encode.publish(5, "t/r", b"most", qos=1, retain=True, packet_id=7))
        assert received(clients[2], 1) == [b"most"]  # at once
        packets = [clients[1].recv(20) for _ in range(2)]  # its own copy, and the acknowledgement: 3 is given up
        assert any(isinstance(each, Ack) and each.packet_id == 7 for each in packets)
        assert time.monotonic() - began < 10
        for other in ("node1", "node2"):
            nodes[2].await_log(f"a node is given up: .* node={other}", 15)
        clients[3].publish("t/3", b"alone", qos=1)
        assert received(clients[3], 1) == [b"alone"]

        net.heal(3)
        await_condition(lambda: nodes[2].log_text().count("a node is there node=node1") > 1, 40, "node3 is back")
        await_condition(lambda: nodes[2].log_text().count("a node is there node=node2") > 1, 40, "node3 is back")

        def arrives() -> bool:
            clients[1].publish("t/a", b"again", qos=1)
            try:
                return b"again" in received(clients[3], 1, 1.0)
            except TimeoutError:
                return False

        await_condition(arrives, 20, "node3 hears node1 again")
        late = joined(net, stack, 3, "late")
        late.subscribe(("t/r", 1))
        assert received(late, 1) == [b"most"]  # what was retained meanwhile


@pytest.mark.timeout(120)
def test_two_hosts_that_lose_only_each_other_meet_again(tmp_path: Path) -> None:
    with lan(tmp_path, cluster_multicast="", cluster_join="198.18.0.1") as (net, nodes):
        ip("-n", net.name(2), "route", "add", "blackhole", f"{net.address(3)}/32")
        for number, other in ((1, 3), (2, 2)):
            nodes[number].await_log(f"a node is not there any more node=node{other}", 15)
        assert "not there any more" not in nodes[0].log_text()
        ip("-n", net.name(2), "route", "del", "blackhole", f"{net.address(3)}/32")
        for number, other in ((1, 3), (2, 2)):
            again = partial(times, nodes[number], f"a node is there node=node{other}", 2)
            await_condition(again, 30, f"node{other} is back")
