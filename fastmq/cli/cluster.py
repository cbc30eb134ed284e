"""`fastmq cluster`: how the nodes of a cluster are."""

import sys
from typing import Any, Final

import click

from fastmq.cli import settings
from fastmq.errors import StartError

COLUMNS: Final = ("node", "worker", "state", "clients", "sessions", "waiting", "version", "up for", "sees")


@click.group("cluster")
def command() -> None:
    """Look at a cluster: at the host of a node, with its settings; or from elsewhere, with --cluster and --join."""


@command.command("status")
@settings.options
@click.option("--wait", "wait_s", type=click.FloatRange(0.5, 60), default=3.0, help="So long answers are waited for.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each worker.")
def status(as_json: bool, wait_s: float, **given: Any) -> None:
    """Say which nodes are there, and how they are.

    Ends with 1 when none is there, or one does not answer.
    """
    config = settings.gather(**given).config
    if not config.cluster.name:
        click.echo("cluster.name is missing: say which cluster, by --cluster or the settings", err=True)
        sys.exit(settings.EXIT_WRONG_SETTING)
    from fastmq.fabric.asking import ask

    try:
        found = ask(config.cluster, wait_s)
    except StartError as error:
        click.echo(error, err=True)
        sys.exit(1)
    rows = _with_unreachable([_row(peer, said) for peer, said in found])
    if as_json:
        import orjson

        for row in rows:
            click.echo(orjson.dumps(row))
    elif rows:
        _print(rows)
    if not rows:
        click.echo(f"no node of the cluster {config.cluster.name} is in sight; see --join", err=True)
    if not rows or any(row["state"] == "silent" for row in rows):
        sys.exit(1)


def _row(peer: Any, said: dict[str, Any] | None) -> dict[str, Any]:
    state = "silent" if said is None else f"stands in at {peer.at}" if peer.at != peer.node else "up"
    return {"node": peer.node, "worker": peer.worker, "workers": peer.count, "state": state, "sees": [], **(said or {})}


def _with_unreachable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With those that others see, and we do not."""
    there = {(row["node"], row["worker"]) for row in rows}
    seen = {
        (node, int(worker or 0)) for row in rows for node, _, worker in (name.partition("/") for name in row["sees"])
    }
    rows = rows + [{"node": node, "worker": worker, "state": "silent", "sees": []} for node, worker in seen - there]
    return sorted(rows, key=lambda row: (row["node"], row["worker"]))


def _print(rows: list[dict[str, Any]]) -> None:
    cells = [
        (
            row["node"],
            str(row["worker"]),
            row["state"],
            str(row.get("connections", "")),
            str(row.get("sessions", "")),
            str(row.get("backlog_bytes", "")),
            str(row.get("version", "")),
            _span(row["uptime_s"]) if "uptime_s" in row else "",
            ", ".join(row["sees"]),
        )
        for row in rows
    ]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(*COLUMNS)
        for row in cells:
            table.add_row(*row, style="" if row[2] != "silent" else "bold red")
        Console(markup=False).print(table)
        return
    widths = [max(len(row[at]) for row in (COLUMNS, *cells)) for at in range(len(COLUMNS))]
    for row in (COLUMNS, *cells):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _span(seconds: float) -> str:
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}d {hours}h" if days else f"{hours}h {minutes}m" if hours else f"{minutes}m {left}s"
