"""Start a real broker as a subprocess, for tests and benches.

The law of this file: a broker that a test started must end on SIGTERM with exit code 0 and must not have logged a
traceback. `running_broker` enforces it for everyone, so that no test has to remember it.

    with running_broker({"mqtt.packet_max_bytes": 8 << 20}) as broker:
        connect(broker.host, broker.port)
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

HOST: Final = "127.0.0.1"
START_TIMEOUT_S = 60.0  # a replicated store waits for a quorum
STOP_TIMEOUT_S: Final = 40.0  # without a quorum, a store is waited for, and so is who stands in

# What must never appear in a broker's log, whatever a client does to it.
FATAL_MARKS: Final = (
    "Traceback (most recent call last)",
    "Exception ignored in",
    "exception was never retrieved",
    "was never awaited",
    "ResourceWarning",
    "Fatal Python error",
    "AddressSanitizer",
)

Setting = str | int | float | bool


class OutputTail:
    """Drains one pipe of a subprocess and lets a test await a line in it."""

    def __init__(self, pipe: IO[str]) -> None:
        self._lines: list[str] = []
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._drain, args=(pipe,), daemon=True)
        self._thread.start()

    def _drain(self, pipe: IO[str]) -> None:
        with pipe:
            for line in pipe:
                with self._changed:
                    self._lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def lines(self) -> list[str]:
        with self._changed:
            return list(self._lines)

    def text(self) -> str:
        return "\n".join(self.lines())

    def await_lines(self, wanted: Callable[[list[str]], bool], timeout_s: float) -> list[str]:
        """All lines, as soon as `wanted` accepts them, the pipe closes or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or wanted(self._lines), timeout_s)
            return list(self._lines)

    def await_match(self, pattern: str, timeout_s: float) -> re.Match[str] | None:
        """The first line that matches; None when the pipe closed or the time is over before."""

        def first(lines: list[str]) -> re.Match[str] | None:
            return next((found for line in lines if (found := re.search(pattern, line))), None)

        return first(self.await_lines(lambda lines: first(lines) is not None, timeout_s))

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)


class BrokerProcess:
    """One broker subprocess: its address, its log, its end."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], ready: str) -> None:
        self.name = name
        self.host = HOST
        self.port = 0
        self._log_read = 0
        self._stopped = False
        self._process = subprocess.Popen(
            command,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        self._log = OutputTail(self._process.stderr)
        found = self._log.await_match(ready, START_TIMEOUT_S)
        if found is None:
            self.kill()
            raise RuntimeError(f"{name} did not start ({' '.join(command)}):\n{self.log_text()}")
        if found.groups():
            self.port = int(found.group(1))

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_running(self) -> bool:
        return self._process.poll() is None

    def log_text(self) -> str:
        return self._log.text()

    def await_log(self, pattern: str, timeout_s: float = 5.0) -> re.Match[str]:
        found = self._log.await_match(pattern, timeout_s)
        assert found is not None, f"{self.name} never logged {pattern!r}:\n{self.log_text()}"
        return found

    def assert_healthy(self) -> None:
        """The broker lives, and nothing logged since the last call is a bug report."""
        lines = self._log.lines()
        fresh, self._log_read = "\n".join(lines[self._log_read :]), len(lines)
        marks = [mark for mark in FATAL_MARKS if mark in fresh]
        assert not marks, f"{self.name} logged {marks}:\n{fresh}"
        assert self.is_running(), f"{self.name} exited with {self._process.returncode}:\n{fresh}"

    def stop(self) -> None:
        """SIGTERM; the broker must end by itself, with exit code 0 and a clean log. Once is enough."""
        if self._stopped:
            return
        self.assert_healthy()
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} ignored SIGTERM for {STOP_TIMEOUT_S} s:\n{self.log_text()}") from None
        self._log.join(STOP_TIMEOUT_S)
        log = self.log_text()
        marks = [mark for mark in FATAL_MARKS if mark in log]
        assert not marks, f"{self.name} logged {marks}:\n{log}"
        assert code == 0, f"{self.name} exited with {code} after SIGTERM:\n{log}"
        self._stopped = True

    def kill(self) -> None:
        if self.is_running():
            self._process.kill()
        self._process.wait()
        self._log.join(STOP_TIMEOUT_S)


def free_port() -> int:
    """A port that was free a moment ago, for servers that cannot choose one themselves."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def start_fastmq(
    settings: Mapping[str, Setting] | None = None,
    program: str = "",
    listen: str = f"tcp://{HOST}:0",
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    ready: str = rf"listening on \w+://{re.escape(HOST)}:(\d+)",
    inside: Sequence[str] = (),
) -> BrokerProcess:
    """`settings` are dotted keys of the configuration, for instance {"mqtt.maximum_qos": 1}.

    Without a `store.path` among them, nothing outlives the broker.
    `program` is a module that runs fastmq in a way that no setting can, and says on stderr where it listens.
    `listen` are listeners as `--listen` takes them; the port of the first is the broker's.
    `options` come on top of these on the command line, `environment` to that of the process.
    `inside` is a command that runs it somewhere else, in another network for one.
    `ready` is what it logs when it has started, with the port if it has one.
    """
    env = {key: value for key, value in os.environ.items() if not key.startswith("FASTMQ_")}
    if "store.path" not in (settings or {}):
        env["FASTMQ_STORE__DURABILITY"] = "none"
    for key, value in (settings or {}).items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        env["FASTMQ_" + key.upper().replace(".", "__")] = text
    env.update(environment or {})
    fastmq = ["fastmq", "serve", "--listen", listen, *options]
    command = [*inside, sys.executable, "-m", *([program] if program else fastmq)]
    return BrokerProcess("fastmq", command, env, ready)


def mosquitto_config(port: int, settings: Mapping[str, Setting], extra_lines: Sequence[str]) -> str:
    """Mosquitto with our defaults, so that the same test holds for both."""
    lines = [
        f"listener {port} {HOST}",
        "allow_anonymous true",
        "max_queued_messages 0",
        "max_inflight_messages 0",
        "max_topic_alias 64",
        f"max_packet_size {settings.get('mqtt.packet_max_bytes', 1 << 20)}",
        f"sys_interval {settings.get('systopics.interval_s', 10)}",
        *extra_lines,
    ]
    return "\n".join(lines) + "\n"


def start_mosquitto(
    settings: Mapping[str, Setting] | None, folder: Path, extra_lines: Sequence[str] = ()
) -> BrokerProcess:
    """Debian's mosquitto. It cannot choose a port itself, so one that was taken meanwhile is tried again."""
    path = os.environ.get("PATH", "") + ":/usr/sbin"
    for attempt in range(3):
        port = free_port()
        config = folder / f"mosquitto-{port}.conf"
        # Started by root, mosquitto becomes user `mosquitto`; it has read its file by then.
        config.write_text(mosquitto_config(port, settings or {}, extra_lines))
        command = ["mosquitto", "-c", str(config)]
        try:
            broker = BrokerProcess("mosquitto", command, {**os.environ, "PATH": path}, r"mosquitto version \S+ running")
        except RuntimeError:
            if attempt == 2:
                raise
            continue
        broker.port = port
        return broker
    raise AssertionError("unreachable")


@contextlib.contextmanager
def ended_cleanly(broker: BrokerProcess) -> Iterator[BrokerProcess]:
    """The broker for the length of a block; its clean end is asserted, also after a failed block."""
    try:
        yield broker
    except BaseException as error:
        if broker.is_running():
            with contextlib.suppress(AssertionError):
                broker.stop()
        broker.kill()
        error.add_note(f"--- log of {broker.name} ---\n{broker.log_text()[-4000:]}")
        raise
    try:
        broker.stop()
    finally:
        broker.kill()


@contextlib.contextmanager
def running_broker(settings: Mapping[str, Setting] | None = None, kind: str = "fastmq") -> Iterator[BrokerProcess]:
    """A fresh broker, `fastmq` or `mosquitto`, for the length of a block."""
    with tempfile.TemporaryDirectory(prefix="fastmq-test-") as folder:
        started = start_mosquitto(settings, Path(folder)) if kind == "mosquitto" else start_fastmq(settings)
        with ended_cleanly(started) as broker:
            yield broker


def await_condition(condition: Callable[[], bool], timeout_s: float = 5.0, what: str = "") -> None:
    """For states that nothing announces, for instance a value in another process."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"still not so after {timeout_s} s: {what or condition}"
        threading.Event().wait(0.005)
