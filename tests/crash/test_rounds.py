"""The proof itself: however the broker ends under load, nothing that it acknowledged is lost."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from fastmq.testing.crash import End, Plan, Verdict, prove
from tests.crash.budget import KILLS, POWER_CUTS, STOPS, timeout_s


def assert_clean(verdict: Verdict, rounds: int) -> None:
    assert verdict.is_clean, "\n".join([str(verdict.violations), *verdict.details])
    assert verdict.refused == 0
    assert verdict.acknowledged > 100 * rounds
    assert verdict.recovered > 100 * rounds, "the crashes did not hit anything"


@pytest.mark.parametrize(
    ("ends", "rounds"),
    [
        pytest.param([End.KILL], KILLS, id="kill -9", marks=pytest.mark.timeout(timeout_s(KILLS))),
        pytest.param([End.TERMINATE], STOPS, id="SIGTERM", marks=pytest.mark.timeout(timeout_s(STOPS))),
        pytest.param([End.POWER_LOSS], POWER_CUTS, id="power loss", marks=pytest.mark.timeout(timeout_s(POWER_CUTS))),
        pytest.param(list(End), STOPS, id="all in turn", marks=pytest.mark.timeout(timeout_s(STOPS))),
    ],
)
def test_nothing_acknowledged_is_lost(tmp_path: Path, ends: Sequence[End], rounds: int) -> None:
    plan = Plan(folder=tmp_path, rounds=rounds, ends=ends, seed=random.getrandbits(32))
    assert_clean(prove(plan), rounds)


@pytest.mark.timeout(timeout_s(STOPS))
def test_without_fsync_a_killed_process_still_loses_nothing(tmp_path: Path) -> None:
    plan = Plan(folder=tmp_path, rounds=STOPS, settings={"store.durability": "os"}, seed=random.getrandbits(32))
    assert_clean(prove(plan), STOPS)
