"""One worker: a hub on an event loop, its listeners, its handshake and its figures."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from fastmq import logs
from fastmq._codec import encode
from fastmq._hub import Hub
from fastmq.broker.commits import Commits
from fastmq.broker.exchanges import Exchanges
from fastmq.broker.guards import Guards
from fastmq.broker.handshake import Handshake
from fastmq.broker.listeners import Listeners
from fastmq.broker.systopics import SysTopics
from fastmq.config.durability import LEVELS
from fastmq.config.listener import Listener
from fastmq.config.schema import Config
from fastmq.contracts import Authenticator, Authorizer, EnhancedAuthenticator, Message, Store
from fastmq.errors import StartError, StoreError
from fastmq.packets import Publish
from fastmq.reasons import Reason

MEMORY_SHARE = 0.8
SETTLE_S = 10.0
"""How long a stopping broker waits for its last commit."""


def memory_limit() -> int:
    """80 % of what the machine or its control group has, in bytes."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        if text.isdecimal():
            total = min(total, int(text))
    return int(total * MEMORY_SHARE)


def make_hub(config: Config) -> Hub:
    """The engine, with the settings it is held to."""
    mqtt, queue, limits = config.mqtt, config.queue, config.limits
    return Hub(
        packet_max=mqtt.packet_max_bytes,
        output_max=min(limits.output_max_bytes, 2**31),
        receive_max=mqtt.receive_maximum,
        alias_max=mqtt.topic_alias_maximum,
        levels_max=mqtt.topic_levels_max,
        qos_max=mqtt.maximum_qos,
        retain_available=mqtt.retain_available,
        wildcard_available=mqtt.wildcard_available,
        shared_available=mqtt.shared_available,
        ids_available=mqtt.subscription_id_available,
        check_payload=mqtt.check_payload_format,
        queue_max=queue.messages_max,
        queue_bytes_max=queue.bytes_max,
        qos0_offline=queue.qos0_offline,
        drop_oldest=queue.drop == "oldest",
        expiry_max_s=mqtt.session_expiry_max_s,
        subscriptions_max=limits.subscriptions_max,
        connections_max=limits.connections_max,
        memory_max=limits.memory_max_bytes or memory_limit(),
        slow_after_ms=limits.slow_after_ms,
        connect_timeout_ms=round(mqtt.connect_timeout_s * 1000),
        strategy=config.shared.strategy,
        group_queue_max=config.shared.queue_messages_max,
        group_queue_bytes_max=config.shared.queue_bytes_max,
        retained_max=config.retain.messages_max,
        retained_bytes_max=config.retain.bytes_max,
        retained_payload_max=config.retain.payload_max_bytes,
        connect_max=min(limits.connect_max_bytes, 2**31),
        pause_max_ms=round(limits.pause_max_s * 1000),
        deny_closes=config.acl.deny_action == "disconnect",
    )


class Worker:
    """Runs on the event loop that calls `start`; all its methods belong to that loop's thread.

    With a store, what it holds is there before the first client, and what changes is kept in it; the caller closes it.
    """

    def __init__(
        self,
        config: Config,
        *,
        authenticators: Sequence[Authenticator] = (),
        enhanced: Sequence[EnhancedAuthenticator] = (),
        authorizer: Authorizer | None = None,
        store: Store | None = None,
    ) -> None:
        if config.auth.chain and not authenticators:
            raise StartError("auth.chain is for `fastmq serve`; a program gives its authenticators")
        if (config.acl.rules or config.acl.file) and authorizer is None:
            raise StartError("acl is for `fastmq serve`; a program gives its authorizer")
        self.config = config
        self._store = store
        self._commits: Commits | None = None
        self.hub = make_hub(config)
        self.listeners: list[Listener] = []
        self._sockets = Listeners(
            self.hub, connect_timeout_s=config.mqtt.connect_timeout_s, packet_max=config.mqtt.packet_max_bytes
        )
        self._exchanges = Exchanges(self.hub, enhanced)
        self._guards = Guards(self.hub, authorizer) if authorizer is not None else None
        self._handshake = Handshake(self.hub, config, authenticators, self._exchanges, self._guards)
        self._systopics = SysTopics(self.hub.stats, self.publish, config.systopics.interval_s)
        self._log = logs.get("broker")
        self.hub.on_connect = self._handshake.on_connect
        self.hub.on_auth = self._exchanges.on_auth
        if config.log.connections:
            self.hub.on_gone = self._on_gone

    async def start(self) -> None:
        """Opens the listeners and joins the running loop.

        :raises StartError: a listener cannot be bound; nothing is left open.
        """
        loop = asyncio.get_running_loop()
        try:
            if self._store is not None:
                self._commits = self._restore(self._store)
            self.hub.sinks.turn_soon = lambda: loop.call_soon(self.hub.on_ready)
            self.listeners = [await self._sockets.open(listener) for listener in self.config.listen]
        except BaseException:
            self._sockets.close()
            if self._commits is not None:
                self._commits.close()
            self.hub.close()
            raise
        loop.add_reader(self.hub.fileno(), self.hub.on_ready)
        self._systopics.start()
        self.hub.on_tick = self._tick
        for listener in self.listeners:
            self._log.info(f"listening on {listener}")

    def _restore(self, store: Store) -> Commits:
        """Brings back what the store has, and keeps in it what happens from now on."""
        settings = self.config.store
        rules = [(rule.filter.encode(), LEVELS.index(rule.level)) for rule in settings.topics]
        self.hub.keep(LEVELS.index(settings.durability), rules, settings.backlog_max_bytes)
        try:
            for batch in store.load():
                self.hub.restore(batch)
            found = self.hub.restored()
            while wanted := self.hub.wanted():
                self.hub.bodies(store.fetch(wanted))
                self.hub.on_ready()
        except (StoreError, ValueError, MemoryError) as error:
            raise StartError(f"cannot load what is stored: {error}") from error
        retained = self.hub.stats()["retained"]
        if found["sessions"] or retained:
            self._log.info("restored", sessions=found["sessions"], retained=retained)
        commits = Commits(self.hub, store, settings.commit_delay_ms / 1000)
        commits.start()
        return commits

    async def _settle(self) -> None:
        """Waits until all that happened is committed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (1.0 if self.hub.trouble else SETTLE_S)
        while not self.hub.is_settled and loop.time() < deadline:
            self.hub.hurry()
            await asyncio.sleep(0.001)

    async def stop(self) -> None:
        """Tells the clients (0x8B), closes everything and frees it."""
        loop = asyncio.get_running_loop()
        self.hub.on_tick = None
        self._sockets.close()
        try:
            await self._handshake.close()
            await self._exchanges.close()
            if self._guards is not None:
                await self._guards.close()
            self.hub.close_all(Reason.SERVER_SHUTTING_DOWN)
            self.hub.on_ready()
            # One more moment in which clients read their DISCONNECT and close: a reset could overtake it.
            for _ in range(10):
                if self.hub.stats()["connections"] == 0:
                    break
                await asyncio.sleep(0.01)
            if self._commits is not None:
                await self._settle()
        finally:
            loop.remove_reader(self.hub.fileno())
            if self._commits is not None:
                self._commits.close()
            self.hub.close()

    def reload(self, config: Config, authenticators: Sequence[Authenticator], authorizer: Authorizer | None) -> None:
        """Goes on with other settings, of which only those differ that can change: see `config/reload.py`."""
        self.config = config
        for number, listener in enumerate(config.listen):
            self.hub.allow_connections(number, listener.connections_max)
        self._handshake.reload(config, authenticators)
        if self._guards is not None and authorizer is not None:
            self._guards.reload(authorizer)

    def _tick(self) -> None:
        self._systopics.tick()
        self._sockets.tick()
        if self._guards is not None:
            self._guards.tick()

    def publish(self, message: Message) -> int:
        """Routes a message as the broker's own; returns how many subscribers matched.

        :raises ValueError: the topic is not one that can be published to.
        """
        packet_id = 1 if message.qos else 0
        return self.hub.publish(
            encode(
                Publish(
                    message.topic,
                    message.payload,
                    message.qos,
                    message.retain,
                    packet_id=packet_id,
                    properties=message.properties,
                ),
                5,
            )
        )

    def _on_gone(self, client_id: bytes, reason: int) -> None:
        why = Reason(reason).name if reason else "CLOSED_BY_CLIENT"
        self._log.info("client disconnected", client=client_id.decode(), reason=why)
