"""The PROXY protocol: what is a header, what is none, and what a listener makes of it."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmq.broker.proxy import SIGNATURE, ProxyError, forwarded_for, parse
from tests.brokerdoors import issue
from tests.brokerproc import HOST, BrokerProcess, await_condition, ended_cleanly, start_fastmq
from tests.wireclient import Client, ConnectionEnded, doors


def v2(command: int = 0x21, family: int = 0x11, body: bytes = b"", length: int | None = None) -> bytes:
    return SIGNATURE + bytes((command, family)) + struct.pack("!H", len(body) if length is None else length) + body


def field(kind: int, value: bytes) -> bytes:
    return bytes((kind,)) + struct.pack("!H", len(value)) + value


IPV4 = bytes((10, 1, 2, 3, 10, 0, 0, 1)) + struct.pack("!HH", 56324, 1883)
IPV6 = ipaddress.IPv6Address("2001:db8::7").packed + ipaddress.IPv6Address("::1").packed + struct.pack("!HH", 1, 2)


def named(name: bytes, client: int = 0x07, verify: int = 0) -> bytes:
    """The field that says what certificate the client has shown."""
    return field(0x20, bytes((client,)) + struct.pack("!I", verify) + field(0x21, b"TLSv1.3") + field(0x22, name))


@pytest.mark.parametrize(
    ("header", "peer", "common_name"),
    [
        (b"PROXY TCP4 10.1.2.3 10.0.0.1 56324 1883\r\n", "10.1.2.3:56324", None),
        (b"PROXY TCP6 2001:db8::7 ::1 0 65535\r\n", "[2001:db8::7]:0", None),
        (b"PROXY UNKNOWN\r\n", "", None),
        (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", "", None),
        (v2(body=IPV4), "10.1.2.3:56324", None),
        (v2(family=0x21, body=IPV6), "[2001:db8::7]:1", None),
        (v2(0x20, 0x00), "", None),
        (v2(0x20, 0x11, IPV4), "", None),
        (v2(body=IPV4 + field(1, b"mqtt") + named(b"sensor-7") + field(4, b"\0" * 9)), "10.1.2.3:56324", "sensor-7"),
        (v2(body=IPV4 + named("Müller".encode())), "10.1.2.3:56324", "Müller"),
        (v2(body=IPV4 + named(b"sensor-7", verify=1)), "10.1.2.3:56324", None),
        (v2(body=IPV4 + named(b"sensor-7", client=0x01)), "10.1.2.3:56324", None),
    ],
)  # fmt: skip
def test_headers(header: bytes, peer: str, common_name: str | None) -> None:
    found = parse(header + b"\x10\x00")
    assert found is not None
    origin, size = found
    assert (origin.peer, size) == (peer, len(header))
    assert (origin.certificate.common_name if origin.certificate else None) == common_name
    for cut in range(len(header)):
        assert parse(header[:cut]) is None


BAD = [
    b"\x10\x0c\x00\x04MQTT", b"GET / HTTP/1.1\r\n", b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n", b"PROXY\r\n",
    b"PROXY TCP4\r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
    b"PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n", b"PROXY TCP4 ::1 ::1 1 2\r\n", b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 \r\n",
    b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n",
    b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n", b"PROXY TCP4 a b 1 2\r\n", b"PROXY TCP4 \xff \xff 1 2\r\n",
    b"PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n", b"PROXY UNKNOWN" + b"x" * 200, b"PROXY TCP4 1.2.3.4 1.2.3.4 1 x2\r\n",
    b"PROXY TCP4 1.2.3.4/8 1.2.3.4 1 2\r\n", b"PROXY tcp4 1.2.3.4 1.2.3.4 1 2\r\n", b"PROXY " + b"\0" * 101,
    b"PROXY TCP6 fe80::1%eth0%x ::1 1 2\r\n", b"PROXY TCP4\t1.2.3.4\t1.2.3.4\t1\t2\r\n", b" PROXY TCP4",
    b"\r\n\r\nPROXY",
    v2(0x11, body=IPV4), v2(0x31, body=IPV4), v2(0x22, body=IPV4), v2(0x2F, body=IPV4), v2(family=0x12, body=IPV4),
    v2(family=0x00, body=IPV4), v2(family=0x31, body=b"\0" * 216), v2(family=0x41, body=IPV4), v2(body=IPV4[:11]),
    v2(body=b""), v2(family=0x21, body=IPV6[:35]), v2(family=0x21, body=IPV4), v2(body=IPV4, length=65535),
    v2(body=IPV4, length=4097), v2(body=IPV4 + b"\x01"), v2(body=IPV4 + b"\x01\x00"),
    v2(body=IPV4 + b"\x01\x00\x05abc"),
    v2(body=IPV4 + b"\x20\xff\xff"), v2(body=IPV4 + field(0x20, b"")), v2(body=IPV4 + field(0x20, b"\x07\0\0\0")),
    v2(body=IPV4 + field(0x20, b"\x07\0\0\0\0\x22\x00")), v2(body=IPV4 + field(0x20, b"\x07\0\0\0\0\x22\x00\x09abc")),
    v2(body=IPV4 + named(b"\xff\xfe")), SIGNATURE[:11] + b"x", SIGNATURE[:-1] + b"\r", b"\0" * 16, b"\r\n\r\n\r\n",
]  # fmt: skip


@pytest.mark.parametrize("header", BAD, ids=range(len(BAD)))
def test_what_is_no_header_is_refused(header: bytes) -> None:
    with pytest.raises(ProxyError):
        parse(header)


@given(st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11\x00\x30"]), st.binary())
def test_any_bytes_are_a_header_or_an_error_of_ours(start: bytes, rest: bytes) -> None:
    with contextlib.suppress(ProxyError):
        parse(start + rest)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("203.0.113.9", "203.0.113.9:0"),
        ("6.6.6.6, 203.0.113.9", "203.0.113.9:0"),
        ("203.0.113.9, 10.0.0.2", "203.0.113.9:0"),
        ("2001:db8::7", "[2001:db8::7]:0"),
        ("[2001:db8::7]", "[2001:db8::7]:0"),
        ("10.0.0.2", "10.0.0.1:5"),
        ("203.0.113.9, garbage", "10.0.0.1:5"),
        ("", "10.0.0.1:5"),
        (",,,", "10.0.0.1:5"),
    ],
)
def test_forwarded_for(header: str, expected: str) -> None:
    assert forwarded_for(header, "10.0.0.1:5", [ipaddress.ip_network("10.0.0.0/8")]) == expected


# -- a listener behind a proxy -----------------------------------------------------------------------------------------


@contextmanager
def behind(url: str, settings: dict[str, object] | None = None, **more: object) -> Iterator[BrokerProcess]:
    listener = json.dumps([{"url": url, "trusted_proxies": ["127.0.0.0/30"], **more}])
    with ended_cleanly(start_fastmq(settings, listen=listener)) as broker:  # type: ignore[arg-type]
        yield broker


@contextmanager
def client_behind(broker: BrokerProcess, header: bytes, opener: doors.Opener | None = None) -> Iterator[Client]:
    def introduce(opened: socket.socket) -> doors.Door:
        opened.sendall(header)
        return opener(opened) if opener is not None else opened

    doors.know((broker.host, broker.port), introduce)
    client = Client((broker.host, broker.port))
    try:
        yield client
    finally:
        client.close()


@pytest.mark.parametrize("header", [b"PROXY TCP4 10.1.2.3 10.0.0.1 56324 1883\r\n", v2(body=IPV4)])
def test_the_clients_address_is_the_one_that_the_proxy_says(header: bytes) -> None:
    rules = json.dumps([{"permission": "allow", "topics": ["t"], "addresses": ["10.1.2.3"]}])
    with behind(f"tcp://{HOST}:0", {"acl.rules": rules}, proxy_protocol=True) as broker:
        with client_behind(broker, header) as client:
            client.connect("c1")
            assert client.publish("t", b"x" * 100_000, qos=1) == 0x10
        await_condition(lambda: "client=c1 peer=10.1.2.3:56324" in broker.log_text())


def test_the_certificate_is_the_one_that_the_proxy_has_verified() -> None:
    settings: dict[str, object] = {"auth.allow_anonymous": False}
    with behind(f"tcp://{HOST}:0", settings, proxy_protocol=True, username_from="cn", client_id_from="cn") as broker:
        for header, code in (
            (v2(body=IPV4 + named(b"sensor-7")), 0),
            (v2(body=IPV4 + named(b"sensor-7", verify=1)), 0x87),
            (v2(body=IPV4), 0x87),
        ):
            with client_behind(broker, header) as client:
                assert client.connect("c1").code == code
        await_condition(lambda: "client connected client=sensor-7" in broker.log_text())


def test_tls_begins_after_the_header(tmp_path: Path) -> None:
    issue(tmp_path)
    secure = doors.tls(str(tmp_path / "ca.pem"))
    url, files = f"tls://{HOST}:0", [str(tmp_path / "server.pem")]
    with behind(url, proxy_protocol=True, certificates=files) as broker:
        with client_behind(broker, v2(body=IPV4), secure) as client:
            assert client.connect("c1").code == 0
        await_condition(lambda: "client=c1 peer=10.1.2.3:56324" in broker.log_text())


@pytest.mark.parametrize("header", [b"PROXY TCP4 10.1.2.3 10.0.0.1 56324 1883\r\n", v2(body=IPV4)])
@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_websocket_begins_after_the_header(scheme: str, header: bytes, tmp_path: Path) -> None:
    issue(tmp_path)
    secure = doors.tls(str(tmp_path / "ca.pem"))
    more: dict[str, Any] = {"certificates": [str(tmp_path / "server.pem")]} if scheme == "wss" else {}

    def upgraded(opened: socket.socket) -> doors.Door:
        return doors.WebSocket(secure(opened) if scheme == "wss" else opened)

    with behind(f"{scheme}://{HOST}:0", proxy_protocol=True, **more) as broker:
        with client_behind(broker, header, upgraded) as client:
            assert client.connect("c1").code == 0
            client.subscribe(("t", 1))
            assert client.publish("t", b"x" * 100_000, qos=1) == 0
            assert len(client.receive().payload) == 100_000
        await_condition(lambda: "client=c1 peer=10.1.2.3:56324" in broker.log_text())


def test_what_a_proxy_says_comes_before_what_a_browser_says() -> None:
    headers = ("Sec-WebSocket-Protocol: mqtt", "X-Forwarded-For: 203.0.113.9")
    for trusted, expected in ((["127.0.0.1"], "10.1.2.3:56324"), (["127.0.0.1", "10.1.2.3"], "203.0.113.9:0")):
        with behind(f"ws://{HOST}:0", proxy_protocol=True, trusted_proxies=trusted) as broker:
            with client_behind(
                broker, v2(body=IPV4), lambda opened: doors.WebSocket(opened, "/mqtt", headers)
            ) as client:
                client.connect("c1")
            assert broker.await_log(f"client=c1 peer={expected}")


@pytest.mark.parametrize("scheme", ["tcp", "ws"])
def test_who_says_nothing_or_nonsense_is_refused(scheme: str) -> None:
    with behind(f"{scheme}://{HOST}:0", {"mqtt.connect_timeout_s": 1}, proxy_protocol=True) as broker:
        with ExitStack() as stack:
            for header in (b"", b"PROXY ", b"nonsense", BAD[30]):
                client = stack.enter_context(client_behind(broker, header))
                with pytest.raises((ConnectionEnded, ConnectionError)):
                    client.connect("c1") if header == b"nonsense" else client.recv(5)
            opener = doors.WebSocket if scheme == "ws" else None
            good = stack.enter_context(client_behind(broker, v2(body=IPV4), opener))
            assert good.connect("good").code == 0
        broker.await_log("refused a connection")


def test_who_is_no_proxy_is_refused() -> None:
    with behind(f"tcp://{HOST}:0", proxy_protocol=True, trusted_proxies=["10.0.0.0/8"]) as broker:
        with client_behind(broker, v2(body=IPV4)) as client, pytest.raises((ConnectionEnded, ConnectionError)):
            client.connect("c1")
        await_condition(lambda: "refused one who is no proxy peer=127.0.0.1" in broker.log_text())


def test_forwarded_for_is_believed_of_proxies_only() -> None:
    mqtt, forwarded = "Sec-WebSocket-Protocol: mqtt", "X-Forwarded-For: 203.0.113.9"
    for trusted, expected in ((["127.0.0.1"], "203.0.113.9:0"), (["10.0.0.0/8"], "127.0.0.1:")):
        with behind(f"ws://{HOST}:0", trusted_proxies=trusted) as broker:
            with client_behind(
                broker, b"", lambda opened: doors.WebSocket(opened, "/mqtt", (mqtt, forwarded))
            ) as client:
                client.connect("c1")
            assert broker.await_log(f"client=c1 peer={expected}")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"proxy_protocol": True, "trusted_proxies": []}, "listen[0].trusted_proxies: must be set"),
        ({"trusted_proxies": ["here"]}, "listen[0].trusted_proxies: 'here' does not appear"),
        ({"url": "unix:///tmp/s", "proxy_protocol": True}, "listen[0].proxy_protocol: is not for unix://"),
    ],
)
def test_settings_that_cannot_be(more: dict[str, object], says: str) -> None:
    with pytest.raises(RuntimeError) as refused, behind(**{"url": f"tcp://{HOST}:0", **more}):  # type: ignore[arg-type]
        pass
    assert says in str(refused.value)
