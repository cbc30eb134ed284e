"""The load of a crash proof from paho-mqtt: other people's idea of a session that outlives its connection.

Two habits of paho 2.2 are kept out of the way. Each attempt to reconnect moves its exchanges on by a state, so that the
second one publishes anew what was released already: it is told to reconnect once, when the broker listens. And what is
published before it has sent again what is open goes first: nothing new is published until the first answer.

paho's threads only put what they see into a queue; one thread reads it and keeps the books. An acknowledgement counts
when it is read from the queue, which is later than it was seen: nothing is claimed too early.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from fastmq.testing.crash_books import Books, Reader, Stream

__all__ = ["PahoLoad"]

WINDOW: Final = 40
Event = Callable[[], None]


class _Client:
    def __init__(self, name: str, load: PahoLoad) -> None:
        self.name = name
        self.books = load.books
        self._events = load.events
        self.connects = 0
        self.paho = paho.Client(
            CallbackAPIVersion.VERSION2,
            name,
            clean_session=False,
            protocol=MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        self.paho.max_inflight_messages_set(WINDOW)
        self.paho.on_connect = self._on_connect

    def _on_connect(self, _c: Any, _u: Any, flags: Any, reason: Any, _p: Any) -> None:
        present, failed = bool(flags.session_present), bool(reason.is_failure)
        self.tell(lambda: self._connected(present, failed))

    def _connected(self, present: bool, failed: bool) -> None:
        if failed:
            self.books.violation("broken", f"{self.name} may not connect")
            return
        self.connects += 1
        self.books.connected(self.name, session_present=present)

    def reconnect(self) -> None:
        self.stop()
        self.paho.reconnect()
        self.paho.loop_start()

    def stop(self) -> None:
        self.paho.loop_stop()
        self.paho._reset_sockets(sockpair_only=True)  # else it leaks a pair with every start

    def tell(self, event: Event) -> None:
        self._events.put(event)


class _Publisher(_Client):
    def __init__(self, load: PahoLoad, qos: int) -> None:
        super().__init__(f"paho-publisher-{qos}", load)
        self.stream: Stream = self.books.stream(f"paho{qos}", f"crash/t/paho{qos}", qos)
        self._open: dict[int, int] = {}
        self._sends_again = False
        self.paho.on_publish = self._on_publish

    @property
    def unfinished(self) -> int:
        return len(self._open)

    def reconnect(self) -> None:
        self._sends_again = bool(self._open)
        super().reconnect()

    def fill(self) -> None:
        while not self._sends_again and len(self._open) < WINDOW:
            number = self.books.sent(self.stream)
            info = self.paho.publish(self.stream.topic, self.stream.payload(number), self.stream.qos)
            assert info.rc in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_NO_CONN), info
            self._open[info.mid] = number

    def _on_publish(self, _c: Any, _u: Any, mid: int, _r: Any, _p: Any) -> None:
        self.tell(lambda: self._acknowledged(mid))

    def _acknowledged(self, mid: int) -> None:
        self.books.acknowledged(self.stream, self._open.pop(mid), is_finished=True)
        self._sends_again = False


class _Subscriber(_Client):
    def __init__(self, load: PahoLoad, qos: int) -> None:
        super().__init__(f"paho-subscriber-{qos}", load)
        self.reader: Reader = self.books.reader(self.name, qos)
        self.paho.on_message = self._on_message
        self.paho.on_subscribe = self._on_subscribe

    def subscribe(self) -> None:
        self.books.subscribing(self.reader)
        self.paho.subscribe("crash/t/#", self.reader.qos)

    def _on_subscribe(self, *_: Any) -> None:
        self.tell(lambda: self.books.subscribed(self.reader))

    def _on_message(self, _c: Any, _u: Any, message: paho.MQTTMessage) -> None:
        topic, payload = message.topic, bytes(message.payload)
        self.tell(lambda: self.books.arrived(self.reader, topic, payload))


class PahoLoad:
    """Two publishers and two subscribers, QoS 1 and 2 each. `reconnect` when the broker listens again."""

    def __init__(self, books: Books, address: tuple[str, int]) -> None:
        self.books = books
        self.events: SimpleQueue[Event] = SimpleQueue()
        self._publishers = [_Publisher(self, qos) for qos in (1, 2)]
        self._subscribers = [_Subscriber(self, qos) for qos in (1, 2)]
        self._clients = [*self._publishers, *self._subscribers]
        for client in self._clients:
            client.paho.connect(*address)
            client.paho.loop_start()
        assert self.run(lambda: all(client.connects for client in self._clients), 10)
        for subscriber in self._subscribers:
            subscriber.subscribe()
        assert self.run(lambda: all(subscriber.reader.opened_at for subscriber in self._subscribers), 10)

    def close(self) -> None:
        for client in self._clients:
            client.paho.disconnect()
            client.stop()

    def reconnect(self) -> None:
        self.run(lambda: not any(client.paho.is_connected() for client in self._clients), 10)
        self._read()  # acknowledgements that came before the end
        connects = {client.name: client.connects for client in self._clients}
        for client in self._clients:
            client.reconnect()
        assert self.run(lambda: all(client.connects > connects[client.name] for client in self._clients), 10)

    def run(self, until: Callable[[], bool], timeout_s: float, *, publishes: bool = False) -> bool:
        """Keeps the books until then; False when the time is over."""
        deadline = time.monotonic() + timeout_s
        while not until():
            if time.monotonic() > deadline:
                return False
            for publisher in self._publishers if publishes else ():
                publisher.fill()
            self._read()
        return True

    def _read(self) -> None:
        try:
            self.events.get(timeout=0.002)()
            while True:
                self.events.get_nowait()()
        except Empty:
            return

    def drain(self, quiet_s: float = 5.0) -> None:
        """Everything that is due arrives, and the books are checked."""
        moment = -1
        while not self.run(self._is_drained, quiet_s) and moment != self.books.moment:
            moment = self.books.moment
        self.run(lambda: False, 0.1)  # surplus copies
        for publisher in self._publishers:
            if publisher.unfinished:
                self.books.violation("broken", f"{publisher.name} waits for {publisher.unfinished} acknowledgements")
        self.books.check()

    def _is_drained(self) -> bool:
        return not any(publisher.unfinished for publisher in self._publishers) and self.books.complete()
