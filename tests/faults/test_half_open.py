"""Connections that are opened and not gone on with: SYNs, silence, a byte now and then, resets. At every door."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import brokerdoors
from tests.brokerproc import BrokerProcess, await_condition, ended_cleanly, start_fastmq
from tests.fuzz.broker import Canary, resident_bytes
from tests.wireclient import Client, encode

TIMEOUT_S = 2.0
PER_CONNECTION_MAX = 128 << 10
"""Bytes: OpenSSL's state and the loop's buffers, before it is known who comes, and a sanitizer's red zones."""
DOORS = pytest.mark.parametrize("door", ["tcp", "tls", "ws", "wss"])
NAMESPACE = ["unshare", "--user", "--map-root-user", "--net"]


@contextlib.contextmanager
def broker_at(door: str, folder: Path, **settings: object) -> Iterator[BrokerProcess]:
    given = {"mqtt.connect_timeout_s": TIMEOUT_S, "log.connections": False, **settings}
    listen = brokerdoors.listener(door, folder)
    with ended_cleanly(start_fastmq(given, listen=listen)) as broker:  # type: ignore[arg-type]
        brokerdoors.know(door, (broker.host, broker.port), folder)
        yield broker


def descriptors(broker: BrokerProcess) -> int:
    return len(list(Path(f"/proc/{broker.pid}/fd").iterdir()))


def beginnings(door: str) -> bytes:
    """What a client of this door sends first; never all of it is sent."""
    if door in ("tls", "wss"):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        hello = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
        with contextlib.suppress(ssl.SSLWantReadError):
            hello.do_handshake()
        return outgoing.read()
    if door == "ws":
        return b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nX-Slow: " + b"x" * 400
    return encode.connect(5, client_id="x" * 400)


@DOORS
def test_a_crowd_that_says_nothing_or_next_to_nothing_hurts_nobody(door: str, tmp_path: Path) -> None:
    with broker_at(door, tmp_path) as broker, contextlib.ExitStack() as stack:
        address = (broker.host, broker.port)
        before, memory = descriptors(broker), resident_bytes(broker.pid)
        canary = stack.enter_context(Canary(address))
        begin = beginnings(door)
        crowd = [stack.enter_context(socket.create_connection(address)) for _ in range(1500)]
        start = time.monotonic()
        for byte in range(6):  # the half of them drip
            for connection in crowd[::2]:
                with contextlib.suppress(OSError):
                    connection.send(begin[byte : byte + 1])
            newcomer = Client(address)
            assert newcomer.connect(f"n{byte}").code == 0
            newcomer.close()
            time.sleep(0.1)
        assert time.monotonic() - start < 15
        await_condition(lambda: descriptors(broker) <= before + 2, 4 * TIMEOUT_S + 5, "they are still there")
        assert resident_bytes(broker.pid) - memory < 1500 * PER_CONNECTION_MAX
    assert canary.error is None, canary.error
    assert canary.round_trips > 20
    assert canary.slowest_s < 1.0


@DOORS
def test_connections_that_are_reset_in_every_state(door: str, tmp_path: Path) -> None:
    with broker_at(door, tmp_path) as broker, contextlib.ExitStack() as stack:
        address = (broker.host, broker.port)
        before = descriptors(broker)
        canary = stack.enter_context(Canary(address))
        begin, r = beginnings(door), random.Random(7)
        for _ in range(2000):
            with socket.create_connection(address) as connection:
                with contextlib.suppress(OSError):
                    connection.send(begin[: r.randrange(len(begin) + 1)])
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await_condition(lambda: descriptors(broker) <= before + 2, 4 * TIMEOUT_S + 5, "they are still there")
    assert canary.error is None, canary.error
    assert canary.slowest_s < 1.0


@pytest.mark.parametrize("door", ["tls", "wss"])
def test_more_handshakes_than_may_go_on_at_a_time_wait_and_succeed(door: str, tmp_path: Path) -> None:
    settings = {"limits.tls_handshakes_max": 2, "mqtt.connect_timeout_s": 30.0}
    with broker_at(door, tmp_path, **settings) as broker:
        address, codes = (broker.host, broker.port), []

        def join(number: int) -> None:
            with contextlib.closing(Client(address)) as client:
                codes.append(client.connect(f"c{number}").code)

        idle = [socket.create_connection(address) for _ in range(3)]
        for connection in idle:
            connection.send(beginnings(door)[:20])  # hold both slots, for a second
        threads = [threading.Thread(target=join, args=(number,)) for number in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        for connection in idle:
            connection.close()
        assert codes == [0] * 30


def test_half_open_connections_keep_nobody_out() -> None:
    if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("the kernel allows no network namespaces here")
    done = subprocess.run(
        [*NAMESPACE, sys.executable, "-m", "tests.faults.syn_flood"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["sent"] > 10_000, found
    assert found["half_open"] > 100, found
    assert found["clients"] > 20, found
    assert found["slowest_connect_s"] < 1.5, found
    assert found["slowest_ping_s"] < 1.0, found
