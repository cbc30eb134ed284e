"""Batches of one worker in a stream of NATS JetStream, which several servers have, and who may append to it.

Every message is appended with the sequence number that it expects to be the last (`Nats-Expected-Last-Sequence`). An
owner begins with a record of its own, so all that another process still sends, or has on its way, is refused from then
on: it finds itself fenced. What it is unsure of after a failure it reads again before it goes on.
"""

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from fastmq import logs
from fastmq.config.cluster import ClusterSettings
from fastmq.config.jetstream import JetStreamSettings
from fastmq.errors import Fenced, StoreError
from fastmq.store.nats_client import Connection
from fastmq.store.nats_snapshots import Snapshots

OWNER, TERM, WORKERS = "Fastmq-Owner", "Fastmq-Term", "Fastmq-Workers"
NUMBER, PART, WALL = "Fastmq-Number", "Fastmq-Part", "Fastmq-Wall-Ms"
EXPECTED: Final = "Nats-Expected-Last-Sequence"
PART_BYTES: Final = 512 * 1024
"""Of one message: a server takes 1 MiB unless it is told otherwise."""
WRONG_SEQUENCE: Final = (10071, 10164)
"""JetStream's error codes when the last sequence number is another one."""
READ_AT_ONCE: Final = 64
FETCH_S: Final = 2.0

log = logs.get("store")


@dataclass(frozen=True, slots=True)
class Batch:
    """One that was appended."""

    number: int
    wall_ms: int
    """When, in milliseconds since 1970."""
    records: bytes


class Stream:
    """The batches of one worker of one node. All methods but `close` raise StoreError when no quorum answers."""

    def __init__(self, settings: JetStreamSettings, cluster: ClusterSettings, node: str, worker: int) -> None:
        self._settings = settings
        self.name = f"FASTMQ-{cluster.name}-{node}-{worker}".replace(".", "=")
        self._subject = f"fastmq.{cluster.name}.{node}.{worker}".replace("=", "==").replace("..", "=.")
        self._connection = Connection(settings, cluster, self.name)
        self.snapshots = Snapshots(self._connection, settings, cluster.name, node, worker)
        self._owner = ""
        self._after = 0
        self.term = 0
        """Counts the owners; this process is the owner of this term."""
        self.workers = 0
        """How many workers the node had that wrote what the stream has; 0: nobody did."""
        self._last = 0
        """The sequence number of the newest message that is known."""
        self._doubt = False
        """Whether something may have been appended that nobody knows of."""
        self.bytes = 0
        """Of batches that are newer than the last snapshot, about."""
        self._sequences: deque[tuple[int, int]] = deque()
        """Number and sequence number of those."""

    # -- its beginning and end -----------------------------------------------------------------------------------------

    def open(self, owner: str, wait_s: float | None = None, after: int = 0) -> None:
        """Connects, makes the stream if it is not there, and becomes its owner.

        `owner` is a text that no other process has. Waits for a quorum, `wait_s` seconds at most.
        `after`: only if the last term is this one; 0: whichever it is.

        :raises StartError: the extra is not installed. :raises StoreError: there is no quorum in time.
        :raises Fenced: it is another term than `after`.
        """
        self._owner = owner
        self._after = after
        self._connection.start()
        self._connection.patient(self._open, wait_s)

    async def _open(self) -> None:
        await self._connection.connect()
        from nats.js.api import StorageType, StreamConfig

        config = StreamConfig(
            name=self.name,
            subjects=[f"{self._subject}.*"],
            storage=StorageType.FILE,
            num_replicas=self._settings.replicas,
            allow_direct=False,  # a replica that is behind must not answer
        )
        await self._connection.js.add_stream(config)
        await self._acquire()

    async def _acquire(self) -> None:
        """Begins a term; whoever owned the stream before is fenced from here on."""
        while True:
            state = (await self._connection.js.stream_info(self.name)).state
            term = 0
            with contextlib.suppress(self._not_found()):
                before = (await self._connection.js.get_last_msg(self.name, f"{self._subject}.owner")).headers
                term, self.workers = int(before[TERM]), int(before[WORKERS])
                if self._after and term != self._after and before[OWNER] != self._owner:
                    raise Fenced(f"stream {self.name}: another process was quicker")
            try:
                await self._own(term + 1, self.workers, state.last_seq)
            except Exception as error:
                if not _is_wrong_sequence(error):
                    raise
                continue
            self.term = term + 1
            return

    async def _own(self, term: int, workers: int, last: int) -> None:
        headers = {OWNER: self._owner, TERM: str(term), WORKERS: str(workers), EXPECTED: str(last)}
        found = await self._connection.js.publish(f"{self._subject}.owner", b"", headers=headers)
        self._last, self._doubt = found.seq, False

    def keep_workers(self, workers: int) -> None:
        """Notes how many workers the node has.

        :raises Fenced: another process owns the stream.
        """
        if workers != self.workers:
            self._connection.patient(lambda: self._keep_workers(workers))

    async def _keep_workers(self, workers: int) -> None:
        # Not by another term: what another owner appended since this one has read is not to be overlooked.
        self._doubt = True
        try:
            await self._own(self.term, workers, self._last)
        except Exception as error:
            if not _is_wrong_sequence(error):
                raise
            await self._look()
            raise TimeoutError("something came between") from error
        self.workers = workers

    def _not_found(self) -> Any:
        from nats.js.errors import NotFoundError

        return NotFoundError

    def hurry(self) -> None:
        """From now on, and for what runs now, no answer is waited for longer than a second. From any thread."""
        self._connection.hurry()

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()

    # -- batches -------------------------------------------------------------------------------------------------------

    def append(self, number: int, records: bytes) -> None:
        """Returns when more than half of the servers have the batch, whose number is that of the one before plus one.

        :raises Fenced: another process owns the stream.
        """
        self._connection.call(self._append(number, records))
        self.bytes += len(records)
        self._sequences.append((number, self._last))

    async def _append(self, number: int, records: bytes) -> None:
        if self._doubt and await self._look() == number:
            return  # it had been stored after all
        parts = max(1, -(-len(records) // PART_BYTES))
        wall_ms = time.time_ns() // 1_000_000
        for part in range(parts):
            headers = {
                NUMBER: str(number),
                PART: f"{part + 1}/{parts}",
                WALL: str(wall_ms),
                EXPECTED: str(self._last),
            }
            body = records[part * PART_BYTES : (part + 1) * PART_BYTES]
            self._doubt = True
            try:
                found = await self._connection.js.publish(
                    f"{self._subject}.batch", body, timeout=self._settings.timeout_s, headers=headers
                )
            except Exception as error:
                if not _is_wrong_sequence(error):
                    raise
                if await self._look() == number:
                    return
                raise TimeoutError("something came between") from error
            self._last = found.seq
        self._doubt = False

    async def _look(self) -> int:
        """Learns what the stream has; returns the number of its newest whole batch, if it is not known yet, else 0.

        :raises Fenced: it has another owner.
        """
        state = (await self._connection.js.stream_info(self.name)).state
        number = 0
        for sequence in range(self._last + 1, state.last_seq + 1):
            message = await self._connection.js.get_msg(self.name, sequence)
            headers = message.headers or {}
            if headers.get(OWNER, self._owner) != self._owner:
                raise Fenced(f"stream {self.name}: another process goes on with it")
            number = 0
            if PART in headers and _is_last(headers[PART]):
                number = int(headers[NUMBER])
        self._last = max(self._last, state.last_seq)
        self._doubt = False
        return number

    def check(self) -> None:
        """Whether this process still owns the stream.

        :raises Fenced: it does not.
        """
        self._connection.call(self._check())

    async def _check(self) -> None:
        message = await self._connection.js.get_last_msg(self.name, f"{self._subject}.owner")
        if (message.headers or {}).get(OWNER) != self._owner:
            raise Fenced(f"stream {self.name}: another process goes on with it")

    def read(self) -> Iterator[Batch]:
        """The batches that the stream has, oldest first; once, after `open`."""
        done = 0
        parts: list[bytes] = []
        subscription: Any = None
        while done < self._last:
            if subscription is None:
                subscription = self._connection.patient(partial(self._subscribe, done + 1))
            try:
                messages = self._connection.call(self._fetch(subscription))
            except StoreError as error:
                log.warning("reads the stream again from where it was", stream=self.name, done=done, reason=error)
                subscription = None  # the server that had it may be gone
                continue
            for message in messages:
                if message.metadata.sequence.stream <= done:
                    continue  # when its server has gone, a consumer may go on from further back
                done = message.metadata.sequence.stream
                headers = message.headers or {}
                if PART not in headers:
                    continue
                if headers[PART].startswith("1/"):
                    parts = []
                parts.append(message.data)
                if not _is_last(headers[PART]) or len(parts) != int(headers[PART].partition("/")[2]):
                    continue
                batch = Batch(int(headers[NUMBER]), int(headers[WALL]), b"".join(parts))
                parts = []
                self.bytes += len(batch.records)
                self._sequences.append((batch.number, done))
                yield batch
        if subscription is not None:
            with contextlib.suppress(StoreError):
                self._connection.call(subscription.unsubscribe())

    async def _subscribe(self, sequence: int) -> Any:
        from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

        config = ConsumerConfig(
            ack_policy=AckPolicy.NONE,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=sequence,
            inactive_threshold=60,
        )
        return await self._connection.js.pull_subscribe(f"{self._subject}.*", stream=self.name, config=config)

    async def _fetch(self, subscription: Any) -> list[Any]:
        found: list[Any] = await subscription.fetch(READ_AT_ONCE, timeout=FETCH_S)
        return found

    # -- snapshots -----------------------------------------------------------------------------------------------------

    def put_snapshot(self, path: Path, number: int) -> None:
        """Takes a file that has all batches up to this number, in their place.

        May be called beside all else, from another thread.
        """
        self.snapshots.put(path, number)
        sequence = 0
        while self._sequences and self._sequences[0][0] <= number:
            sequence = self._sequences.popleft()[1]
        if sequence:
            js = self._connection.js
            self._connection.call(js.purge_stream(self.name, seq=sequence + 1, subject=f"{self._subject}.batch"))


def _is_last(part: str) -> bool:
    mine, _, all_of_them = part.partition("/")
    return mine == all_of_them


def _is_wrong_sequence(error: Exception) -> bool:
    return getattr(error, "err_code", 0) in WRONG_SEQUENCE
