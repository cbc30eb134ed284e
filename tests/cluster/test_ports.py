"""The sockets that a parent binds for its workers."""

from __future__ import annotations

import os
import socket
from contextlib import closing
from pathlib import Path

import pytest

from fastmq import sockets
from fastmq.config.listener import Listener
from fastmq.errors import StartError
from fastmq.supervisor.ports import Ports
from tests.brokerproc import HOST, free_port

ANY = Listener("tcp", HOST, 0)


def accepting(ports: Ports, count: int) -> list[socket.socket]:
    """For each worker, the socket of the first listener as it takes it over."""
    return [sockets.inherited(os.dup(ports.of(index)[0])) for index in range(count)]


def test_each_worker_has_a_socket_of_the_same_port() -> None:
    with closing(Ports([ANY], 3)) as ports:
        port = ports.listeners[0].port
        assert port > 0
        assert len({ports.of(index)[0] for index in range(3)}) == 3
        clients = [socket.create_connection((HOST, port), timeout=5) for _ in range(60)]
        accepted = []
        for bound in accepting(ports, 3):
            assert bound.getsockname()[1] == port
            count = 0
            with bound:
                while True:
                    try:
                        bound.accept()[0].close()
                    except BlockingIOError:
                        break
                    count += 1
            accepted.append(count)
        for client in clients:
            client.close()
        assert sum(accepted) == 60
        assert min(accepted) > 0


def test_where_ports_cannot_be_shared_a_socket_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_REUSEPORT")
    assert not sockets.ports_can_be_shared()
    with closing(Ports([ANY], 2)) as ports:
        assert ports.of(0) == ports.of(1)
        first, second = accepting(ports, 2)
        for bound in (first, second):
            with bound, closing(socket.create_connection((HOST, ports.listeners[0].port), timeout=5)):
                bound.accept()[0].close()
                with pytest.raises(BlockingIOError):
                    bound.accept()


def test_workers_share_a_socket_in_the_file_system(tmp_path: Path) -> None:
    listener = Listener("unix", str(tmp_path / "s"), 0, mode="0640")
    ports = Ports([listener], 2)
    assert ports.of(0) == ports.of(1)
    assert ports.listeners == [listener]
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o640
    ports.close()
    assert not (tmp_path / "s").exists()
    (tmp_path / "s").touch()  # of whoever comes next
    ports.close()
    assert (tmp_path / "s").exists()


def test_who_cannot_bind_all_leaves_nothing_open(tmp_path: Path) -> None:
    port = free_port()
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        taken = Listener("tcp", HOST, other.getsockname()[1])
        before = sorted(os.listdir("/proc/self/fd"))
        with pytest.raises(StartError, match=f"{taken}: the port is in use"):
            Ports([Listener("tcp", HOST, port), Listener("unix", str(tmp_path / "s"), 0), taken], 2)
        assert sorted(os.listdir("/proc/self/fd")) == before
    assert not (tmp_path / "s").exists()
    Ports([Listener("tcp", HOST, port)], 2).close()


def test_a_port_that_others_share_is_in_use_all_the_same() -> None:
    with closing(Ports([ANY], 2)) as ports, pytest.raises(StartError, match="the port is in use"):
        Ports(ports.listeners, 2)
