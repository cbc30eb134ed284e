"""Clients whose sessions are at other nodes: their connections stay where they came, and are relayed over the bus."""

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from typing import Final

import orjson

from fastmq import logs
from fastmq._hub import Hub
from fastmq.config.listener import Listener
from fastmq.fabric.bus import Peer
from fastmq.fabric.cluster import CLIENT, HELLO, Cluster, Member, receive
from fastmq.fabric.handover import DATA_MAX, HEAD_MAX, Known, release
from fastmq.fabric.relay import Relay

PIECE: Final = 65_536

log = logs.get("cluster")


class Elsewhere:
    """Gives clients to other nodes, and takes theirs; all methods belong to the loop's thread."""

    def __init__(self, hub: Hub, cluster: Cluster, listeners: Sequence[Listener]) -> None:
        self._hub = hub
        self._cluster = cluster
        self._titles = [each.title for each in listeners]
        self._relays: set[Relay] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        cluster.on_client = self._take

    async def give(self, conn: int, packet: bytes, owner: Member, client_id: str | None) -> bool:
        """Gives a connection and its CONNECT to the node that has its client's session; False: it cannot be reached."""
        try:
            stream = await self._cluster.connect(owner)
        except OSError:
            return False
        try:
            listener = self._titles[self._hub.listener(conn)]
            given = await release(self._hub, conn, self._relays, packet, client_id, is_far=True)
        except BaseException:
            stream.close()
            raise
        if given is None:
            stream.close()
            return True  # the client has gone
        here = socket.socket(fileno=given.descriptor)
        here.setblocking(False)
        head = orjson.dumps({"title": listener, **orjson.loads(given.head)})
        begin = HELLO.pack(CLIENT, len(head), len(given.data)) + head + given.data
        self._start(self._relay(here, stream, begin))
        return True

    def _start(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _relay(self, here: socket.socket, stream: socket.socket, begin: bytes) -> None:
        with here, stream, contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_sendall(stream, begin)
            ways = {asyncio.ensure_future(_pass_on(here, stream)), asyncio.ensure_future(_pass_on(stream, here))}
            try:
                # What one side said last has been passed on when its way is done.
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)

    async def _take(self, peer: Peer, stream: socket.socket, head_size: int, data_size: int) -> None:
        """A client of this node's sessions that came to another one."""
        try:
            if head_size > HEAD_MAX or data_size > DATA_MAX:
                raise ValueError("it is too large")
            told = orjson.loads(await receive(stream, head_size))
            data = bytearray(await receive(stream, data_size))
            known = Known(told["known"])
            title, listener = told["title"], told["listener"]
            if title in self._titles:
                listener = self._titles.index(title)
            if not 0 <= listener < len(self._titles):
                raise ValueError(f"there is no listener {title} here")
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.rarely("warning", "take", "a client of another node was not taken", node=peer.node, reason=error)
            stream.close()
            return
        # What it publishes would miss those who have not said yet that they want it.
        await self._cluster.served()
        descriptor = stream.detach()
        if self._hub.sinks.adopt(descriptor, listener, data, known) < 0:
            socket.socket(fileno=descriptor).close()

    async def close(self) -> None:
        """Cuts what is relayed."""
        for relay in list(self._relays):
            relay.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _pass_on(one: socket.socket, other: socket.socket) -> None:
    """Passes on what comes, until the end."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while data := await loop.sock_recv(one, PIECE):
            await loop.sock_sendall(other, data)
