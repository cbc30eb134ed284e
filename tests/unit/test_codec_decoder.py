"""The incremental decoder: cutting a stream, limits, the first packet."""

import pytest

from fastmq._codec import Decoder, encode
from fastmq.errors import MalformedPacket, ProtocolError
from fastmq.packets import Connect, Packet, Pingreq, Puback, Publish
from fastmq.reasons import Reason


def test_many_packets_come_out_of_one_read() -> None:
    decoder = Decoder(4)
    wire = encode(Pingreq(), 4) + encode(Puback(7), 4) + encode(Publish("a", b"b"), 4)
    assert decoder.feed(wire) == [Pingreq(), Puback(7), Publish("a", b"b")]


def test_one_packet_comes_out_of_many_reads() -> None:
    packet = Publish("topic", bytes(range(256)) * 300)
    decoder, found = Decoder(4), []
    wire = encode(packet, 4)
    for at in range(0, len(wire), 7):
        found += decoder.feed(wire[at : at + 7])
    assert found == [packet]


def test_the_end_of_one_packet_and_the_start_of_the_next_share_a_read() -> None:
    first, second = encode(Puback(1), 4), encode(Puback(2), 4)
    decoder = Decoder(4)
    assert decoder.feed(first[:3]) == []
    assert decoder.feed(first[3:] + second[:1]) == [Puback(1)]
    assert decoder.feed(second[1:]) == [Puback(2)]


def test_nothing_comes_out_of_nothing() -> None:
    decoder = Decoder(5)
    assert decoder.feed(b"") == []
    assert decoder.feed(bytearray()) == []


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_each_length_of_the_remaining_length_is_read(size: int) -> None:
    wire = encode(Publish("a", b"x" * max(0, size - 3)), 4)
    assert len(Decoder(4).feed(wire)[0].payload) == max(0, size - 3)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "wire", [b"\xc0\x80\x00", b"\x30\xff\x80\x00", b"\x30\xff\xff\xff\xff\x01", b"\x30\x80\x80\x80\x80"]
)
def test_a_remaining_length_must_be_minimal_and_short(wire: bytes) -> None:
    with pytest.raises(MalformedPacket, match="remaining length"):
        Decoder(4).feed(wire)


def test_an_unfinished_remaining_length_waits() -> None:
    assert Decoder(4).feed(b"\x30\xff\xff\xff") == []


def test_a_packet_that_is_too_large_is_refused_before_it_has_come() -> None:
    decoder = Decoder(5, maximum_packet_size=100)
    assert decoder.feed(encode(Publish("a", b"x" * 94), 5))
    with pytest.raises(ProtocolError) as refused:
        decoder.feed(encode(Publish("a", b"x" * 95), 5)[:3])
    assert refused.value.reason == Reason.PACKET_TOO_LARGE


def test_reserved_flags_are_refused_before_the_packet_has_come() -> None:
    with pytest.raises(MalformedPacket):
        Decoder(5).feed(b"\x81\x7f")


def test_the_first_packet_of_a_client_is_connect() -> None:  # [MQTT-3.1.0-1]
    with pytest.raises(ProtocolError, match="not CONNECT") as refused:
        Decoder().feed(encode(Pingreq(), 4))
    assert refused.value.reason == Reason.PROTOCOL_ERROR


@pytest.mark.parametrize("version", [3, 4, 5])
def test_connect_sets_the_version_of_what_follows_it_in_the_same_read(version: int) -> None:
    decoder = Decoder()
    packets: list[Packet] = [Connect("c", version), Publish("a", b"b", 1, packet_id=1)]
    assert decoder.feed(b"".join(encode(each, version) for each in packets)) == packets
    assert decoder.version == version


@pytest.mark.parametrize("version", [1, 2, 6])
def test_a_decoder_is_for_one_of_three_versions(version: int) -> None:
    with pytest.raises(ValueError, match="no such MQTT version"):
        Decoder(version)


def test_what_was_decoded_does_not_point_into_the_buffer() -> None:
    buffer = bytearray(encode(Publish("topic", b"payload"), 4))
    (packet,) = Decoder(4).feed(buffer)
    buffer[:] = bytes(len(buffer))
    assert packet == Publish("topic", b"payload")
