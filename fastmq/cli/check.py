"""`fastmq check`: validate the settings, print them, and where each came from."""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import click

from fastmq.cli import settings
from fastmq.config import location
from fastmq.config.load import DEFAULT, Loaded
from fastmq.config.schema import declared
from fastmq.config.values import plain, shown
from fastmq.errors import StartError


class Row(NamedTuple):
    key: str
    value: object
    default: object
    origin: str


@click.command("check")
@settings.options
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object: key -> value, default, origin.")
def command(as_json: bool, **given: Any) -> None:
    """Check the settings, print them, and say where each came from.

    Ends with 0 when `fastmq serve` would take them, else with 2 and a line for each wrong one.
    """
    loaded = settings.gather(**given)
    try:
        location.check(loaded.config)
    except StartError as error:
        click.echo(error, err=True)
        sys.exit(settings.EXIT_WRONG_SETTING)
    rows = _rows(loaded)
    if as_json:
        import orjson

        table = {
            row.key: {"value": plain(row.value), "default": plain(row.default), "origin": row.origin} for row in rows
        }
        click.echo(orjson.dumps(table, option=orjson.OPT_INDENT_2))
    elif not _print_table(rows):
        _print_columns(rows)


def _rows(loaded: Loaded) -> list[Row]:
    return [
        Row(key, _value(loaded, each.section, each.name), each.default, loaded.origins[key])
        for key, each in declared().items()
    ]


def _value(loaded: Loaded, section: str, name: str) -> object:
    return getattr(getattr(loaded.config, section) if section else loaded.config, name)


def _print_table(rows: Sequence[Row]) -> bool:
    """Whether it was printed: only on a terminal, and when rich is there."""
    if not sys.stdout.isatty():
        return False
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        return False
    table = Table("setting", "value", "from")
    for row in rows:
        style = "dim" if row.origin == DEFAULT else "bold"
        table.add_row(row.key, shown(row.value), row.origin, style=style)
    Console(markup=False).print(table)
    return True


def _print_columns(rows: Sequence[Row]) -> None:
    cells = [(row.key, shown(row.value), row.origin) for row in rows]
    widths = [max(len(cell[column]) for cell in cells) for column in (0, 1)]
    for key, value, origin in cells:
        click.echo(f"{key:<{widths[0]}}  {value:<{widths[1]}}  {origin}")
