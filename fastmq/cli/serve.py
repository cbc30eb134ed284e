"""`fastmq serve`: run a broker until SIGTERM or SIGINT."""

import sys
from typing import Any

import click

from fastmq import logs
from fastmq.cli import settings
from fastmq.config.load import DEFAULT
from fastmq.errors import StartError


@click.command("serve", epilog="With neither file nor options, the broker can be reached from this machine only.")
@settings.options
def command(**given: Any) -> None:
    """Run a broker.

    It prints where it listens, reads its settings again on SIGHUP, and stops on SIGTERM or Ctrl-C after its clients
    were told.
    """
    loaded = settings.gather(**given)
    logs.configure(loaded.config.log.level, loaded.config.log.format)
    log = logs.get("serve")
    if loaded.origins["listen"] == DEFAULT:
        log.info("reachable from this machine only; open it with: fastmq serve --listen tcp://0.0.0.0:1883")
    # The engine and the loop are loaded only now: a wrong setting is told at once.
    from fastmq.app import serve
    from fastmq.cli.progress import Bar

    try:
        with Bar("loading what was stored") as bar:
            sys.exit(serve(loaded.config, bar, lambda: settings.read(**given).config))
    except StartError as error:
        log.error("cannot start", reason=error)
        sys.exit(1)
