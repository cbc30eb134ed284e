"""One worker: a hub on an event loop, its listeners, its handshake and its figures."""

import asyncio
from collections.abc import Mapping, Sequence

from fastmq import logs
from fastmq._codec import encode
from fastmq._hub import Hub
from fastmq.broker.banning import Banning
from fastmq.broker.commits import Commits
from fastmq.broker.exchanges import Exchanges
from fastmq.broker.facts import Facts
from fastmq.broker.figures import Figures
from fastmq.broker.guards import Guards
from fastmq.broker.handshake import Handshake
from fastmq.broker.listeners import Listeners
from fastmq.broker.systopics import SysTopics
from fastmq.config.durability import LEVELS
from fastmq.config.listener import Listener
from fastmq.config.place import Place, fnv1a
from fastmq.config.schema import Config
from fastmq.config.share import memory_limit
from fastmq.contracts import Authenticator, Authorizer, EnhancedAuthenticator, Fabric, Homes, Message, Nodes, Store
from fastmq.errors import StartError, StoreError
from fastmq.packets import Publish
from fastmq.reasons import Reason

SETTLE_S = 10.0
"""How long a stopping broker waits for its last commit."""


def make_hub(config: Config) -> Hub:
    """The engine, with the settings it is held to."""
    mqtt, queue, limits = config.mqtt, config.queue, config.limits
    hub = Hub(
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
        memory_max=limits.memory_max_bytes or memory_limit(),
        strategy=config.shared.strategy,
        group_queue_max=config.shared.queue_messages_max,
        group_queue_bytes_max=config.shared.queue_bytes_max,
        retained_max=config.retain.messages_max,
        retained_bytes_max=config.retain.bytes_max,
        retained_payload_max=config.retain.payload_max_bytes,
        deny_closes=config.acl.deny_action == "disconnect",
    )
    tune(hub, config)
    return hub


def tune(hub: Hub, config: Config) -> None:
    """Holds a hub to the limits that may change while it runs."""
    limits = config.limits
    hub.tune(
        connections_max=limits.connections_max,
        subscriptions_max=limits.subscriptions_max,
        user_subscriptions_max=limits.user_subscriptions_max,
        user_retained_max=limits.user_retained_max,
        slow_after_ms=limits.slow_after_ms,
        pause_max_ms=round(limits.pause_max_s * 1000),
        connect_timeout_ms=round(config.mqtt.connect_timeout_s * 1000),
        connect_max=min(limits.connect_max_bytes, 2**31),
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
        facts: Facts | None = None,
        place: Place | None = None,
        node: str = "",
    ) -> None:
        if config.auth.chain and not authenticators:
            raise StartError("auth.chain is for `fastmq serve`; a program gives its authenticators")
        if (config.acl.rules or config.acl.file) and authorizer is None:
            raise StartError("acl is for `fastmq serve`; a program gives its authorizer")
        self.config = config
        self.place = place or Place()
        self._store = store
        self._commits: Commits | None = None
        self.hub = make_hub(config)
        self.hub.remotes.place(
            self.place.index,
            self.place.count,
            config.workers.backlog_max_bytes,
            clustered=bool(config.cluster.name),
            node=fnv1a(node.encode()) & 0xFFFF,
            even=config.shared.prefer == "even",
        )
        self._fabric: Fabric | None = None
        self._homes: Homes | None = None
        self._nodes: Nodes | None = None
        self.listeners: list[Listener] = []
        self._sockets = Listeners(
            self.hub,
            connect_timeout_s=config.mqtt.connect_timeout_s,
            packet_max=config.mqtt.packet_max_bytes,
            handshakes_max=config.limits.tls_handshakes_max,
            inherited=self.place.listeners,
        )
        self._exchanges = Exchanges(self.hub, enhanced)
        self._guards = Guards(self.hub, authorizer) if authorizer is not None else None
        self.facts = facts or Facts()
        self._banning = Banning(self.hub, config.bans, self.facts)
        self._handshake = Handshake(self.hub, config, authenticators, self._exchanges, self._banning, self._guards)
        self._figures = Figures(self.figures, self.place, None)
        interval_s = config.systopics.interval_s if self.place.index == 0 else 0
        self._systopics = SysTopics(lambda: self._figures.total(), self.publish, interval_s)
        self._log = logs.get("broker")
        self.hub.on_connect = self._handshake.on_connect
        self.hub.on_auth = self._exchanges.on_auth
        if config.log.connections:
            self.hub.on_gone = self._on_gone

    def join(self, fabric: Fabric, homes: Homes | None, nodes: Nodes | None = None) -> None:
        """Before the start: this worker is one of several; without `homes`, it is the only one of its host."""
        self._fabric = fabric
        self._homes = homes
        self._nodes = nodes
        self._handshake.join(homes, nodes)
        self._figures = Figures(self.figures, self.place, fabric)

    async def start(self) -> None:
        """Joins the running loop, and the other workers, and opens the listeners.

        :raises StartError: a listener cannot be bound; nothing is left open.
        """
        loop = asyncio.get_running_loop()
        try:
            if self._store is not None:
                self._commits = self._restore(self._store)
            self.hub.sinks.turn_soon = lambda: loop.call_soon(self.hub.on_ready)
            loop.add_reader(self.hub.fileno(), self.hub.on_ready)
            if self._fabric is not None:
                await self._fabric.start()
                await self._fabric.ready()
            if self._homes is not None:
                await self._homes.start()
            if not self.place.at:  # who stands in for a node has its clients from others
                self.listeners = [await self._sockets.open(listener) for listener in self.config.listen]
        except BaseException:
            loop.remove_reader(self.hub.fileno())
            self._sockets.close()
            if self._homes is not None:
                await self._homes.close()
            if self._fabric is not None:
                await self._fabric.close()
            if self._commits is not None:
                self._commits.close()
            self.hub.close()
            raise
        self.hub.remotes.serve()
        self._systopics.start()
        self.hub.on_tick = self._tick
        tell = self._log.debug if self.place.listeners else self._log.info  # who has bound them says so
        for listener in self.listeners:
            tell(f"listening on {listener}")

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
            self.facts.take(store.facts())
        except (StoreError, ValueError, MemoryError) as error:
            raise StartError(f"cannot load what is stored: {error}") from error
        retained = self.hub.stats()["retained"]
        if found["sessions"] or retained:
            self._log.info("restored", sessions=found["sessions"], retained=retained)
        loop = asyncio.get_running_loop()
        commits = Commits(self.hub, store, settings.commit_delay_ms / 1000)

        def on_facts(facts: Mapping[str, bytes]) -> None:
            loop.call_soon_threadsafe(self.facts.take, facts)

        commits.start(on_facts)
        self.facts.store_in(commits.put_facts)
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
            await self._banning.close()
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
            if self._homes is not None:
                await self._homes.close()
            if self._commits is not None:
                await self._settle()
        finally:
            if self._fabric is not None:
                await self._fabric.close()
            loop.remove_reader(self.hub.fileno())
            self.facts.store_in(None)
            if self._commits is not None:
                self._commits.close()
            self.hub.close()

    @property
    def is_fenced(self) -> bool:
        """Whether another process goes on with the store."""
        return self._commits is not None and self._commits.is_fenced

    def reload(self, config: Config, authenticators: Sequence[Authenticator], authorizer: Authorizer | None) -> None:
        """Goes on with other settings, of which only those differ that can change: see `config/reload.py`."""
        self.config = config
        tune(self.hub, config)
        self._sockets.tune(config.mqtt.connect_timeout_s, config.limits.tls_handshakes_max)
        for number, listener in enumerate(config.listen):
            self.hub.allow_connections(number, listener.connections_max)
        self._banning.reload(config.bans)
        self._handshake.reload(config, authenticators)
        if self._guards is not None and authorizer is not None:
            self._guards.reload(authorizer)

    def figures(self) -> dict[str, int]:
        """All counters, `certificate_expires` (Unix time) where there is TLS, and those of a cluster."""
        found = self.hub.stats()
        if (expires_at := self._sockets.certificate_expires_at) is not None:
            found["certificate_expires"] = int(expires_at)
        return found | self._nodes.figures() if self._nodes is not None else found

    def _tick(self) -> None:
        self._figures.tick()
        self._systopics.tick()
        self._sockets.tick()
        self._banning.tick()
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
