"""A small blocking MQTT client for tests: its own codec, no help, able to send any bytes.

It shares no code with fastmq, so that an error in fastmq's codec cannot hide behind the same error here.
Reading is strict (a server that breaks the format fails the test), writing is free (tests must be able to lie).
"""

from tests.wireclient.client import Client, ConnectionEnded
from tests.wireclient.decode import (
    Ack,
    Auth,
    Connack,
    Disconnect,
    Packet,
    Pingresp,
    Publish,
    Suback,
    Unsuback,
    WireError,
)
from tests.wireclient.encode import Will

__all__ = [
    "Ack",
    "Auth",
    "Client",
    "Connack",
    "ConnectionEnded",
    "Disconnect",
    "Packet",
    "Pingresp",
    "Publish",
    "Suback",
    "Unsuback",
    "Will",
    "WireError",
]
