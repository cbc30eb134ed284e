"""The pytest plugin, as its users run it: in a pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import pytest

from fastmq.contracts import Message
from fastmq.errors import ConfigError, StartError
from fastmq.packets import Properties
from fastmq.testing import BackgroundBroker, Collected

ROOT = Path(__file__).parents[2]


def run_pytest(folder: Path, test: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a test file where fastmq is installed: its entry points are those of pyproject.toml."""
    (folder / "test_it.py").write_text(test)
    metadata = folder / "site" / "fastmq-0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: fastmq\nVersion: 0\n")
    plugins = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    lines = [f"{name} = {module}" for name, module in plugins.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[pytest11]", *lines, ""]))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder / "site"), str(ROOT)])}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", "--rootdir", str(folder), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=18,
    )


def test_the_fixtures_are_there_without_a_word(tmp_path: Path) -> None:
    done = run_pytest(
        tmp_path,
        """
import paho.mqtt.client as mqtt
import paho.mqtt.publish
import paho.mqtt.subscribe

ports = []

def test_publish(mqtt_broker):
    heard = mqtt_broker.messages("sensors/#")
    paho.mqtt.publish.single("sensors/1", b"21.5", hostname=mqtt_broker.host, port=mqtt_broker.port, qos=1)
    assert [message.payload for message in heard.wait(1)] == [b"21.5"]
    ports.append(mqtt_broker.port)

def test_subscribe(mqtt_broker):
    assert mqtt_broker.clients() == []
    mqtt_broker.publish("kept", "hello", retain=True)
    message = paho.mqtt.subscribe.simple("kept", hostname=mqtt_broker.host, port=mqtt_broker.port)
    assert message.payload == b"hello"

def test_one_broker_each(mqtt_broker, mqtt_broker_factory):
    other = mqtt_broker_factory(**{"mqtt.maximum_qos": 1})
    third = mqtt_broker_factory()
    assert len({mqtt_broker.port, other.port, third.port}) == 3
    assert other.messages().all() == []

def test_url(mqtt_broker):
    assert mqtt_broker.url == f"mqtt://{mqtt_broker.host}:{mqtt_broker.port}"
""",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def test_a_failing_test_stops_its_brokers(tmp_path: Path) -> None:
    done = run_pytest(
        tmp_path,
        """
import socket, threading, pytest

seen = []

def test_fails(mqtt_broker, mqtt_broker_factory):
    seen.extend([mqtt_broker, mqtt_broker_factory()])
    seen.append(socket.create_connection((mqtt_broker.host, mqtt_broker.port)))
    assert False

def test_afterwards():
    *brokers, client = seen
    assert client.recv(10) == b""
    client.close()
    for broker in brokers:
        with pytest.raises(RuntimeError, match="not running"):
            broker.stats()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((broker.host, broker.port))
    assert [thread.name for thread in threading.enumerate() if thread.name == "fastmq"] == []
""",
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr


def test_the_fixtures_are_listed_with_what_they_do(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, "", "--fixtures")
    assert "mqtt_broker_factory" in done.stdout
    assert "An MQTT broker for this test alone" in done.stdout


def test_who_does_not_use_it_does_not_load_it(tmp_path: Path) -> None:
    done = run_pytest(
        tmp_path,
        """
import sys

def test_it():
    loaded = {name for name in sys.modules if name.split(".")[0] in ("fastmq", "uvloop", "asyncio")}
    assert loaded - {"asyncio"} <= {"fastmq", "fastmq.testing", "fastmq.testing.plugin"}, loaded
    assert "fastmq.testing.plugin" in loaded
""",
    )
    assert done.returncode == 0, done.stdout + done.stderr


# -- the broker in its thread ------------------------------------------------------------------------------------------


def test_it_starts_and_stops_in_a_moment() -> None:
    with BackgroundBroker():
        pass  # what is imported is imported
    started = []
    for _ in range(10):
        before = time.perf_counter()
        with BackgroundBroker() as broker:
            assert broker.port
        started.append(time.perf_counter() - before)
    assert sorted(started)[5] < 0.05


def test_its_port_is_known_and_closed_after_it() -> None:
    broker = BackgroundBroker()
    assert (broker.host, broker.port, broker.url) == ("", 0, "")
    for _ in range(2):
        with broker:
            assert broker.url == f"mqtt://127.0.0.1:{broker.port}"
            with pytest.raises(RuntimeError, match="running already"):
                broker.start()
        with pytest.raises(RuntimeError, match="not running"):
            broker.publish("a")
        broker.stop()


def test_a_port_in_use_leaves_no_thread() -> None:
    before = threading.active_count()
    with BackgroundBroker() as broker:
        with pytest.raises(StartError, match="in use"):
            BackgroundBroker(listen=f"tcp://127.0.0.1:{broker.port}").start()
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_wrong_settings_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"mqtt\.maximum_qos"):
        BackgroundBroker(**{"mqtt.maximum_qos": 9})


def test_errors_come_back_to_the_caller() -> None:
    with BackgroundBroker() as broker:
        with pytest.raises(ValueError, match="PUBLISH"):
            broker.publish("a/#")
        with pytest.raises(ValueError, match="filter"):
            broker.messages("a/#/b")
        assert broker.publish(Message("a", b"fine")) == 0


def test_what_came_before_the_end_is_collected() -> None:
    with BackgroundBroker() as broker:
        heard = broker.messages("a", "b")
        for number in range(500):
            broker.publish("ab"[number % 2], str(number))
    assert [int(message.payload) for message in heard] == list(range(500))
    assert heard.topics[:2] == ["a", "b"]
    assert heard.payloads[499] == b"499"
    heard.clear()
    assert len(heard) == 0


def test_the_wait_for_messages_ends_with_what_came_instead() -> None:
    with BackgroundBroker() as broker:
        heard = broker.messages("a/#")
        broker.publish("a/1", b"x")
        with pytest.raises(TimeoutError, match=r"2 messages did not come in 0\.05 s; 1 came, a/1: b'x'"):
            heard.wait(2, timeout=0.05)
        with pytest.raises(TimeoutError, match=r"under 'a/2' did not come"):
            heard.wait_for("a/2", timeout=0.05)
        assert heard.wait_for("a/1") == heard[0]


def test_nothing_is_named_when_nothing_came() -> None:
    with pytest.raises(TimeoutError, match=r"0 came$"):
        Collected().wait(timeout=0.01)


def test_the_clock_moves_only_when_it_is_moved() -> None:
    with BackgroundBroker() as broker:
        broker.publish("kept", b"x", retain=True, properties=Properties(message_expiry_interval=10))
        broker.advance(9.5)
        assert len(broker.messages("kept").wait()) == 1
        broker.advance(1)
        assert broker.messages("kept").all() == []
