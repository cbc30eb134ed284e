"""Users and bans, the same at all nodes: the later change of each wins (last writer wins, with hybrid logical clocks).

The first worker of a node finds out what has changed in its store, whoever did that, gives each change a stamp, and
tells the others. What is removed leaves its stamp, so that a node that was away does not bring it back. Nodes that
meet, and all of them from time to time, compare a sum of what they have, and tell each other all of it if that differs.
"""

import asyncio
import base64
import hashlib
import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import orjson

from fastmq import logs
from fastmq.contracts import Facts
from fastmq.errors import StoreError
from fastmq.fabric.cluster import Cluster, Member

STAMPS: Final = "cluster/"
"""A fact whose key begins so is the stamp of the one whose key the rest is."""
REMEMBERED_MS: Final = 30 * 86_400_000
"""So long the stamp of what was removed is kept."""
COMPARE_S: Final = 15.0
RETRY_S: Final = 1.0
PIECE_BYTES: Final = 64 * 1024
PAUSE_S: Final = 0.01
"""Between two pieces."""

log = logs.get("cluster")


class Stamp(NamedTuple):
    """When and where a fact was changed last. The higher one wins."""

    ms: int
    """Since 1970, and above that of every change known there."""
    node: str
    digest: str
    """Of the value; empty: it was removed."""


def digest_of(value: bytes | None) -> str:
    """A short text that another value does not have; empty for none."""
    return "" if value is None else hashlib.blake2b(value, digest_size=12).hexdigest()


class Changes:
    """The stamps of all that is known; the values are the facts' own."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._stamps: dict[str, Stamp] = {}
        self._newest_ms = 0
        self.sum = 0
        """The same at two nodes when they know the same."""

    def get(self, key: str) -> Stamp | None:
        """That of one fact."""
        return self._stamps.get(key)

    def all(self) -> Mapping[str, Stamp]:
        """All of them, by key."""
        return self._stamps

    def put(self, key: str, stamp: Stamp) -> None:
        """From now on, this one is the fact's."""
        if (before := self._stamps.get(key)) is not None:
            self.sum ^= _part(key, before)
        self._stamps[key] = stamp
        self.sum ^= _part(key, stamp)
        self._newest_ms = max(self._newest_ms, stamp.ms)

    def drop(self, key: str) -> None:
        """Nothing is known of it any more."""
        if (before := self._stamps.pop(key, None)) is not None:
            self.sum ^= _part(key, before)

    def is_news(self, key: str, stamp: Stamp) -> bool:
        """Whether what another node says is later than what is known here."""
        before = self._stamps.get(key)
        return before is None or stamp > before

    def local(self, changes: Mapping[str, bytes | None], now_ms: int) -> dict[str, Stamp]:
        """Stamps for what of these was changed here, without one; `now_ms` 0: they lose against all others."""
        ms = max(now_ms, self._newest_ms + 1) if now_ms else 0
        digests = {key: digest_of(value) for key, value in changes.items()}
        return {
            key: Stamp(ms, self._node, digest)
            for key, digest in digests.items()
            if digest != ("" if (known := self._stamps.get(key)) is None else known.digest)
        }

    def forgettable(self, now_ms: int) -> list[str]:
        """What was removed so long ago that no node is expected to have it still."""
        return [key for key, stamp in self._stamps.items() if not stamp.digest and stamp.ms < now_ms - REMEMBERED_MS]


def _part(key: str, stamp: Stamp) -> int:
    text = f"{key}\0{stamp.ms}\0{stamp.node}\0{stamp.digest}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


class SharedFacts:
    """Those of one node; all methods belong to the loop's thread of its first worker."""

    def __init__(self, cluster: Cluster, facts: Facts, watch: Callable[[Callable[[], None]], None]) -> None:
        """`watch` takes what is to be called whenever the facts have changed."""
        self._cluster = cluster
        self._facts = facts
        self._changes = Changes(cluster.me.node)
        self._is_loaded = self._is_new = False
        self._seen: Mapping[str, bytes | None] = {}
        """The values that have been looked at."""
        self._incoming: dict[str, tuple[Stamp, bytes | None]] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._sending: dict[int, asyncio.Task[None]] = {}
        watch(self._wake.set)
        cluster.hear("facts-sum", self._on_sum)
        cluster.hear("facts", self._on_facts)
        cluster.on_ready.append(self._tell_sum)

    def start(self) -> None:
        """Begins; the facts have been loaded."""
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(_ended)

    async def close(self) -> None:
        """Ends it."""
        tasks = [each for each in (self._task, *self._sending.values()) if each is not None]
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        self._load()
        self._wake.set()
        while True:
            try:
                async with asyncio.timeout(COMPARE_S):
                    await self._wake.wait()
            except TimeoutError:
                for member in self._others():
                    self._tell_sum(member)
            self._wake.clear()
            try:
                await self._step()
            except StoreError as error:
                log.rarely("error", "facts", "users and bans of other nodes cannot be stored", reason=error)
                await asyncio.sleep(RETRY_S)
                self._wake.set()

    def _load(self) -> None:
        for key, value in self._facts.under(STAMPS).items():
            try:
                ms, node, digest = orjson.loads(value)
                self._changes.put(key, Stamp(int(ms), str(node), str(digest)))
            except (ValueError, TypeError):  # it is stamped anew
                log.warning("the stamp of a fact cannot be read", key=key)
        # What was removed while this node was not running is missing from the first values.
        self._seen = dict.fromkeys(key for key, stamp in self._changes.all().items() if stamp.digest)
        # What a node has that was never in a cluster is merged: it takes the place of nothing.
        self._is_new = not self._changes.all()

    async def _step(self) -> None:
        """Takes what has changed here, then what others have told."""
        values = {key: value for key, value in self._facts.under("").items() if not key.startswith(STAMPS)}
        now_ms = time.time_ns() // 1_000_000
        seen = self._seen
        changed: dict[str, bytes | None] = {key: value for key, value in values.items() if seen.get(key) != value}
        changed |= dict.fromkeys(seen.keys() - values.keys())
        mine = self._changes.local(changed, 0 if self._is_new else now_ms)
        self._is_new, self._is_loaded = False, True
        if mine:
            await self._facts.put({STAMPS + key: _stored(stamp) for key, stamp in mine.items()})
            for key, stamp in mine.items():
                self._changes.put(key, stamp)
            entries = [_entry(key, stamp, values.get(key)) for key, stamp in mine.items()]
            for member in self._others():
                self._send(member, entries)
        self._seen = values
        told = {key: each for key, each in self._incoming.items() if self._changes.is_news(key, each[0])}
        if told:
            await self._facts.put(
                {key: value for key, (_, value) in told.items()}
                | {STAMPS + key: _stored(stamp) for key, (stamp, _) in told.items()}
            )
            for key, (stamp, _) in told.items():
                self._changes.put(key, stamp)
            log.info("took changes of users and bans from other nodes", changes=len(told))
        for key in list(self._incoming):
            if not self._changes.is_news(key, self._incoming[key][0]):
                del self._incoming[key]
        if self._incoming:
            self._wake.set()
        if forgotten := self._changes.forgettable(now_ms):
            await self._facts.put({STAMPS + key: None for key in forgotten})
            for key in forgotten:
                self._changes.drop(key)

    # -- the others ----------------------------------------------------------------------------------------------------

    def _others(self) -> list[Member]:
        """The first workers of other nodes; who stands in for one has the facts of its host."""
        return [each for each in self._cluster.members() if _has_facts(each)]

    def _tell_sum(self, member: Member) -> None:
        if self._is_loaded and _has_facts(member):
            self._cluster.tell(member, "facts-sum", f"{self._changes.sum:016x}")

    def _on_sum(self, member: Member, value: Any, _body: bytes) -> None:
        if self._is_loaded and int(value, 16) != self._changes.sum:
            values = self._facts.under("")
            entries = [_entry(key, stamp, values.get(key)) for key, stamp in self._changes.all().items()]
            self._send(member, entries)

    def _send(self, member: Member, entries: list[Any]) -> None:
        """In pieces, behind what is being sent."""
        before = self._sending.get(member.index)
        task = asyncio.get_running_loop().create_task(self._send_after(before, member, entries))
        self._sending[member.index] = task

        def done(task: asyncio.Task[None]) -> None:
            if self._sending.get(member.index) is task:
                del self._sending[member.index]

        task.add_done_callback(done)

    async def _send_after(self, before: asyncio.Task[None] | None, member: Member, entries: list[Any]) -> None:
        if before is not None:
            await asyncio.wait((before,))
        piece: list[Any] = []
        size = 0
        for entry in itertools.chain(entries, (None,)):
            if piece and (entry is None or size + _size(entry) > PIECE_BYTES):
                if not self._cluster.tell(member, "facts", piece):
                    return  # they are compared when it is connected
                piece, size = [], 0
                await asyncio.sleep(PAUSE_S)
            if entry is not None:
                piece.append(entry)
                size += _size(entry)

    def _on_facts(self, member: Member, value: Any, _body: bytes) -> None:
        for key, ms, node, text in value:
            found = None if text is None else base64.b64decode(text, validate=True)
            if not isinstance(key, str) or key.startswith(STAMPS) or not isinstance(ms, int) or ms < 0:
                raise ValueError("a fact of another shape")
            stamp = Stamp(ms, str(node), digest_of(found))
            if found is None and ms < time.time_ns() // 1_000_000 - REMEMBERED_MS:
                continue  # it is forgotten here
            before = self._incoming.get(key)
            if self._changes.is_news(key, stamp) and (before is None or stamp > before[0]):
                self._incoming[key] = stamp, found
        if self._incoming:
            self._wake.set()


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("users and bans are not shared with other nodes any more", reason=repr(error))


def _has_facts(member: Member) -> bool:
    return member.peer.worker == 0 and member.peer.at == member.peer.node


def _stored(stamp: Stamp) -> bytes:
    return orjson.dumps([stamp.ms, stamp.node, stamp.digest])


def _entry(key: str, stamp: Stamp, value: bytes | None) -> tuple[str, int, str, str | None]:
    text = base64.b64encode(value).decode() if value is not None and stamp.digest else None
    return key, stamp.ms, stamp.node, text


def _size(entry: tuple[str, int, str, str | None]) -> int:
    return len(entry[0]) + len(entry[3] or "") + 64
