"""What the tests of moving sessions have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fastmq.store.memory import Contents
from tests.inprocess import Engine, Wire
from tests.unit.durable import lasting, messages, told
from tests.wireclient import encode
from tests.wireclient.decode import Ack, Packet, Publish

each_kind = pytest.mark.parametrize("kept", [False, True], ids=["in memory", "with a store"])


@contextmanager
def pair(kept: bool, **how: Any) -> Iterator[tuple[Engine, Engine]]:
    """Two engines: the session's old place and its new one. Their clocks differ."""
    with (
        Engine(store=Contents() if kept else None, **how) as old,
        Engine(store=Contents() if kept else None, **how) as new,
    ):
        new.advance(12_345.6)
        yield old, new


def gone(engine: Engine, *wires: Wire) -> None:
    for wire in wires:
        wire.close()
    engine.catch_up()


def exported(engine: Engine, client_id: bytes = b"s") -> bytes:
    """A session's state, with what is only in the store."""
    while not engine.hub.moving.want(client_id):
        engine.catch_up()
    state = engine.hub.moving.export(client_id)
    assert state is not None
    return state


def move(old: Engine, new: Engine, client_id: bytes = b"s") -> None:
    assert new.hub.moving.adopt(client_id, exported(old, client_id))
    assert old.hub.moving.drop(client_id)
    old.catch_up()
    new.catch_up()


def back(engine: Engine, client_id: str = "s", window: int = 65_535) -> Wire:
    """The client again; its session is there."""
    wire = lasting(engine, client_id, window=window)
    assert wire.connack is not None
    assert wire.connack.session_present
    return wire


def seen(packets: list[Packet]) -> list[tuple[object, ...]]:
    """What matters of a delivery: payload, QoS, DUP and packet id; or the kind and packet id of an acknowledgement."""
    return [
        (each.payload, each.qos, each.dup, each.packet_id)
        if isinstance(each, Publish)
        else (each.kind, each.packet_id)
        if isinstance(each, Ack)
        else (each,)
        for each in packets
    ]


def in_every_state(engine: Engine) -> Wire:
    """A client with deliveries in flight in each state, and three more in its queue."""
    wire = lasting(engine, window=5)
    wire.subscribe("t", 2)
    for i in range(3):  # these are done with: the packet ids that follow begin with 4
        told(engine, b"%d" % i)
    wire.drain()
    for payload, qos in [(b"a1", 1), (b"b2", 2), (b"c2", 2), (b"d1", 1), (b"e2", 2)]:
        told(engine, payload, qos=qos)
    engine.catch_up()
    assert [each.packet_id for each in messages(wire.read())] == [4, 5, 6, 7, 8]
    wire.send(encode.ack(5, encode.PUBREC, 6))
    engine.catch_up()
    assert seen(wire.read()) == [("PUBREL", 6)]
    for payload, qos in [(b"f1", 1), (b"g2", 2), (b"h1", 1)]:
        told(engine, payload, qos=qos)
    gone(engine, wire)
    return wire
