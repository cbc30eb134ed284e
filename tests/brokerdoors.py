"""The ways into a broker under test other than plain TCP, and the certificates they need."""

from __future__ import annotations

import json
from pathlib import Path

import trustme

from tests.brokerproc import HOST
from tests.wireclient import doors


def listener(door: str, folder: Path, **more: object) -> str:
    """A listener on a free port, as `--listen` takes it; what it needs is made in the folder."""
    url = f"{door}://{HOST}:0"
    if door in ("tls", "wss"):
        issue(folder)
        more |= {"certificates": [str(folder / "server.pem")]}
    return json.dumps([{"url": url, **more}])


def issue(folder: Path) -> trustme.CA:
    """An authority (ca.pem), and what it issued for localhost (server.pem, the key in it)."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    authority.issue_cert("localhost", HOST).private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    return authority


def know(door: str, address: doors.Address, folder: Path) -> None:
    """Clients of this address come in by this door from now on."""
    if door in ("tls", "wss"):
        secure = doors.tls(str(folder / "ca.pem"))
        doors.know(address, secure if door == "tls" else lambda opened: doors.WebSocket(secure(opened)))
    elif door == "ws":
        doors.know(address, doors.WebSocket)
