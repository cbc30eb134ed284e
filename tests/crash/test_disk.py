"""A disk that is full or fails: clients are refused or wait, the broker lives, and goes on when the disk does."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from fastmq.testing.crash import End, Proof
from tests.crash.conftest import Disk
from tests.wireclient import Client

pytestmark = pytest.mark.timeout(90)

STALLED_S = 0.5


def run_until_refused(proof: Proof) -> None:
    """Load until the broker refuses messages, or acknowledges none any more."""
    counts, deadline = proof.books.counts, time.monotonic() + 40
    while time.monotonic() < deadline:
        acknowledged = counts["acknowledged"]
        if proof.load.run(lambda: counts["refused"] > 0, STALLED_S) or counts["acknowledged"] == acknowledged:
            return
    raise AssertionError("the broker takes everything")


def assert_alive(proof: Proof) -> None:
    """What needs no disk works."""
    client = Client(proof.child.address)
    try:
        assert client.connect().code == 0
        client.subscribe("plain")
        client.publish("plain", b"x")
        assert client.arrived()[0].payload == b"x"
    finally:
        client.close()


def assert_goes_on(proof: Proof) -> None:
    """New messages are acknowledged again, and nothing is missing."""
    wanted = proof.books.counts["acknowledged"] + 500
    assert proof.load.run(lambda: proof.books.counts["acknowledged"] >= wanted, 20), "it does not recover"
    proof.drain()
    verdict = proof.verdict()
    assert verdict.is_clean, "\n".join([str(verdict.violations), *verdict.details])


def restart(proof: Proof) -> None:
    proof.end(End.KILL)
    proof.child.spawn()
    proof.child.await_listening()


Start = Callable[..., Proof]


def test_a_full_disk_refuses_and_goes_on_when_there_is_room(small_disk: Disk, start_proof: Start) -> None:
    proof = start_proof()
    run_until_refused(proof)
    assert_alive(proof)
    proof.load.run(lambda: False, 1.0)
    small_disk.grow()
    assert_goes_on(proof)
    restart(proof)
    assert_goes_on(proof)


def test_a_broker_that_is_killed_on_a_full_disk_loses_nothing(small_disk: Disk, start_proof: Start) -> None:
    proof = start_proof()
    run_until_refused(proof)
    proof.end(End.KILL)
    small_disk.grow()
    proof.child.spawn()
    proof.child.await_listening()
    assert_goes_on(proof)


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_disk_that_fails_for_a_while_loses_nothing(start_proof: Start, error: str) -> None:
    proof = start_proof(has_faults=True)
    assert proof.machine is not None
    for _ in range(3):
        proof.load.run(lambda: False, 0.3)
        proof.machine.fail_writes("EIO" if error == "EIO" else "ENOSPC")
        run_until_refused(proof)
        assert_alive(proof)
        proof.machine.fail_writes("")
        assert_goes_on(proof)


@pytest.mark.parametrize("end", [End.KILL, End.POWER_LOSS])
def test_a_broker_that_is_ended_while_its_disk_fails_loses_nothing(start_proof: Start, end: End) -> None:
    proof = start_proof(has_faults=True, ends=(end,))
    assert proof.machine is not None
    for _ in range(3):
        proof.load.run(lambda: False, 0.3)
        proof.machine.fail_writes("EIO")
        proof.load.run(lambda: False, 0.2)
        proof.end(end)
        proof.machine.fail_writes("")
        proof.child.spawn()
        proof.child.await_listening()
        assert_goes_on(proof)
