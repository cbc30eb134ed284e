"""`fastmq users`: the users that the broker keeps in its store."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from fastmq.cli.passwd import read_password
from fastmq.cli.store import path_of, told, which

EXIT_FAILED: Final = 1


@click.group("users")
def command() -> None:
    """Users that the broker keeps in its store: list, add, change and delete them.

    For `method = "builtin"` in auth.chain. A running broker notices within a second.
    """


@contextmanager
def refused() -> Iterator[None]:
    """Says in a line what was wrong with what was given, and ends the program with code 1."""
    try:
        yield
    except ValueError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(EXIT_FAILED)


@command.command("list")
@which
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each.")
def list_users(as_json: bool, **given: Any) -> None:
    """List them, without their passwords."""
    path = path_of(**given)
    import orjson

    from fastmq.auth.users import PREFIX
    from fastmq.store.facts import read_beside

    with told(path):
        facts = read_beside(path)
    for key in sorted(facts):
        if not key.startswith(PREFIX):
            continue
        user = {"user": key.removeprefix(PREFIX), **orjson.loads(facts[key])}
        user.pop("password_hash", None)
        if as_json:
            click.echo(orjson.dumps(user))
        else:
            groups = f"  groups: {', '.join(user['groups'])}" if user.get("groups") else ""
            rules = f"  rules: {len(user['acl'])}" if user.get("acl") else ""
            click.echo(f"{user['user']}{'  superuser' if user.get('is_superuser') else ''}{groups}{rules}")


@command.command("add")
@click.argument("name")
@which
@click.option("-P", "--password", help="The password. Others may see it on the command line; else it is asked for.")
@click.option("--hash", "hashed", help="The password's hash, as `fastmq passwd` makes it, instead of the password.")
@click.option("--superuser", is_flag=True, help="It may do everything.")
@click.option("-g", "--group", "groups", multiple=True, help="A group that it has; repeat it for more.")
@click.option(
    "-r",
    "--rule",
    "rules",
    multiple=True,
    metavar="RULE",
    help="What it may do, or not: 'allow publish up/${clientid}/#', 'deny all #'; repeat it for more.",
)
def add(
    name: str,
    password: str | None,
    hashed: str | None,
    superuser: bool,
    groups: tuple[str, ...],
    rules: tuple[str, ...],
    **given: Any,
) -> None:
    """Add a user, or replace one."""
    path = path_of(**given)
    from fastmq.auth import hashes
    from fastmq.auth.answers import access_rules
    from fastmq.auth.users import PREFIX, KeptUser
    from fastmq.store.facts import change_beside

    with refused(), told(path):
        parts = [rule.split(None, 2) for rule in rules]
        for rule, words in zip(rules, parts, strict=True):
            if len(words) != 3:
                raise ValueError(f"{rule!r} must be like 'allow publish up/#'")
        acl = [dict(zip(("permission", "action", "topic"), words, strict=True)) for words in parts]
        if hashed is not None:
            try:
                hashes.verify(hashed, b"")
            except hashes.BadHash as error:
                raise ValueError(f"the hash {error}") from None
        user = KeptUser(
            password_hash=hashed or hashes.make(read_password(password)),
            superuser=superuser,
            groups=groups,
            rules=access_rules(acl),
        )
        change_beside(path, {f"{PREFIX}{name}": user.fact()})


@command.command("delete")
@click.argument("name")
@which
def delete(name: str, **given: Any) -> None:
    """Delete a user. Who is connected stays until it connects again."""
    path: Path = path_of(**given)
    from fastmq.auth.users import PREFIX
    from fastmq.store.facts import change_beside, read_beside

    with refused(), told(path):
        if f"{PREFIX}{name}" not in read_beside(path):
            raise ValueError(f"there is no user {name}")
        change_beside(path, {f"{PREFIX}{name}": None})
