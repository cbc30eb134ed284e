"""Clients over TLS and WebSocket whose sessions are at another worker than the one they came to: they are relayed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.brokerdoors import know, listener
from tests.brokerproc import HOST, BrokerProcess, await_condition
from tests.cluster.brokers import (
    at,
    code_of,
    door_of,
    is_gone,
    joined,
    named,
    open_files,
    processes,
    resident_bytes,
    workers,
)
from tests.cluster.flows import gather, meanwhile, pump
from tests.wireclient import Ack, Client, Connack, encode
from tests.wireclient import properties as p

ALL = ("tls", "ws", "wss")
LASTS = [(p.SESSION_EXPIRY, 300)]
MIB = 1 << 20
BANNED, BAD_CREDENTIALS = 0x8A, (0x86, 0x87)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of certificates."""
    return tmp_path_factory.mktemp("doors")


@pytest.fixture(scope="module")
def shared(folder: Path) -> Iterator[BrokerProcess]:
    """A broker with all these doors."""
    listen = [each for door in ALL for each in json.loads(listener(door, folder))]
    settings = {"mqtt.packet_max_bytes": 6 * MIB, "workers.watchdog_s": 0}
    with workers(2, settings, listen=json.dumps(listen)) as broker:
        yield broker


@pytest.fixture(params=ALL)
def broker(request: pytest.FixtureRequest, shared: BrokerProcess, folder: Path) -> BrokerProcess:
    """The broker, as its clients find it that come in by one of the doors."""
    found = copy(shared)
    found.port = int(shared.await_log(rf"listening on {request.param}://{re.escape(HOST)}:(\d+)")[1])
    know(request.param, (found.host, found.port), folder)
    return found


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def relayed(broker: BrokerProcess, stack: ExitStack, home: int, prefix: str, **options: Any) -> Client:
    """A client that came to another worker than that of its session."""
    for number in range(60):
        client = joined(broker, stack, named(home, f"{prefix}{number}"), **options)
        if door_of(broker, client) != home:
            return client
        client.drop()
    raise AssertionError("60 clients came to their homes")


def test_5_mib_go_both_ways_intact(broker: BrokerProcess, stack: ExitStack) -> None:
    payloads = [bytes([number]) + bytes(range(256)) * (5 * MIB // 256) for number in range(2)]
    small = [b"%d" % number * 50 for number in range(1000)]
    for home in (0, 1):
        subscriber, publisher = (relayed(broker, stack, home, f"5mib-{name}") for name in "sp")
        subscriber.subscribe((f"5mib/{home}", 2))
        for qos in (0, 1, 2):
            with meanwhile(partial(pump, publisher, f"5mib/{home}", payloads[: qos + 1], qos)):
                messages = gather([subscriber], min(qos + 1, 2))[0]
            assert [m.payload for m in messages] == payloads[: qos + 1]
        with meanwhile(partial(pump, publisher, f"5mib/{home}", small, 1)):
            assert [m.payload for m in gather([subscriber], 1000)[0]] == small


def test_what_follows_connect_at_once_is_not_lost(broker: BrokerProcess, stack: ExitStack) -> None:
    """Packets that were sent before CONNACK, more than is read at once."""
    watcher = at(broker, stack, 0, "watcher")
    watcher.subscribe(("t/#", 1))
    for number in range(6):
        client = Client((broker.host, broker.port))
        stack.callback(client.close)
        packets = [
            encode.publish(5, f"t/{number}", b"%d" % n + bytes(50_000), qos=1, packet_id=n) for n in range(1, 61)
        ]
        name = named(number % 2, f"e{number}")
        with meanwhile(partial(client.send, encode.connect(5, client_id=name), *packets)):
            messages = gather([watcher], 60)[0]
        assert [int(m.payload.rstrip(b"\0")) for m in messages] == list(range(1, 61))
        assert client.expect(Connack).code == 0
        assert [client.expect(Ack).packet_id for _ in range(60)] == list(range(1, 61))


def test_memory_is_bound_when_a_relayed_client_does_not_read(broker: BrokerProcess, stack: ExitStack) -> None:
    sleeper = relayed(broker, stack, 1, "sleeper")
    sleeper.subscribe(("t", 0))
    publisher = at(broker, stack, 0, "p")
    pids = processes(broker).values()
    before = {pid: resident_bytes(pid) for pid in pids}
    most = 0
    packet = encode.publish(5, "t", bytes(200_000))
    for number in range(250):
        publisher.send(packet)
        if number % 10 == 0:
            most = max(most, *(resident_bytes(pid) - before[pid] for pid in pids))
    publisher.ping()
    assert most < 40 * MIB
    sleeper.close()
    publisher.ping()


def send_all(client: Client, chunks: list[bytes]) -> None:
    """One after the other: a WebSocket frame is of one chunk."""
    for each in chunks:
        client.send(each)


def test_who_sends_and_does_not_read_is_held(broker: BrokerProcess, stack: ExitStack) -> None:
    """Its own answers fill up the way back; then it is not read from, over the relay either."""
    client = relayed(broker, stack, 1, "c")
    pids = processes(broker).values()
    before = {pid: resident_bytes(pid) for pid in pids}
    client._socket.settimeout(0.5)
    flood = encode.PINGREQ * 100_000
    with pytest.raises(TimeoutError):
        send_all(client, [flood] * 300)
    assert max(resident_bytes(pid) - before[pid] for pid in pids) < 40 * MIB
    at(broker, stack, 0, "other").ping()


def settled_counts(pids: list[int]) -> list[int]:
    """How many descriptors each has, when that has not changed for a while."""
    before: list[int] = []
    while (now := [len(open_files(pid)) for pid in pids]) != before:
        before = now
        time.sleep(0.5)
    return now


@pytest.mark.parametrize("way", ["disconnect", "drop", "close", "taken over"])
def test_ends_leave_nothing_open(broker: BrokerProcess, stack: ExitStack, way: str) -> None:
    for home in (0, 1):
        relayed(broker, stack, home, f"first{home}").disconnect()  # ways between workers are open now
    pids = list(processes(broker).values())
    counts = settled_counts(pids)
    for _ in range(2):
        clients = [relayed(broker, stack, home, f"c{home}{n}") for home in (0, 1) for n in range(3)]
        assert sum(len(open_files(pid)) for pid in pids) > sum(counts)
        for client in clients:
            client.ping()
            if way == "disconnect":
                client.disconnect()
            elif way == "drop":
                client.drop()
            elif way == "close":
                client.close()
            else:
                assert isinstance(client.client_id, str)
                newer = joined(broker, stack, client.client_id)
                client.expect_disconnect(0x8E)
                newer.disconnect()
        await_condition(lambda: [len(open_files(pid)) for pid in pids] == counts, 10)


@pytest.mark.parametrize("door", ["tls", "ws"])
def test_who_is_banned_or_unknown_stays_out(door: str, tmp_path: Path) -> None:
    def command(*arguments: str) -> None:
        store = ("--store", str(tmp_path / "fastmq.db"))
        subprocess.run([sys.executable, "-m", "fastmq", *arguments, *store], check=True, timeout=20)

    command("users", "add", "ada", "-P", "secret")
    settings = {
        "store.path": str(tmp_path / "fastmq.db"),
        "auth.allow_anonymous": False,
        "auth.chain": json.dumps([{"method": "builtin"}]),
    }
    known = {"username": "ada", "password": b"secret"}
    with workers(2, settings, listen=listener(door, tmp_path)) as broker, ExitStack() as stack:
        know(door, (broker.host, broker.port), tmp_path)
        here = [relayed(broker, stack, home, "c", **known) for home in (0, 1)]
        good = relayed(broker, stack, 1, "good", **known)
        names = [named(home, f"c{number}") for home in (0, 1) for number in range(6)]
        wrong = {"username": "ada", "password": b"wrong"}
        assert {code_of(broker, name, **wrong) for name in names} <= set(BAD_CREDENTIALS)
        assert {code_of(broker, name) for name in names} <= set(BAD_CREDENTIALS)
        command("bans", "add", "client_id_regex", "c[0-9].*")
        await_condition(lambda: all(map(is_gone, here)), 10)
        await_condition(lambda: {code_of(broker, name, **known) for name in names} == {BANNED}, 10)
        good.ping()
        command("bans", "delete", "client_id_regex", "c[0-9].*")
        await_condition(lambda: {code_of(broker, name, **known) for name in names} == {0}, 10)
        command("users", "delete", "ada")
        await_condition(lambda: {code_of(broker, name, **known) for name in names} <= set(BAD_CREDENTIALS), 10)


def test_a_relayed_session_goes_on(broker: BrokerProcess, stack: ExitStack) -> None:
    for home in (0, 1):
        name = named(home, "s")
        joined(broker, stack, name, clean=False, props=LASTS).subscribe(("t", 2))
        for turn in range(4):
            client = joined(broker, stack, name, clean=False, props=LASTS)
            assert client.connack is not None
            assert client.connack.session_present
            client.drop()
            publisher = at(broker, stack, 1 - home, f"p{turn}")
            sent = [b"%d" % number for number in range(20)]
            pump(publisher, "t", sent, 2)
            client = joined(broker, stack, name, clean=False, props=LASTS)
            assert [m.payload for m in gather([client], 20)[0]] == sent
        joined(broker, stack, name).drop()
