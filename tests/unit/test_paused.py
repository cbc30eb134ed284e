"""Clients that are not read from for a while, over transports that have read ahead."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest

from tests import brokerdoors
from tests.brokerproc import ended_cleanly, start_fastmq
from tests.wireclient import Client, encode


@pytest.mark.parametrize("door", ["tcp", "tls", "ws", "wss"])
def test_a_client_that_is_paused_for_its_rate_is_not_cut(door: str, tmp_path: Path) -> None:
    settings = {"limits.bytes_per_s": 4_000_000, "limits.burst_s": 0.5, "log.connections": False}
    listen = brokerdoors.listener(door, tmp_path)
    with ended_cleanly(start_fastmq(settings, listen=listen)) as broker:
        address = (broker.host, broker.port)
        brokerdoors.know(door, address, tmp_path)
        with closing(Client(address)) as client:
            client.connect("fast")
            started = time.monotonic()
            for number in range(1, 13):
                client.send(encode.publish(5, "t", bytes(1_000_000), qos=1, packet_id=number))
            for number in range(1, 13):
                client.expect_ack("PUBACK", number, 0x10)
            assert time.monotonic() - started > 1.5
