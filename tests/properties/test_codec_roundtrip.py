"""fastmq._codec against the oracle: both write the same bytes, and both read the same packets from any bytes."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastmq import _codec
from fastmq.errors import ProtocolError
from fastmq.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    SubscriptionRequest,
    Unsuback,
    Unsubscribe,
    Will,
)
from tests.properties import codec_oracle as oracle
from tests.wire.vectors import DECODED_ONLY, VECTORS

Draw = Callable[..., Any]

text = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=12)
long_text = st.builds(lambda letter, n: letter * n, st.sampled_from("aé€😀"), st.integers(100, 16_000))
strings = st.one_of(text, text, text, long_text)
topic_names = strings.map(lambda each: each.replace("+", "p").replace("#", "h")).filter(bool)
filters = st.one_of(text, st.sampled_from(["#", "+/a", "$share/g/a", "$SYS/#"])).filter(bool)
data = st.one_of(st.binary(max_size=20), st.binary(min_size=130, max_size=300))
u16 = st.one_of(st.sampled_from([0, 1, 255, 256, 65_535]), st.integers(0, 65_535))
u32 = st.one_of(st.sampled_from([0, 1, 65_536, 0xFFFFFFFF]), st.integers(0, 0xFFFFFFFF))
packet_ids = st.integers(1, 65_535)
varints = st.one_of(
    st.sampled_from([1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 268_435_455]), st.integers(1, 300)
)
versions = st.sampled_from([3, 4, 5])

FORMS: dict[str, st.SearchStrategy[Any]] = {
    "bool01": st.integers(0, 1),
    "flag": st.booleans(),
    "u16": u16,
    "u16+": u16.map(lambda n: n or 1),
    "u32": u32,
    "u32+": u32.map(lambda n: n or 1),
    "utf8": strings,
    "topic": topic_names,
    "binary": data,
    "pair": st.lists(st.tuples(text, text), min_size=1, max_size=3),
    "subid": st.lists(varints, min_size=1, max_size=3),
}


@st.composite
def properties(draw: Draw, where: str, version: int) -> Properties:
    found = Properties()
    if version < 5 or not draw(st.booleans()):
        return found
    possible = [(field, form) for field, form, places in oracle.ROWS.values() if where in places]
    for field, form in draw(st.lists(st.sampled_from(possible), unique=True, max_size=len(possible))):
        value = draw(FORMS[form])
        setattr(found, field, value[:1] if form == "subid" and where == "SUBSCRIBE" else value)
    if found.authentication_data is not None and found.authentication_method is None:
        found.authentication_method = "method"
    return found


@st.composite
def connects(draw: Draw, version: int) -> Connect:
    will = None
    if draw(st.booleans()):
        will = Will(draw(topic_names), draw(data), draw(st.integers(0, 2)), draw(st.booleans()))
        will.properties = draw(properties("w", version))
    username = draw(st.none() | strings)
    password = draw(st.none() | data) if version == 5 or username is not None else None
    flags = draw(st.booleans()), draw(u16)
    return Connect(draw(strings), version, *flags, username, password, will, draw(properties("CONNECT", version)))


@st.composite
def publishes(draw: Draw, version: int) -> Publish:
    qos, given_properties = draw(st.integers(0, 2)), draw(properties("PUBLISH", version))
    topic = draw(st.just("") | topic_names if given_properties.topic_alias else topic_names)
    dup, packet_id = (draw(st.booleans()), draw(packet_ids)) if qos else (False, 0)
    return Publish(topic, draw(data), qos, draw(st.booleans()), dup, packet_id, given_properties)


def reasons(where: str) -> st.SearchStrategy[int]:
    return st.sampled_from([int(code, 16) for code in oracle.REASONS[where].split()])


@st.composite
def acks(draw: Draw, kind: type, version: int) -> Packet:
    where = kind.__name__.upper()
    reason = draw(reasons(where)) if version == 5 else 0
    packet: Packet = kind(draw(packet_ids), reason, draw(properties(where, version)))
    return packet


@st.composite
def subscribes(draw: Draw, version: int) -> Subscribe:
    def request(topic_filter: str) -> SubscriptionRequest:
        if version < 5:
            return SubscriptionRequest(topic_filter, draw(st.integers(0, 2)))
        no_local = draw(st.booleans()) and not topic_filter.startswith("$share/")
        return SubscriptionRequest(
            topic_filter, draw(st.integers(0, 2)), no_local, draw(st.booleans()), draw(st.integers(0, 2))
        )

    wanted = [request(each) for each in draw(st.lists(filters, min_size=1, max_size=4))]
    return Subscribe(draw(packet_ids), wanted, draw(properties("SUBSCRIBE", version)))


@st.composite
def packets(draw: Draw, version: int) -> Packet:
    def extra(where: str) -> Properties:
        found: Properties = draw(properties(where, version))
        return found

    def codes(where: str) -> list[int]:
        allowed = reasons(where) if version == 5 else st.sampled_from([0, 1, 2, 0x80])
        found: list[int] = draw(st.lists(allowed, min_size=1, max_size=5))
        return found

    makers: list[Callable[[], Packet]] = [
        lambda: draw(connects(version)),
        lambda: Connack(
            draw(st.booleans()), draw(reasons("CONNACK") if version == 5 else st.integers(0, 5)), extra("CONNACK")
        ),
        lambda: draw(publishes(version)),
        *(partial(draw, acks(kind, version)) for kind in (Puback, Pubrec, Pubrel, Pubcomp)),
        lambda: draw(subscribes(version)),
        lambda: Suback(draw(packet_ids), codes("SUBACK"), extra("SUBACK")),
        lambda: Unsubscribe(draw(packet_ids), draw(st.lists(filters, min_size=1, max_size=4)), extra("UNSUBSCRIBE")),
        lambda: Unsuback(draw(packet_ids), codes("UNSUBACK") if version == 5 else [], extra("UNSUBACK")),
        lambda: draw(st.sampled_from([Pingreq(), Pingresp()])),
        lambda: Disconnect(draw(reasons("DISCONNECT")) if version == 5 else 0, extra("DISCONNECT")),
    ]
    if version == 5:
        makers.append(lambda: authenticating(Auth(draw(reasons("AUTH")), extra("AUTH"))))
    return draw(st.sampled_from(makers))()  # type: ignore[no-any-return]


def authenticating(packet: Auth) -> Auth:
    if packet.reason and packet.properties.authentication_method is None:
        packet.properties.authentication_method = "method"
    return packet


packets_of_a_version = versions.flatmap(lambda version: st.tuples(st.just(version), packets(version)))


@given(packets_of_a_version)
def test_a_packet_survives_the_wire_and_its_bytes_are_those_of_the_oracle(case: tuple[int, Packet]) -> None:
    version, packet = case
    wire = _codec.encode(packet, version)
    assert wire.hex(" ") == oracle.encode(packet, version).hex(" ")
    assert _codec.Decoder(version).feed(wire) == [packet]
    assert oracle.decode(wire, version) == packet


@given(versions.flatmap(lambda version: st.tuples(st.just(version), st.lists(packets(version), max_size=5))), st.data())
def test_packets_come_out_of_a_stream_whichever_way_it_is_cut(
    case: tuple[int, list[Packet]], draws: st.DataObject
) -> None:
    version, sent = case
    stream = b"".join(_codec.encode(packet, version) for packet in sent)
    cuts = sorted(draws.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    decoder, received = _codec.Decoder(version), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += decoder.feed(stream[start:end])
    assert received == sent


def read(wire: bytes, version: int) -> Packet | None:
    """What fastmq makes of exactly one packet's bytes; None when it refuses them."""
    try:
        found = _codec.Decoder(version).feed(wire)
    except ProtocolError:
        return None
    for packet in found:  # what can be read can be written
        assert _codec.encode(packet, packet.version if isinstance(packet, Connect) else version)
    return found[0] if found else None


def read_by_oracle(wire: bytes, version: int) -> Packet | None:
    try:
        return oracle.decode(wire, version)
    except oracle.Wrong:
        return None


def framed(first: int, body: bytes) -> bytes:
    return bytes([first]) + oracle.varint(len(body)) + body


SEEDS = [vector.data for vector in (*VECTORS, *DECODED_ONLY)]


def with_each_byte_changed(wire: bytes) -> Iterator[bytes]:
    first, body = wire[0], wire[2:]
    yield from (framed(first ^ 1 << bit, body) for bit in range(8))
    for at in range(len(body)):
        values = {body[at] ^ 1 << bit for bit in range(8)} | {0, 1, 2, 3, 0x7F, 0x80, 0xFF}
        yield from (framed(first, body[:at] + bytes([value]) + body[at + 1 :]) for value in values)
        yield framed(first, body[:at] + body[at + 1 :])
        yield framed(first, body[:at])
        yield from (framed(first, body[:at] + bytes([value]) + body[at:]) for value in (0, 1, 0x80, 0xFF))


@pytest.mark.parametrize("version", [3, 4, 5])
@pytest.mark.parametrize("wire", SEEDS, ids=lambda wire: wire[:12].hex())
def test_each_small_damage_is_refused_by_both_or_read_alike(version: int, wire: bytes) -> None:
    for changed in with_each_byte_changed(wire):
        assert read(changed, version) == read_by_oracle(changed, version), changed.hex(" ")


@st.composite
def damaged(draw: Draw) -> bytes:
    """A packet with one to three bytes changed, removed or added, and its length corrected so that it stays one."""
    wire = draw(st.sampled_from(SEEDS))
    first, body = wire[0], bytearray(wire[2:])
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(body)))
        action = draw(st.sampled_from(["change", "remove", "add", "flip", "first"]))
        if action == "first":
            first ^= 1 << draw(st.integers(0, 7))
        elif action == "add":
            body.insert(at, draw(st.integers(0, 255)))
        elif at < len(body):
            if action == "remove":
                del body[at]
            else:
                body[at] = draw(st.integers(0, 255)) if action == "change" else body[at] ^ 1 << draw(st.integers(0, 7))
    return framed(first, bytes(body))


@pytest.mark.parametrize("version", [3, 4, 5])
@given(wire=damaged())
def test_a_damaged_packet_is_refused_by_both_or_read_alike(version: int, wire: bytes) -> None:
    assert read(wire, version) == read_by_oracle(wire, version)


@given(versions, st.integers(0, 255), st.binary(max_size=40))
@example(4, 0x82, b"\0\1\0\1a\3")
def test_noise_is_refused_by_both_or_read_alike(version: int, first: int, body: bytes) -> None:
    wire = framed(first, body)
    assert read(wire, version) == read_by_oracle(wire, version)
