"""The `nats-server` of this host, one of a cluster of them, as a child of this process that ends with it."""

import ctypes
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Final

from fastmq import logs
from fastmq.config.cluster import ClusterSettings, endpoint
from fastmq.config.jetstream import ROUTE_PORT, JetStreamSettings
from fastmq.errors import StartError

USER: Final = "fastmq"
PAUSE_S: Final = 0.5
STOP_S: Final = 10.0
PR_SET_PDEATHSIG: Final = 1

log = logs.get("nats")


def password_of(cluster: ClusterSettings) -> str:
    """What brokers and servers of a cluster show to its servers; it does not tell the secret."""
    return hashlib.scrypt(
        str(cluster.secret).encode(), salt=f"nats of {cluster.name}".encode(), n=1 << 14, r=8, p=1
    ).hex()


def configuration(settings: JetStreamSettings, cluster: ClusterSettings, node: str, folder: Path, *, sync: bool) -> str:
    """The text of its configuration file. `sync`: what it acknowledges is on the medium."""
    listen, cluster_listen = endpoint(settings.listen), endpoint(settings.cluster_listen, ROUTE_PORT)
    password = password_of(cluster)
    guard = f'authorization {{ user: "{USER}", password: "{password}" }}'
    user = f"{USER}:{password}@"
    routes = [endpoint(each, ROUTE_PORT) for each in settings.routes]
    tls = ""
    if cluster.tls_ca:
        tls = (
            f'tls {{ ca_file: "{cluster.tls_ca}", cert_file: "{cluster.tls_certificate}", '
            f'key_file: "{cluster.tls_key}", verify: true }}'
        )
    return "\n".join(
        (
            f'server_name: "{node}"',
            f'listen: "{_address(*listen)}"',
            "max_payload: 8MB",
            'ping_interval: "2s"',
            guard,
            f'jetstream {{ store_dir: "{folder / "jetstream"}"{", sync_interval: always" if sync else ""} }}',
            "cluster {",
            f'  name: "fastmq-{cluster.name}"',
            f'  listen: "{_address(*cluster_listen)}"',
            '  ping_interval: "1s"',
            f"  {guard}",
            f"  {tls}",
            f"  routes: [{', '.join(f'{chr(34)}nats-route://{user}{_address(*each)}{chr(34)}' for each in routes)}]",
            "}",
            "",
        )
    )


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class NatsServer:
    """Started when entered, ended when left; restarted when it ends by itself meanwhile."""

    def __init__(
        self, settings: JetStreamSettings, cluster: ClusterSettings, node: str, folder: Path, *, sync: bool
    ) -> None:
        self._program = _program()
        self._folder = folder
        self._text = configuration(settings, cluster, node, folder, sync=sync)
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fastmq-nats-server", daemon=True)

    @property
    def pid(self) -> int:
        """Of the process that runs now, or did last; 0: none has been started yet."""
        return self._process.pid if self._process is not None else 0

    def __enter__(self) -> "NatsServer":
        path = self._folder / "nats.conf"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(self._text)
        except OSError as error:
            raise StartError(f"{path}: cannot be written: {error.strerror}; see jetstream.folder") from None
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
        self._thread.join(STOP_S)
        if self._process is not None and self._thread.is_alive():
            self._process.kill()
            self._thread.join()

    def _run(self) -> None:
        # All in this thread, which lasts as long as this process: the kernel ends the child with it.
        libc = ctypes.CDLL(None, use_errno=True)
        log_path = self._folder / "nats.log"
        command = [self._program, "-c", str(self._folder / "nats.conf"), "-l", str(log_path)]
        while not self._stopping.is_set():
            self._process = process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                process_group=0,
                preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) and None,
            )
            log.info("a nats-server is started", pid=process.pid, log=log_path)
            if self._stopping.is_set():
                process.send_signal(signal.SIGTERM)
            code = process.wait()
            if not self._stopping.is_set():
                log.error("the nats-server has ended", code=code, log=log_path)
                self._stopping.wait(PAUSE_S)


def _program() -> str:
    """Where the extra `jetstream` has put it, or else the one that the machine has.

    :raises StartError: there is none.
    """
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise StartError("jetstream.serve needs a nats-server: pip install 'fastmq[jetstream]'")
    return found
