"""The `fastmq` command. Each subcommand is one thin file, imported when it is called for."""

from collections.abc import Iterator
from importlib import import_module
from typing import Final, NamedTuple

import click

from fastmq import __version__


class Entry(NamedTuple):
    """Where a subcommand is, and its line in `fastmq --help`, which must not import it."""

    module: str
    summary: str


COMMANDS: Final = {
    "serve": Entry("fastmq.cli.serve", "Run a broker."),
    "check": Entry("fastmq.cli.check", "Check the settings, and say where each came from."),
    "passwd": Entry("fastmq.cli.passwd", "Add, change and delete the users of a password file."),
    "users": Entry("fastmq.cli.users", "List, add, change and delete the users in the broker's store."),
    "bans": Entry("fastmq.cli.bans", "List, add and delete the bans in the broker's store."),
    "cluster": Entry("fastmq.cli.cluster", "Say which nodes of a cluster are there, and how they are."),
    "acl": Entry("fastmq.cli.acl", "Say what a client may publish and subscribe to, and why."),
    "pub": Entry("fastmq.cli.pub", "Publish messages."),
    "sub": Entry("fastmq.cli.sub", "Subscribe, and print what arrives."),
    "store": Entry("fastmq.cli.store", "Look into what the broker keeps, copy it, and carry it elsewhere."),
    "verify-crash": Entry("fastmq.cli.verify_crash", "Prove on this machine that a crash loses nothing."),
    "completion": Entry("fastmq.cli.completion", "Print the script that completes commands in a shell."),
}
"""Each module has its click command under the name `command`."""


class Subcommands(click.Group):
    """A group whose commands are modules."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = import_module(COMMANDS[cmd_name].module).command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with a "did you mean"."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}." + "".join(_close(args[0])))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])


def _close(given: str) -> Iterator[str]:
    from difflib import get_close_matches

    for name in get_close_matches(given, COMMANDS, n=1):
        yield f" Did you mean {name!r}?"


@click.group(cls=Subcommands)
@click.version_option(__version__, message="fastmq %(version)s")
def main() -> None:
    """fastmq: an MQTT broker (3.1, 3.1.1, 5.0) and its tools."""
