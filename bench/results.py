"""Results: one line of JSON per run in history/, and the median of the runs of one broker in one scenario."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from bench import machine
from bench.load import Figures

HISTORY: Final = Path(__file__).parent / "history"
# Figures that are zero (or false) in a clean run, and the word for them when they are not.
FAULTS: Final = ("lost", "duplicate", "reordered", "bad", "unacknowledged", "disconnects", "stalled")


@dataclass(frozen=True, slots=True)
class Run:
    """One scenario against one fresh broker process. `error` says why there are no figures."""

    scenario: str
    broker: str
    version: str
    mqtt: int
    quick: bool
    figures: Figures = field(default_factory=dict)
    error: str = ""

    def line(self) -> str:
        """Its line of history."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        record: dict[str, object] = {"time": now, **machine.describe()}
        record |= {"scenario": self.scenario, "broker": self.broker, "version": self.version, "mqtt": self.mqtt}
        record |= {"quick": self.quick, "figures": self.figures}
        if self.error:
            record["error"] = self.error.partition("\n")[0]  # what follows are logs, with local paths
        return json.dumps(record, ensure_ascii=False)


def remember(run: Run, directory: Path) -> None:
    """Append a run to today's file."""
    directory.mkdir(parents=True, exist_ok=True)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    with (directory / f"{today}.jsonl").open("a", encoding="utf-8") as file:
        file.write(run.line() + "\n")


@dataclass(frozen=True, slots=True)
class Summary:
    """All runs of one broker in one scenario."""

    runs: tuple[Run, ...]

    @property
    def good(self) -> list[Run]:
        return [run for run in self.runs if run.figures]

    def values(self, figure: str) -> list[float]:
        return [float(run.figures[figure]) for run in self.good if figure in run.figures]

    def median(self, figure: str) -> float | None:
        values = self.values(figure)
        return median(values) if values else None

    def spread(self, figure: str) -> float:
        """Half the distance between the extremes, as a part of the median."""
        values = self.values(figure)
        middle = median(values) if values else 0
        return (max(values) - min(values)) / 2 / middle if middle else 0.0

    def faults(self) -> dict[str, int]:
        """What went wrong, summed over the runs: never averaged away."""
        sums = {name: sum(int(value) for value in self.values(name)) for name in FAULTS}
        sums["failed"] = len(self.runs) - len(self.good)
        return {name: total for name, total in sums.items() if total}


def summarise(runs: Iterable[Run]) -> dict[tuple[str, str], Summary]:
    """By (scenario, broker), in the order of the runs."""
    grouped: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        grouped.setdefault((run.scenario, run.broker), []).append(run)
    return {key: Summary(tuple(group)) for key, group in grouped.items()}
