"""For the tests of programs that speak MQTT: a broker in a thread, and the pytest fixtures `mqtt_broker` and co.

The names are imported when they are first asked for, so that pytest's start loads neither the engine nor uvloop.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastmq.testing.background import BackgroundBroker
    from fastmq.testing.collected import Collected

__all__ = ["BackgroundBroker", "Collected"]

_HOMES = {"BackgroundBroker": "fastmq.testing.background", "Collected": "fastmq.testing.collected"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
