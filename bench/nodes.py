"""What a cluster costs on one machine: `python -m bench.nodes`.

Three brokers with no disk. Recorded: CPU of the brokers for a QoS 0 message within one node and between two, in turn;
the round trip of a QoS 1 message to another node; how long a node's death keeps subscribers elsewhere from what others
publish with QoS 1 (`cluster.forget_after_s` is 1 s here); how long a node needs that comes when another has many
filters, and the memory that each takes there. Publishers write packets that were made before; subscribers only count
bytes.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench import machine
from bench.run import write_into
from bench.tls import cpu_s
from tests.cluster.brokers import resident_bytes
from tests.cluster.nodes import Nodes, nodes
from tests.wireclient import Ack, Client, Publish, encode

PAGE: Final = Path(__file__).parent.parent / "docs" / "scaling.md"
MARK: Final = "<!-- figures: written by python -m bench.nodes --write -->"
BURST: Final = 1000
FILTERS: Final = 100_000
SETTINGS = {"cluster.forget_after_s": 1.0, "log.connections": False, "limits.subscriptions_max": 0}
PACKET = encode.publish(5, "bench/a", bytes(16))


@contextmanager
def cluster(count: int = 3) -> Iterator[Nodes]:
    with tempfile.TemporaryDirectory() as folder, nodes(Path(folder), count, kept=False, settings=SETTINGS) as made:
        yield made


def client(made: Nodes, node: str, name: str) -> Client:
    found = Client((made[node].host, made[node].port))
    assert found.connect(name).code == 0
    return found


def raw(of: Client) -> socket.socket:
    below: Any = of._socket
    while not isinstance(below, socket.socket):
        below = below._below
    return below


def flood(made: Nodes, here: str, there: str, count: int) -> float:
    """Microseconds of all brokers' CPU for a message from one node to a subscriber of another."""
    subscriber, publisher = client(made, there, "s"), client(made, here, "p")
    subscriber.subscribe(("bench/#", 0))
    time.sleep(0.2)
    pids = [broker.pid for broker in made.running.values()]
    wanted, burst = count * len(PACKET), PACKET * BURST
    begin = sum(map(cpu_s, pids))

    def write() -> None:
        out = raw(publisher)
        out.settimeout(60)
        for _ in range(count // BURST):
            out.sendall(burst)

    writer = threading.Thread(target=write)
    writer.start()
    into, got = raw(subscriber), 0
    into.settimeout(20)
    while got < wanted:
        got += len(into.recv(1 << 20))
    writer.join()
    spent = sum(map(cpu_s, pids)) - begin
    subscriber.close()
    publisher.close()
    return spent / count * 1e6


def round_trips(made: Nodes, count: int = 2000) -> list[float]:
    """Milliseconds from a QoS 1 publish to its arrival at another node."""
    subscriber, publisher = client(made, "beta", "s"), client(made, "alpha", "p")
    subscriber.subscribe(("bench/#", 1))
    time.sleep(0.2)
    found = []
    for number in range(count):
        begin = time.perf_counter()
        publisher.send(encode.publish(5, "bench/a", b"x", qos=1, packet_id=number % 60_000 + 1))
        packet = subscriber.wait_for(Publish)
        found.append((time.perf_counter() - begin) * 1000)
        subscriber.send(encode.ack(5, encode.PUBACK, packet.packet_id))
        publisher.wait_for(Ack)
    subscriber.close()
    publisher.close()
    return found


def death() -> tuple[float, float]:
    """Seconds from the end of a node until a message arrives at a third one, and until it is acknowledged."""
    with cluster() as made:
        dead, subscriber, publisher = client(made, "beta", "d"), client(made, "gamma", "s"), client(made, "alpha", "p")
        dead.subscribe(("bench/#", 1))
        subscriber.subscribe(("bench/#", 1))
        time.sleep(0.3)
        begin = time.perf_counter()
        made.kill("beta")
        publisher.send(encode.publish(5, "bench/a", b"x", qos=1, packet_id=1))
        subscriber.wait_for(Publish)
        arrived = time.perf_counter() - begin
        publisher.expect(Ack, 30)
        acknowledged = time.perf_counter() - begin
        for each in (dead, subscriber, publisher):
            each.close()
        return arrived, acknowledged


def late() -> tuple[float, float]:
    """Seconds until a node is ready that comes when another has many filters, and bytes for each filter there."""
    with cluster(1) as made:
        subscriber = client(made, "alpha", "s")
        for at in range(0, FILTERS, 500):
            subscriber.subscribe(*((f"bench/{at + number}/+/x", 0) for number in range(500)))
        alone = Nodes(made.folder, kept=False, settings={**SETTINGS, "cluster.name": "another"})
        empty = resident_bytes(alone.start("beta", cluster="another").pid)
        alone.close()
        begin = time.perf_counter()
        node = made.start("beta")
        took = time.perf_counter() - begin
        node.await_log("is a node of the cluster name=test node=beta others=alpha", 10)
        full = resident_bytes(node.pid)
        subscriber.close()
        return took, (full - empty) / FILTERS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--messages", type=int, default=2_000_000)
    parser.add_argument("--write", action="store_true", help=f"write the figures into {PAGE.name}")
    given = parser.parse_args()
    console = Console(width=110)
    within: list[float] = []
    between: list[float] = []
    trips: list[float] = []
    with console.status("measuring"):
        for _ in range(given.runs):
            with cluster() as made:
                within.append(flood(made, "alpha", "alpha", given.messages))
                between.append(flood(made, "alpha", "beta", given.messages))
                trips += round_trips(made)
        deaths = [death() for _ in range(given.runs)]
        came, filter_bytes = late()
    trips.sort()
    middle, most = trips[len(trips) // 2], trips[-len(trips) // 100]
    arrived, acknowledged = ([each[way] for each in deaths] for way in (0, 1))
    local, remote = statistics.median(within), statistics.median(between)
    rows = [
        ("CPU of a QoS 0 message within a node", f"{local:.2f} µs"),
        ("CPU of one from one node to another, both nodes' together", f"{remote:.2f} µs, {remote / local:.1f} times"),
        ("a QoS 1 message to another node: median, 99 %", f"{middle:.2f} ms, {most:.2f} ms"),
        ("a node is killed; a third one has the next message after: median, most", spread(arrived)),
        ("... and its publisher is acknowledged after (1 s of it: `cluster.forget_after_s`)", spread(acknowledged)),
        (f"a node starts, and another has {FILTERS:,} filters: ready after", f"{came:.2f} s"),
        ("memory of such a filter at the other node", f"{filter_bytes:.0f} bytes"),
    ]
    table = Table(title=f"three nodes on one machine, medians of {given.runs}")
    for title in ("what", "figure"):
        table.add_column(title)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if given.write:
        origin = machine.describe()
        head = [
            f"Measured with `python -m bench.nodes --runs {given.runs}`: commit {origin['commit']},",
            f"{origin['cores']} cores of an {origin['cpu']}, which three nodes and the clients share; nothing on the",
            "disk, over loopback.",
            "",
            "| | |",
            "|---|---|",
        ]
        write_into(PAGE, "\n".join([*head, *(f"| {what} | {figure} |" for what, figure in rows)]) + "\n", MARK)


def spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1000:.0f} ms, {max(seconds) * 1000:.0f} ms"


if __name__ == "__main__":
    main()
