"""The clients of a crash proof: MQTT 5 sessions that outlive every connection, kept as the specification demands.

Law: after a reconnect a publisher sends again, in the old order and with the old packet identifiers, what was not
acknowledged [MQTT-4.4.0-1]; a subscriber remembers the QoS 2 identifiers that it has answered with PUBREC until PUBREL.
Acknowledgements are held back for a moment, so that crashes find exchanges in all states. One thread, no waiting.
"""

from __future__ import annotations

import socket
from collections import deque
from dataclasses import dataclass
from typing import ClassVar, Final

from fastmq._codec import Decoder, encode
from fastmq.packets import (
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    SubscriptionRequest,
    Unsuback,
    Unsubscribe,
)
from fastmq.testing.crash_books import Books, Reader, Stream

__all__ = ["Client", "Publisher", "Subscriber"]

DAY_S: Final = 86_400
WINDOW: Final = 24
RECEIVE_MAXIMUM: Final = 100
CONNECT_TIMEOUT_S: Final = 5.0
PACKET_ID_MAX: Final = 65_535
NO_SUBSCRIPTION: Final = 0x11

EXPECTED: Final = frozenset({0x83, 0x88, 0x89, 0x8B, 0x97})
"""Reasons with which a broker may end a connection: it stops, it is full, its disk has failed."""


class Client:
    """One session. `wanted` says whether it is to be connected; `name` is its client identifier."""

    keepalive_s: ClassVar[int] = 0

    def __init__(self, name: str, books: Books, *, expiry_s: int = DAY_S) -> None:
        self.name = name
        self.books = books
        self.expiry_s = expiry_s
        self.wanted = True
        self.is_open = False  #: CONNACK was seen, and the connection has not ended since
        self.session_present = False
        self.refusals = 0  #: CONNECTs and requests that were refused
        self.pongs = 0
        self.socket: socket.socket | None = None
        self._decoder = Decoder(5)
        self._output = bytearray()

    # -- its connection ----------------------------------------------------------------------------------------------

    def connect(self, address: tuple[str, int]) -> bool:
        """Opens a connection and sends CONNECT; False when nobody listens."""
        try:
            self.socket = socket.create_connection(address, CONNECT_TIMEOUT_S)
        except OSError:
            return False
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._decoder = Decoder(5)
        self._output.clear()
        properties = Properties(session_expiry_interval=self.expiry_s, receive_maximum=RECEIVE_MAXIMUM)
        clean = self.expiry_s == 0
        self.send(Connect(self.name, clean_start=clean, keepalive=self.keepalive_s, properties=properties))
        return True

    def disconnect(self) -> None:
        """Leaves with DISCONNECT; the session stays."""
        self.wanted = False
        if self.is_open:
            self.send(Disconnect())
            self.flush()
        self.lost()

    def lost(self) -> None:
        """The connection is over."""
        if self.socket is not None:
            self.socket.close()
        self.socket = None
        self.is_open = False

    def send(self, packet: Packet) -> None:
        if self.socket is not None:
            self._output += encode(packet, 5)

    def flush(self) -> None:
        if self.socket is None or not self._output:
            return
        try:
            sent = self.socket.send(self._output)
        except BlockingIOError:
            return
        except OSError:
            return  # what the broker has said before is still to be read; then recv() tells the end
        del self._output[:sent]

    def read(self) -> None:
        """Takes what has come."""
        if self.socket is None:
            return
        try:
            data = self.socket.recv(262_144)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.lost()
            return
        for packet in self._decoder.feed(data):
            self.take(packet)

    def act(self) -> None:
        """Does what is to be done by itself; called once a turn."""
        self.flush()

    # -- what comes --------------------------------------------------------------------------------------------------

    def take(self, packet: Packet) -> None:
        match packet:
            case Connack():
                self._connack(packet)
            case Pingresp():
                self.pongs += 1
            case Disconnect():
                if packet.reason not in EXPECTED:
                    self.books.violation("broken", f"{self.name} was disconnected: 0x{packet.reason:02x}")
                self.refusals += 1
            case _:
                self.books.violation("broken", f"{self.name} did not expect {packet}")

    def _connack(self, packet: Connack) -> None:
        if packet.reason:
            if packet.reason not in EXPECTED:
                self.books.violation("broken", f"{self.name} may not connect: 0x{packet.reason:02x}")
            self.refusals += 1
            return
        self.is_open = True
        self.session_present = packet.session_present
        if self.expiry_s:
            self.books.connected(self.name, session_present=packet.session_present)
        self.resume()

    def resume(self) -> None:
        """The connection is accepted, with or without the old session."""

    def ping(self) -> None:
        self.send(Pingreq())


@dataclass(slots=True)
class _Sent:
    packet: Publish
    stream: Stream
    number: int
    is_received: bool = False  # QoS 2: PUBREC was seen


class Publisher(Client):
    """Publishes to its streams in turn, as fast as its window allows, while `active`."""

    def __init__(self, name: str, books: Books, streams: list[Stream], window: int = WINDOW) -> None:
        super().__init__(name, books)
        self.window = window
        self.streams = streams
        self.active = True
        self._sent: dict[int, _Sent] = {}
        self._turn = self._last_id = 0

    @property
    def unfinished(self) -> int:
        return len(self._sent)

    def act(self) -> None:
        while self.active and self.is_open and len(self._sent) < self.window:
            self._publish()
        super().act()

    def _publish(self) -> None:
        stream = self.streams[self._turn % len(self.streams)]
        self._turn += 1
        number = self.books.sent(stream)
        packet = Publish(
            stream.topic, stream.payload(number), stream.qos, stream.is_retained, packet_id=self._free_id()
        )
        self._sent[packet.packet_id] = _Sent(packet, stream, number)
        self.send(packet)

    def _free_id(self) -> int:
        while True:
            self._last_id = self._last_id % PACKET_ID_MAX + 1
            if self._last_id not in self._sent:
                return self._last_id

    def resume(self) -> None:
        if not self.session_present:
            self._sent.clear()  # the specification: the client's state goes with the server's
        for packet_id, sent in self._sent.items():
            if sent.is_received:
                self.send(Pubrel(packet_id))
            else:
                sent.packet.dup = True
                self.send(sent.packet)

    def take(self, packet: Packet) -> None:
        match packet:
            case Puback():
                self._finish(packet)
            case Pubrec() if packet.reason >= 0x80:
                self._finish(packet)
            case Pubrec():
                self._received(packet)
            case Pubcomp():
                # 0x92: the broker had released the identifier already, and only its PUBCOMP was lost.
                self._finish(Pubcomp(packet.packet_id, 0 if packet.reason == 0x92 else packet.reason))
            case _:
                super().take(packet)

    def _received(self, packet: Pubrec) -> None:
        sent = self._sent.get(packet.packet_id)
        if sent is None or sent.packet.qos != 2:
            self.books.violation("broken", f"{self.name} got {packet}, and has sent nothing under that identifier")
            return
        sent.is_received = True
        self.books.acknowledged(sent.stream, sent.number, is_finished=False)
        self.send(Pubrel(packet.packet_id))

    def _finish(self, packet: Puback | Pubrec | Pubcomp) -> None:
        sent = self._sent.get(packet.packet_id)
        wanted = 1 if isinstance(packet, Puback) else 2
        if sent is None or sent.packet.qos != wanted or (isinstance(packet, Pubcomp) and not sent.is_received):
            self.books.violation("broken", f"{self.name} got {packet}, which answers nothing")
            return
        del self._sent[packet.packet_id]
        if packet.reason >= 0x80:
            self.books.refused(sent.stream)
        else:
            self.books.acknowledged(sent.stream, sent.number, is_finished=True)


class Subscriber(Client):
    """Has one subscription, or does not, as `subscribes` says; takes what comes and tells the books."""

    def __init__(self, name: str, books: Books, reader: Reader, pattern: str) -> None:
        super().__init__(name, books)
        self.reader = reader
        self.pattern = pattern
        self.subscribes = True
        self.is_subscribed: bool | None = False  #: None: a request is on its way, or its answer was lost
        self._request = 0  # packet id of the request on its way; 0 = none
        self._last_request = 0
        self._was_subscribed: bool | None = False
        self._known: set[int] = set()  # QoS 2 identifiers from PUBLISH to PUBREL
        self._held: deque[Packet] = deque()  # acknowledgements that are not sent yet

    @property
    def is_settled(self) -> bool:
        """Its subscription is as wanted, and no QoS 2 exchange is open."""
        return self.is_subscribed is self.subscribes and not self._known and not self._held

    def act(self) -> None:
        if self.is_open and not self._request and self.is_subscribed is not self.subscribes:
            self._ask()
        super().act()

    def release(self) -> None:
        """Sends the acknowledgements that were held back."""
        while self._held:
            self.send(self._held.popleft())

    def _ask(self) -> None:
        self._was_subscribed = self.is_subscribed
        self._last_request = self._request = self._last_request % 100 + 1
        self.is_subscribed = None
        if self.subscribes:
            self.books.subscribing(self.reader)
            wanted = SubscriptionRequest(self.pattern, self.reader.qos)
            self.send(Subscribe(self._request, [wanted]))
        else:
            self.books.unsubscribing(self.reader)
            self.send(Unsubscribe(self._request, [self.pattern]))

    def resume(self) -> None:
        self._request = 0
        self._held.clear()  # the broker asks again
        if not self.session_present:
            self._known.clear()
            self.is_subscribed = False

    def take(self, packet: Packet) -> None:
        match packet:
            case Publish():
                self._publish(packet)
            case Pubrel():
                self._known.discard(packet.packet_id)
                self._held.append(Pubcomp(packet.packet_id))
            case Suback() | Unsuback():
                self._answered(packet)
            case _:
                super().take(packet)

    def _publish(self, packet: Publish) -> None:
        is_new = packet.qos != 2 or packet.packet_id not in self._known
        if packet.qos == 2:
            self._known.add(packet.packet_id)
        if packet.qos:
            self._held.append(Puback(packet.packet_id) if packet.qos == 1 else Pubrec(packet.packet_id))
        if is_new:
            self.books.arrived(self.reader, packet.topic, packet.payload)

    def _answered(self, packet: Suback | Unsuback) -> None:
        if packet.packet_id != self._request:
            self.books.violation("broken", f"{self.name} got {packet}, which answers nothing")
            return
        self._request = 0
        if packet.reasons and packet.reasons[0] >= 0x80:  # it is asked again: the state is unknown until then
            self.refusals += 1
        elif isinstance(packet, Suback):
            self.is_subscribed = True
            self.books.subscribed(self.reader)
        else:
            if self._was_subscribed and packet.reasons == [NO_SUBSCRIPTION]:
                self.books.violation("sessions_lost", f"{self.name} was told that it had no subscription")
            self.is_subscribed = False
            self.books.unsubscribed(self.reader)
