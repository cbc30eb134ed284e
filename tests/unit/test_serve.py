"""`fastmq serve` as a process: how it starts, what it says, and how it ends."""

import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@contextmanager
def serving(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "fastmq", "serve", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def address(process: subprocess.Popen[str]) -> tuple[str, int]:
    """Where it says that it listens, in its next line."""
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.search(r"listening on tcp://(?:\[(.*)\]|(.*)):(\d+)$", line)
    assert found, line
    return found[1] or found[2], int(found[3])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_listens_and_stops_with_code_0(number: signal.Signals) -> None:
    with serving("--listen", "tcp://127.0.0.1:0", "--listen", "tcp://[::1]:0") as process:
        for host in ("127.0.0.1", "::1"):
            said, port = address(process)
            assert said == host
            socket.create_connection((host, port)).close()
        process.send_signal(number)
        assert process.wait(5) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def spent_s() -> float:
    """Processor time of all processes that have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def test_it_starts_in_half_a_second() -> None:
    """At best, and of the processor's time: it measures the program and not the machine's other work."""
    seconds = []
    for _ in range(20):
        before = spent_s()
        with serving("--listen", "tcp://127.0.0.1:0") as process:
            address(process)
        seconds.append(spent_s() - before)
        if min(seconds) < 0.5:
            return
    pytest.fail(f"it took {min(seconds):.2f} s at best")


def test_a_port_in_use_ends_it_with_code_1_and_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with serving("--listen", url) as process:
            assert process.wait(5) == 1
            assert process.stderr is not None
            said = process.stderr.read()
    assert "cannot start" in said
    assert url in said
    assert "Traceback" not in said


def test_without_settings_it_says_how_to_open_it_to_the_network() -> None:
    # Whether port 1883 is free on this machine does not matter: the line comes first.
    with serving() as process:
        assert process.stderr is not None
        assert "reachable from this machine only" in process.stderr.readline()
