"""A whole broker over TCP while clients do their worst: killed in mid-packet, in floods, without descriptors left."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.brokerproc import BrokerProcess, running_broker, start_fastmq
from tests.fuzz.broker import Canary
from tests.wireclient import encode
from tests.wireclient.client import Client

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


@contextlib.contextmanager
def few_descriptors(count: int) -> Iterator[BrokerProcess]:
    """A broker that may open so many files; the limit is inherited, ours is put back."""
    ours = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, ours[1]))
    try:
        broker = start_fastmq({"log.connections": False})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, ours)
    try:
        yield broker
        broker.stop()
    finally:
        broker.kill()


def test_without_descriptors_the_broker_waits_does_not_spin_and_serves_again() -> None:
    with few_descriptors(64) as broker, contextlib.ExitStack() as stack:
        address = (broker.host, broker.port)
        first = stack.enter_context(contextlib.closing(Client(address)))
        first.connect(client_id="first")
        crowd = [stack.enter_context(socket.create_connection(address)) for _ in range(100)]
        first.ping()
        before = cpu_s(broker.pid)
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            first.ping()
            threading.Event().wait(0.1)
        assert cpu_s(broker.pid) - before < 0.5, "it spins on the listener"
        for connection in crowd:
            connection.close()
        late = stack.enter_context(contextlib.closing(Client(address)))
        late.connect(client_id="late")
        late.ping()


KILLED = """
import os, socket, sys
from tests.wireclient import encode
from tests.wireclient.encode import Will
link = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
link.sendall(encode.connect(5, client_id=sys.argv[2], will=Will("wills", sys.argv[2].encode(), 1)))
link.recv(100)
link.sendall(encode.publish(5, "t", bytes(500_000), qos=1, packet_id=1)[: int(sys.argv[3])])
print("ready", flush=True)
os.read(0, 1)
"""


def test_clients_killed_in_mid_packet_leave_their_wills_and_nothing_else() -> None:
    with running_broker() as broker, contextlib.closing(Client((broker.host, broker.port))) as watcher:
        watcher.connect(client_id="watcher")
        watcher.subscribe(("wills", 1), ("t", 1))
        victims = [
            subprocess.Popen(
                [sys.executable, "-c", KILLED, str(broker.port), f"v{size}", str(size)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for size in (1, 3, 70_000, 300_000)
        ]
        for victim in victims:
            assert victim.stdout is not None
            assert victim.stdout.readline() == b"ready\n"
        for victim in victims:
            victim.send_signal(signal.SIGKILL)
            victim.communicate()
        assert sorted(watcher.receive_payloads(4)) == [b"v1", b"v3", b"v300000", b"v70000"]
        watcher.expect_silence()


def test_a_flood_of_connections_is_served_and_forgotten() -> None:
    with running_broker({"log.connections": False}) as broker, Canary((broker.host, broker.port)) as canary:
        connect = encode.connect(4, client_id="")
        for _ in range(20):
            crowd = [socket.create_connection((broker.host, broker.port)) for _ in range(100)]
            for at, connection in enumerate(crowd):
                connection.sendall((connect, b"", connect[:5], b"\x00\x00", b"GET / HTTP/1.1\r\n")[at % 5])
            for connection in crowd:
                connection.close()
        flood = 0
        while flood < 2000 or (canary.round_trips <= 20 and canary.error is None):
            with socket.create_connection((broker.host, broker.port)) as connection:
                connection.sendall(connect)
            flood += 1
    assert canary.error is None, canary.error
    assert canary.round_trips > 10
    assert canary.slowest_s < 1.0


def flood(address: tuple[str, int], qos: int, stop: threading.Event, sent: list[int]) -> None:
    """Publishes as fast as the broker reads; with QoS 1 it reads its acknowledgements."""
    with contextlib.closing(Client(address)) as client:
        client.connect(client_id=f"flood{qos}")
        packets = b"".join(
            encode.publish(5, f"flood/{qos}", b"x" * 100, qos=qos, packet_id=i if qos else None) for i in range(1, 501)
        )
        while not stop.is_set():
            client.send(packets)
            sent[qos] += 500
            client.ping()
            while client.waiting():
                client.recv()


def test_a_paced_pair_stays_quick_beside_floods_and_qos_1_loses_nothing() -> None:
    with running_broker({"queue.messages_max": 10_000}) as broker, contextlib.ExitStack() as stack:
        address = (broker.host, broker.port)
        hearing = stack.enter_context(contextlib.closing(Client(address)))
        hearing.connect(client_id="hearing")
        hearing.subscribe(("flood/0", 0), ("flood/1", 1))
        stop = threading.Event()
        sent = [0, 0]
        floods = [threading.Thread(target=flood, args=(address, qos, stop, sent)) for qos in (0, 1)]
        canary = stack.enter_context(Canary(address))
        for thread in floods:
            thread.start()
        deadline = time.monotonic() + 3
        received = [0, 0]
        while time.monotonic() < deadline or received[1] < sent[1]:
            message = hearing.receive()
            received[message.qos] += 1
            if time.monotonic() > deadline:
                stop.set()
                assert time.monotonic() < deadline + 10, f"{received} of {sent}"
        for thread in floods:
            thread.join(10)
        while received[1] < sent[1]:
            received[hearing.receive().qos] += 1
        assert received[1] == sent[1] > 1000
    assert canary.error is None, canary.error
    assert canary.round_trips > 20
    assert canary.slowest_s < 0.8
