"""A worker that stands still: the others go on, and what it is to get waits for it."""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.brokerproc import BrokerProcess
from tests.cluster.brokers import at, named, processes, workers
from tests.cluster.flows import gather, pump
from tests.wireclient import Ack, Client, ConnectionEnded, encode
from tests.wireclient import properties as p

LASTS = [(p.SESSION_EXPIRY, 300)]
STILL, WELL = 1, 0
KEPT = pytest.mark.parametrize("kept", [False, True], ids=["memory", "store"])


@contextmanager
def pair(folder: Path, kept: bool = False) -> Iterator[BrokerProcess]:
    settings: dict[str, str | int] = {"workers.watchdog_s": 0}
    if kept:
        settings["store.path"] = str(folder / "fastmq.db")
    with workers(2, settings) as broker:
        yield broker


@contextmanager
def stopped(broker: BrokerProcess) -> Iterator[None]:
    pid = processes(broker)[STILL]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # a test killed it
            os.kill(pid, signal.SIGCONT)


def patient(broker: BrokerProcess, stack: ExitStack, name: str, tries: int = 30) -> Client:
    """A client that tries another connection when one is not answered: it may have come to the worker that is still."""
    for _ in range(tries):
        client = Client((broker.host, broker.port))
        stack.callback(client.close)
        client.send(encode.connect(5, client_id=name))
        try:
            client.recv(0.4)
        except TimeoutError:
            client.close()
            continue
        return client
    raise AssertionError(f"{name} cannot connect")


@KEPT
def test_clients_of_another_worker_go_on(tmp_path: Path, kept: bool) -> None:
    with pair(tmp_path, kept) as broker, ExitStack() as stack:
        far = at(broker, stack, STILL, "far")
        far.subscribe(("other/#", 2))
        publisher, subscriber = at(broker, stack, WELL, "p"), at(broker, stack, WELL, "s")
        with stopped(broker):
            took = []
            for number in range(24):
                began = time.monotonic()
                if number % 4 == 0:
                    subscriber.subscribe((f"t/{number}", 2))
                    subscriber.subscribe(("t/#", 2))
                assert publisher.publish(f"t/{number % 4}", b"%d" % number, qos=number % 3) == 0
                assert subscriber.receive(10).payload == b"%d" % number
                took.append(time.monotonic() - began)
            assert statistics.median(took) < 1, took
            assert max(took) < 5, took
            for number in range(4):
                client = patient(broker, stack, named(WELL, f"new{number}"))
                client.subscribe("x")
                client.ping()
        assert far.connack is not None
        far.ping()


@KEPT
@pytest.mark.parametrize("qos", [1, 2])
def test_what_it_is_to_get_is_acknowledged_when_it_goes_on(tmp_path: Path, kept: bool, qos: int) -> None:
    with pair(tmp_path, kept) as broker, ExitStack() as stack:
        far = at(broker, stack, STILL, "far", clean=False, props=LASTS)
        far.subscribe(("t/#", 2))
        near = at(broker, stack, WELL, "near")
        near.subscribe(("t/#", 2))
        publisher, other = at(broker, stack, WELL, "p"), at(broker, stack, WELL, "other")
        payloads = [b"%d" % number for number in range(100)]
        with stopped(broker):
            for number, payload in enumerate(payloads):
                publisher.send(encode.publish(5, "t/x", payload, qos=qos, packet_id=number + 1))
            assert [m.payload for m in gather([near], 100)[0]] == payloads  # near ones need not wait
            publisher.expect_silence()
            assert other.publish("u", b"", qos=1) == 0x10  # what it does not want, it is not asked about
            for _ in range(3):
                time.sleep(0.2)
                publisher.expect_silence()
        acks = [publisher.expect(Ack, 10) for _ in payloads]
        kind = "PUBACK" if qos == 1 else "PUBREC"
        assert [(each.kind, each.packet_id, each.code) for each in acks] == [(kind, n + 1, 0) for n in range(100)]
        assert [m.payload for m in gather([far], 100)[0]] == payloads


def test_retained_messages_wait_for_it(tmp_path: Path) -> None:
    with pair(tmp_path) as broker, ExitStack() as stack:
        publisher = at(broker, stack, WELL, "p")
        topics = [f"r/{number}" for number in range(8)]
        with stopped(broker):
            for number, topic in enumerate(topics):
                publisher.send(encode.publish(5, topic, b"x", qos=1, retain=True, packet_id=number + 1))
            publisher.expect_silence()
        assert [publisher.expect_ack("PUBACK", n + 1, 0x10).packet_id for n in range(8)]
        for index in (0, 1):
            late = at(broker, stack, index, "late")
            late.subscribe(("r/#", 1))
            assert sorted(m.topic for m in late.arrived()) == topics


def test_a_client_of_it_waits_and_is_heard(tmp_path: Path) -> None:
    """Given to it, or in its queue; whoever gave up before has no session that hinders."""
    with pair(tmp_path, kept=True) as broker, ExitStack() as stack:
        waiting = []
        with stopped(broker):
            for number in range(10):
                client = Client((broker.host, broker.port))
                stack.callback(client.close)
                name = named(STILL, f"w{number}")
                client.send(encode.connect(5, client_id=name), encode.publish(5, "t", b"early", qos=1, packet_id=1))
                waiting.append(client)
            for number in range(5):
                given_up = Client((broker.host, broker.port))
                given_up.send(encode.connect(5, client_id=named(STILL, f"g{number}")))
                given_up.close()
            time.sleep(0.3)
        for client in waiting:
            assert client.recv(10).code == 0  # type: ignore[union-attr]
            client.expect_ack("PUBACK", 1, 0x10)
        for number in range(5):
            at(broker, stack, STILL, f"g{number}").ping()


def test_groups_do_not_wait_for_it(tmp_path: Path) -> None:
    with pair(tmp_path) as broker, ExitStack() as stack:
        for group in "abcd":
            far, near = at(broker, stack, STILL, f"{group}far"), at(broker, stack, WELL, f"{group}near")
            publisher = at(broker, stack, WELL, f"{group}p")
            for member in (far, near):
                member.subscribe((f"$share/{group}/{group}/#", 1))
            payloads = [b"%d" % number for number in range(60)]
            with stopped(broker):
                for number, payload in enumerate(payloads):
                    publisher.send(encode.publish(5, f"{group}/x", payload, qos=1, packet_id=number + 1))
                time.sleep(0.2)
            acks = [publisher.expect(Ack, 10) for _ in payloads]
            assert [(each.packet_id, each.code) for each in acks] == [(n + 1, 0) for n in range(60)]
            got = gather([far, near], 60)
            assert sorted(int(m.payload) for each in got for m in each) == list(range(60))


def test_what_is_kept_for_it_is_bound(tmp_path: Path) -> None:
    """Whoever publishes more than that hears that it was not taken, and nothing that was taken is lost."""
    settings = {"workers.watchdog_s": 0, "workers.backlog_max_bytes": 1 << 20}
    with workers(2, settings) as broker, ExitStack() as stack:
        far, publisher = at(broker, stack, STILL, "far"), at(broker, stack, WELL, "p")
        far.subscribe(("t", 1))
        sent = {number: b"%d " % number + bytes(50_000) for number in range(1, 60)}
        codes: dict[int, int] = {}
        with stopped(broker):
            for number, payload in sent.items():
                publisher.send(encode.publish(5, "t", payload, qos=1, packet_id=number))
            publisher.ping()
        while len(codes) < len(sent):
            ack = publisher.expect(Ack, 10)
            codes[ack.packet_id] = ack.code
        taken = [number for number, code in codes.items() if code == 0]
        assert 15 < len(taken) < 40
        assert {code for code in codes.values() if code} == {0x97}
        assert [int(m.payload.split()[0]) for m in gather([far], len(taken))[0]] == taken
        assert set(pump(publisher, "t", [b"x"], 1)) == {0}


def test_it_may_be_killed_while_it_stands_still(tmp_path: Path) -> None:
    with pair(tmp_path, kept=True) as broker, ExitStack() as stack:
        far = at(broker, stack, STILL, "far", clean=False, props=LASTS)
        far.subscribe(("t", 1))
        publisher = at(broker, stack, WELL, "p")
        payloads = [b"%d" % number for number in range(50)]
        with stopped(broker):
            for number, payload in enumerate(payloads):
                publisher.send(encode.publish(5, "t", payload, qos=1, packet_id=number + 1))
            publisher.expect_silence()
            os.kill(processes(broker)[STILL], signal.SIGKILL)
            with suppress(ConnectionEnded):
                far.recv(10)
        assert [publisher.expect(Ack, 15).code for _ in payloads] == [0] * 50
        back = at(broker, stack, STILL, "far", clean=False, props=LASTS)
        assert [m.payload for m in gather([back], 50)[0]] == payloads
