"""`fastmq acl`: what the access control list says, and why."""

import asyncio
from typing import Any

import click

from fastmq import topics
from fastmq.cli import settings
from fastmq.errors import ConfigError, TopicFilterInvalid, TopicNameInvalid

EXIT_DENIED = 1


@click.group("acl")
def command() -> None:
    """Look into the access control list."""


@command.command("explain")
@settings.options
@click.option("-u", "--user", "username", metavar="NAME", help="The client's user name; without it, none.")
@click.option("-i", "--client", "client_id", metavar="ID", default="", help="The client identifier.")
@click.option("--address", default="127.0.0.1", show_default=True, help="The IP address it comes from.")
@click.option("--listener", default="", metavar="NAME", help="The listener it comes through.  [default: the first]")
@click.option("--group", "groups", multiple=True, metavar="NAME", help="A group that it has; repeat it for more.")
@click.option("--certificate", metavar="SUBJECT", default="", help="The subject of its certificate, CN=a,O=b.")
@click.option("-t", "--topic", required=True, help="The topic, or the filter of a subscription.")
@click.option("-q", "--qos", type=click.IntRange(0, 2), default=0, show_default=True)
@click.option("-r", "--retain", is_flag=True, help="Publish with the retain flag.")
@click.option(
    "--action", type=click.Choice(("publish", "subscribe", "read")), help="Only this one.  [default: all that fit]"
)
def explain(
    username: str | None,
    client_id: str,
    address: str,
    listener: str,
    groups: tuple[str, ...],
    certificate: str,
    topic: str,
    qos: int,
    retain: bool,
    action: str | None,
    **given: Any,
) -> None:
    """Say what a client may do with a topic, and which rule decides.

    "read" is to be sent what was published there. Ends with 1 when anything that was asked is denied.
    """
    from fastmq.auth.build import build_access
    from fastmq.auth.work import Work
    from fastmq.contracts import Client

    config = settings.gather(**given).config
    try:
        control = build_access(config, Work(1))
    except ConfigError as error:
        click.echo(error, err=True)
        raise SystemExit(settings.EXIT_WRONG_SETTING) from None
    actions = _actions(topic, action)
    if control is None:
        click.echo("There are no rules: see acl.rules and acl.file. Everything is allowed.")
        return
    client = Client(
        client_id=client_id,
        username=username,
        address=address,
        listener=listener or config.listen[0].title,
        groups=groups,
        certificate=certificate,
    )
    access = asyncio.run(control.access(client))
    if access is None:
        click.echo("There are no rules in the settings. What a token or a service says of a client is not known here.")
        return
    denied = False
    for each in actions:
        allowed, rule = _ask(access, each, topic, qos, retain)
        denied = denied or not allowed
        click.echo(f"{each:<10} {'allowed' if allowed else 'denied':<8} {control.place(access.serial, rule)}")
    raise SystemExit(EXIT_DENIED if denied else 0)


def _actions(topic: str, action: str | None) -> tuple[str, ...]:
    """What can be asked of this topic."""
    try:
        topics.parse_subscription(topic)
        if action == "subscribe":
            return ("subscribe",)
    except TopicFilterInvalid as error:
        raise click.BadParameter(str(error), param_hint="--topic") from None
    try:
        topics.validate_name(topic)
    except TopicNameInvalid as error:
        if action:
            raise click.BadParameter(str(error), param_hint="--topic") from None
        return ("subscribe",)
    return (action,) if action else ("publish", "subscribe", "read")


def _ask(access: Any, action: str, topic: str, qos: int, retain: bool) -> tuple[bool, int]:
    if action == "publish":
        answer = access.publish(topic.encode(), qos, retain)
    elif action == "read":
        answer = access.read(topic.encode())
    else:
        wanted = topics.parse_subscription(topic)
        answer = access.subscribe(wanted.filter.encode(), qos, wanted.group is not None)
    allowed, rule = answer
    return allowed, rule
