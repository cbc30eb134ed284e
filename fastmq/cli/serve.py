"""`fastmq serve`: run a broker until SIGTERM or SIGINT."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import click

from fastmq import logs
from fastmq.cli import settings
from fastmq.config.load import DEFAULT
from fastmq.config.location import ALONE, nats_folder, node_name
from fastmq.config.passing import received
from fastmq.config.place import FENCED, Place, StandIn
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
        if (stand_in := StandIn.of()) is not None:
            sys.exit(_stand_in(stand_in))
        loaded = settings.gather(**given)
        logs.configure(loaded.config.log.level, loaded.config.log.format)
        if loaded.origins["listen"] == DEFAULT:
            log.info("reachable from this machine only; open it with: fastmq serve --listen tcp://0.0.0.0:1883")
        with _nats_server(loaded.config):
            while (code := _run(loaded.config, again)) == FENCED:
                log.warning("begins anew, since another process had gone on with the store")
        sys.exit(code)
    except StartError as error:
        log.error("cannot start", reason=error)
        sys.exit(1)


def _nats_server(config: Config) -> AbstractContextManager[object]:
    if config.store.engine != "jetstream" or not config.jetstream.serve:
        return nullcontext()
    from fastmq.store.nats_server import NatsServer

    node, folder = node_name(config), nats_folder(config)
    return NatsServer(config.jetstream, config.cluster, node, folder, sync=config.store.durability == "fsync")


def _run(config: Config, again: Callable[[], Config], place: Place = ALONE) -> int:
    # What each needs is loaded only now: a wrong setting is told at once, and the parent needs no engine.
    count = count_of(config)
    if count > 1:
        from fastmq.supervisor.parent import run

        return run(config, count, sys.argv[1:], again, place)

    from fastmq.app import serve
    from fastmq.cli.progress import Bar

    with Bar("loading what was stored") as bar:
        return serve(config, bar, again, place)


def _stand_in(told: StandIn) -> int:
    """For a node that is not there."""
    config = received(told.settings)
    config = replace(config, workers=replace(config.workers, count=told.count))
    logs.configure(config.log.level, config.log.format, stands_in_for=told.node)
    return _run(config, lambda: config, told.place())


def _work(place: Place, again: Callable[[], Config]) -> int:
    """As one of several workers."""
    config = received(place.settings)
    always: dict[str, Any] = {"stands_in_for": config.cluster.node} if place.at else {}
    logs.configure(config.log.level, config.log.format, worker=place.index, **always)
    from fastmq.app import serve

    return serve(config, again=again, place=place)
