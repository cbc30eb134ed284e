"""The broker as a part of a program: `async with fastmq.Broker() as broker`, inside the program's own event loop.

Everything here belongs to the loop (asyncio's or uvloop's) on which the broker was started. For tests that are not
async there is `fastmq.testing.BackgroundBroker`, which runs it in a thread.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Self, overload

from fastmq.broker.subscription import Subscription
from fastmq.broker.worker import Worker
from fastmq.config import tables
from fastmq.config.listener import Listener
from fastmq.config.schema import Config, declared
from fastmq.contracts import Authenticator, EnhancedAuthenticator, Message
from fastmq.errors import ConfigError, Problem
from fastmq.packets import Properties
from fastmq.reasons import Reason

__all__ = ["Broker", "ClientState", "Message", "Subscription"]

ANY_PORT: Final = "tcp://127.0.0.1:0"
PUBLISHED_PER_TURN: Final = 64
"""So many messages go out before `publish` lets the loop's other tasks, and the sockets, have a turn."""


@dataclass(frozen=True, slots=True)
class ClientState:
    """A session, and how it stands with its client."""

    client_id: str
    connected: bool
    version: int
    """The protocol level: 3, 4 or 5; 0 while it is not connected."""
    queued: int
    in_flight: int
    dropped: int
    subscriptions: int
    username: str | None = None


class Broker:
    """An MQTT broker on the running event loop. `start()` and `stop()` may be repeated; `async with` does both.

    :param config: all settings; without it the defaults, on a free port of the loopback address.
    :param listen: addresses like `tcp://127.0.0.1:1883`, instead of those in `config`; port 0: any free port.
    :param authenticators: asked in their order about each client, until one answers.
    :param enhanced: the methods of enhanced authentication that are offered (MQTT 5).
    :param settings: single settings instead of those in `config`: `mqtt__receive_maximum=10` is the setting
        `mqtt.receive_maximum`, which can be given as `**{"mqtt.receive_maximum": 10}`, too.
    :raises ConfigError: a setting is wrong.
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
        if listen is None and config is None:
            listen = ANY_PORT
        if listen is not None:
            settings["listen"] = [listen] if isinstance(listen, str) else listen
        self.config = _changed(config or Config(), settings)
        self._authenticators = tuple(authenticators)
        self._enhanced = tuple(enhanced)
        self._worker: Worker | None = None
        self._subscriptions: weakref.WeakSet[Subscription] = weakref.WeakSet()
        self._published = 0

    # -- its life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Opens the listeners.

        :raises StartError: an address cannot be bound. :raises RuntimeError: it runs already.
        """
        if self._worker is not None:
            raise RuntimeError("the broker is running already")
        worker = Worker(self.config, authenticators=self._authenticators, enhanced=self._enhanced)
        await worker.start()
        self._worker = worker

    async def stop(self) -> None:
        """Ends all connections (MQTT 5: DISCONNECT 0x8B), then the subscriptions, and forgets everything.

        A broker that is not running is left as it is.
        """
        worker, self._worker = self._worker, None
        if worker is not None:
            for subscription in list(self._subscriptions):
                subscription.finish()
            await worker.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def is_running(self) -> bool:
        return self._worker is not None

    def _running(self) -> Worker:
        if self._worker is None:
            raise RuntimeError("the broker is not running")
        return self._worker

    # -- where it is ---------------------------------------------------------------------------------------------------

    @property
    def listeners(self) -> Sequence[Listener]:
        """Where it listens, with the ports that port 0 became."""
        return tuple(self._running().listeners)

    @property
    def host(self) -> str:
        """Of the first listener."""
        return self.listeners[0].host

    @property
    def port(self) -> int:
        """Of the first listener."""
        return self.listeners[0].port

    @property
    def url(self) -> str:
        """The first listener as clients write it: `mqtt://127.0.0.1:1883`."""
        return replace(self.listeners[0], scheme="mqtt").__str__()

    # -- messages ------------------------------------------------------------------------------------------------------

    @overload
    async def publish(self, message: Message) -> int: ...

    @overload
    async def publish(
        self,
        topic: str,
        /,
        payload: bytes | str = b"",
        qos: int = 0,
        retain: bool = False,
        properties: Properties | None = None,
    ) -> int: ...

    async def publish(
        self,
        message: Message | str,
        payload: bytes | str = b"",
        qos: int = 0,
        retain: bool = False,
        properties: Properties | None = None,
    ) -> int:
        """Publishes a message, or a payload under a topic, as the broker's own; returns how many subscribers it had.

        :raises ValueError: it is no message: its topic, QoS or properties are not those of one.
        """
        worker = self._running()
        if isinstance(message, str):
            data = payload.encode() if isinstance(payload, str) else bytes(payload)
            message = Message(message, data, qos, retain, properties or Properties())
        subscribers = worker.publish(message)
        self._published += 1
        if self._published % PUBLISHED_PER_TURN == 0:
            await asyncio.sleep(0)
        return subscribers

    def subscribe(
        self,
        *filters: str,
        qos: int = 2,
        retained: bool = True,
        messages_max: int = 10_000,
        bytes_max: int = 1 << 24,
    ) -> Subscription:
        """The messages that match any of the filters, from now until the subscription is closed.

        :param qos: the highest with which they are given.
        :param retained: begin with what is retained.
        :param messages_max: so many may wait to be taken; more are dropped and counted.
        :param bytes_max: so many bytes of them.
        :raises ValueError: a filter is not one, or a shared one.
        """
        if not filters:
            raise ValueError("at least one topic filter is needed")
        subscription = Subscription(self._running().hub.tap(messages_max, bytes_max))
        try:
            subscription.subscribe(*filters, qos=qos, retained=retained)
        except BaseException:
            subscription.finish()
            raise
        self._subscriptions.add(subscription)
        return subscription

    # -- clients and figures -------------------------------------------------------------------------------------------

    def clients(self) -> list[ClientState]:
        """All sessions, those whose client is not connected too."""
        found = []
        for (
            client_id,
            connected,
            version,
            queued,
            in_flight,
            dropped,
            subscriptions,
            name,
        ) in self._running().hub.clients():
            username = name.decode() if name is not None else None
            state = connected, version, queued, in_flight, dropped, subscriptions, username
            found.append(ClientState(client_id.decode(), *state))
        return found

    def disconnect(self, client_id: str, reason: Reason = Reason.ADMINISTRATIVE_ACTION) -> bool:
        """Ends a client's connection; False when it is not connected. Its session lives on as it asked for."""
        return self._running().hub.disconnect(client_id.encode(), reason)

    def stats(self) -> dict[str, int]:
        """All counters, since the start, and the sizes of what is kept."""
        return dict(self._running().hub.stats())

    def advance(self, seconds: float) -> None:
        """Moves the broker's clock forward, for tests: what falls due by then happens now.

        Clients whose keep-alive is over have not been heard of in all that time, and are cut.
        """
        hub = self._running().hub
        hub.advance(round(seconds * 1000))
        hub.on_ready()


def _changed(config: Config, settings: Mapping[str, object]) -> Config:
    """`config` with these settings by key instead of its own."""
    known = declared()
    changes: dict[str, dict[str, Any]] = {}
    problems = []
    for name, given in settings.items():
        key = name.replace("__", ".", 1)
        setting = known.get(key)
        try:
            if setting is None:
                raise ValueError("no such setting")
            value = tables.from_toml(setting, list(given) if isinstance(given, tuple) else given)
            changes.setdefault(setting.section, {})[setting.name] = value
        except tables.ItemError as error:
            problems.append(Problem("Broker()", error.place(key), str(error)))
        except ValueError as error:
            problems.append(Problem("Broker()", key, str(error)))
    if problems:
        raise ConfigError(problems)
    top = changes.pop("", {})
    sections = {name: replace(getattr(config, name), **changed) for name, changed in changes.items()}
    return replace(config, **top, **sections)
