"""Run `fastmq pub` and `fastmq sub` as their users do, and mosquitto's programs beside them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.brokerproc import BrokerProcess, OutputTail

TIMEOUT_S: Final = 15.0
ROOT: Final = Path(__file__).parent.parent.parent
FASTMQ: Final = [sys.executable, "-m", "fastmq"]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "TZ": "UTC-3", "LC_ALL": "C.UTF-8"}


def run(
    words: list[str], broker: BrokerProcess, *args: str | int, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*words, "-h", broker.host, "-p", str(broker.port), *map(str, args)],
        input=stdin,
        capture_output=True,
        env=environment(),
        timeout=TIMEOUT_S,
    )


def pub(broker: BrokerProcess, *args: str | int, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return run([*FASTMQ, "pub"], broker, *args, stdin=stdin)


def sub(broker: BrokerProcess, *args: str | int) -> subprocess.CompletedProcess[bytes]:
    return run([*FASTMQ, "sub"], broker, *args)


def mosquitto_pub(broker: BrokerProcess, *args: str | int, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return run(["mosquitto_pub"], broker, *args, stdin=stdin)


def mosquitto_sub(broker: BrokerProcess, *args: str | int) -> subprocess.CompletedProcess[bytes]:
    return run(["mosquitto_sub"], broker, *args)


def printed(done: subprocess.CompletedProcess[bytes]) -> bytes:
    """The standard output of a program that ended well."""
    assert done.returncode == 0, (done.args, done.returncode, done.stdout, done.stderr)
    assert b"Traceback" not in done.stderr, done.stderr
    return done.stdout


class RunningSub:
    """A `fastmq sub` that has its SUBACK."""

    def __init__(self, broker: BrokerProcess, *args: str | int) -> None:
        words = [*FASTMQ, "sub", "-h", broker.host, "-p", str(broker.port), "-d", *map(str, args)]
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.out, self.err = OutputTail(self.process.stdout), OutputTail(self.process.stderr)
        if self.err.await_match(r"^Subscribed \(mid: ", TIMEOUT_S) is None:
            self.process.kill()
            raise AssertionError(f"no SUBACK: {self.err.text()}")

    def __enter__(self) -> RunningSub:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def lines(self, count: int) -> list[str]:
        lines = self.out.await_lines(lambda now: len(now) >= count, TIMEOUT_S)
        assert len(lines) >= count, f"{len(lines)} of {count} lines: {lines} {self.err.text()}"
        return lines

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT_S)
