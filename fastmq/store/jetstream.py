"""Batches of one worker in a stream of NATS JetStream, which several servers have, and who may append to it.

Every message is appended with the sequence number that it expects to be the last (`Nats-Expected-Last-Sequence`). An
owner begins with a record of its own, so all that another process still sends, or has on its way, is refused from then
on: it finds itself fenced. What it is unsure of after a failure it reads again before it goes on.

NATS' client is asyncio; it has a thread and a loop of its own here, and all methods block.
"""

import asyncio
import contextlib
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from fastmq import logs
from fastmq.config.cluster import ClusterSettings, endpoint
from fastmq.config.jetstream import JetStreamSettings
from fastmq.errors import Fenced, StartError, StoreError
from fastmq.store.nats_server import USER, password_of

T = TypeVar("T")

OWNER, TERM, WORKERS = "Fastmq-Owner", "Fastmq-Term", "Fastmq-Workers"
NUMBER, PART, WALL = "Fastmq-Number", "Fastmq-Part", "Fastmq-Wall-Ms"
EXPECTED: Final = "Nats-Expected-Last-Sequence"
PART_BYTES: Final = 512 * 1024
"""Of one message: a server takes 1 MiB unless it is told otherwise."""
WRONG_SEQUENCE: Final = (10071, 10164)
"""JetStream's error codes when the last sequence number is another one."""
READ_AT_ONCE: Final = 64
ASK_S: Final = 2.0
"""What nobody answers within this was asked while there was no leader, and is asked again."""
RETRY_S: Final = 0.25
SAY_S: Final = 5.0
HURRY_S: Final = 1.0
SNAPSHOT_S: Final = 600.0
CHUNK_BYTES: Final = 256 * 1024

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
        self._cluster = cluster
        self.name = f"FASTMQ-{cluster.name}-{node}-{worker}".replace(".", "=")
        self._subject = f"fastmq.{cluster.name}.{node}.{worker}".replace("=", "==").replace("..", "=.")
        self._bucket = f"fastmq-{cluster.name}".replace(".", "=").replace("=", "_")
        self._object = f"{node}/{worker}"
        self._owner = ""
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
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fastmq-nats", daemon=True)
        self._scopes: set[asyncio.Timeout] = set()
        self._is_hurried = False
        self._nats: Any = None
        self._js: Any = None
        self._errors: tuple[type[Exception], ...] = ()

    # -- its beginning and end -----------------------------------------------------------------------------------------

    def open(self, owner: str, wait_s: float | None = None) -> None:
        """Connects, makes the stream if it is not there, and becomes its owner.

        `owner` is a text that no other process has. Waits for a quorum, `wait_s` seconds at most.

        :raises StartError: the extra is not installed. :raises StoreError: there is no quorum in time.
        """
        try:
            import nats.errors
            import nats.js.errors
        except ImportError:
            raise StartError("store.engine = \"jetstream\" needs the extra: pip install 'fastmq[jetstream]'") from None
        self._errors = (nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError)
        self._owner = owner
        self._thread.start()
        self._patient(self._open, wait_s)

    def _patient(
        self,
        work: Callable[[], Coroutine[Any, Any, T]],
        wait_s: float | None = None,
        timeout_s: float | None = None,
    ) -> T:
        """What it gives as soon as there is a quorum. Raises StoreError when there is none in time."""
        deadline = None if wait_s is None else time.monotonic() + wait_s
        said = time.monotonic()
        while True:
            try:
                return self._call(work(), timeout_s)
            except StoreError as error:
                now = time.monotonic()
                if deadline is not None and now >= deadline:
                    raise
                if now - said >= SAY_S:
                    said = now
                    log.warning("waits for a quorum of JetStream", reason=error)
            time.sleep(RETRY_S)

    async def _open(self) -> None:
        import nats
        from nats.js.api import StorageType, StreamConfig

        settings = self._settings
        if self._nats is None:
            urls = list(settings.urls)
            user, password = settings.user, settings.password
            if not urls:
                host, port = endpoint(settings.listen)
                host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
                urls = [f"nats://[{host}]:{port}" if ":" in host else f"nats://{host}:{port}"]
                user, password = USER, password_of(self._cluster)
            options: dict[str, Any] = {"user": user, "password": str(password)} if user else {}
            if settings.tls_ca:
                options["tls"] = ssl.create_default_context(cafile=settings.tls_ca)
            self._nats = await nats.connect(
                urls,
                name=f"fastmq {self.name}",
                connect_timeout=2,
                reconnect_time_wait=0.2,
                max_reconnect_attempts=-1,
                ping_interval=2,
                max_outstanding_pings=2,
                allow_reconnect=True,
                error_cb=_on_error,
                **options,
            )
            self._js = self._nats.jetstream(timeout=ASK_S)
        config = StreamConfig(
            name=self.name,
            subjects=[f"{self._subject}.*"],
            storage=StorageType.FILE,
            num_replicas=settings.replicas,
            allow_direct=False,  # a replica that is behind must not answer
        )
        await self._js.add_stream(config)
        await self._acquire()

    async def _acquire(self, workers: int = 0) -> None:
        """Begins a term; whoever owned the stream before is fenced from here on."""
        while True:
            state = (await self._js.stream_info(self.name)).state
            term = 0
            with contextlib.suppress(self._not_found()):
                before = (await self._js.get_last_msg(self.name, f"{self._subject}.owner")).headers
                term, self.workers = int(before[TERM]), int(before[WORKERS])
            headers = {
                OWNER: self._owner,
                TERM: str(term + 1),
                WORKERS: str(workers or self.workers),
                EXPECTED: str(state.last_seq),
            }
            try:
                found = await self._js.publish(f"{self._subject}.owner", b"", headers=headers)
            except Exception as error:
                if not _is_wrong_sequence(error):
                    raise
                continue
            self._last, self.term, self._doubt = found.seq, term + 1, False
            self.workers = workers or self.workers
            return

    def keep_workers(self, workers: int) -> None:
        """Notes how many workers the node has."""
        if workers != self.workers:
            self._patient(lambda: self._acquire(workers))

    def _not_found(self) -> Any:
        from nats.js.errors import NotFoundError

        return NotFoundError

    def close(self) -> None:
        """Ends the connection and the thread."""
        if not self._thread.is_alive():
            return
        if self._nats is not None:
            with contextlib.suppress(Exception):
                asyncio.run_coroutine_threadsafe(self._nats.close(), self._loop).result(2.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        future = asyncio.run_coroutine_threadsafe(self._within(work, timeout_s), self._loop)
        try:
            return future.result()
        except self._errors as error:
            why = str(error) or "no answer"
            raise StoreError("failed", f"stream {self.name}: {type(error).__name__}: {why}") from error

    async def _within(self, work: Coroutine[Any, Any, T], timeout_s: float | None) -> T:
        limit_s = HURRY_S if self._is_hurried else timeout_s or self._settings.timeout_s * 4
        async with asyncio.timeout(limit_s) as scope:
            self._scopes.add(scope)
            try:
                return await work
            finally:
                self._scopes.discard(scope)

    def hurry(self) -> None:
        """From now on, and for what runs now, no answer is waited for longer than a second. From any thread."""

        def hurry() -> None:
            self._is_hurried = True
            for scope in self._scopes:
                scope.reschedule(min(scope.when() or 0.0, self._loop.time() + HURRY_S))

        with contextlib.suppress(RuntimeError):  # it is closed
            self._loop.call_soon_threadsafe(hurry)

    # -- batches -------------------------------------------------------------------------------------------------------

    def append(self, number: int, records: bytes) -> None:
        """Returns when more than half of the servers have the batch, whose number is that of the one before plus one.

        :raises Fenced: another process owns the stream.
        """
        self._call(self._append(number, records))
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
                found = await self._js.publish(
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
        state = (await self._js.stream_info(self.name)).state
        number = 0
        for sequence in range(self._last + 1, state.last_seq + 1):
            message = await self._js.get_msg(self.name, sequence)
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
        self._call(self._check())

    async def _check(self) -> None:
        message = await self._js.get_last_msg(self.name, f"{self._subject}.owner")
        if (message.headers or {}).get(OWNER) != self._owner:
            raise Fenced(f"stream {self.name}: another process goes on with it")

    def read(self) -> Iterator[Batch]:
        """The batches that the stream has, oldest first; once, after `open`."""
        done = 0
        parts: list[bytes] = []
        subscription = self._patient(self._subscribe)
        try:
            while done < self._last:
                for message in self._patient(lambda: self._fetch(subscription)):
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
        finally:
            with contextlib.suppress(StoreError):
                self._call(subscription.unsubscribe())

    async def _subscribe(self) -> Any:
        from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

        config = ConsumerConfig(ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.ALL, inactive_threshold=60)
        return await self._js.pull_subscribe(f"{self._subject}.*", stream=self.name, config=config)

    async def _fetch(self, subscription: Any) -> list[Any]:
        found: list[Any] = await subscription.fetch(READ_AT_ONCE, timeout=self._settings.timeout_s)
        return found

    # -- snapshots -----------------------------------------------------------------------------------------------------

    def put_snapshot(self, path: Path, number: int) -> None:
        """Takes a file that has all batches up to this number, in their place.

        May be called beside all else, from another thread.
        """
        self._call(self._put_snapshot(path, number), SNAPSHOT_S)
        sequence = 0
        while self._sequences and self._sequences[0][0] <= number:
            sequence = self._sequences.popleft()[1]
        if sequence:
            self._call(self._js.purge_stream(self.name, seq=sequence + 1, subject=f"{self._subject}.batch"))

    async def _put_snapshot(self, path: Path, number: int) -> None:
        from nats.js.api import ObjectMeta, ObjectMetaOptions

        bucket = await self._snapshots()
        meta = ObjectMeta(options=ObjectMetaOptions(max_chunk_size=CHUNK_BYTES))
        with path.open("rb") as file:
            await bucket.put(f"{self._object}/{number:020}", file, meta)
        for older in (await self._numbers(bucket))[:-1]:
            # Only older ones: were this process fenced by now, its snapshot would be one of these to the owner.
            if older < number:
                await bucket.delete(f"{self._object}/{older:020}")

    def snapshot(self) -> int:
        """The number up to which the newest snapshot has the batches; 0: there is none."""
        return self._patient(self._newest)

    async def _newest(self) -> int:
        numbers = await self._numbers(await self._snapshots())
        return numbers[-1] if numbers else 0

    def get_snapshot(self, number: int, path: Path) -> None:
        """Writes that snapshot to a file."""
        self._patient(lambda: self._get_snapshot(number, path), timeout_s=SNAPSHOT_S)

    async def _get_snapshot(self, number: int, path: Path) -> None:
        bucket = await self._snapshots()
        with path.open("wb") as file:
            await bucket.get(f"{self._object}/{number:020}", writeinto=file)

    async def _numbers(self, bucket: Any) -> list[int]:
        from nats.js.errors import NotFoundError

        try:
            found = await bucket.list()
        except NotFoundError:  # it has none
            return []
        begin = f"{self._object}/"
        return sorted(
            int(each.name.removeprefix(begin)) for each in found if each.name.startswith(begin) and not each.deleted
        )

    async def _snapshots(self) -> Any:
        from nats.js.api import ObjectStoreConfig, StorageType
        from nats.js.errors import BadRequestError, NotFoundError

        try:
            return await self._js.object_store(self._bucket)
        except NotFoundError:
            config = ObjectStoreConfig(bucket=self._bucket, storage=StorageType.FILE, replicas=self._settings.replicas)
            with contextlib.suppress(BadRequestError):  # another node was quicker
                return await self._js.create_object_store(self._bucket, config=config)
            return await self._js.object_store(self._bucket)


async def _on_error(error: Exception) -> None:
    log.rarely("warning", "nats", "the connection to NATS has trouble", reason=error or type(error).__name__)


def _is_last(part: str) -> bool:
    mine, _, all_of_them = part.partition("/")
    return mine == all_of_them


def _is_wrong_sequence(error: Exception) -> bool:
    return getattr(error, "err_code", 0) in WRONG_SEQUENCE
