"""The options that `fastmq pub` and `fastmq sub` share: where to connect, as whom, in which version."""

import asyncio
import os
import secrets
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

import click

from fastmq import topics
from fastmq.cli.properties import properties_of
from fastmq.client import Client, Reconnect, Will
from fastmq.client.errors import ConnectRefused
from fastmq.errors import FastmqError
from fastmq.packets import Packet, Properties, Suback

__all__ = ["EXIT_TIMEOUT", "ConnectionOptions", "complain", "connection_options", "run"]

EXIT_TIMEOUT: Final = 27
"""Mosquitto's MOSQ_ERR_TIMEOUT, which scripts know."""
_NEVER: Final = 0xFFFFFFFF
_VERSIONS: Final = {
    "31": 3, "3.1": 3, "mqttv31": 3, "311": 4, "3.1.1": 4, "mqttv311": 4, "5": 5, "5.0": 5, "mqttv5": 5,
}  # fmt: skip

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionOptions:
    """What `connection_options` collects. Its fields are the names of the options."""

    host: str
    port: int | None
    unix: str | None
    url: str | None
    bind: str | None
    client_id: str | None
    id_prefix: str | None
    keepalive: int
    username: str | None
    password: str | None
    version: int | None
    keep_session: bool
    session_expiry: int | None
    will_topic: str | None
    will_payload: str
    will_qos: int
    will_retain: bool
    cafile: str | None
    capath: str | None
    cert: str | None
    key: str | None
    insecure: bool
    debug: bool
    quiet: bool
    nodelay: bool

    @classmethod
    def take(cls, given: dict[str, Any]) -> "ConnectionOptions":
        """Out of a command's parameters, leaving the others there."""
        return cls(**{name: given.pop(name) for name in cls.__dataclass_fields__})

    @property
    def url_topic(self) -> str | None:
        path = urlsplit(self.url).path if self.url else ""
        return unquote(path[1:]) or None

    def client(
        self,
        ctx: click.Context,
        *,
        reconnect: Reconnect | None = None,
        version: int | None = None,
        inbound_max: int = 1000,
    ) -> Client:
        """:raises click.UsageError: the options do not go together."""
        properties = properties_of(ctx)
        version = self.protocol_version(ctx, version)
        host, port, username, password, context = self._where()
        if self.client_id is not None and self.id_prefix is not None:
            raise click.UsageError("-i and -I cannot be used together.")
        if version != 5 and password is not None and username is None:
            raise click.UsageError("-P needs -u before MQTT 5.")
        connect = properties.get("connect", Properties())
        if self.session_expiry is not None:
            connect.session_expiry_interval = self.session_expiry
        elif self.keep_session and connect.session_expiry_interval is None:
            connect.session_expiry_interval = _NEVER
        lasting = self.keep_session or (version == 5 and connect.session_expiry_interval == _NEVER)
        if lasting and self.client_id is None and self.id_prefix is None:
            raise click.UsageError("A session that lasts needs a client id: add -i.")
        return Client(
            host,
            port,
            path=self.unix,
            client_id=self._client_id(version),
            version=version,
            clean_start=not self.keep_session,
            keepalive=self.keepalive,
            username=username,
            password=password,
            will=self._will(properties.get("will")),
            properties=connect,
            ssl=context,
            bind=self.bind,
            reconnect=reconnect,
            inbound_max=inbound_max,
            on_packet=Trace(self).show if self.debug else None,
        )

    def protocol_version(self, ctx: click.Context, needed: int | None = None) -> int:
        """What -V says; without it 3.1.1, or 5 where an option needs it."""
        implied = 5 if needed == 5 or properties_of(ctx) or self.session_expiry is not None else 4
        if self.version is not None and self.version < 5 and properties_of(ctx):
            raise click.UsageError("-D needs MQTT 5: leave -V out, or say -V 5.")
        return self.version or implied

    def _where(self) -> tuple[str, int, str | None, str | None, ssl.SSLContext | None]:
        host, port, username, password = self.host, self.port, self.username, self.password
        encrypted = any((self.cafile, self.capath, self.cert, self.insecure)) or port == 8883
        if self.url is not None:
            url = urlsplit(self.url)
            if url.scheme not in ("mqtt", "mqtts") or not url.hostname:
                raise click.UsageError("-L: a URL looks like mqtt(s)://[user[:password]@]host[:port]/topic")
            encrypted = encrypted or url.scheme == "mqtts"
            host, port = url.hostname, url.port or port
            username = unquote(url.username) if url.username is not None else username
            password = unquote(url.password) if url.password is not None else password
        return host, port or (8883 if encrypted else 1883), username, password, self._context() if encrypted else None

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.cafile, capath=self.capath)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except OSError as e:  # ssl.SSLError is one
            raise click.UsageError(f"TLS: {e}") from e
        if self.insecure:
            context.check_hostname = False
        return context

    def _client_id(self, version: int) -> str:
        if self.client_id is not None:
            return self.client_id
        if self.id_prefix is not None:
            return f"{self.id_prefix}{os.getpid()}"
        return "" if version == 5 else f"fastmq-{secrets.token_hex(6)}"  # 3.1 allows 23 characters

    def _will(self, properties: Properties | None) -> Will | None:
        if self.will_topic is None:
            if self.will_payload or self.will_qos or self.will_retain or properties is not None:
                raise click.UsageError("A will needs --will-topic.")
            return None
        try:
            topics.validate_name(self.will_topic)
        except FastmqError as e:
            raise click.UsageError(f"--will-topic: {e}") from e
        payload = self.will_payload.encode("utf-8", "surrogateescape")
        return Will(self.will_topic, payload, self.will_qos, self.will_retain, properties or Properties())


class Trace:
    """`-d`: a line for every packet."""

    def __init__(self, options: ConnectionOptions) -> None:
        self._who = options.client_id or "(null)"

    def show(self, packet: Packet, sent: bool) -> None:
        click.echo(f"Client {self._who} {'sending' if sent else 'received'} {_describe(packet)}", err=True)
        if isinstance(packet, Suback) and not sent:
            click.echo(f"Subscribed (mid: {packet.packet_id}): {', '.join(map(str, packet.reasons))}", err=True)


def _describe(packet: Packet) -> str:
    shown: list[str] = []
    for name in packet.__slots__:
        value = getattr(packet, name)
        if name == "payload":
            shown.append(f"{len(value)} bytes")
        elif name not in ("password", "will") and value not in (None, "", Properties()):
            shown.append(f"{name}={value!r}")
    return f"{type(packet).__name__.upper()} ({', '.join(shown)})" if shown else type(packet).__name__.upper()


def _version(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    if value is not None and value not in _VERSIONS:
        raise click.BadParameter(f"{value!r} is none of 31, 311, 5, mqttv31, mqttv311, mqttv5.")
    return _VERSIONS[value] if value is not None else None


def _expiry(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    if value in (None, ""):
        return None
    if value in ("-1", "∞"):
        return _NEVER
    if not value.isdigit() or int(value) > _NEVER:
        raise click.BadParameter(f"must be 0 to {_NEVER}, or -1 for never, not {value!r}.")
    return int(value)


_QOS: Final = click.IntRange(0, 2)
_FILE: Final = click.Path(exists=True, dir_okay=False)
_OPTIONS: Final = (
    click.option("-h", "--host", default="localhost", show_default=True, help="Host to connect to."),
    click.option("-p", "--port", type=click.IntRange(1, 65535), help="Port.  [default: 1883, or 8883 with TLS]"),
    click.option("--unix", metavar="PATH", help="Connect to a Unix socket instead."),
    click.option("-L", "--url", metavar="URL", help="All in one: mqtt(s)://[user[:password]@]host[:port]/topic"),
    click.option("-A", "bind", metavar="ADDRESS", help="Connect from this address of ours."),
    click.option("-i", "--id", "client_id", metavar="ID", help="Client id.  [default: random, or the broker's choice]"),
    click.option("-I", "--id-prefix", metavar="PREFIX", help="Client id: this, then our process id."),
    click.option("-k", "--keepalive", type=click.IntRange(0, 65535), default=60, show_default=True, help="Seconds."),
    click.option("-u", "--username", metavar="NAME", help="User name."),
    click.option("-P", "--pw", "password", metavar="PASSWORD", help="Password."),
    click.option(
        "-V",
        "--protocol-version",
        "version",
        callback=_version,
        metavar="VERSION",
        help="31, 311, 5 (or mqttv31, mqttv311, mqttv5).  [default: 311; 5 with -D or -x]",
    ),
    click.option("-c", "--disable-clean-session", "keep_session", is_flag=True, help="Keep the session; needs -i."),
    click.option(
        "-x",
        "--session-expiry-interval",
        "session_expiry",
        callback=_expiry,
        metavar="SECONDS",
        help="How long the broker keeps the session; -1 for ever.  [default: -1 with -c, else 0]",
    ),
    click.option("--will-topic", metavar="TOPIC", help="Where the broker publishes the will of this client."),
    click.option("--will-payload", metavar="TEXT", default="", help="What the will says."),
    click.option("--will-qos", type=_QOS, default=0, help="QoS of the will."),
    click.option("--will-retain", is_flag=True, help="Retain the will."),
    click.option("--cafile", type=_FILE, help="TLS: certificates to trust."),
    click.option("--capath", type=click.Path(exists=True, file_okay=False), help="TLS: a directory of them."),
    click.option("--cert", type=_FILE, help="TLS: our certificate."),
    click.option("--key", type=_FILE, help="TLS: its private key."),
    click.option("--insecure", is_flag=True, help="TLS: do not compare the host name with the certificate."),
    click.option("--nodelay", is_flag=True, hidden=True, help="Always so; taken for the sake of scripts."),
    click.option("-d", "--debug", is_flag=True, help="Show every packet."),
    click.option("--quiet", is_flag=True, help="Print no errors."),
)


def connection_options(command: Decorated) -> Decorated:
    """Adds the shared options to a click command; `ConnectionOptions.take` reads them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def complain(options: ConnectionOptions, message: str) -> None:
    if not options.quiet:
        click.echo(message, err=True)


def run(options: ConnectionOptions, work: Coroutine[Any, Any, int]) -> int:
    """The exit code: what `work` gives, the CONNACK's code when the broker refuses, 1 for other failures."""
    try:
        return _loop()(work)
    except ConnectRefused as e:
        complain(options, f"Connection error: {e}")
        return e.reason
    except BrokenPipeError:  # the reader of our output has seen enough
        return 0
    except (FastmqError, ValueError) as e:
        complain(options, f"Error: {e}")
        return 1
    except KeyboardInterrupt:
        return 130


def _loop() -> Callable[[Coroutine[Any, Any, int]], int]:
    try:
        import uvloop
    except ModuleNotFoundError:  # there are boards without a wheel; asyncio does it too
        return asyncio.run
    return uvloop.run
