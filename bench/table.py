"""The figures, for eyes: rich tables on a terminal and Markdown for the documentation, from the same rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table

from bench import machine
from bench.results import Summary
from bench.scenarios import SCENARIOS

REFERENCES: Final = {False: "mosquitto", True: "mosquitto-persistent"}
"""The broker that ratios are to; True: in durable scenarios."""

Summaries = dict[tuple[str, str], Summary]


@dataclass(frozen=True, slots=True)
class Grid:
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def grids(summaries: Summaries, brokers: Sequence[str]) -> Iterator[Grid]:
    """CPU time side by side, and the details behind it; durable scenarios, which compare others, by themselves."""
    names = list(dict.fromkeys(scenario for scenario, _ in summaries))
    for durable, added in ((False, ""), (True, ", sessions on a disk")):
        mine = [name for name in names if SCENARIOS[name].durable == durable]
        theirs = [broker for broker in brokers if any((name, broker) in summaries for name in mine)]
        if not mine:
            continue
        yield Grid(
            f"Broker CPU µs per message{added} (times less than {REFERENCES[durable]}'s)",
            ("scenario", *theirs),
            tuple((name, *(_cost(summaries, name, broker) for broker in theirs)) for name in mine),
        )
        head = ("scenario", "broker", "per s", "p50 µs", "p99 µs", "RSS MB", "memory and more", "faults")
        yield Grid(f"Details{added}", head, tuple(_details(summaries, mine, theirs)))


def _cost(summaries: Summaries, scenario: str, broker: str) -> str:
    summary = summaries.get((scenario, broker))
    if summary is None:
        return "-"
    cost = summary.median("cpu_us")
    if cost is None:
        return "failed"
    text = f"{_number(cost)} ±{summary.spread('cpu_us'):.0%}"
    than = REFERENCES[SCENARIOS[scenario].durable]
    reference = summaries.get((scenario, than))
    base = reference.median("cpu_us") if reference and broker != than else None
    if base and cost:
        text += f" ({base / cost:.{1 if base > cost else 2}f}x)"
    return text + (" !" if summary.faults() else "")


def _details(summaries: Summaries, names: Iterable[str], brokers: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for name in names:
        for broker in brokers:
            summary = summaries.get((name, broker))
            if summary is None:
                continue
            rate = summary.median("delivered_per_s")
            times = [summary.median(figure) for figure in ("p50_us", "p99_us")]
            extras = [(summary.median(figure), title) for figure, title in SCENARIOS[name].extra]
            yield (
                name,
                broker,
                "" if rate is None else f"{rate:,.0f}",
                *("" if value is None else f"{value:,.0f}" for value in times),
                _number(summary.median("rss_peak_mb") or 0),
                ", ".join(f"{_number(value)} {title}" for value, title in extras if value is not None),
                ", ".join(f"{count:,} {fault}" for fault, count in summary.faults().items()) or "none",
            )


def _number(value: float) -> str:
    """Three significant digits, thousands separated."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def show(console: Console, summaries: Summaries, brokers: Sequence[str]) -> None:
    """Print both tables."""
    tables: list[Table] = []
    for grid in grids(summaries, brokers):
        table = Table(title=grid.title, title_justify="left", box=SIMPLE_HEAD, header_style="bold")
        for column, name in enumerate(grid.head):
            table.add_column(name, justify="left" if column == 0 or name in ("broker", "faults") else "right")
        for row in grid.rows:
            table.add_row(*row, style="bold" if row[1] in ("fastmq", "fastmq-fsync") else "")
        tables.append(table)
    console.print(Group(*tables))


def markdown(
    summaries: Summaries, brokers: Sequence[str], versions: dict[str, str], command: str, runs: int, mqtt: int
) -> str:
    """The same tables for docs/benchmarks.md, with what is needed to repeat them."""
    origin = machine.describe()
    dirty = " with changes" if origin["dirty"] else ""
    lines = [
        f"- Machine: {origin['cpu']}, {origin['cores']} cores, {origin['system']}, Linux {origin['kernel']}",
        f"- fastmq: commit {origin['commit']}{dirty}, Python {origin['python']}, "
        f"Cython {origin['cython']}, uvloop {origin['uvloop']}",
        "- Brokers: " + ", ".join(f"{name} {version}".strip() for name, version in versions.items()),
        f"- MQTT {'5.0' if mqtt == 5 else '3.1.1'}, medians of {runs} interleaved runs, one broker process per run",
        f"- Command: `{command}`",
        "",
    ]
    for grid in grids(summaries, brokers):
        lines += [f"**{grid.title}**", "", _row(grid.head), _row(["---"] * len(grid.head))]
        lines += [_row(row) for row in grid.rows]
        lines.append("")
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
