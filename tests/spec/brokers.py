"""The broker under test: a process of its own on a free loopback port.

SPEC_BROKER chooses it: nothing is fastmq from this checkout, `mosquitto` the one on PATH (to check the tests
against a second implementation), `host:port` one that already runs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

Address = tuple[str, int]
Settings = Mapping[str, str | int | bool]

CHOICE = os.environ.get("SPEC_BROKER", "fastmq")
START_S = 10.0

_MOSQUITTO_NAMES = {
    "mqtt.packet_max_bytes": "max_packet_size",
    "mqtt.keepalive_max_s": "max_keepalive",
    "mqtt.maximum_qos": "max_qos",
    "mqtt.retain_available": "retain_available",
    "auth.allow_anonymous": "allow_anonymous",
    "queue.messages_max": "max_queued_messages",
}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextlib.contextmanager
def running(settings: Settings, program: str = "") -> Iterator[Address]:
    """Start a broker with settings ("section.key": value), yield its address, stop it.

    `program` is a module that runs fastmq in a way that no setting can, given the port as its argument.
    """
    if program and CHOICE != "fastmq":
        pytest.skip("only fastmq can be run by a program of the tests")
    if CHOICE not in ("fastmq", "mosquitto"):
        if settings:
            pytest.skip("a broker that already runs cannot be given settings")
        host, _, its_port = CHOICE.rpartition(":")
        yield host, int(its_port)
        return
    with tempfile.TemporaryDirectory(prefix="spec-") as folder:
        port = free_port()
        command, environment = (
            _fastmq(port, settings, program) if CHOICE == "fastmq" else _mosquitto(port, settings, Path(folder))
        )
        log = Path(folder, "log")
        with log.open("wb") as out:
            process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
        try:
            _await_listening(process, ("127.0.0.1", port), log)
            yield "127.0.0.1", port
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        complaint = log.read_text(errors="replace")
        assert "Traceback" not in complaint, complaint[-4000:]
        assert process.returncode == 0, f"the broker ended with {process.returncode}:\n{complaint[-4000:]}"


def _fastmq(port: int, settings: Settings, program: str) -> tuple[list[str], dict[str, str]]:
    environment = dict(os.environ)
    for key, value in settings.items():
        section, _, name = key.upper().partition(".")
        environment[f"FASTMQ_{section}__{name}"] = str(value).lower() if isinstance(value, bool) else str(value)
    if program:
        return [sys.executable, "-m", program, str(port)], environment
    return [sys.executable, "-m", "fastmq", "serve", "--listen", f"tcp://127.0.0.1:{port}"], environment


def _mosquitto(port: int, settings: Settings, folder: Path) -> tuple[list[str], dict[str, str]]:
    unknown = [key for key in settings if key not in _MOSQUITTO_NAMES]
    if unknown:
        pytest.skip(f"mosquitto has no setting like {', '.join(unknown)}")
    given = {"allow_anonymous": "true", "max_queued_messages": "1000"}
    given |= {_MOSQUITTO_NAMES[key]: str(value).lower() for key, value in settings.items()}
    lines = [f"listener {port} 127.0.0.1", *(f"{name} {value}" for name, value in given.items())]
    configuration = folder / "mosquitto.conf"
    configuration.write_text("\n".join(lines) + "\n")
    program = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin") or "mosquitto"
    return [program, "-c", str(configuration)], dict(os.environ)


def _await_listening(process: subprocess.Popen[bytes], address: Address, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the broker ended with {process.returncode}:\n{log.read_text(errors='replace')}")
        try:
            socket.create_connection(address, timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"the broker does not listen after {START_S} s:\n{log.read_text(errors='replace')}")
