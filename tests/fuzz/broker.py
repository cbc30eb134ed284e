"""The fuzzer of a whole broker over TCP: it must live, keep its memory, log no traceback and serve its neighbours."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.brokerproc import BrokerProcess
from tests.fuzz.grammar import VERSIONS, Grammar
from tests.wireclient.client import Client

CONNECTIONS = 40
ROUND_TRIP_MAX_S = 3.0
GROWTH_MAX = 160 << 20
"""Bytes that the broker's resident memory may grow by: pools, caches and thousands of retained messages."""


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


class Canary:
    """A well-behaved client in a thread of its own: publishes to itself with QoS 1 while others do not behave."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.round_trips = 0
        self.slowest_s = 0.0
        self.error: BaseException | None = None
        self._address = address
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sing, daemon=True)

    def __enter__(self) -> Canary:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _sing(self) -> None:
        try:
            client = Client(self._address, 5)
            with contextlib.closing(client):
                client.connect(client_id="canary")
                client.subscribe(("canary", 1))
                while not self._stop.wait(0.01):
                    payload = b"%d" % self.round_trips
                    started = time.monotonic()
                    assert client.publish("canary", payload, qos=1) == 0
                    assert client.receive().payload == payload
                    self.slowest_s = max(self.slowest_s, time.monotonic() - started)
                    self.round_trips += 1
        except BaseException as error:
            self.error = error


class Noise:
    """A crowd of connections, each with its version, that send whatever the grammar makes and seldom read."""

    def __init__(self, address: tuple[str, int], seed: int) -> None:
        self.random = Random(seed)
        self.grammar = Grammar(self.random)
        self.grammar.evil = 0.05
        self.sent = 0
        self._address = address
        self._crowd: list[tuple[socket.socket, int]] = []

    def step(self) -> None:
        r = self.random
        if len(self._crowd) < CONNECTIONS and r.random() < 0.3:
            self._open()
        if not self._crowd:
            return
        at = r.randrange(len(self._crowd))
        connection, version = self._crowd[at]
        kind = r.random()
        try:
            if kind < 0.8:
                data = b"".join(self.grammar.anything(version) for _ in range(r.randint(1, 8)))
                self.sent += connection.send(data[: r.choice((len(data), len(data), 1, len(data) // 2 + 1))])
            elif kind < 0.97:
                if not connection.recv(65_536):
                    self._drop(at)
            else:
                self._drop(at)
        except BlockingIOError:
            pass
        except OSError:
            self._drop(at)

    def _open(self) -> None:
        version = self.random.choice(VERSIONS)
        connection = socket.create_connection(self._address, timeout=5)
        connection.setblocking(False)
        self._crowd.append((connection, version))
        with contextlib.suppress(OSError):
            if self.random.random() < 0.95:
                packet = self.grammar.connect(version)
                connection.send(self.grammar.mutated(packet) if self.random.random() < 0.2 else packet)

    def _drop(self, at: int) -> None:
        """Half of them go with a reset instead of an orderly end."""
        connection, _ = self._crowd.pop(at)
        if self.random.random() < 0.5:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    def close(self) -> None:
        while self._crowd:
            self._drop(0)


@contextlib.contextmanager
def noise(address: tuple[str, int], seed: int) -> Iterator[Noise]:
    made = Noise(address, seed)
    try:
        yield made
    finally:
        made.close()


def fuzz(broker: BrokerProcess, seed: int, seconds: float) -> int:
    """Fuzzes for so long; returns how many bytes the broker was made to read. AssertionError: it did wrong."""
    address = (broker.host, broker.port)
    before = resident_bytes(broker.pid)
    deadline = time.monotonic() + seconds
    with Canary(address) as canary, noise(address, seed) as crowd:
        while time.monotonic() < deadline and canary.error is None:
            for _ in range(50):
                crowd.step()
            broker.assert_healthy()
    assert canary.error is None, f"seed {seed}: the canary was hurt: {canary.error!r}"
    assert canary.round_trips > seconds, f"seed {seed}: only {canary.round_trips} round trips"
    assert canary.slowest_s < ROUND_TRIP_MAX_S, f"seed {seed}: a round trip took {canary.slowest_s:.2f} s"
    growth = resident_bytes(broker.pid) - before
    assert growth < GROWTH_MAX, f"seed {seed}: the broker grew by {growth} bytes"
    return crowd.sent
