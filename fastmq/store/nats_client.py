"""A connection to NATS servers with JetStream, for code that blocks.

NATS' client is asyncio; it has a thread and a loop of its own here.
"""

import asyncio
import contextlib
import ssl
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from fastmq import logs
from fastmq.config.cluster import ClusterSettings, endpoint
from fastmq.config.jetstream import JetStreamSettings
from fastmq.errors import StartError, StoreError
from fastmq.store.nats_server import USER, password_of

T = TypeVar("T")

ASK_S: Final = 2.0
"""What nobody answers within this was asked while there was no leader, and is asked again."""
RETRY_S: Final = 0.25
SAY_S: Final = 5.0
HURRY_S: Final = 1.0
TRIES: Final = 4
"""What takes several answers may take so many times as long as one."""

log = logs.get("store")


class Connection:
    """One that comes back by itself. `js` is JetStream behind it, from `connect` on, for coroutines given to `call`."""

    def __init__(self, settings: JetStreamSettings, cluster: ClusterSettings, name: str) -> None:
        self._settings = settings
        self._cluster = cluster
        self._name = name
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fastmq-nats", daemon=True)
        self._scopes: set[asyncio.Timeout] = set()
        self._is_hurried = False
        self._nats: Any = None
        self.js: Any = None
        self._errors: tuple[type[Exception], ...] = ()

    def start(self) -> None:
        """Begins its thread.

        :raises StartError: the extra is not installed.
        """
        try:
            import nats.errors
            import nats.js.errors
        except ImportError:
            raise StartError("store.engine = \"jetstream\" needs the extra: pip install 'fastmq[jetstream]'") from None
        self._errors = (nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError)
        self._thread.start()

    async def connect(self) -> None:
        """Connects, if it has not yet."""
        import nats

        if self._nats is not None:
            return
        settings = self._settings
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
            name=f"fastmq {self._name}",
            connect_timeout=2,
            reconnect_time_wait=0.2,
            max_reconnect_attempts=-1,
            ping_interval=2,
            max_outstanding_pings=2,
            allow_reconnect=True,
            error_cb=_on_error,
            **options,
        )
        self.js = self._nats.jetstream(timeout=ASK_S)

    def call(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """What it gives; it runs in the connection's loop.

        :raises StoreError: no quorum answers within `timeout_s`.
        """
        future = asyncio.run_coroutine_threadsafe(self._within(work, timeout_s), self._loop)
        try:
            return future.result()
        except self._errors as error:
            why = str(error) or "no answer"
            raise StoreError("failed", f"stream {self._name}: {type(error).__name__}: {why}") from error

    async def _within(self, work: Coroutine[Any, Any, T], timeout_s: float | None) -> T:
        limit_s = HURRY_S if self._is_hurried else timeout_s or self._settings.timeout_s * TRIES
        async with asyncio.timeout(limit_s) as scope:
            self._scopes.add(scope)
            try:
                return await work
            finally:
                self._scopes.discard(scope)

    def patient(
        self,
        work: Callable[[], Coroutine[Any, Any, T]],
        wait_s: float | None = None,
        timeout_s: float | None = None,
    ) -> T:
        """What it gives as soon as there is a quorum.

        :raises StoreError: there is none within `wait_s`.
        """
        deadline = None if wait_s is None else time.monotonic() + wait_s
        said = time.monotonic()
        while True:
            try:
                return self.call(work(), timeout_s)
            except StoreError as error:
                now = time.monotonic()
                if deadline is not None and now >= deadline:
                    raise
                if now - said >= SAY_S:
                    said = now
                    log.warning("waits for a quorum of JetStream", reason=error)
            time.sleep(RETRY_S)

    def hurry(self) -> None:
        """From now on, and for what runs now, no answer is waited for longer than a second. From any thread."""

        def hurry() -> None:
            self._is_hurried = True
            for scope in self._scopes:
                scope.reschedule(min(scope.when() or 0.0, self._loop.time() + HURRY_S))

        with contextlib.suppress(RuntimeError):  # it is closed
            self._loop.call_soon_threadsafe(hurry)

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


async def _on_error(error: Exception) -> None:
    log.rarely("warning", "nats", "the connection to NATS has trouble", reason=error or type(error).__name__)
