"""`-D command identifier value`: MQTT 5 properties on the command line, as mosquitto_pub and mosquitto_sub take them.

The option takes three words, or four for a user property, which click cannot say. So `PropertyCommand` picks them out
of the arguments before click reads the rest.
"""

from collections.abc import Iterator
from typing import Final

import click

from fastmq.packets import PROPERTY_TABLE, PacketType, Properties

__all__ = ["PropertyCommand", "properties_of"]

COMMANDS: Final[dict[str, int]] = {
    "connect": PacketType.CONNECT,
    "publish": PacketType.PUBLISH,
    "subscribe": PacketType.SUBSCRIBE,
    "unsubscribe": PacketType.UNSUBSCRIBE,
    "disconnect": PacketType.DISCONNECT,
    "will": 0,
}
_SINGULAR: Final = {"user_properties": "user-property", "subscription_identifiers": "subscription-identifier"}
_BY_NAME: Final = {_SINGULAR.get(row[2], row[2].replace("_", "-")): row for row in PROPERTY_TABLE}
_LIMITS: Final = {"byte": 0xFF, "two": 0xFFFF, "four": 0xFFFFFFFF, "varint": 268_435_455}
_OPTIONS: Final = ("-D", "--property")
_META: Final = "fastmq.properties"


class PropertyCommand(click.Command):
    """A command with `-D`. What was given is in `properties_of(ctx)`, by packet."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        found: dict[str, Properties] = {}
        rest = list(self._without_properties(args, found))
        ctx.meta[_META] = found
        return super().parse_args(ctx, rest)

    def _without_properties(self, args: list[str], found: dict[str, Properties]) -> Iterator[str]:
        with_value = {
            name
            for param in self.params
            if isinstance(param, click.Option) and not param.is_flag and not param.count
            for name in param.opts
        }
        words = iter(args)
        for word in words:
            if word in _OPTIONS:
                _take(words, found)
            elif word == "--":
                yield word
                yield from words
            else:
                yield word
                if word in with_value and (value := next(words, None)) is not None:
                    yield value

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        with formatter.section("MQTT 5 properties"):
            formatter.write_dl(
                [
                    (
                        "-D, --property PACKET NAME VALUE",
                        f"PACKET is {', '.join(COMMANDS)}; NAME as in the specification, with dashes: "
                        "-D publish content-type text/plain, -D publish user-property KEY VALUE. Implies -V 5.",
                    )
                ]
            )


def properties_of(ctx: click.Context) -> dict[str, Properties]:
    """The properties given with `-D`, by the packet they are for."""
    found: dict[str, Properties] = ctx.meta.get(_META, {})
    return found


def _take(words: Iterator[str], found: dict[str, Properties]) -> None:
    command, name, value = next(words, None), next(words, None), next(words, None)
    if command is None or name is None or value is None:
        raise click.UsageError("-D needs a packet, the name of a property and its value.")
    if command.lower() not in COMMANDS:
        raise click.UsageError(f"-D: no packet {command!r}; there are {', '.join(COMMANDS)}.")
    if name not in _BY_NAME:
        raise click.UsageError(f"-D: no property {name!r}; there are {', '.join(sorted(_BY_NAME))}.")
    _, kind, field, where = _BY_NAME[name]
    if COMMANDS[command.lower()] not in where:
        raise click.UsageError(f"-D: {name} does not belong into {command}.")
    properties = found.setdefault(command.lower(), Properties())
    if kind == "pair":
        second = next(words, None)
        if second is None:
            raise click.UsageError("-D: user-property needs a name and a value.")
        properties.user_properties.append((value, second))
    elif kind == "varint":
        properties.subscription_identifiers.append(_number(name, value, _LIMITS[kind]))
    elif kind == "text":
        setattr(properties, field, value)
    elif kind == "binary":
        setattr(properties, field, value.encode("utf-8", "surrogateescape"))
    elif kind == "flag":
        setattr(properties, field, _number(name, value, 1) == 1)
    else:
        setattr(properties, field, _number(name, value, _LIMITS[kind]))


def _number(name: str, value: str, highest: int) -> int:
    if not value.isascii() or not value.isdigit() or int(value) > highest:
        raise click.UsageError(f"-D: {name} must be a number from 0 to {highest}, not {value!r}.")
    return int(value)
