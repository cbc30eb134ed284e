"""The proof as a whole: it fails for brokers that lose something, and for no other."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fastmq.testing.crash import End, Plan, Proof, Verdict, prove

pytestmark = pytest.mark.timeout(120)


def test_a_broker_that_is_not_ended_has_no_violation(tmp_path: Path) -> None:
    with Proof(Plan(folder=tmp_path)) as proof:
        for _ in range(4):
            proof.run_to_a_moment()
            proof.drain()
        verdict = proof.verdict()
    assert verdict.is_clean, verdict.details
    assert verdict.acknowledged == verdict.published > 1000
    assert verdict.delivered > 3 * verdict.published
    assert (verdict.crashes, verdict.recovered) == (0, 0)


@pytest.mark.parametrize(("durability", "end"), [("none", End.POWER_LOSS), ("os", End.POWER_LOSS)])
def test_a_fastmq_that_promises_less_is_caught(tmp_path: Path, durability: str, end: End) -> None:
    plan = Plan(
        folder=tmp_path, rounds=2, ends=(end,), settings={"store.durability": durability}, drain_every=1, quiet_s=1.0
    )
    verdict = prove(plan)
    assert verdict.lost > 0, verdict
    assert not verdict.is_clean


# -- a simple broker, right and with one mistake at a time ------------------------------------------------------------


def judged(folder: Path, end: End, mistake: str = "", *, rounds: int = 2, seed: int = 1) -> Verdict:
    command = (sys.executable, "-m", "tests.crash.reference_broker", "{port}", str(folder / "disk/journal"), mistake)
    plan = Plan(folder=folder, rounds=rounds, ends=(end,), drain_every=2, seed=seed, quiet_s=1.0, command=command)
    return prove(plan)


@pytest.mark.parametrize("end", list(End))
def test_a_broker_that_is_right_has_no_violation(tmp_path: Path, end: End) -> None:
    verdict = judged(tmp_path, end, rounds=6)
    assert verdict.is_clean, verdict.details
    assert verdict.crashes >= 6
    assert verdict.recovered > 500


@pytest.mark.parametrize(
    ("mistake", "end", "found"),
    [
        ("answers first", End.KILL, "lost"),
        ("does not sync", End.POWER_LOSS, "sessions_lost"),
        ("does not sync", End.POWER_LOSS, "lost"),
        ("forgets received", End.KILL, "repeated"),
        ("forgets unsubscribe", End.KILL, "ghosts"),
        ("forgets retained", End.KILL, "retained_wrong"),
        ("resends backwards", End.KILL, "reordered"),
        ("damages", End.KILL, "damaged"),
    ],
)
def test_every_mistake_is_found_for_what_it_is(tmp_path: Path, mistake: str, end: End, found: str) -> None:
    """A mistake shows when a crash hits the right moment: not necessarily the first one."""
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        if judged(folder, end, mistake, seed=attempt).violations[found]:
            return
    raise AssertionError("never found")


def test_a_broker_that_does_not_sync_still_survives_the_end_of_its_process(tmp_path: Path) -> None:
    verdict = judged(tmp_path, End.KILL, "does not sync")
    assert verdict.is_clean, verdict.details


def test_mosquitto_that_saves_now_and_then_is_caught(tmp_path: Path) -> None:
    """It writes its database every half an hour, and when it is told to stop."""
    lines = (
        "listener {port} 127.0.0.1",
        "allow_anonymous true",
        "user root",
        "max_queued_messages 0",
        "persistence true",
        f"persistence_location {tmp_path}/disk/",
    )
    config = tmp_path / "mosquitto.conf"
    text = "\\n".join(lines)
    command = ("sh", "-c", f"printf '{text}\\n' > {config}; exec /usr/sbin/mosquitto -c {config}")
    verdict = prove(Plan(folder=tmp_path, rounds=1, quiet_s=1.0, command=command))
    assert verdict.lost > 0
    assert verdict.violations["sessions_lost"] > 0
