"""The broker of the interop tests: fastmq, or Debian's mosquitto (INTEROP_BROKER=mosquitto) to check the tests."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator

import pytest

from tests.brokerproc import BrokerProcess, Setting, running_broker

StartBroker = Callable[[dict[str, Setting]], BrokerProcess]


def broker_kind() -> str:
    kind = os.environ.get("INTEROP_BROKER", "fastmq")
    assert kind in ("fastmq", "mosquitto"), f"INTEROP_BROKER={kind}: only fastmq and mosquitto are known"
    return kind


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "mosquitto_bug(why): mosquitto 2.0.11 itself fails this one")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if broker_kind() != "mosquitto":
        return
    for item in items:
        if bug := item.get_closest_marker("mosquitto_bug"):
            item.add_marker(pytest.mark.xfail(reason=bug.args[0], strict=False))


@pytest.fixture(scope="session")
def shared_broker() -> Iterator[BrokerProcess]:
    with running_broker({"systopics.interval_s": 1}, broker_kind()) as process:
        yield process


@pytest.fixture
def broker(shared_broker: BrokerProcess) -> Iterator[BrokerProcess]:
    """The broker with its defaults. All tests share it: use the `topic` fixture to stay out of each other's way."""
    shared_broker.assert_healthy()
    yield shared_broker
    shared_broker.assert_healthy()


@pytest.fixture
def start_broker() -> Iterator[StartBroker]:
    """Starts a broker of the test's own, with settings."""
    with contextlib.ExitStack() as stack:
        yield lambda settings: stack.enter_context(running_broker(settings, broker_kind()))


@pytest.fixture
def topic() -> str:
    """A topic (and a client id, if need be) that no other test uses."""
    return f"interop/{uuid.uuid4().hex[:12]}"
