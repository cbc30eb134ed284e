"""Every vector of vectors.py, decoded and encoded."""

import pytest

from fastmq._codec import Decoder, decode, decode_connect, encode
from fastmq.packets import Connect
from tests.wire.vectors import DECODED_ONLY, ENCODED_ONLY, VECTORS, Vector


def name_of(vector: Vector) -> str:
    return f"{type(vector.packet).__name__}-{vector.version}-{vector.name}"


@pytest.mark.parametrize("vector", [*VECTORS, *DECODED_ONLY], ids=name_of)
def test_the_bytes_decode_to_the_packet(vector: Vector) -> None:
    assert decode(vector.data[0], vector.data[2:], vector.version) == vector.packet


@pytest.mark.parametrize("vector", [*VECTORS, *ENCODED_ONLY], ids=name_of)
def test_the_packet_encodes_to_the_bytes(vector: Vector) -> None:
    assert encode(vector.packet, vector.version).hex(" ") == vector.data.hex(" ")


@pytest.mark.parametrize("vector", [*VECTORS, *DECODED_ONLY], ids=name_of)
def test_a_stream_cut_anywhere_gives_the_same_packet(vector: Vector) -> None:
    for cut in range(1, len(vector.data)):
        decoder = Decoder(vector.version)
        assert decoder.feed(vector.data[:cut]) == []
        assert decoder.feed(vector.data[cut:]) == [vector.packet]


@pytest.mark.parametrize("vector", [v for v in VECTORS if isinstance(v.packet, Connect)], ids=name_of)
def test_a_connect_says_itself_which_version_it_is(vector: Vector) -> None:
    decoder = Decoder()
    assert decode_connect(vector.data[2:]) == vector.packet
    assert decoder.feed(vector.data) == [vector.packet]
    assert decoder.version == vector.version


@pytest.mark.parametrize("vector", VECTORS, ids=name_of)
def test_any_buffer_will_do(vector: Vector) -> None:
    body = vector.data[2:]
    for buffer in (bytearray(body), memoryview(b"-" + body)[1:]):
        assert decode(vector.data[0], buffer, vector.version) == vector.packet
