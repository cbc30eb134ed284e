"""Goes on with the sessions of nodes that are not there, when all nodes have their stores together.

What stands in for a node is that node, as a process of another host: it has the node's name and its stores, and no
listeners. To the others the node is back. Its clients come through the nodes that are there, see `elsewhere.py`. The
store sees to it that of a node and its stand-in only the later one goes on.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from fastmq import logs
from fastmq.config.passing import passed
from fastmq.config.place import STANDS_IN, VARIABLE, StandIn, fnv1a
from fastmq.config.schema import Config
from fastmq.fabric.cluster import Cluster, Member

SURE_S: Final = 20.0
"""For so long, only who goes on from what the others have seen of a node may stand in for it: it or another node may be
about to go on, too, and each that does fences the one before. Later, one that did may have died unseen."""
STEP_S: Final = 4.0
"""So much later the next node tries, if the first one that should have is not able to."""
PAUSE_S: Final = 1.0
STOP_S: Final = 10.0
PR_SET_PDEATHSIG: Final = 1

log = logs.get("cluster")


class StandIns:
    """Those that one node may run; all methods belong to the loop's thread of its first worker."""

    def __init__(self, cluster: Cluster, config: Config, store: Path) -> None:
        """`store` is where this node keeps its own."""
        self._cluster = cluster
        self._config = config
        self._store = store
        self._after_s = config.jetstream.stand_in_after_s
        self._terms: dict[str, dict[int, int]] = {}
        """Of each node, those of its workers' stores."""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._me = cluster.me.node
        cluster.on_up.append(self._on_up)
        cluster.on_gone.append(self._on_gone)

    def _is_there(self, node: str) -> bool:
        return any(each.peer.node == node for each in self._cluster.members())

    def _on_up(self, member: Member) -> None:
        node = member.peer.node
        self._terms.setdefault(node, {})[member.peer.worker] = member.peer.term
        if member.peer.at != self._me and (task := self._tasks.pop(node, None)) is not None:
            task.cancel()

    def _on_gone(self, member: Member) -> None:
        node = member.peer.node
        if not self._is_there(node) and node not in self._tasks:
            task = self._tasks[node] = asyncio.get_running_loop().create_task(self._watch(node, member.peer.count))
            task.add_done_callback(lambda done: self._ended(node, done))

    def _ended(self, node: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(node) is task:
            del self._tasks[node]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("cannot stand in for a node", node=node, reason=error)

    async def _watch(self, node: str, count: int) -> None:
        """Until the node is there elsewhere, which cancels this."""
        loop = asyncio.get_running_loop()
        gone_at = loop.time()
        while True:
            await asyncio.sleep(self._after_s + STEP_S * self._rank(node))
            if self._is_there(node):
                return
            terms = self._terms.get(node, {})
            is_sure = loop.time() - gone_at > SURE_S or terms.keys() != set(range(count))
            await self._run(node, count, () if is_sure else tuple(terms[worker] for worker in range(count)))
            await asyncio.sleep(PAUSE_S)

    def _rank(self, node: str) -> int:
        """Whose turn it is: each node comes first for about as many others (highest random weight)."""
        there = {each.peer.node for each in self._cluster.members() if each.peer.at == each.peer.node} | {self._me}
        order = sorted(there, key=lambda each: (fnv1a(f"{node}/{each}".encode()), each))
        return order.index(self._me)

    async def _run(self, node: str, count: int, after: tuple[int, ...]) -> None:
        """Runs a process that stands in, until it ends; ends it when this is cancelled."""
        config = self._config
        path = self._store.with_name(f"{self._store.stem}-for-{node}{self._store.suffix}")
        settings = replace(
            config,
            store=replace(config.store, path=str(path)),
            cluster=replace(config.cluster, node=node),
            jetstream=replace(config.jetstream, stand_in=False),
        )
        log.warning("stands in for a node", node=node, store=path)
        with passed(settings, str(path.parent)) as file:
            told = StandIn(
                node=node, count=count, at=self._me, after=after, facts=str(self._store), settings=file.fileno()
            )
            process = await _started(told)
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            await _stop(process)
            raise
        log.warning("stands in for a node no more", node=node, code=code)

    async def close(self) -> None:
        """Ends those that run."""
        tasks, self._tasks = list(self._tasks.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _started(told: StandIn) -> asyncio.subprocess.Process:
    # As a script, this process does not look for modules where it was started; neither does that one.
    is_script = sys.modules["__main__"].__spec__ is None
    command = [sys.executable, *(["-P"] if is_script else []), "-m", "fastmq", "serve"]
    env = {
        key: value
        for key, value in os.environ.items()
        if key != VARIABLE and not key.startswith(("NOTIFY_SOCKET", "WATCHDOG_"))
    }
    libc: Any = ctypes.CDLL(None)
    return await asyncio.create_subprocess_exec(
        *command,
        env={**env, STANDS_IN: told.to_text()},
        pass_fds=(told.settings,),
        stdin=asyncio.subprocess.DEVNULL,
        start_new_session=True,  # a terminal's Ctrl-C is this process's to pass on
        preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) and None,
    )


async def _stop(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
