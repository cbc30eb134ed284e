"""fastmq: an MQTT 3.1, 3.1.1 and 5.0 broker. The public names; each is imported when it is first asked for."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastmq.broker.embedded import Broker, Message

__version__ = "0.1.0"
__all__ = ["Broker", "Message", "__version__"]

# name -> module. Lazy, so that `fastmq --version` and `import fastmq.topics` load neither the engine nor uvloop.
_HOMES = {"Broker": "fastmq.broker.embedded", "Message": "fastmq.broker.embedded"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
