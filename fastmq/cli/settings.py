"""The options with which commands take settings, and what happens when one is wrong."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from fastmq.config import Loaded, load
from fastmq.config.load import Flag
from fastmq.config.schema import declared
from fastmq.errors import ConfigError, Problem

EXIT_WRONG_SETTING: Final = 2

_LEVELS: Final = tuple(map(str, declared()["log.level"].setting.choices))


config_option: Final = click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    envvar="FASTMQ_CONFIG",
    metavar="FILE",
    help="The settings, in TOML.  [env: FASTMQ_CONFIG]",
)
set_option: Final = click.option(
    "-s",
    "--set",
    "settings",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Set one setting; repeat it for more. docs/reference/config.md has them all.",
)


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give `command` the arguments that `gather` takes."""
    for option in reversed(
        (
            config_option,
            click.option(
                "-l",
                "--listen",
                multiple=True,
                metavar="URL",
                help="Listen here, as tcp://127.0.0.1:1883; repeat it for more. Port 0: any free port.",
            ),
            set_option,
            click.option(
                "-w", "--workers", metavar="N|auto", help="The same as --set workers.count=...: how many processes."
            ),
            click.option(
                "--cluster",
                metavar="NAME",
                help="The same as --set cluster.name=...: be one broker with those of this name.",
            ),
            click.option(
                "--join",
                multiple=True,
                metavar="HOST[:PORT]",
                help="A node of the cluster to begin with; repeat it for more. The same as --set cluster.join=...",
            ),
            click.option("--log-level", type=click.Choice(_LEVELS), help="The same as --set log.level=..."),
        )
    ):
        command = option(command)
    return command


def gather(
    config: Path | None,
    listen: tuple[str, ...] = (),
    settings: tuple[str, ...] = (),
    workers: str | None = None,
    cluster: str | None = None,
    join: tuple[str, ...] = (),
    log_level: str | None = None,
) -> Loaded:
    """The settings of file, environment and flags. A wrong one ends the program with code 2 and a line each."""
    try:
        return read(config, listen, settings, workers, cluster, join, log_level)
    except ConfigError as error:
        click.echo(error, err=True)
        sys.exit(EXIT_WRONG_SETTING)


def read(
    config: Path | None,
    listen: tuple[str, ...] = (),
    settings: tuple[str, ...] = (),
    workers: str | None = None,
    cluster: str | None = None,
    join: tuple[str, ...] = (),
    log_level: str | None = None,
) -> Loaded:
    """As `gather`.

    :raises ConfigError: a setting is wrong.
    """
    flags = [_assignment(text) for text in settings]
    if listen:
        flags.append(Flag("listen", ",".join(listen), "--listen"))
    if workers:
        flags.append(Flag("workers.count", workers, "--workers"))
    if cluster:
        flags.append(Flag("cluster.name", cluster, "--cluster"))
    if join:
        flags.append(Flag("cluster.join", ",".join(join), "--join"))
    if log_level:
        flags.append(Flag("log.level", log_level, "--log-level"))
    return load(config, os.environ, flags)


def _assignment(text: str) -> Flag:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError([Problem("--set", key, "write it as section.key=value")])
    return Flag(key.strip(), value.strip(), "--set")
