"""The state of a session as bytes of a stranger: what is malformed changes nothing, and nothing crashes."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from fastmq.store.memory import Contents
from tests.inprocess import Engine
from tests.unit.durable import lasting, subscribed, told
from tests.unit.moved import exported
from tests.wireclient import encode
from tests.wireclient import properties as p
from tests.wireclient.properties import Properties

MUTATIONS = int(os.environ.get("MUTATIONS", "4000"))


@pytest.fixture(scope="module")
def state() -> bytes:
    """One that has all there is."""
    with Engine(qos0_offline=True) as engine:
        will = encode.Will("w", b"will", 1, True, [(p.WILL_DELAY, 100), (p.MESSAGE_EXPIRY, 30)])
        wire = engine.client(
            "s", clean=False, props=[(p.SESSION_EXPIRY, 1000), (p.RECEIVE_MAXIMUM, 3)], will=will
        )  # fmt: skip
        wire.subscribe("t", 2, [(p.SUBSCRIPTION_ID, 300)])
        wire.subscribe("t/#", 0x18 | 1, [(p.SUBSCRIPTION_ID, 2)])
        wire.subscribe("$share/g/u", 1, [(p.SUBSCRIPTION_ID, 3)])
        told(engine, b"retained", topic="t/r", retain=True)
        wire.publish("x", b"in", qos=2, packet_id=77)
        told(engine, b"shared", topic="u")
        told(engine, b"two", qos=2, expiry=500)
        told(engine, b"two", qos=2)
        wire.read_on()
        wire.send(encode.ack(5, encode.PUBREC, 3))
        engine.settle()
        props: Properties = [(p.CONTENT_TYPE, "a"), (p.USER_PROPERTY, ("k", "v"))]
        engine.hub.publish(encode.publish(5, "t", b"queued", qos=1, packet_id=1, props=props))
        wire.close()
        engine.settle()
        told(engine, b"nothing", qos=0, expiry=3)
        told(engine, b"waits for the group", topic="u")
        return exported(engine)


class Watched:
    """An engine with a session of its own that is away, and whether anything of it has changed."""

    def __init__(self) -> None:
        self.engine = Engine(store=Contents())
        wire = subscribed(self.engine)
        told(self.engine, b"here")
        wire.close()
        self.engine.commit_all()
        told(self.engine, b"queued here")
        subscribed(self.engine, "other", "$share/g/u").close()
        self.engine.commit_all()
        self._is = self._look()

    def _look(self) -> object:
        hub = self.engine.hub
        state = hub.moving.export(b"s", only_subscriptions=True)
        assert state is not None
        return hub.stats() | {"memory_peak": 0}, hub.clients(), state[-6:]  # before that it says how long it has left

    def sees(self) -> None:
        self._is = self._look()

    def refuses(self, state: bytes, client_id: bytes) -> bool:
        """False: it was adopted, and dropped again."""
        try:
            adopted = self.engine.hub.moving.adopt(client_id, state)
        except ValueError:
            assert self._look() == self._is
            return True
        if not adopted:
            assert self._look() == self._is
        elif client_id != b"s":
            assert self.engine.hub.moving.drop(client_id)
        self.engine.commit_all()
        self.sees()
        return False


@pytest.fixture
def watched() -> Iterator[Watched]:
    it = Watched()
    with it.engine:
        yield it


def test_what_is_cut_off_anywhere_is_refused(state: bytes, watched: Watched) -> None:
    for size in range(len(state)):
        assert watched.refuses(state[:size], b"s")
        assert watched.refuses(state[:size], b"new")
    assert watched.refuses(state + b"\0", b"new")
    assert not watched.refuses(state, b"new")


@pytest.mark.parametrize("seed", range(4))
def test_what_is_damaged_is_refused_or_means_something_else(state: bytes, watched: Watched, seed: int) -> None:
    chance = random.Random(seed)
    refused = 0
    for _ in range(MUTATIONS // 4):
        damaged = bytearray(state)
        for _ in range(chance.choice((1, 1, 2, 5))):
            at = chance.randrange(len(damaged))
            match chance.randrange(4):
                case 0:
                    damaged[at] ^= 1 << chance.randrange(8)
                case 1:
                    damaged[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
                case 2:
                    del damaged[at : at + chance.randrange(1, 9)]
                case _:
                    damaged[at:at] = bytes(damaged[at : at + chance.randrange(1, 40)])
            damaged = damaged or bytearray(b"\0")
        client_id = b"new%d" % chance.randrange(3)
        if chance.randrange(2):  # it is here already, and has something queued
            assert watched.engine.hub.moving.adopt(client_id, SUBSCRIBED)
            told(watched.engine, b"queued", topic="u/half")
            watched.engine.commit_all()
            watched.sees()
        refused += watched.refuses(bytes(damaged), client_id)
        watched.engine.hub.moving.drop(client_id)
        watched.engine.commit_all()
        watched.sees()
    assert refused > MUTATIONS // 16
    assert watched.engine.hub.moving.drop(b"s")
    watched.engine.hub.moving.drop(b"other")
    watched.engine.commit_all()
    assert watched.engine.hub.stats()["subscriptions"] == watched.engine.hub.stats()["shared_subscriptions"] == 0
    assert not watched.engine.store.contents.messages


SUBSCRIBED = b"\x01\x00\x0a\x00\x01\x02\x00\x06u/half"

HEAD = b"\x01\x01\x0a\x00"
EMPTY = HEAD + b"\x00\x00\x00"
"""Expiry 10; no subscription, no will, nothing received."""
M = b"\x01\x01t\x00\x00"
"""A message: QoS 1, topic `t`."""


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (b"", "nothing"),
        (b"\x02" + EMPTY[1:] + b"\0\0", "another version"),
        (b"\x01\x02\x0a\x00\x00", "another kind"),
        (b"\x01\x00\x80\x80\x80\x80\x10\x00\x00", "an expiry of more than 32 bits"),
        (b"\x01\x00\x0a\xff\xff\xff\xff\xff\xff\xff\x7f\x00", "a time that is too long"),
        (b"\x01\x00\x0a\x00\xff\xff\xff\xff\x0f", "more subscriptions than bytes"),
        (b"\x01\x00\x0a\x00\x01\x03\x00\x01t", "QoS 3"),
        (b"\x01\x00\x0a\x00\x01\x41\x00\x01t", "options of another worker"),
        (b"\x01\x00\x0a\x00\x01\x30\x00\x01t", "retain handling 3"),
        (b"\x01\x00\x0a\x00\x01\x00\x80\x80\x80\x80\x01\x01t", "a large subscription identifier"),
        (b"\x01\x00\x0a\x00\x01\x00\x00\x00", "no filter"),
        (b"\x01\x00\x0a\x00\x01\x00\x00\x02#t", "no such filter"),
        (b"\x01\x00\x0a\x00\x01\x00\x00\x0a$share/g/+"[:-3] + b"\xff/t", "a group whose name is no text"),
        (b"\x01\x00\x0a\x00\x01\x00\x00\x08$share/g", "a group without filter"),
        (HEAD + b"\x00\x02\x00\x00", "a will of no kind"),
        (HEAD + b"\x00\x01\x00\x00\x02\x00" + M + b"\x00\x00", "a will with an expiry of no kind"),
        (HEAD + b"\x00\x00\x01\x00\x00\x00", "packet id 0 received"),
        (HEAD + b"\x00\x00\x02\x01\x00\x01\x00\x00", "a packet id received twice"),
        (HEAD + b"\x00\x00\x80\x80\x04", "too many packet ids received"),
        (EMPTY + b"\x01\x09\x00\x00\x00" + M, "packet id 0 in flight"),
        (EMPTY + b"\x02\x09\x01\x00\x00" + M + b"\x09\x01\x00\x00" + M, "a packet id twice"),
        (EMPTY + b"\x02\x01\x00" + M + b"\x09\x01\x00\x00" + M, "in flight behind the queue"),
        (EMPTY + b"\x01\x0a\x01\x00\x00" + M, "QoS 2 that awaits PUBACK"),
        (EMPTY + b"\x01\x11\x01\x00\x00" + M, "QoS 1 that awaits PUBREC"),
        (EMPTY + b"\x01\x03\x00" + M, "a delivery with QoS 3"),
        (EMPTY + b"\x01\x81\x00" + M, "flags that are none"),
        (EMPTY + b"\x01\x29\x01\x00\x01\x00" + M, "a group that is not there"),
        (HEAD + b"\x01\x00\x00\x01t\x00\x00\x01\x29\x01\x00\x01\x00" + M, "a group that is none"),
        (EMPTY + b"\x01\x21\x01\x00" + M, "queued, of a group"),
        (EMPTY + b"\x01\x01\x01\x00" + M, "subscription identifier 0"),
        (EMPTY + b"\x01\x01\x81\x20" + b"\x01" * 4097 + M, "too many subscription identifiers"),
        (EMPTY + b"\x01\x01\x00\x10\x01t\x00\x00", "a message with flags that are none"),
        (EMPTY + b"\x01\x01\x00\x03\x01t\x00\x00", "a message with QoS 3"),
        (EMPTY + b"\x01\x01\x00\x01\x00\x00\x00", "a message without topic"),
        (EMPTY + b"\x01\x01\x00\x01\x01+\x00\x00", "a message to a filter"),
        (EMPTY + b"\x01\x01\x00\x01\x01t\x03\x23\x00\x01\x00", "a topic alias"),
        (EMPTY + b"\x01\x01\x00\x01\x01t\x01\x01\x00", "a property that is cut off"),
        (EMPTY + b"\x01\x01\x00\x01\x01t\x00\xff\xff\xff\xff\x7f", "a payload that is not there"),
        (EMPTY + b"\x00\x01\x01" + M, "waits for a group that is not there"),
        (HEAD + b"\x01\x00\x00\x01t\x00\x00\x00\x01\x01" + M, "waits for a group that is none"),
        (EMPTY + b"\x00\x02", "fewer messages than it says"),
        (EMPTY + b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "a number without end"),
    ],
)
def test_what_no_engine_writes_is_refused(watched: Watched, state: bytes, why: str) -> None:
    assert watched.refuses(state, b"new"), why
    assert watched.refuses(state, b"s"), why


def test_what_is_built_by_hand_is_adopted(watched: Watched) -> None:
    group = HEAD + b"\x01\x00\x00\x0a$share/g/t\x00\x00"
    for each in (EMPTY + b"\x00", EMPTY + b"\x01\x01\x00" + M, EMPTY + b"\x01\x09\x01\x00\x00" + M):
        assert not watched.refuses(each + b"\x00", b"new")
    for each in (group + b"\x01\x29\x01\x00\x01\x00" + M + b"\x00", group + b"\x00\x01\x01" + M):
        assert not watched.refuses(each, b"new")


@pytest.mark.parametrize("client_id", [b"\xff", b"a\0b", b"x" * 65_536])
def test_what_is_no_client_identifier_is_refused(watched: Watched, client_id: bytes) -> None:
    assert watched.refuses(EMPTY + b"\0\0", client_id)


def test_many_moves_leave_nothing_behind(state: bytes) -> None:
    with Engine() as engine:

        def rounds(count: int) -> int:
            for i in range(count):
                assert engine.hub.moving.adopt(b"s%d" % (i % 7), state)
                assert engine.hub.moving.adopt(b"s%d" % (i % 7), state) is False
                assert engine.hub.moving.export(b"s%d" % (i % 7)) is not None
                assert engine.hub.moving.drop(b"s%d" % (i % 7))
            engine.settle()
            return engine.memory()

        assert rounds(50) == rounds(2000)
        assert lasting(engine).connack is not None
