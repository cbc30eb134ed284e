"""sd_notify: what systemd hears of one worker and of several."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastmq.notify import Systemd
from tests.brokerproc import BrokerProcess, await_condition, ended_cleanly, start_fastmq
from tests.cluster.brokers import await_restart, processes


class Systemds:
    """The other end of sd_notify."""

    def __init__(self, address: str) -> None:
        self.environment = {"NOTIFY_SOCKET": address}
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.heard: list[str] = []

    def hear(self, wanted: str, timeout_s: float = 10.0) -> str:
        """The next datagram that begins so; all others before it are in `heard`."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            text = self.socket.recv(4096).decode()
            self.heard.append(text)
            if text.startswith(wanted):
                return text

    def is_silent_for(self, seconds: float, about: str) -> bool:
        """Whether it hears nothing that begins so."""
        try:
            self.hear(about, seconds)
        except TimeoutError:
            return True
        return False


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemds]:
    made = Systemds(f"@fastmq-test-{os.getpid()}" if request.param == "abstract" else f"{tmp_path}/notify")
    yield made
    made.socket.close()


def begin(systemd: Systemds, count: int, watchdog_s: float = 0.0, **settings: float) -> BrokerProcess:
    environment = dict(systemd.environment)
    if watchdog_s:
        environment["WATCHDOG_USEC"] = str(int(watchdog_s * 1e6))
    return start_fastmq(
        {key.replace("__", "."): value for key, value in settings.items()},
        options=["--workers", str(count)],
        environment=environment,
    )


@pytest.mark.parametrize("count", [1, 2])
def test_systemd_hears_how_a_broker_is(systemd: Systemds, count: int) -> None:
    with ended_cleanly(begin(systemd, count, watchdog_s=1.0)) as broker:
        systemd.hear("READY=1")
        began = time.monotonic()
        for _ in range(4):
            systemd.hear("WATCHDOG=1")
        assert 1.0 < time.monotonic() - began < 4.0  # half a second each
        systemd.heard.clear()
        os.kill(broker.pid, signal.SIGHUP)
        text = systemd.hear("RELOADING=1")
        microseconds = int(text.partition("MONOTONIC_USEC=")[2])
        assert abs(time.monotonic() - microseconds / 1e6) < 5
        systemd.hear("READY=1")
        await_condition(lambda: broker.log_text().count("read the settings again") == count)
        assert not [text for text in systemd.heard if not text.startswith(("RELOADING", "READY", "WATCHDOG"))]
        broker.stop()
        systemd.hear("STOPPING=1")


@pytest.mark.parametrize("count", [1, 2])
def test_without_a_watchdog_systemd_hears_no_more_than_that(systemd: Systemds, count: int) -> None:
    with ended_cleanly(begin(systemd, count)):
        systemd.hear("READY=1")
        assert systemd.is_silent_for(1.5, "WATCHDOG")
    systemd.hear("STOPPING=1")
    assert systemd.heard == ["READY=1", "STOPPING=1"]


@pytest.mark.parametrize("systemd", ["path"], indirect=True)
def test_a_worker_that_stands_still_is_not_alive(systemd: Systemds) -> None:
    with ended_cleanly(begin(systemd, 2, watchdog_s=1.0, workers__watchdog_s=0)) as broker:
        pid = processes(broker)[1]
        systemd.hear("WATCHDOG=1")
        os.kill(pid, signal.SIGSTOP)
        time.sleep(6)  # for so long it may only be busy
        systemd.socket.setblocking(False)
        try:
            while True:
                systemd.socket.recv(4096)
        except BlockingIOError:
            pass
        assert systemd.is_silent_for(2.0, "WATCHDOG")
        os.kill(pid, signal.SIGCONT)
        systemd.hear("WATCHDOG=1")


@pytest.mark.parametrize("systemd", ["path"], indirect=True)
def test_a_worker_that_is_started_again_was_never_missed(systemd: Systemds) -> None:
    with ended_cleanly(begin(systemd, 2, watchdog_s=2.0)) as broker:
        pid = processes(broker)[0]
        os.kill(pid, signal.SIGKILL)
        await_restart(broker, 0, pid)
        for _ in range(3):
            systemd.hear("WATCHDOG=1", 2.0)


def test_a_watchdog_for_another_process_is_none() -> None:
    given = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "3000000"}
    assert Systemd(given).alive_s == 1.5
    assert Systemd({**given, "WATCHDOG_PID": str(os.getpid())}).alive_s == 1.5
    for other in ({"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}, {"NOTIFY_SOCKET": ""}):
        assert Systemd({**given, **other}).alive_s == 0
    Systemd(given).ready()  # nobody listens there, and nothing happens
    Systemd({}).ready()
