"""`fastmq store` beside real brokers: what it shows, copies and carries while they run, and after they were killed."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fastmq.cli import main
from tests.brokerproc import BrokerProcess, Setting, await_condition, ended_cleanly, running_broker, start_fastmq
from tests.wireclient import Client
from tests.wireclient import properties as p

WEEK = ((p.SESSION_EXPIRY, 604_800),)


def run(*arguments: str | Path, **environment: str) -> Result:
    return CliRunner().invoke(main, ["store", *map(str, arguments)], env=environment, prog_name="fastmq")


def ok(*arguments: str | Path) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@contextmanager
def joined(broker: BrokerProcess, client_id: str, *, clean: bool = False) -> Iterator[Client]:
    client = Client((broker.host, broker.port))
    try:
        assert client.connect(client_id, clean=clean, props=() if clean else WEEK).code == 0
        yield client
    finally:
        client.close()


def leave(broker: BrokerProcess, client_id: str, *filters: str) -> None:
    """A session that subscribes and goes away."""
    with joined(broker, client_id) as client:
        client.subscribe(*((filter, 1) for filter in filters))
        client.disconnect()


def publish(broker: BrokerProcess, topic: str, *payloads: bytes, retain: bool = False) -> None:
    with joined(broker, "publisher", clean=True) as client:
        for payload in payloads:
            client.publish(topic, payload, qos=1, retain=retain)


def received(broker: BrokerProcess, client_id: str, count: int) -> list[bytes]:
    with joined(broker, client_id) as client:
        return client.receive_payloads(count)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def broker(path: Path) -> Iterator[BrokerProcess]:
    """Running, with a queue of two, a retained message and a group."""
    with running_broker({"store.path": str(path)}) as broker:
        leave(broker, "reader", "a/#", "$share/g/b")
        publish(broker, "a/1", b"one", b"two")
        publish(broker, "b", b"shared")
        publish(broker, "kept", b"last", retain=True)
        yield broker


# -- stat --------------------------------------------------------------------------------------------------------------


def test_the_figures_of_a_running_broker(broker: BrokerProcess, path: Path) -> None:
    found = json.loads(ok("stat", "--json", "--store", path))
    assert found["path"] == str(path)
    names = ("sessions", "subscriptions", "deliveries", "messages", "retained", "wills", "groups", "longest_queue")
    assert [found[name] for name in names] == [1, 2, 3, 4, 1, 0, 1, 2]
    assert found["file_bytes"] > 0


def test_figures_are_told_in_columns_and_as_a_table_on_a_terminal(broker: BrokerProcess, path: Path) -> None:
    assert "\nsessions          1\n" in ok("stat", "--store", path)
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "fastmq", "store", "stat", "--store", str(path)]
    subprocess.run(command, stdout=terminal, check=True, timeout=10, env={**os.environ, "TERM": "xterm"})
    os.close(terminal)
    shown = os.read(controller, 65536).decode()
    os.close(controller)
    assert "sessions" in shown
    assert "│" in shown


def test_the_store_is_the_one_that_serve_would_open(broker: BrokerProcess, path: Path, tmp_path: Path) -> None:
    assert f'"path":"{path}"' in ok("stat", "--json", "--set", f"store.path={path}").replace(" ", "")
    config = tmp_path / "fastmq.toml"
    config.write_text(f'[store]\npath = "{path}"\n')
    assert f'"path":"{path}"' in ok("stat", "--json", "--config", config).replace(" ", "")
    result = run("stat", STATE_DIRECTORY=str(tmp_path / "elsewhere"))
    assert (result.exit_code, result.stderr) == (1, f"{tmp_path}/elsewhere/fastmq.db: there is no store\n")
    wrong = run("stat", "--set", "store.durability=perhaps")
    assert wrong.exit_code == 2
    assert "store.durability" in wrong.stderr


# -- check -------------------------------------------------------------------------------------------------------------


def test_a_store_is_sound_while_its_broker_works(broker: BrokerProcess, path: Path) -> None:
    for number in range(5):
        publish(broker, "a/2", *[b"more"] * 20)
        assert ok("check", "--store", path) == f"{path}: the store is sound\n"
        if number == 2:
            assert len(received(broker, "reader", 30)) == 30


def test_damage_is_told_with_what_the_broker_will_do(path: Path) -> None:
    with running_broker({"store.path": str(path)}) as broker:
        leave(broker, "reader", "a/#")
        publish(broker, "a/1", b"one", b"two")
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 1000)
    result = run("check", "--store", path)
    assert result.exit_code == 1
    assert f"{path}: " in result.stderr
    assert "FILE.damaged-TIME" in result.stderr
    for command in ("stat", "export"):
        result = run(command, "--store", path)
        assert result.exit_code == 1
        assert "the store is damaged" in result.stderr
        assert "Traceback" not in result.stderr


# -- export and import -------------------------------------------------------------------------------------------------


def test_an_export_of_a_running_broker_starts_another(broker: BrokerProcess, path: Path, tmp_path: Path) -> None:
    file, other = tmp_path / "export.jsonl", tmp_path / "other.db"
    ok("export", "--store", path, file)
    assert file.read_text() == ok("export", "--store", path, "-") == ok("export", "--store", path)
    assert file.stat().st_mode & 0o77 == 0
    said = ok("import", "--store", other, file)
    assert said == f"{other}: imported group=1 session=1 subscription=2 message=4 retained=1 delivery=3\n"
    assert ok("export", "--store", other) == file.read_text()
    with running_broker({"store.path": str(other)}) as second:
        publish(second, "a/1", b"three")
        assert sorted(received(second, "reader", 4)) == [b"one", b"shared", b"three", b"two"]
        with joined(second, "new", clean=True) as client:
            client.subscribe("kept")
            assert client.receive().payload == b"last"
    assert broker.is_running()


def test_a_file_is_not_overwritten_unless_asked(broker: BrokerProcess, path: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    for command in ("export", "backup"):
        file.write_text("precious")
        result = run(command, "--store", path, file)
        assert (result.exit_code, result.stderr) == (1, f"{file}: is there already; --force overwrites it\n")
        assert file.read_text() == "precious"
        ok(command, "--store", path, "--force", file)
        assert file.read_bytes() != b"precious"
    assert not list(tmp_path.glob("*.part"))


def test_a_wrong_import_says_where(broker: BrokerProcess, path: Path, tmp_path: Path) -> None:
    lines = ok("export", "--store", path).splitlines()
    lines[2] = lines[2].replace("reader", "\\u0000")
    file = tmp_path / "export.jsonl"
    file.write_text("\n".join(lines))
    result = run("import", "--store", tmp_path / "other.db", file)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"{file}:3: has text that is not UTF-8\n")
    assert result.stderr.endswith("nothing was imported\n")
    taken = run("import", "--store", path, "--replace", file)
    assert taken.exit_code == 1
    assert f"process {broker.pid} has this store open" in taken.stderr


# -- backup ------------------------------------------------------------------------------------------------------------


class Load(threading.Thread):
    """Publishes numbers with QoS 1, one after another, to a reader that is away."""

    def __init__(self, broker: BrokerProcess) -> None:
        super().__init__(daemon=True)
        self._broker = broker
        self._over = threading.Event()
        self.acknowledged = 0
        self.start()

    def run(self) -> None:
        with joined(self._broker, "load", clean=True) as client:
            while not self._over.is_set():
                client.publish("a/load", b"%d" % self.acknowledged, qos=1)
                self.acknowledged += 1

    def stop(self) -> None:
        self._over.set()
        self.join(10)


def numbers(broker: BrokerProcess, at_least: int) -> list[int]:
    return [int(payload) for payload in received(broker, "reader", at_least)]


def test_a_backup_under_load_has_all_that_was_acknowledged(path: Path, tmp_path: Path) -> None:
    settings: dict[str, Setting] = {"store.path": str(path), "queue.messages_max": 1_000_000}
    copies: list[tuple[int, Path]] = []
    with running_broker(settings) as broker:
        leave(broker, "reader", "a/#")
        load = Load(broker)
        for number in range(3):
            before = 300 * (number + 1)
            await_condition(lambda before=before: load.acknowledged >= before, 15)  # type: ignore[misc]
            copy = tmp_path / f"copy-{number}.db"
            acknowledged = load.acknowledged
            said = ok("backup", "--store", path, copy)
            assert said == f"{copy}: {copy.stat().st_size:,} bytes\n"
            copies.append((acknowledged, copy))
        load.stop()
    for acknowledged, copy in copies:
        assert copy.stat().st_mode & 0o77 == 0
        assert ok("check", "--store", copy) == f"{copy}: the store is sound\n"
        with running_broker({**settings, "store.path": str(copy)}) as restored:
            assert numbers(restored, acknowledged) == list(range(acknowledged))


def test_a_backup_over_an_open_store_is_refused(broker: BrokerProcess, path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with running_broker({"store.path": str(other)}) as second:
        leave(second, "someone", "x")
        result = run("backup", "--store", path, "--force", other)
        assert result.exit_code == 1
        assert "is a store that is open, or was not closed" in result.stderr
    assert run("backup", "--store", path, "--force", path).exit_code == 1


def test_a_backup_that_fails_leaves_nothing(broker: BrokerProcess, path: Path, tmp_path: Path) -> None:
    missing = tmp_path / "no" / "folder" / "copy.db"
    result = run("backup", "--store", path, missing)
    assert result.exit_code == 1
    assert str(missing) in result.stderr
    assert run("backup", "--store", tmp_path / "none.db", tmp_path / "copy.db").exit_code == 1
    assert not (tmp_path / "copy.db").exists()


# -- after a kill ------------------------------------------------------------------------------------------------------


def test_what_a_killed_broker_left_is_read_exported_and_started_again(path: Path, tmp_path: Path) -> None:
    first = start_fastmq({"store.path": str(path)})
    try:
        leave(first, "reader", "a/#")
        publish(first, "a/1", b"one", b"two")
    finally:
        first.kill()
    assert json.loads(ok("stat", "--json", "--store", path))["deliveries"] == 2
    assert ok("check", "--store", path) == f"{path}: the store is sound\n"
    before = ok("export", "--store", path)
    ok("import", "--store", tmp_path / "copy.db", *file_of(tmp_path, before))
    for store in (path, tmp_path / "copy.db"):
        with ended_cleanly(start_fastmq({"store.path": str(store)})) as again:
            assert received(again, "reader", 2) == [b"one", b"two"]


def file_of(folder: Path, text: str) -> list[Path]:
    file = folder / "export.jsonl"
    file.write_text(text)
    return [file]
