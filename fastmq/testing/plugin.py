"""The pytest plugin, found by its entry point. It must stay light: every pytest run of its users' imports it.

For async tests no fixture is needed: `async with fastmq.Broker() as broker` does the same on their own loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from fastmq.testing.background import BackgroundBroker


class BrokerFactory(Protocol):
    """Starts another broker; it takes what `fastmq.Broker` takes."""

    def __call__(self, *args: Any, **settings: Any) -> BackgroundBroker: ...


@pytest.fixture
def mqtt_broker_factory() -> Iterator[BrokerFactory]:
    """Starts MQTT brokers, `mqtt_broker_factory(**{"mqtt.maximum_qos": 1})`; they stop at the end of the test."""
    from fastmq.testing.background import BackgroundBroker

    with ExitStack() as brokers:
        yield lambda *args, **settings: brokers.enter_context(BackgroundBroker(*args, **settings))


@pytest.fixture
def mqtt_broker(mqtt_broker_factory: BrokerFactory) -> BackgroundBroker:
    """An MQTT broker for this test alone, on a free port: .host .port .url .publish() .messages() .advance() ..."""
    return mqtt_broker_factory()
