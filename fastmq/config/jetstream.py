"""The settings of a store that several hosts have together, in streams of NATS JetStream."""

from dataclasses import dataclass
from typing import Final

from fastmq.config.cluster import ClusterSettings, endpoint
from fastmq.config.secret import Secret
from fastmq.config.setting import BYTES, setting

CLIENT_PORT: Final = 4222
ROUTE_PORT: Final = 6222
NO_PASSWORD: Final = Secret("")


@dataclass(frozen=True, slots=True, kw_only=True)
class JetStreamSettings:
    """Where `store.engine = "jetstream"` keeps what must outlive a node. It needs the extra `jetstream`."""

    urls: tuple[str, ...] = setting(
        (),
        item="nats://10.0.0.7:4222",
        help="NATS servers with JetStream; one that is there is enough. Empty: the one that `jetstream.serve` starts.",
    )
    user: str = setting("", help="Who this broker is to servers of `jetstream.urls`; empty: they do not ask.")
    password: str = setting(NO_PASSWORD, help="And its password; `file:PATH` or `env:NAME` keep it out of here.")
    tls_ca: str = setting("", help="A file of certificates that those servers' are signed by, for `tls://` addresses.")
    serve: bool = setting(False, help="Whether this node starts a `nats-server`, one of a cluster of three or more.")
    listen: str = setting(
        f"127.0.0.1:{CLIENT_PORT}", help="Where that server takes the brokers of this host, as HOST:PORT."
    )
    cluster_listen: str = setting(
        f"0.0.0.0:{ROUTE_PORT}",
        help="Where it takes the servers of the other nodes. With `cluster.secret` and `cluster.tls_*` set, these hold "
        "here, too.",
    )
    routes: tuple[str, ...] = setting(
        (),
        item="10.0.0.8:6222",
        help="Servers of other nodes, as HOST or HOST:PORT; one that is there tells of the others.",
    )
    folder: str = setting("", help="Where it keeps its streams. Empty: `nats` beside `store.path`.")
    replicas: int = setting(
        3, min=1, max=5, help="How many servers have each batch. More than half of them must be there to acknowledge."
    )
    timeout_s: float = setting(
        10.0,
        unit="s",
        min=0.5,
        max=60.0,
        help="After so long without an answer, what must last is refused, and tried again. Servers need up to 6 s to "
        "agree on another leader.",
    )
    snapshot_bytes: int = setting(
        67_108_864,
        unit=BYTES,
        min=65_536,
        max=1 << 34,
        help="After so many bytes of batches, a whole copy of a worker's store takes their place.",
    )
    stand_in: bool = setting(True, help="Whether this node goes on with the sessions of a node that is not there.")
    stand_in_after_s: float = setting(
        2.0, unit="s", min=0.0, max=3600.0, help="So long a node may be away before another one stands in for it."
    )
    give_up_after_s: float = setting(
        60.0,
        unit="s",
        min=0.0,
        max=86_400.0,
        help="Takes the place of `cluster.forget_after_s`: so long what a node's sessions should get waits for it, or "
        "for one that stands in, and so do the publishers.",
    )


def problem(settings: JetStreamSettings, cluster: ClusterSettings) -> str:
    """What is wrong with the settings of a broker that uses them, with the key of it; empty: nothing."""
    if not cluster.name:
        return 'cluster.name is missing: store.engine = "jetstream" is for the nodes of a cluster'
    if not settings.urls and not settings.serve:
        return "jetstream.urls is empty: name NATS servers, or set jetstream.serve"
    for key, values in (
        ("listen", (settings.listen,)),
        ("cluster_listen", (settings.cluster_listen,)),
        ("routes", settings.routes),
    ):
        try:
            for each in values:
                endpoint(each, ROUTE_PORT)
        except ValueError as error:
            return f"jetstream.{key}: {error}"
    for each in settings.urls:
        if not each.startswith(("nats://", "tls://")):
            return f"jetstream.urls: {each!r} is no nats://HOST:PORT or tls://HOST:PORT"
    return ""
