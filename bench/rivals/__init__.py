"""The brokers that are compared: how each is installed, configured, started and asked for its version."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent.parent
START_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 5.0
# CONNECT of MQTT 3.1.1, clean session, no client id.
CONNECT: Final = bytes((0x10, 12, 0, 4)) + b"MQTT" + bytes((4, 2, 0, 60, 0, 0))


class RivalError(Exception):
    """A broker is not there, or did not start."""


@dataclass(frozen=True, slots=True)
class Rival:
    """One broker. In `command`, `{config}`, `{port}` and `{directory}` are replaced; the config file's `${...}` too."""

    name: str
    command: tuple[str, ...]
    config: str = ""
    version_command: tuple[str, ...] = ()
    mqtt: frozenset[int] = frozenset({4})
    too_slow_for: frozenset[str] = field(default=frozenset())
    """Scenarios that would take it minutes: left out, and shown so."""
    values: tuple[tuple[str, str], ...] = ()
    """What else is replaced in its config file."""
    folder: str | None = None
    """Where its directory is made; None: where temporary files are."""

    def is_installed(self) -> bool:
        program = self.command[0]
        needs = HERE / "node_modules" / "aedes" if self.name == "aedes" else Path(program)
        return bool(shutil.which(program)) and (not needs.is_absolute() or needs.exists())

    def version(self) -> str:
        """The version that the installed program states; empty when it states none."""
        result = subprocess.run(self.version_command, capture_output=True, text=True, check=False, cwd=ROOT)
        found = re.search(r"\d+\.\d+(?:\.\w+)*", result.stdout + result.stderr)
        return found.group() if found else ""


def _debian(program: str) -> str:
    return shutil.which(program) or f"/usr/sbin/{program}"  # sbin is not on every user's PATH


_MOSQUITTO: Final = _debian("mosquitto")
_VENV: Final = HERE / ".venv" / "bin"
_LARGE: Final = frozenset({"filters-1m", "connections-10k"})

FASTMQ: Final = Rival(
    "fastmq",
    (sys.executable, "-m", "fastmq", "serve", "--config", "{config}"),
    config="fastmq.toml",
    version_command=(sys.executable, "-m", "fastmq", "--version"),
    mqtt=frozenset({4, 5}),
    values=(("durability", "none"),),
)

RIVALS: Final[dict[str, Rival]] = {
    rival.name: rival
    for rival in (
        Rival(
            "mosquitto",
            (_MOSQUITTO, "-c", "{config}"),
            config="mosquitto.conf",
            version_command=(_MOSQUITTO, "-h"),
            mqtt=frozenset({4, 5}),
            values=(("persistence", "false"),),
        ),
        Rival(
            "nats",
            (str(_VENV / "nats-server"), "-c", "{config}"),
            config="nats.conf",
            version_command=(str(_VENV / "nats-server"), "--version"),
            too_slow_for=frozenset({"filters-1m"}),
        ),
        Rival(
            "aedes",
            ("node", str(HERE / "aedes.mjs"), "{port}"),
            version_command=("node", "-p", f"require('{HERE}/node_modules/aedes/package.json').version"),
        ),
        Rival(
            "amqtt",
            (str(_VENV / "amqtt"), "-c", "{config}"),
            config="amqtt.yaml",
            version_command=(str(_VENV / "amqtt"), "--version"),
            too_slow_for=_LARGE | {"filters-100k", "fan1000", "fanin50-q1", "retained-100k", "paced-20k-q0", "crowd"},
        ),
    )
}


ON_DISK: Final = "/var/tmp"  # /tmp may be memory
DURABLE: Final[dict[str, tuple[Rival, ...]]] = {
    "fastmq": tuple(
        replace(FASTMQ, name=f"fastmq-{level}", values=(("durability", level),), folder=ON_DISK)
        for level in ("fsync", "os", "none")
    ),
    "mosquitto": (
        replace(RIVALS["mosquitto"], name="mosquitto-persistent", values=(("persistence", "true"),), folder=ON_DISK),
    ),
}
"""What stands for a broker in a durable scenario; the others have nothing to compare."""


def install(rival: Rival) -> None:
    """Install a rival by name, unless it is there."""
    if rival.is_installed():
        return
    result = subprocess.run([HERE / "install.sh", rival.name], capture_output=True, text=True, check=False)
    if result.returncode or not rival.is_installed():
        raise RivalError(f"{rival.name} could not be installed:\n{result.stdout}{result.stderr}")


@dataclass(frozen=True, slots=True)
class Running:
    """A broker process that answers."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def pid(self) -> int:
        return self.process.pid

    def check_alive(self) -> None:
        """Raise RivalError when the broker has ended: figures of such a run mean nothing."""
        if self.process.poll() is not None:
            raise RivalError(f"the broker ended during the run, exit code {self.process.returncode}")

    def memory_mb(self, line: str) -> float:
        """`VmRSS` (now) or `VmHWM` (the most it ever had) of the broker's first process."""
        with contextlib.suppress(OSError):
            found = re.search(rf"{line}:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
            if found:
                return round(int(found.group(1)) * 1024 / 1e6, 2)
        return 0.0


@contextlib.contextmanager
def running(rival: Rival, *, core: int | None = None) -> Iterator[Running]:
    """A fresh broker process on a free port, ended at the end, with a directory of its own."""
    with tempfile.TemporaryDirectory(prefix=f"bench-{rival.name}-", dir=rival.folder) as directory:
        port = _free_port()
        config = Path(directory, Path(rival.config).name or "none")
        if rival.config:
            text = (HERE / rival.config).read_text()
            values = {"port": str(port), "directory": directory, **dict(rival.values)}
            config.write_text(string.Template(text).substitute(values))
        values = {"config": str(config), "port": str(port), "directory": directory}
        command = [word.format(**values) for word in rival.command]
        if core is not None:
            command = ["taskset", "--cpu-list", str(core), *command]
        log = Path(directory, "output.log")
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        try:
            _await_answer(rival, process, port, log)
            yield Running(process, port)
        finally:
            _stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_answer(rival: Rival, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until the broker answers a CONNECT with a CONNACK."""
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as client:
            client.sendall(CONNECT)
            if client.recv(1) == b"\x20":
                client.sendall(b"\xe0\x00")
                return
        time.sleep(0.02)
    tail = log.read_text(errors="replace")[-2000:]
    raise RivalError(f"{rival.name} does not answer on port {port}\n{tail}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
