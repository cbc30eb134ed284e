"""Keep alive: silence ends a connection, anything else keeps it."""

from __future__ import annotations

import time

from tests.spec.brokers import Address
from tests.spec.conftest import Join
from tests.spec.normative import normative, normative311
from tests.wireclient import Will, encode
from tests.wireclient import properties as p

KEEP_ALIVE_TIMEOUT = 0x8D


@normative("MQTT-3.1.2-22", "MQTT-3.2.2-22", "MQTT-3.1.2-20", "MQTT-3.1.2-8")
@normative311("MQTT-3.1.2-24", "MQTT-3.1.2-23", "MQTT-3.1.2-8")
def test_silence_of_one_and_a_half_keep_alives_ends_the_connection(join: Join, topic: str) -> None:
    watcher = join()
    watcher.subscribe(topic)
    begun = time.monotonic()
    silent = [join(v, keep_alive=1, will=Will(topic, str(v).encode())) for v in (3, 4, 5)]
    pinging, publishing = join(keep_alive=1), join(4, keep_alive=1)
    unlimited = join(keep_alive=0)
    while time.monotonic() < begun + 1.3:
        pinging.ping()
        publishing.send(encode.publish(4, "elsewhere", b""))
        time.sleep(0.2)
    watcher.expect_silence()
    assert sorted(watcher.receive().payload for _ in silent) == [b"3", b"4", b"5"]
    took = time.monotonic() - begun
    assert 1.4 < took < 3.5, f"closed after {took:.1f} s"
    for client in silent:
        client.expect_disconnect(KEEP_ALIVE_TIMEOUT)
    unlimited.ping()
    pinging_since = time.monotonic()
    assert pinging_since - begun > 1.4


@normative("MQTT-3.1.2-22", "MQTT-3.2.2-22", "MQTT-3.1.2-21", "MQTT-3.2.2-21")
def test_the_server_keep_alive_replaces_the_clients(join: Join, limited: Address) -> None:
    asked_more = join(at=limited, keep_alive=600)
    asked_none = join(at=limited, keep_alive=0)
    asked_less = join(at=limited, keep_alive=1)
    for client, announced in ((asked_more, 2), (asked_none, 2), (asked_less, None)):
        assert client.connack is not None
        assert client.connack.value(p.SERVER_KEEP_ALIVE) == announced
    begun = time.monotonic()
    asked_less.expect_disconnect(KEEP_ALIVE_TIMEOUT)
    assert time.monotonic() - begun < 2.9
    asked_more.expect_disconnect(KEEP_ALIVE_TIMEOUT)
    asked_none.expect_disconnect(KEEP_ALIVE_TIMEOUT)
    assert 2.8 < time.monotonic() - begun < 4.8
