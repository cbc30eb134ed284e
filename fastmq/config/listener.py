"""Where the broker listens: `tcp://127.0.0.1:1883`, `tls://[::]:8883`, `wss://0.0.0.0:8084/mqtt`, `unix:///run/fastmq.sock`."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Literal

from fastmq.config import networks, placeholders
from fastmq.config.setting import U32_MAX, setting

PORTS: Final = {"tcp": 1883, "tls": 8883, "ws": 8083, "wss": 8084, "unix": 0}
"""What can be listened for, and on which port if none is said."""
DEFAULT_PORT: Final = 1883
DEFAULT_PATH: Final = "/mqtt"
PORT_MAX: Final = 65_535
MOUNT_MAX_BYTES: Final = 1024
SECURE: Final = ("tls", "wss")
WEB: Final = ("ws", "wss")

_URL: Final = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<rest>.*)", re.IGNORECASE)
_ADDRESS: Final = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<host>[^:/\[\]]*))(?::(?P<port>[^:/]*))?(?P<path>/.*)?")

IDENTITIES: Final = ("", "cn", "dn", "san")


@dataclass(frozen=True, slots=True)
class Listener:
    """Where the broker listens, and what it speaks there."""

    scheme: str
    host: str
    """A host name, or an IPv4 or IPv6 address without brackets; for `unix` the path of the socket."""
    port: int
    """0: any free port."""
    name: str = setting("", help="What it is called in the log and by rules; empty: its address.")
    auth: tuple[str, ...] = setting(
        (), item="passwords", help="The steps of `auth.chain` that are taken here, by their names; empty: all of them."
    )
    allow_anonymous: Literal["", "yes", "no"] = setting(
        "", choices=("", "yes", "no"), help="Overrides `auth.allow_anonymous` here."
    )
    certificates: tuple[str, ...] = setting(
        (),
        item="/etc/fastmq/fullchain.pem",
        help="For TLS: files with a certificate and its chain. The first is used for clients that name no host, or one "
        "that none is for. Read again when they change.",
    )
    keys: tuple[str, ...] = setting(
        (), item="/etc/fastmq/key.pem", help="Their private keys, in the same order; empty: they are in the same files."
    )
    client_certificates: Literal["", "optional", "require"] = setting(
        "", choices=("", "optional", "require"), help="Whether clients are asked for certificates of their own."
    )
    client_ca: str = setting("", help="The file with the authorities that clients' certificates must come from.")
    crl: str = setting("", help="The file with the lists of those that are revoked.")
    username_from: Literal["", "cn", "dn", "san"] = setting(
        "",
        choices=IDENTITIES,
        help="What of a client's certificate is its user name: the common name, the whole subject, or the first "
        "alternative name. Such a client needs no password.",
    )
    client_id_from: Literal["", "cn", "dn", "san"] = setting(
        "", choices=IDENTITIES, help="The same for its client identifier."
    )
    tls_min: Literal["1.2", "1.3"] = setting("1.2", choices=("1.2", "1.3"), help="The least version of TLS.")
    ciphers: str = setting("", help="OpenSSL's list of ciphers for TLS 1.2; empty: Python's.")
    psk_file: str = setting(
        "",
        help="The file with pre-shared keys, a line `IDENTITY:KEY` each, the key in hexadecimal digits, as Mosquitto "
        "has it: who knows one needs no certificates. From Python 3.13.",
    )
    path: str = setting(DEFAULT_PATH, help="For WebSocket: the path that clients ask for; the `url` may have it, too.")
    origins: tuple[str, ...] = setting(
        (),
        item="https://example.org",
        help="For WebSocket: the pages from which browsers may come; empty: from any. Programs send no origin.",
    )
    connections_max: int = setting(
        0, min=0, max=U32_MAX, help="How many connections there may be here at a time; 0: no limit but that of all."
    )
    messages_per_s: int = setting(
        0, unit="messages/s", min=0, max=U32_MAX, help="What all clients here may publish together; 0: no limit."
    )
    bytes_per_s: int = setting(0, unit="bytes/s", min=0, max=U32_MAX, help="The same in bytes of PUBLISH packets.")
    messages_out_per_s: int = setting(
        0, unit="messages/s", min=0, max=U32_MAX, help="What all clients here are sent together; 0: no limit."
    )
    bytes_out_per_s: int = setting(0, unit="bytes/s", min=0, max=U32_MAX, help="The same in bytes of PUBLISH packets.")
    mount_point: str = setting(
        "",
        help="What is put in front of all topics that clients here name, and taken off those that they are sent: "
        "`site-7/`, `tenants/${username}/`. They see nothing else.",
    )
    proxy_protocol: bool = setting(
        False,
        help="Behind a proxy that says who its client is: HAProxy's protocol, version 1 or 2. Not for `unix`.",
    )
    trusted_proxies: tuple[str, ...] = setting(
        (),
        item="10.0.0.0/8",
        help="The addresses and networks of proxies that are believed: by `proxy_protocol`, which lets nobody else in, "
        "and for WebSocket in `X-Forwarded-For`.",
    )
    mode: str = setting("0660", help="For `unix`: the rights of the socket, in octal digits.")

    @classmethod
    def parse(cls, url: str) -> "Listener":
        """The listener that `url` names.

        :raises ValueError: it is no such address; the message says what is wrong.
        """
        split = _URL.fullmatch(url)
        if split is None:
            raise ValueError(f"{url!r} is no address; write it as tcp://127.0.0.1:{DEFAULT_PORT}")
        scheme = split["scheme"].lower()
        if scheme not in PORTS:
            raise ValueError(f"{url!r}: {scheme}:// is not supported; this version listens on {_schemes()}")
        if scheme == "unix":
            if not split["rest"].startswith("/"):
                raise ValueError(f"{url!r}: after unix:// there must be the whole path of a socket, /run/fastmq.sock")
            return cls(scheme, split["rest"], 0)
        address = _ADDRESS.fullmatch(split["rest"])
        if address is None or (scheme not in WEB and (address["path"] or "/") != "/"):
            raise ValueError(f"{url!r}: after {scheme}:// there must be HOST:PORT, an IPv6 address in brackets")
        host = address["host"] if address["v6"] is None else _ipv6(url, address["v6"])
        if not host:
            raise ValueError(f"{url!r}: the host is missing; 127.0.0.1 is this machine only, 0.0.0.0 every network")
        path = address["path"] if scheme in WEB and address["path"] else DEFAULT_PATH
        return cls(scheme, host, _port(url, scheme, address["port"]), path=path)

    def wrong(self) -> tuple[str, str] | None:
        """The key that cannot be like that, and why."""
        if self.scheme in SECURE and not self.certificates and not self.psk_file:
            return "certificates", f"must be set for {self.scheme}://, or psk_file"
        if self.keys and len(self.keys) != len(self.certificates):
            return "keys", f"must be as many as certificates: {len(self.certificates)}, not {len(self.keys)}"
        if self.client_certificates and not self.client_ca:
            return "client_ca", "must be set: client_certificates asks for certificates"
        if not self.client_certificates:
            names = () if self.proxy_protocol else ("username_from", "client_id_from")
            for key in ("client_ca", "crl", *names):
                if getattr(self, key):
                    return key, 'is for client_certificates = "require" or "optional"'
        if self.scheme not in SECURE:
            for key in ("certificates", "client_certificates", "ciphers", "psk_file"):
                if getattr(self, key):
                    return key, f"is for tls:// and wss://, not {self.scheme}://"
        if self.scheme not in WEB and self.origins:
            return "origins", f"is for ws:// and wss://, not {self.scheme}://"
        if self.proxy_protocol and self.scheme == "unix":
            return "proxy_protocol", "is not for unix://, whose proxies have no address to be trusted for"
        if self.proxy_protocol and not self.trusted_proxies:
            return "trusted_proxies", "must be set: anybody could say to be anybody"
        try:
            networks.parse(self.trusted_proxies)
        except ValueError as error:
            return "trusted_proxies", str(error)
        if not re.fullmatch("0?[0-7]{3}", self.mode):
            return "mode", f"must be like 0660, not {self.mode!r}"
        if message := self._mount_problem():
            return "mount_point", message
        if not self.path.startswith("/"):
            return "path", f"must begin with /, not {self.path!r}"
        return None

    def _mount_problem(self) -> str:
        if message := placeholders.problem(self.mount_point):
            return message
        if any(character in self.mount_point for character in "+#\0") or self.mount_point.startswith("$"):
            return f"must be the beginning of topics: no +, no #, no $ at its start; not {self.mount_point!r}"
        if len(self.mount_point.encode()) > MOUNT_MAX_BYTES:
            return f"must have {MOUNT_MAX_BYTES} bytes at most"
        return ""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost" or self.scheme == "unix":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def title(self) -> str:
        """Its name, or else its address."""
        return self.name or str(self)

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix://{self.host}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}" + (self.path if self.scheme in WEB else "")


def _schemes() -> str:
    return ", ".join(f"{scheme}://" for scheme in PORTS)


def _ipv6(url: str, text: str) -> str:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        raise ValueError(f"{url!r}: {text!r} is no IPv6 address") from None
    return text


def _port(url: str, scheme: str, text: str | None) -> int:
    if text is None:
        return PORTS[scheme]
    if not (text.isascii() and text.isdecimal() and int(text) <= PORT_MAX):
        raise ValueError(f"{url!r}: the port must be 0 to {PORT_MAX}, not {text!r}")
    return int(text)
