"""A server that stops says so."""

from __future__ import annotations

from tests.spec.brokers import running
from tests.spec.conftest import Dial, Join
from tests.spec.normative import normative
from tests.wireclient import properties as p

SERVER_SHUTTING_DOWN = 0x8B


@normative("MQTT-3.14.0-1", "MQTT-3.14.2-1", "MQTT-3.14.2-2", "MQTT-3.14.4-1", "MQTT-3.14.4-2")
def test_clients_are_told_that_the_server_stops(dial: Dial, join: Join) -> None:
    with running({}) as address:
        clients = [join(version, at=address) for version in (3, 4, 5)]
        clients.append(join(5, at=address, props=[(p.SESSION_EXPIRY, 60)]))
        not_connected = dial(at=address)
        for client in clients:
            client.ping()
    for client in clients:
        client.expect_disconnect(SERVER_SHUTTING_DOWN)
    not_connected.expect_closed()
