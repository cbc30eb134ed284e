"""What several workers cost and bring: `python -m bench.crossing`.

Ten pairs publish as fast as they can, in turn to one worker, to two of which no message crosses from one to the other,
and to two where every message does: the load generator names its clients so that they belong to a certain worker. What
counts is CPU time for a message; what a broker could do besides depends on the cores that the generator leaves to it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Final

from rich.console import Console
from rich.table import Table

import fastmq
from bench import load, machine
from bench.load import Figures
from bench.results import FAULTS, HISTORY, Run, remember
from bench.run import write_into
from tests.brokerproc import Setting, ended_cleanly, start_fastmq

SETTINGS: Final[dict[str, Setting]] = {
    "mqtt.inflight_max": 65_535,
    "queue.messages_max": 10_000_000,
    "queue.bytes_max": 1 << 30,
    "store.durability": "none",
    "log.connections": False,
}
WAYS = {
    "one": (1, ()),
    "two-none-crosses": (2, ("--homes", "2")),
    "two-all-cross": (2, ("--homes", "2", "--apart", "1")),
}
"""What is compared: how many workers, and the generator's options."""
QOS: Final = (0, 1, 2)
PAGE: Final = Path(__file__).parent.parent / "docs" / "scaling.md"
MARK: Final = "<!-- figures: written by python -m bench.crossing --write -->"
PAIRS = 10
FLIGHT = 100
"""Messages of a publisher on their way, so that QoS 0 goes without loss."""


def measure(way: str, qos: int, seconds: float) -> Run:
    """One run with a fresh broker."""
    workers, more = WAYS[way]
    arguments = ["pairs", "--pubs", str(PAIRS), "--subs", str(PAIRS), "--qos", str(qos), "--flight", str(FLIGHT)]
    arguments += ["--duration", f"{seconds:g}", *more]
    with ended_cleanly(start_fastmq(SETTINGS, options=["--workers", str(workers)])) as broker:
        figures = load.measure(arguments, port=broker.port, pid=broker.pid)
    return Run(f"crossing-{way}-q{qos}", "fastmq", fastmq.__version__, 4, False, figures)


def rounds(runs: int, seconds: float) -> Iterator[tuple[str, int, Figures]]:
    """All runs, the ways in turn; each is remembered."""
    for _ in range(runs):
        for qos in QOS:
            for way in WAYS:
                run = measure(way, qos, seconds)
                remember(run, HISTORY)
                yield way, qos, run.figures


Found = dict[tuple[str, int], list[Figures]]


def _median(found: Found, way: str, qos: int, name: str) -> float:
    return median(float(each[name]) for each in found[way, qos])


def shown(found: Found, runs: int) -> Table:
    """The medians of what was measured."""
    table = Table(title=f"{PAIRS} pairs, 16 bytes, medians of {runs}")
    for title in ("QoS", "workers", "us CPU/message", "of one worker", "messages/s", "generator us/message", "faults"):
        table.add_column(title, justify="left" if title in ("workers", "faults") else "right")
    for qos in QOS:
        for way in WAYS:
            cpu, one = _median(found, way, qos, "cpu_us"), _median(found, "one", qos, "cpu_us")
            faults = ", ".join(name for name in FAULTS if any(each[name] for each in found[way, qos]))
            per_s, generator = (_median(found, way, qos, name) for name in ("delivered_per_s", "generator_cpu_us"))
            table.add_row(
                str(qos), way, f"{cpu:.3f}", f"{cpu / one:.2f}", f"{per_s:,.0f}", f"{generator:.3f}", faults or "none"
            )
    return table


def lines(found: Found, runs: int) -> Iterator[str]:
    """The same for docs/scaling.md, and what follows from it for larger hosts."""
    origin = machine.describe()
    yield f"Measured with `python -m bench.crossing --runs {runs}`: commit {origin['commit']}, {origin['cores']} cores"
    yield f"of an {origin['cpu']}, {PAIRS} pairs, 16 bytes, nothing on the disk, medians of {runs} interleaved runs."
    yield "The load generator runs on the same cores."
    yield ""
    yield "| QoS | workers | µs CPU of the broker a message | of one worker | messages/s | µs CPU of the generator |"
    yield "|---|---|---|---|---|---|"
    for qos in QOS:
        for way in WAYS:
            cpu, one = _median(found, way, qos, "cpu_us"), _median(found, "one", qos, "cpu_us")
            per_s, generator = (_median(found, way, qos, name) for name in ("delivered_per_s", "generator_cpu_us"))
            yield f"| {qos} | {way.replace('-', ' ')} | {cpu:.3f} | {cpu / one:.2f} | {per_s:,.0f} | {generator:.3f} |"
    yield ""
    yield "**Computed, not measured**: with N workers on N cores of their own, the generator elsewhere, and clients"
    yield "that are spread evenly, (N - 1)/N of all pairs cross. With the costs above, *a* of a message that does not"
    yield "cross and *b* of one that does, that is N / (a/N + b(N - 1)/N) messages a second at most:"
    yield ""
    yield "| workers | " + " | ".join(f"QoS {qos}, million/s" for qos in QOS) + " |"
    yield "|---|" + "---|" * len(QOS)
    for workers in (1, 2, 4, 8, 16):
        most = []
        for qos in QOS:
            local, crossing = (_median(found, way, qos, "cpu_us") for way in ("one", "two-all-cross"))
            most.append(workers / (local / workers + crossing * (workers - 1) / workers))
        yield f"| {workers} | " + " | ".join(f"{each:.1f}" for each in most) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--write", action="store_true", help=f"write the figures into {PAGE.name}")
    given = parser.parse_args()
    console = Console(width=120)
    found: Found = {}
    with console.status("measuring") as status:
        for way, qos, figures in rounds(given.runs, given.seconds):
            found.setdefault((way, qos), []).append(figures)
            status.update(f"measured {way}, QoS {qos}")
    console.print(shown(found, given.runs))
    if given.write:
        write_into(PAGE, "\n".join(lines(found, given.runs)) + "\n", MARK)


if __name__ == "__main__":
    main()
