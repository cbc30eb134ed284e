"""The other nodes: each of their workers is one more worker to the engine, which it reaches over the bus.

A worker of another node keeps its place here while its connection is down, and gets what it has missed, even as a new
process. After `cluster.forget_after_s` it is given up: nobody waits for it any more, until it appears again.
"""

import asyncio
import contextlib
import secrets
import socket
import struct
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

import orjson

from fastmq import logs
from fastmq._hub import Hub
from fastmq.config.cluster import ClusterSettings
from fastmq.config.place import fnv1a
from fastmq.fabric.bus import PROTOCOL, Bus, Peer

FIRST: Final = 64
"""The engine's numbers of other nodes' workers begin here."""
HELLO: Final = struct.Struct("!4sIQ")
"""Magic, protocol version, and a number for this side's memory of the other: another one, and it counts anew."""
MAGIC: Final = b"fmqn"
CLIENT: Final = b"fmqc"
"""Instead: this is a client's connection. Then come the sizes of what is known of it, and of what it has said."""
HELLO_S: Final = 5.0
RETRY_S: Final = 0.05
RETRY_MAX_S: Final = 1.0
LOOK_S: Final = 0.5
"""So long a starting node looks for others, unless it is to join some; then for as long as a node has to answer."""
SYNC_S: Final = 15.0

log = logs.get("cluster")


class Member:
    """A worker of another node."""

    def __init__(self, peer: Peer, index: int) -> None:
        self.peer = peer
        self.index = index
        self.memory = secrets.randbits(63) | 1
        self.is_up = True
        self.is_ready = False
        self.is_connected = False
        self.knows: set[tuple[str, int]] | None = None
        """Whom it waits for, or would; None: it has not said yet."""
        self.lost = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.forgetting: asyncio.TimerHandle | None = None

    @property
    def name(self) -> str:
        """For the log."""
        return f"{self.peer.node}/{self.peer.worker}" if self.peer.count > 1 else self.peer.node


class Cluster:
    """This worker's side of the cluster; all methods belong to the loop's thread."""

    def __init__(self, hub: Hub, settings: ClusterSettings, me: Peer, forget_after_s: float) -> None:
        self._hub = hub
        self._settings = settings
        self._forget_after_s = forget_after_s
        self._bus = Bus(settings, me)
        self.me = me
        self._members: dict[tuple[str, int], Member] = {}
        self._indexes: dict[int, Member] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._hears: dict[str, Callable[[Member, Any, bytes], None]] = {}
        self.on_up: list[Callable[[Member], None]] = []
        """Who wants to know of members that are there from now on."""
        self.on_gone: list[Callable[[Member], None]] = []
        """Who wants to know of members that are not there any more."""
        self.on_ready: list[Callable[[Member], None]] = []
        """Who wants to know of members that can be told something, and have said what their clients want."""
        self.on_client: Callable[[Peer, socket.socket, int, int], Coroutine[Any, Any, None]] | None = None
        """Takes a client's connection from another node, whose sizes have been read."""
        self.on_asked: Callable[[], dict[str, Any]] | None = None
        """Says how this worker is."""
        self._bus.on_asked = self._answer
        self._bus.on_up = self._on_up
        self._bus.on_down = self._on_down
        self._bus.on_stream = self._on_stream
        self._is_ready = asyncio.Event()
        self.hear("members", self._on_members)
        remotes = hub.remotes
        # The workers of this node have said first what they want to hear.
        self._near = (remotes.on_lost, remotes.on_ready, remotes.on_told)
        remotes.on_lost = self._on_lost
        remotes.on_ready = self._on_ready
        remotes.on_told = self._on_told

    async def start(self) -> None:
        """Joins the cluster.

        :raises StartError: it cannot.
        """
        self._tick()
        await self._bus.start()

    async def ready(self) -> None:
        """Returns when all have said what their clients want, who would miss what is published now.

        All are those that are there, and whom these know; one that is away is waited for, but not for ever.
        """
        loop = asyncio.get_running_loop()
        joins = bool(self._settings.join or self._settings.dns)
        deadline = loop.time() + (self._settings.lease_s if joins else LOOK_S)
        while loop.time() < deadline and not (self._members and joins):
            await self._wait(deadline)
        deadline = loop.time() + SYNC_S
        while loop.time() < deadline and not self._is_complete():
            await self._wait(deadline)
        self._is_ready.set()
        others = ",".join(sorted({each.peer.node for each in self.members()})) or "none"
        log.info("is a node of the cluster", name=self._settings.name, node=self.me.node, others=others)
        loop.call_later(self._forget_after_s, self._settle)

    def _is_complete(self) -> bool:
        there = {where: each for where, each in self._members.items() if each.is_up}
        known = set[tuple[str, int]]().union(*(each.knows or () for each in there.values()))
        ready = {where for where, each in there.items() if each.is_ready and each.knows is not None}
        return there.keys() | {where for where in known if where[0] != self.me.node} <= ready

    async def served(self) -> None:
        """Returns when this node is ready."""
        await self._is_ready.wait()

    def _on_members(self, member: Member, value: Any, _body: bytes) -> None:
        member.knows = {(str(node), int(worker)) for node, worker in value}
        self._changed.set()

    async def _wait(self, deadline: float) -> None:
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._changed.wait()

    def _settle(self) -> None:
        with contextlib.suppress(RuntimeError):  # the hub is closed
            self._hub.remotes.settled()

    async def close(self) -> None:
        """Leaves the cluster: the others keep nothing for this node longer than they must."""
        for member in self._members.values():
            if member.forgetting is not None:
                member.forgetting.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._bus.close()

    # -- what is said between programs ---------------------------------------------------------------------------------

    def members(self) -> list[Member]:
        """Those that are there."""
        return [each for each in self._members.values() if each.is_up]

    def misses(self, name: bytes) -> bool:
        """Whether a node is away, and not given up, that may have what is called so."""
        hashed = fnv1a(name)
        return any(not each.is_up and hashed % each.peer.count == each.peer.worker for each in self._members.values())

    async def is_whole(self, name: bytes, timeout_s: float) -> bool:
        """Whether, within that time, no such node is away any more."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while self.misses(name):
            if asyncio.get_running_loop().time() >= deadline:
                return False
            await self._wait(deadline)
        return True

    def homes(self, name: bytes) -> list[Member]:
        """Of each node that is there, the worker that has what is called so."""
        hashed = fnv1a(name)
        return [each for each in self.members() if hashed % each.peer.count == each.peer.worker]

    def tell(self, member: Member, kind: str, value: Any, body: bytes = b"") -> bool:
        """Says something to a member's program; False: it is not connected, and will not hear it."""
        return self._hub.remotes.tell(member.index, orjson.dumps((kind, value)) + b"\n" + body)

    def hear(self, kind: str, call: Callable[[Member, Any, bytes], None]) -> None:
        """Calls with what members say of this kind: who, what, and the bytes that came with it."""
        self._hears[kind] = call

    async def connect(self, member: Member) -> socket.socket:
        """A stream to a member.

        :raises OSError: it does not answer.
        """
        return await self._bus.connect(member.peer)

    def _answer(self) -> bytes:
        sees = sorted({each.name for each in self.members()})
        return orjson.dumps({"sees": sees, **(self.on_asked() if self.on_asked is not None else {})})

    # -- the engine's side ---------------------------------------------------------------------------------------------

    def _on_lost(self, index: int) -> None:
        if index < FIRST:
            if self._near[0] is not None:
                self._near[0](index)
        elif (member := self._indexes.get(index)) is not None:
            member.is_ready = member.is_connected = False
            member.lost.set()
            self._changed.set()

    def _on_ready(self, index: int) -> None:
        if index < FIRST:
            if self._near[1] is not None:
                self._near[1](index)
        elif (member := self._indexes.get(index)) is not None:
            if not member.is_ready:
                log.debug("a node has said what its clients want", node=member.name)
            member.is_ready = True
            self._changed.set()
            self._meet(member)

    def _meet(self, member: Member) -> None:
        if member.is_ready and member.is_connected:
            self.tell(member, "members", list(self._members))
            for call in self.on_ready:
                call(member)

    def _on_told(self, index: int, told: bytes) -> None:
        if index < FIRST:
            if self._near[2] is not None:
                self._near[2](index, told)
            return
        member = self._indexes.get(index)
        if member is None:
            return
        head, _, body = told.partition(b"\n")
        try:
            kind, value = orjson.loads(head)
            if (call := self._hears.get(kind)) is not None:
                call(member, value, body)
        except (ValueError, TypeError) as error:  # of another shape than ours: it must not stop the others
            log.rarely("warning", "told", "a node said what cannot be read", node=member.name, reason=error)

    def _tick(self) -> None:
        """Retained messages are told apart by the time of day, which the engine has not."""
        with contextlib.suppress(RuntimeError):
            self._hub.remotes.clock(round(time.time() * 1000))
        asyncio.get_running_loop().call_later(1.0, self._tick)

    # -- who is there --------------------------------------------------------------------------------------------------

    def _on_up(self, peer: Peer) -> None:
        where = (peer.node, peer.worker)
        if peer.node == self.me.node:
            return  # the workers of a host have their own ways
        member = self._members.get(where)
        if member is not None and member.peer.count != peer.count:
            self._forget(member)  # what belongs to which of its workers is another now
            member = None
        if member is None:
            try:
                index = self._hub.remotes.add(peer.worker, peer.count)
            except OverflowError as error:
                log.error("a node is left out", node=peer.node, worker=peer.worker, reason=error)
                return
            member = self._members[where] = self._indexes[index] = Member(peer, index)
        elif member.forgetting is not None:
            member.forgetting.cancel()
            member.forgetting = None
        member.peer = peer
        member.is_up = True
        member.knows = None
        at = {"at": peer.at} if peer.at != peer.node else {}
        log.info("a node is there", node=member.name, version=peer.version, **at)
        if member.task is not None:
            member.task.cancel()
        member.task = self._start(self._connect(member))
        self._changed.set()
        for call in self.on_up:
            call(member)

    def _on_down(self, peer: Peer) -> None:
        member = self._members.get((peer.node, peer.worker))
        if member is None or member.peer != peer:
            return
        member.is_up = member.is_ready = False
        if member.task is not None:
            member.task.cancel()
            member.task = None
        after_s = self._forget_after_s
        log.warning("a node is not there any more", node=member.name, forgotten_after_s=after_s)
        member.forgetting = asyncio.get_running_loop().call_later(after_s, self._forget, member)
        self._changed.set()
        for call in self.on_gone:
            call(member)

    def _forget(self, member: Member) -> None:
        """Gives a member up."""
        if member.task is not None:
            member.task.cancel()
        member.is_up = False
        self._members.pop((member.peer.node, member.peer.worker), None)
        self._indexes.pop(member.index, None)
        with contextlib.suppress(RuntimeError):
            self._hub.remotes.remove(member.index)
            for each in self.members():  # who is starting need not wait for it either
                self.tell(each, "members", list(self._members))
        self._changed.set()
        log.warning("a node is given up: nothing is kept for its clients any more", node=member.name)

    # -- connections ---------------------------------------------------------------------------------------------------

    def _start(self, work: "asyncio._CoroutineLike[None]") -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _connect(self, member: Member) -> None:
        """Keeps a connection to a member, over which it hears what we want, and what it wants."""
        wait_s = RETRY_S
        while True:
            try:
                made = await self._bus.connect(member.peer)
                try:
                    await asyncio.get_running_loop().sock_sendall(made, HELLO.pack(MAGIC, PROTOCOL, member.memory))
                except BaseException:
                    made.close()
                    raise
            except OSError as error:  # a TimeoutError is one
                log.debug("a node cannot be reached", node=member.name, reason=error or "it does not answer")
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, RETRY_MAX_S)
                continue
            wait_s = RETRY_S
            member.lost.clear()
            self._hub.remotes.speak(member.index, made.detach(), member.peer.instance)
            member.is_connected = True
            self._meet(member)
            await member.lost.wait()

    def _on_stream(self, peer: Peer, stream: socket.socket) -> None:
        self._start(self._hear(peer, stream))

    async def _hear(self, peer: Peer, stream: socket.socket) -> None:
        try:
            async with asyncio.timeout(HELLO_S):
                magic, version, memory = HELLO.unpack(await receive(stream, HELLO.size))
            if magic == CLIENT and self.on_client is not None:
                await self.on_client(peer, stream, version, memory)
                return
            if magic != MAGIC:
                raise ValueError("it is no node of this program")
            if version != PROTOCOL:
                raise ValueError(f"it speaks version {version}, this one {PROTOCOL}")
            member = self._members.get((peer.node, peer.worker))
            if member is None or member.peer != peer:
                raise ConnectionResetError("it has gone again")
        except (OSError, ValueError) as error:
            log.rarely("warning", "hello", "a connection of a node failed", node=peer.node, reason=error)
            stream.close()
            return
        except BaseException:
            stream.close()
            raise
        self._hub.remotes.hear(member.index, stream.detach(), memory)


async def receive(stream: socket.socket, size: int) -> bytes:
    """So many bytes of a stream.

    :raises OSError: it ends before.
    """
    loop = asyncio.get_running_loop()
    data = bytearray()
    while len(data) < size:
        more = await loop.sock_recv(stream, min(size - len(data), 1 << 20))
        if not more:
            raise ConnectionResetError("it has gone again")
        data += more
    return bytes(data)
