"""The composition root: from a Config to a running worker. The only file that knows every room."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fastmq import logs
from fastmq.auth.build import build_access, build_chain, build_enhanced
from fastmq.auth.work import Work
from fastmq.broker.worker import Worker
from fastmq.config.reload import merged
from fastmq.config.schema import Config
from fastmq.errors import ConfigError, StartError, StoreError
from fastmq.store.loading import Progress
from fastmq.store.sqlite import SqliteStore, no_progress

if sys.platform != "win32":
    try:
        import uvloop
    except ImportError:  # no wheel for this machine: plain asyncio runs the same code
        uvloop = None  # type: ignore[assignment]


OLD_CHAIN_S: Final = 30.0
"""So long the steps of before may finish what they were asked."""

log = logs.get("serve")


def store_path(config: Config) -> Path:
    """Where the broker keeps what must outlive it."""
    if config.store.path:
        return Path(config.store.path)
    if state := os.environ.get("STATE_DIRECTORY"):
        return Path(state.split(":")[0]) / "fastmq.db"
    if os.geteuid() == 0:
        return Path("/var/lib/fastmq/fastmq.db")
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "fastmq" / "fastmq.db"


def open_store(config: Config, progress: Progress = no_progress) -> SqliteStore | None:
    """The store that the settings ask for, None if nothing is to be kept; `progress` hears how far its load is.

    :raises StartError: it cannot be opened.
    """
    settings = config.store
    if settings.durability == "none" and all(rule.level == "none" for rule in settings.topics):
        return None
    path = store_path(config)
    try:
        return SqliteStore(path, settings.size_max_bytes, progress=progress)
    except (StoreError, OSError) as error:
        raise StartError(f"{path}: the store cannot be opened: {error}; see store.path, store.durability") from error


def serve(config: Config, progress: Progress = no_progress, again: Callable[[], Config] | None = None) -> int:
    """Runs a broker until SIGTERM or SIGINT; returns the exit code. On SIGHUP it asks for the settings `again`.

    :raises StartError: it could not start, a port being in use for one.
    """
    factory = uvloop.new_event_loop if uvloop is not None else asyncio.new_event_loop
    store = open_store(config, progress)
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(_serve(config, store, again))
    finally:
        if store is not None:
            store.close()


async def _serve(config: Config, store: SqliteStore | None, again: Callable[[], Config] | None) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    work = Work()
    try:
        chain, access = build_chain(config, work), build_access(config, work)
        enhanced = build_enhanced(config, work)
    except ConfigError as error:
        raise StartError(str(error)) from error
    worker = Worker(
        config, authenticators=(chain,) if chain is not None else (), enhanced=enhanced, authorizer=access, store=store
    )
    broken = False

    def on_broken() -> None:
        nonlocal broken
        broken = True
        stop.set()

    worker.hub.on_broken = on_broken
    await worker.start()

    def reload() -> None:
        nonlocal chain
        assert again is not None
        old = chain
        try:
            found = merged(worker.config, again())
            chain, access = build_chain(found.config, work), build_access(found.config, work)
        except ConfigError as error:
            chain = old
            log.error("the settings are wrong; those of before stay", reason=error)
            return
        worker.reload(found.config, (chain,) if chain is not None else (), access)
        logs.set_level(found.config.log.level)
        log.info("read the settings again", changed=",".join(found.changed) or "nothing")
        if found.waiting:
            log.warning("some settings wait for a restart", settings=",".join(found.waiting))
        if old is not None:  # clients that are being asked about may still need it
            loop.call_later(OLD_CHAIN_S, lambda: closing.append(loop.create_task(old.close())))

    closing: list[asyncio.Task[None]] = []
    if again is not None:
        loop.add_signal_handler(signal.SIGHUP, reload)
    if store is not None:
        log.info("what must last is kept", file=store.path, durability=config.store.durability)
    await stop.wait()
    await worker.stop()
    if chain is not None:
        await chain.close()
    work.close()
    return 1 if broken else 0
