"""`fastmq cluster status`: who is there, and how it is."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.brokerproc import HOST, await_condition
from tests.cluster.brokers import joined
from tests.cluster.nodes import Nodes, nodes

pytestmark = pytest.mark.timeout(120)
WORKERS = pytest.mark.parametrize("workers", [1, 2])
SECRET = {"cluster.secret": "of the test"}


def command(cluster: Nodes, *words: str, secret: str = "of the test", name: str = "test") -> list[str]:
    port = cluster.ports["alpha"]
    settings = ["-s", f"cluster.listen={HOST}:{port}", "-s", "cluster.multicast=", "-s", f"cluster.secret={secret}"]
    return [sys.executable, "-m", "fastmq", "cluster", "status", "--cluster", name, *settings, *words]


def run(cluster: Nodes, *words: str, **how: Any) -> tuple[int, list[dict[str, Any]]]:
    done = subprocess.run(command(cluster, "--json", *words, **how), capture_output=True, text=True, timeout=60)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@WORKERS
def test_it_lists_all_workers_of_all_nodes(tmp_path: Path, workers: int) -> None:
    with nodes(tmp_path, 3, workers=workers, settings=SECRET) as cluster, ExitStack() as stack:
        for number in range(4):
            joined(cluster["beta"], stack, f"c{number}")
        rows: list[dict[str, Any]] = []

        def is_all() -> bool:
            nonlocal rows
            code, rows = run(cluster)
            return code == 0 and len(rows) == 3 * workers

        await_condition(is_all, 60)
        assert [(row["node"], row["worker"]) for row in rows] == [
            (node, worker) for node in ("alpha", "beta", "gamma") for worker in range(workers)
        ]
        assert {row["state"] for row in rows} == {"up"}
        assert {node: sum(row["connections"] for row in rows if row["node"] == node) for node in cluster.running} == {
            "alpha": 0, "beta": 4, "gamma": 0,
        }  # fmt: skip
        assert all(len(row["sees"]) == 2 * workers for row in rows)
        assert all(row["workers"] == workers and row["version"] and row["uptime_s"] >= 0 for row in rows)


def test_who_stands_still_is_silent(tmp_path: Path) -> None:
    with nodes(tmp_path, 2, settings={**SECRET, "cluster.lease_s": 20.0}) as cluster:
        await_condition(lambda: run(cluster)[0] == 0, 60)
        os.kill(cluster["beta"].pid, signal.SIGSTOP)
        try:
            code, rows = run(cluster)
        finally:
            os.kill(cluster["beta"].pid, signal.SIGCONT)
        assert code == 1
        states = {row["node"]: row["state"] for row in rows}
        assert states == {"alpha": "up", "beta": "silent"}


def test_it_needs_the_secret_and_the_name(tmp_path: Path) -> None:
    with nodes(tmp_path, 1, settings=SECRET) as cluster:
        assert [row["node"] for row in run(cluster)[1]] == ["alpha"]
        assert run(cluster, "--wait", "1", secret="another")[1] == []
        assert run(cluster, "--wait", "1", name="another")[1] == []


def test_on_a_terminal_it_draws_a_table(tmp_path: Path) -> None:
    with nodes(tmp_path, 1, settings=SECRET) as cluster:
        ours, theirs = pty.openpty()
        environment = {**os.environ, "COLUMNS": "140", "TERM": "xterm"}
        with subprocess.Popen(command(cluster), stdout=theirs, env=environment) as process:
            os.close(theirs)
            seen = b""
            with suppress(OSError):  # how Linux says that the other end is closed
                while part := os.read(ours, 65_536):
                    seen += part
        os.close(ours)
        assert process.returncode == 0
        assert "alpha" in seen.decode()
        assert "sessions" in seen.decode()


def test_without_a_name_it_says_what_is_missing() -> None:
    done = subprocess.run([sys.executable, "-m", "fastmq", "cluster", "status"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "cluster.name is missing" in done.stderr
