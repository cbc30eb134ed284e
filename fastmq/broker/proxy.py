"""The PROXY protocol, versions 1 and 2 (HAProxy's proxy-protocol.txt): who the client of a proxy is."""

import asyncio
import ipaddress
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from fastmq.config.networks import Network, is_within
from fastmq.contracts import Certificate

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
V1_MAX_BYTES: Final = 107
V2_MAX_BYTES: Final = 4096
"""Of what follows the first 16 bytes; proxies send a few hundred."""
PEEK_S: Final = 0.005
"""A header comes in one piece; for one that does not, it is looked again this often."""

PP2_TYPE_SSL: Final = 0x20
PP2_SUBTYPE_SSL_CN: Final = 0x22
PP2_CLIENT_SSL: Final = 0x01
PP2_CLIENT_CERT: Final = 0x02 | 0x04


class ProxyError(ValueError):
    """The connection does not begin with such a header."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a connection comes from."""

    peer: str
    """`address:port`; empty: the proxy itself asks, for its health checks."""
    certificate: Certificate | None = None
    """The client's, as far as the proxy tells: its common name."""


def parse(data: bytes) -> tuple[Origin, int] | None:
    """The origin, and how many bytes the header has; None: more bytes are needed.

    :raises ProxyError: it is no such header.
    """
    if data[:12] == SIGNATURE[: len(data)]:
        return _version_2(data) if len(data) >= 16 else None
    if data[:6] == b"PROXY "[: len(data)]:
        return _version_1(data)
    raise ProxyError("no PROXY header")


def _version_1(data: bytes) -> tuple[Origin, int] | None:
    line, end, _ = data[:V1_MAX_BYTES].partition(b"\r\n")
    if not end:
        if len(data) >= V1_MAX_BYTES:
            raise ProxyError("the line is too long")
        return None
    size = len(line) + 2
    words = line.split(b" ")
    if words[1] == b"UNKNOWN":
        return Origin(""), size
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        raise ProxyError("must be PROXY TCP4 or TCP6, two addresses, two ports")
    kind = ipaddress.IPv4Address if words[1] == b"TCP4" else ipaddress.IPv6Address
    try:
        source, _ = (kind(word.decode("ascii")) for word in words[2:4])
        port, _ = (_port(word) for word in words[4:6])
    except ValueError as error:
        raise ProxyError(str(error)) from None
    return Origin(_peer(str(source), port)), size


def _port(word: bytes) -> int:
    if not word.isdigit() or len(word) > 5 or int(word) > 65_535 or (word.startswith(b"0") and word != b"0"):
        raise ValueError(f"{word!r} is no port")
    return int(word)


def _version_2(data: bytes) -> tuple[Origin, int] | None:
    command, family, length = data[12], data[13], int.from_bytes(data[14:16], "big")
    if command >> 4 != 2 or command & 15 > 1:
        raise ProxyError(f"version and command must be 0x20 or 0x21, not {command:#04x}")
    if length > V2_MAX_BYTES:
        raise ProxyError(f"has {length} bytes, more than {V2_MAX_BYTES}")
    if len(data) < 16 + length:
        return None
    body, size = data[16 : 16 + length], 16 + length
    if command & 15 == 0:  # LOCAL
        return Origin(""), size
    if family == 0x11:
        width, source, port_at = 12, body[:4], 8
    elif family == 0x21:
        width, source, port_at = 36, body[:16], 32
    else:
        raise ProxyError(f"family and protocol must be TCP over IPv4 or IPv6, not {family:#04x}")
    if length < width:
        raise ProxyError("the addresses are cut short")
    (port,) = struct.unpack_from("!H", body, port_at)
    return Origin(_peer(str(ipaddress.ip_address(source)), port), _certificate(body[width:])), size


def _fields(data: bytes) -> Iterable[tuple[int, bytes]]:
    """The type-length-value fields.

    :raises ProxyError: one is cut short.
    """
    at = 0
    while at < len(data):
        end = at + 3 + int.from_bytes(data[at + 1 : at + 3], "big")
        if at + 3 > len(data) or end > len(data):
            raise ProxyError("a field is cut short")
        yield data[at], data[at + 3 : end]
        at = end


def _certificate(data: bytes) -> Certificate | None:
    found: Certificate | None = None
    for kind, value in _fields(data):
        if kind != PP2_TYPE_SSL:
            continue
        if len(value) < 5:
            raise ProxyError("the field about TLS is cut short")
        client, verify = value[0], int.from_bytes(value[1:5], "big")
        for sub, name in _fields(value[5:]):
            if sub == PP2_SUBTYPE_SSL_CN and client & PP2_CLIENT_CERT and verify == 0:
                try:
                    common_name = name.decode()
                except UnicodeDecodeError:
                    raise ProxyError("the common name is not UTF-8") from None
                found = Certificate(subject=f"CN={common_name}", common_name=common_name, alternative_names=())
    return found


def _peer(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def forwarded_for(header: str, peer: str, trusted: Sequence[Network]) -> str:
    """The client behind proxies that are trusted, by X-Forwarded-For: the last address that is not one of theirs."""
    for hop in reversed(header.split(",")):
        address = hop.strip().strip("[]")
        try:
            ipaddress.ip_address(address)
        except ValueError:
            return peer  # what is left of here is not to be believed
        if not is_within(address, trusted):
            return _peer(address, 0)
    return peer


async def read_header(connection: socket.socket) -> Origin:
    """Takes the header from the start of a connection, and not a byte more.

    :raises ProxyError: it is none, or the connection ended before.
    """
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(connection.fileno(), readable.cancel)
    try:
        await asyncio.wait((readable,))  # it is cancelled when there is something to read
    finally:
        loop.remove_reader(connection.fileno())
    while True:
        try:
            data = connection.recv(16 + V2_MAX_BYTES, socket.MSG_PEEK)
        except BlockingIOError:  # it was ready for nothing
            await asyncio.sleep(PEEK_S)
            continue
        except OSError as error:
            raise ProxyError(str(error)) from None
        if not data:
            raise ProxyError("the connection ended")
        found = parse(data)
        if found is not None:
            connection.recv(found[1])
            return found[0]
        await asyncio.sleep(PEEK_S)
