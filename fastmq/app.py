"""The composition root: from a Config to a running worker. The only file that knows every room."""

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fastmq import logs
from fastmq.auth.build import build_access, build_chain, build_enhanced
from fastmq.auth.chain import Chain
from fastmq.auth.work import Work
from fastmq.broker.facts import Facts
from fastmq.broker.worker import Worker
from fastmq.config.cluster import NODE_SUFFIX, problem
from fastmq.config.place import Place
from fastmq.config.reload import merged
from fastmq.config.schema import Config
from fastmq.config.share import divided
from fastmq.errors import ConfigError, StartError, StoreError
from fastmq.fabric.both import Both
from fastmq.fabric.bus import Peer
from fastmq.fabric.claims import Claims
from fastmq.fabric.cluster import Cluster
from fastmq.fabric.elsewhere import Elsewhere
from fastmq.fabric.handover import Handover
from fastmq.fabric.local import Local
from fastmq.notify import Parent, Starter, Systemd
from fastmq.store.facts_elsewhere import FactsElsewhere
from fastmq.store.loading import Progress
from fastmq.store.sqlite import SqliteStore, no_progress

if sys.platform != "win32":
    try:
        import uvloop
    except ImportError:  # no wheel for this machine: plain asyncio runs the same code
        uvloop = None  # type: ignore[assignment]


OLD_CHAIN_S: Final = 30.0
"""So long the steps of before may finish what they were asked."""

ALONE: Final = Place()

log = logs.get("serve")


def store_path(config: Config, place: Place = ALONE) -> Path:
    """Where the broker keeps what must outlive it; of several workers, the first has the file of a single one."""
    path = _store_path(config)
    return path.with_name(f"{path.stem}-{place.index}{path.suffix}") if place.index else path


def _store_path(config: Config) -> Path:
    if config.store.path:
        return Path(config.store.path)
    if state := os.environ.get("STATE_DIRECTORY"):
        return Path(state.split(":")[0]) / "fastmq.db"
    if os.geteuid() == 0:
        return Path("/var/lib/fastmq/fastmq.db")
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "fastmq" / "fastmq.db"


def open_store(config: Config, progress: Progress = no_progress, place: Place = ALONE) -> SqliteStore | None:
    """The store that the settings ask for, None if nothing is to be kept; `progress` hears how far its load is.

    :raises StartError: it cannot be opened.
    """
    settings = config.store
    if settings.durability == "none" and all(rule.level == "none" for rule in settings.topics):
        return None
    path = store_path(config, place)
    size_max, workers = settings.size_max_bytes, place.count
    try:
        if place.index:
            return FactsElsewhere(path, size_max, workers=workers, progress=progress, facts_path=store_path(config))
        return SqliteStore(path, size_max, workers=workers, progress=progress)
    except (StoreError, OSError) as error:
        raise StartError(f"{path}: the store cannot be opened: {error}; see store.path, store.durability") from error


def serve(
    config: Config,
    progress: Progress = no_progress,
    again: Callable[[], Config] | None = None,
    place: Place = ALONE,
) -> int:
    """Runs a broker until SIGTERM or SIGINT; returns the exit code. On SIGHUP it asks for the settings `again`.

    With a `place`, it is one of several workers, and ends with their parent, too. The settings are those of the whole.

    :raises StartError: it could not start, a port being in use for one.
    """
    factory = uvloop.new_event_loop if uvloop is not None else asyncio.new_event_loop
    config = divided(config, place)
    ended_ms = _ended_ms(config, place)
    store = open_store(config, progress, place)
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(_serve(config, store, again, place, ended_ms))
    finally:
        if store is not None:
            store.close()


def _ended_ms(config: Config, place: Place) -> int:
    """When the store was written last, in milliseconds since 1970; 0: it is not there yet."""
    path, found = store_path(config, place), [0]
    for each in (path, path.with_name(path.name + "-wal")):
        with contextlib.suppress(OSError):
            found.append(each.stat().st_mtime_ns // 1_000_000)
    return max(found)


async def _serve(
    config: Config,
    store: SqliteStore | None,
    again: Callable[[], Config] | None,
    place: Place,
    ended_ms: int,
) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    early = asyncio.Event()
    if again is not None:  # it would end the process
        loop.add_signal_handler(signal.SIGHUP, early.set)
    starter = _starter(loop, place, stop)
    work = Work()
    facts = Facts()
    try:
        chain, access = build_chain(config, work, facts), build_access(config, work)
        enhanced = build_enhanced(config, work)
    except ConfigError as error:
        raise StartError(str(error)) from error
    node = _node_name(config, place)
    worker = Worker(
        config,
        authenticators=(chain,) if chain is not None else (),
        enhanced=enhanced,
        authorizer=access,
        store=store,
        facts=facts,
        place=place,
        node=node,
    )
    broken = False

    def on_broken() -> None:
        nonlocal broken
        broken = True
        stop.set()

    worker.hub.on_broken = on_broken
    _join(worker, config, place, node)
    worker.hub.remotes.clock(round(time.time() * 1000), ended_ms)
    if not await _started(worker, stop):
        return 0

    def reload() -> None:
        starter.reloading()
        try:
            reread()
        finally:
            starter.ready()

    def reread() -> None:
        nonlocal chain
        assert again is not None
        old = chain
        try:
            found = merged(worker.config, divided(again(), place))
            chain, access = build_chain(found.config, work, facts), build_access(found.config, work)
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
            retired.append(loop.create_task(_close_later(old)))

    retired: list[asyncio.Task[None]] = []
    if again is not None:
        loop.add_signal_handler(signal.SIGHUP, reload)
        if early.is_set():
            reload()
    if store is not None:
        log.info("what must last is kept", file=store.path, durability=config.store.durability)
    starter.ready()
    await stop.wait()
    starter.stopping()
    await worker.stop()
    for each in retired:
        each.cancel()
    await asyncio.gather(*retired, return_exceptions=True)
    if chain is not None:
        await chain.close()
    work.close()
    return 1 if broken else 0


def _node_name(config: Config, place: Place) -> str:
    """What this node of a cluster is called: as the settings say, or as a file by the store does, which is made once.

    :raises StartError: the settings of the cluster are wrong, or the file cannot be made.
    """
    settings = config.cluster
    if wrong := problem(settings):
        raise StartError(wrong)
    if not settings.name or settings.node:
        return settings.node
    made = f"{socket.gethostname().partition('.')[0][:40]}-{secrets.token_hex(4)}"
    made = re.sub(r"[^A-Za-z0-9_-]", "-", made)
    if config.store.durability != "none":
        path = store_path(config).with_suffix(NODE_SUFFIX)
    elif place.folder:
        path = Path(place.folder) / "node"
    else:
        return made
    try:
        with contextlib.suppress(FileExistsError):
            draft = path.with_name(f"{path.name}.{place.index}")
            draft.write_text(made)
            try:
                os.link(draft, path)  # whole or not at all, by one of the workers
            finally:
                draft.unlink()
        return path.read_text().strip()
    except OSError as error:
        raise StartError(f"{path}: the name of the node cannot be kept: {error.strerror}; see cluster.node") from None


def _join(worker: Worker, config: Config, place: Place, node: str) -> None:
    """Makes a worker one of several, of its host or of a cluster."""
    local = handover = None
    if place.count > 1:
        handover = Handover(worker.hub, place, timeout_s=config.mqtt.connect_timeout_s)
        local = Local(worker.hub, place)
    if not config.cluster.name:
        if local is not None:
            worker.join(local, handover)
        return
    instance = secrets.randbits(63) | 1
    cluster = Cluster(worker.hub, config.cluster, Peer(node, place.index, place.count, instance))
    elsewhere = Elsewhere(worker.hub, cluster, config.listen)
    claims = Claims(worker.hub, cluster, elsewhere, config.cluster.claim_timeout_s)
    worker.join(Both(local, cluster, elsewhere, claims), handover, claims)


def _starter(loop: asyncio.AbstractEventLoop, place: Place, stop: asyncio.Event) -> Starter:
    """Whoever started this process; it hears that the loop is alive, and when a parent is gone, `stop` is set."""
    starter: Starter = Systemd()
    if place.status >= 0:
        starter = parent = Parent(place.status)

        def on_parent() -> None:
            if parent.is_gone:
                loop.remove_reader(parent.fileno())
                log.warning("the parent is gone, so this worker ends")
                shutil.rmtree(place.folder, ignore_errors=True)
                stop.set()

        loop.add_reader(parent.fileno(), on_parent)

    def beat() -> None:
        starter.alive()
        loop.call_later(starter.alive_s, beat)

    if starter.alive_s:
        beat()
    return starter


async def _started(worker: Worker, stop: asyncio.Event) -> bool:
    """Starts a worker; False: it was to stop before that was done."""
    starting, stopping = asyncio.create_task(worker.start()), asyncio.create_task(stop.wait())
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return False
    await starting
    return True


async def _close_later(chain: Chain) -> None:
    """Closes it in a while, or at once when this is cancelled."""
    try:
        await asyncio.sleep(OLD_CHAIN_S)
    finally:
        await chain.close()
