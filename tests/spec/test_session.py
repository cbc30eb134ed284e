"""Sessions: clean start, resumption, expiry."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.spec.brokers import Address
from tests.spec.conftest import Join
from tests.spec.normative import normative, normative311
from tests.spec.versions import every_qos, every_version
from tests.wireclient import Will, encode
from tests.wireclient import properties as p

KEPT = [(p.SESSION_EXPIRY, 60)]


def kept(version: int) -> list[tuple[int, p.PropertyValue]]:
    """What makes a session outlive its connection: a property in MQTT 5, clean=False alone before."""
    return [(p.SESSION_EXPIRY, 60)] if version == 5 else []


@normative("MQTT-3.1.2-5", "MQTT-3.1.2-23", "MQTT-3.2.2-3", "MQTT-4.5.0-1", "MQTT-3.1.3-2")
@normative311("MQTT-3.1.2-4", "MQTT-3.1.2-5", "MQTT-3.2.2-2", "MQTT-4.5.0-1", "MQTT-4.1.0-1", "MQTT-3.1.3-2")
@every_version
@pytest.mark.parametrize("qos", [1, 2])
def test_a_session_keeps_subscriptions_and_messages(join: Join, cid: str, topic: str, version: int, qos: int) -> None:
    away = join(version, cid, clean=False, props=kept(version))
    away.subscribe((topic, 2))
    away.disconnect()
    publisher = join()
    for payload in (b"1", b"2", b"3"):
        publisher.publish(topic, payload, qos=qos)
    back = join(version, cid, clean=False, props=kept(version))
    assert back.connack is not None
    # MQTT 3.1 has no such flag: the byte is reserved there.
    assert back.connack.session_present is (version > 3)
    messages = [back.receive() for _ in range(3)]
    assert [(m.payload, m.qos, m.dup, m.retain) for m in messages] == [
        (b"1", qos, False, False),
        (b"2", qos, False, False),
        (b"3", qos, False, False),
    ]
    publisher.publish(topic, b"live")
    assert back.receive().payload == b"live"


@normative("MQTT-3.1.2-4", "MQTT-3.2.2-2", "MQTT-3.1.4-4")
@normative311("MQTT-3.1.2-6", "MQTT-3.2.2-1", "MQTT-3.1.4-3")
@every_version
def test_clean_start_discards_the_session(join: Join, cid: str, topic: str, version: int) -> None:
    away = join(version, cid, clean=False, props=kept(version))
    away.subscribe((topic, 1))
    away.disconnect()
    publisher = join()
    publisher.publish(topic, b"for the old session", qos=1)
    back = join(version, cid, clean=True, props=kept(version))
    assert back.connack is not None
    assert not back.connack.session_present
    publisher.publish(topic, b"without subscription", qos=1)
    back.expect_silence()


@normative("MQTT-4.1.0-2", "MQTT-3.2.2-3")
@pytest.mark.parametrize("props", [[], [(p.SESSION_EXPIRY, 0)]], ids=["absent", "0"])
def test_without_session_expiry_the_session_ends_with_its_connection(
    join: Join, cid: str, props: list[tuple[int, p.PropertyValue]]
) -> None:
    join(5, cid, clean=False, props=props).drop()
    again = join(5, cid, clean=False)
    assert again.connack is not None
    assert not again.connack.session_present


@normative311("MQTT-3.1.2-6", "MQTT-3.2.2-3")
def test_311_a_clean_session_is_not_used_again(join: Join, cid: str, topic: str) -> None:
    clean = join(4, cid, clean=True)
    clean.subscribe((topic, 1))
    clean.disconnect()
    join().publish(topic, b"lost", qos=1)
    again = join(4, cid, clean=False)
    assert again.connack is not None
    assert not again.connack.session_present
    again.expect_silence()


@normative("MQTT-3.1.2-23", "MQTT-4.1.0-2", "MQTT-3.1.2-8")
def test_a_session_expires_and_takes_its_will_along(join: Join, cid: str, topic: str) -> None:
    watcher = join()
    watcher.subscribe(topic)
    # The delay is longer than the session: its end sends the will.
    join(5, cid, props=[(p.SESSION_EXPIRY, 1)], will=Will(topic, b"ended", props=[(p.WILL_DELAY, 600)])).drop()
    assert watcher.receive(timeout=4).payload == b"ended"
    again = join(5, cid, clean=False)
    assert again.connack is not None
    assert not again.connack.session_present


@normative("MQTT-3.1.2-23")
def test_the_largest_expiry_means_never(join: Join, cid: str, topic: str) -> None:
    away = join(5, cid, props=[(p.SESSION_EXPIRY, 0xFFFFFFFF)])
    away.subscribe((topic, 1))
    away.drop()
    join().publish(topic, b"kept", qos=1)
    assert join(5, cid, clean=False).receive().payload == b"kept"
    join(5, cid)


@normative("MQTT-3.1.2-23", "MQTT-4.1.0-2")
def test_each_connect_sets_the_expiry_anew(join: Join, cid: str) -> None:
    join(5, cid, props=KEPT).disconnect()
    resumed = join(5, cid, clean=False)
    assert resumed.connack is not None
    assert resumed.connack.session_present
    resumed.disconnect()
    after = join(5, cid, clean=False)
    assert after.connack is not None
    assert not after.connack.session_present


@normative("MQTT-3.1.2-23")
def test_disconnect_may_shorten_the_session(join: Join, cid: str) -> None:
    join(5, cid, props=KEPT).disconnect(0, [(p.SESSION_EXPIRY, 0)])
    again = join(5, cid, clean=False)
    assert again.connack is not None
    assert not again.connack.session_present


@normative("MQTT-3.1.2-23")
def test_disconnect_may_lengthen_the_session(join: Join, cid: str, topic: str) -> None:
    watcher = join()
    watcher.subscribe(topic)
    # Had the longer interval not counted, the end of the session would publish the will after one second.
    will = Will(topic, b"ended", props=[(p.WILL_DELAY, 2)])
    join(5, cid, props=[(p.SESSION_EXPIRY, 1)], will=will).disconnect(4, [(p.SESSION_EXPIRY, 60)])
    assert watcher.receive().payload == b"ended"
    again = join(5, cid, clean=False)
    assert again.connack is not None
    assert again.connack.session_present


@normative("MQTT-4.13.1-1")
def test_disconnect_may_not_give_expiry_to_a_session_that_had_none(join: Join) -> None:
    client = join()
    client.send(encode.disconnect(5, 0, [(p.SESSION_EXPIRY, 10)]))
    client.expect_disconnect(0x82)


@normative("MQTT-4.1.0-1")
@normative311("MQTT-4.1.0-2")
@every_version
def test_a_session_lasts_while_its_connection_is_open(join: Join, topic: str, version: int) -> None:
    client = join(version)
    client.subscribe((topic, 1))
    client.unsubscribe("something/else")
    client.ping()
    join().publish(topic, b"still here", qos=1)
    assert client.receive().payload == b"still here"


@normative("MQTT-3.1.2-5")
def test_a_session_passes_between_versions(join: Join, cid: str, topic: str) -> None:
    join(4, cid, clean=False).subscribe((topic, 1))
    five = join(5, cid, clean=False, props=KEPT)
    assert five.connack is not None
    assert five.connack.session_present
    five.disconnect()
    join().publish(topic, b"x", qos=1, props=[(p.USER_PROPERTY, ("k", "v"))])
    four = join(4, cid, clean=False)
    assert four.connack is not None
    assert four.connack.session_present
    assert four.receive().payload == b"x"


@every_version
@every_qos
def test_subscriptions_of_a_kept_session_can_be_dropped(
    join: Join, cid: str, topic: str, version: int, qos: int
) -> None:
    away = join(version, cid, clean=False, props=kept(version))
    away.subscribe((topic, qos), (topic + "/other", qos))
    away.unsubscribe(topic)
    away.disconnect()
    publisher = join()
    publisher.publish(topic, b"no", qos=1)
    back = join(version, cid, clean=False, props=kept(version))
    publisher.publish(topic, b"no", qos=1)
    publisher.publish(topic + "/other", b"yes", qos=1)
    assert back.receive().payload == b"yes"


def test_the_server_tells_the_expiry_it_grants(join: Join, limited: Address, unique: Callable[[str], str]) -> None:
    for asked in (1000, 0xFFFFFFFF):
        client = join(5, unique("c"), at=limited, props=[(p.SESSION_EXPIRY, asked)])
        assert client.connack is not None
        assert client.connack.value(p.SESSION_EXPIRY) == 1
    client = join(5, at=limited, props=[(p.SESSION_EXPIRY, 0)])
    assert client.connack is not None
    assert client.connack.value(p.SESSION_EXPIRY) in (None, 0)


@normative("MQTT-3.1.3-2")
@normative311("MQTT-3.1.3-2")
@every_version
def test_client_ids_are_compared_byte_by_byte(join: Join, cid: str, version: int) -> None:
    names = [cid + end for end in ("a", "A", " a", "a ", "\u00e9", "e\u0301", "\ufeffa")]
    clients = [join(version, name, clean=False) for name in names]
    for client in clients:
        client.ping()
        assert client.connack is not None
        assert not client.connack.session_present


@normative("MQTT-4.1.0-2", "MQTT-3.1.2-23")
def test_sessions_expire_after_the_interval_that_was_granted(join: Join, limited: Address, cid: str) -> None:
    """The broker grants one second here, whatever was asked for."""
    names = [f"{cid}-{i}" for i in range(3)]
    join(5, names[0], at=limited, props=[(p.SESSION_EXPIRY, 1000)]).drop()
    join(5, names[1], at=limited, props=[(p.SESSION_EXPIRY, 0xFFFFFFFF)]).disconnect()
    join(4, names[2], at=limited, clean=False).disconnect()
    again = join(5, names[0], at=limited, clean=False, props=[(p.SESSION_EXPIRY, 1)])
    assert again.connack is not None
    assert again.connack.session_present
    again.drop()
    time.sleep(1.6)
    for name in names:
        later = join(5, name, at=limited, clean=False)
        assert later.connack is not None
        assert not later.connack.session_present


@normative("MQTT-3.1.4-3", "MQTT-3.1.2-4")
@normative311("MQTT-3.1.4-2", "MQTT-3.1.2-6")
@every_version
def test_takeover_with_a_clean_start_discards_the_session(join: Join, cid: str, topic: str, version: int) -> None:
    older = join(version, cid, clean=False, props=kept(version))
    older.subscribe((topic, 1))
    newer = join(version, cid, clean=True)
    older.expect_disconnect(0x8E)
    join(version).publish(topic, b"for nobody", qos=1)
    newer.expect_silence()


@normative("MQTT-3.1.2-23")
def test_qos_0_waits_for_nobody_but_the_session_does(join: Join, cid: str, topic: str) -> None:
    away = join(5, cid, props=KEPT)
    away.subscribe((topic, 2))
    away.drop()
    publisher = join()
    publisher.publish(topic, b"q0", qos=0)
    publisher.publish(topic, b"q1", qos=1)
    # Whether QoS 0 is kept for a client that is away is the server's choice; fastmq's default is not to.
    assert join(5, cid, clean=False, props=KEPT).receive().payload == b"q1"
