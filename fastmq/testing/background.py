"""A broker in a thread of its own, with its own event loop: for tests, and for programs that are not async."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Final, Self, TypeVar, overload

from fastmq.broker.embedded import Broker, ClientState
from fastmq.broker.subscription import Subscription
from fastmq.config.schema import Config
from fastmq.contracts import Authenticator, EnhancedAuthenticator, Message
from fastmq.packets import Properties
from fastmq.reasons import Reason
from fastmq.testing.collected import Collected

T = TypeVar("T")

PATIENCE_S: Final = 10.0
"""Nothing that is asked of the broker's thread takes longer, unless it hangs."""


class BackgroundBroker:
    """A running broker; `with BackgroundBroker() as broker`. Its methods may be called from any thread but its own.

    It takes what `fastmq.Broker` takes. Authenticators are called in its thread.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        listen: str | Sequence[str] | None = None,
        authenticators: Sequence[Authenticator] = (),
        enhanced: Sequence[EnhancedAuthenticator] = (),
        **settings: object,
    ) -> None:
        self._broker = Broker(config, listen=listen, authenticators=authenticators, enhanced=enhanced, **settings)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._collecting: set[asyncio.Task[None]] = set()
        self.host = ""
        self.port = 0
        self.url = ""

    # -- its life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the thread and returns when the broker listens.

        :raises StartError: an address cannot be bound.
        """
        if self._loop is not None:
            raise RuntimeError("the broker is running already")
        self._loop = _new_loop()
        self._thread = threading.Thread(target=_run, args=(self._loop,), name="fastmq", daemon=True)
        self._thread.start()
        try:
            self._do(self._start)
        except BaseException:
            self._end_thread()
            raise

    async def _start(self) -> None:
        await self._broker.start()
        self.host, self.port, self.url = self._broker.host, self._broker.port, self._broker.url

    def stop(self) -> None:
        """Ends all connections (MQTT 5: DISCONNECT 0x8B) and the thread. Once is enough."""
        if self._loop is None:
            return
        try:
            self._do(self._stop)
        finally:
            self._end_thread()

    async def _stop(self) -> None:
        await self._broker.stop()
        if self._collecting:  # they end by themselves, after the last message
            await asyncio.wait(self._collecting)

    def _end_thread(self) -> None:
        assert self._loop is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop = self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- what is asked of it -------------------------------------------------------------------------------------------

    @overload
    def publish(self, message: Message) -> int: ...

    @overload
    def publish(
        self,
        topic: str,
        /,
        payload: bytes | str = b"",
        qos: int = 0,
        retain: bool = False,
        properties: Properties | None = None,
    ) -> int: ...

    def publish(
        self,
        message: Message | str,
        payload: bytes | str = b"",
        qos: int = 0,
        retain: bool = False,
        properties: Properties | None = None,
    ) -> int:
        """As `fastmq.Broker.publish`: returns how many subscribers the message had."""

        async def publish() -> int:
            if isinstance(message, Message):
                return await self._broker.publish(message)
            return await self._broker.publish(message, payload, qos, retain, properties)

        return self._do(publish)

    def messages(self, *filters: str, qos: int = 2, retained: bool = True) -> Collected:
        """Collects what matches any of the filters (`#`: everything that clients publish) from now on."""

        async def subscribe() -> Collected:
            collected = Collected()
            subscription = self._broker.subscribe(*(filters or ("#",)), qos=qos, retained=retained)
            self._collecting.add(asyncio.create_task(_collect(subscription, collected)))
            return collected

        return self._do(subscribe)

    def clients(self) -> list[ClientState]:
        """All sessions, those whose client is not connected too."""
        return self._ask(self._broker.clients)

    def disconnect(self, client_id: str, reason: Reason = Reason.ADMINISTRATIVE_ACTION) -> bool:
        """Ends a client's connection; False when it is not connected."""
        return self._ask(lambda: self._broker.disconnect(client_id, reason))

    def stats(self) -> dict[str, int]:
        """All counters, and the sizes of what is kept."""
        return self._ask(self._broker.stats)

    def advance(self, seconds: float) -> None:
        """Moves the broker's clock forward: keep-alives, expiries and delays that are over by then happen now.

        A connected client with a shorter keep-alive is cut, as it has been silent all that time: let clients that
        must survive connect with keep-alive 0.
        """
        self._ask(lambda: self._broker.advance(seconds))

    def _ask(self, question: Callable[[], T]) -> T:
        async def ask() -> T:
            return question()

        return self._do(ask)

    def _do(self, work: Callable[[], Coroutine[None, None, T]]) -> T:
        if self._loop is None:
            raise RuntimeError("the broker is not running")
        if threading.current_thread() is self._thread:
            raise RuntimeError("the broker's own thread would wait for itself; use fastmq.Broker there")
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(PATIENCE_S)


async def _collect(subscription: Subscription, collected: Collected) -> None:
    async for message in subscription:
        collected.add(message)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # no wheel for this machine: plain asyncio runs the same code
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
        left = asyncio.all_tasks(loop)  # of authenticators, for instance
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
    finally:
        loop.close()
