"""The composition root: from a Config to a running worker. The only file that knows every room."""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from fastmq import __version__, logs
from fastmq.auth.build import build_access, build_chain, build_enhanced
from fastmq.auth.chain import Chain
from fastmq.auth.work import Work
from fastmq.broker.facts import Facts
from fastmq.broker.worker import Worker
from fastmq.config.location import ALONE, node_name, store_path
from fastmq.config.place import FENCED, Place
from fastmq.config.reload import merged
from fastmq.config.schema import Config
from fastmq.config.share import divided
from fastmq.errors import ConfigError, Fenced, StartError, StoreError
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

STAND_IN_S: Final = 10.0
"""So long who stands in for a node waits for a quorum."""

log = logs.get("serve")


def open_store(
    config: Config, progress: Progress = no_progress, place: Place = ALONE, node: str = ""
) -> SqliteStore | None:
    """The store that the settings ask for, None if nothing is to be kept; `progress` hears how far its load is.

    :raises StartError: it cannot be opened.
    """
    settings = config.store
    if settings.durability == "none" and all(rule.level == "none" for rule in settings.topics):
        return None
    path = store_path(config, place)
    options: dict[str, Any] = {"workers": place.count, "progress": progress}
    if place.index or place.facts:
        options["facts_path"] = Path(place.facts) if place.facts else store_path(config)
    try:
        if settings.engine == "sqlite":
            return (FactsElsewhere if place.index else SqliteStore)(path, settings.size_max_bytes, **options)
        from fastmq.store.jetstream import Stream
        from fastmq.store.replicated import ReplicatedFactsElsewhere, ReplicatedStore

        return (ReplicatedFactsElsewhere if "facts_path" in options else ReplicatedStore)(
            path,
            Stream(config.jetstream, config.cluster, node, place.index),
            settings.size_max_bytes,
            owner=f"{place.at or node}/{os.getpid()}/{secrets.token_hex(8)}",
            wait_s=STAND_IN_S if place.at else None,
            after=place.after[place.index] if place.after else 0,
            snapshot_bytes=config.jetstream.snapshot_bytes,
            **options,
        )
    except (StoreError, OSError) as error:
        raise StartError(f"{path}: the store cannot be opened: {error}; see store.path, store.durability") from error


def serve(
    config: Config,
    progress: Progress = no_progress,
    again: Callable[[], Config] | None = None,
    place: Place = ALONE,
) -> int:
    """Runs a broker until SIGTERM or SIGINT; returns the exit code. On SIGHUP it asks for the settings `again`.

    FENCED: another process goes on with its store.
    With a `place`, it is one of several workers, and ends with their parent, too. The settings are those of the whole.

    :raises StartError: it could not start, a port being in use for one.
    """
    factory = uvloop.new_event_loop if uvloop is not None else asyncio.new_event_loop
    whole, config = config, divided(config, place)
    ended_ms = _ended_ms(config, place)
    node = node_name(config, place)
    store: SqliteStore | None = None
    try:
        store = open_store(config, progress, place, node)
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(_serve(config, whole, store, again, place, node, ended_ms))
    except Fenced as error:
        log.warning("another process goes on with the store", reason=error)
        return FENCED
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
    whole: Config,
    store: SqliteStore | None,
    again: Callable[[], Config] | None,
    place: Place,
    node: str,
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
    _join(worker, config, whole, place, node, store)
    worker.hub.remotes.clock(round(time.time() * 1000), ended_ms)
    if not await _started(worker, stop):
        return FENCED if worker.is_fenced else int(broken)

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
    if worker.is_fenced:
        return FENCED
    return 1 if broken else 0


def _join(worker: Worker, config: Config, whole: Config, place: Place, node: str, store: SqliteStore | None) -> None:
    """Makes a worker one of several, of its host or of a cluster; `whole` are the settings of the host."""
    local = handover = None
    if place.count > 1:
        handover = Handover(worker.hub, place, timeout_s=config.mqtt.connect_timeout_s)
        local = Local(worker.hub, place)
    if not config.cluster.name:
        if local is not None:
            worker.join(local, handover)
        return
    # Only now: who is alone starts sooner without them.
    from fastmq.fabric.both import Both
    from fastmq.fabric.bus import Peer
    from fastmq.fabric.claims import Claims
    from fastmq.fabric.cluster import Cluster
    from fastmq.fabric.elsewhere import Elsewhere
    from fastmq.fabric.facts import SharedFacts
    from fastmq.fabric.quorum import Quorum
    from fastmq.fabric.standins import StandIns
    from fastmq.store.replicated import ReplicatedStore

    settings, jetstream = config.cluster, config.jetstream
    # The later one of two is higher.
    instance = time.time_ns() // 1_000_000 << 22 | secrets.randbits(22)
    forget_after_s, missing_s = settings.forget_after_s, 0.0
    is_replicated = isinstance(store, ReplicatedStore)
    if isinstance(store, ReplicatedStore):
        instance = store.term << 32 | secrets.randbits(32)
        forget_after_s = jetstream.give_up_after_s
        missing_s = jetstream.stand_in_after_s + jetstream.timeout_s
    me = Peer(node, place.index, place.count, instance, place.at or node)
    cluster = Cluster(worker.hub, settings, me, forget_after_s)
    began = time.monotonic()
    cluster.on_asked = lambda: {**_status(worker), "uptime_s": round(time.monotonic() - began)}
    elsewhere = Elsewhere(worker.hub, cluster, config.listen)
    quorum = Quorum(worker.hub, cluster, settings.quorum)
    claims = Claims(worker.hub, cluster, elsewhere, settings.claim_timeout_s, missing_s, quorum)
    stand_ins = None
    if is_replicated and jetstream.stand_in and not place.at and place.index == 0:
        stand_ins = StandIns(cluster, whole, store_path(config))
    shared = None
    if not place.at and place.index == 0:
        shared = SharedFacts(cluster, worker.facts, worker.facts.watch)
    worker.join(Both(local, cluster, elsewhere, claims, stand_ins, shared), handover, claims)


def _status(worker: Worker) -> dict[str, Any]:
    """How it is, for `fastmq cluster status`."""
    figures = worker.figures()
    shown = ("subscriptions", "retained", "publish_received", "publish_sent", "publish_dropped", "memory_bytes")
    return {
        "version": __version__,
        "connections": figures["connections"],
        "sessions": figures["sessions"],
        "backlog_bytes": figures["cluster_backlog_bytes"],
        **{name: figures[name] for name in shown},
    }


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
