"""`python -m bench`: interleaved runs of every scenario against every broker, remembered and shown side by side."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench import load, results, rivals, table
from bench.results import Run
from bench.rivals import DURABLE, FASTMQ, RIVALS, Rival
from bench.scenarios import SCENARIOS, Scenario

BEGIN: Final = "<!-- figures: written by python -m bench --write -->"
END: Final = "<!-- end of figures -->"


def run_once(scenario: Scenario, broker: Rival, *, seconds: float, mqtt: int, quick: bool, version: str) -> Run:
    """One fresh broker, one load; the broker on the first core and the generator on the second, where there are two."""
    broker_core, load_core = (0, 1) if (os.cpu_count() or 1) > 1 else (None, None)
    command = scenario.command(seconds=seconds, mqtt=mqtt, quick=quick)
    try:
        with rivals.running(broker, core=broker_core) as running:
            start_mb = running.memory_mb("VmRSS")
            figures = load.measure(command, port=running.port, pid=running.pid, core=load_core)
            running.check_alive()
            figures |= {"rss_start_mb": start_mb, "rss_peak_mb": running.memory_mb("VmHWM")}
    except (load.LoadError, rivals.RivalError) as failure:
        return Run(scenario.name, broker.name, version, mqtt, quick, error=str(failure))
    return Run(scenario.name, broker.name, version, mqtt, quick, figures)


def chosen_brokers(names: Sequence[str], with_fastmq: bool) -> list[Rival]:
    """fastmq first, then the rivals, each of them installed."""
    wanted = list(RIVALS) if "all" in names else [name for name in RIVALS if name in names]
    brokers = [RIVALS[name] for name in wanted]
    for rival in brokers:
        rivals.install(rival)
    return [FASTMQ, *brokers] if with_fastmq else brokers


def compared(scenario: Scenario, brokers: Sequence[Rival]) -> list[Rival]:
    """The chosen brokers, as this scenario compares them."""
    if not scenario.durable:
        return list(brokers)
    return [variant for broker in brokers for variant in DURABLE.get(broker.name, ())]


@contextlib.contextmanager
def held(lock: Path | None) -> Iterator[None]:
    """Hold the lock file, if there is one, so that runs of several people take turns."""
    if lock is None:
        yield
        return
    with lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def repeatable(words: Sequence[str]) -> str:
    """The command for others to repeat, without what only concerns this machine."""
    kept: list[str] = []
    local = False
    for word in words:
        if not local and word not in ("--lock", "--history", "--write"):
            kept.append(word)
        local = word in ("--lock", "--history", "--write")
    return shlex.join(["python", "-m", "bench", *kept])


def write_into(page: Path, figures: str, mark: str = BEGIN) -> None:
    """Replace the figures between the mark and the END of a Markdown page."""
    text = page.read_text(encoding="utf-8")
    head, begin, rest = text.partition(mark)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise click.ClickException(f"{page} has no place for figures: {mark} ... {END}")
    page.write_text(f"{head}{begin}\n{figures}{end}{tail}", encoding="utf-8")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--scenario", "names", multiple=True, type=click.Choice([*SCENARIOS, "all"]), default=["all"])
@click.option(
    "--rival", "rival_names", multiple=True, type=click.Choice([*RIVALS, "all", "none"]), default=["mosquitto"]
)
@click.option("--fastmq/--no-fastmq", "with_fastmq", default=True, help="Measure fastmq too.")
@click.option("--runs", default=3, type=click.IntRange(1), help="Runs of each scenario with each broker.")
@click.option("--seconds", default=3.0, type=click.FloatRange(0.1), help="Measured time of a run.")
@click.option("--mqtt", default="3.1.1", type=click.Choice(["3.1.1", "5"]), help="Protocol version of the load.")
@click.option("--quick", is_flag=True, help="One run of 0.5 s, smaller tables: a look, not a measurement.")
@click.option("--history", default=results.HISTORY, type=click.Path(path_type=Path), help="Where each run is kept.")
@click.option("--write", "page", type=click.Path(exists=True, path_type=Path), help="Markdown page for the tables.")
@click.option("--lock", type=click.Path(path_type=Path), help="File to hold locked during each run.")
@click.option("--list", "listing", is_flag=True, help="Name the scenarios and stop.")
def main(
    names: tuple[str, ...],
    rival_names: tuple[str, ...],
    with_fastmq: bool,
    runs: int,
    seconds: float,
    mqtt: str,
    quick: bool,
    history: Path,
    page: Path | None,
    lock: Path | None,
    listing: bool,
) -> None:
    """Load fastmq and its rivals in turn and print the figures side by side."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    if listing:
        for scenario in SCENARIOS.values():
            console.print(f"{scenario.name:16} {scenario.meaning}")
        return
    protocol = 5 if mqtt == "5" else 4
    runs, seconds = (1, 0.5) if quick else (runs, seconds)
    try:
        load.build()
        brokers = [b for b in chosen_brokers(rival_names, with_fastmq) if protocol in b.mqtt]
    except (load.LoadError, rivals.RivalError) as failure:
        raise click.ClickException(str(failure)) from None
    scenarios = list(SCENARIOS.values()) if "all" in names else [SCENARIOS[name] for name in names]
    plan = [
        (scenario, broker)
        for scenario in scenarios
        for _ in range(runs)
        for broker in compared(scenario, brokers)
        if scenario.name not in broker.too_slow_for
    ]
    versions = {name: broker.version() for name, broker in {broker.name: broker for _, broker in plan}.items()}
    done: list[Run] = []
    columns = (TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(plan))
        for scenario, broker in plan:
            progress.update(task, description=f"{scenario.name} / {broker.name}")
            version = versions[broker.name]
            with held(lock):
                run = run_once(scenario, broker, seconds=seconds, mqtt=protocol, quick=quick, version=version)
            results.remember(run, history)
            if run.error:
                progress.console.print(f"{scenario.name} / {broker.name}: {run.error}", style="red", markup=False)
            done.append(run)
            progress.advance(task)
    summaries = results.summarise(done)
    order = list(versions)
    table.show(console, summaries, order)
    if page:
        write_into(page, table.markdown(summaries, order, versions, repeatable(sys.argv[1:]), runs, protocol))
    if any(run.error for run in done):
        raise click.ClickException("some runs failed")


if __name__ == "__main__":
    main(prog_name="python -m bench")
