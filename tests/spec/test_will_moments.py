"""When exactly a will goes out: takeovers, delays, DISCONNECT that asks for it, and what becomes of a retained one."""

from __future__ import annotations

import time

import pytest

from tests.spec.conftest import Join
from tests.spec.versions import every_version
from tests.wireclient import Will, encode
from tests.wireclient import properties as p

LONG = 600


@pytest.mark.parametrize(
    ("old_expiry", "old_delay", "clean", "sent"),
    [
        (LONG, 30, False, False),  # the session goes on, and the delay has not passed
        (LONG, 30, True, True),  # the session ends
        (0, 30, False, True),  # the session ends with its connection
        (LONG, 0, False, True),  # the connection ends, and there is no delay
    ],
)
def test_takeover_sends_the_will_unless_it_waits_in_a_session_that_goes_on(
    join: Join, cid: str, topic: str, old_expiry: int, old_delay: int, clean: bool, sent: bool
) -> None:
    watcher = join()
    watcher.subscribe(topic)
    will = Will(topic, b"the old one's", props=[(p.WILL_DELAY, old_delay)])
    old = join(5, cid, props=[(p.SESSION_EXPIRY, old_expiry)], will=will)
    join(5, cid, clean=clean, will=Will(topic, b"the new one's"))
    old.expect_disconnect(0x8E)
    assert [message.payload for message in watcher.arrived()] == ([b"the old one's"] if sent else [])


def test_disconnect_with_will_that_ends_the_session_sends_it_at_once(join: Join, topic: str) -> None:
    watcher = join()
    watcher.subscribe(topic)
    client = join(props=[(p.SESSION_EXPIRY, LONG)], will=Will(topic, b"gone", props=[(p.WILL_DELAY, 30)]))
    client.disconnect(0x04, [(p.SESSION_EXPIRY, 0)])
    assert watcher.receive().payload == b"gone"


def test_a_delayed_will_gives_way_to_that_of_the_next_connection(join: Join, cid: str, topic: str) -> None:
    watcher = join()
    watcher.subscribe(topic)
    kept = [(p.SESSION_EXPIRY, LONG)]
    for payload in (b"first", b"second"):
        will = Will(topic, payload, props=[(p.WILL_DELAY, 1)])
        join(5, cid, clean=False, props=kept, will=will).disconnect(0x04)
    assert watcher.receive(timeout=4).payload == b"second"
    watcher.expect_silence()


def test_the_message_expiry_of_a_delayed_will_begins_when_it_is_published(join: Join, topic: str) -> None:
    watcher = join()
    watcher.subscribe(topic)
    will = Will(topic, b"gone", props=[(p.WILL_DELAY, 1), (p.MESSAGE_EXPIRY, 1)])
    started = time.monotonic()
    join(props=[(p.SESSION_EXPIRY, LONG)], will=will).drop()
    message = watcher.receive(timeout=4)
    assert 0.95 < time.monotonic() - started < 2
    assert message.value(p.MESSAGE_EXPIRY) == 1


def test_a_retained_will_expires(join: Join, topic: str) -> None:
    will = Will(topic, b"gone", retain=True, props=[(p.MESSAGE_EXPIRY, 1)])
    join(will=will).drop()
    early = join()
    early.subscribe(topic)
    assert early.receive().payload == b"gone"
    time.sleep(1.1)  # a retained message that is no more cannot be awaited
    late = join()
    late.subscribe(topic)
    late.expect_silence()


@every_version
def test_an_empty_retained_will_deletes_the_retained_message(join: Join, topic: str, version: int) -> None:
    join(version).publish(topic, b"online", retain=True)
    join(version, will=Will(topic, b"", retain=True)).drop()
    late = join(version)
    late.subscribe(topic)
    late.expect_silence()


@every_version
def test_what_a_client_receives_does_not_keep_it_alive(join: Join, topic: str, version: int) -> None:
    sender = join(version)
    client = join(version, keep_alive=1, will=Will(topic + "/will"))
    client.subscribe(topic)
    sender.subscribe(topic + "/will")
    started = time.monotonic()
    while not sender.waiting():
        assert time.monotonic() - started < 4, "the client was never cut"
        sender.send(encode.publish(version, topic, b"x"))
        time.sleep(0.05)
        sender.ping()
    assert 1.3 < time.monotonic() - started < 2.5
