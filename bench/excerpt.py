"""`python -m bench.excerpt`: writes the figures of README.md from the runs that bench/history/ remembers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from bench import results
from bench.results import Run, Summary
from bench.run import write_into

PAGE: Final = Path(__file__).parent.parent / "README.md"
MARK: Final = "<!-- figures: written by python -m bench.excerpt -->"
SCENARIOS: Final = {
    "pair10-q0": "10 pairs, QoS 0",
    "pair10-q1": "10 pairs, QoS 1, window 100",
    "pair10-q2": "10 pairs, QoS 2, window 100",
    "fan1000": "1 publisher, 1,000 subscribers, QoS 0",
    "filters-1m": "routing through 1,000,000 filters",
    "paced-1k-q0": "1,000 messages/s, one at a time, QoS 0",
    "paced-1k-q1": "1,000 messages/s, one at a time, QoS 1",
}
MEMORY: Final = {
    "connections-10k": ("bytes_per_connection", "An idle connection takes {} bytes (mosquitto: {})"),
    "filters-1m": ("bytes_per_filter", "a filter {} ({})"),
    "retained-100k": ("bytes_per_message", "a small retained message {} ({})"),
}
Summaries = dict[tuple[str, str], Summary]


def recall(history: Path) -> tuple[dict[str, Any], list[Run]]:
    """The newest commit of which all that is shown was measured, as the record of its last run, and its runs.

    :raises LookupError: there is none.
    """
    by_commit: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(history.glob("*.jsonl")):
        for record in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            if record["mqtt"] == 4 and not record["quick"]:
                by_commit.setdefault(record["commit"], []).append(record)
    wanted = {(scenario, broker) for scenario in (*SCENARIOS, *MEMORY) for broker in ("fastmq", "mosquitto")}
    for records in reversed(by_commit.values()):
        if wanted <= {(record["scenario"], record["broker"]) for record in records}:
            runs = [Run(r["scenario"], r["broker"], r["version"], r["mqtt"], False, r["figures"]) for r in records]
            return records[-1], runs
    raise LookupError(f"{history} has no commit with all of {', '.join(SCENARIOS)}")


def lines(origin: dict[str, Any], summaries: Summaries) -> Iterator[str]:
    of = {broker: _Figures(summaries, broker) for broker in ("fastmq", "mosquitto")}
    runs = min(len(summaries[scenario, "fastmq"].runs) for scenario in SCENARIOS)
    mosquitto = summaries["pair10-q0", "mosquitto"].runs[0].version
    yield "Broker CPU per delivered message, in microseconds, and how many times less that is than Debian's mosquitto"
    yield f"{mosquitto} needed in the same minutes; nothing on the disk. `python -m bench`, commit"
    yield f"{origin['commit'][:7]}, {origin['cores']} cores of an {origin['cpu']}, medians of {runs} interleaved runs;"
    yield f"{_faults(summaries)}. [The whole table](docs/benchmarks.md)."
    yield ""
    yield "| load, MQTT 3.1.1, 16 bytes | fastmq | mosquitto | | p50 µs | |"
    yield "|---|---|---|---|---|---|"
    for scenario, meaning in SCENARIOS.items():
        ours, theirs = of["fastmq"].median(scenario, "cpu_us"), of["mosquitto"].median(scenario, "cpu_us")
        p50 = [f"{of[broker].median(scenario, 'p50_us'):,.0f}" for broker in of]
        ratio = f"{theirs / ours:.0f}x" if theirs > 9.5 * ours else f"{theirs / ours:.1f}x"
        yield f"| {meaning} | {_short(ours)} | {_short(theirs)} | {ratio} | {p50[0]} | {p50[1]} |"
    yield ""
    yield "The large factors come from clients that send many packets at once; where messages come one by one, a"
    yield "wake-up costs more than the message, and the two are alike."
    parts = [
        sentence.format(*(f"{of[broker].median(scenario, figure):,.0f}" for broker in of))
        for scenario, (figure, sentence) in MEMORY.items()
    ]
    yield ", ".join(parts) + "."


class _Figures:
    def __init__(self, summaries: Summaries, broker: str) -> None:
        self._summaries, self._broker = summaries, broker

    def median(self, scenario: str, figure: str) -> float:
        value = self._summaries[scenario, self._broker].median(figure)
        if value is None:
            raise LookupError(f"{scenario} of {self._broker} has no {figure}")
        return value


def _faults(summaries: Summaries) -> str:
    mine: Sequence[dict[str, int]] = [summaries[scenario, "fastmq"].faults() for scenario in SCENARIOS]
    if any(mine):
        return f"what went wrong with fastmq: {', '.join(str(each) for each in mine if each)}"
    return "no message of fastmq lost, repeated or out of order"


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}"


def text() -> str:
    origin, runs = recall(results.HISTORY)
    return "\n".join(["", *lines(origin, results.summarise(runs)), ""])


def main() -> None:
    write_into(PAGE, text(), MARK)


if __name__ == "__main__":
    main()
