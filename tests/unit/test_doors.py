"""Listeners: TLS and whom it lets in, WebSocket and what it refuses, Unix sockets."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import ssl
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from fastmq.broker import psk
from fastmq.errors import StartError
from tests.brokerdoors import issue
from tests.brokerproc import HOST, BrokerProcess, await_condition, ended_cleanly, start_fastmq
from tests.wireclient import Client, ConnectionEnded, Publish, encode
from tests.wireclient.doors import BINARY, CLOSE, CONTINUATION, TEXT, WebSocket, enter, know

NOT_AUTHORIZED = 0x87
Address = tuple[str, int]


@contextmanager
def broker_at(settings: dict[str, object] | None = None, *listeners: object) -> Iterator[BrokerProcess]:
    with ended_cleanly(start_fastmq(settings, listen=json.dumps(listeners))) as broker:  # type: ignore[arg-type]
        yield broker


def tls(folder: Path, **more: object) -> dict[str, object]:
    return {"url": f"tls://{HOST}:0", "certificates": [str(folder / "server.pem")], **more}


def issued(folder: Path, authority: trustme.CA, name: str, *identities: str, **more: object) -> str:
    """A certificate with its key, in one file."""
    path = folder / f"{name}.pem"
    authority.issue_cert(*identities, **more).private_key_and_cert_chain_pem.write_to_path(str(path))  # type: ignore[arg-type]
    return str(path)


def context(folder: Path, certificate: str | None = None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    if certificate is not None:
        made.load_cert_chain(certificate)
    return made


def secure(address: Address, made: ssl.SSLContext, name: str = "localhost") -> ssl.SSLSocket:
    return made.wrap_socket(socket.create_connection(address, timeout=10), server_hostname=name)


def at(broker: BrokerProcess) -> Address:
    return broker.host, broker.port


@contextmanager
def client_of(broker: BrokerProcess, made: ssl.SSLContext, name: str = "localhost") -> Iterator[Client]:
    know(at(broker), lambda opened: made.wrap_socket(opened, server_hostname=name))
    client = Client(at(broker))
    try:
        yield client
    finally:
        client.close()
        know(at(broker), lambda opened: opened)


@contextmanager
def no_way_in() -> Iterator[None]:
    """TLS 1.3 tells the client only with its first read that its certificate is not welcome."""
    with pytest.raises((ssl.SSLError, ConnectionError, ConnectionEnded)):
        yield


# -- TLS ---------------------------------------------------------------------------------------------------------------


def test_mosquittos_clients_come_over_tls(tmp_path: Path) -> None:
    issue(tmp_path)
    with broker_at(None, tls(tmp_path)) as broker:
        common = ["-h", "localhost", "-p", str(broker.port), "--cafile", str(tmp_path / "ca.pem"), "-t", "a/b"]
        subscriber = subprocess.Popen(
            ["mosquitto_sub", *common, "-C", "1", "-W", "20", "-q", "1"], stdout=subprocess.PIPE
        )
        await_condition(lambda: "client connected" in broker.log_text(), 20)
        big = "x" * 300_000
        done = subprocess.run(["mosquitto_pub", *common, "-q", "1", "-s"], input=big.encode(), timeout=20, check=False)
        assert done.returncode == 0
        out, _ = subscriber.communicate(timeout=20)
        assert out == big.encode() + b"\n"


@pytest.mark.parametrize("required", [True, False])
def test_clients_are_asked_for_certificates(tmp_path: Path, required: bool) -> None:
    authority = issue(tmp_path)
    day = datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.UTC)
    good = issued(tmp_path, authority, "good", "dev@example.org", common_name="sensor-7")
    expired = issued(tmp_path, authority, "expired", "dev@example.org", not_before=now - 3 * day, not_after=now - day)
    stranger = issued(tmp_path, trustme.CA(), "stranger", "dev@example.org")
    asks = "require" if required else "optional"
    listener = tls(tmp_path, client_certificates=asks, client_ca=str(tmp_path / "ca.pem"), username_from="cn")
    with broker_at({"auth.allow_anonymous": False}, listener) as broker:
        with client_of(broker, context(tmp_path, good)) as client:
            assert client.connect("c1").code == 0  # it has a name, though it sent none
        for wrong in (expired, stranger):
            with no_way_in(), client_of(broker, context(tmp_path, wrong)) as client:
                client.connect("c2")
        if required:
            with no_way_in(), client_of(broker, context(tmp_path)) as client:
                client.connect("c3")
        else:
            with client_of(broker, context(tmp_path)) as client:
                assert client.connect("c3").code == NOT_AUTHORIZED


@pytest.mark.parametrize(
    ("which", "username"),
    [("cn", "sensor-7"), ("san", "dev@example.org"), ("dn", "CN=sensor-7,OU=Testing cert .+,O=trustme v.+")],
)
def test_a_certificate_says_who_its_client_is(tmp_path: Path, which: str, username: str) -> None:
    authority = issue(tmp_path)
    good = issued(tmp_path, authority, "good", "dev@example.org", common_name="sensor-7")
    listener = tls(
        tmp_path, client_certificates="require", client_ca=str(tmp_path / "ca.pem"), username_from=which,
        client_id_from="cn",
    )  # fmt: skip
    rules = [{"permission": "allow", "topics": ["mine"], "username_regex": username, "client_ids": ["sensor-7"]}]
    with broker_at({"acl.rules": json.dumps(rules)}, listener) as broker:
        with client_of(broker, context(tmp_path, good)) as client:
            client.connect("another", username="root", password=b"x")
            assert client.publish("mine", qos=1) == 0x10
            assert client.publish("other", qos=1) == NOT_AUTHORIZED
        broker.await_log("client=sensor-7")


def test_revoked_certificates_are_refused(tmp_path: Path) -> None:
    authority = issue(tmp_path)
    good = issued(tmp_path, authority, "good", "good@example.org")
    revoked = issued(tmp_path, authority, "revoked", "bad@example.org")
    write_crl(tmp_path, authority, [revoked])
    listener = tls(
        tmp_path, client_certificates="require", client_ca=str(tmp_path / "ca.pem"), crl=str(tmp_path / "crl.pem")
    )
    with broker_at(None, listener) as broker:
        with client_of(broker, context(tmp_path, good)) as client:
            assert client.connect("c1").code == 0
        with no_way_in(), client_of(broker, context(tmp_path, revoked)) as client:
            client.connect("c2")
        write_crl(tmp_path, authority, [revoked, good])

        def is_refused() -> bool:
            try:
                with client_of(broker, context(tmp_path, good)) as client:
                    client.connect("c3")
            except (ssl.SSLError, ConnectionError, ConnectionEnded):
                return True
            return False

        await_condition(is_refused, 20)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_an_old_session_is_no_certificate(tmp_path: Path, version: ssl.TLSVersion) -> None:
    """A client that resumes its TLS session shows no certificate again, which may be revoked by then."""
    authority = issue(tmp_path)
    made = context(tmp_path, issued(tmp_path, authority, "good", "good@example.org"))
    made.maximum_version = version
    listener = tls(tmp_path, client_certificates="require", client_ca=str(tmp_path / "ca.pem"))
    wire = encode.connect(5, client_id="c1")
    with broker_at(None, listener) as broker:
        with secure(at(broker), made) as first:
            first.sendall(wire)
            assert first.recv(1) == b"\x20"
            session = first.session
        plain = socket.create_connection(at(broker), timeout=10)
        refused = contextlib.suppress(ssl.SSLError, ConnectionError)
        with refused, made.wrap_socket(plain, server_hostname="localhost", session=session) as again:
            again.sendall(wire)
            assert again.recv(1) == b"" or not again.session_reused
        with secure(at(broker), made) as fresh:
            fresh.sendall(wire)
            assert fresh.recv(1) == b"\x20"


def write_crl(folder: Path, authority: trustme.CA, revoked: list[str]) -> None:
    key = serialization.load_pem_private_key(authority.private_key_pem.bytes(), None)
    certificate = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(certificate.subject)
    builder = builder.last_update(now).next_update(now + datetime.timedelta(days=1))
    for path in revoked:
        serial = x509.load_pem_x509_certificates(Path(path).read_bytes())[0].serial_number
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        )
    signed = builder.sign(key, hashes.SHA256())  # type: ignore[arg-type]
    (folder / "crl.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))


def test_the_name_decides_which_certificate_is_shown(tmp_path: Path) -> None:
    authority = issue(tmp_path)
    other = issued(tmp_path, authority, "other", "mqtt.example.org", "*.dev.example.org")
    with broker_at(None, tls(tmp_path, certificates=[str(tmp_path / "server.pem"), other])) as broker:
        made = context(tmp_path)
        for name in ("localhost", "mqtt.example.org", "a.dev.example.org", "MQTT.example.org"):
            secure(at(broker), made, name).close()  # it would raise
        with pytest.raises(ssl.SSLCertVerificationError):
            secure(at(broker), made, "unknown.example.org")


def test_certificates_are_swapped_and_nobody_is_dropped(tmp_path: Path) -> None:
    issue(tmp_path)
    with broker_at(None, tls(tmp_path)) as broker, client_of(broker, context(tmp_path)) as old:
        old.connect("old")
        before = secure(at(broker), context(tmp_path))
        serial = before.getpeercert()["serialNumber"]  # type: ignore[index]
        before.close()
        (tmp_path / "server.pem").write_text("nonsense")
        await_condition(lambda: "a TLS file is wrong" in broker.log_text(), 20)
        secure(at(broker), context(tmp_path)).close()
        issue(tmp_path)
        await_condition(lambda: "loaded certificates again" in broker.log_text(), 20)
        after = secure(at(broker), context(tmp_path))
        assert after.getpeercert()["serialNumber"] != serial  # type: ignore[index]
        after.close()
        old.ping()


def test_versions_and_protocols(tmp_path: Path) -> None:
    issue(tmp_path)
    with broker_at(None, tls(tmp_path, tls_min="1.3")) as broker:
        made = context(tmp_path)
        made.set_alpn_protocols(["mqtt"])
        connection = secure(at(broker), made)
        assert (connection.version(), connection.selected_alpn_protocol()) == ("TLSv1.3", "mqtt")
        connection.close()
        made.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError):
            secure(at(broker), made)


def test_who_sends_no_tls_hurts_nobody(tmp_path: Path) -> None:
    issue(tmp_path)
    with broker_at({"mqtt.connect_timeout_s": 1}, tls(tmp_path)) as broker, ExitStack() as stack:
        silent = stack.enter_context(socket.create_connection(at(broker), timeout=10))
        plain = stack.enter_context(socket.create_connection(at(broker), timeout=10))
        plain.sendall(encode.connect(5, client_id="x"))
        client = stack.enter_context(client_of(broker, context(tmp_path)))
        assert client.connect("good").code == 0
        for each in (silent, plain):
            try:
                while each.recv(4096):
                    pass
            except ConnectionResetError:
                pass
        client.ping()


def test_a_certificate_that_expires_soon_is_told(tmp_path: Path) -> None:
    authority = issue(tmp_path)
    now = datetime.datetime.now(datetime.UTC)
    soon = issued(tmp_path, authority, "soon", "localhost", not_after=now + datetime.timedelta(days=3))
    plain = {"url": f"tcp://{HOST}:0"}
    with broker_at(None, plain, tls(tmp_path, certificates=[soon])) as broker, closing(Client(at(broker))) as client:
        await_condition(lambda: f"a certificate expires file={soon} days=3" in broker.log_text(), 10)
        client.connect("c")
        client.subscribe(("$SYS/broker/certificate/expires", 0))
        assert abs(int(client.receive().payload) - (now + datetime.timedelta(days=3)).timestamp()) < 5


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"certificates": []}, "listen[0].certificates: must be set for tls://"),
        ({"certificates": ["/nowhere.pem"]}, "/nowhere.pem: No such file or directory"),
        ({"certificates": ["{garbage}"]}, "garbage: has nothing in PEM that can be used"),
        ({"keys": ["{garbage}"]}, "server.pem: "),
        ({"keys": ["a", "b"]}, "listen[0].keys: must be as many as certificates: 1, not 2"),
        ({"keys": ["{other}"]}, "key values mismatch"),
        ({"client_certificates": "require"}, "listen[0].client_ca: must be set"),
        ({"client_ca": "x"}, "listen[0].client_ca: is for client_certificates"),
        ({"client_certificates": "require", "client_ca": "{garbage}"}, "garbage: "),
        ({"ciphers": "NONSENSE"}, "ciphers: OpenSSL knows none of 'NONSENSE'"),
        ({"origins": ["https://a"]}, "listen[0].origins: is for ws:// and wss://"),
        ({"url": "tcp://127.0.0.1:0"}, "listen[0].certificates: is for tls:// and wss://, not tcp://"),
        ({"url": "unix://here"}, "after unix:// there must be the whole path"),
        ({"url": "tls://127.0.0.1:0/mqtt"}, "there must be HOST:PORT"),
    ],
)
def test_a_listener_that_cannot_be_is_refused(tmp_path: Path, change: dict[str, object], says: str) -> None:
    authority = issue(tmp_path)
    (tmp_path / "garbage").write_text("garbage")
    issued(tmp_path, authority, "other", "localhost")
    places = {"{garbage}": str(tmp_path / "garbage"), "{other}": str(tmp_path / "other.pem")}
    change = {
        key: [places.get(each, each) for each in value] if isinstance(value, list) else places.get(str(value), value)
        for key, value in change.items()
    }
    with pytest.raises(RuntimeError) as refused, broker_at(None, tls(tmp_path, **change)):
        pass
    assert says in str(refused.value)
    assert "Traceback" not in str(refused.value)


# -- WebSocket ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def web() -> Iterator[Address]:
    listener = {"url": f"ws://{HOST}:0/mqtt", "origins": ["https://good.example"]}
    with broker_at({"mqtt.packet_max_bytes": 100_000}, listener) as broker:
        yield at(broker)


MQTT = "Sec-WebSocket-Protocol: mqtt"


@contextmanager
def upgrade(address: Address, path: str = "/mqtt", *headers: str) -> Iterator[WebSocket]:
    with closing(enter(address, 10)) as below:
        yield WebSocket(below, path, headers or (MQTT,))


@pytest.mark.parametrize(
    ("path", "headers", "status", "says"),
    [
        ("/mqtt", (MQTT,), 101, "protocol: mqtt"),
        ("/mqtt?token=1", ("Sec-WebSocket-Protocol: x, mqttv3.1 ,mqtt",), 101, "protocol: mqttv3.1"),
        ("/mqtt", ("Sec-WebSocket-Protocol: x", "Sec-WebSocket-Protocol: mqtt"), 101, "protocol: mqtt"),
        ("/mqtt", (MQTT, "Origin: https://good.example"), 101, "protocol: mqtt"),
        ("/mqtt", (MQTT, "Origin: https://GOOD.example"), 101, "protocol: mqtt"),
        ("/mqtt", (MQTT, "Origin: https://evil.example"), 403, "origins"),
        ("/mqtt", (MQTT, "Origin: null"), 403, "origins"),
        ("/mqtt", (MQTT, "Origin: https://good.example.evil.example"), 403, "origins"),
        ("/other", (MQTT,), 404, "MQTT is at /mqtt"),
        ("/mqtt", ("Sec-WebSocket-Protocol: chat",), 400, "must offer `mqtt`"),
        ("/mqtt", ("X: y",), 400, "must offer `mqtt`"),
    ],
)
def test_upgrades(web: Address, path: str, headers: tuple[str, ...], status: int, says: str) -> None:
    with upgrade(web, path, *headers) as answer:
        body = answer.rest() if status != 101 else ""
    assert f" {status} " in answer.head.split("\r\n")[0]
    assert says.lower() in (answer.head + body).lower()


def http(address: Address, request: bytes) -> bytes:
    with socket.create_connection(address, timeout=10) as plain:
        plain.sendall(request)
        answer = b""
        try:
            while chunk := plain.recv(4096):
                answer += chunk
        except ConnectionResetError:
            pass
        return answer


def test_a_browser_that_only_looks_is_helped(web: Address) -> None:
    answer = http(web, b"GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 426 ")
    assert b"This is an MQTT broker" in answer


BAD_REQUESTS = [
    b"GET /mqtt HTTP/1.0\r\n\r\n",
    b"POST /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n",
    b"GET /mqtt\r\n\r\n",
    b"\r\n\r\n",
    b"\x10\x0c\x00\x04MQTT\x05\x02\x00<\x00\x00\x00\r\n\r\n",
    b"GET /mqtt HTTP/1.1\r\nHost x\r\n\r\n",
    b"GET /mqtt HTTP/1.1\r\n: x\r\n\r\n",
    b"GET /mqtt HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n",
    b"GET /mqtt HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: mqtt\r\n"
    b"Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    b"GET /mqtt HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: mqtt\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n",
    b"GET /mqtt HTTP/1.1\r\nUpgrade: h2c\r\n\r\n",
    b"GET \xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /mqtt HTTP/1.1\r\nHost: \xff\xfe\r\nUpgrade: websocket\r\n\r\n",
    b"GET /mqtt HTTP/1.1\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    b"GET /mqtt HTTP/1.1\r\nContent-Length: 5\r\nUpgrade: websocket\r\n\r\nhello",
    b"GET /mqtt HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"A" * 200_000,
]


@pytest.mark.parametrize("request_bytes", BAD_REQUESTS, ids=range(len(BAD_REQUESTS)))
def test_bad_requests_end(web: Address, request_bytes: bytes) -> None:
    try:
        answer = http(web, request_bytes)
    except ConnectionError:
        answer = b""
    assert b" 101 " not in answer.split(b"\r\n")[0]
    with upgrade(web):
        pass  # others still come


@contextmanager
def joined(web: Address) -> Iterator[WebSocket]:
    with upgrade(web) as made:
        made.sendall(encode.connect(5, client_id=os.urandom(8).hex()))
        assert made.recv(1) == b"\x20"
        while made.has_bytes():
            made.recv(4096)
        yield made


@pytest.mark.parametrize(
    ("send", "code"),
    [
        (lambda made: made.send_frame(TEXT, b"hello"), 1003),
        (lambda made: made.send_frame(CLOSE, b"\x03\xe8"), 1000),
        (lambda made: made.send_frame(BINARY, b"\x30" + b"\0" * 300_000), None),
        (lambda made: made.send_frame(3, b"x"), None),
        (lambda made: made.send_raw(b"\xc2\x80\0\0\0\0"), None),
        (lambda made: made.send_raw(b"\x82\x01a"), None),
        (lambda made: made.send_frame(BINARY, b"\xf0\x00"), None),
    ],
    ids=["text", "close", "too large", "unknown kind", "reserved bit", "unmasked", "no such packet"],
)
def test_frames_that_end_a_connection(web: Address, send: Callable[[WebSocket], None], code: int | None) -> None:
    with joined(web) as made:
        send(made)
        with contextlib.suppress(ConnectionResetError):
            while made.recv(4096):
                pass
        assert code is None or made.close_code == code
    with joined(web):
        pass


def test_packets_may_be_cut_anywhere(web: Address) -> None:
    wire = encode.publish(5, "t", b"x" * 50_000, qos=1, packet_id=7)
    with joined(web) as made:
        for start in range(0, len(wire), 1000):
            last = start + 1000 >= len(wire)
            made.send_frame(BINARY if start == 0 else CONTINUATION, wire[start : start + 1000], fin=last)
        made.send_frame(BINARY, encode.PINGREQ * 3)
        got = b""
        while len(got) < 5 + 6:
            got += made.recv(4096)
    assert got[:1] == b"\x40"
    assert got[-6:] == b"\xd0\x00" * 3


# -- Unix sockets ------------------------------------------------------------------------------------------------------


def test_unix_sockets(tmp_path: Path) -> None:
    path = tmp_path / "mqtt.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    listeners = f"tcp://{HOST}:0", {"url": f"unix://{path}", "mode": "0600"}
    with broker_at(None, *listeners) as broker:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        client = Client(at(broker))
        client.connect("reader")
        client.subscribe("t")
        assert subprocess.run(["mosquitto_pub", "--unix", path, "-t", "t", "-m", "hi"], timeout=20).returncode == 0
        assert client.expect(Publish).payload == b"hi"
        client.close()
        taken = pytest.raises(RuntimeError, match=r"unix://.*mqtt.sock: the port is in use")
        with taken, broker_at(None, *listeners):
            pass
        assert path.exists()
    assert not path.exists()
    path.write_text("precious")
    with pytest.raises(RuntimeError, match="there is a file that is no socket"), broker_at(None, *listeners):
        pass
    assert path.read_text() == "precious"


# -- pre-shared keys ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(ssl.SSLContext, "set_psk_server_callback"), reason="Python has them from 3.13")
def test_who_knows_a_key_needs_no_certificate(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# ours\nsensor-7:00112233445566778899aabbccddeeff\n")
    with broker_at(None, {"url": f"tls://{HOST}:0", "psk_file": str(keys)}) as broker:

        def publish(identity: str, key: str, *more: str) -> int:
            command = ["mosquitto_pub", "-h", HOST, "-p", str(broker.port), "-t", "a", "-m", "x", "-q", "1"]
            command += ["--psk", key, "--psk-identity", identity, *more]
            return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode

        assert publish("sensor-7", "00112233445566778899aabbccddeeff") == 0
        assert publish("sensor-7", "00112233445566778899aabbccddeeff", "--tls-version", "tlsv1.2") == 0
        assert publish("sensor-7", "ff112233445566778899aabbccddeeff") != 0
        assert publish("sensor-8", "00112233445566778899aabbccddeeff") != 0
        keys.write_text("sensor-8:ffeeddccbbaa99887766554433221100\n")
        await_condition(lambda: publish("sensor-8", "ffeeddccbbaa99887766554433221100") == 0, 15)
        assert publish("sensor-7", "00112233445566778899aabbccddeeff") != 0
        assert "ffee" not in broker.log_text()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "there are no keys"),
        ("sensor-7\n", ":1: the key is not in hexadecimal digits"),
        ("a:00112233445566778899aabbccddeeff\n:00\n", ":2: must be IDENTITY:KEY"),
        ("a:0011\n", ":1: a key has 16 to 256 bytes, not 2"),
        ("a:xyz\n", ":1: the key is not in hexadecimal digits"),
    ],
)
def test_files_of_keys_that_cannot_be_used(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(StartError) as refused:
        psk.read(str(path))
    assert says in str(refused.value)
    assert "0011" not in str(refused.value)


@pytest.mark.skipif(hasattr(ssl.SSLContext, "set_psk_server_callback"), reason="this Python has them")
def test_an_older_python_says_so(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("a:00112233445566778899aabbccddeeff\n")
    with (
        pytest.raises(RuntimeError, match=r"psk_file needs Python 3\.13"),
        broker_at(None, {"url": f"tls://{HOST}:0", "psk_file": str(path)}),
    ):
        pass
