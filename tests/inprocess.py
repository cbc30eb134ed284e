"""A real engine in this process, turned by hand: no event loop, no waiting, the clock moved as the test likes.

`Engine` is a Hub with the broker's own handshake behind an abstract unix socket; `Wire` is one client's end of a
connection to it. Nothing happens between two calls of `Engine.settle`, so a test decides what falls into one turn.

With a store it is durable, and the test is the thread that commits: it decides when a batch is stored, when bodies come
back, and when the engine crashes. Every batch is held to the laws of the journal.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastmq._hub import Hub
from fastmq.broker.banning import Banning
from fastmq.broker.exchanges import Exchanges
from fastmq.broker.facts import Facts
from fastmq.broker.handshake import Handshake
from fastmq.config.durability import LEVELS
from fastmq.config.schema import Config
from fastmq.store.memory import Contents, MemoryStore
from fastmq.store.records import Record
from tests.journal_laws import Laws
from tests.properties.store_clocks import FakeClocks
from tests.wireclient import encode
from tests.wireclient.decode import Ack, Connack, Packet, Publish, decode
from tests.wireclient.encode import Text, Will
from tests.wireclient.properties import Properties

TURNS_MAX = 100_000
"""An engine that is still busy after so many turns spins."""


class Engine:
    """A hub, its listening socket and the handshake; `close` frees all of it.

    With `store`, what a store holds at the start, sessions and queues are kept; see `commit`, `fetch` and `crash`.
    """

    def __init__(
        self,
        *,
        packet_max: int = 1 << 20,
        output_max: int = 1 << 20,
        store: Contents | None = None,
        durability: str = "fsync",
        rules: Sequence[tuple[str, str]] = (),
        backlog_max: int = 16 << 20,
        clocks: FakeClocks | None = None,
        place: tuple[int, int] = (0, 1),
        clustered: Mapping[str, Any] | None = None,
        **hub: Any,
    ) -> None:
        config = Config()
        if "expiry_max_s" in hub:
            config = replace(config, mqtt=replace(config.mqtt, session_expiry_max_s=hub["expiry_max_s"]))
        self.hub = Hub(packet_max=packet_max, output_max=output_max, **hub)
        self.hub.remotes.place(*place, **(clustered or {}))
        self.batch: tuple[bytes, bool] | None = None  #: handed over, not committed yet
        self.wanted: list[int] | None = None  #: messages that the hub asked for and did not get yet
        self._again = {"packet_max": packet_max, "output_max": output_max, "durability": durability, "rules": rules}
        self._again |= {"backlog_max": backlog_max, "place": place, "clustered": clustered, **hub}
        self._clocks = clocks or FakeClocks()
        self._store: MemoryStore | None = None
        self._next: Engine | None = None  #: after a crash
        if store is not None:
            self._store = MemoryStore(store, self._clocks)
            self.hub.keep(
                LEVELS.index(durability), [(text.encode(), LEVELS.index(level)) for text, level in rules], backlog_max
            )
            self._load(self._store)
        self.gone: list[tuple[bytes, int]] = []
        quiet = replace(config, log=replace(config.log, connections=False))
        self.hub.on_connect = Handshake(
            self.hub, quiet, (), Exchanges(self.hub, ()), Banning(self.hub, quiet.bans, Facts())
        ).on_connect
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind("")  # Linux chooses a free abstract address
        self._listening.listen(4096)
        self._listening.setblocking(False)
        self.hub.listen(self._listening.fileno(), 0)
        self._poll = select.poll()
        self._poll.register(self.hub.fileno(), select.POLLIN)
        self._wires: list[Wire] = []

    def turn(self) -> None:
        self.hub.on_ready()

    @property
    def is_busy(self) -> bool:
        """Whether a turn has something to do."""
        return bool(self._poll.poll(0))

    def settle(self) -> None:
        """Turns until the engine has nothing to do."""
        for _ in range(TURNS_MAX):
            if not self._poll.poll(0):
                return
            self.hub.on_ready()
        raise AssertionError(f"the engine is still busy after {TURNS_MAX} turns")

    def advance(self, seconds: float) -> None:
        """Moves the engine's clock and lets it do what fell due."""
        self._clocks.pass_ms(round(seconds * 1000))
        self.hub.advance(round(seconds * 1000))
        self.settle()

    # -- the store -------------------------------------------------------------------------------------------------

    @property
    def store(self) -> MemoryStore:
        assert self._store is not None
        return self._store

    def _load(self, store: MemoryStore) -> None:
        """Like the broker's worker: what is stored is there before the first client."""
        for batch in store.load():
            self.hub.restore(batch)
        self.restored = self.hub.restored()
        while wanted := self.hub.wanted():
            self.hub.bodies(store.fetch(wanted))
            self.hub.on_ready()
        self.laws = Laws(store.contents)
        self.hub.on_batch = self._take_batch
        self.hub.on_want = self._take_wanted

    def _take_batch(self, batch: bytes, sync: bool) -> None:
        assert self.batch is None, "a batch while another is on its way"
        self.laws.check(batch)
        self.batch = batch, sync

    def _take_wanted(self, ids: list[int]) -> None:
        assert self.wanted is None, "a question while another is open"
        assert len(set(ids)) == len(ids)
        self.wanted = ids

    def append(self) -> list[Record]:
        """Stores the batch that is on its way, without a word to the engine."""
        if self.batch is None:
            return []
        self.store.append(*self.batch)
        return self.laws.read(self.batch[0])

    def commit(self) -> list[Record]:
        """Commits the batch that is on its way; the engine works on. Returns its records."""
        records = self.append()
        if self.batch is not None:
            self.batch = None
            self.hub.committed()
        self.settle()
        return records

    def commit_all(self) -> list[Record]:
        """Commits until all that happened is stored."""
        records: list[Record] = []
        for _ in range(TURNS_MAX):
            self.hub.hurry()
            self.settle()
            if self.batch is None:
                assert self.hub.is_settled
                return records
            records += self.commit()
        raise AssertionError("the engine writes records for ever")

    def fetch(self, lost: Sequence[int] = ()) -> int:
        """Answers what the engine asked the store for, all but what is `lost`. Returns how many that were."""
        if self.wanted is None:
            return 0
        ids, self.wanted = self.wanted, None
        self.hub.bodies([None if id in lost else body for id, body in zip(ids, self.store.fetch(ids), strict=True)])
        self.settle()
        return len(ids)

    def catch_up(self) -> None:
        """Settles; with a store, commits and fetches until nothing is left to do."""
        self.settle()
        while self._store is not None and (self.commit_all() or self.fetch()):
            pass

    def crash(self, away_s: float = 0.0, **changed: Any) -> Engine:
        """The process ends without a word. A new one starts from what was stored, after `away_s` seconds.

        To close the first engine closes those that came after it.
        """
        self.close()
        self._clocks.pass_ms(round(away_s * 1000))
        self._next = Engine(store=self.store.contents, clocks=self._clocks, **{**self._again, **changed})
        return self._next

    # -- clients ---------------------------------------------------------------------------------------------------

    def wire(self, version: int = 5) -> Wire:
        """A connection that has sent nothing yet."""
        wire = Wire(self, version)
        self._wires.append(wire)
        return wire

    def address(self) -> bytes:
        address = self._listening.getsockname()
        assert isinstance(address, bytes)
        return address

    def client(self, client_id: Text, version: int = 5, **connect: Any) -> Wire:
        """A connection whose CONNECT was accepted; its CONNACK is in `connack`."""
        wire = self.wire(version)
        wire.connect(client_id, **connect)
        return wire

    def forget_wires(self, keep: Wire | None = None) -> None:
        """Closes all wires but one: churn of many thousands would keep them all."""
        for wire in self._wires:
            if wire is not keep:
                wire.close()
        self._wires = [keep] if keep is not None else []
        self.settle()

    def memory(self) -> int:
        return self.hub.stats()["memory_bytes"]

    def client_of(self, client_id: bytes) -> dict[str, int]:
        """What the hub says of a client's session."""
        names = ("connected", "version", "queued", "inflight", "dropped", "subscriptions")
        (found,) = [each[1:7] for each in self.hub.clients() if each[0] == client_id]
        return dict(zip(names, map(int, found), strict=True))

    def close(self) -> None:
        for wire in self._wires:
            wire.close()
        self.hub.close()
        self._listening.close()
        if self._next is not None:
            self._next.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Wire:
    """One client's end: bytes out, packets in."""

    def __init__(self, engine: Engine, version: int) -> None:
        self.engine = engine
        self.version = version
        self.connack: Connack | None = None
        self.ended = False
        self.bytes_read = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(engine.address())
        self._socket.setblocking(False)
        self._inbox = bytearray()

    def send(self, data: bytes, turns: int | None = None) -> None:
        """Writes all of it, turning the engine when the socket is full; what the engine cut is not an error.

        With `turns` it gives up after so many, for connections that the engine may not be reading at all.
        """
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                if turns is not None:
                    turns -= 1
                    if turns < 0:
                        return
                self.engine.turn()
            except (BrokenPipeError, ConnectionResetError):
                return

    def send_some(self, data: bytes) -> int:
        """Writes what the socket takes. BlockingIOError: nothing."""
        return self._socket.send(data)

    def connect(
        self,
        client_id: Text,
        *,
        clean: bool = True,
        keep_alive: int = 0,
        props: Properties = (),
        will: Will | None = None,
    ) -> None:
        self.send(
            encode.connect(
                self.version, client_id=client_id, clean=clean, keep_alive=keep_alive, props=props, will=will
            )
        )
        self.engine.settle()
        packets = self.read_raw()
        if not packets:
            self.engine.commit_all()
            packets = self.read_raw()
        first, *rest = packets
        connack = decode(*first, self.version)
        assert isinstance(connack, Connack), connack
        self.connack = connack
        self._early = rest

    def read_raw(self) -> list[tuple[int, bytes]]:
        """(first byte, body) of every whole packet that has arrived."""
        early: list[tuple[int, bytes]] = self.__dict__.pop("_early", [])
        return [*early, *self._arrived()]

    def _arrived(self) -> Iterator[tuple[int, bytes]]:
        try:
            while chunk := self._socket.recv(1 << 18):
                self._inbox += chunk
                self.bytes_read += len(chunk)
            self.ended = True
        except BlockingIOError:
            pass
        except (ConnectionResetError, OSError):
            self.ended = True
        while packet := self._first_packet():
            yield packet

    def _first_packet(self) -> tuple[int, bytes] | None:
        length = shift = 0
        for at, byte in enumerate(self._inbox[1:5], start=2):
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                if len(self._inbox) < at + length:
                    return None
                packet = self._inbox[0], bytes(self._inbox[at : at + length])
                del self._inbox[: at + length]
                return packet
        return None

    def read(self) -> list[Packet]:
        """Every packet that has arrived, decoded."""
        return [decode(first, body, self.version) for first, body in self.read_raw()]

    def read_on(self) -> list[Packet]:
        """Reads as long as bytes come, the engine turning meanwhile: more than a socket holds may be on its way."""
        packets: list[Packet] = []
        before = -1
        while before != self.bytes_read:
            before = self.bytes_read
            self.engine.catch_up()
            packets += self.read()
        return packets

    def skip(self) -> list[Packet]:
        """Takes what has arrived without looking at it."""
        self.read_raw()
        return []

    def discard(self) -> int:
        """Reads on like `read_on`, but throws the bytes away unseen: for benches. Returns how many they were."""
        total = 0
        while True:
            self.engine.settle()
            try:
                chunk = self._socket.recv(1 << 18)
            except BlockingIOError:
                return total
            if not chunk:
                return total
            total += len(chunk)

    def exchange(self, data: bytes) -> list[Packet]:
        """Sends, lets the engine work, reads."""
        self.send(data)
        self.engine.settle()
        return self.read()

    def subscribe(self, topic_filter: Text, options: int = 0, props: Properties = ()) -> list[Packet]:
        return self.exchange(encode.subscribe(self.version, 1, [(topic_filter, options)], props))

    def publish(self, topic: Text, payload: bytes = b"", **how: Any) -> list[Packet]:
        return self.exchange(encode.publish(self.version, topic, payload, **how))

    def drain(self) -> list[Publish]:
        """Reads and acknowledges until nothing more comes; the PUBLISHes in order."""
        messages: list[Publish] = []
        while True:
            packets = self.read_on()
            if not packets:
                return messages
            for packet in packets:
                if isinstance(packet, Publish):
                    messages.append(packet)
                    if packet.qos:
                        kind = encode.PUBACK if packet.qos == 1 else encode.PUBREC
                        self.send(encode.ack(self.version, kind, packet.packet_id or 0))
                elif isinstance(packet, Ack) and packet.kind == "PUBREL":
                    self.send(encode.ack(self.version, encode.PUBCOMP, packet.packet_id))

    def shut(self) -> None:
        """Ends our side; the engine learns of it in its next turn."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Ends without a word; over TCP this would be an RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()
        self.ended = True

    def close(self) -> None:
        self._socket.close()
