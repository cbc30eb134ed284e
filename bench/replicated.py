"""What a replicated store costs on one machine, and how soon sessions go on: `python -m bench.replicated`.

Three brokers with a `nats-server` each, and one broker with a file of its own, in turn. Recorded: QoS 1 messages a
second for ten pairs whose subscribers have lasting sessions; the time from a publish to its PUBACK, one at a time; and
the time from the death of a node until each of its sessions is served at another node.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bench import load, machine
from bench.nodes import spread
from bench.run import write_into
from tests.brokerproc import BrokerProcess, Setting, ended_cleanly, start_fastmq
from tests.cluster.replicated import ReplicatedNodes, replicated_nodes
from tests.wireclient import Ack, Client, ConnectionEnded, Publish, encode
from tests.wireclient import properties as p

PAGE: Final = Path(__file__).parent.parent / "docs" / "scaling.md"
MARK: Final = "<!-- figures: written by python -m bench.replicated --write -->"
SETTINGS: Final[dict[str, Setting]] = {"log.connections": False}
LEVELS: Final = ("os", "fsync")
SESSIONS: Final = 20
LASTS: Final = [(p.SESSION_EXPIRY, 3600)]
PAIRS: Final = ("pairs", "--pubs", "10", "--subs", "10", "--qos", "1", "--durable", "1", "--duration", "5")


@contextmanager
def alone(level: str) -> Iterator[BrokerProcess]:
    """A broker with a file of its own."""
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Setting] = {**SETTINGS, "store.durability": level, "store.path": str(Path(folder) / "x.db")}
        with ended_cleanly(start_fastmq(settings)) as broker:
            yield broker


@contextmanager
def three(level: str, **more: object) -> Iterator[ReplicatedNodes]:
    """A cluster with a replicated store."""
    with (
        tempfile.TemporaryDirectory() as folder,
        replicated_nodes(Path(folder), settings={**SETTINGS, "store.durability": level, **more}) as made,
    ):
        yield made


def round_trips(broker: BrokerProcess, count: int) -> list[float]:
    """Seconds from a QoS 1 publish, for a lasting session that is away, to its PUBACK."""
    away = Client((broker.host, broker.port))
    assert away.connect("away", clean=False, props=LASTS).code == 0
    away.subscribe(("trip/#", 1))
    away.close()
    publisher = Client((broker.host, broker.port))
    assert publisher.connect("p").code == 0
    found = []
    for number in range(count):
        begin = time.perf_counter()
        publisher.send(encode.publish(5, "trip/a", b"x" * 64, qos=1, packet_id=number + 1))
        publisher.wait_for(Ack)
        found.append(time.perf_counter() - begin)
    publisher.close()
    return found


def rate(broker: BrokerProcess) -> float:
    """Messages a second of ten pairs."""
    return float(load.measure(PAIRS, port=broker.port, pid=broker.pid)["delivered_per_s"])


def death() -> list[float]:
    """Seconds from the end of a node until each of its sessions has what was published before."""
    with three("os", **{"jetstream.stand_in_after_s": 2.0}) as made:
        for number in range(SESSIONS):
            client = Client((made["beta"].host, made["beta"].port))
            assert client.connect(f"c-{number}", clean=False, props=LASTS).code == 0
            client.subscribe((f"death/{number}", 1))
            client.close()
        publisher = Client((made["alpha"].host, made["alpha"].port))
        assert publisher.connect("p").code == 0
        for number in range(SESSIONS):
            assert publisher.publish(f"death/{number}", b"kept", qos=1) == 0
        made.kill("beta")
        begin = time.perf_counter()
        found = []
        for number in range(SESSIONS):
            served(made["gamma"], f"c-{number}")
            found.append(time.perf_counter() - begin)
        publisher.close()
        return found


def served(broker: BrokerProcess, name: str) -> None:
    """Connects until it is let in, and has its message."""
    while True:
        client = Client((broker.host, broker.port))
        try:
            connack = client.connect(name, clean=False, props=LASTS)
            if connack.code == 0:
                assert connack.session_present
                assert client.wait_for(Publish).payload == b"kept"
                return
        except (ConnectionEnded, TimeoutError):
            pass
        finally:
            client.close()
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--write", action="store_true", help=f"write the figures into {PAGE.name}")
    given = parser.parse_args()
    console = Console(width=110)
    trips: dict[tuple[str, str], list[float]] = {}
    rates: dict[tuple[str, str], list[float]] = {}
    with console.status("measuring"):
        for _ in range(given.runs):
            for level in LEVELS:
                with alone(level) as broker:
                    rates.setdefault(("file", level), []).append(rate(broker))
                    trips.setdefault(("file", level), []).extend(round_trips(broker, 500))
                with three(level) as made:
                    rates.setdefault(("replicated", level), []).append(rate(made["alpha"]))
                    trips.setdefault(("replicated", level), []).extend(round_trips(made["alpha"], 500))
        deaths = [death() for _ in range(given.runs)]
    rows = []
    for kind, level in rates:
        of = sorted(trips[kind, level])
        middle, most = of[len(of) // 2] * 1000, of[-len(of) // 100] * 1000
        name = "a file of its own" if kind == "file" else "replicated, three nodes"
        rows.append(
            (name, level, f"{statistics.median(rates[kind, level]):,.0f}", f"{middle:.2f} ms", f"{most:.2f} ms")
        )
    service = spread([each[-1] for each in deaths]), spread([each[0] for each in deaths])
    table = Table(title=f"medians of {given.runs}")
    titles = ("store", "`store.durability`", "messages/s, ten pairs", "publish to PUBACK, median", "99 %")
    for title in titles:
        table.add_column(title)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    says = (
        f"A node with {SESSIONS} sessions is killed, `jetstream.stand_in_after_s` being 2: at another node the first "
        f"one has its message after {service[1]} (median, most of {given.runs}), the last one after {service[0]}."
    )
    console.print(says)
    if given.write:
        origin = machine.describe()
        lines = [
            f"Measured with `python -m bench.replicated --runs {given.runs}`: commit {origin['commit']},",
            f"{origin['cores']} cores of an {origin['cpu']}, which three nodes, three servers, the clients and one",
            "disk share, over loopback.",
            "",
            f"| {' | '.join(titles)} |",
            f"|{'---|' * len(titles)}",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            says,
        ]
        write_into(PAGE, "\n".join(lines) + "\n", MARK)


if __name__ == "__main__":
    main()
