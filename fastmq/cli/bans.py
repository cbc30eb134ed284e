"""`fastmq bans`: who may not connect, as the broker keeps it in its store."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from fastmq.cli.store import path_of, told, which
from fastmq.cli.users import refused

BY: Final = ("client_id", "username", "address", "client_id_regex", "username_regex")
UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@click.group("bans")
def command() -> None:
    """Who may not connect: list, add and delete bans in the broker's store.

    A running broker notices within a second, and disconnects who is banned. Those of the settings, `bans.rules`, are
    not among them.
    """


@command.command("list")
@which
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each.")
def list_bans(as_json: bool, **given: Any) -> None:
    """List them."""
    path = path_of(**given)
    import orjson

    from fastmq.broker.bans import PREFIX
    from fastmq.store.facts import read_beside

    with told(path):
        facts = read_beside(path)
    for key in sorted(facts):
        if not key.startswith(PREFIX):
            continue
        by, _, value = key.removeprefix(PREFIX).partition("/")
        ban = orjson.loads(facts[key])
        if as_json:
            click.echo(orjson.dumps({"by": by, "value": value, **ban}))
        else:
            until = f"  until {ban['until']}" if ban.get("until") else ""
            click.echo(f"{by:<16}{value}{until}{'  ' + ban['reason'] if ban.get('reason') else ''}")


@command.command("add")
@click.argument("by", type=click.Choice(BY))
@click.argument("value")
@which
@click.option("--until", default="", help="When it ends, `2027-01-31T12:00:00Z`; without it: never.")
@click.option("--for", "span", metavar="SPAN", help="After how long it ends: `90s`, `15m`, `12h`, `7d`.")
@click.option("--reason", default="", help="Why, for the log.")
def add(by: str, value: str, until: str, span: str | None, reason: str, **given: Any) -> None:
    """Ban somebody."""
    path = path_of(**given)
    from fastmq.broker.bans import KINDS, fact_of
    from fastmq.store.facts import change_beside

    with refused(), told(path):
        if until and span:
            raise ValueError("--until and --for are two ways to say the same")
        if span is not None:
            found = re.fullmatch(r"(\d{1,9})([smhd])", span)
            if found is None:
                raise ValueError(f"--for must be like 90s, 15m, 12h or 7d, not {span!r}")
            end = datetime.now(UTC) + timedelta(seconds=int(found[1]) * UNITS[found[2]])
            until = end.strftime("%Y-%m-%dT%H:%M:%SZ")
        ban = KINDS[by](value=value, until=until, reason=reason)
        if not value:
            raise ValueError("value must not be empty")
        if wrong := ban.wrong():
            raise ValueError(f"{wrong[0]} {wrong[1]}")
        change_beside(path, dict([fact_of(ban)]))


@command.command("delete")
@click.argument("by", type=click.Choice(BY))
@click.argument("value")
@which
def delete(by: str, value: str, **given: Any) -> None:
    """End a ban."""
    path = path_of(**given)
    from fastmq.broker.bans import PREFIX
    from fastmq.store.facts import change_beside, read_beside

    with refused(), told(path):
        key = f"{PREFIX}{by}/{value}"
        if key not in read_beside(path):
            raise ValueError(f"there is no ban by {by} of {value}")
        change_beside(path, {key: None})
