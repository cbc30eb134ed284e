"""`fastmq verify-crash`: a verdict of one page, an object, and exit codes that can be relied on."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import fastmq
from fastmq.cli import main
from fastmq.cli import verify_crash as cli
from fastmq.testing.crash import VIOLATIONS, Plan, Verdict

pytestmark = pytest.mark.timeout(90)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["verify-crash", *arguments])


def test_the_page_says_where_what_and_that_nothing_is_lost(tmp_path: Path) -> None:
    result = run("--rounds", "2", "--folder", str(tmp_path))
    assert result.exit_code == 0, result.output
    rows = {line[:20].strip(): line[20:] for line in result.stdout.splitlines()}
    assert rows["kernel"] == f"{platform.system()} {platform.release()}"
    assert rows["fastmq"] == fastmq.__version__
    assert " on " in rows["file system"]
    assert rows["lost"] == rows["QoS 2 twice"] == "0"
    assert "Nothing that was acknowledged is lost." in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_power_loss_and_json(tmp_path: Path) -> None:
    result = run("--rounds", "1", "--folder", str(tmp_path), "--power-loss", "--qos", "2", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["clean"], found["lost"], found["ended_by"]) == (True, 0, "power-loss")
    assert found["rounds"] == 1
    assert found["acknowledged"] > 0


def lossy(plan: Plan, on_round: object) -> Verdict:
    counts = dict.fromkeys(("rounds", "crashes", "published", "acknowledged", "refused", "delivered", "recovered"), 7)
    found = {**dict.fromkeys(VIOLATIONS, 0), "lost": 3}
    return Verdict(**counts, **found, duplicates=0, details=("lost: qos1 never got message 5",), seconds=1.0)


def test_a_loss_is_told_and_the_store_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastmq.testing.crash.prove", lossy)
    result = run("--folder", str(tmp_path))
    assert result.exit_code == cli.EXIT_LOST
    assert "FAILED" in result.stdout
    assert "lost: qos1 never got message 5" in result.stdout
    (left,) = tmp_path.iterdir()
    assert str(left) in result.stdout


def test_without_a_compiler_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    result = run("--power-loss", "--rounds", "1", "--folder", str(tmp_path))
    assert result.exit_code == cli.EXIT_CANNOT
    assert "no C compiler: no-such-compiler" in result.stderr


def test_its_help_says_what_it_does_not_prove() -> None:
    text = " ".join(run("--help").stdout.split())
    assert "kill -9 proves that a crash of the process loses nothing." in text
    assert "only a real power cut tests" in text
