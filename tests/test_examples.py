"""The examples run, end by themselves, and say what they are there to show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
LINES_MAX = 60

SAYS = {
    "embed.py": ["highest: 21.5"],
    "forward.py": ["berlin/sensors/roof -3.5 celsius"],
    "last_will.py": ["online", "after 29 s: nothing", "after 31 s: offline"],
    "metrics.py": ["fastmq_connections 1", "fastmq_connects 1", 'fastmq_client_queued{client="c"} 0'],
    "passwords.py": [
        "ada, right: welcome",
        "ada, wrong: BAD_USER_NAME_OR_PASSWORD",
        "eve: BAD_USER_NAME_OR_PASSWORD",
        "nobody: NOT_AUTHORIZED",
    ],
    "request_response.py": ["squares: 0 1 4 9 16"],
    "resume_session.py": [
        "waiting: 5",
        "session present: True",
        "received: order 0, order 1, order 2, order 3, order 4",
    ],
    "retained_state.py": [
        "now: {'desk': 'on', 'hall': 'off', 'kitchen': 'off'}",
        "later: {'hall': 'off', 'kitchen': 'off'}",
    ],
    "shared_workers.py": ["30 jobs, 3 workers"],
}


def run(*arguments: str, cwd: Path = ROOT, **environment: str) -> str:
    """Runs Python with warnings as errors, finding this checkout; returns its output when it ended well."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=18,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("name", SAYS)
def test_an_example_says_what_it_shows(name: str, tmp_path: Path) -> None:
    said = run(str(EXAMPLES / name), cwd=tmp_path).splitlines()
    assert [line for line in said if line in SAYS[name]] == SAYS[name], said


def test_the_example_of_a_test_passes() -> None:
    said = run(
        # paho leaves its pair of sockets to the collector, which may meet them before it meets paho's client.
        *("-W", "ignore:unclosed <socket:ResourceWarning"),
        *("-m", "pytest", "-q", "-p", "fastmq.testing.plugin", "-p", "no:cacheprovider", "-c", os.devnull),
        *("--rootdir", str(EXAMPLES), str(EXAMPLES / "test_thermostat.py")),
        PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
    )
    assert "2 passed" in said


def test_every_example_is_run_here_and_is_short() -> None:
    files = {path.name: path for path in EXAMPLES.glob("*.py")}
    assert files.keys() == {*SAYS, "test_thermostat.py"}
    assert [name for name, path in files.items() if len(path.read_text().splitlines()) >= LINES_MAX] == []
