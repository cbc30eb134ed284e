"""A broker that is right because it is simple, and wrong on demand: to judge the judge, not to be used.

What clients send is journaled, synced, and only then answered; a start plays the journal again, from the beginning,
through the same state machine. `python -m tests.crash.reference_broker PORT JOURNAL [MISTAKE]`
"""

from __future__ import annotations

import os
import pickle
import selectors
import signal
import socket
import sys
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fastmq import topics
from fastmq._codec import Decoder, encode
from fastmq.packets import (
    Connack,
    Connect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)

WINDOW: Final = 100

MISTAKES: Final = (
    "answers first",  # and journals ten turns later
    "does not sync",
    "forgets received",  # the QoS 2 identifiers, at a start
    "forgets unsubscribe",  # at a start
    "forgets retained",  # at a start
    "resends backwards",
    "damages",  # a byte of what is sent again
)


@dataclass
class Session:
    filters: dict[str, int] = field(default_factory=dict)
    queue: deque[Publish] = field(default_factory=deque)
    inflight: dict[int, Publish | Pubrel] = field(default_factory=dict)
    received: set[int] = field(default_factory=set)
    last_id: int = 0
    is_connected: bool = False

    def free_id(self) -> int:
        while True:
            self.last_id = self.last_id % 65_535 + 1
            if self.last_id not in self.inflight:
                return self.last_id


class Broker:
    """The state machine: inputs in order, outputs in `output`. Plays the same for the same inputs."""

    def __init__(self, mistake: str) -> None:
        self.sessions: dict[str, Session] = {}
        self.retained: dict[str, Publish] = {}
        self.output: list[tuple[str, Packet]] = []
        self.mistake = mistake
        self._turn = 0

    def take(self, client: str, packet: Packet | None) -> None:
        """None: the connection has ended."""
        session = self.sessions.get(client, Session())
        match packet:
            case None:
                session.is_connected = False
                if client.startswith("probe"):
                    self.sessions.pop(client, None)
            case Connect():
                self._connect(client, packet)
            case Publish():
                self._publish(client, session, packet)
            case Pubrel():
                session.received.discard(packet.packet_id)
                self._send(client, Pubcomp(packet.packet_id))
            case Puback() | Pubcomp():
                session.inflight.pop(packet.packet_id, None)
                self._fill(client, session)
            case Pubrec():
                session.inflight[packet.packet_id] = Pubrel(packet.packet_id)
                self._send(client, Pubrel(packet.packet_id))
            case Subscribe():
                self._subscribe(client, session, packet)
            case Unsubscribe():
                for each in packet.filters:
                    session.filters.pop(each, None)
                self._send(client, Unsuback(packet.packet_id, [0] * len(packet.filters)))
            case Pingreq():
                self._send(client, Pingresp())

    def _send(self, client: str, packet: Packet) -> None:
        self.output.append((client, packet))

    def _connect(self, client: str, packet: Connect) -> None:
        present = client in self.sessions and not packet.clean_start
        session = self.sessions[client] if present else Session()
        self.sessions[client] = session
        session.is_connected = True
        self._send(client, Connack(session_present=present))
        again = list(session.inflight.values())
        for each in reversed(again) if self.mistake == "resends backwards" else again:
            if isinstance(each, Publish):
                payload = b"?" + each.payload[1:] if self.mistake == "damages" else each.payload
                each = Publish(each.topic, payload, each.qos, dup=True, packet_id=each.packet_id)
            self._send(client, each)
        self._fill(client, session)

    def _publish(self, client: str, session: Session, packet: Publish) -> None:
        if packet.qos == 2 and packet.packet_id in session.received:
            self._send(client, Pubrec(packet.packet_id))
            return
        if packet.qos == 2:
            session.received.add(packet.packet_id)
        if packet.retain:
            self.retained[packet.topic] = packet
        self._route(packet)
        self._send(client, Puback(packet.packet_id) if packet.qos == 1 else Pubrec(packet.packet_id))

    def _route(self, packet: Publish) -> None:
        members: list[tuple[str, Session, int]] = []
        for name, session in self.sessions.items():
            for pattern, qos in session.filters.items():
                if pattern.startswith("$share/"):
                    if topics.matches(pattern.split("/", 2)[2], packet.topic):
                        members.append((name, session, qos))
                elif topics.matches(pattern, packet.topic):
                    self._queue(name, session, packet, qos)
        if members:
            self._turn += 1
            self._queue(*members[self._turn % len(members)][:2], packet, members[0][2])

    def _queue(self, client: str, session: Session, packet: Publish, qos: int) -> None:
        session.queue.append(Publish(packet.topic, packet.payload, min(qos, packet.qos)))
        self._fill(client, session)

    def _fill(self, client: str, session: Session) -> None:
        while session.is_connected and session.queue and len(session.inflight) < WINDOW:
            packet = session.queue.popleft()
            packet.packet_id = session.free_id()
            session.inflight[packet.packet_id] = packet
            self._send(client, packet)

    def _subscribe(self, client: str, session: Session, packet: Subscribe) -> None:
        for each in packet.subscriptions:
            session.filters[each.filter] = each.qos
        self._send(client, Suback(packet.packet_id, [each.qos for each in packet.subscriptions]))
        for each in packet.subscriptions:
            kept = self.retained.get(each.filter)
            if kept is not None and kept.payload:
                self._queue(client, session, kept, 1)


class Server:
    def __init__(self, port: int, journal: Path, mistake: str) -> None:
        self._broker = Broker("" if mistake.startswith("forgets") else mistake)
        self._mistake = mistake
        self._turns = 0
        self._inputs: list[tuple[str, Packet | None]] = []
        self._clients: dict[str, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._play(journal)
        self._journal = os.open(journal, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        os.fsync(self._journal)
        folder = os.open(journal.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        listener = socket.create_server(("127.0.0.1", port))
        self._selector.register(listener, selectors.EVENT_READ, None)
        print("listening on", port, file=sys.stderr, flush=True)

    def _play(self, journal: Path) -> None:
        with journal.open("rb") if journal.exists() else open(os.devnull, "rb") as file:
            while True:
                end = file.tell()
                try:
                    inputs = pickle.load(file)
                except (EOFError, pickle.UnpicklingError, ValueError):
                    break  # torn by the crash: nothing of it was answered
                for client, packet in inputs:
                    if not (self._mistake == "forgets unsubscribe" and isinstance(packet, Unsubscribe)):
                        self._broker.take(client, packet)
        if journal.exists():
            os.truncate(journal, end)
        for client in list(self._broker.sessions):
            self._take(client, None)
        for session in self._broker.sessions.values():
            if self._mistake == "forgets received":
                session.received.clear()
        if self._mistake == "forgets retained":
            self._broker.retained.clear()
        self._broker.output.clear()

    def _take(self, client: str, packet: Packet | None) -> None:
        self._inputs.append((client, packet))
        self._broker.take(client, packet)

    def run(self) -> None:
        while True:
            for key, _ in self._selector.select(0.05):
                if key.data is None:
                    self._accept(key.fileobj)  # type: ignore[arg-type]
                else:
                    self._read(key.fileobj, key.data)  # type: ignore[arg-type]
            self._turns += 1
            if self._mistake == "answers first":
                self._answer()
                if self._turns % 10 == 0:
                    self._commit()
            else:
                self._commit()
                self._answer()

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        self._selector.register(connection, selectors.EVENT_READ, [Decoder(5), ""])

    def _read(self, connection: socket.socket, state: list[object]) -> None:
        decoder, client = state
        assert isinstance(decoder, Decoder)
        assert isinstance(client, str)
        try:
            data = connection.recv(65_536)
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(connection)
            if self._clients.get(client) is connection:
                del self._clients[client]
                self._take(client, None)
            connection.close()
            return
        for packet in decoder.feed(data):
            if isinstance(packet, Connect):
                state[1] = client = packet.client_id
                self._clients[client] = connection
            self._take(client, packet)

    def _commit(self) -> None:
        if self._inputs:
            os.write(self._journal, pickle.dumps(self._inputs))
            if self._mistake != "does not sync":
                os.fdatasync(self._journal)
            self._inputs.clear()

    def _answer(self) -> None:
        for client, packet in self._broker.output:
            connection = self._clients.get(client)
            if connection is not None:
                try:
                    connection.sendall(encode(packet, 5))
                except OSError:
                    continue
        self._broker.output.clear()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    Server(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "").run()
