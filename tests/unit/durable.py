"""What the tests of a durable engine have in common."""

from __future__ import annotations

from typing import Any

from fastmq.store.memory import Contents
from tests.inprocess import Engine, Wire
from tests.wireclient import encode
from tests.wireclient import properties as p
from tests.wireclient.decode import Ack, Packet, Publish

LASTING = [(p.SESSION_EXPIRY, 1000)]


def durable(**how: Any) -> Engine:
    return Engine(store=Contents(), **how)


def lasting(engine: Engine, client_id: str = "s", version: int = 5, window: int = 65_535, expiry: int = 1000) -> Wire:
    """A client whose session outlives its connection, and the process."""
    props = [(p.SESSION_EXPIRY, expiry), (p.RECEIVE_MAXIMUM, window)] if version == 5 else []
    return engine.client(client_id, version, clean=False, props=props)


def subscribed(engine: Engine, client_id: str = "s", text: str = "t", options: int = 2, window: int = 65_535) -> Wire:
    wire = lasting(engine, client_id, window=window)
    wire.subscribe(text, options)
    engine.commit_all()
    wire.skip()
    return wire


def told(
    engine: Engine, payload: bytes, qos: int = 1, topic: str = "t", expiry: int | None = None, retain: bool = False
) -> None:
    """The broker's own publish: nobody waits for it."""
    props = [(p.MESSAGE_EXPIRY, expiry)] if expiry is not None else []
    packet_id = 1 if qos else None
    engine.hub.publish(encode.publish(5, topic, payload, qos=qos, retain=retain, packet_id=packet_id, props=props))


def away(engine: Engine, *wires: Wire) -> None:
    for wire in wires:
        wire.close()
    engine.commit_all()


def present(wire: Wire) -> bool:
    """Session Present, as its CONNACK said."""
    assert wire.connack is not None
    return wire.connack.session_present


def messages(packets: list[Packet]) -> list[Publish]:
    return [packet for packet in packets if isinstance(packet, Publish)]


def payloads(packets: list[Packet] | list[Publish]) -> list[bytes]:
    return [packet.payload for packet in packets if isinstance(packet, Publish)]


def kinds(packets: list[Packet]) -> list[str]:
    return [packet.kind if isinstance(packet, Ack) else type(packet).__name__.upper() for packet in packets]


def nothing_left(engine: Engine) -> bool:
    """Whether the store has no message and no delivery any more."""
    engine.commit_all()
    return engine.store.stat()["messages"] == engine.store.stat()["deliveries"] == 0 and not engine.laws.leaked()
