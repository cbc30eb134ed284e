"""The thread between the engine's journal and a store. The event loop never waits for it.

The engine hands over one batch at a time, and goes on; what the batch promises to clients leaves when `Hub.committed`
says so. Between commits the thread keeps the store's house, in slices, and fetches messages that are only stored.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from fastmq import logs
from fastmq._hub import Hub
from fastmq.contracts import Store
from fastmq.errors import Fenced, StoreError
from fastmq.reasons import Reason

RETRY_S: Final = 0.25
SLICE_S: Final = 0.002
"""Housekeeping between two commits."""
IDLE_S: Final = 0.5
"""After this long without work, the house is looked after."""
REASONS: Final = {"full": Reason.QUOTA_EXCEEDED, "failed": Reason.IMPLEMENTATION_SPECIFIC_ERROR}

FACTS_S: Final = 0.5
"""How often it is looked whether somebody else has changed facts."""


@dataclass(frozen=True, slots=True)
class Change:
    """Facts to be put, and who hears when they are, or why not."""

    facts: Mapping[str, bytes | None]
    done: Callable[[StoreError | None], None]


Work = tuple[bytes, bool] | list[int] | Change | None


class Commits:
    """Commits what `hub` journals to `store`, from `start` until `close`."""

    def __init__(self, hub: Hub, store: Store, delay_s: float = 0.0) -> None:
        self._hub = hub
        self._store = store
        self._delay_s = delay_s
        self._work: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._closing = False
        self._is_full = False
        self.is_fenced = False
        """Whether another process goes on with the store."""
        self._looked_at = 0.0
        self._on_facts: Callable[[Mapping[str, bytes]], None] | None = None
        self._thread = threading.Thread(target=self._run, name="fastmq-store", daemon=True)
        self._log = logs.get("store")

    def start(self, on_facts: Callable[[Mapping[str, bytes]], None] | None = None) -> None:
        """Takes over the hub's journal; `on_facts` is called in the thread when somebody else has changed facts."""
        self._on_facts = on_facts
        self._hub.on_batch = lambda batch, sync: self._work.put((batch, sync))
        self._hub.on_want = self._work.put
        self._thread.start()

    def put_facts(self, facts: Mapping[str, bytes | None], done: Callable[[StoreError | None], None]) -> None:
        """Puts them into the store; `done` is called in the thread."""
        self._work.put(Change(facts, done))

    def close(self) -> None:
        """Ends the thread after the batch that it has, or without it when the store does not take it."""
        self._hub.on_batch = self._hub.on_want = None
        self._closing = True
        self._store.hurry()
        self._work.put(None)
        self._thread.join()
        with contextlib.suppress(queue.Empty):
            while True:
                if isinstance(work := self._work.get_nowait(), Change):
                    work.done(StoreError("failed", "the broker has stopped"))

    def _run(self) -> None:
        try:
            self._work_off()
        except Fenced as error:
            self._log.error("the store has another owner; this process ends", reason=error)
            self.is_fenced = True
            self._hub.broke()
        except Exception:
            self._log.exception("the store failed in a way that it should not; nothing is acknowledged any more")
            self._hub.broke()

    def _work_off(self) -> None:
        busy = True
        while True:
            try:
                work = self._work.get(timeout=0.0 if busy else IDLE_S)
            except queue.Empty:
                busy = self._maintain()
                continue
            if work is None:
                return
            if isinstance(work, list):
                self._fetch(work)
            elif isinstance(work, Change):
                self._put(work)
            else:
                if self._delay_s:
                    time.sleep(self._delay_s)
                self._append(*work)
                busy = self._maintain()

    def _append(self, batch: bytes, sync: bool) -> None:
        """Commits a batch, however often it takes."""
        in_trouble = False
        while True:
            try:
                self._store.append(batch, sync)
                break
            except StoreError as error:
                if self._closing:
                    self._log.error("the last changes could not be stored", reason=error)
                    return
                if not in_trouble:
                    self._log.error("cannot store; acknowledgements wait, and more is refused", reason=error)
                in_trouble = True
                self._hub.failed(REASONS[error.reason])
                self._fetch_meanwhile(RETRY_S)
        if in_trouble:
            self._log.info("the store works again")
        no_room = self._no_room()
        if no_room and not self._is_full:
            self._log.error("no room for more messages; they are refused until some are taken", reason=no_room)
        self._is_full = bool(no_room)
        self._hub.committed(Reason.QUOTA_EXCEEDED if no_room else Reason.SUCCESS)

    def _fetch_meanwhile(self, seconds: float) -> None:
        """Who waits for stored messages need not wait for the disk, too."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not self._closing:
            try:
                work = self._work.get(timeout=left)
            except queue.Empty:
                return
            if isinstance(work, list):
                self._fetch(work)
            else:
                self._work.put(work)
                time.sleep(left)
                return

    def _no_room(self) -> str:
        try:
            return self._store.no_room()
        except StoreError as error:
            return str(error)

    def _fetch(self, ids: list[int]) -> None:
        try:
            found = self._store.fetch(ids)
        except StoreError as error:
            # Nothing is lost by it: they are asked for again, a little later.
            self._log.error("cannot read stored messages", reason=error)
            time.sleep(RETRY_S)
            if not self._closing:
                self._work.put(ids)
            return
        self._hub.bodies(found)

    def _put(self, change: Change) -> None:
        error: StoreError | None = None
        try:
            self._store.put_facts(change.facts)
        except StoreError as failed:
            error = failed
        change.done(error)

    def _look_at_facts(self) -> None:
        now = time.monotonic()
        if self._on_facts is None or now - self._looked_at < FACTS_S:
            return
        self._looked_at = now
        with contextlib.suppress(StoreError):  # it is looked again
            if self._store.facts_changed():
                self._on_facts(self._store.facts())

    def _maintain(self) -> bool:
        """Whether there is more to do."""
        more = False
        self._look_at_facts()
        with contextlib.suppress(StoreError):  # the next commit says so
            more = self._store.maintain(SLICE_S)
        if self._is_full and not more and not self._no_room():
            self._is_full = False
            self._log.info("there is room for messages again")
            self._hub.works()
        return more
