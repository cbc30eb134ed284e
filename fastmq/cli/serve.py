"""`fastmq serve`: run a broker until SIGTERM or SIGINT."""

import sys
from collections.abc import Callable
from typing import Any

import click

from fastmq import logs
from fastmq.cli import settings
from fastmq.config.load import DEFAULT
from fastmq.config.passing import received
from fastmq.config.place import Place
from fastmq.config.schema import Config
from fastmq.config.share import count_of
from fastmq.errors import StartError


@click.command("serve", epilog="With neither file nor options, the broker can be reached from this machine only.")
@settings.options
def command(**given: Any) -> None:
    """Run a broker.

    It prints where it listens, reads its settings again on SIGHUP, and stops on SIGTERM or Ctrl-C after its clients
    were told.
    """
    place = Place.of()
    log = logs.get("serve")

    def again() -> Config:
        return settings.read(**given).config

    try:
        if place.status >= 0:
            sys.exit(_work(place, again))
        loaded = settings.gather(**given)
        logs.configure(loaded.config.log.level, loaded.config.log.format)
        if loaded.origins["listen"] == DEFAULT:
            log.info("reachable from this machine only; open it with: fastmq serve --listen tcp://0.0.0.0:1883")
        sys.exit(_run(loaded.config, again))
    except StartError as error:
        log.error("cannot start", reason=error)
        sys.exit(1)


def _run(config: Config, again: Callable[[], Config]) -> int:
    # What each needs is loaded only now: a wrong setting is told at once, and the parent needs no engine.
    count = count_of(config)
    if count > 1:
        from fastmq.supervisor.parent import run

        return run(config, count, sys.argv[1:], again)

    from fastmq.app import serve
    from fastmq.cli.progress import Bar

    with Bar("loading what was stored") as bar:
        return serve(config, bar, again)


def _work(place: Place, again: Callable[[], Config]) -> int:
    """As one of several workers."""
    config = received(place.settings)
    logs.configure(config.log.level, config.log.format, worker=place.index)
    from fastmq.app import serve

    return serve(config, again=again, place=place)
