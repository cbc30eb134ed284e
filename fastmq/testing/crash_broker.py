"""The broker of a crash proof: a child process that is killed, and started again on the same store and port."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

__all__ = ["HOST", "Child", "DidNotStart"]

HOST: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 30.0
POLL_S: Final = 0.002
READY: Final = re.compile(r"listening on|mosquitto version \S+ running")

FATAL_MARKS: Final = (
    "Traceback (most recent call last)",
    "Exception ignored in",
    "exception was never retrieved",
    "was never awaited",
    "Fatal Python error",
)
"""What must never be in a broker's log."""


class DidNotStart(RuntimeError):
    """The broker ended, or did not listen in time; with the end of its log."""


def unused_port() -> int:
    """Outside of the range from which connections get theirs: nobody takes it while the broker is down."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port


class Child:
    """One broker process after the other. `settings` are dotted keys; the log of all of them is one file."""

    def __init__(
        self,
        log: Path,
        settings: Mapping[str, str],
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = (),
    ) -> None:
        self.port = unused_port()
        self._log = log
        self._command = [each.format(port=self.port) for each in command] or [
            *(sys.executable, "-m", "fastmq", "serve", "--listen", f"tcp://{HOST}:{self.port}")
        ]
        self._environment = {key: value for key, value in os.environ.items() if not key.startswith("FASTMQ_")}
        self._environment |= {"FASTMQ_" + key.upper().replace(".", "__"): text for key, text in settings.items()}
        self._environment |= environment or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = self._judged = 0

    @property
    def address(self) -> tuple[str, int]:
        return HOST, self.port

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def spawn(self) -> None:
        """Starts the process and does not wait for it."""
        self._log_start = self._judged = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def await_listening(self) -> None:
        """:raises DidNotStart: it ended, or did not listen in time."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._listens():
            if not self.is_running or time.monotonic() > deadline:
                self.kill()
                raise DidNotStart(f"the broker did not start:\n{self.log()[-3000:]}")
            time.sleep(POLL_S)

    def _listens(self) -> bool:
        return READY.search(self.log()) is not None

    def log(self) -> str:
        """What the process that was started last has logged."""
        return self._log_from(self._log_start).decode("utf-8", "replace")

    def complaints(self) -> str:
        """The end of what was logged since the last call if it has what must never be there, else nothing."""
        logged = self._log_from(self._judged)
        self._judged += len(logged)
        log = logged.decode("utf-8", "replace")
        return log[-1500:] if any(mark in log for mark in FATAL_MARKS) else ""

    def _log_from(self, start: int) -> bytes:
        with self._log.open("rb") as log:
            log.seek(start)
            return log.read()

    def kill(self) -> None:
        """SIGKILL: no code of the broker's runs any more."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def terminate(self) -> int:
        """SIGTERM; the exit code. -9 when it had to be killed."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return -signal.SIGKILL
