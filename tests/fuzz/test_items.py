"""What comes from another worker, far or near, is looked at like a stranger's: any bytes end its connection at most."""

from __future__ import annotations

import socket
import struct

from hypothesis import given
from hypothesis import strategies as st

from tests.inprocess import Engine
from tests.wireclient.decode import Publish, Suback
from tests.wireclient.encode import varint

GROUPS = (b"$share/g/t", b"$share/h/t", b"$share//t", b"x", b"")
NAMES = st.sampled_from(GROUPS)
NUMBERS = st.one_of(st.integers(0, 20), st.integers(0, (1 << 64) - 1))


def framed(first: int, body: bytes) -> bytes:
    return bytes((first,)) + varint(len(body)) + body


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    kind = draw(st.sampled_from((3, 4, 5, 6, 7, 14, 15)))
    qos = draw(st.integers(0, 3))
    body = struct.pack("!QQ", draw(NUMBERS), draw(NUMBERS))
    if kind in (4, 5):
        name = draw(NAMES)
        body += struct.pack("!BH", draw(st.integers(0, 255)), len(name)) + name
    if kind != 14:
        body += draw(st.sampled_from((b"\0\1t", b"\0\3t/u", b"\0\0", b"\0\1#"))) + (b"\0\1" if qos else b"")
        body += draw(st.sampled_from((b"\0", b"\5\2\0\0\0\1", b"\2\1\1", b"\1\1", b"\xff"))) + draw(
            st.binary(max_size=9)
        )
    return framed(kind << 4 | qos << 1 | draw(st.integers(0, 1)), body)


STATES = st.builds(
    lambda n, online, durable, received, queued, name: framed(
        0xA0, struct.pack("!IIBQI", n, online, durable, received, queued) + name
    ),
    st.integers(0, 5), st.integers(0, 5), st.integers(0, 2), NUMBERS, st.integers(0, 100), NAMES,
)  # fmt: skip
ITEMS = st.one_of(
    messages(),
    STATES,
    st.builds(framed, st.sampled_from((0x10, 0x20, 0x80, 0x90, 0xB0, 0xC0, 0xD0)), st.binary(max_size=12)),
    st.builds(lambda text: framed(0x80, text), st.sampled_from((b"t", b"t/+", b"#", b"a/#/b", b""))),
    st.builds(lambda number: framed(0xC0, struct.pack("!Q", number)), NUMBERS),
    st.builds(lambda number: framed(0x20, struct.pack("!I", number)), st.integers(0, (1 << 32) - 1)),
    st.binary(max_size=20),
)


@given(st.lists(ITEMS, max_size=30), st.lists(ITEMS, max_size=10), st.booleans(), st.sampled_from((0, 1, 2)))
def test_any_items_leave_the_worker_alive(said: list[bytes], answered: list[bytes], groups: bool, far: int) -> None:
    with Engine(place=(0, 1 if far else 2), clustered={"clustered": bool(far), "node": 3}) as engine:
        index = engine.hub.remotes.add(0, far) if far else 1
        here, there = socket.socketpair()
        out, back = socket.socketpair()
        for end in (here, there, out, back):
            end.setblocking(False)
        engine.hub.remotes.hear(index, there.detach(), 7)
        engine.hub.remotes.speak(index, out.detach(), 7)
        client = engine.client("c")
        client.subscribe("t", 2)
        if groups:
            for name in GROUPS[:2]:
                client.subscribe(name.decode(), 1)
        for each in said:
            try:
                here.send(each)
            except OSError:
                break
            engine.settle()
        client.publish("t", b"1", qos=1, packet_id=1)
        for each in answered:
            try:
                back.send(each)
            except OSError:
                break
            engine.settle()
        engine.advance(1)
        if far == 2:  # it is given up, and forgotten groups go
            engine.hub.remotes.remove(index)
            engine.hub.remotes.settled()
            engine.settle()
            assert engine.hub.remotes.add(0, 1) == index
        client.drain()
        late = engine.client("late")
        answers = late.subscribe("x", 0)
        engine.advance(1)  # the other worker answers no mark: SUBACK comes without it
        assert any(isinstance(each, Suback) for each in (*answers, *late.read()))
        found = late.publish("x", b"2")
        assert [each.payload for each in found if isinstance(each, Publish)] == [b"2"]
        here.close()
        back.close()
        engine.settle()
