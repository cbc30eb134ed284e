"""The wall clock is set wrong, and set right again: no session ends too early or too late."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from fastmq.testing.crash import End, Proof
from tests.wireclient import Client
from tests.wireclient import properties as p

pytestmark = pytest.mark.timeout(90)

YEARS_S = 10 * 365.25 * 86_400

Start = Callable[..., Proof]


def is_present(proof: Proof, client_id: str, expiry_s: int) -> bool:
    """Connects with that session and leaves again; whether the session was there."""
    client = Client(proof.child.address)
    connack = client.connect(client_id, clean=False, props=[(p.SESSION_EXPIRY, expiry_s)])
    assert connack.code == 0
    client.disconnect()
    return connack.session_present


def step(proof: Proof, seconds: float) -> None:
    assert proof.machine is not None
    proof.machine.step_clock(seconds)


def check(proof: Proof) -> None:
    proof.load.run(lambda: False, 0.3)
    proof.drain()
    verdict = proof.verdict()
    assert verdict.is_clean, "\n".join([str(verdict.violations), *verdict.details])


@pytest.mark.parametrize("seconds", [YEARS_S, -YEARS_S])
def test_sessions_outlive_a_clock_that_jumps_while_the_broker_runs(start_proof: Start, seconds: float) -> None:
    proof = start_proof(has_faults=True)
    assert not is_present(proof, "day", 86_400)
    check(proof)
    step(proof, seconds)
    check(proof)
    assert is_present(proof, "day", 86_400)
    step(proof, 0)
    check(proof)
    assert is_present(proof, "day", 86_400)


@pytest.mark.parametrize("seconds", [YEARS_S, -YEARS_S])
def test_sessions_outlive_a_clock_that_jumps_between_two_runs(start_proof: Start, seconds: float) -> None:
    proof = start_proof(has_faults=True)
    assert not is_present(proof, "day", 86_400)
    for offset in (seconds, 0, seconds):
        proof.load.run(lambda: False, 0.2)
        proof.end(End.KILL)
        step(proof, offset)
        proof.child.spawn()
        proof.child.await_listening()
        check(proof)
        assert is_present(proof, "day", 86_400)


def test_sessions_outlive_a_clock_that_is_behind_after_a_power_cut(start_proof: Start) -> None:
    """A board without a battery begins in 1970 or at its last shutdown; a downtime is never negative."""
    proof = start_proof(ends=(End.POWER_LOSS,))
    assert not is_present(proof, "day", 86_400)
    for _ in range(2):
        proof.load.run(lambda: False, 0.2)
        proof.end(End.POWER_LOSS)
        step(proof, -YEARS_S)
        proof.child.spawn()
        proof.child.await_listening()
        check(proof)
        assert is_present(proof, "day", 86_400)


@pytest.mark.parametrize("seconds", [YEARS_S, -YEARS_S])
def test_short_sessions_end_in_time_all_the_same(start_proof: Start, seconds: float) -> None:
    proof = start_proof(has_faults=True)
    assert not is_present(proof, "short", 2)
    assert is_present(proof, "short", 2)
    step(proof, seconds)
    time.sleep(3.2)  # the session's own time: nothing announces its end
    assert not is_present(proof, "short", 2)
    proof.load.run(lambda: False, 0.3)  # nobody is told when its DISCONNECT is stored; its time runs from a start else
    proof.end(End.KILL)
    step(proof, 0)
    time.sleep(3.2)
    proof.child.spawn()
    proof.child.await_listening()
    assert not is_present(proof, "short", 2)
