"""All kinds of listeners, at brokers of several workers."""

from __future__ import annotations

import socket
import stat
import subprocess
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.brokerdoors import know, listener
from tests.brokerproc import HOST
from tests.cluster.brokers import joined, worker_of, workers
from tests.wireclient import doors, encode


@pytest.mark.parametrize("door", ["tcp", "tls", "ws", "wss"])
def test_a_port_leads_to_all_workers(door: str, tmp_path: Path) -> None:
    with workers(2, listen=listener(door, tmp_path)) as broker, ExitStack() as stack:
        broker.await_log(f"listening on {door}://{HOST}:{broker.port}")
        address = (broker.host, broker.port)
        know(door, address, tmp_path)
        stack.callback(doors.know, address, lambda opened: opened)
        names = [f"c{number}" for number in range(30)]
        for name in names:
            joined(broker, stack, name).ping()
        assert min(Counter(worker_of(broker, name) for name in names)[index] for index in (0, 1)) > 0


def test_several_listeners_each_lead_to_all(tmp_path: Path) -> None:
    path = tmp_path / "mqtt.sock"
    listen = f'["tcp://{HOST}:0", "ws://{HOST}:0", {{"url": "unix://{path}", "mode": "0600"}}, "tcp://[::1]:0"]'
    with workers(3, listen=listen) as broker:
        broker.await_log(r"listening on tcp://\[::1\]")
        said = [line for line in broker.log_text().splitlines() if "listening on" in line]
        assert [line.split("listening on ")[1].split("://")[0] for line in said] == ["tcp", "ws", "unix", "tcp"]
        assert len({line.split()[-2] for line in said}) == 4
        v6 = int(said[3].split("]:")[1].split()[0])
        with closing(socket.create_connection(("::1", v6), timeout=5)) as connection:
            connection.sendall(encode.connect(5, client_id="six"))
            assert connection.recv(1) == b"\x20"
        worker_of(broker, "six")


def test_a_unix_socket_is_shared_by_all(tmp_path: Path) -> None:
    path = tmp_path / "mqtt.sock"
    listen = f'["tcp://{HOST}:0", {{"url": "unix://{path}", "mode": "0600"}}]'
    with workers(2, listen=listen) as broker, ExitStack() as stack:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for number in range(10):
            connection = stack.enter_context(closing(socket.socket(socket.AF_UNIX)))
            connection.settimeout(5)
            connection.connect(str(path))
            connection.sendall(encode.connect(5, client_id=f"u{number}"))
            assert connection.recv(1) == b"\x20"
            worker_of(broker, f"u{number}")
        publish = ["mosquitto_pub", "--unix", str(path), "-t", "t", "-m", "hi", "-q", "1"]
        assert subprocess.run(publish, timeout=20, check=False).returncode == 0
        assert path.exists()
    assert not path.exists()


def test_a_proxy_says_who_comes(tmp_path: Path) -> None:
    url = listener("tcp", tmp_path, proxy_protocol=True, trusted_proxies=[HOST])
    with workers(2, listen=url) as broker:
        for number in range(6):
            with closing(socket.create_connection((broker.host, broker.port), timeout=5)) as connection:
                connection.sendall(b"PROXY TCP4 192.0.2.7 10.0.0.1 1000 1883\r\n")
                connection.sendall(encode.connect(5, client_id=f"p{number}"))
                assert connection.recv(1) == b"\x20"
            broker.await_log(rf"client=p{number} .*192\.0\.2\.7")
