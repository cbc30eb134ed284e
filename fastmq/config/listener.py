"""The address of a listener: `tcp://127.0.0.1:1883`, `tcp://[::1]:1883`, `tcp://0.0.0.0:0`."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Literal

from fastmq.config.setting import setting

SCHEMES: Final = ("tcp",)
DEFAULT_PORT: Final = 1883
PORT_MAX: Final = 65_535

_URL: Final = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<rest>.*)", re.IGNORECASE)
_ADDRESS: Final = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<host>[^:/\[\]]*))(?::(?P<port>[^:/]*))?/?")


@dataclass(frozen=True, slots=True)
class Listener:
    """Where the broker listens, and what it speaks there."""

    scheme: str
    host: str
    """A host name, or an IPv4 or IPv6 address without brackets."""
    port: int
    """0: any free port."""
    name: str = setting("", help="What it is called in the log and by rules; empty: its address.")
    auth: tuple[str, ...] = setting(
        (), item="passwords", help="The steps of `auth.chain` that are taken here, by their names; empty: all of them."
    )
    allow_anonymous: Literal["", "yes", "no"] = setting(
        "", choices=("", "yes", "no"), help="Overrides `auth.allow_anonymous` here."
    )

    @classmethod
    def parse(cls, url: str) -> "Listener":
        """The listener that `url` names.

        :raises ValueError: it is no such address; the message says what is wrong.
        """
        split = _URL.fullmatch(url)
        if split is None:
            raise ValueError(f"{url!r} is no address; write it as tcp://127.0.0.1:{DEFAULT_PORT}")
        scheme = split["scheme"].lower()
        if scheme not in SCHEMES:
            raise ValueError(f"{url!r}: {scheme}:// is not supported; this version listens on {_schemes()}")
        address = _ADDRESS.fullmatch(split["rest"])
        if address is None:
            raise ValueError(f"{url!r}: after {scheme}:// there must be HOST:PORT, an IPv6 address in brackets")
        host = address["host"] if address["v6"] is None else _ipv6(url, address["v6"])
        if not host:
            raise ValueError(f"{url!r}: the host is missing; 127.0.0.1 is this machine only, 0.0.0.0 every network")
        return cls(scheme, host, _port(url, address["port"]))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
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
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def _schemes() -> str:
    return ", ".join(f"{scheme}://" for scheme in SCHEMES)


def _ipv6(url: str, text: str) -> str:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        raise ValueError(f"{url!r}: {text!r} is no IPv6 address") from None
    return text


def _port(url: str, text: str | None) -> int:
    if text is None:
        return DEFAULT_PORT
    if not (text.isascii() and text.isdecimal() and int(text) <= PORT_MAX):
        raise ValueError(f"{url!r}: the port must be 0 to {PORT_MAX}, not {text!r}")
    return int(text)
