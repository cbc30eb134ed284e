"""Which node has a client's session: one, wherever and however often at once its client connects.

A client that this node has no session of is asked for at all others. The node that has its session gets the connection,
see `elsewhere.py`; when none has, it begins here. Of two nodes that ask at once, the first one wins: by a count that
both keep ahead of all they have heard (Lamport, 1978), then by name. A node that does not answer in time, or is not
there, is left out; when it is back, both compare what they have, and one of two sessions of a client ends.
"""

import asyncio
from typing import Any, Final

from fastmq import logs
from fastmq._hub import Hub
from fastmq.errors import Unavailable
from fastmq.fabric.cluster import FIRST, Cluster, Member
from fastmq.fabric.elsewhere import Elsewhere
from fastmq.fabric.quorum import Quorum
from fastmq.reasons import Reason

TRIES: Final = 3
HOPS_MAX: Final = 8
"""Nodes that a connection is given to, one after the other, before it begins where it is."""
PIECE: Final = 1000
"""Client identifiers that are compared at a time."""
ENDS_S: Final = 0.05
AGAIN_S: Final = 0.05

log = logs.get("cluster")


class Claim:
    """A question, until those who asked it have heard its answer."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.waits_for: dict[int, Member] = {}
        self.asked: set[int] = set()
        """The instances of all that were asked."""
        self.owner: asyncio.Future[Member | None] = asyncio.get_running_loop().create_future()
        self.is_sure = True
        self.askers = 0
        """Connections that have not heard the answer yet; until then nobody else may begin."""

    def settle(self, owner: Member | None) -> None:
        """It is known who has the session; None: nobody."""
        if not self.owner.done():
            self.owner.set_result(owner)


class Claims:
    """Those of one worker, which are about the clients whose home it is at its node."""

    def __init__(
        self,
        hub: Hub,
        cluster: Cluster,
        elsewhere: Elsewhere,
        timeout_s: float,
        missing_s: float = 0.0,
        quorum: Quorum | None = None,
    ) -> None:
        """`missing_s`: so long a client waits for a node that is away, whose sessions come back; 0: they do not."""
        self._hub = hub
        self._cluster = cluster
        self._elsewhere = elsewhere
        self._timeout_s = timeout_s
        self._missing_s = missing_s
        self._quorum = quorum
        self._count = 0
        self._open: dict[str, Claim] = {}
        self._granted: dict[str, list[int]] = {}
        """Clients that may begin here, and are still asked for their passwords, with their connections."""
        cluster.hear("claim", self._on_claim)
        cluster.hear("answer", self._on_answer)
        cluster.hear("have", self._on_have)
        cluster.hear("yours", self._on_yours)
        cluster.on_gone.append(self._on_gone)
        cluster.on_ready.append(self._on_ready)
        self._tasks: set[asyncio.Task[None]] = set()

    def is_here(self, conn: int, client_id: str) -> bool:
        """Whether a client may be served here, and nobody needs to be asked about it."""
        return self._is_served() and self._is_known(conn, client_id)

    def _is_served(self) -> bool:
        return self._quorum is None or self._quorum.is_there

    def _is_known(self, conn: int, client_id: str) -> bool:
        return (
            self._hub.has_session(client_id.encode())
            or getattr(self._hub.sinks.sink(conn), "hops", 0) >= HOPS_MAX
            or not (self._cluster.homes(client_id.encode()) or self._misses(client_id))
        )

    def _misses(self, client_id: str) -> bool:
        return self._missing_s > 0 and self._cluster.misses(client_id.encode())

    async def settle(self, conn: int, packet: bytes, client_id: str, *, became: bool, clean: bool) -> bool:
        """Whether a client's session is here, or may begin here; otherwise its connection has been given to its node.

        `became`: an authenticator has found the client identifier. `clean`: it wants a new session.

        :raises Unavailable: it may be at a node that is away, or too few nodes are there.
        """
        if not self._is_served():
            raise Unavailable("too few nodes of the cluster are in sight; see cluster.quorum")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._missing_s
        waits = self._missing_s > 0 and not clean
        tries = 0
        while not self._is_known(conn, client_id):
            if waits and not await self._cluster.is_whole(client_id.encode(), deadline - loop.time()):
                raise Unavailable("its session may be at a node that is away")
            owner, is_sure = await self._ask(client_id)
            if waits and (not is_sure or (owner is None and self._misses(client_id))):
                if loop.time() >= deadline:
                    raise Unavailable("a node does not say whether it has its session")
                await asyncio.sleep(AGAIN_S)
                continue
            if owner is None:
                break
            if await self._elsewhere.give(conn, packet, owner, client_id if became else None):
                return False
            tries += 1
            if tries == TRIES:
                if waits:
                    raise Unavailable("the node that has its session does not take its connection")
                break
        self._granted[client_id] = [*filter(self._hub.is_open, self._granted.get(client_id, ())), conn]
        if len(self._granted) > PIECE:
            self._granted = {each: conns for each, conns in self._granted.items() if self._is_granted(each)}
        return True

    def figures(self) -> dict[str, int]:
        """`cluster_nodes`: those that are there, with this one; `cluster_backlog_bytes`: what they have not taken."""
        backlog = sum(size for index, *_, size in self._hub.remotes.state() if index >= FIRST)
        there = {each.peer.node for each in self._cluster.members()}
        return {"cluster_nodes": len(there) + 1, "cluster_backlog_bytes": backlog}

    async def _ask(self, client_id: str) -> tuple[Member | None, bool]:
        """Who has the session, None if nobody has, and whether that is sure: all have answered, or are gone."""
        claim = self._open.get(client_id)
        if claim is None:
            self._count += 1
            claim = self._open[client_id] = Claim(self._count)
            self._ask_new(client_id, claim)
            asyncio.get_running_loop().call_later(self._timeout_s, self._give_up, client_id, claim)
        claim.askers += 1
        try:
            return await asyncio.shield(claim.owner), claim.is_sure
        finally:
            claim.askers -= 1
            if not claim.askers:
                del self._open[client_id]

    def _ask_new(self, client_id: str, claim: Claim) -> None:
        """Asks those that have not been asked yet, some of whom may have just come; without any, it is settled."""
        for each in self._cluster.homes(client_id.encode()):
            if each.peer.instance not in claim.asked:
                claim.asked.add(each.peer.instance)
                claim.waits_for[each.index] = each
                self._cluster.tell(each, "claim", (client_id, claim.count))
        if not claim.waits_for:
            claim.settle(None)

    def _answered(self, client_id: str, claim: Claim, index: int) -> None:
        """Somebody has not got it, or will not say."""
        claim.waits_for.pop(index, None)
        if not claim.waits_for and not claim.owner.done():
            self._ask_new(client_id, claim)

    def _give_up(self, client_id: str, claim: Claim) -> None:
        if claim.askers and not claim.owner.done():
            names = ",".join(each.name for each in claim.waits_for.values())
            log.rarely("warning", "claim", "nodes do not say if they have a session", client=client_id, nodes=names)
            claim.is_sure = False
            claim.settle(None)

    def _begins(self, claim: Claim) -> bool:
        """Whether who asked may begin here."""
        return claim.owner.result() is None and (claim.is_sure or not self._missing_s)

    def _is_granted(self, client_id: str) -> bool:
        return any(map(self._hub.is_open, self._granted.get(client_id, ())))

    def _has(self, client_id: str) -> bool:
        return self._hub.has_session(client_id.encode()) or self._is_granted(client_id)

    # -- from other nodes ----------------------------------------------------------------------------------------------

    def _on_claim(self, member: Member, value: Any, _body: bytes) -> None:
        client_id, count = value
        self._count = max(self._count, count)
        mine = self._open.get(client_id)
        me, it = (self._cluster.me.node, self._cluster.me.worker), (member.peer.node, member.peer.worker)
        is_here = self._has(client_id)
        if not is_here and mine is not None:
            # What is settled counts as what it is settled as, though its connections have not been told yet.
            is_here = self._begins(mine) if mine.owner.done() else (mine.count, me) < (count, it)
        self._cluster.tell(member, "answer", (client_id, count, is_here))

    def _on_answer(self, member: Member, value: Any, _body: bytes) -> None:
        client_id, count, is_there = value
        claim = self._open.get(client_id)
        if claim is None or claim.count != count:
            return
        if is_there:
            claim.settle(member)
        else:
            self._answered(client_id, claim, member.index)

    def _on_gone(self, member: Member) -> None:
        for client_id, claim in list(self._open.items()):
            self._answered(client_id, claim, member.index)

    def _on_ready(self, member: Member) -> None:
        for client_id, claim in self._open.items():
            if member.index in claim.waits_for:  # the question may have been lost with the connection
                self._cluster.tell(member, "claim", (client_id, claim.count))
        if self._cluster.me.node < member.peer.node:
            task = asyncio.get_running_loop().create_task(self._compare(member))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _compare(self, member: Member) -> None:
        """Tells a node that has just come, or come back, which sessions are here."""
        mine = {client_id.decode(): bool(connected) for client_id, connected, *_ in self._hub.clients()}
        mine |= {client_id: True for client_id in self._granted if self._is_granted(client_id)}
        homes = [
            each for each in mine.items() if any(other is member for other in self._cluster.homes(each[0].encode()))
        ]
        for at in range(0, len(homes), PIECE):
            self._cluster.tell(member, "have", homes[at : at + PIECE])
            await asyncio.sleep(0)

    def _on_have(self, member: Member, value: Any, _body: bytes) -> None:
        """Of two sessions of a client, the connected one stays; of two such, that of the node first in the alphabet."""
        theirs: list[str] = []
        connected = {client_id for _, client_id, _ in self._hub.connected()} if value else set()
        for client_id, is_connected in value:
            if not self._has(client_id):
                continue
            if not is_connected and (client_id.encode() in connected or self._is_granted(client_id)):
                theirs.append(client_id)
            else:
                self._end(client_id, member)
        if theirs:
            self._cluster.tell(member, "yours", theirs)

    def _on_yours(self, member: Member, value: Any, _body: bytes) -> None:
        for client_id in value:
            self._end(client_id, member)

    def _end(self, client_id: str, member: Member) -> None:
        """Ends a session that another node goes on with."""
        log.warning("a session is at another node, too, and ends here", client=client_id, node=member.name)
        name = client_id.encode()
        for conn in filter(self._hub.is_open, self._granted.pop(client_id, ())):  # it is still asked for its password
            self._hub.close_connection(conn)
        if not self._hub.remotes.end(name):
            self._hub.disconnect(name, Reason.SESSION_TAKEN_OVER)
            asyncio.get_running_loop().call_later(ENDS_S, self._hub.remotes.end, name)

    async def close(self) -> None:
        """Waits for nothing any more."""
        for claim in list(self._open.values()):
            claim.settle(None)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
