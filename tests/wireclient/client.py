"""One connection to a server under test: blocking, a deadline on every wait, no background thread."""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Sequence
from typing import TypeVar

from tests.wireclient import doors, encode
from tests.wireclient.decode import Ack, Connack, Disconnect, Packet, Pingresp, Publish, Suback, Unsuback, decode
from tests.wireclient.encode import Text, Will
from tests.wireclient.properties import Properties

PATIENCE_S = 5.0

P = TypeVar("P")


class ConnectionEnded(AssertionError):
    """The server closed the connection where the test expected a packet."""


crossing_s = 0.0
"""With several workers: what was retained with QoS 0 is known at all of them soon after, and nobody hears when."""


class Client:
    """`version` 3, 4 or 5 decides how packets are written and read; the socket is open, no CONNECT was sent."""

    def __init__(self, address: tuple[str, int], version: int = 5) -> None:
        self.version = version
        self.client_id: Text = ""
        self.connack: Connack | None = None
        self._socket = doors.enter(address, PATIENCE_S)
        self._inbox = bytearray()
        self._set_aside: deque[Packet] = deque()
        self._last_id = 0
        self.last_size = 0  #: bytes of the packet read last, its fixed header included

    # --- bytes and packets -------------------------------------------------------------------------------------

    def send(self, *chunks: bytes) -> None:
        self._socket.sendall(b"".join(chunks))

    def next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def recv(self, timeout: float = PATIENCE_S) -> Packet:
        """The next packet; ConnectionEnded when the server closed, TimeoutError when nothing came."""
        if self._set_aside:
            return self._set_aside.popleft()
        return self._read(time.monotonic() + timeout)

    def _read(self, deadline: float) -> Packet:
        while True:
            packet = self._complete_packet()
            if packet is not None:
                return packet
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("no packet within the time given")
            self._socket.settimeout(left)
            try:
                chunk = self._socket.recv(65536)
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                raise ConnectionEnded("the server closed the connection")
            self._inbox += chunk

    def _complete_packet(self) -> Packet | None:
        length = shift = 0
        for at, byte in enumerate(self._inbox[1:5], start=2):
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                if len(self._inbox) < at + length:
                    return None
                first, body = self._inbox[0], bytes(self._inbox[at : at + length])
                del self._inbox[: at + length]
                self.last_size = at + length
                return decode(first, body, self.version)
        return None

    def expect(self, kind: type[P], timeout: float = PATIENCE_S) -> P:
        packet = self.recv(timeout)
        assert isinstance(packet, kind), f"expected {kind.__name__}, got {packet}"
        return packet

    def expect_ack(self, kind: str, packet_id: int | None = None, code: int = 0) -> Ack:
        got = self.expect(Ack)
        assert (got.kind, got.code) == (kind, code), got
        assert packet_id is None or got.packet_id == packet_id, got
        return got

    def expect_silence(self) -> None:
        """Nothing is on its way: a PINGREQ is answered by PINGRESP and by nothing before it."""
        self.send(encode.PINGREQ)
        self.expect(Pingresp)

    def expect_closed(self, timeout: float = PATIENCE_S) -> None:
        """The server closes without a further packet."""
        try:
            packet = self.recv(timeout)
        except ConnectionEnded:
            return
        raise AssertionError(f"expected the end of the connection, got {packet}")

    def expect_disconnect(self, *codes: int, timeout: float = PATIENCE_S) -> None:
        """MQTT 5: DISCONNECT with one of the reasons, then the end. Earlier versions lack that packet: just the end."""
        if self.version >= 5:
            got = self.expect(Disconnect, timeout)
            assert got.code in codes, f"expected reason {[hex(c) for c in codes]}, got 0x{got.code:02x}"
        self.expect_closed(timeout)

    def expect_refused(self, *codes: int, silence_allowed: bool = False) -> None:
        """A CONNECT that cannot be understood. MQTT 5: CONNACK with one of the reasons, then the end.

        Earlier versions: the end without CONNACK [MQTT-3.1.4-1].
        """
        if self.version >= 5:
            try:
                got = self.expect(Connack)
            except ConnectionEnded:
                assert silence_allowed, "the server closed without CONNACK"
                return
            assert got.code in codes, f"expected reason {[hex(c) for c in codes]}, got 0x{got.code:02x}"
        self.expect_closed()

    def ping(self) -> None:
        """Round trip; packets that come before the answer are kept for later."""
        self.send(encode.PINGREQ)
        self.wait_for(Pingresp)

    def wait_for(self, kind: type[P]) -> P:
        """The next packet of that kind; others are kept in order for recv()."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            packet = self._read(deadline)
            if isinstance(packet, kind):
                return packet
            self._set_aside.append(packet)

    def waiting(self) -> int:
        """How many packets were kept for later."""
        return len(self._set_aside)

    def arrived(self) -> list[Publish]:
        """All messages that are here or on their way, acknowledged; other packets are an error."""
        self.ping()
        return [self.receive() for _ in range(len(self._set_aside))]

    # --- what a client does ------------------------------------------------------------------------------------

    def connect(
        self,
        client_id: Text = "",
        *,
        clean: bool = True,
        keep_alive: int = 60,
        props: Properties = (),
        will: Will | None = None,
        username: Text | None = None,
        password: bytes | None = None,
    ) -> Connack:
        self.client_id = client_id
        self.send(
            encode.connect(
                self.version,
                client_id=client_id,
                clean=clean,
                keep_alive=keep_alive,
                props=props,
                will=will,
                username=username,
                password=password,
            )
        )
        self.connack = self.expect(Connack)
        return self.connack

    def subscribe(self, *filters: Text | tuple[Text, int], props: Properties = ()) -> Suback:
        """SUBSCRIBE and its SUBACK; a bare filter means options 0."""
        packet_id = self.next_id()
        pairs = [f if isinstance(f, tuple) else (f, 0) for f in filters]
        self.send(encode.subscribe(self.version, packet_id, pairs, props))
        suback = self.wait_for(Suback)
        assert suback.packet_id == packet_id
        return suback

    def unsubscribe(self, *filters: Text, props: Properties = ()) -> Unsuback:
        packet_id = self.next_id()
        self.send(encode.unsubscribe(self.version, packet_id, filters, props))
        unsuback = self.wait_for(Unsuback)
        assert unsuback.packet_id == packet_id
        return unsuback

    def publish(
        self,
        topic: Text,
        payload: bytes = b"",
        *,
        qos: int = 0,
        retain: bool = False,
        dup: bool = False,
        props: Properties = (),
    ) -> int:
        """PUBLISH and the whole exchange that its QoS asks for; QoS 0 is followed by a ping. Returns the reason."""
        packet_id = self.next_id() if qos else None
        self.send(
            encode.publish(
                self.version, topic, payload, qos=qos, retain=retain, dup=dup, packet_id=packet_id, props=props
            )
        )
        if packet_id is None:
            self.ping()
            if retain and crossing_s:
                time.sleep(crossing_s)
            return 0
        first = self.wait_for(Ack)
        assert (first.kind, first.packet_id) == ("PUBACK" if qos == 1 else "PUBREC", packet_id), first
        if qos == 2 and first.code < 0x80:
            self.send(encode.ack(self.version, encode.PUBREL, packet_id))
            last = self.wait_for(Ack)
            assert (last.kind, last.packet_id, last.code) == ("PUBCOMP", packet_id, 0), last
        return first.code

    def receive(self, timeout: float = PATIENCE_S) -> Publish:
        """The next packet, which must be a PUBLISH, acknowledged to the end."""
        message = self.expect(Publish, timeout)
        if message.qos == 1:
            self.send(encode.ack(self.version, encode.PUBACK, message.packet_id))
        elif message.qos == 2:
            self.send(encode.ack(self.version, encode.PUBREC, message.packet_id))
            released = self.wait_for(Ack)
            assert (released.kind, released.packet_id) == ("PUBREL", message.packet_id), released
            self.send(encode.ack(self.version, encode.PUBCOMP, message.packet_id))
        return message

    def receive_payloads(self, count: int) -> list[bytes]:
        return [self.receive().payload for _ in range(count)]

    # --- ways to end -------------------------------------------------------------------------------------------

    def disconnect(self, code: int | None = None, props: Sequence[tuple[int, int | str]] = ()) -> None:
        """DISCONNECT, then wait until the server has closed too."""
        self.send(encode.disconnect(self.version, code, props))
        self.drop()

    def drop(self) -> None:
        """End the connection without a word, and wait until the server has noticed."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
            self._socket.settimeout(PATIENCE_S)
            while self._socket.recv(65536):
                pass
        except (ConnectionResetError, OSError):
            pass
        if crossing_s:
            time.sleep(crossing_s)  # its will may be retained
        self._socket.close()

    def close(self) -> None:
        self._socket.close()
