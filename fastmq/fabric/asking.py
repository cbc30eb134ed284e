"""Asks the workers of a cluster how they are, from outside of it: for `fastmq cluster`."""

import contextlib
import json
import os
import time
from collections.abc import Sequence
from typing import Any, Final

import orjson

from fastmq.config.cluster import ClusterSettings, endpoint
from fastmq.errors import StartError
from fastmq.fabric.bus import Peer, ask_key
from fastmq.fabric.zenoh_config import bracketed, configuration, keep

MEET_S: Final = 0.1
ANSWER_MAX_BYTES: Final = 1 << 16


def ask(settings: ClusterSettings, wait_s: float) -> list[tuple[Peer, dict[str, Any] | None]]:
    """All workers that are there, by node, each with what it says; None: it did not answer within `wait_s`.

    :raises StartError: the extra is not installed, or a setting of the cluster cannot be used.
    """
    try:
        import zenoh
    except ImportError:
        raise StartError("a cluster needs the extra: pip install 'fastmq[cluster]'") from None
    secret_file = keep(settings)
    try:
        try:
            config = zenoh.Config.from_json5(json.dumps(configuration(settings, None, _seeds(settings), secret_file)))
            session = zenoh.open(config)
        except zenoh.ZError as error:
            reason = str(error).partition("\n")[0]
            raise StartError(f"cluster.secret or cluster.tls_*: {reason}") from None
        with session:
            return _ask(session, settings.name, wait_s)
    finally:
        if secret_file:
            with contextlib.suppress(OSError):
                os.unlink(secret_file)


def _seeds(settings: ClusterSettings) -> Sequence[str]:
    """The node of this host first, which may be the only one that is known."""
    host, port = endpoint(settings.listen)
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    seeds = [(here, port), *(endpoint(each) for each in settings.join)]
    return [f"{bracketed(host)}:{port}" for host, port in seeds]


def _ask(session: Any, cluster: str, wait_s: float) -> list[tuple[Peer, dict[str, Any] | None]]:
    deadline = time.monotonic() + wait_s
    found: dict[Peer, dict[str, Any] | None] = {}
    while time.monotonic() < deadline:
        before = dict(found)
        for reply in session.liveliness().get(f"fastmq/{cluster}/up/**", timeout=_left(deadline)):
            with contextlib.suppress(ValueError):
                found.setdefault(Peer.of(str(reply.ok.key_expr)) if reply.ok is not None else Peer.of(""), None)
        for peer in [each for each, said in found.items() if said is None]:
            found[peer] = _answer(session, ask_key(cluster, peer), _left(deadline))
        if found and found == before and None not in found.values():
            break  # nobody has come, and all have answered
        time.sleep(MEET_S)
    return sorted(found.items(), key=lambda each: (each[0].node, each[0].worker, each[0].instance))


def _answer(session: Any, key: str, timeout_s: float) -> dict[str, Any] | None:
    for reply in session.get(key, timeout=min(timeout_s, 1.0)):
        if reply.ok is None:
            continue
        said = reply.ok.payload.to_bytes()
        if len(said) <= ANSWER_MAX_BYTES:
            with contextlib.suppress(ValueError):
                found = orjson.loads(said)
                if isinstance(found, dict) and isinstance(found.get("sees"), list):
                    return {**found, "sees": [str(each) for each in found["sees"]]}
    return None


def _left(deadline: float) -> float:
    return max(0.1, deadline - time.monotonic())
