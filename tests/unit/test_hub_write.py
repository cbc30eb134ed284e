"""What the hub writes for Python must be packets."""

import pytest

from tests.inprocess import Engine


def test_an_empty_packet_is_refused() -> None:
    engine = Engine()
    connections: list[int] = []
    decide = engine.hub.on_connect
    assert decide is not None

    def on_connect(connection: int, body: bytes) -> None:
        connections.append(connection)
        decide(connection, body)

    engine.hub.on_connect = on_connect
    try:
        engine.client("c")
        with pytest.raises(ValueError, match="empty"):
            engine.hub.send(connections[0], b"")
        engine.settle()
    finally:
        engine.close()
