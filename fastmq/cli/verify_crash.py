"""`fastmq verify-crash`: the crash proof on the user's own machine, with a verdict of one page."""

from __future__ import annotations

import os
import platform
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Final

import click

from fastmq import __version__

if TYPE_CHECKING:
    from fastmq.testing.crash import Verdict

EXIT_LOST: Final = 1
EXIT_CANNOT: Final = 2

KILL, POWER_LOSS = "kill", "power-loss"

WHAT: Final = {
    KILL: "the broker's process, killed with kill -9",
    POWER_LOSS: "simulated power loss: what was not synced is gone",
}
NAMES: Final = {
    "lost": "lost",
    "repeated": "QoS 2 twice",
    "reordered": "out of order",
    "ghosts": "after unsubscribing",
    "damaged": "damaged",
    "sessions_lost": "sessions lost",
    "retained_wrong": "retained wrong",
    "broken": "other failures",
}


@click.command("verify-crash")
@click.option("--rounds", type=click.IntRange(1), default=100, show_default=True, help="How often the broker ends.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Where the store is made: on the disk that is to be tested.  [default: the current folder]",
)
@click.option("--kill", "end", flag_value=KILL, default=True, help="End it with kill -9: the default.")
@click.option("--power-loss", "end", flag_value=POWER_LOSS, help="And lose what was not synced (needs a C compiler).")
@click.option("--qos", type=click.Choice(("1", "2")), multiple=True, help="Publish with this QoS only.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as a JSON object.")
def command(rounds: int, folder: Path, end: str, qos: tuple[str, ...], as_json: bool) -> None:
    """Prove on this machine that a crash loses nothing.

    A broker of its own, on a free port and a new store, is ended again and again while publishers and subscribers use
    it. Afterwards every acknowledged message must be there: QoS 1 at least once, QoS 2 exactly once, in order.
    Ends with 0 only if that is so, else with 1.

    kill -9 proves that a crash of the process loses nothing. --power-loss simulates that the operating system
    goes, too, and takes along what was not synced. Whether the disk itself keeps what it says it has written, only a
    real power cut tests.
    """
    from fastmq.testing.crash import End, Plan, prove
    from fastmq.testing.crash_broker import DidNotStart
    from fastmq.testing.powerloss import NoCompiler

    folder.mkdir(parents=True, exist_ok=True)
    store = Path(mkdtemp(prefix="fastmq-verify-crash-", dir=folder.resolve()))
    plan = Plan(
        folder=store,
        rounds=rounds,
        ends=(End.KILL if end == KILL else End.POWER_LOSS,),
        qos=sorted(map(int, set(qos))) or (1, 2),
        seed=secrets.randbits(32),
    )
    try:
        with _progress(rounds) as on_round:
            verdict = prove(plan, on_round)
    except (DidNotStart, NoCompiler) as error:
        click.echo(f"{error}\nthe store is left in {store}", err=True)
        sys.exit(EXIT_CANNOT)
    if verdict.is_clean:
        _remove(store)
    if as_json:
        _print_json(verdict, end, folder)
    else:
        _print_page(verdict, end, folder, plan.qos)
        if not verdict.is_clean:
            click.echo(f"\nThe store and the broker's log are left in {store}")
    sys.exit(0 if verdict.is_clean else EXIT_LOST)


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)


@contextmanager
def _progress(rounds: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, if that is a terminal and rich is there."""
    if not sys.stderr.isatty():
        yield lambda number: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        yield lambda number: click.echo(f"\rround {number} of {rounds}", nl=number == rounds, err=True)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("crashes", total=rounds)
        yield lambda number: progress.update(task, completed=number)


# -- the verdict -------------------------------------------------------------------------------------------------------


def _place(folder: Path) -> dict[str, str]:
    """Where it was proved."""
    return {
        "machine": f"{_model()}, {os.cpu_count()} CPUs, {platform.machine()}",
        "kernel": f"{platform.system()} {platform.release()}",
        "file system": _file_system(folder.resolve()),
        "python": platform.python_version(),
        "fastmq": __version__,
    }


def _model() -> str:
    board = Path("/proc/device-tree/model")
    if board.exists():
        return board.read_text().strip("\0\n ")
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.node()


def _file_system(folder: Path) -> str:
    """Type, device and options of the mount that holds `folder`."""
    best, shown = "", "unknown"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, source = line.partition(" - ")
        point, options = mount.split()[4:6]
        if folder.is_relative_to(point) and len(point) >= len(best):
            kind, device, more = source.split()[:3]
            flags = dict.fromkeys([*options.split(","), *more.split(",")])
            best, shown = point, f"{kind} on {device} ({','.join(flags)})"
    return shown


def _print_json(verdict: Verdict, end: str, folder: Path) -> None:
    from dataclasses import asdict

    import orjson

    place = {name.replace(" ", "_"): value for name, value in _place(folder).items()}
    found = {**place, "ended_by": end, "clean": verdict.is_clean, **asdict(verdict)}
    click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2))


def _print_page(verdict: Verdict, end: str, folder: Path, qos: Sequence[int]) -> None:
    for name, value in _place(folder).items():
        _line(name, value)
    click.echo()
    _line("tested", WHAT[end])
    _line("rounds", f"{verdict.rounds}, with {verdict.crashes} ends, in {verdict.seconds:.0f} s")
    _line("published", f"{verdict.published:,} messages, QoS {' and '.join(map(str, qos))}")
    _line("acknowledged", f"{verdict.acknowledged:,}" + (f", refused {verdict.refused:,}" if verdict.refused else ""))
    _line("delivered", f"{verdict.delivered:,}, to all subscribers together")
    _line("recovered", f"{verdict.recovered:,} of these were acknowledged before an end, and arrived after it")
    _line("duplicates", f"{verdict.duplicates:,} with QoS 1, where they are allowed")
    click.echo()
    for name, count in verdict.violations.items():
        if count or name in ("lost", "repeated", "reordered"):
            _line(NAMES[name], click.style(f"{count:,}", fg="red" if count else "green", bold=True))
    if verdict.is_clean:
        click.echo("\n" + click.style("Nothing that was acknowledged is lost.", fg="green", bold=True))
        return
    click.echo("\n" + click.style("The proof FAILED. The first violations:", fg="red", bold=True))
    for detail in verdict.details:
        click.echo(f"  {detail}")


def _line(name: str, value: str) -> None:
    click.echo(f"{name:<20}{value}")
