"""Clients that publish and receive without end, each in its thread, and come again whenever their broker has gone."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from tests.brokerproc import BrokerProcess, await_condition
from tests.wireclient import Ack, Client, ConnectionEnded, Disconnect, Packet, Publish, encode
from tests.wireclient import properties as p

WINDOW = 20
AGAIN_S = 0.02
POLL_S = 0.05
NO_SUBSCRIBERS, SERVER_SHUTTING_DOWN, SESSION_TAKEN_OVER = 0x10, 0x8B, 0x8E
LASTS = ((p.SESSION_EXPIRY, 3600), (p.RECEIVE_MAXIMUM, 100))


def heard(client: Client, timeout_s: float) -> Packet:
    """The next packet of a broker that may also be ending.

    A CONNECT that waited with its worker away, until its client gave it up, may come after that client's next one.
    """
    packet = client.recv(timeout_s)
    if isinstance(packet, Disconnect) and packet.code in (SERVER_SHUTTING_DOWN, SESSION_TAKEN_OVER):
        raise ConnectionEnded("the connection is over")
    return packet


def ranges(payloads: Iterable[bytes]) -> str:
    """Which numbers of which publishers, the shortest way."""
    found: list[list[Any]] = []
    for name, number in sorted((name, int(number)) for name, _, number in (each.partition(b"/") for each in payloads)):
        if found and found[-1][0] == name and found[-1][2] == number - 1:
            found[-1][2] = number
        else:
            found.append([name, number, number])
    return " ".join(f"{name.decode()}/{first}-{last}" for name, first, last in found)


class Lasting:
    """A client whose session outlives its connections."""

    def __init__(self, broker: BrokerProcess, name: str) -> None:
        self.broker = broker
        self.others: list[BrokerProcess] = []
        """Where it may go as well when its broker does not let it in."""
        self.name = name
        self.connects = 0
        self.anew = threading.Event()
        """Set: its connection is to be replaced."""
        self.failure: BaseException | None = None
        """What the thread could not go on after."""
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name=name)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ends.set()
        self._thread.join(20)
        assert not self._thread.is_alive(), self.name
        if self.failure is not None:
            raise AssertionError(f"{self.name} has failed") from self.failure

    def _run(self) -> None:
        try:
            while not self._ends.is_set():
                self._once()
                self._ends.wait(AGAIN_S)
        except BaseException as error:
            self.failure = error

    def _once(self) -> None:
        """One connection, until it or the test ends."""
        try:
            client = Client((self.broker.host, self.broker.port))
        except OSError:
            self._go_elsewhere()
            return
        try:
            connack = client.connect(self.name, clean=False, keep_alive=0, props=LASTS)
            if connack.code:  # who has its session is not there yet
                self._go_elsewhere()
                return
            # The first CONNACK may have been lost with its connection, and the session stored.
            assert connack.session_present or not self.connects, f"the session of {self.name} is gone"
            self.connects += 1
            self.begin(client)
            while not self._ends.is_set() and not self.anew.is_set():
                self.go_on(client)
            self.anew.clear()
        except (ConnectionEnded, OSError):  # a TimeoutError is one: who waits for an answer begins anew
            return
        finally:
            client.close()

    def _go_elsewhere(self) -> None:
        self.others.append(self.broker)
        self.broker = self.others.pop(0)

    def begin(self, client: Client) -> None:
        """What to do first with a connection."""

    def go_on(self, client: Client) -> None:
        """One step."""


class Publisher(Lasting):
    """Publishes numbers; each is repeated until it is acknowledged."""

    def __init__(self, broker: BrokerProcess, name: str, topic: str, qos: int) -> None:
        super().__init__(broker, name)
        self.topic = topic
        self.qos = qos
        self.stops = False
        self.sent = 0
        self.acknowledged: set[bytes] = set()
        self.unwanted: set[bytes] = set()
        self.refused: list[int] = []
        self._open: dict[int, bytes] = {}
        """Packet identifier -> payload, oldest first."""
        self._released: dict[int, None] = {}

    @property
    def is_finished(self) -> bool:
        """Whether nothing is under way any more."""
        return self.stops and not self._open and not self._released

    def begin(self, client: Client) -> None:
        for packet_id in self._released:
            client.send(encode.ack(5, encode.PUBREL, packet_id))
        for packet_id, payload in self._open.items():
            client.send(encode.publish(5, self.topic, payload, qos=self.qos, packet_id=packet_id, dup=True))

    def go_on(self, client: Client) -> None:
        while not self.stops and len(self._open) + len(self._released) < WINDOW:
            self.sent += 1
            packet_id, payload = (self.sent - 1) % 60_000 + 1, b"%s/%d" % (self.name.encode(), self.sent)
            self._open[packet_id] = payload
            client.send(encode.publish(5, self.topic, payload, qos=self.qos, packet_id=packet_id))
        if self.is_finished:
            time.sleep(POLL_S)
            return
        ack = heard(client, 15)
        assert isinstance(ack, Ack), ack
        if ack.kind == "PUBCOMP":
            del self._released[ack.packet_id]
            return
        payload = self._open.pop(ack.packet_id)
        if ack.code >= 0x80:
            self.refused.append(ack.code)
            return
        (self.unwanted if ack.code == NO_SUBSCRIBERS else self.acknowledged).add(payload)
        if ack.kind == "PUBREC":
            self._released[ack.packet_id] = None
            client.send(encode.ack(5, encode.PUBREL, ack.packet_id))


class Subscriber(Lasting):
    """Keeps what it receives, in order, with how often it came."""

    def __init__(self, broker: BrokerProcess, name: str, topic_filter: str, qos: int) -> None:
        super().__init__(broker, name)
        self.filter = topic_filter
        self.qos = qos
        self.is_subscribed = False
        self.got: Counter[bytes] = Counter()
        self._unreleased: set[int] = set()

    def begin(self, client: Client) -> None:
        if not self.is_subscribed:
            assert client.subscribe((self.filter, self.qos)).codes == [self.qos]
            self.is_subscribed = True

    def go_on(self, client: Client) -> None:
        try:
            packet = heard(client, POLL_S)
        except TimeoutError:
            return
        if isinstance(packet, Publish):
            if packet.packet_id not in self._unreleased or packet.qos == 1:
                self.got[packet.payload] += 1
            if packet.qos == 2:
                self._unreleased.add(packet.packet_id)
            client.send(encode.ack(5, encode.PUBACK if packet.qos == 1 else encode.PUBREC, packet.packet_id))
        else:
            assert isinstance(packet, Ack), packet
            assert packet.kind == "PUBREL", packet
            self._unreleased.discard(packet.packet_id)
            client.send(encode.ack(5, encode.PUBCOMP, packet.packet_id))


class Load:
    """Publishers, subscribers that want all of it, and members of a group who want it all together."""

    def __init__(
        self, publishers: Sequence[Publisher], subscribers: Sequence[Subscriber], members: Sequence[Subscriber] = ()
    ) -> None:
        self.publishers = publishers
        self.subscribers = subscribers
        self.members = members
        for each in (*subscribers, *members):
            each.start()
        self._await(lambda: all(each.is_subscribed for each in (*subscribers, *members)), 15, "all have subscribed")
        for publisher in publishers:
            publisher.start()

    def _await(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        await_condition(lambda: self._are_well() and condition(), timeout_s, what)

    def _are_well(self) -> bool:
        for each in (*self.publishers, *self.subscribers, *self.members):
            if each.failure is not None:
                raise AssertionError(f"{each.name} has failed") from each.failure
        return True

    @property
    def acknowledged(self) -> set[bytes]:
        return set().union(*(each.acknowledged for each in self.publishers))

    def run(self, count: int, timeout_s: float = 15.0) -> None:
        """Until so many more messages have been acknowledged to each publisher."""
        goals = [(each, len(each.acknowledged) + count) for each in self.publishers]
        self._await(
            lambda: all(len(each.acknowledged) >= goal for each, goal in goals),
            timeout_s,
            f"{count} more are published",
        )

    def finish(self, timeout_s: float = 20.0) -> None:
        """No more is published; all that was is acknowledged, and arrives."""
        for each in self.publishers:
            each.stops = True
        self._await(lambda: all(each.is_finished for each in self.publishers), timeout_s, "all is acknowledged")
        with suppress(AssertionError):  # `lost` says better what is missing
            self._await(lambda: not self.lost(), timeout_s, "all has arrived")
        assert self._are_well()
        if lost := self.lost():
            for subscriber in (*self.subscribers, *self.members):
                subscriber.anew.set()
            time.sleep(5)
            raise AssertionError(
                f"of what was acknowledged has not come: {lost}; after another connect: {self.lost()}; "
                f"all: { {each.name: ranges(each.acknowledged) for each in self.publishers} }"
            )

    def lost(self) -> dict[str, str]:
        """What was acknowledged and has not come: who misses how many, and which."""
        wanted = self.acknowledged
        got = {each.name: set(each.got) for each in self.subscribers}
        if self.members:
            got["the group"] = set().union(*(set(each.got) for each in self.members))
        missing = {name: wanted - found for name, found in got.items()}
        return {f"{name}: {len(some)} of {len(wanted)}": ranges(some) for name, some in missing.items() if some}

    def disorder(self) -> list[str]:
        """Where the first copies of a publisher's messages came in another order than they were published."""
        found = []
        for each in self.subscribers:
            last: dict[bytes, int] = {}
            for payload in list(each.got):
                name, _, number = payload.partition(b"/")
                if int(number) < last.get(name, 0):
                    found.append(f"{each.name} got {payload!r} after {last[name]}")
                last[name] = int(number)
        return found

    def close(self) -> None:
        for each in (*self.publishers, *self.subscribers, *self.members):
            each.end()
