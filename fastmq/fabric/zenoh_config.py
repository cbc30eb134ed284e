"""How Zenoh is set up for a cluster: addresses, discovery, certificates, the secret."""

import hashlib
import os
import tempfile
from collections.abc import Sequence
from typing import Any, Final

from fastmq.config.cluster import ClusterSettings

BLOCKED_US: Final = 100_000
"""So long a peer whose connection is full may hold the loop up; then Zenoh gives that connection up."""


def configuration(
    settings: ClusterSettings, listen: str | None, seeds: Sequence[str], secret_file: str
) -> dict[str, Any]:
    """Of a session that listens at HOST:PORT, or not at all, and connects to `seeds`. `secret_file`: see `keep`."""
    protocol = "tls" if settings.tls_ca else "tcp"
    transport: dict[str, Any] = {
        "link": {
            "tx": {
                "lease": round(settings.lease_s * 1000),
                "queue": {
                    "congestion_control": {"block": {"wait_before_close": BLOCKED_US}},
                    "size": {"data": 16},  # all the room that there can be, so that nobody blocks who is slow only
                },
            },
            "rx": {"max_message_size": 1 << 20},
        },
        "shared_memory": {"enabled": False},
    }
    if settings.tls_ca:
        transport["link"]["tls"] = {
            "root_ca_certificate": settings.tls_ca,
            "listen_certificate": settings.tls_certificate,
            "listen_private_key": settings.tls_key,
            "connect_certificate": settings.tls_certificate,
            "connect_private_key": settings.tls_key,
            "enable_mtls": True,
            "verify_name_on_connect": False,  # addresses of nodes change; who is signed by the CA is one of them
        }
    if settings.secret:
        transport["auth"] = {
            "usrpwd": {
                "user": settings.name,
                "password": password_of(settings),
                "dictionary_file": secret_file,
            }
        }
    scouting: dict[str, Any] = {
        "multicast": {"enabled": bool(settings.multicast)},
        # Without `multihop`, a broken link between two nodes that are no seeds of each other never came back.
        "gossip": {"enabled": True, "multihop": True},
    }
    if settings.multicast:
        scouting["multicast"]["address"] = settings.multicast
    return {
        "mode": "peer",
        "listen": {
            "endpoints": [f"{protocol}/{listen}"] if listen is not None else [],
            "exit_on_failure": True,
            "timeout_ms": 0,
        },
        "connect": {
            "endpoints": [f"{protocol}/{seed}" for seed in seeds],
            "exit_on_failure": False,  # a node that is to be joined may start later
            "timeout_ms": -1,
            "retry": {"period_init_ms": 200, "period_max_ms": 2000, "period_increase_factor": 1.5},
        },
        "scouting": scouting,
        "transport": transport,
    }


def password_of(settings: ClusterSettings) -> str:
    """What is proven instead of the secret: of characters that Zenoh's file can have, and slow to guess."""
    return hashlib.scrypt(str(settings.secret).encode(), salt=settings.name.encode(), n=1 << 14, r=8, p=1).hex()


def keep(settings: ClusterSettings) -> str:
    """The path of a file, for this user only, that Zenoh reads who may come in from; empty: anybody.

    It is to be removed when the session is closed.
    """
    if not settings.secret:
        return ""
    descriptor, path = tempfile.mkstemp(prefix="fastmq-cluster-")
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{settings.name}:{password_of(settings)}\n")
    return path


def bracketed(host: str) -> str:
    """A host as it is written before a port."""
    return f"[{host}]" if ":" in host else host
