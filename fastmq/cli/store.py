"""`fastmq store`: look into what the broker keeps, copy it, and carry it elsewhere."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from fastmq.cli import settings
from fastmq.cli.progress import Bar

EXIT_FAILED: Final = 1
STANDARD: Final = "-"


@click.group("store")
def command() -> None:
    """Look into what the broker keeps, copy it, and carry it elsewhere.

    The store is the one that `fastmq serve` would open with the same settings, or that of --store. All but import
    work while a broker has it open, too.
    """


def which(function: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options that say which store; `path_of` takes them."""
    named = click.option("--store", type=click.Path(path_type=Path), metavar="FILE", help="The store.")
    for option in (settings.set_option, settings.config_option, named):
        function = option(function)
    return function


def path_of(store: Path | None, **given: Any) -> Path:
    loaded = settings.gather(**given)
    if store is not None:
        return store
    from fastmq.config.location import store_path

    return store_path(loaded.config)


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Says in a line what went wrong, and ends the program with code 1."""
    import sqlite3

    from fastmq.errors import StartError, StoreError
    from fastmq.store.journal import Damaged

    try:
        yield
        return
    except (StoreError, StartError) as error:
        click.echo(error, err=True)
    except (Damaged, sqlite3.DatabaseError) as error:
        click.echo(f"{path}: the store is damaged: {error}", err=True)
        click.echo("`fastmq store check` says more; `fastmq serve` puts it aside and saves what can be read", err=True)
    except OSError as error:
        click.echo(f"{error.filename or path}: {error.strerror}", err=True)
    sys.exit(EXIT_FAILED)


# -- looking -----------------------------------------------------------------------------------------------------------


@command.command("stat")
@which
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def stat(as_json: bool, **given: Any) -> None:
    """Say what is in the store, and how large it is."""
    path = path_of(**given)
    from fastmq.store.backup import figures

    with told(path):
        found = figures(path)
    if as_json:
        import orjson

        click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2))
        return
    import time

    found["last_commit"] = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(int(found.pop("last_commit_ms")) / 1000))
    _print_table(
        {name.replace("_", " "): value if isinstance(value, str) else f"{value:,}" for name, value in found.items()}
    )


def _print_table(rows: Mapping[str, str]) -> None:
    """With rich on a terminal; in columns elsewhere."""
    if sys.stdout.isatty():
        try:
            from rich.console import Console
            from rich.table import Table
        except ImportError:
            pass
        else:
            table = Table("figure", "value")
            table.columns[1].justify = "right"
            for name, value in rows.items():
                table.add_row(name, value)
            Console(markup=False).print(table)
            return
    for name, value in rows.items():
        click.echo(f"{name:<18}{value}")


@command.command("check")
@which
def check(**given: Any) -> None:
    """Read all of the store, and say what is wrong with it.

    Ends with 0 when nothing is, else with 1. Nothing is changed.
    """
    path = path_of(**given)
    from fastmq.store.checking import check as look

    with told(path):
        found = look(path)
    for line in found.damage + found.dangling:
        click.echo(f"{path}: {line}", err=True)
    for line in found.notes:
        click.echo(line)
    if found.is_sound:
        click.echo(f"{path}: the store is sound")
        return
    if found.damage:
        click.echo(
            "When the broker starts, it keeps this file beside the store as FILE.damaged-TIME, saves all that can be "
            "read of it into a new one, and says what that was.",
            err=True,
        )
    else:
        click.echo("When the broker starts, it leaves these out.", err=True)
    sys.exit(EXIT_FAILED)


# -- carrying ----------------------------------------------------------------------------------------------------------


@command.command("export")
@which
@click.argument("file", default=STANDARD, metavar="[FILE|-]")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
def export(file: str, force: bool, **given: Any) -> None:
    """Write all of the store as JSON lines, as it is at this moment.

    Without FILE to standard output. docs/howto/durability.md describes the lines.
    """
    path = path_of(**given)
    from fastmq.store.snapshot import Snapshot
    from fastmq.store.transfer import export_lines

    with told(path), Snapshot(path) as snapshot, Bar("exporting") as bar:
        total = snapshot.lines()
        lines = export_lines(snapshot, lambda done: bar(done, total))
        if file == STANDARD:
            _write(lines, sys.stdout.buffer.write)
            sys.stdout.buffer.flush()
        else:
            _write_file(lines, Path(file), force)


def _write(lines: Iterable[bytes], write: Callable[[bytes], object]) -> None:
    for some in lines:
        write(some)


def _write_file(lines: Iterable[bytes], file: Path, force: bool) -> None:
    """FILE has all of it, or is as it was."""
    import os

    from fastmq.errors import StoreError

    if file.exists() and not force:
        raise StoreError("failed", f"{file}: is there already; --force overwrites it")
    if file.exists() and not file.is_file():  # a pipe or a device
        with file.open("wb") as out:
            _write(lines, out.write)
        return
    part = file.with_name(file.name + ".part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as out:
            _write(lines, out.write)
            out.flush()
            os.fsync(out.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


@command.command("import")
@which
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--replace", is_flag=True, help="What the store has is replaced. No broker may have it open.")
def import_(file: Path, replace: bool, **given: Any) -> None:
    """Make a store of FILE, which `fastmq store export` wrote.

    All of it, or nothing: when a line is wrong, each wrong one is told with its number, and the store stays as it was.
    """
    path = path_of(**given)
    from fastmq.store.transfer import WrongFile, import_lines

    with told(path), click.open_file(str(file), "rb") as lines, Bar("importing", in_bytes=True) as bar:
        size = file.stat().st_size if file.is_file() else 0
        try:
            counts = import_lines(_followed(lines, size, bar), path, replace=replace)
        except WrongFile as error:
            for number, what in error.problems:
                click.echo(f"{file}:{number}: {what}", err=True)
            click.echo("nothing was imported", err=True)
            sys.exit(EXIT_FAILED)
    click.echo(f"{path}: imported" + "".join(f" {name}={count}" for name, count in counts.items()))


def _followed(lines: Iterable[bytes], size: int, bar: Bar) -> Iterator[bytes]:
    done = 0
    for line in lines:
        done += len(line)
        bar(min(done, size - 1), size)
        yield line


@command.command("backup")
@which
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite FILE.")
def backup(file: Path, force: bool, **given: Any) -> None:
    """Copy the store to FILE, also while a broker commits to it.

    FILE is a store itself: all that was acknowledged before this began is in it.
    """
    path = path_of(**given)
    from fastmq.store.backup import backup as copy

    with told(path), Bar("copying", in_bytes=True) as bar:
        size = copy(path, file, force=force, progress=bar)
    click.echo(f"{file}: {size:,} bytes")
