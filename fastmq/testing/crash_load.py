"""The load of a crash proof: publishers and durable subscribers of all kinds, and the one loop that drives them.

Below `crash/t/` every publisher has two topics, with one QoS each. Their subscribers: one of QoS 1, one of QoS 2, a
shared group of two, one that subscribes and unsubscribes all the time, and one that is only there while it is drained.
`crash/r` is retained: its publisher sets it and clears it again.
"""

from __future__ import annotations

import random
import select
import time
from collections.abc import Callable, Sequence
from typing import Final

from fastmq.packets import Packet, Puback, Publish, Suback, Subscribe, SubscriptionRequest
from fastmq.testing.crash_books import Books
from fastmq.testing.crash_clients import Client, Publisher, Subscriber

__all__ = ["Load"]

RELEASE_S: Final = 0.003
"""How long subscribers hold acknowledgements back at most."""
RECONNECT_S: Final = 0.02
LINGER_S: Final = 0.03
"""So long surplus copies have time to arrive, after everything else has."""


class Retained(Client):
    """Asks for the retained message of a topic, once, in a session that ends with its connection."""

    def __init__(self, name: str, books: Books, topic: str) -> None:
        super().__init__(name, books, expiry_s=0)
        self.topic = topic
        self.payload: bytes | None = None
        self.is_subscribed = False

    def resume(self) -> None:
        self.send(Subscribe(1, [SubscriptionRequest(self.topic, 1)]))

    def take(self, packet: Packet) -> None:
        match packet:
            case Suback():
                self.is_subscribed = True
                self.ping()
            case Publish():
                self.payload = packet.payload
                self.send(Puback(packet.packet_id))
            case _:
                super().take(packet)


class Load:
    """All clients of one proof, for its whole time."""

    def __init__(
        self, books: Books, address: tuple[str, int], qos: Sequence[int], *, seed: int, quiet_s: float
    ) -> None:
        self.books = books
        self.flaps = False
        self._address = address
        self._quiet_s = quiet_s
        self._random = random.Random(seed)
        self._retained = books.stream("retained", "crash/r", min(qos), is_retained=True)
        self.publishers = [self._publisher(level, number) for level in qos for number in (1, 2)]
        self._retainer = Publisher("retainer", books, [self._retained], window=2)
        self.publishers.append(self._retainer)
        group = books.reader("group", 1, is_group=True)
        self._flapper = self._subscriber("flapper", 1)
        self._away = self._subscriber("away", 2)
        self.subscribers = [
            self._subscriber("qos1", 1),
            self._subscriber("qos2", 2),
            Subscriber("member1", books, group, "$share/crash/crash/t/#"),
            Subscriber("member2", books, group, "$share/crash/crash/t/#"),
            self._flapper,
            self._away,
        ]
        self.clients: list[Client] = [*self.publishers, *self.subscribers]
        self._release_at = self._flap_at = self._connect_at = 0.0

    def _publisher(self, qos: int, number: int) -> Publisher:
        names = [f"q{qos}-{number}{letter}" for letter in "ab"]
        streams = [self.books.stream(name, f"crash/t/q{qos}/{name}", qos) for name in names]
        return Publisher(f"publisher-q{qos}-{number}", self.books, streams)

    def _subscriber(self, name: str, qos: int) -> Subscriber:
        return Subscriber(name, self.books, self.books.reader(name, qos), "crash/t/#")

    # -- the loop ----------------------------------------------------------------------------------------------------

    def run(self, until: Callable[[], bool], timeout_s: float) -> bool:
        """Drives all clients until then; False when the time is over."""
        deadline = time.monotonic() + timeout_s
        while not until():
            if time.monotonic() > deadline:
                return False
            self._turn()
        return True

    def _turn(self) -> None:
        poll = select.poll()
        by_fd = {}
        for client in self.clients:
            if client.socket is not None:
                by_fd[client.socket.fileno()] = client
                poll.register(client.socket, select.POLLIN)
        for fd, _ in poll.poll(1 if by_fd else 5):
            by_fd[fd].read()
        now = time.monotonic()
        if now >= self._connect_at:
            self._connect_at = now + RECONNECT_S
            self._connect()
        if now >= self._release_at:
            self._release_at = now + self._random.random() * RELEASE_S
            for subscriber in self.subscribers:
                subscriber.release()
        if self.flaps and now >= self._flap_at and self._flapper.is_settled:
            self._flap_at = now + self._random.random() * 0.08
            self._flapper.subscribes = not self._flapper.subscribes
        for client in self.clients:
            client.act()

    def _connect(self) -> None:
        for client in self.clients:
            if client.wanted and client.socket is None and not client.connect(self._address):
                return  # nobody listens

    def read_to_end(self) -> None:
        """The broker has ended: what it had said before counts."""
        for client in self.clients:
            deadline = time.monotonic() + 5
            while client.socket is not None and time.monotonic() < deadline:
                client.read()
            client.lost()

    # -- states ------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """The first connections: all sessions and subscriptions are acknowledged before anything is published."""
        self._publish(False)
        self._everyone(True)
        if not self.run(lambda: self._is_connected() and self._is_settled(), 20):
            self.books.violation("broken", "the clients could not connect and subscribe")
        self.start()

    def start(self) -> None:
        """Load begins, or goes on."""
        self._away.disconnect()
        self._publish(True)
        self.flaps = True

    def rest_retained(self) -> None:
        """Nothing new is retained: what is sent again after an end must not hide what the broker forgot."""
        self._retainer.active = False

    def stop_flapping(self) -> None:
        """What the one that comes and goes has subscribed stays as it is."""
        self.flaps = False

    def drain(self, timeout_s: float = 120.0) -> None:
        """No new messages; everything that is due arrives. Then the books are checked."""
        self._publish(False)
        self.flaps = False
        self._everyone(True)
        deadline = time.monotonic() + timeout_s
        moment = -1
        while not self.run(self._is_drained, self._quiet_s):
            if self.books.moment == moment or time.monotonic() > deadline:
                break
            moment = self.books.moment
        self._settle()
        for client in self.clients:
            if not client.is_open:
                self.books.violation("broken", f"{client.name} could not connect")
        for publisher in self.publishers:
            if publisher.unfinished:
                self.books.violation("broken", f"{publisher.name} waits for {publisher.unfinished} acknowledgements")
        for subscriber in self.subscribers:
            if not subscriber.is_settled:
                self.books.violation("broken", f"{subscriber.name} waits for answers")
        self.books.check()
        self._check_retained()

    def _settle(self) -> None:
        """A round trip of everyone, and a moment more: surplus copies have arrived then."""
        pongs = {client.name: client.pongs for client in self.clients}
        for client in self.clients:
            client.ping()
        self.run(lambda: all(client.pongs > pongs[client.name] for client in self.clients), self._quiet_s)
        self.run(lambda: False, LINGER_S)

    def _check_retained(self) -> None:
        probe = Retained(f"probe-{self.books.moment}", self.books, self._retained.topic)
        self.clients.append(probe)
        if self.run(lambda: probe.is_subscribed and probe.pongs > 0, self._quiet_s):
            self.run(lambda: probe.payload is not None, LINGER_S)
            self.books.retained(self._retained, probe.payload)
        else:
            self.books.violation("broken", "a new client could not subscribe to the retained message")
        probe.disconnect()
        self.clients.remove(probe)

    def _publish(self, active: bool) -> None:
        for publisher in self.publishers:
            publisher.active = active

    def _everyone(self, wanted: bool) -> None:
        for client in self.clients:
            client.wanted = wanted

    def _is_connected(self) -> bool:
        return all(client.is_open for client in self.clients if client.wanted)

    def _is_settled(self) -> bool:
        return all(subscriber.is_settled for subscriber in self.subscribers)

    def _is_drained(self) -> bool:
        if any(publisher.unfinished for publisher in self.publishers):
            return False
        return self._is_connected() and self._is_settled() and self.books.complete()
