"""Between hosts: who is there, and byte streams to them, on an embedded Eclipse Zenoh.

Zenoh finds the nodes (multicast, seeds, gossip), authenticates them (TLS, a secret), and says who is there and who is
not any more (liveliness tokens). Each peer has one key, to which others send frames; see `stream.py`. Zenoh calls from
threads of its own: all that they do is to put what came where the loop finds it.
"""

import asyncio
import contextlib
import json
import os
import secrets
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from fastmq import logs
from fastmq.config.cluster import ClusterSettings, endpoint
from fastmq.errors import StartError
from fastmq.fabric.seeds import AGAIN_S, Seeds
from fastmq.fabric.stream import HEADER, Kind, Stream
from fastmq.fabric.zenoh_config import bracketed, configuration, keep

PROTOCOL: Final = 1
"""The version that this program speaks. One that a later version understands stays, for upgrades node by node."""
CONNECT_S: Final = 5.0
INBOX_MAX: Final = 8192
"""Frames. What comes above is thrown away, and the streams see the gap."""

log = logs.get("cluster")


@dataclass(frozen=True, slots=True)
class Peer:
    """One worker of one node, as long as its process lives."""

    node: str
    worker: int
    count: int
    """How many workers its node has."""
    instance: int
    """A number that no other process has, not 0. Of two that are this worker, the higher one is."""
    at: str = ""
    """The node that it runs at."""
    version: int = PROTOCOL

    @property
    def term(self) -> int:
        """Of its store, if that is replicated."""
        return self.instance >> 32

    @property
    def key(self) -> str:
        return f"{self.node}/{self.worker}/{self.count}/{self.instance:016x}/{self.at or self.node}/{self.version}"

    @classmethod
    def of(cls, key: str) -> "Peer":
        """The peer whose key ends so.

        :raises ValueError: it is none.
        """
        node, worker, count, instance, at, version = key.split("/")[-6:]
        found = cls(node, int(worker), int(count), int(instance, 16), at, int(version))
        if not 0 <= found.worker < found.count <= 64 or not 0 < found.instance < 1 << 64:
            raise ValueError(f"{key!r} is no peer")
        return found


class Bus:
    """What this process hears of the cluster; all methods belong to the loop's thread."""

    def __init__(self, settings: ClusterSettings, me: Peer) -> None:
        self._settings = settings
        self.me = me
        self.on_up: Callable[[Peer], None] | None = None
        self.on_down: Callable[[Peer], None] | None = None
        self.on_stream: Callable[[Peer, socket.socket], None] | None = None
        self.on_asked: Callable[[], bytes] | None = None
        """Says how this worker is, for `fastmq cluster`."""
        self._peers: dict[tuple[str, int], Peer] = {}
        self._seen: dict[tuple[str, int], set[Peer]] = {}
        """All that say to be this worker: for a moment, one that was replaced may be there, too."""
        self._streams: dict[int, Stream] = {}
        self._opening: dict[int, asyncio.Future[None]] = {}
        self._session: Any = None
        self._zenoh: Any = None
        self._declared: list[Any] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._inbox: deque[tuple[str, Any]] = deque()
        """Frames, tokens that came or went, and questions."""
        self._is_called = False
        self._secret_file = ""
        self._seeds = Seeds(settings)
        self._watch: asyncio.Task[None] | None = None

    def peers(self) -> list[Peer]:
        """Who is there."""
        return list(self._peers.values())

    async def start(self) -> None:
        """Joins the cluster; who is there already is told soon.

        :raises StartError: the extra is not installed, or an address, certificate or port cannot be used.
        """
        try:
            import zenoh
        except ImportError:
            raise StartError("a cluster needs the extra: pip install 'fastmq[cluster]'") from None
        self._zenoh = zenoh
        self._loop = asyncio.get_running_loop()
        seeds = await self._seeds.find()
        await self._open(seeds)
        if self._settings.dns:
            self._watch = self._loop.create_task(self._follow(seeds))

    async def _open(self, seeds: list[str]) -> None:
        name = self._settings.name
        try:
            config = self._zenoh.Config.from_json5(json.dumps(self._config(seeds)))
            self._session = await asyncio.to_thread(self._zenoh.open, config)
        except (self._zenoh.ZError, OSError) as error:
            self._forget_secret()
            raise StartError(f"cluster.listen, cluster.secret or cluster.tls_*: {_first_line(error)}") from None
        session = self._session
        to = f"fastmq/{name}/to/{self.me.node}/{self.me.worker}"
        self._declared = [
            session.declare_subscriber(to, lambda sample: self._came("", sample.payload.to_bytes())),
            session.declare_queryable(ask_key(name, self.me), lambda query: self._came("", query)),
            session.liveliness().declare_token(f"fastmq/{name}/up/{self.me.key}"),
            session.liveliness().declare_subscriber(
                f"fastmq/{name}/up/**",
                lambda sample: self._came(str(sample.key_expr), sample.kind == self._zenoh.SampleKind.PUT),
                history=True,
            ),
        ]

    def _config(self, seeds: list[str]) -> dict[str, Any]:
        host, port = endpoint(self._settings.listen)
        is_elsewhere = self.me.at not in ("", self.me.node)
        if self.me.worker or is_elsewhere:  # who knows one worker of this node knows all
            first = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
            seeds = [*seeds, f"{bracketed(first)}:{port}"]
        listen = f"{bracketed(host)}:{0 if is_elsewhere else port + self.me.worker}"
        self._secret_file = keep(self._settings)
        return configuration(self._settings, listen, seeds, self._secret_file)

    async def _follow(self, seeds: list[str]) -> None:
        """While nobody is there, a name that has other addresses now is used: Zenoh takes none after its start."""
        async for found in self._seeds.changes(seeds):
            if self._peers:
                continue
            await self._close_session()
            while self._session is None:
                try:
                    await self._open(found)
                except StartError as error:
                    log.error("the cluster cannot be joined anew", reason=error)
                    await asyncio.sleep(AGAIN_S)

    async def connect(self, peer: Peer) -> socket.socket:
        """One end of a new stream to a peer.

        :raises OSError: it does not answer.
        """
        here, there = socket.socketpair()
        number = secrets.randbits(64) | 1
        stream = Stream(there, number, lambda *frame: self._put(peer, *frame), self._ended)
        self._streams[number] = stream
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._opening[number] = answered
        try:
            self._put(peer, Kind.OPEN, number, 0, self.me.key.encode())
            async with asyncio.timeout(CONNECT_S):
                await answered
        except BaseException:
            here.close()
            stream.end()
            raise
        finally:
            self._opening.pop(number, None)
        here.setblocking(False)
        return here

    async def close(self) -> None:
        """Leaves the cluster; all streams end."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        self.on_up = self.on_down = self.on_stream = self.on_asked = None
        await self._close_session()

    async def _close_session(self) -> None:
        for stream in list(self._streams.values()):
            stream.end()
        session, self._session = self._session, None
        if session is not None:
            for each in self._declared:
                with contextlib.suppress(self._zenoh.ZError):
                    await asyncio.to_thread(each.undeclare)
            await asyncio.to_thread(session.close)
        self._declared = []
        self._peers.clear()
        self._seen.clear()
        self._forget_secret()

    def _forget_secret(self) -> None:
        if self._secret_file:
            with contextlib.suppress(OSError):
                os.unlink(self._secret_file)
            self._secret_file = ""

    # -- from Zenoh's threads ------------------------------------------------------------------------------------------

    def _came(self, key: str, what: Any) -> None:
        loop = self._loop
        if loop is None:
            return
        if len(self._inbox) >= INBOX_MAX and not isinstance(what, bool):
            return
        self._inbox.append((key, what))
        if not self._is_called:
            self._is_called = True
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._look)

    # -- in the loop's thread ------------------------------------------------------------------------------------------

    def _look(self) -> None:
        self._is_called = False  # first: what comes from now on calls again
        while self._inbox:
            key, what = self._inbox.popleft()
            if isinstance(what, bytes):
                self._on_frame(what)
            elif isinstance(what, bool):
                self._on_token(key, what)
            else:
                self._on_question(what)

    def _on_question(self, query: Any) -> None:
        if self.on_asked is not None:
            with contextlib.suppress(self._zenoh.ZError):  # who asked has gone
                query.reply(ask_key(self._settings.name, self.me), self.on_asked())

    def _on_token(self, key: str, is_up: bool) -> None:
        try:
            peer = Peer.of(key)
        except ValueError:
            log.rarely("warning", "key", "somebody in the cluster has a name that is none", name=key)
            return
        where = (peer.node, peer.worker)
        if where == (self.me.node, self.me.worker):
            if is_up and peer.instance != self.me.instance and peer.at == (self.me.at or self.me.node):
                log.error("another broker has this node's name; set another cluster.node", node=peer.node)
            return
        seen = self._seen.setdefault(where, set())
        (seen.add if is_up else seen.discard)(peer)
        known = self._peers.get(where)
        newest = max(seen, key=lambda each: each.instance, default=None)
        if newest != known:
            if known is not None:
                self._down(known)
            if newest is not None:
                self._peers[where] = newest
                if self.on_up is not None:
                    self.on_up(newest)
        if not seen:
            del self._seen[where]

    def _down(self, peer: Peer) -> None:
        self._peers.pop((peer.node, peer.worker), None)
        for stream in [each for each in self._streams.values() if each.peer_instance == peer.instance]:
            stream.end()
        if self.on_down is not None:
            self.on_down(peer)

    def _on_frame(self, frame: bytes) -> None:
        if len(frame) < HEADER.size:
            return
        kind, number, sender, to, value = HEADER.unpack_from(frame)
        if to not in (0, self.me.instance):
            return
        body = memoryview(frame)[HEADER.size :]
        stream = self._streams.get(number)
        if kind == Kind.OPEN:
            if stream is None:
                self._accept(number, sender, bytes(body))
        elif stream is None:
            if kind == Kind.DATA:  # of a stream that has ended here
                self._put_to(sender, Kind.END, number, 0, b"")
        elif kind == Kind.ACCEPT and (answered := self._opening.get(number)) is not None and not answered.done():
            stream.begin(sender)
            answered.set_result(None)
        elif kind == Kind.END and (answered := self._opening.get(number)) is not None and not answered.done():
            answered.set_exception(ConnectionRefusedError("it does not know this node yet"))
        elif stream.peer_instance == sender:
            stream.on_frame(kind, value, body)

    def _accept(self, number: int, sender: int, body: bytes) -> None:
        try:
            peer = Peer.of(body.decode())
        except ValueError:
            return
        if peer.instance != sender:
            return
        if self._peers.get((peer.node, peer.worker)) != peer or self.on_stream is None:
            self._put(peer, Kind.END, number, 0, b"")  # it tries again, and is known by then
            return
        here, there = socket.socketpair()
        here.setblocking(False)
        stream = Stream(there, number, lambda *frame: self._put(peer, *frame), self._ended)
        self._streams[number] = stream
        stream.begin(sender)
        self._put(peer, Kind.ACCEPT, number, 0, b"")
        self.on_stream(peer, here)

    def _ended(self, number: int) -> None:
        self._streams.pop(number, None)

    def _put_to(self, instance: int, kind: int, number: int, value: int, body: bytes) -> None:
        for peer in self._peers.values():
            if peer.instance == instance:
                self._put(peer, kind, number, value, body)

    def _put(self, peer: Peer, kind: int, number: int, value: int, body: bytes) -> None:
        if self._session is None:
            return
        # All of one priority and one key: nothing overtakes.
        self._session.put(
            f"fastmq/{self._settings.name}/to/{peer.node}/{peer.worker}",
            HEADER.pack(kind, number, self.me.instance, peer.instance, value) + body,
            congestion_control=self._zenoh.CongestionControl.BLOCK,
        )


def ask_key(cluster: str, peer: Peer) -> str:
    """Where a worker is asked."""
    return f"fastmq/{cluster}/ask/{peer.node}/{peer.worker}/{peer.instance:016x}"


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
