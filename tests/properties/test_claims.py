"""Of any number of connects of one client at any nodes at once, one node begins, however long its questions travel."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fastmq._hub import Hub
from fastmq.fabric.claims import Claims
from fastmq.fabric.cluster import Cluster, Member
from fastmq.fabric.elsewhere import Elsewhere

NAMES = ("alpha", "beta", "gamma")
STEPS_MAX = 6


class Node:
    """What a node's claims need of its engine, its cluster and its relays; what it says arrives later, in order."""

    def __init__(self, name: str, seed: random.Random) -> None:
        self.name = name
        self.seed = seed
        self.me = SimpleNamespace(node=name, worker=0, instance=hash(name))
        self.others: list[Member] = []
        self.heard: dict[str, Callable[[Any, Any, bytes], None]] = {}
        self.on_gone: list[Any] = []
        self.on_ready: list[Any] = []
        self.sessions: set[bytes] = set()
        self.conns: set[int] = set()
        self.hops: dict[int, int] = {}
        self.line: dict[str, asyncio.Queue[tuple[str, Any]]] = {}
        self.nodes: dict[str, Node] = {}
        self.sinks = self
        self.connects: list[asyncio.Task[None]] = []
        self.claims = Claims(cast(Hub, self), cast(Cluster, self), cast(Elsewhere, self), timeout_s=10)

    # -- the engine

    def has_session(self, client_id: bytes) -> bool:
        return client_id in self.sessions

    def is_open(self, conn: int) -> bool:
        return conn in self.conns

    def sink(self, conn: int) -> Any:
        return SimpleNamespace(hops=self.hops.get(conn, 0))

    # -- the cluster

    def homes(self, _name: bytes) -> list[Member]:
        return self.others

    def misses(self, _name: bytes) -> bool:
        return False

    def hear(self, kind: str, call: Callable[[Any, Any, bytes], None]) -> None:
        self.heard[kind] = call

    def tell(self, member: Member, kind: str, value: Any, _body: bytes = b"") -> bool:
        self.line[member.peer.node].put_nowait((kind, value))
        return True

    async def carry(self, name: str) -> None:
        """One way of what is said to another node."""
        while True:
            kind, value = await self.line[name].get()
            await steps(self.seed)
            there = self.nodes[name]
            there.heard[kind](next(each for each in there.others if each.peer.node == self.name), value, b"")

    # -- the relays

    async def give(self, conn: int, _packet: bytes, owner: Member, _client_id: str | None) -> bool:
        await steps(self.seed)
        self.conns.discard(conn)
        there = self.nodes[owner.peer.node]
        there.connects.append(asyncio.create_task(there.connect(conn, self.hops.get(conn, 0) + 1)))
        return True

    # -- clients

    async def is_let_in(self, conn: int) -> bool:
        return self.claims.is_here(conn, "c") or await self.claims.settle(conn, b"", "c", became=False, clean=False)

    async def connect(self, conn: int, hops: int = 0) -> None:
        await steps(self.seed)
        self.conns.add(conn)
        self.hops[conn] = hops
        if not await self.is_let_in(conn):
            return
        await steps(self.seed)  # its password is looked at
        self.sessions.add(b"c")


async def steps(seed: random.Random) -> None:
    for _ in range(seed.randrange(STEPS_MAX)):
        await asyncio.sleep(0)


async def race(seed: random.Random) -> list[str]:
    """The nodes that have the client's session at the end of a race."""
    nodes = {name: Node(name, seed) for name in NAMES}
    carriers = []
    for node in nodes.values():
        node.nodes = nodes
        for index, name in enumerate(each for each in NAMES if each != node.name):
            peer = SimpleNamespace(node=name, worker=0, instance=hash(name), count=1)
            node.others.append(Member(cast(Any, peer), index))
            node.line[name] = asyncio.Queue()
            carriers.append(asyncio.create_task(node.carry(name)))
    for conn in range(9):
        node = nodes[seed.choice(NAMES)]
        node.connects.append(asyncio.create_task(node.connect(conn)))
        await steps(seed)
    while waiting := [each for node in nodes.values() for each in node.connects if not each.done()]:
        await asyncio.wait(waiting)
    for each in carriers:
        each.cancel()
    await asyncio.gather(*carriers, return_exceptions=True)
    for node in nodes.values():
        await asyncio.gather(*node.connects)
        await node.claims.close()
    return [node.name for node in nodes.values() if node.sessions]


@pytest.mark.parametrize("block", range(10))
def test_one_node_begins(block: int) -> None:
    for turn in range(100):
        owners = asyncio.run(race(random.Random(block * 1000 + turn)))
        assert len(owners) == 1, (block, turn, owners)
