"""The settings of a broker of several hosts."""

import re
from dataclasses import dataclass
from typing import Final

from fastmq.config.secret import Secret
from fastmq.config.setting import setting

PORT: Final = 7447
NO_SECRET: Final = Secret("")
NODE_SUFFIX: Final = ".node"
NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """Several hosts that are one broker; each is a node. It needs the extra `cluster`."""

    name: str = setting("", help="Nodes that say the same name are one cluster; empty: this broker is alone.")
    node: str = setting(
        "", help="What this node is called, forever. Empty: a name that it makes and keeps by its store."
    )
    listen: str = setting(
        f"0.0.0.0:{PORT}",
        help="Where other nodes come, as HOST:PORT. Of several workers, each listens at a port of its own, counted "
        "from this one.",
    )
    join: tuple[str, ...] = setting(
        (),
        item="10.0.0.7",
        help="Nodes to begin with, as HOST or HOST:PORT; they know the others. Any that is there will do.",
    )
    dns: str = setting(
        "",
        help="A name whose addresses (A, AAAA) are nodes, as Kubernetes has it for a headless service; or a service "
        "(SRV), as `_fastmq._tcp.example.org`.",
    )
    multicast: str = setting(
        "224.0.0.224:7446",
        help="The group by which nodes of one network find each other, as HOST:PORT; empty: they do not.",
    )
    secret: str = setting(
        NO_SECRET, help="What only nodes of this cluster know; `file:PATH` or `env:NAME` keep it out of here."
    )
    tls_ca: str = setting(
        "", help="A file of certificates; nodes then talk over TLS only, with one that these have signed."
    )
    tls_certificate: str = setting("", help="The file of this node's certificate, signed by one of them,")
    tls_key: str = setting("", help="and of its key.")
    lease_s: float = setting(
        2.0, unit="s", min=0.2, max=60.0, help="A node that says nothing for so long is not there any more."
    )
    forget_after_s: float = setting(
        5.0,
        unit="s",
        min=0.0,
        max=86_400.0,
        help="So long messages are kept for a node that is not there, and their publishers wait. Then its clients are "
        "left out, until it is back.",
    )
    quorum: int = setting(
        0,
        min=0,
        max=100,
        help="With fewer nodes than this in sight, itself among them, a node disconnects its clients (0x9C) and "
        "refuses others (0x88). More than half of all keeps a part that is cut off from going on alone. 0: it goes on.",
    )
    claim_timeout_s: float = setting(
        2.0, unit="s", min=0.1, max=60.0, help="So long a client waits for nodes to say whether they have its session."
    )


def endpoint(text: str, port: int = PORT) -> tuple[str, int]:
    """Host and port of HOST, HOST:PORT or [ADDRESS]:PORT.

    :raises ValueError: it is none.
    """
    host, colon, number = text.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        host, number = text, str(port)
    host = host.strip("[]")
    if not host or not number.isdecimal() or not 0 < int(number) < 65_536:
        raise ValueError(f"{text!r} is no HOST:PORT")
    return host, int(number)


def problem(settings: ClusterSettings) -> str:
    """What is wrong with the settings, with the key of it; empty: nothing."""
    if not settings.name:
        return "" if not settings.join and not settings.dns else "cluster.name is missing: what is joined has one"
    for key in ("name", "node"):
        value = getattr(settings, key)
        if value and not NAME.fullmatch(value):
            return f"cluster.{key} = {value!r}: write up to 64 letters, digits, '-', '_' and '.'"
    for key, values in (("listen", (settings.listen,)), ("join", settings.join), ("multicast", (settings.multicast,))):
        try:
            for each in filter(None, values):
                endpoint(each)
        except ValueError as error:
            return f"cluster.{key}: {error}"
    if any((settings.tls_ca, settings.tls_certificate, settings.tls_key)) and not all(
        (settings.tls_ca, settings.tls_certificate, settings.tls_key)
    ):
        return "cluster.tls_ca, cluster.tls_certificate and cluster.tls_key are set together, or none of them"
    return ""
