"""The parent of several workers: it starts them, starts them again, passes signals on, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from fastmq.config.place import Place
from fastmq.supervisor.child import Child
from tests.brokerproc import HOST, BrokerProcess, await_condition, ended_cleanly, free_port, start_fastmq
from tests.cluster.brokers import (
    await_gone,
    await_restart,
    code_of,
    inode_of,
    is_gone,
    is_running,
    joined,
    kill_left,
    named,
    one_at_each,
    open_files,
    place_of,
    processes,
    start,
    worker_of,
    workers,
)
from tests.wireclient import Client, Connack, encode

SERVER_SHUTTING_DOWN = 0x8B


def test_all_workers_get_clients_of_one_port() -> None:
    with workers(2) as broker, ExitStack() as stack:
        assert sorted(processes(broker)) == [0, 1]
        names = [f"c{number}" for number in range(40)]
        for name in names:
            joined(broker, stack, name).ping()
        had = Counter(worker_of(broker, name) for name in names)
        assert min(had[0], had[1]) >= 3, had
        assert broker.log_text().count("listening on") == 1
        assert broker.log_text().count("workers=2") == 1


def test_as_many_workers_as_processors() -> None:
    with ended_cleanly(start_fastmq(options=["--workers", "auto"])) as broker:
        count = min(len(os.sched_getaffinity(0)), 64)
        assert len(processes(broker)) == (count if count > 1 else 0)


def test_the_parent_is_small() -> None:
    with workers(2) as broker:
        mapped = Path(f"/proc/{broker.pid}/maps").read_text()
        for module in ("_hub", "uvloop", "_asyncio", "_sqlite3", "argon2", "_ssl"):
            assert f"/{module}" not in mapped, module
        assert "fastmq/_hub" in Path(f"/proc/{processes(broker)[0]}/maps").read_text()
        pages = int(Path(f"/proc/{broker.pid}/statm").read_text().split()[1])
        assert pages * os.sysconf("SC_PAGE_SIZE") < 32 << 20


def test_workers_find_modules_where_their_parent_does(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('a stranger was imported')\n")
    command = [str(Path(sys.executable).with_name("fastmq")), "serve", "-w", "2", "-l", f"tcp://{HOST}:0"]
    environment = {**os.environ, "FASTMQ_STORE__DURABILITY": "none"}
    with contextlib.chdir(tmp_path):
        broker = BrokerProcess("fastmq", command, environment, rf"listening on tcp://{HOST}:(\d+)")
    with ended_cleanly(broker), ExitStack() as stack:
        one_at_each(broker, stack)


# -- workers that end --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_worker_that_ends_is_started_again(number: signal.Signals) -> None:
    with workers(2) as broker, ExitStack() as stack:
        clients = one_at_each(broker, stack)
        before = processes(broker)
        os.kill(before[1], number)
        after = await_restart(broker, 1, before[1])
        told = "code=0" if number == signal.SIGTERM else f"signal={number.name}"
        broker.await_log(
            rf"error supervisor a worker has ended and is started again worker=1 pid={before[1]} {told} after_s=0\.0"
        )
        assert is_gone(clients[1])
        clients[0].ping()
        assert processes(broker) == {0: before[0], 1: after}
        one_at_each(broker, stack, prefix="again")


def test_nobody_is_refused_while_a_worker_is_away() -> None:
    with workers(2) as broker, ExitStack() as stack:
        os.kill(processes(broker)[1], signal.SIGKILL)
        for number in range(20):
            joined(broker, stack, f"c{number}").ping()


def test_what_a_worker_dies_with_before_it_has_taken_it_is_given_again() -> None:
    with workers(2, {"workers.watchdog_s": 0}) as broker, ExitStack() as stack:
        pid = processes(broker)[1]
        os.kill(pid, signal.SIGSTOP)
        clients = [stack.enter_context(contextlib.closing(Client((broker.host, broker.port)))) for _ in range(24)]
        for number, client in enumerate(clients):
            client.send(encode.connect(5, client_id=named(1, f"c{number}")))
        time.sleep(0.5)  # those that came to worker 0 are on their way; the others are cut with worker 1
        there = open_files(processes(broker)[0])
        given = [client for client in clients if f"socket:[{inode_of(broker, client)}]" in there]
        assert given
        os.kill(pid, signal.SIGKILL)
        for client in given:
            assert client.expect(Connack, 20).code == 0
            client.ping()


def test_pauses_grow_until_a_worker_lasts() -> None:
    child = Child(Place(count=2), [], {})
    now, pauses = 100.0, []
    for _ in range(9):
        child.postpone(now)
        pauses.append(round(child.start_at - now, 2))
        now = child._began_at = child.start_at
    assert pauses == [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    child.postpone(now + 10)
    assert child.start_at == now + 10


def test_a_worker_that_dies_again_waits() -> None:
    with workers(2) as broker:
        for after in ("0.0", "0.1", "0.2"):
            pid = processes(broker)[0]
            os.kill(pid, signal.SIGKILL)
            broker.await_log(rf"worker=0 pid={pid} signal=SIGKILL after_s={re.escape(after)}$")
            await_restart(broker, 0, pid)


def test_a_worker_that_stands_still_is_killed() -> None:
    with workers(2, {"workers.watchdog_s": 1.5}) as broker, ExitStack() as stack:
        clients = one_at_each(broker, stack)
        pid = processes(broker)[0]
        time.sleep(2)  # who is well is left alone
        assert processes(broker)[0] == pid
        os.kill(pid, signal.SIGSTOP)
        broker.await_log(rf"a worker stands still and is killed worker=0 pid={pid} silent_s=1\.5", 10)
        await_restart(broker, 0, pid)
        clients[1].ping()
        one_at_each(broker, stack, prefix="again")


def test_without_a_watchdog_it_may_stand_still() -> None:
    with workers(2, {"workers.watchdog_s": 0}) as broker:
        pid = processes(broker)[0]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(2)
        os.kill(pid, signal.SIGCONT)
        assert processes(broker)[0] == pid
        assert "stands still" not in broker.log_text()


def test_a_parent_that_stood_still_blames_nobody() -> None:
    with workers(2, {"workers.watchdog_s": 1}) as broker:
        before = processes(broker)
        os.kill(broker.pid, signal.SIGSTOP)
        time.sleep(2)
        os.kill(broker.pid, signal.SIGCONT)
        time.sleep(1)
        assert processes(broker) == before
        assert "stands still" not in broker.log_text()


# -- its own end -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_with_code_0_and_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "mqtt.sock"
    listen = f"tcp://{HOST}:0,unix://{path}"
    with workers(2, listen=listen, environment={"TMPDIR": str(tmp_path)}) as broker, ExitStack() as stack:
        clients = one_at_each(broker, stack)
        pids = list(processes(broker).values())
        folder = Path(place_of(pids[0])["folder"])
        assert folder.stat().st_mode & 0o777 == 0o700
        assert path.exists()
        os.kill(broker.pid, number)
        for client in clients.values():
            client.expect_disconnect(SERVER_SHUTTING_DOWN)
        assert broker._process.wait(10) == 0
        broker._stopped = True
        assert not any(map(is_running, pids))
        assert not folder.exists()
        assert not path.exists()


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.1, 0.2, 0.3])
def test_it_may_be_stopped_while_it_starts(after_s: float, tmp_path: Path) -> None:
    """Its first line says that it is about to bind; the rest takes about half a second."""
    environment = {**os.environ, "FASTMQ_STORE__DURABILITY": "none", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "fastmq", "serve", "-w", "2", "-s", f"listen=unix://{tmp_path}/s"]
    command += ["--log-level", "debug"]
    broker = BrokerProcess("fastmq", command, environment, "starts workers=2")
    time.sleep(after_s)
    pids = list(processes(broker).values())
    broker.stop()
    assert not any(map(is_running, pids))
    assert list(tmp_path.iterdir()) == []


def test_the_workers_folder_is_where_systemd_says(tmp_path: Path) -> None:
    with workers(2, environment={"RUNTIME_DIRECTORY": "/tmp"}) as broker:
        assert place_of(processes(broker)[0])["folder"].startswith("/tmp/fastmq-")
    too_long = tmp_path / ("x" * 60)
    too_long.mkdir()
    with workers(2, environment={"RUNTIME_DIRECTORY": str(too_long)}) as broker:
        assert len(place_of(processes(broker)[0])["folder"]) < 80


def test_who_interrupts_twice_does_not_wait() -> None:
    broker = start(2, {"workers.watchdog_s": 0})
    try:
        pids = processes(broker)
        os.kill(pids[0], signal.SIGSTOP)
        os.kill(broker.pid, signal.SIGINT)
        await_gone(pids[1])
        time.sleep(0.5)
        assert broker.is_running()
        os.kill(broker.pid, signal.SIGINT)
        assert broker._process.wait(5) == 1
        broker.await_log(rf"a worker did not end as it should worker=0 pid={pids[0]} signal=SIGKILL")
        assert not is_running(pids[0])
    finally:
        broker.kill()


def test_workers_end_with_a_parent_that_was_killed() -> None:
    broker = start(2)
    pids = list(processes(broker).values())
    try:
        with ExitStack() as stack:
            clients = one_at_each(broker, stack)
            folder = Path(place_of(pids[0])["folder"])
            broker.kill()
            for client in clients.values():
                client.expect_disconnect(SERVER_SHUTTING_DOWN)
            await_gone(*pids)
            assert not folder.exists()
    finally:
        kill_left(pids)


def test_a_worker_that_cannot_start_stops_all(tmp_path: Path) -> None:
    (tmp_path / "fastmq-1.db").write_bytes(b"SQLite format 3\0" + bytes(84))  # another program's
    with pytest.raises(RuntimeError) as refused:
        start(2, {"store.path": str(tmp_path / "fastmq.db")})
    says = str(refused.value)
    assert re.search(r"cannot start reason=.*fastmq-1\.db: this is a database of another program.*worker=1", says), says
    assert "cannot start: a worker ended before it was ready, and has said why worker=1" in says
    assert "Traceback" not in says


# -- addresses ---------------------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_named() -> None:
    with workers(2) as other:
        taken = f"tcp://{HOST}:{other.port}"
        for count in (1, 2):  # two brokers do not share a port, though workers do
            with pytest.raises(RuntimeError, match=f"cannot start reason=.*{taken}: the port is in use"):
                start(count, listen=f"tcp://{HOST}:{free_port()},{taken}")


def test_a_socket_that_is_in_use_is_named(tmp_path: Path) -> None:
    listen = f"tcp://{HOST}:0,unix://{tmp_path}/mqtt.sock"
    with workers(2, listen=listen), pytest.raises(RuntimeError, match=r"unix://.*mqtt\.sock: the port is in use"):
        start(2, listen=listen)


def test_limits_of_all_are_held_by_all_together() -> None:
    with workers(2, {"limits.connections_max": 4}) as broker, ExitStack() as stack:
        clients = []
        for number in range(30):
            client = Client((broker.host, broker.port))
            stack.callback(client.close)
            clients.append(client)
            try:
                client.connect(f"c{number}")
            except (AssertionError, OSError):
                continue
        alive = [client for client in clients if not is_gone(client)]
        assert len(alive) == 4


# -- settings ----------------------------------------------------------------------------------------------------------


def test_a_hang_up_reaches_all_workers(tmp_path: Path) -> None:
    path = tmp_path / "fastmq.toml"
    path.write_text("")
    with workers(2, options=["--config", str(path)]) as broker, ExitStack() as stack:
        one_at_each(broker, stack)
        path.write_text('[[bans.rules]]\nby = "client_id"\nvalue = "bad"\n')
        os.kill(broker.pid, signal.SIGHUP)
        for index in (0, 1):
            broker.await_log(rf"read the settings again changed=bans\.rules worker={index}")
        assert {code_of(broker, "bad") for _ in range(12)} == {0x8A}

        # One that is started again has these settings too, whatever is in the file by then.
        path.write_text("nonsense")
        for index, pid in processes(broker).items():
            os.kill(pid, signal.SIGKILL)
            await_restart(broker, index, pid)
        assert {code_of(broker, "bad") for _ in range(12)} == {0x8A}
        os.kill(broker.pid, signal.SIGHUP)
        for index in (0, 1):
            broker.await_log(rf"the settings are wrong; those of before stay .*worker={index}")
        one_at_each(broker, stack, prefix="again")


def test_a_hang_up_while_a_worker_begins_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "fastmq.toml"
    path.write_text("")
    with workers(2, options=["--config", str(path)]) as broker:
        pid = processes(broker)[1]
        os.kill(pid, signal.SIGKILL)
        new = await_restart(broker, 1, pid)
        path.write_text("[auth]\nallow_anonymous = false\n")
        os.kill(broker.pid, signal.SIGHUP)
        await_condition(lambda: {code_of(broker, f"c{at}") for at in range(12)} == {0x87}, 10)
        assert processes(broker)[1] == new
